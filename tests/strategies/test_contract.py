"""What every strategy keeps to, with every way to combine updates and on every network; new ones are included by name."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, get_args

import pytest
import torch
from federation import federate, pulled_to
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedmed.aggregation.grid import FixedPoint
from fedmed.engine.members import context_of
from fedmed.engine.runner import Question
from fedmed.errors import QuorumNotMet, RangeExceeded
from fedmed.models.networks import NETWORKS, NetworkOptions, build_network, initial_weights
from fedmed.models.parts import parts_of
from fedmed.seeds import torch_generator
from fedmed.strategies.algorithm import Algorithm, algorithm
from fedmed.strategies.averaging import local_sgd
from fedmed.strategies.base import Fitted, Memory, Round, Sent, Site, Strategy, everyone
from fedmed.strategies.client import sent_vector
from fedmed.strategies.options import AggregationOptions, CombineName, StrategyName
from fedmed.strategies.robust import COMBINE
from fedmed.strategies.server import Gathered, Part, gather, move
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import Problem, TrainingOptions
from fedmed.training.losses import log_loss
from fedmed.weights import Weights, add, from_bytes, layout_of, map_weights, scale, squared_norm, to_bytes

LIMIT = 64.0
GRID = FixedPoint(bits=64, limit=LIMIT, weight=1000)
NETWORK = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
BASE = {
    "0.weight": torch.tensor([[0.1, -0.2], [0.3, 0.4]]),
    "0.bias": torch.tensor([0.5, -0.5]),
    "1.weight": torch.ones(2),
    "1.bias": torch.zeros(2),
    "1.running_mean": torch.tensor([0.5, -1.0]),
    "1.running_var": torch.tensor([1.0, 2.0]),
    "2.weight": torch.tensor([[1.0, -1.0]]),
    "2.bias": torch.tensor([0.25]),
}
ADAPTIVE = {"fedadagrad", "fedadam", "fedyogi", "example of a page"}
"""Servers that divide by what they have seen, and so are not linear in it."""


# A strategy of one's own: FedExP (Jhunjhunwala, Wang & Joshi 2023, ICLR, Algorithm 1). The server steps further, the more
# the updates disagree: η = max(1, Σ p_k ‖Δ_k‖² / (2 (‖Δ̄‖² + ε))). It is held to the same contract as those that ship.


def with_its_length(site: Site, options: AggregationOptions) -> Sent:
    """Local SGD; ‖Δ_k‖² travels where FedNova has its steps."""
    sent = local_sgd(site, options)
    return sent._replace(normaliser=squared_norm(sent.change).item())


def extrapolated(
    weights: Weights, memory: Memory, round_: Round, options: AggregationOptions
) -> tuple[Weights, Memory]:
    """One longer step."""
    rate = max(1.0, round_.normaliser / (2 * (squared_norm(round_.change).item() + 1e-3)))
    return add(weights, scale(round_.change, round_.rate * rate)), memory


EVERY: dict[str, Strategy] = {**STRATEGIES, "example of a page": Strategy(with_its_length, apply=extrapolated)}


every_strategy = pytest.mark.parametrize("name", EVERY)
every_rule = pytest.mark.parametrize("rule", COMBINE)
sites = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 100), min_size=1)


def travelling(strategy: Strategy) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters and the statistics of the base that travel."""
    parts = parts_of(NETWORK, keep_normalisation=strategy.keeps_normalisation)
    return {name: BASE[name] for name in parts.parameters}, {name: BASE[name] for name in parts.statistics}


def sent(strategy: Strategy, by: float, *, statistics: bool = True) -> Sent:
    """An answer whose every tensor is moved by its own multiple of `by`; statistics stay those of some rows."""
    weights, there = travelling(strategy)

    def moved(like: Mapping[str, Tensor], times: float) -> dict[str, Tensor]:
        return {
            name: times * by * (1 + torch.arange(tensor.numel()).reshape(tensor.shape))
            for name, tensor in sorted(like.items())
        }

    met = {name: tensor + 0.1 * abs(by) if statistics else tensor for name, tensor in there.items()}
    fitted = Fitted(dict(weights), met, 0.5, 3)
    extra = {key: moved(weights, 0.5 + place) for place, key in enumerate(strategy.extra)}
    return Sent(moved(weights, 0.25), fitted, extra=extra)


def how_of(strategy: Strategy, rule: CombineName, rows: Mapping[str, int], grid: FixedPoint = GRID) -> Algorithm:
    """A run in which it is every hospital's turn, whatever the strategy's own schedule, with a server's step of 1."""
    options = AggregationOptions(combine=rule, tau=1.0, learning_rate=1.0)
    return algorithm(
        NETWORK, TrainingOptions(), options, rows, grid=grid, strategy=strategy._replace(schedule=everyone)
    )


def gathered(how: Algorithm, answers: Mapping[str, Sent]) -> Gathered | None:
    def part(site: str) -> Part:
        context = context_of(how, Question("train", 1, site, 0, how.sites))
        return Part(site, sent_vector(how, answers[site], BASE, context))

    return gather(how, 1, map(part, answers))


def run(
    strategy: Strategy,
    rule: CombineName,
    rows: Mapping[str, int],
    answers: Mapping[str, Sent],
    *,
    grid: FixedPoint = GRID,
    fresh: bool = False,
) -> tuple[Weights, Memory]:
    """A round on the base, of a server that remembers something unless it is a fresh one."""
    how = how_of(strategy, rule, rows, grid)
    before = how.start(BASE)
    if not fresh:
        before = before._replace(memory=map_weights(lambda tensor: tensor + 0.5, before.memory))
    came = gathered(how, answers)
    assert came is not None
    after = move(how, 1, {0: before}, came, {}, {})
    assert set(after.took_part) == set(answers)
    return after.weights, after.memory


def bits(weights: Weights) -> dict[str, list[int]]:
    return {name: tensor.reshape(-1).view(torch.int32).tolist() for name, tensor in sorted(weights.items())}


def assert_close(found: Weights, expected: Weights, atol: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(found[name], tensor, rtol=1e-5, atol=atol), name


def test_options_and_tables_know_the_same_names() -> None:
    assert set(get_args(StrategyName)) == set(STRATEGIES)
    assert set(get_args(CombineName)) == set(COMBINE)


@every_strategy
@every_rule
@settings(max_examples=4)
@given(rows=sites, chance=st.randoms(use_true_random=False))
def test_the_order_of_sites_changes_no_bit(
    name: str, rule: CombineName, rows: dict[str, int], chance: random.Random
) -> None:
    answers = {site: sent(EVERY[name], 0.01 * n / 3) for site, n in rows.items()}
    order = list(answers)
    chance.shuffle(order)
    first, second = (run(EVERY[name], rule, rows, a) for a in (answers, {site: answers[site] for site in order}))
    for ours, theirs in zip(first, second, strict=True):
        assert bits(ours) == bits(theirs)


@every_strategy
@every_rule
@settings(max_examples=4)
@given(rows=sites, by=st.floats(-2, 2))
def test_equal_updates_are_as_one(name: str, rule: CombineName, rows: dict[str, int], by: float) -> None:
    strategy = EVERY[name]
    one = run(strategy, rule, {"z": 7}, {"z": sent(strategy, by)})
    many = run(strategy, rule, rows, dict.fromkeys(rows, sent(strategy, by)))
    for ours, theirs in zip(many, one, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ADAPTIVE])
@every_rule
@settings(max_examples=4)
@given(rows=sites, factor=st.floats(0.25, 2))
def test_scaling_in_is_scaling_out(name: str, rule: CombineName, rows: dict[str, int], factor: float) -> None:
    strategy = EVERY[name]
    weights = travelling(strategy)[0]

    def step(times: float) -> dict[str, Tensor]:
        answers = {site: sent(strategy, 0.02 * n, statistics=False) for site, n in rows.items()}
        scaled = {
            site: a._replace(
                change=scale(a.change, times), extra={key: scale(value, times) for key, value in a.extra.items()}
            )
            for site, a in answers.items()
        }
        state, _ = run(strategy, rule, rows, scaled, fresh=True)
        return {key: state[key].double() - BASE[key].double() for key in weights}

    assert_close(step(factor), scale(step(1.0), factor), atol=2e-5)


@every_strategy
@every_rule
def test_one_site_is_its_own_combination(name: str, rule: CombineName) -> None:
    strategy = EVERY[name]
    answer = sent(strategy, 0.7)
    state, _ = run(strategy, rule, {"a": 5}, {"a": answer})
    for key in travelling(strategy)[1]:
        assert torch.allclose(state[key], answer.fitted.statistics[key], atol=1e-6)
    if strategy.apply is EVERY["fedavg"].apply:  # with a server's step of 1, its state up to the grid
        assert_close({key: state[key] for key in answer.change}, add(travelling(strategy)[0], answer.change))


@every_strategy
@every_rule
def test_names_shapes_and_types_are_kept_and_no_argument_is_changed(name: str, rule: CombineName) -> None:
    before, strategy = bits(BASE), EVERY[name]
    state, memory = run(
        strategy, rule, {"a": 3, "b": 5}, {site: sent(strategy, by) for site, by in (("a", 1), ("b", 2))}
    )
    assert layout_of(state) == layout_of(BASE)
    begin = strategy.init(travelling(strategy)[0], AggregationOptions())
    assert layout_of(memory) == layout_of(begin)
    assert bits(BASE) == before
    if memory:
        assert bits(from_bytes(to_bytes(memory), layout_of(begin))) == bits(memory)


@every_strategy
@every_rule
def test_no_update_is_no_round(name: str, rule: CombineName) -> None:
    assert gathered(how_of(EVERY[name], rule, {"a": 3, "b": 5}), {}) is None
    there = problems("logistic")
    with pytest.raises(QuorumNotMet, match=r"round 1 could use 0 of . hospitals.* absent"):
        federate(EVERY[name], AggregationOptions(combine=rule), there, 1, absent=frozenset((site, 1) for site in there))


@every_strategy
def test_an_update_counts_once_and_only_of_a_hospital_whose_turn_it_is(name: str) -> None:
    how = how_of(EVERY[name], "mean", {"a": 1, "b": 1})
    part = Part("a", torch.zeros(how.form.size, dtype=torch.int64))
    for came in ([part, part], [part, part._replace(site="c")]):
        with pytest.raises(ValueError, match=f"{came[-1].site}: expected one update of each hospital whose turn it is"):
            gather(how, 1, came)


@every_strategy
def test_a_change_out_of_range_is_refused_not_clipped(name: str) -> None:
    strategy = EVERY[name]
    with pytest.raises(RangeExceeded, match=r"agreed range is ±64"):
        run(strategy, "mean", {"a": 1, "b": 1}, {"a": sent(strategy, 0), "b": sent(strategy, 70)})


@every_strategy
def test_weights_beyond_what_the_plan_allows_are_refused(name: str) -> None:
    strategy, tight = EVERY[name], FixedPoint(bits=64, limit=LIMIT, weight=1)
    with pytest.raises(RangeExceeded, match="sum of weights: expected 1 to 1, got 2"):
        run(strategy, "mean", {"a": 1, "b": 1}, {"a": sent(strategy, 0), "b": sent(strategy, 1)}, grid=tight)


@every_strategy
@given(rows=st.integers(1, 10**6))
def test_a_weight_is_a_whole_number_of_at_least_one_and_no_more_than_the_rows(name: str, rows: int) -> None:
    weight = EVERY[name].weigh(rows)
    assert isinstance(weight, int)
    assert 1 <= weight <= rows


@every_strategy
def test_the_names_of_extras_are_no_other_part_of_an_update(name: str) -> None:
    assert not {"change", "moments", "normaliser", "~training"} & set(EVERY[name].extra)
    assert not any("/" in extra for extra in EVERY[name].extra)


@every_strategy
def test_sites_that_changed_nothing_leave_every_bit_of_a_fresh_servers_base(name: str) -> None:
    still = sent(EVERY[name], 0.0, statistics=False)
    state, _ = run(EVERY[name], "mean", dict.fromkeys("ab", 1), dict.fromkeys("ab", still), fresh=True)
    assert bits(state) == bits(BASE)


# With training: on every network, with every rule, whoever takes part.

SHAPES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "logistic": ((3,), {}),
    "mlp": ((3,), {"hidden": (4,)}),
    "cnn": ((1, 8, 8), {"channels": (2,), "normalisation": "group"}),
    "cnn with batch normalisation": ((1, 8, 8), {"channels": (2, 3), "normalisation": "batch"}),
    "gru": ((3, 2), {"hidden": (3,)}),
    "tcn": ((4, 2), {"channels": (2,)}),
}
TRAINING = TrainingOptions(rounds=2, batch_size=4, learning_rate=0.05)


def problems(case: str) -> dict[str, Problem]:
    shape, more = SHAPES[case]
    network = build_network(shape, 1, NetworkOptions.model_validate({"name": case.partition(" ")[0], **more}))
    found = {}
    for place, (site, rows) in enumerate({"a": 6, "b": 9, "c": 5}.items()):
        features = torch.randn(rows, *shape, generator=torch_generator(place, "x")) + 0.3 * place
        found[site] = Problem(network, log_loss, features, torch.arange(rows).remainder(2).float(), TRAINING)
    return found


def test_every_network_is_tried() -> None:
    assert {case.partition(" ")[0] for case in SHAPES} == set(NETWORKS)


@every_strategy
@pytest.mark.parametrize("case", SHAPES)
def test_a_strategy_composes_with_a_network_and_gives_the_same_again(name: str, case: str) -> None:
    strategy, options = EVERY[name], AggregationOptions(learning_rate=0.1)
    there = problems(case)
    start = initial_weights(there["a"].network, torch_generator(0, "start"))
    before = bits(start)
    first, again = (federate(strategy, options, there, 2, start=start, bits=32) for _ in range(2))
    assert bits(start) == before
    assert bits(first[-1].state) == bits(again[-1].state)
    assert layout_of(first[-1].state) == layout_of(start)
    assert any(not torch.equal(first[-1].state[key], start[key]) for key in start)
    for after in first[1:]:
        assert all(bool(torch.isfinite(tensor).all()) for tensor in after.state.values())
        assert all(tensor.min() > 0 for key, tensor in after.state.items() if key.endswith("running_var"))
        for kept in after.kept.values():
            for held in (kept.memory, kept.personal):
                assert not held or bits(from_bytes(to_bytes(held), layout_of(held))) == bits(held)


@every_strategy
@every_rule
def test_a_strategy_composes_with_a_rule_and_with_part_of_the_hospitals(name: str, rule: CombineName) -> None:
    strategy = EVERY[name]
    options = AggregationOptions(combine=rule, participation=0.6, learning_rate=0.1, buffer=2)
    there = problems("logistic")
    trace = federate(strategy, options, there, 2)
    if strategy.schedule is EVERY["fedavg"].schedule:
        assert [len(after.updates) for after in trace[1:]] == [2] * strategy.rounds(2)
    assert not torch.equal(trace[-1].state["weight"], trace[0].state["weight"])
    # A hospital that was drawn and does not answer leaves a round of the others.
    lost = next(iter(trace[1].updates))
    if len(trace[1].updates) > 1:
        fewer = federate(strategy, options, there, 1, absent=frozenset({(lost, 1)}))
        assert set(fewer[1].updates) == set(trace[1].updates) - {lost}
        assert all(bool(torch.isfinite(tensor).all()) for tensor in fewer[1].state.values())


def test_a_strategy_of_ones_own_by_hand() -> None:
    # As in test_by_hand: Δ = (9, 0) of one row and (0, -3) of three; Δ̄ = (2.25, -2.25), and (81 + 3 · 9) / 4 = 27.
    local = TrainingOptions(learning_rate=0.5, local_epochs=2, batch_size=3, rounds=1)
    there = {"north": pulled_to(12, 0, 1, local), "south": pulled_to(0, -4, 3, local)}
    found = federate(EVERY["example of a page"], AggregationOptions(), there, 1, limit=256.0)[-1].state["w"].tolist()
    step = 27 / (2 * (10.125 + 1e-3))  # 4/3: from ¾ of the way to all of it
    assert found == pytest.approx([2.25 * step, -2.25 * step], rel=1e-6)
    assert found == pytest.approx([3, -3], abs=1e-3)

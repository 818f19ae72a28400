"""What of a network travels: pooled statistics, layers that stay at the hospital, layers that never move."""

from __future__ import annotations

import pytest
import torch
from federation import After, federate, how_of
from torch import Tensor, nn

from fedmed.aggregation.codec import as_moments, from_moments
from fedmed.engine.members import context_of
from fedmed.engine.runner import Question
from fedmed.errors import SettingsError
from fedmed.models.networks import NetworkOptions, build_network, initial_weights
from fedmed.models.parts import parts_of
from fedmed.seeds import torch_generator
from fedmed.strategies.base import Sent
from fedmed.strategies.client import Given, Kept, sent_vector, take_turn
from fedmed.strategies.options import AggregationOptions
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import Problem, TrainingOptions
from fedmed.training.losses import log_loss
from fedmed.weights import Weights, size

every_strategy = pytest.mark.parametrize("name", STRATEGIES)
ROWS = {"a": 6, "b": 18, "c": 9}
TRAINING = TrainingOptions(rounds=3, batch_size=100, learning_rate=0.05)


class Counting(nn.Module):
    """BatchNorm that forgets all before its last batch (momentum 1): its statistics are those of the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2, momentum=1.0)
        self.norm.num_batches_tracked = None
        self.head = nn.Linear(2, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """`(rows, 2)` → `(rows, 1)`."""
        logits: Tensor = self.head(self.norm(rows))
        return logits


def counted() -> dict[str, Problem]:
    found = {}
    for place, (site, rows) in enumerate(ROWS.items()):
        drawn = torch.randn(rows, 2, generator=torch_generator(place, "x"))
        found[site] = Problem(
            Counting(), log_loss, drawn + 2 * place, torch.arange(rows).remainder(2).float(), TRAINING
        )
    return found


def test_pooled_statistics_are_those_of_all_rows_together() -> None:
    problems = counted()
    state = federate(STRATEGIES["fedavg"], AggregationOptions(), problems, 1)[-1].state
    pooled = torch.cat([problem.features for problem in problems.values()])
    assert torch.allclose(state["norm.running_mean"], pooled.mean(dim=0), atol=1e-5)
    # BatchNorm keeps n / (n - 1) times each hospital's variance; the variance between hospitals is added as it is.
    n = torch.tensor([float(rows) for rows in ROWS.values()]).unsqueeze(1)
    means = torch.stack([problem.features.mean(dim=0) for problem in problems.values()])
    within = torch.stack([problem.features.var(dim=0) for problem in problems.values()])
    between = (n * (means - pooled.mean(dim=0)).square()).sum(dim=0) / n.sum()
    assert torch.allclose(state["norm.running_var"], (n * within).sum(dim=0) / n.sum() + between, rtol=1e-5)
    # Not the average of variances, which is far smaller here, but within n / (n - 1) of the pooled rows' own.
    assert torch.allclose(state["norm.running_var"], pooled.var(dim=0, correction=0), rtol=0.2)
    assert bool((between > 0.5 * within.mean(dim=0)).all())


@every_strategy
def test_every_strategy_pools_statistics_alike_by_its_own_weights(name: str) -> None:
    strategy, problems = STRATEGIES[name], counted()  # type: ignore[index]  # of the table
    options = AggregationOptions(arrivals=("a", "b"), buffer=2) if name == "fedbuff" else AggregationOptions()
    after = federate(strategy, options, problems, 1)[-1]
    if strategy.keeps_normalisation:
        assert torch.equal(after.state["norm.running_mean"], torch.zeros(2))
        return
    weights = {site: strategy.weigh(ROWS[site]) for site in after.updates}
    means = {site: problems[site].features.mean(dim=0) for site in weights}
    total = sum(weights.values())
    mean = torch.stack([weights[site] * means[site] for site in weights]).sum(dim=0) / total
    assert torch.allclose(after.state["norm.running_mean"], mean, atol=1e-5)


def test_statistics_of_a_stale_update_are_of_rows_too_and_no_sum_of_what_was_met_twice() -> None:
    # Both hospitals have mean 10 and variance 1 (+ 1/n); B was given model 0, where the mean is 0, and comes in round 2.
    spread = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).repeat(50, 1)
    problems = {
        site: Problem(Counting(), log_loss, spread + 10, torch.arange(100).remainder(2).float(), TRAINING)
        for site in ("a", "b")
    }
    options = AggregationOptions(buffer=1, arrivals=("a", "b"))
    found = federate(STRATEGIES["fedbuff"], options, problems, 2)
    for after in found[1:]:
        assert after.state["norm.running_mean"].tolist() == pytest.approx([10, 10], abs=1e-4)
        assert after.state["norm.running_var"].tolist() == pytest.approx([100 / 99] * 2, abs=1e-3)


def test_moments_average_where_variances_do_not() -> None:
    # Two hospitals of equal weight with means ±2 and variance 1: together mean 0 and variance 1 + 4.
    one, other = (
        as_moments({"n.running_mean": torch.tensor([m]), "n.running_var": torch.tensor([1.0])}) for m in (2.0, -2.0)
    )
    pooled = from_moments({name: (one[name] + other[name]) / 2 for name in one})
    assert (pooled["n.running_mean"].item(), pooled["n.running_var"].item()) == (0.0, 5.0)
    assert from_moments({"n.running_mean": torch.tensor([1.0]), "n.running_var": torch.tensor([0.999999])})[
        "n.running_var"
    ].tolist() == [0.0]
    # A name that only looks like one is left as it is.
    assert as_moments({"running_var_of": torch.tensor([3.0])})["running_var_of"].item() == 3.0
    assert as_moments({"running_var": torch.tensor([1.0]), "running_mean": torch.tensor([2.0])})["running_var"] == 5.0


def test_under_fedbn_normalisation_stays_at_the_hospital_and_goes_on_there() -> None:
    problems = counted()
    trace = federate(STRATEGIES["fedbn"], AggregationOptions(), problems, 2)
    for name in ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
        assert torch.equal(trace[-1].state[name], trace[0].state[name])
    assert not torch.equal(trace[-1].state["head.weight"], trace[0].state["head.weight"])
    for site, problem in problems.items():
        own = trace[-1].kept[site].personal
        assert set(own) == {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}
        assert torch.allclose(own["norm.running_mean"], problem.features.mean(dim=0), atol=1e-5)
        assert not torch.equal(own["norm.weight"], trace[1].kept[site].personal["norm.weight"])  # trained on


# Layers that a hospital keeps, and layers that do not move.

MLP = build_network((3,), 1, NetworkOptions(name="mlp", hidden=(4,)))
CNN = build_network((1, 8, 8), 1, NetworkOptions(name="cnn", channels=(2,), normalisation="batch"))


LAST = 3
"""Numbers at the end of an update: the normaliser, and the training loss with its rows."""


def problems_on(network: nn.Module, shape: tuple[int, ...], frozen: tuple[str, ...] = ()) -> dict[str, Problem]:
    return {
        site: Problem(
            network,
            log_loss,
            torch.randn(rows, *shape, generator=torch_generator(rows, "x")) + rows / 10,
            torch.arange(rows).remainder(2).float(),
            TRAINING.model_copy(update={"learning_rate": 0.2, "frozen": frozen}),
        )
        for site, rows in ROWS.items()
    }


def run(name: str, personal: tuple[str, ...] = (), frozen: tuple[str, ...] = ()) -> list[After]:
    options = AggregationOptions(learning_rate=0.1)
    there = problems_on(MLP, (3,), frozen)
    return federate(STRATEGIES[name], options, there, 2, personal=personal)  # type: ignore[index]


@every_strategy
def test_personal_layers_are_no_part_of_any_update_and_differ_between_hospitals(name: str) -> None:
    strategy = STRATEGIES[name]  # type: ignore[index]
    trace = run(name, personal=("head.*",))
    start = trace[0].state
    body = size({key: start[key] for key in start if key.startswith("body")})
    for after in trace[1:]:
        for update in after.updates.values():
            assert update.numel() == (1 + len(strategy.extra)) * body + LAST
        assert torch.equal(after.state["head.weight"], start["head.weight"])
        assert torch.equal(after.state["head.bias"], start["head.bias"])
        assert not any("head" in key for key in after.memory)
        assert not any("head" in key for kept in after.kept.values() for key in kept.memory)
    moved = {site: kept.personal for site, kept in trace[-1].kept.items() if kept.personal}
    heads = [own["head.weight"] for own in moved.values()]
    assert len(heads) >= 2
    assert not torch.equal(heads[0], heads[1])
    assert all(not torch.equal(head, start["head.weight"]) for head in heads)


def test_an_update_does_not_depend_on_the_global_value_of_a_layer_that_is_the_hospitals_own() -> None:
    there = problems_on(MLP, (3,))
    how = how_of(STRATEGIES["fedavg"], AggregationOptions(), there, personal=["head.*"])
    start = initial_weights(MLP, torch_generator(1, "start"))
    own = Kept(personal={"head.weight": torch.ones(1, 4), "head.bias": torch.zeros(1)})
    updates = []
    for head in (start["head.weight"], start["head.weight"] + 100):
        base = {**start, "head.weight": head}
        sent, _ = take_turn(how, there["a"], "a", Given(1, base, kept=own))
        updates.append(sent_vector(how, sent, base, context_of(how, Question("train", 1, "a", 0, how.sites))))
    assert torch.equal(*updates)


@every_strategy
def test_frozen_layers_do_not_move_anywhere_and_do_not_travel(name: str) -> None:
    strategy = STRATEGIES[name]  # type: ignore[index]
    trace = run(name, frozen=("body.*",))
    assert torch.equal(trace[-1].state["body.1.weight"], trace[0].state["body.1.weight"])
    assert not torch.equal(trace[-1].state["head.weight"], trace[0].state["head.weight"])
    for update in trace[-1].updates.values():
        assert update.numel() == (1 + len(strategy.extra)) * 5 + LAST
    for kept in trace[-1].kept.values():
        assert not any("body" in key for key in kept.personal)


def test_frozen_layers_do_not_move_between_the_steps_of_a_round_either() -> None:
    # Head and body apart: with the body as it was, the head is a logistic regression on what the body gives.
    many = {"local_epochs": 5, "batch_size": 4, "l2": 0.0}
    problem = problems_on(MLP, (3,), ("body.*",))["b"]
    problem = problem._replace(options=problem.options.model_copy(update=many))
    start = initial_weights(MLP, torch_generator(1, "start"))

    def turn(problem: Problem, base: Weights) -> Sent:
        how = how_of(STRATEGIES["fedavg"], AggregationOptions(), {"b": problem})
        return take_turn(how, problem, "b", Given(1, base))[0]

    sent = turn(problem, start)
    body = torch.relu(problem.features @ start["body.1.weight"].T + start["body.1.bias"])
    free = problem.options.model_copy(update={"frozen": ()})
    head = problem._replace(network=nn.Linear(4, 1), features=body, options=free)
    expected = turn(head, {"weight": start["head.weight"], "bias": start["head.bias"]})
    assert sent.fitted.steps == 25
    for name, change in expected.change.items():
        assert torch.allclose(sent.change[f"head.{name}"], change, atol=1e-6)


def test_personal_and_frozen_together_with_batch_normalisation() -> None:
    there = problems_on(CNN, (1, 8, 8), ("body.0.*",))
    how = how_of(STRATEGIES["scaffold"], AggregationOptions(), there, personal=["head.*"])
    trace = federate(STRATEGIES["scaffold"], AggregationOptions(), there, 2, personal=["head.*"])
    assert set(how.form.weights) == {"body.1.weight", "body.1.bias"}
    assert set(how.form.statistics) == {"body.1.running_mean", "body.1.running_var"}
    assert {update.numel() for update in trace[-1].updates.values()} == {4 + 4 + 4 + LAST}
    assert how.form.size == 12 + LAST
    assert torch.equal(trace[-1].state["body.0.weight"], trace[0].state["body.0.weight"])
    assert not torch.equal(trace[-1].state["body.1.running_mean"], trace[0].state["body.1.running_mean"])


def test_a_parameter_that_a_network_of_ones_own_does_not_train_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    network[0].requires_grad_(False)
    for name in ("fedavg", "fedsgd"):
        options = AggregationOptions(learning_rate=0.5)
        start = initial_weights(network, torch_generator(1, "start"))
        state = federate(STRATEGIES[name], options, problems_on(network, (3,)), 2, start=start)[-1].state  # type: ignore[index]
        assert torch.equal(state["0.weight"], start["0.weight"])
        assert torch.equal(state["0.bias"], start["0.bias"])
        assert not torch.equal(state["1.weight"], start["1.weight"])


def test_a_pattern_that_fits_nothing_or_leaves_nothing_is_an_error() -> None:
    with pytest.raises(SettingsError, match=r"personal.layers: 'tail.\*' fits no tensor .* body"):
        parts_of(MLP, personal=["tail.*"])
    with pytest.raises(SettingsError, match=r"training.frozen: 'tail.\*' fits no tensor"):
        parts_of(MLP, frozen=["tail.*"])
    with pytest.raises(SettingsError, match="no parameter to train together"):
        parts_of(MLP, personal=["head.*"], frozen=["body.*"])


def test_groups_of_tensors_are_disjoint_and_together_the_whole_state() -> None:
    for network in (MLP, CNN):
        for keep in (False, True):
            parts = parts_of(
                network, personal=["head.*"], frozen=["body.*.bias"] if network is MLP else (), keep_normalisation=keep
            )
            names = [name for group in parts for name in group]
            assert sorted(names) == sorted(initial_weights(network, torch_generator(0)))
            assert len(names) == len(set(names))

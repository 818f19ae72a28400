"""What travels of a turn, as integers: the order of its parts, the range of each, and the means that it comes to."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedmed.aggregation.codec import LARGEST_LOSS, SMALLER, Form, Moved, from_vector, to_vector, unit_of_rows
from fedmed.aggregation.grid import FixedPoint
from fedmed.engine.members import context_of
from fedmed.engine.runner import Question
from fedmed.strategies.algorithm import Algorithm, algorithm
from fedmed.strategies.base import Fitted, Sent
from fedmed.strategies.client import sent_vector
from fedmed.strategies.options import AggregationOptions, StrategyName
from fedmed.strategies.server import Part, gather, move
from fedmed.training.local import TrainingOptions

GRID = FixedPoint(bits=32, limit=16.0, weight=1000)  # steps of 2^-17
STEP = 2.0**-GRID.exponent
LINEAR = nn.Linear(3, 1)
BASE = {"weight": torch.tensor([[0.1, -0.2, 0.3]]), "bias": torch.tensor([0.5])}


def how_of(name: StrategyName, rows: Mapping[str, int], network: nn.Module = LINEAR, **options: object) -> Algorithm:
    chosen = AggregationOptions.model_validate({"strategy": name, **options})
    return algorithm(network, TrainingOptions(), chosen, rows, grid=GRID)


def sent(
    how: Algorithm, site: str, state: Mapping[str, Tensor], base: Mapping[str, Tensor], steps: float = 1
) -> Tensor:
    """The integers of a hospital that came to a state, with a loss of ½ a row."""
    change = {name: state[name] - base[name] for name in how.parts.parameters}
    turn = Sent(change, Fitted(state, {}, 0.5, 1), steps)
    return sent_vector(how, turn, base, context_of(how, Question("train", 1, site, 0, how.sites)))


def test_an_update_travels_as_integers_in_name_order_with_normaliser_loss_and_rows_last() -> None:
    moved = {"weight": BASE["weight"] + torch.tensor([[1.0, 2.0, 3.0]]), "bias": BASE["bias"] + 4.0}
    how = how_of("fedavg", {"a": 2})
    update = sent(how, "a", moved, BASE, 32.0)
    assert update.dtype == torch.int32
    told = (update.double() * STEP / 2).round(decimals=4).tolist()
    # 32 / 1024; two rows of weight 2 count 16, and ½ a row of at most 1024 in its own range
    assert told == [4.0, 1.0, 2.0, 3.0, 0.0312, round(16 * 0.5 / 1024, 4), 16.0]
    back = from_vector(update.double() * STEP / 2, how.form)
    assert (back.normaliser, back.loss) == (32.0, 0.5)
    assert back.change["bias"].item() == pytest.approx(4.0, abs=1e-5)
    silent = how_of("fedavg", {"a": 2}, training_loss=False)
    assert sent(silent, "a", moved, BASE, 32.0).tolist() == update[:-2].tolist()
    assert from_vector(update[:-2].double() * STEP / 2, silent.form).loss is None


def test_parts_of_an_update_follow_each_other_change_extras_moments_normaliser_loss_and_rows() -> None:
    statistics = {"n.running_mean": torch.zeros(2), "n.running_var": torch.ones(2)}
    assert Form(BASE, statistics, ("control",), 1.0).blocks == [4, 4, 4, 1, 2]
    assert Form(BASE, {}, (), 0.0).blocks == [4, 1]
    assert Form(BASE, {}, (), 1.0).size == 7


@pytest.mark.parametrize("steps", [1.0, 16_000.0])
def test_a_normaliser_of_many_steps_is_within_the_range_of_a_weight(steps: float) -> None:
    how = how_of("fednova", {"a": 3})
    update = sent(how, "a", BASE, BASE, steps)
    assert from_vector(GRID.mean(update.long(), 3), how.form).normaliser == steps
    assert SMALLER * steps < GRID.limit


def combined(name: StrategyName, rows: dict[str, int], at: dict[str, float], base: float) -> tuple[float, float | None]:
    """The weight that hospitals with these rows and weights come to, and their loss: that of each is its own weight."""
    start = {"weight": torch.tensor([[base]])}
    how = how_of(name, rows, nn.Linear(1, 1, bias=False))
    parts = [Part(site, sent(how, site, {"weight": torch.tensor([[at[site]]])}, start)) for site in rows]
    gathered = gather(how, 1, parts)
    assert gathered is not None
    after = move(how, 1, {0: how.start(start)}, gathered, {}, {})
    return after.weights["weight"].item(), after.loss


@pytest.mark.parametrize(("strategy", "expected"), [("fedavg", 0.5), ("mean", 1.0)])
def test_the_mean_of_thirty_rows_at_0_and_ten_at_2(strategy: StrategyName, expected: float) -> None:
    # fedavg: (30 · 0 + 10 · 2) / 40 = .5; mean: (0 + 2) / 2 = 1
    assert combined(strategy, {"a": 30, "b": 10}, {"a": 0.0, "b": 2.0}, 0.0)[0] == expected


def test_fedavg_is_the_weighted_mean_of_the_weights_themselves_not_of_the_changes_alone() -> None:
    # base 1; sites at 1.5 (1 row) and 3 (3 rows): (1.5 + 9) / 4 = 2.625
    assert combined("fedavg", {"a": 1, "b": 3}, {"a": 1.5, "b": 3.0}, 1.0)[0] == 2.625


@pytest.mark.parametrize("strategy", ["fedavg", "mean"])
def test_a_mean_lies_between_its_sites_and_one_site_is_itself(strategy: StrategyName) -> None:
    assert -1 - STEP <= combined(strategy, {"a": 3, "b": 50}, {"a": -1.0, "b": 2.0}, 0.3)[0] <= 2 + STEP
    for by in (-4.0, 0.1, 3.999):
        assert combined(strategy, {"a": 7}, {"a": by}, 0.3)[0] == pytest.approx(by, abs=STEP / 2 + 1e-6)


def told(losses: Mapping[str, float], rows: Mapping[str, int], weights: Mapping[str, int]) -> float | None:
    """The mean loss that the sum of such hospitals' vectors tells."""
    form = Form({}, {}, (), unit_of_rows(rows, weights, GRID.limit))
    total = torch.zeros(form.size, dtype=torch.int64)
    for site, loss in losses.items():
        total += GRID.encode(
            to_vector(Moved({}, {}, {}, 1.0, loss, rows[site]), {}, form, weights[site]), weights[site]
        )
    return from_vector(GRID.mean(total, sum(weights.values())), form).loss


@pytest.mark.parametrize("weights", [{"a": 30, "b": 10}, {"a": 1, "b": 1}])
def test_the_training_loss_is_the_mean_over_rows_whatever_hospitals_weigh(weights: dict[str, int]) -> None:
    # (30 · 1 + 10 · 3) / 40 = 1.5; under equal weights the mean of the two losses would be 2
    assert told({"a": 1.0, "b": 3.0}, {"a": 30, "b": 10}, weights) == pytest.approx(1.5, rel=1e-3)


@pytest.mark.parametrize("loss", [math.inf, math.nan, 1e9])
def test_a_loss_beyond_all_bounds_is_told_as_the_largest_and_does_not_leave_the_grid(loss: float) -> None:
    assert told({"a": loss}, {"a": 30}, {"a": 30}) == LARGEST_LOSS


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 10**6), st.integers(1, 300)), min_size=1),
    st.sampled_from([0.5, 3.0, 16.0]),
)
def test_no_hospitals_rows_leave_the_range_of_a_weight(sites: dict[str, tuple[int, int]], limit: float) -> None:
    rows, weights = ({site: entry[place] for site, entry in sites.items()} for place in (0, 1))
    unit = unit_of_rows(rows, weights, limit)
    counted = [rows[site] / weights[site] * unit for site in sites]
    assert limit / 2 < max(counted) <= limit
    assert math.frexp(unit)[0] == 0.5  # a power of two

"""What every strategy keeps to, and the means that the two of today come to."""

from __future__ import annotations

import random
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedmed.aggregation.fixed_point import FixedPoint
from fedmed.aggregation.strategies import STRATEGIES, AggregationOptions, aggregate, encode_update
from fedmed.errors import RangeExceeded
from fedmed.weights import layout_of

GRID = FixedPoint(bits=32, limit=16.0, weight=1000)  # steps of 2^-17
STEP = 2.0**-GRID.exponent
BASE = {"weight": torch.tensor([[0.1, -0.2, 0.3]]), "bias": torch.tensor([0.5])}
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
site_rows = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 100), min_size=1)


def moved(by: float) -> dict[str, Tensor]:
    """The base with every parameter moved, each by another amount."""
    return {
        name: tensor + by * (1 + torch.arange(tensor.numel()).reshape(tensor.shape)) for name, tensor in BASE.items()
    }


def run(
    strategy: str, rows: dict[str, int], local: dict[str, dict[str, Tensor]], grid: FixedPoint = GRID
) -> dict[str, Tensor]:
    weights = {site: STRATEGIES[strategy](rows[site]) for site in local}
    updates = {site: encode_update(local[site], BASE, weights[site], grid) for site in local}
    return aggregate(BASE, updates, weights, grid)


def bits(weights: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: tensor.reshape(-1).view(torch.int32).tolist() for name, tensor in sorted(weights.items())}


def test_options_and_strategies_know_the_same_names() -> None:
    assert set(get_args(AggregationOptions.model_fields["strategy"].annotation)) == set(STRATEGIES)


@every_strategy
@given(rows=site_rows, chance=st.randoms(use_true_random=False))
def test_the_order_of_sites_changes_no_bit(strategy: str, rows: dict[str, int], chance: random.Random) -> None:
    local = {site: moved(0.01 * n / 3) for site, n in rows.items()}
    order = list(local)
    chance.shuffle(order)
    assert bits(run(strategy, rows, local)) == bits(run(strategy, rows, {site: local[site] for site in order}))


@every_strategy
@given(rows=site_rows, by=st.floats(-3, 3))
def test_equal_updates_return_themselves(strategy: str, rows: dict[str, int], by: float) -> None:
    result = run(strategy, rows, dict.fromkeys(rows, moved(by)))
    for name, tensor in moved(by).items():
        assert torch.allclose(result[name], tensor, rtol=0, atol=STEP / 2 + 1e-6)


@every_strategy
@given(rows=site_rows)
def test_sites_that_changed_nothing_leave_every_bit_of_the_base(strategy: str, rows: dict[str, int]) -> None:
    assert bits(run(strategy, rows, dict.fromkeys(rows, BASE))) == bits(BASE)


@every_strategy
def test_names_shapes_and_types_are_kept_and_no_argument_is_changed(strategy: str) -> None:
    before = bits(BASE)
    result = run(strategy, {"a": 3, "b": 5}, {"a": moved(1), "b": moved(2)})
    assert layout_of(result) == layout_of(BASE)
    assert bits(BASE) == before


@every_strategy
@given(by=st.floats(-4, 4), rows=st.integers(1, 1000))
def test_one_site_is_the_identity_up_to_half_a_step(strategy: str, by: float, rows: int) -> None:
    result = run(strategy, {"a": rows}, {"a": moved(by)})
    for name, tensor in moved(by).items():
        assert torch.allclose(result[name], tensor, rtol=0, atol=STEP / 2 + 1e-6)


@every_strategy
def test_a_mean_lies_between_its_sites(strategy: str) -> None:
    result = run(strategy, {"a": 3, "b": 50}, {"a": moved(-1), "b": moved(2)})
    for name in BASE:
        assert bool(((moved(-1)[name] - STEP <= result[name]) & (result[name] <= moved(2)[name] + STEP)).all())


@every_strategy
def test_no_update_is_an_error(strategy: str) -> None:
    with pytest.raises(ValueError, match="at least one update"):
        run(strategy, {}, {})


@every_strategy
def test_a_change_out_of_range_is_refused_not_clipped(strategy: str) -> None:
    with pytest.raises(RangeExceeded, match="agreed range is ±16"):
        run(strategy, {"a": 1, "b": 1}, {"a": moved(0), "b": moved(17)})


@every_strategy
def test_weights_beyond_what_the_plan_allows_are_refused(strategy: str) -> None:
    tight = FixedPoint(bits=32, limit=16.0, weight=1)
    with pytest.raises(RangeExceeded, match="sum of weights: expected 1 to 1, got 2"):
        run(strategy, {"a": 1, "b": 1}, {"a": moved(0), "b": moved(1)}, tight)


@every_strategy
@given(rows=st.integers(1, 10**6))
def test_a_weight_is_a_whole_number_of_at_least_one(strategy: str, rows: int) -> None:
    weight = STRATEGIES[strategy](rows)
    assert isinstance(weight, int)
    assert weight >= 1


def test_updates_and_weights_of_different_sites_are_an_error() -> None:
    update = encode_update(moved(1), BASE, 1, GRID)
    with pytest.raises(ValueError, match="'b'"):
        aggregate(BASE, {"a": update}, {"a": 1, "b": 1}, GRID)


@pytest.mark.parametrize(("strategy", "expected"), [("fedavg", 0.5), ("mean", 1.0)])
def test_the_mean_of_thirty_rows_at_0_and_ten_at_2(strategy: str, expected: float) -> None:
    # fedavg: (30 · 0 + 10 · 2) / 40 = .5; mean: (0 + 2) / 2 = 1
    base = {"w": torch.zeros(1)}
    rows = {"a": 30, "b": 10}
    local = {"a": {"w": torch.tensor([0.0])}, "b": {"w": torch.tensor([2.0])}}
    weights = {site: STRATEGIES[strategy](n) for site, n in rows.items()}
    updates = {site: encode_update(local[site], base, weights[site], GRID) for site in rows}
    assert aggregate(base, updates, weights, GRID)["w"].item() == expected


def test_fedavg_is_the_weighted_mean_of_the_weights_themselves_not_of_the_changes_alone() -> None:
    # base 1; sites at 1.5 (1 row) and 3 (3 rows): (1.5 + 9) / 4 = 2.625
    base = {"w": torch.tensor([1.0])}
    updates = {
        "a": encode_update({"w": torch.tensor([1.5])}, base, 1, GRID),
        "b": encode_update({"w": torch.tensor([3.0])}, base, 3, GRID),
    }
    assert aggregate(base, updates, {"a": 1, "b": 3}, GRID)["w"].item() == 2.625


def test_an_update_travels_as_integers_in_name_order() -> None:
    change = {"weight": BASE["weight"] + torch.tensor([[1.0, 2.0, 3.0]]), "bias": BASE["bias"] + 4.0}
    update = encode_update(change, BASE, 2, GRID)
    assert update.dtype == torch.int32
    assert (update.double() * STEP / 2).round(decimals=4).tolist() == [4.0, 1.0, 2.0, 3.0]

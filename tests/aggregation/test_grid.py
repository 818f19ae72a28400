"""Integers on a shared grid: their sum is exact, cannot wrap, and refuses what does not fit."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fedmed.aggregation.grid import FixedPoint
from fedmed.errors import RangeExceeded

GRID = FixedPoint(bits=32, limit=4.0, weight=4)
grids = st.builds(
    FixedPoint,
    bits=st.sampled_from([32, 64]),
    limit=st.sampled_from([0.5, 1.0, 3.0, 16.0, 1e6]) | st.floats(1e-3, 1e6),
    weight=st.sampled_from([1, 2, 4, 1000, 1024, 4096]) | st.integers(1, 10_000),
)


def mean(grid: FixedPoint, parts: list[Tensor], weight: int) -> Tensor:
    """The mean of what several hospitals sent: one after the other is added to the sum."""
    total = torch.zeros_like(parts[0], dtype=torch.int64)
    for part in parts:
        total += part
    return grid.mean(total, weight)


def test_the_grid_of_four_by_four_has_steps_of_two_to_the_minus_26() -> None:
    # (2^31 - 1 - 2) / (4 · 4) is a little under 2^27.
    assert GRID.exponent == 26
    assert GRID.dtype == torch.int32
    assert GRID.encode(torch.tensor([1.0, -0.5, 0.0]), 3).tolist() == [3 * 2**26, -3 * 2**25, 0]
    assert FixedPoint(bits=64, limit=4.0, weight=4).dtype == torch.int64


@given(grids)
def test_the_step_is_the_finest_with_which_no_sum_wraps(grid: FixedPoint) -> None:
    largest = 2 ** (grid.bits - 1) - 1
    assert grid.limit * grid.weight * 2.0**grid.exponent + grid.weight / 2 < largest + 1
    assert grid.limit * grid.weight * 2.0 ** (grid.exponent + 1) + grid.weight / 2 > largest * (1 - 1e-9)


@given(grids, st.booleans())
def test_a_value_at_the_limit_keeps_its_sign_and_size(grid: FixedPoint, negative: bool) -> None:
    value = -grid.limit if negative else grid.limit
    alone = grid.encode(torch.tensor([value], dtype=torch.float64), grid.weight)
    assert mean(grid, [alone], grid.weight).item() == pytest.approx(value, rel=1e-6)
    each = grid.encode(torch.tensor([value], dtype=torch.float64), 1)
    assert mean(grid, [each] * min(grid.weight, 50), min(grid.weight, 50)).item() == pytest.approx(value, rel=1e-2)


@given(st.lists(st.integers(-31, 31), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_bits(eighths: list[int], chance: random.Random) -> None:
    grid = FixedPoint(bits=32, limit=4.0, weight=40)
    parts = [grid.encode(torch.tensor([value / 8 + 1e-7 * value]), 1 + i % 5) for i, value in enumerate(eighths)]
    shuffled = list(parts)
    chance.shuffle(shuffled)
    assert torch.equal(mean(grid, parts, 24), mean(grid, shuffled, 24))


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=4))
def test_a_mean_is_off_by_half_a_step_a_site_at_most(values: list[float]) -> None:
    parts = [GRID.encode(torch.tensor([value], dtype=torch.float64), 1) for value in values]
    exact = sum(values) / len(values)
    assert abs(mean(GRID, parts, len(values)).item() - exact) <= 0.5 * 2.0**-26 + 1e-15


def test_a_mean_weighs_as_its_sites_do() -> None:
    parts = [GRID.encode(torch.tensor([1.0, 4.0]), 3), GRID.encode(torch.tensor([-2.0, 0.0]), 1)]
    assert mean(GRID, parts, 4).tolist() == [0.25, 3.0]
    assert mean(GRID, parts, 4).dtype == torch.float64


def test_integers_of_32_bits_are_summed_in_64() -> None:
    full = torch.tensor([2**31 - 1], dtype=torch.int32)
    assert mean(GRID, [full] * 4, 4).item() == (2**31 - 1) / 2**26


@pytest.mark.parametrize("value", [4.0000005, -4.1, 1e30, math.inf, -math.inf, math.nan])
def test_a_value_out_of_range_is_refused_not_clipped(value: float) -> None:
    with pytest.raises(RangeExceeded, match="agreed range is ±4"):
        GRID.encode(torch.tensor([0.0, value]), 1)


def test_nan_is_refused_wherever_it_stands() -> None:
    for position in range(3):
        values = torch.ones(3)
        values[position] = math.nan
        with pytest.raises(RangeExceeded):
            GRID.encode(values, 1)


@pytest.mark.parametrize("weight", [0, -1, 5])
def test_a_weight_out_of_range_is_refused(weight: int) -> None:
    with pytest.raises(RangeExceeded, match="weight: expected 1 to 4"):
        GRID.encode(torch.zeros(1), weight)
    with pytest.raises(RangeExceeded, match="sum of weights: expected 1 to 4"):
        GRID.mean(torch.zeros(1, dtype=torch.int64), weight)


def test_no_value_is_none() -> None:
    assert GRID.mean(torch.zeros(0, dtype=torch.int64), 1).shape == (0,)
    assert GRID.encode(torch.zeros(0), 1).shape == (0,)


@pytest.mark.parametrize("options", [{"bits": 16}, {"limit": 0.0}, {"limit": math.inf}, {"weight": 0}, {"extra": 1}])
def test_a_grid_that_is_none_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        FixedPoint.model_validate({"bits": 32, "limit": 1.0, "weight": 1, **options})

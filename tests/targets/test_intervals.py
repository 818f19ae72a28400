"""Intervals and curves of survival in discrete time, by hand and against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.targets.intervals import interval_ends, interval_of, survival_curve


@pytest.mark.parametrize(
    ("duration", "expected"), [(0.01, 0), (99.9, 0), (100, 0), (100.1, 1), (300, 2), (365, 3), (400, 3), (400.1, 4)]
)
def test_an_interval_holds_its_end_and_not_its_beginning(duration: float, expected: int) -> None:
    assert interval_of(torch.tensor([duration]), horizon=400, intervals=4).tolist() == [expected]


def test_an_end_is_in_its_interval_in_single_precision_too() -> None:
    for intervals in (3, 7, 10, 30):
        ends = interval_ends(1.0, intervals, torch.float32)
        assert interval_of(ends, 1.0, intervals).tolist() == list(range(intervals))


def test_a_curve_by_hand() -> None:
    # hazards of 1/4 and 1/2: 3/4, then 3/8
    logits = torch.tensor([[math.log(1 / 3), 0.0]], dtype=torch.float64)
    assert survival_curve(logits)[0].tolist() == pytest.approx([0.75, 0.375])


@settings(deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=8))
def test_a_curve_is_the_running_product_of_what_is_survived(logits: list[float]) -> None:
    curve = survival_curve(torch.tensor([logits], dtype=torch.float64))[0].numpy()
    expected = np.cumprod(1 / (1 + np.exp(np.array(logits))))
    np.testing.assert_allclose(curve, expected, rtol=1e-9)
    assert (np.diff(curve) <= 0).all()
    assert ((curve >= 0) & (curve <= 1)).all()


def test_no_rows_have_no_curves() -> None:
    assert survival_curve(torch.zeros(0, 3)).shape == (0, 3)

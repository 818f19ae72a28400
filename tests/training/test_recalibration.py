"""The one number that a hospital keeps to itself: where it lies, how strong its prior is, and that it always exists."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedmed.training.recalibration import PersonalOptions, fit_shift, shift_of

WIDE = 1e6


def labels(positive: int, negative: int) -> Tensor:
    return torch.tensor([1.0] * positive + [0.0] * negative)


@pytest.mark.parametrize(("positive", "negative"), [(1, 1), (3, 1), (1, 9), (99, 1), (1, 10_000)])
def test_without_a_prior_the_shift_is_the_log_odds_of_the_hospitals_patients(positive: int, negative: int) -> None:
    y = labels(positive, negative)
    assert fit_shift(torch.zeros(len(y)), y, WIDE) == pytest.approx(math.log(positive / negative), abs=1e-6)


def test_a_model_that_is_right_on_the_whole_is_not_shifted() -> None:
    y = labels(1, 3)
    assert fit_shift(torch.full((4,), -math.log(3)), y, 1.0) == pytest.approx(0.0, abs=1e-7)


@given(
    st.lists(st.tuples(st.floats(-20, 20), st.sampled_from([0.0, 1.0])), max_size=30), st.sampled_from([0.1, 1.0, 10.0])
)
def test_the_slope_at_the_shift_is_zero(rows: list[tuple[float, float]], spread: float) -> None:
    z = torch.tensor([logit for logit, _ in rows], dtype=torch.float64)
    y = torch.tensor([label for _, label in rows], dtype=torch.float64)
    shift = fit_shift(z, y, spread)
    slope = float((torch.sigmoid(z + shift) - y).sum()) + shift / spread**2
    assert abs(slope) < 1e-6


def test_a_hospital_with_one_class_does_not_run_away() -> None:
    # ten positives at logit 0: 10 (1 - σ(b)) = b / 1; b is between 1 and 3
    shift = fit_shift(torch.zeros(10), labels(10, 0), 1.0)
    assert 1 < shift < 3
    assert 10 * (1 - 1 / (1 + math.exp(-shift))) == pytest.approx(shift)
    assert fit_shift(torch.zeros(10), labels(0, 10), 1.0) == pytest.approx(-shift)


def test_a_narrower_prior_keeps_the_shift_nearer_to_zero() -> None:
    shifts = [fit_shift(torch.zeros(10), labels(8, 2), spread) for spread in (0.1, 0.5, 1.0, WIDE)]
    assert shifts == sorted(shifts)
    assert shifts[0] < 0.1
    assert shifts[-1] == pytest.approx(math.log(4))


@pytest.mark.parametrize("logit", [-40.0, 40.0])
def test_a_model_that_is_far_off_is_brought_back(logit: float) -> None:
    y = labels(5, 5)
    assert fit_shift(torch.full((10,), logit), y, WIDE) == pytest.approx(-logit, abs=1e-3)


def test_no_rows_give_no_shift() -> None:
    assert fit_shift(torch.zeros(0), torch.zeros(0), 1.0) == 0.0


def test_a_hospital_that_wants_none_has_none() -> None:
    network = nn.Linear(1, 1)
    weights = {"weight": torch.tensor([[2.0]]), "bias": torch.tensor([1.0])}
    x, y = torch.full((4, 1), -0.5), labels(3, 1)
    assert shift_of(network, weights, x, y, PersonalOptions(intercept=False)) == 0.0
    # logits 2 · -½ + 1 = 0: the log odds of the labels
    assert shift_of(network, weights, x, y, PersonalOptions(spread=WIDE)) == pytest.approx(math.log(3), abs=1e-6)


@pytest.mark.parametrize("spread", [0.0, -1.0, math.inf])
def test_a_spread_that_is_none_is_refused(spread: float) -> None:
    with pytest.raises(ValueError, match="spread"):
        PersonalOptions(spread=spread)

"""Curves: the points by hand, scikit-learn's, and none where a class or bin is small."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedmed.evaluation.curves import GRID, calibration_curve, roc_curve

Rows: TypeAlias = tuple[NDArray[Any], NDArray[Any]]


def hospital(rows: int, seed: int, ties: bool = False) -> Rows:
    generator = np.random.default_rng(seed)
    score = generator.normal(size=rows)
    p = 1 / (1 + np.exp(-score))
    return (np.round(p, 1) if ties else p), (generator.random(rows) < p).astype(int)


def test_the_grid_is_fixed() -> None:
    assert tuple(round(0.05 * step, 2) for step in range(21)) == GRID


def test_a_staircase_by_hand() -> None:
    """Ascending: 10 negative, 5 positive, 10 negative, 15 positive. 15 of 20 beat all; the rest, half the negatives."""
    y = np.repeat([0, 1, 0, 1], [10, 5, 10, 15])
    curve = roc_curve(np.linspace(0, 1, 40), y)
    assert curve is not None
    assert curve.true_positive_rate == (0.75,) * 10 + (1.0,) * 11


def test_equal_probabilities_are_the_diagonal() -> None:
    curve = roc_curve(np.full(40, 0.4), np.tile([0, 1], 20))
    assert curve is not None
    assert curve.true_positive_rate == GRID == curve.false_positive_rate


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_agrees_between_the_steps(seed: int, ties: bool) -> None:
    from sklearn.metrics import roc_curve as theirs

    p, y = hospital(90, seed, ties)
    false, true, _ = theirs(y, p, drop_intermediate=False)
    curve = roc_curve(p, y)
    assert curve is not None
    on_a_step = np.min(np.abs(np.subtract.outer(GRID, false)), axis=1) < 1e-9
    expected = np.interp(GRID, false, true)
    assert np.allclose(np.array(curve.true_positive_rate)[~on_a_step], expected[~on_a_step], atol=1e-4)
    assert np.all(np.diff(curve.true_positive_rate) >= 0)
    assert curve.true_positive_rate[-1] == 1


@pytest.mark.parametrize("positive", [0, 1, 10, 50, 60])
def test_a_small_class_has_no_curve(positive: int) -> None:
    p, y = np.linspace(0, 1, 60), (np.arange(60) < positive).astype(int)
    assert roc_curve(p, y) is None
    assert calibration_curve(p, y) is None


def test_no_rows_have_no_curve() -> None:
    assert roc_curve([], []) is None
    assert calibration_curve([], []) is None


def test_calibration_bins_by_hand() -> None:
    """Two predictions of 25 rows: of those at .2, 5 are ill; of those at .6, 15."""
    p, y = np.repeat([0.2, 0.6], 25), np.repeat([1, 0, 1, 0], [5, 20, 15, 10])
    bins = calibration_curve(p, y, minimum_cell=5)
    assert bins is not None
    assert [(entry.mean_prediction, entry.observed_share, entry.rows) for entry in bins] == [
        (0.2, 0.2, 25),
        (0.6, 0.6, 25),
    ]


def test_bins_with_a_small_class_are_merged() -> None:
    """Under a minimum of 11, the 5 ill of the lower bin do not stand alone."""
    p, y = np.repeat([0.2, 0.6], 25), np.repeat([1, 0, 1, 0], [5, 20, 15, 10])
    bins = calibration_curve(p, y, minimum_cell=11)
    assert bins is not None
    assert [(entry.mean_prediction, entry.observed_share, entry.rows) for entry in bins] == [(0.4, 0.4, 50)]


def test_a_large_hospital_has_all_ten_bins() -> None:
    bins = calibration_curve(*hospital(5000, 1))
    assert bins is not None
    assert len(bins) == 10
    assert all(abs(entry.mean_prediction - entry.observed_share) < 0.08 for entry in bins)


@given(st.integers(0, 300), st.integers(0, 10**6), st.booleans(), st.integers(5, 20), st.integers(1, 12))
def test_every_bin_holds_enough_of_both_classes(rows: int, seed: int, ties: bool, minimum: int, most: int) -> None:
    p, y = hospital(rows, seed, ties)
    bins = calibration_curve(p, y, minimum_cell=minimum, bins=most)
    if bins is None:
        assert min(y.sum(), rows - y.sum()) < minimum
        return
    assert 1 <= len(bins) <= most
    assert sum(entry.rows for entry in bins) == rows
    for entry in bins:
        positive = round(entry.observed_share * entry.rows)
        assert positive >= minimum
        assert entry.rows - positive >= minimum
    assert sum(round(entry.observed_share * entry.rows) for entry in bins) == y.sum()
    predicted = [entry.mean_prediction for entry in bins]
    assert predicted == sorted(predicted)


@given(st.integers(0, 10**6))
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    p, y = hospital(120, seed, ties=True)
    assert calibration_curve(p, y) == calibration_curve(p[::-1], y[::-1])
    assert roc_curve(p, y) == roc_curve(p[::-1], y[::-1])


@pytest.mark.parametrize("curve", [roc_curve, calibration_curve])
def test_bad_input_is_refused(curve: object) -> None:
    assert callable(curve)
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        curve([np.nan] * 40, [0, 1] * 20)
    with pytest.raises(ValueError, match="at least 5"):
        curve([0.5] * 40, [0, 1] * 20, minimum_cell=4)


def test_no_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        calibration_curve([0.5] * 40, [0, 1] * 20, bins=0)

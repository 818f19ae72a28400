"""Figures over seeds: mean, deviation and Student's interval, by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from fedmed.evaluation.repeats import Repeated, paired, repeated, student_t

FIGURES = some.lists(some.floats(-1e3, 1e3), min_size=2, max_size=12)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 29, 30, 100, 101])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
def test_student_t_is_that_of_the_tables(degrees: int, confidence: float) -> None:
    assert student_t(degrees, confidence) == pytest.approx(stats.t.ppf((1 + confidence) / 2, degrees), rel=1e-9)


@pytest.mark.parametrize(("degrees", "confidence"), [(0, 0.95), (3, 0.0), (3, 1.0)])
def test_student_t_of_nothing_is_refused(degrees: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="expected at least 1 degree of freedom"):
        student_t(degrees, confidence)


def test_three_seeds_by_hand() -> None:
    # 0.7, 0.8, 0.9: mean 0.8, deviation 0.1, half width 4.3027 · 0.1 / √3 = 0.2484.
    found = repeated([0.7, 0.8, 0.9])
    assert found is not None
    assert (found.seeds, round(found.mean, 10), round(found.deviation or 0, 10)) == (3, 0.8, 0.1)
    assert (round(found.low or 0, 4), round(found.high or 0, 4)) == (0.5516, 1.0484)
    assert found.text() == ".800 ± .100"
    assert found.interval_text() == ".552 to 1.048"


def test_one_seed_has_no_deviation_and_none_has_no_mean() -> None:
    assert repeated([0.5]) == Repeated(seeds=1, mean=0.5)
    assert Repeated(seeds=1, mean=0.5).text() == ".500"
    assert Repeated(seeds=1, mean=0.5).interval_text() == "—"
    assert repeated([]) is None


@given(FIGURES)
def test_interval_is_scipys(values: list[float]) -> None:
    found = repeated(values)
    assert found is not None
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    low, high = np.mean(values) + stats.t.ppf([0.025, 0.975], len(values) - 1) * error
    assert found.low == pytest.approx(low, rel=1e-6, abs=1e-6)
    assert found.high == pytest.approx(high, rel=1e-6, abs=1e-6)


def test_difference_is_paired_by_seed() -> None:
    # 0.1 better under either seed, though the seeds are 0.5 apart: the difference has no deviation.
    found = paired({1: 0.3, 2: 0.8, 3: 0.9}, {2: 0.7, 1: 0.2, 4: 0.0})
    assert found is not None
    assert found.seeds == 2
    assert found.mean == pytest.approx(0.1)
    assert found.deviation == pytest.approx(0.0, abs=1e-12)


def test_without_a_common_seed_there_is_no_difference() -> None:
    assert paired({1: 0.3}, {2: 0.3}) is None

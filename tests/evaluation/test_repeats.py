"""Figures over seeds: mean, deviation and Student's interval, by hand, against the printed tables, and against numpy's deviation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from scipy import stats

from fedmed.evaluation.repeats import Repeated, paired, repeated

FIGURES = some.lists(some.floats(-1e3, 1e3), min_size=2, max_size=12)


@pytest.mark.parametrize(("seeds", "of_the_tables"), [(2, 12.706), (3, 4.303), (5, 2.776), (31, 2.042)])
def test_the_interval_is_as_wide_as_the_tables_of_students_t_say(seeds: int, of_the_tables: float) -> None:
    values = [float(place % 2) for place in range(seeds)]
    found = repeated(values)
    assert found is not None
    half = of_the_tables * np.std(values, ddof=1) / math.sqrt(seeds)
    assert (found.high or 0) - found.mean == pytest.approx(half, abs=5e-4)


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

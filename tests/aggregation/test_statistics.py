"""Means and deviations over all hospitals equal those of the rows in one place, and small cells contribute nothing."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmed.aggregation.statistics import GRID, column_sums, pool_statistics
from fedmed.data.cohort import Cohort
from fedmed.errors import RangeExceeded

SMALL = Cohort.model_validate(
    {
        "name": "small",
        "target": {"name": "ill", "column": "outcome", "positive": "> 0"},
        "columns": {
            "age": {"type": "integer", "range": [0, 100]},
            "sex": {"type": "category", "categories": {"0": "f", "1": "m"}},
            "weight": {"type": "number", "range": [-50, 350], "missing": "impute"},
        },
    }
)


def rows(age: list[float], weight: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"age": age, "sex": "0", "weight": weight}).astype({"age": float, "weight": float})


def test_the_sums_of_two_rows_by_hand() -> None:
    # ages 25, 75 → .25, .75; one weight, 150 → .5: counts 2, 1; sums 1, .5; squares .625, .25
    sums = column_sums(rows([25, 75], [150, math.nan]), SMALL, minimum_cell=1)
    assert sums.dtype == torch.int64
    assert (sums.double() / 2.0**GRID.exponent).tolist() == [2.0, 1.0, 1.0, 0.5, 0.625, 0.25]


cells = st.lists(st.tuples(st.integers(0, 100), st.integers(-50, 350) | st.just(math.nan)), max_size=30)


@given(st.lists(cells, min_size=1, max_size=4))
def test_pooled_statistics_equal_those_of_all_rows_together(hospitals: list[list[tuple[float, float]]]) -> None:
    tables = [rows([age for age, _ in each], [weight for _, weight in each]) for each in hospitals]
    pooled = pool_statistics([column_sums(table, SMALL, 1) for table in tables], SMALL)
    together = pd.concat(tables)
    for name, middle in (("age", 50.0), ("weight", 150.0)):
        values = together[name].dropna().to_numpy()
        spread = np.std(values) if len(values) else 0.0
        assert pooled.mean[name] == pytest.approx(np.mean(values) if len(values) else middle, abs=1e-6)
        assert pooled.deviation[name] == pytest.approx(spread if spread > 0 else 1.0, abs=1e-3, rel=1e-6)


def test_the_order_of_hospitals_changes_no_bit() -> None:
    parts = [column_sums(rows([20 + i, 30.5 + i], [0.1 * i, 7.0]), SMALL, 1) for i in range(5)]
    assert pool_statistics(parts, SMALL) == pool_statistics(parts[::-1], SMALL)


@pytest.mark.parametrize(("values", "told"), [(10, 0), (11, 11), (12, 12)])
def test_a_column_with_fewer_values_than_the_minimum_cell_contributes_nothing(values: int, told: int) -> None:
    table = rows([40.0] * 40, [70.0] * values + [math.nan] * (40 - values))
    counts = column_sums(table, SMALL, minimum_cell=11).reshape(3, 2).double() / 2.0**GRID.exponent
    assert counts[0].tolist() == [40.0, float(told)]
    assert (counts[:, 1] == 0).all().item() == (told == 0)


@pytest.mark.parametrize(("missing", "counted"), [(0, 20), (4, 24), (10, 30), (11, 20)])
def test_fewer_missing_values_than_the_minimum_cell_count_as_the_mean(missing: int, counted: int) -> None:
    # ten weights of 60 and ten of 80: mean 70, and a sum of squares about it of 20 · 100, shared by all that count
    table = rows([40.0] * (20 + missing), [60.0, 80.0] * 10 + [math.nan] * missing)
    sums = column_sums(table, SMALL, minimum_cell=11)
    assert sums.reshape(3, 2)[0, 1].item() == counted * 2**GRID.exponent
    pooled = pool_statistics([sums], SMALL)
    assert pooled.mean["weight"] == pytest.approx(70.0, abs=1e-6)
    assert pooled.deviation["weight"] == pytest.approx(math.sqrt(2000 / counted), rel=1e-6)


def test_a_small_hospital_does_not_move_the_others_mean() -> None:
    large = column_sums(rows([40.0, 60.0] * 10, [70.0] * 20), SMALL, 11)
    small = column_sums(rows([99.0] * 10, [300.0] * 10), SMALL, 11)
    assert small.tolist() == [0] * 6
    assert pool_statistics([large, small], SMALL) == pool_statistics([large], SMALL)
    assert pool_statistics([large, small], SMALL).mean["age"] == pytest.approx(50.0)
    assert pool_statistics([large, small], SMALL).deviation["age"] == pytest.approx(10.0)


def test_a_column_without_values_anywhere_gets_the_middle_of_its_range() -> None:
    pooled = pool_statistics([column_sums(rows([40.0] * 3, [math.nan] * 3), SMALL, 1)] * 2, SMALL)
    assert pooled.mean["weight"] == 150.0
    assert pooled.deviation["weight"] == 1.0


@pytest.mark.parametrize("value", [0.0, 33.3, 37.1, 99.9, 100.0])
@pytest.mark.parametrize("count", [1, 7, 1000])
def test_a_column_that_is_the_same_everywhere_is_not_divided_by_what_rounding_left(value: float, count: int) -> None:
    parts = [column_sums(rows([value] * count, [value] * count), SMALL, 1)] * 3
    pooled = pool_statistics(parts, SMALL)
    assert pooled.deviation == {"age": 1.0, "weight": 1.0}
    assert pooled.mean["age"] == pytest.approx(value, abs=1e-6)


def test_a_small_deviation_is_kept() -> None:
    part = column_sums(rows([50.0, 50.0, 50.0, 51.0], [70.0, 70.0, 70.0, 70.1]), SMALL, 1)
    pooled = pool_statistics([part], SMALL)
    assert pooled.deviation["age"] == pytest.approx(math.sqrt(3) / 4, rel=1e-4)
    assert pooled.deviation["weight"] == pytest.approx(0.1 * math.sqrt(3) / 4, rel=1e-2)


def test_a_value_that_no_sum_can_hold_is_refused() -> None:
    with pytest.raises(RangeExceeded):
        column_sums(rows([1e308], [70.0]), SMALL, 1)


def test_a_cohort_of_categories_alone_has_no_sums() -> None:
    raw = SMALL.model_dump()
    raw["columns"] = {"sex": raw["columns"]["sex"]}
    only = Cohort.model_validate(raw)
    sums = column_sums(pd.DataFrame({"sex": ["0"]}), only, 1)
    assert sums.shape == (0,)
    assert pool_statistics([sums], only).mean == {}

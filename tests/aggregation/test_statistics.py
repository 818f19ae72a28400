"""Means and deviations over all hospitals equal those of the rows in one place, and small cells contribute nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmed.aggregation.statistics import GRID, column_sums, plausible, pool_statistics
from fedmed.data.arrays import as_cell
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


XRAY = Cohort.model_validate(
    {**SMALL.model_dump(), "columns": {"image": {"type": "image", "shape": [2, 2]}}},
)
STAY = Cohort.model_validate(
    {
        **SMALL.model_dump(),
        "columns": {
            "stay": {
                "type": "series",
                "steps": 2,
                "step": 60,
                "channels": {"HR": {"range": [0, 200]}, "FiO2": {"range": [0.21, 1], "outside": "drop"}},
            },
            "age": {"type": "integer", "range": [0, 100]},
        },
    }
)


def pictures(images: Sequence[Sequence[int]]) -> pd.DataFrame:
    return pd.DataFrame({"image": pd.Series([bytes(image) for image in images], dtype=object)})


def stays(*grids: object) -> pd.DataFrame:
    cells = [as_cell(np.array(grid), STAY.columns["stay"]) for grid in grids]
    return pd.DataFrame({"stay": pd.Series(cells, dtype=object), "age": [50.0] * len(cells)})


def test_an_image_counts_once_whatever_its_pixels() -> None:
    # means of 0, 0, 1, 1 → .5, of squares .5; and of 0, 0, 0, 1 → .25
    sums = column_sums(pictures([[0, 0, 255, 255], [0, 0, 0, 255]]), XRAY, 1)
    assert (sums.double() / 2.0**GRID.exponent).tolist() == [2.0, 0.75, 0.75]
    assert column_sums(pictures([[0, 0, 255, 255]] * 10), XRAY, 11).tolist() == [0, 0, 0]


@given(st.lists(st.lists(st.lists(st.integers(0, 255), min_size=4, max_size=4), max_size=6), min_size=1, max_size=3))
def test_pooled_statistics_of_images_are_those_of_all_pixels(hospitals: list[list[list[int]]]) -> None:
    parts = [column_sums(pictures(images), XRAY, 1) for images in hospitals]
    assert all(plausible(part) for part in parts)
    pooled = pool_statistics(parts, XRAY)
    pixels = np.array([pixel for images in hospitals for image in images for pixel in image]) / 255
    spread = np.std(pixels) if len(pixels) else 0.0
    assert pooled.mean["image"] == pytest.approx(np.mean(pixels) if len(pixels) else 0.5, abs=1e-8)
    assert pooled.deviation["image"] == pytest.approx(spread if spread > 0 else 1.0, abs=1e-4)


def test_the_sums_of_two_stays_by_hand() -> None:
    # heart rates 50, 100, 150 of 200; FiO2 1 and .21, of which 21 is dropped; two ages of 50
    nan = math.nan
    sums = column_sums(stays([[50, 1.0], [100, nan]], [[150, 21.0], [nan, 0.21]]), STAY, 1)
    counts, totals, squares = (sums.double() / 2.0**GRID.exponent).reshape(3, 3).tolist()
    assert counts == [3.0, 2.0, 2.0]
    assert totals == pytest.approx([1.5, 1.0, 1.0], abs=1e-7)
    assert squares == pytest.approx([0.0625 + 0.25 + 0.5625, 1.0, 0.5], abs=1e-7)
    assert plausible(sums)


def test_a_channel_observed_in_fewer_patients_than_the_minimum_cell_contributes_nothing() -> None:
    # ten patients with twenty steps of FiO2: it is patients that are counted
    seen, unseen = [[80, 0.5], [90, 0.5]], [[80, math.nan], [90, math.nan]]
    counts = column_sums(stays(*[seen] * 10, *[unseen] * 10), STAY, 11).reshape(3, 3)[0] / 2**GRID.exponent
    assert counts.tolist() == [40.0, 0.0, 20.0]
    counts = column_sums(stays(*[seen] * 11, *[unseen] * 10), STAY, 11).reshape(3, 3)[0] / 2**GRID.exponent
    assert counts.tolist() == [42.0, 22.0, 21.0]


def test_pooled_statistics_of_a_channel_equal_those_of_all_observed_steps() -> None:
    chance = np.random.default_rng(0)
    heart = np.where(chance.random((60, 2)) < 0.4, np.nan, chance.normal(90, 15, (60, 2)))
    grids = [np.stack([rates, np.full(2, 0.5)], axis=1) for rates in heart]
    pooled = pool_statistics([column_sums(stays(*grids[start : start + 20]), STAY, 5) for start in (0, 20, 40)], STAY)
    assert list(pooled.mean) == ["stay.HR", "stay.FiO2", "age"]
    assert pooled.mean["stay.HR"] == pytest.approx(np.nanmean(heart), abs=1e-4)
    assert pooled.deviation["stay.HR"] == pytest.approx(np.nanstd(heart), rel=1e-5)
    assert pooled.mean["stay.FiO2"] == pytest.approx(0.5, abs=1e-6)
    assert pooled.deviation["stay.FiO2"] == 1.0

"""A description of all hospitals' rows is that of the rows in one place, or bounds it; small counts follow from nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.aggregation.description import describe_rows, described, description_layout, read_tables
from fedmed.aggregation.statistics import column_sums
from fedmed.aggregation.summaries import CategorySummary, NumberSummary, summarise
from fedmed.data.cohort import Cohort
from fedmed.privacy.tables import FEW, WITHHELD
from fedmed.weights import layout_of

CELL = 5
COHORT = Cohort.model_validate(
    {
        "name": "small",
        "target": {"name": "ill", "column": "outcome", "positive": "> 0"},
        "columns": {
            "age": {"type": "integer", "unit": "years", "range": [0, 63]},
            "sex": {"type": "category", "categories": {"0": "f", "1": "m"}, "missing": "impute"},
            "weight": {"type": "number", "range": [0, 640], "missing": "impute"},
        },
    }
)
BINS = 64
TARGET, AGE, SEX, WEIGHT = slice(0, 2), slice(2, 66), slice(66, 69), slice(69, 134)
Row = tuple[int, int, str | None, float]


def rows(*table: Row) -> pd.DataFrame:
    frame = pd.DataFrame(list(table), columns=["target", "age", "sex", "weight"])
    return frame.astype({"target": "int64", "age": float, "sex": object, "weight": float})


def told(frame: pd.DataFrame, cohort: Cohort = COHORT, cell: int = CELL) -> Any:
    return read_tables(describe_rows(frame, cohort, cell), cohort, len(frame), cell)


def summary(name: str, *frames: pd.DataFrame, cohort: Cohort = COHORT, cell: int = CELL) -> Any:
    (feature,) = [feature for feature in described(cohort) if feature.name == name]
    return summarise(feature, [told(frame, cohort, cell)[name] for frame in frames])


def columns(counts: torch.Tensor, place: slice) -> dict[int, int]:
    """Place → count of a table, but for what is merged."""
    return {place: int(count) for place, count in enumerate(counts[place].tolist()) if count != WITHHELD}


PLAIN = rows(*[(0, 20, "0", 105.0)] * 6, *[(1, 30, "1", 205.0)] * 10, *[(1, 40, "1", math.nan)] * 8)


def test_one_hospitals_tables_by_hand() -> None:
    counts = describe_rows(PLAIN, COHORT, CELL)["counts"]
    assert counts[TARGET].tolist() == [6, 18]
    # bins of one year: those before 20, 30 and 40 are empty and merged; so are those after 40, with 40
    assert columns(counts, AGE) == {20: 6, 30: 10, 63: 8}
    assert counts[SEX].tolist() == [6, 18, FEW]
    # bins of 10: 105 is in the eleventh, 205 in the twenty-first and, with the empty ones after it, in the last
    assert columns(counts, WEIGHT) == {10: 6, 63: 10, 64: 8}


def test_a_summary_by_hand() -> None:
    target, age, weight = (summary(name, PLAIN) for name in ("target", "age", "weight"))
    assert (target.counts["1"].at_least, target.counts["1"].at_most, target.counts["1"].share) == (18, 18, (0.75, 0.75))
    # (6 · 20 + 10 · 30 + 8 · 40) / 24 = 740 / 24; squares (6 · 400 + 10 · 900 + 8 · 1600) / 24 = 24200 / 24
    assert age.mean == pytest.approx(740 / 24, abs=1e-6)
    assert age.variance == pytest.approx(24200 / 24 - (740 / 24) ** 2, abs=1e-4)
    # six at 20, sixteen at most 30: the twelfth of 24 is in [29.5, 30.5], six tenths of its ten rows; 4 may lie before
    assert (age.quantiles["50 %"].at_least, age.quantiles["50 %"].at_most) == (29.5, 30.5)
    assert age.quantiles["50 %"].value == pytest.approx(29.5 + 2 / 6)
    assert (weight.missing.at_least, weight.missing.at_most, weight.missing.share) == (8, 8, (0.3333, 0.3333))
    assert (weight.values, weight.hospitals) == (16, 1)
    assert weight.mean == pytest.approx((6 * 105 + 10 * 205) / 16, abs=1e-6)


def test_a_quantile_is_interpolated_inside_its_bin() -> None:
    frame = rows(*[(0, age, "0", 1.0) for age in range(64) for _ in range(CELL)])
    age = summary("age", frame)
    # 320 rows, five a year: a quarter lies below 16, that is at the edge 15.5
    assert [age.quantiles[share].value for share in ("25 %", "50 %", "75 %")] == [15.5, 31.5, 47.5]
    assert age.quantiles["5 %"].value == pytest.approx(2.7)  # 16 rows: three years and a fifth
    assert (age.quantiles["5 %"].at_least, age.quantiles["5 %"].at_most) == (2.5, 3.5)
    assert age.edges[:2] == (-0.5, 3.5)
    assert age.shares == (0.0625,) * 16


def test_a_wide_range_of_whole_numbers_has_bins_of_several() -> None:
    raw = COHORT.model_dump()
    raw["columns"]["age"]["range"] = (18, 100)
    (age,) = [feature for feature in described(Cohort.model_validate(raw)) if feature.name == "age"]
    assert age.edges[:3] == (17.5, 19.5, 21.5)
    assert (age.edges[-1], len(age.edges) - 1) == (101.5, 42)


def test_the_order_of_hospitals_changes_nothing() -> None:
    frames = [PLAIN, PLAIN.assign(age=31.7, weight=33.3), PLAIN.assign(age=12.1, weight=7.77)]
    for name in ("target", "age", "sex", "weight"):
        assert summary(name, *frames) == summary(name, *frames[::-1])


values = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 63),
        st.sampled_from(["0", "1", None]),
        st.floats(0, 640, width=32) | st.just(math.nan),
    ),
    min_size=2 * CELL,
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(st.lists(values, min_size=1, max_size=4))
def test_what_is_true_of_all_rows_together_lies_within_the_bounds(hospitals: list[list[Row]]) -> None:
    frames = [rows(*hospital) for hospital in hospitals]
    together = pd.concat(frames, ignore_index=True)
    for name, column in (("target", together["target"].astype(str)), ("sex", together["sex"])):
        found = summary(name, *frames)
        for code, count in found.counts.items():
            assert count.at_least <= (column == code).sum() <= count.at_most
        assert found.missing.at_least <= column.isna().sum() <= found.missing.at_most
    for name in ("age", "weight"):
        found = summary(name, *frames)
        assert found.missing.at_least <= together[name].isna().sum() <= found.missing.at_most
        heard = [frame[name].dropna() for frame in frames if frame[name].notna().sum() >= CELL]
        present = pd.concat(heard).to_numpy() if heard else np.array([])
        for share, quantile in found.quantiles.items():
            true = np.quantile(present, float(share[:-2]) / 100, method="inverted_cdf")
            assert quantile.at_least <= true <= quantile.at_most
            assert quantile.value is None or quantile.at_least <= quantile.value <= quantile.at_most


full = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 63), st.sampled_from(["0", "1"]), st.integers(0, 63)),
    min_size=1,
    max_size=20,
)


@settings(deadline=None, max_examples=25)
@given(st.lists(full, min_size=1, max_size=3))
def test_where_nothing_is_small_it_equals_the_description_of_all_rows_together(
    hospitals: list[list[tuple[int, int, str, int]]],
) -> None:
    # Every combination of classes and codes five times more, and every bin five times: nothing is withheld.
    whole = [(place % 2, place, str(place // 2 % 2), float(10 * place + 5)) for place in range(BINS)] * CELL
    refuse = COHORT.model_dump()
    for name in ("sex", "weight"):
        refuse["columns"][name]["missing"] = "refuse"
    cohort = Cohort.model_validate(refuse)
    frames = [rows(*whole, *((t, a, s, 10.0 * w + 5) for t, a, s, w in each)) for each in hospitals]
    together = pd.concat(frames, ignore_index=True)
    for name in ("target", "sex"):
        counts = summary(name, *frames, cohort=cohort).counts
        for code, count in counts.items():
            true = (together[name].astype(str) == code).sum()
            assert (count.at_least, count.at_most) == (true, true)
            assert count.share[0] == round(true / len(together), 4)
    for name, width in (("age", 1.0), ("weight", 10.0)):
        found = summary(name, *frames, cohort=cohort)
        assert found == summary(name, together, cohort=cohort).model_copy(
            update={"hospitals": len(frames), "mean": found.mean, "variance": found.variance}
        )
        assert found.mean == pytest.approx(together[name].mean(), abs=1e-5)
        assert found.variance == pytest.approx(together[name].var(ddof=0), rel=1e-5)
        for share, quantile in found.quantiles.items():
            true = np.quantile(together[name], float(share[:-2]) / 100, method="inverted_cdf")
            assert quantile.at_most - quantile.at_least == width
            assert abs(quantile.value - true) <= width


@given(values)
def test_its_sums_are_those_from_which_inputs_are_scaled(hospital: list[Row]) -> None:
    # A second sum that differed by a small number of values would tell them.
    frame = rows(*hospital)
    assert torch.equal(describe_rows(frame, COHORT, CELL)["sums"], column_sums(frame, COHORT, CELL))


@settings(deadline=None)
@given(values)
def test_few_missing_values_leave_no_trace(hospital: list[Row]) -> None:
    frame = rows(*hospital)
    few = frame["weight"].isna() & (0 < frame["weight"].isna().sum() < CELL <= frame["weight"].notna().sum())
    measured = frame.assign(weight=frame["weight"].where(~few, frame["weight"].mean()))
    if frame["sex"].isna().sum() < CELL:
        measured["sex"] = frame["sex"].fillna("0")
    with_few, without = (describe_rows(table, COHORT, CELL) for table in (frame, measured))
    assert torch.equal(with_few["counts"], without["counts"])
    assert (with_few["sums"] - without["sums"]).abs().max() <= 1 << 12  # a millionth: sums in another order


def test_a_number_with_few_values_tells_nothing() -> None:
    frame = rows(*[(0, 20, "0", 105.0)] * (CELL - 1), *[(1, 30, "1", math.nan)] * 20)
    tables = describe_rows(frame, COHORT, CELL)
    assert columns(tables["counts"], WEIGHT) == {}
    assert tables["sums"].reshape(3, 2)[:, 1].tolist() == [0, 0, 0]
    weight = summary("weight", frame)
    assert (weight.hospitals, weight.values, weight.mean, weight.variance) == (0, 0, None, None)
    assert (weight.quantiles, weight.edges, weight.shares) == ({}, (), ())
    assert (weight.missing.at_least, weight.missing.at_most) == (20, 24)
    assert str(weight.missing) == "20–24"


def test_a_withheld_count_is_never_shown_as_none() -> None:
    frame = rows(*[(0, 20, "0", 105.0)] * 20, *[(1, 20, "1", 105.0)] * 2)
    ill = summary("target", frame).counts["1"]
    assert (ill.at_least, ill.at_most, str(ill)) == (0, 22, "at most 22")
    assert str(summary("sex", PLAIN).missing) == f"at most {CELL - 1}"


def test_bounds_add_up_over_hospitals() -> None:
    small = rows(*[(0, 20, "0", 105.0)] * 20, *[(1, 20, "1", 105.0)] * 2)
    ill = summary("target", PLAIN, small).counts["1"]
    assert (ill.at_least, ill.at_most, ill.share) == (18, 40, (0.3913, 0.8696))


def test_a_quantile_between_far_bounds_gets_no_value() -> None:
    weight = summary("weight", rows(*[(0, 20, "0", 105.0)] * 10, *[(1, 30, "1", 600.0)] * (CELL - 1)))
    last = weight.quantiles["95 %"]
    assert (last.value, last.at_most) == (None, 640.0)


def test_a_column_that_is_the_same_everywhere_has_no_variance() -> None:
    frame = rows(*[(0, 33, "0", 37.1)] * 20)
    weight = summary("weight", frame, frame, frame)
    assert weight.variance == 0.0
    assert weight.mean == pytest.approx(37.1, abs=1e-6)


def test_a_table_that_the_contract_does_not_admit_tells_nothing() -> None:
    frame = PLAIN.assign(age=[math.nan] + [20.0] * 23, sex=["7"] * 24, target=[-1] * 24)
    counts = describe_rows(frame, COHORT, CELL)["counts"]
    assert not [count for place in (TARGET, AGE, SEX) for count in counts[place].tolist() if count != WITHHELD]


def altered(place: int, count: int, rows_told: int = len(PLAIN)) -> dict[str, Any]:
    tables = describe_rows(PLAIN, COHORT, CELL)
    tables["counts"][place] = count
    return {"tables": tables, "rows": rows_told}


HOSTILE = {
    "a count under the minimum": (altered(0, 4), "target"),
    "more rows than there are": (altered(0, 600), "target"),
    "fewer rows than there are": (altered(0, 5), "target"),
    "a single count withheld": (altered(0, WITHHELD), "target"),
    "another mark than the two": (altered(0, -7), "target"),
    "few missing where none may be": (altered(1, FEW), "target"),
    "a histogram of more rows": (altered(2 + 30, 11), "age"),
    "a last bin that is merged with none": (altered(2 + 63, WITHHELD), "age"),
    "missing values beside the rows": (altered(133, 9), "weight"),
    "another number of rows": (altered(0, 6, rows_told=40), "target"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_tables_that_no_hospital_can_have_made_are_refused(fault: str) -> None:
    content, name = HOSTILE[fault]
    with pytest.raises(ValueError, match=f"{name}: expected counts of"):
        read_tables(content["tables"], COHORT, content["rows"], CELL)


def test_sums_that_no_values_have_are_refused() -> None:
    tables = describe_rows(PLAIN, COHORT, CELL)
    with pytest.raises(ValueError, match="the sums are not those"):
        read_tables({**tables, "sums": -tables["sums"]}, COHORT, len(PLAIN), CELL)
    with pytest.raises(ValueError, match="age: expected counts"):
        read_tables({**tables, "sums": tables["sums"] // 2}, COHORT, len(PLAIN), CELL)


def test_the_layout_is_that_of_the_tables() -> None:
    assert layout_of(describe_rows(PLAIN, COHORT, CELL)) == description_layout(COHORT)


# Other kinds of target and column.


def test_classes_and_follow_up_are_described() -> None:
    raw = COHORT.model_dump()
    raw["target"] = {
        "name": "death",
        "kind": "survival",
        "time": "days",
        "event": "died",
        "unit": "days",
        "horizon": 64,
    }
    survival = Cohort.model_validate(raw)
    frame = PLAIN.assign(duration=[10.5] * 12 + [90.0] * 12)
    duration = summary("duration", frame, cohort=survival)
    assert duration.unit == "days"
    assert duration.mean == pytest.approx((10.5 + 64) / 2, abs=1e-6)  # beyond the horizon counts as the horizon
    assert duration.quantiles["25 %"].at_most == 11.0
    assert summary("target", frame, cohort=survival).meanings == {"0": "censored", "1": "death"}
    raw["target"] = {"name": "stage", "kind": "multiclass", "column": "s", "classes": {"I": "a", "II": "b", "III": "c"}}
    stages = Cohort.model_validate(raw)
    found = summary("target", PLAIN.assign(target=[0] * 8 + [1] * 7 + [2] * 9), cohort=stages)
    assert {code: count.at_least for code, count in found.counts.items()} == {"0": 8, "1": 7, "2": 9}
    assert found.meanings == {"0": "a", "1": "b", "2": "c"}


def test_a_channel_of_a_series_is_described_by_each_rows_mean_and_an_image_is_not() -> None:
    raw = COHORT.model_dump()
    raw["columns"] = {"vital": {"type": "series", "steps": 3, "step": 60, "channels": {"HR": {"range": [0, 640]}}}}
    series = Cohort.model_validate(raw)
    seen = np.array([[100], [math.nan], [110]], dtype="<f4").tobytes()
    never = np.full((3, 1), math.nan, dtype="<f4").tobytes()
    frame = pd.DataFrame({"target": [0, 1] * 7, "vital": [seen] * 8 + [never] * 6})
    rate = summary("vital.HR", frame, cohort=series)
    assert (rate.values, rate.missing.at_least, rate.missing.at_most) == (8, 6, 6)
    assert rate.mean == pytest.approx(105.0, abs=1e-6)
    raw["columns"] = {"scan": {"type": "image", "shape": [2, 2]}}
    images = Cohort.model_validate(raw)
    assert [feature.name for feature in described(images)] == ["target"]
    frame = pd.DataFrame({"target": [0, 1] * 7, "scan": [bytes(4)] * 14})
    tables = describe_rows(frame, images, CELL)
    assert (tables["counts"].tolist(), tables["sums"].tolist()) == ([7, 7], [])
    assert isinstance(summary("target", frame, cohort=images), CategorySummary)
    assert isinstance(rate, NumberSummary)

"""What a network sees of a row: scaled numbers, one-hot categories, what was missing, pixels, steps of a series."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedmed.data.arrays import as_cell
from fedmed.data.cohort import Cohort
from fedmed.errors import RecordsError
from fedmed.models.encoding import (
    InputStatistics,
    encode,
    feature_names,
    input_shape,
    labels_of,
    scale_range,
    scaled_inputs,
)
from fedmed.targets.target import Target

RAW = {
    "name": "small",
    "target": {"name": "ill", "column": "outcome", "positive": "> 0"},
    "columns": {
        "age": {"type": "integer", "range": [0, 100]},
        "sex": {"type": "category", "categories": {"0": "female", "1": "male"}},
        "weight": {"type": "number", "range": [0, 300], "missing": "impute"},
        "thal": {"type": "category", "categories": {"3": "normal", "7": "defect"}, "missing": "impute"},
    },
}
SMALL = Cohort.model_validate(RAW)
STATISTICS = InputStatistics(mean={"age": 50.0, "weight": 70.0}, deviation={"age": 10.0, "weight": 4.0})
NAMES = ["age", "sex=female", "sex=male", "weight", "weight missing", "thal=normal", "thal=defect", "thal missing"]


def row(age: float = 60.0, sex: object = "1", weight: float = 72.0, thal: object = "3") -> pd.DataFrame:
    return pd.DataFrame({"age": [age], "sex": [sex], "weight": [weight], "thal": [thal]}).astype(
        {"sex": object, "thal": object}
    )


def encoded(rows: pd.DataFrame, statistics: InputStatistics = STATISTICS) -> list[list[float]]:
    features = encode(rows, SMALL, statistics)
    assert features.dtype == torch.float32
    assert features.shape == (len(rows), *input_shape(SMALL))
    return features.tolist()


def test_features_are_named_in_the_order_of_the_declaration() -> None:
    assert feature_names(SMALL) == NAMES
    assert input_shape(SMALL) == (len(NAMES),)
    assert len(encoded(row())[0]) == len(NAMES)


def test_a_complete_row_by_hand() -> None:
    # (60 - 50) / 10 = 1; male; (72 - 70) / 4 = .5; normal
    assert encoded(row()) == [[1.0, 0.0, 1.0, 0.5, 0.0, 1.0, 0.0, 0.0]]


SITUATIONS = {
    "a number is missing": (row(weight=math.nan), [1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0]),
    "a category is missing": (row(thal=None), [1.0, 0.0, 1.0, 0.5, 0.0, 0.0, 0.0, 1.0]),
    "a category is missing as NaN": (row(thal=math.nan), [1.0, 0.0, 1.0, 0.5, 0.0, 0.0, 0.0, 1.0]),
    "a category is not declared": (row(thal="9"), [1.0, 0.0, 1.0, 0.5, 0.0, 0.0, 0.0, 1.0]),
    "a category is a number": (row(sex=1), [1.0, 0.0, 0.0, 0.5, 0.0, 1.0, 0.0, 0.0]),
    "a missing number has no input of its own": (row(age=math.nan), [0.0, 0.0, 1.0, 0.5, 0.0, 1.0, 0.0, 0.0]),
    "a number is 0": (row(age=0.0, weight=0.0), [-5.0, 0.0, 1.0, -17.5, 0.0, 1.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_row_in_which(situation: str) -> None:
    rows, expected = SITUATIONS[situation]
    assert encoded(rows) == [expected]


def test_the_order_of_a_frames_columns_does_not_matter_and_others_are_ignored() -> None:
    rows = row().assign(target=1, patient="p")
    assert encoded(rows[["patient", "thal", "weight", "target", "sex", "age"]]) == encoded(row())


def test_no_rows_give_no_features() -> None:
    assert encode(row().head(0), SMALL, STATISTICS).shape == (0, len(NAMES))


def test_a_deviation_of_zero_divides_by_one() -> None:
    flat = InputStatistics(mean=STATISTICS.mean, deviation={"age": 0.0, "weight": 4.0})
    assert encoded(row(), flat)[0][0] == 10.0


def test_no_row_touches_another() -> None:
    both = encoded(pd.concat([row(weight=math.nan), row()]))
    assert both == [encoded(row(weight=math.nan))[0], encoded(row())[0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_statistics_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        InputStatistics(mean={"age": bad}, deviation={"age": 1.0})


XRAY = Cohort.model_validate(
    {
        "name": "xray",
        "target": {"name": "pneumonia", "column": "label", "positive": "== 1"},
        "columns": {"image": {"type": "image", "shape": [2, 3]}},
    }
)


def pictures(*images: object) -> pd.DataFrame:
    return pd.DataFrame({"image": [np.array(image, dtype=np.uint8).tobytes() for image in images]})


def test_an_image_by_hand() -> None:
    # 51 / 255 = .2, which is the mean; 255 → (1 - .2) / .4 = 2; 0 → -.5
    pixels = encode(
        pictures([[51, 255, 0], [51, 51, 51]]), XRAY, InputStatistics(mean={"image": 0.2}, deviation={"image": 0.4})
    )
    assert pixels.dtype == torch.float32
    assert pixels.shape == (1, *input_shape(XRAY)) == (1, 1, 2, 3)
    assert pixels[0, 0].tolist() == [[0.0, 2.0, -0.5], pytest.approx([0.0] * 3)]


def test_an_image_in_colour_keeps_its_layers_first() -> None:
    raw = XRAY.model_dump()
    raw["columns"]["image"]["shape"] = (3, 1, 2)
    colour = Cohort.model_validate(raw)
    assert input_shape(colour) == (3, 1, 2)
    assert feature_names(colour) == ["image layer 1", "image layer 2", "image layer 3"]
    pixels = encode(
        pictures([0, 255, 0, 0, 255, 255]), colour, InputStatistics(mean={"image": 0}, deviation={"image": 0})
    )
    assert pixels[0].tolist() == [[[0, 1]], [[0, 0]], [[1, 1]]]


def test_an_image_of_another_size_is_refused_without_a_pixel() -> None:
    flat = InputStatistics(mean={"image": 0.0}, deviation={"image": 1.0})
    with pytest.raises(RecordsError, match=r"column image: expected 6 bytes in every cell; 1 of 2 have not"):
        encode(pictures([[1, 2, 3], [4, 5, 6]], [[1, 2], [3, 4]]), XRAY, flat)


STAY = Cohort.model_validate(
    {
        "name": "stay",
        "target": {"name": "died", "column": "death", "positive": "== 1"},
        "columns": {
            "stay": {
                "type": "series",
                "steps": 4,
                "step": 60,
                "channels": {
                    "HR": {"range": [1, 300]},
                    "FiO2": {"range": [0.21, 1], "outside": "drop"},
                },
            },
            "age": {"type": "integer", "range": [0, 100]},
        },
    }
)
AT_REST = InputStatistics(
    mean={"stay.HR": 80.0, "stay.FiO2": 0.5, "age": 50.0}, deviation={"stay.HR": 10.0, "stay.FiO2": 0.25, "age": 10.0}
)
NAN = math.nan


def stays(*grids: object, age: float = 60.0) -> pd.DataFrame:
    cells = [as_cell(np.array(grid), STAY.columns["stay"]) for grid in grids]
    return pd.DataFrame({"stay": pd.Series(cells, dtype=object), "age": [age] * len(cells)})


def test_a_series_by_hand() -> None:
    grid = [[NAN, 0.5], [90, NAN], [NAN, 0.75], [NAN, NAN]]
    steps = encode(stays(grid), STAY, AT_REST)
    assert steps.shape == (1, *input_shape(STAY)) == (1, 4, 7)
    #   HR, FiO2; observed; since, in quarters of the window; age
    assert steps[0].tolist() == [
        [0, 0, 0, 1, 1, 0, 1],
        [1, 0, 1, 0, 0, 0.25, 1],
        [1, 1, 0, 1, 0.25, 0, 1],
        [1, 1, 0, 0, 0.5, 0.25, 1],
    ]
    assert feature_names(STAY) == [
        *("stay.HR", "stay.FiO2", "stay.HR observed", "stay.FiO2 observed", "stay.HR since", "stay.FiO2 since", "age")
    ]


def test_a_dropped_value_is_as_one_that_was_not_observed() -> None:
    with_it, without = [[80, 0.5], [80, 21.0], [80, 0.2], [80, math.inf]], [[80, 0.5]] + [[80, NAN]] * 3
    assert torch.equal(encode(stays(with_it), STAY, AT_REST), encode(stays(without), STAY, AT_REST))


def test_a_limit_that_float32_rounds_is_inside() -> None:
    assert float(np.float32(0.21)) < 0.21
    assert encode(stays([[80, 0.21]] * 4), STAY, AT_REST)[0, :, 3].tolist() == [1] * 4


def test_a_patient_without_observations_gives_numbers_all_the_same() -> None:
    steps = encode(stays([[NAN, NAN]] * 4), STAY, AT_REST)
    assert steps[0].tolist() == [[0, 0, 0, 0, 1, 1, 1]] * 4


grids = st.lists(
    st.lists(st.tuples(*[st.sampled_from([NAN, 1.0, 80.0, 300.0])] * 2), min_size=4, max_size=4), min_size=1, max_size=5
)


@given(grids)
def test_no_patient_touches_another_and_everything_is_finite(rows: list[list[tuple[float, float]]]) -> None:
    together = encode(stays(*rows), STAY, AT_REST)
    assert bool(torch.isfinite(together).all())
    for place, grid in enumerate(rows):
        assert torch.equal(together[place], encode(stays(grid), STAY, AT_REST)[0])
        assert together[place, :, 4:6].min() >= 0
        assert together[place, :, 4:6].max() <= 1


def test_what_is_scaled_is_named_with_its_range() -> None:
    assert scaled_inputs(SMALL) == ["age", "weight"]
    assert scaled_inputs(STAY) == ["stay.HR", "stay.FiO2", "age"]
    assert [scale_range(STAY, name) for name in scaled_inputs(STAY)] == [(1, 300), (0.21, 1), (0, 100)]
    assert [(name, scale_range(XRAY, name)) for name in scaled_inputs(XRAY)] == [("image", (0, 1))]
    for cohort, name in ((STAY, "stay"), (STAY, "stay.pH"), (SMALL, "sex"), (XRAY, "image.0")):
        with pytest.raises(ValueError, match="no input that is scaled"):
            scale_range(cohort, name)


def test_labels_of_each_kind() -> None:
    binary = Target(name="ill", column="x", positive="> 0")
    three = Target(name="stage", kind="multiclass", column="x", classes={"a": "", "b": "", "c": ""})
    months = Target(name="death", kind="survival", time="t", event="e", unit="months", horizon=60)
    rows = pd.DataFrame({"target": [1, 0], "duration": [2.5, 60.0]})
    for target in (binary, three):
        labels = labels_of(rows, target)
        assert labels.dtype == torch.float32
        assert labels.tolist() == [1.0, 0.0]
    assert labels_of(rows, months).dtype == torch.float32
    assert labels_of(rows, months).tolist() == [[2.5, 1.0], [60.0, 0.0]]
    assert labels_of(rows.head(0), months).shape == (0, 2)

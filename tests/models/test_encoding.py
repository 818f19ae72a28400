"""What a network sees of a row: scaled numbers, one-hot categories, and what was missing."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from fedmed.data.cohort import Cohort
from fedmed.models.encoding import Encoder, InputStatistics, feature_names, raw_matrix

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
    features = Encoder(SMALL, statistics)(raw_matrix(rows, SMALL))
    assert features.dtype == torch.float32
    return features.tolist()


def test_features_are_named_in_the_order_of_the_declaration() -> None:
    assert feature_names(SMALL) == NAMES
    assert Encoder(SMALL, STATISTICS).names == NAMES
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


def test_numbers_stay_as_they_are_and_categories_become_their_place() -> None:
    matrix = raw_matrix(pd.concat([row(), row(age=math.nan, sex="0", thal="7")]), SMALL)
    assert matrix.dtype == torch.float32
    assert matrix[0].tolist() == [60.0, 1.0, 72.0, 0.0]
    assert math.isnan(matrix[1, 0])
    assert matrix[1, 1:].tolist() == [0.0, 72.0, 1.0]


def test_the_order_of_a_frames_columns_does_not_matter_and_others_are_ignored() -> None:
    rows = row().assign(target=1, patient="p")
    assert encoded(rows[["patient", "thal", "weight", "target", "sex", "age"]]) == encoded(row())


def test_no_rows_give_no_features() -> None:
    features = Encoder(SMALL, STATISTICS)(raw_matrix(row().head(0), SMALL))
    assert features.shape == (0, len(NAMES))


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

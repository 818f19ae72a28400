"""Rows that a model is asked about: scored, or reported with the columns that keep them from it."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fedmed.data.arrays import as_cell
from fedmed.data.cohort import Cohort, read_cohort
from fedmed.errors import RecordsError
from fedmed.models.bundle import ModelBundle, ModelDescription
from fedmed.models.encoding import InputStatistics, scale_range, scaled_inputs
from fedmed.models.networks import NetworkOptions, network_for
from fedmed.serving.prediction import as_declared, example, predict
from fedmed.sources.reading import read_rows
from fedmed.weights import sha256, to_bytes

COHORT = read_cohort(Path(__file__).parents[2] / "cohorts" / "heart_disease.yaml")


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    ranges = {name: COHORT.columns[name].range or (0.0, 1.0) for name in COHORT.numbers()}
    statistics = InputStatistics(
        mean={name: (low + high) / 2 for name, (low, high) in ranges.items()},
        deviation={name: (high - low) / 6 for name, (low, high) in ranges.items()},
    )
    generator = torch.Generator().manual_seed(1)
    network = network_for(COHORT, NetworkOptions())
    weights = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in network.named_parameters()}
    description = ModelDescription(
        cohort=COHORT,
        network=NetworkOptions(),
        statistics=statistics,
        run="r",
        round=1,
        weights=sha256(to_bytes(weights)),
    )
    return ModelBundle(description, weights)


def rows(count: int) -> pd.DataFrame:
    return pd.concat([example(COHORT)] * count, ignore_index=True)


def test_rows_inside_get_the_bundles_probability(bundle: ModelBundle) -> None:
    asked = rows(3).assign(age=[30.0, 50.0, 70.0])
    answers = predict(bundle, asked)
    assert list(answers.columns) == ["row", "probability", "predicted", "reason"]
    assert answers["row"].tolist() == [1, 2, 3]
    assert answers["probability"].tolist() == bundle.predictions(asked).tolist()
    assert answers["predicted"].tolist() == [int(p >= 0.5) for p in answers["probability"]]
    assert set(answers["reason"]) == {""}


@pytest.mark.parametrize(
    ("column", "value"), [("age", 7.0), ("age", 50.5), ("age", np.nan), ("sex", None), ("sex", "9"), ("chol", 5.0)]
)
def test_row_outside_is_reported_and_not_scored(bundle: ModelBundle, column: str, value: object) -> None:
    asked = rows(3)
    asked.loc[1, column] = value
    answers = predict(bundle, asked)
    assert answers["probability"].isna().tolist() == [False, True, False]
    assert answers["predicted"].isna().tolist() == [False, True, False]
    assert answers["reason"].tolist() == ["", f"outside the contract: {column}", ""]
    assert answers["probability"][0] == predict(bundle, rows(1))["probability"][0]


def test_all_columns_at_fault_are_named_and_no_value(bundle: ModelBundle) -> None:
    asked = rows(1).assign(age=123456.0, thal="secret")
    [reason] = predict(bundle, asked)["reason"]
    assert reason == "outside the contract: age, thal"


def test_no_row_inside(bundle: ModelBundle) -> None:
    answers = predict(bundle, rows(2).assign(age=7.0))
    assert answers["probability"].isna().all()
    assert len(predict(bundle, rows(2).iloc[:0])) == 0


@pytest.mark.parametrize("missing", [0.0, None, np.nan])
def test_missing_code_is_a_missing_value(bundle: ModelBundle, missing: float | None) -> None:
    expected = bundle.predictions(rows(1).assign(chol=np.nan))
    assert predict(bundle, rows(1).assign(chol=missing))["probability"].tolist() == expected.tolist()


def test_column_that_is_imputed_may_be_left_out_and_others_are_ignored(bundle: ModelBundle) -> None:
    expected = bundle.predictions(rows(1).assign(chol=np.nan, thal=None))
    asked = rows(1).drop(columns=["chol", "thal"]).assign(name="somebody")
    assert predict(bundle, asked)["probability"].tolist() == expected.tolist()


def test_absent_or_doubled_column_is_an_error(bundle: ModelBundle) -> None:
    with pytest.raises(RecordsError, match="absent: age, sex"):
        predict(bundle, rows(1).drop(columns=["age", "sex"]))
    with pytest.raises(RecordsError, match="twice: chol"):
        predict(bundle, pd.concat([rows(1), rows(1)[["chol"]]], axis=1))


def test_index_of_the_rows_does_not_matter(bundle: ModelBundle) -> None:
    asked = rows(2).set_index(pd.Index([7, 7])).astype({"age": "int64"})
    assert predict(bundle, asked)["probability"].notna().all()


def test_file_and_frame_are_answered_alike(bundle: ModelBundle, tmp_path: Path) -> None:
    asked = rows(2).assign(chol=[0.0, 200.0])
    asked.to_csv(tmp_path / "rows.csv", index=False)
    from_file = read_rows(tmp_path / "rows.csv", COHORT)
    assert predict(bundle, from_file).equals(predict(bundle, asked))


def test_example_is_inside_the_contract_for_every_column(bundle: ModelBundle) -> None:
    assert predict(bundle, example(COHORT))["reason"].tolist() == [""]
    assert list(as_declared(example(COHORT), COHORT).columns) == list(COHORT.columns)


ILL = {"name": "ill", "column": "label", "positive": "== 1"}
XRAY = Cohort.model_validate(
    {"name": "xray", "target": ILL, "columns": {"chest": {"type": "image", "shape": [2, 3]}}},
)
STAY = Cohort.model_validate(
    {
        "name": "stay",
        "target": ILL,
        "columns": {
            "stay": {
                "type": "series",
                "steps": 2,
                "step": 60,
                "channels": {"HR": {"range": [1, 300]}, "FiO2": {"range": [0.21, 1], "outside": "drop"}},
            },
            "age": {"type": "integer", "range": [0, 100], "missing": "impute"},
        },
    }
)


def bundle_of(cohort: Cohort) -> ModelBundle:
    names = scaled_inputs(cohort)
    statistics = InputStatistics(
        mean={name: sum(scale_range(cohort, name)) / 2 for name in names}, deviation=dict.fromkeys(names, 1.0)
    )
    generator = torch.Generator().manual_seed(1)
    network = network_for(cohort, NetworkOptions())
    weights = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in network.named_parameters()}
    description = ModelDescription(
        cohort=cohort,
        network=NetworkOptions(),
        statistics=statistics,
        run="r",
        round=1,
        weights=sha256(to_bytes(weights)),
    )
    return ModelBundle(description, weights)


def a_stay(*steps: tuple[float, float]) -> bytes:
    return as_cell(np.array(steps), STAY.columns["stay"])


GOOD = a_stay((80, 0.5), (90, 21))
ARRAYS: dict[str, tuple[Cohort, Any, bool]] = {
    "an image": (XRAY, b"abcdef", True),
    "an image as base64": (XRAY, base64.b64encode(b"abcdef").decode(), True),
    "an image of another size": (XRAY, b"abcde", False),
    "an image as numbers": (XRAY, [1, 2, 3, 4, 5, 6], False),
    "no image": (XRAY, None, False),
    "an image that is not a number": (XRAY, np.nan, False),
    "an empty image": (XRAY, "", False),
    "text": (XRAY, "no image!", False),
    "a stay": (STAY, GOOD, True),
    "a stay as base64 in lines": (STAY, base64.encodebytes(GOOD).decode(), True),
    "a stay without a heartbeat": (STAY, a_stay((0, 0.5), (80, 0.5)), False),
    "half a stay": (STAY, GOOD[:8], False),
}


@pytest.mark.parametrize("situation", ARRAYS)
def test_a_model_of_images_or_series_is_asked_about(situation: str) -> None:
    cohort, given, inside = ARRAYS[situation]
    (column,) = cohort.arrays()
    asked = pd.DataFrame({column: pd.Series([given], dtype=object)})
    answers = predict(bundle_of(cohort), asked)
    assert answers["probability"].notna().tolist() == [inside]
    assert answers["reason"].tolist() == ["" if inside else f"outside the contract: {column}"]


def test_an_answer_is_the_same_in_bytes_and_in_base64() -> None:
    for cohort, cell in ((XRAY, b"abcdef"), (STAY, GOOD)):
        bundle, (column,) = bundle_of(cohort), cohort.arrays()
        plain, coded = (pd.DataFrame({column: [each]}) for each in (cell, base64.b64encode(cell).decode()))
        assert predict(bundle, plain).equals(predict(bundle, coded))


@pytest.mark.parametrize("cohort", [XRAY, STAY], ids=["image", "series"])
def test_the_example_of_images_and_series_is_inside_the_contract(cohort: Cohort) -> None:
    assert predict(bundle_of(cohort), example(cohort))["reason"].tolist() == [""]

"""Each rule of the contract stands once: admission and prediction come to the same verdict of a row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fedmed.data.arrays import as_cell
from fedmed.data.cohort import Cohort, Column, read_cohort
from fedmed.data.contract import examine
from fedmed.data.expectations import expectations
from fedmed.data.rules import MEASURES, PREDICATES, Rule, Total, kept, rows_outside, rules

ROOT = Path(__file__).parents[2]
STAY = Column.model_validate(
    {
        "type": "series",
        "steps": 2,
        "step": 60,
        "channels": {
            "HR": {"range": [1, 300], "missing_at_most": 0.5},
            "FiO2": {"range": [0.21, 1], "outside": "drop", "outside_at_most": 0.25},
        },
    }
)
COHORT = Cohort.model_validate(
    {
        "name": "everything",
        "target": {"name": "ill", "column": "outcome", "positive": "> 0"},
        "minimum": {"rows": 1, "per_class": 0},
        "columns": {
            "age": {"type": "integer", "range": [18, 100]},
            "weight": {"type": "number", "range": [-5, 300.5], "missing": "impute", "missing_at_most": 0.5},
            "sex": {"type": "category", "categories": {"0": "female", "1": "male"}},
            "smoker": {"type": "category", "categories": {"yes": "", "no": ""}, "missing": "impute"},
            "stay": STAY,
        },
    }
)
NAN = float("nan")
NOTHING = st.sampled_from([None, NAN, pd.NA, pd.NaT])
ODD = st.sampled_from(["", "50", b"", [50], ("0",), {}, True, np.True_, 1j, pd.Timestamp("2020-01-01"), 10**400])
NUMBERS = (
    st.integers(-10, 310)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.sampled_from([18, 18.0, 100, 100.5, 300.5, np.float32(50), np.int64(50), np.nextafter(300.5, 301)])
)
CODES = st.sampled_from(["0", "1", "2", "yes", "no", "maybe", 0, 1, 0.0])
STEPS = st.lists(
    st.tuples(st.sampled_from([80.0, 0.0, 300.0, NAN]), st.sampled_from([0.21, 0.5, 21.0, NAN])), min_size=1, max_size=3
)
STAYS = STEPS.map(lambda steps: as_cell(np.array(steps), STAY)) | st.binary(max_size=20)
CELLS = {"age": NUMBERS, "weight": NUMBERS, "sex": CODES, "smoker": CODES, "stay": STAYS}
ROWS = st.lists(
    st.fixed_dictionaries({name: cell | NOTHING | ODD for name, cell in CELLS.items()}), min_size=1, max_size=5
)


def table(rows: list[dict[str, object]]) -> pd.DataFrame:
    columns = {name: pd.Series([row[name] for row in rows], dtype=object) for name in COHORT.columns}
    return pd.DataFrame({"patient": [f"p{i}" for i in range(len(rows))], **columns}).assign(target=1, split="train")


# Great Expectations takes a good part of a second a table: no minutes for shrinking one that fails.
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(ROWS)
def test_great_expectations_and_prediction_count_the_same_rows_against_every_rule(
    rows: list[dict[str, object]],
) -> None:
    asked = table(rows)
    with TemporaryDirectory() as home:
        failed = examine(COHORT, asked, Path(home)).failed
        written = json.loads((Path(home) / "result.json").read_text(encoding="utf-8"))["result"]["results"]
    counted = {each["expectation_config"]["meta"]["name"]: each["result"].get("unexpected_count") for each in written}
    of_one_row = [rule for rule in rules(COHORT) if isinstance(rule, Rule) and rule.of_one_row]
    assert len(of_one_row) == 14
    for rule in of_one_row:
        broken = int((~kept(rule, asked)).sum())
        assert counted[rule.name] == broken, rule.name
        assert (rule.name in failed) == (broken > 0), rule.name
    # and a row is outside exactly where one of them is broken
    blamed = {rule.columns[0] for rule in of_one_row if rule.name in failed}
    assert blamed == {name for names in rows_outside(COHORT, asked).values() for name in names}


def test_the_verdict_of_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    good = {"age": 50, "weight": 70.5, "sex": "0", "smoker": None, "stay": as_cell(np.array([(80, 0.5)] * 2), STAY)}
    rows = table([good, {**good, "age": None}, {**good, "weight": "70.5", "sex": 0}, {**good, "stay": b""}, good])
    expected = {1: ("age",), 2: ("weight", "sex"), 3: ("stay",)}
    assert rows_outside(COHORT, rows) == expected
    for position in range(len(rows)):
        alone = rows_outside(COHORT, rows.iloc[[position]])
        assert alone.get(0, ()) == expected.get(position, ())


@pytest.mark.parametrize("cohort", [COHORT, read_cohort(ROOT / "cohorts" / "heart_disease.yaml")], ids=lambda c: c.name)
def test_every_rule_becomes_one_expectation_that_names_it(cohort: Cohort) -> None:
    made = expectations(cohort)
    assert list(made) == [rule.name for rule in rules(cohort)]
    for rule, each in zip(rules(cohort), made.values(), strict=True):
        assert each.meta == {"name": rule.name}
        asked = each.configuration.kwargs
        assert asked["given"] == dict(rule.given)
        if isinstance(rule, Total):
            assert asked["measure"] == rule.measure in MEASURES
        else:
            assert asked["predicate"] == rule.predicate in PREDICATES


def test_a_share_of_broken_rows_is_declared_and_not_asked_of_one_row() -> None:
    by_name = {rule.name: rule for rule in rules(COHORT) if isinstance(rule, Rule)}
    assert (by_name["weight: missing"].may_break, by_name["weight: missing"].of_one_row) == (0.5, False)
    assert (by_name["stay.HR: missing"].may_break, by_name["stay.HR: missing"].of_one_row) == (0.5, False)
    assert (by_name["age: missing"].may_break, by_name["age: missing"].of_one_row) == (0.0, True)
    assert not by_name["patient: in one split only"].of_one_row


PREDICTED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from fedmed.data.cohort import read_cohort
from fedmed.models.bundle import ModelBundle, ModelDescription
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import NetworkOptions, network_for
from fedmed.serving.prediction import example, predict
from fedmed.weights import sha256, to_bytes
cohort = read_cohort(Path(sys.argv[1]) / "cohorts" / "heart_disease.yaml")
weights = {name: torch.zeros_like(each) for name, each in network_for(cohort, NetworkOptions()).named_parameters()}
names = cohort.numbers()
statistics = InputStatistics(mean=dict.fromkeys(names, 0.0), deviation=dict.fromkeys(names, 1.0))
options = {"cohort": cohort, "network": NetworkOptions(), "statistics": statistics}
bundle = ModelBundle(ModelDescription(**options, run="r", round=1, weights=sha256(to_bytes(weights))), weights)
answers = predict(bundle, example(cohort).assign(age=7.0))
print(answers["reason"][0], predict(bundle, example(cohort))["probability"][0])
print([name for name in sys.modules if name.split(".")[0] == "great_expectations"])
"""


def test_predicting_loads_no_great_expectations() -> None:
    run = [sys.executable, "-c", PREDICTED, str(ROOT)]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["outside the contract: age 0.5", "[]"]

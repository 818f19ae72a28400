"""Which partitions a hospital's contract admits, what it says of the others, and that it says no more than that."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedmed.data.cohort import Cohort, read_cohort
from fedmed.data.contract import _suite, examine, expectations, rows_outside, suite_digest
from fedmed.errors import ContractError, RecordsError

ROOT = Path(__file__).parents[2]
HEART = read_cohort(ROOT / "cohorts" / "heart_disease.yaml")
CANARY = "98765.4321"

SMALL = Cohort.model_validate(
    {
        "name": "small",
        "target": {"name": "ill", "column": "outcome", "positive": "> 0"},
        "minimum": {"rows": 1, "per_class": 0},
        "columns": {
            "age": {"type": "integer", "range": [18, 100]},
            "weight": {"type": "number", "range": [-5, 300.5], "missing": "impute"},
            "sex": {"type": "category", "categories": {"0": "female", "1": "male"}},
            "smoker": {"type": "category", "categories": {"yes": "", "no": "", "1": ""}, "missing": "impute"},
        },
    }
)


def hospital(n: int = 90) -> pd.DataFrame:
    """Rows that meet the contract of the heart disease cohort: a patient a row, classes and splits in turn."""
    rows = pd.DataFrame({"patient": [f"p{i:04d}" for i in range(n)]})
    for name, column in HEART.columns.items():
        if column.range is None:
            codes = list(column.categories or {})
            rows[name] = [codes[i % len(codes)] for i in range(n)]
        else:
            low, high = column.range
            rows[name] = np.floor(np.linspace(max(low, 0), high, n))
    rows["target"] = [i // 3 % 2 for i in range(n)]
    rows["split"] = [("train", "validation", "test")[i % 3] for i in range(n)]
    return rows


def cell(rows: pd.DataFrame, column: str, value: object, *positions: int) -> pd.DataFrame:
    """The rows with `value` at these positions of a column."""
    values = rows[column].astype(object).tolist()
    for position in positions:
        values[position] = value
    return rows.assign(**{column: values})


def failed(rows: pd.DataFrame, home: Path, cohort: Cohort = HEART) -> set[str]:
    verdict = examine(cohort, rows, home)
    assert verdict.admitted == (not verdict.failed)
    return set(verdict.failed)


def test_a_hospital_that_meets_every_expectation_is_admitted(tmp_path: Path) -> None:
    verdict = examine(HEART, hospital(), tmp_path)
    assert verdict.admitted
    assert verdict.failed == ()
    assert verdict.expectations == len(expectations(HEART)) == 56


NO_ROWS = {"table: rows", "table: rows of class 0", "table: rows of class 1", "target: prevalence"}
NO_SPLITS = {"table: rows in train", "table: rows in validation", "table: rows in test"}
SITUATIONS = {
    "ages are in months": (lambda r: r.assign(age=r["age"] * 12), {"age: range"}),
    "cholesterol is in mmol/l": (lambda r: r.assign(chol=r["chol"] / 38.67), {"chol: range"}),
    "an age has a fraction": (lambda r: cell(r, "age", 50.5, 3).astype({"age": float}), {"age: whole numbers"}),
    "one value is 1e308": (lambda r: cell(r, "chol", 1e308, 3), {"chol: range"}),
    "one age is infinite": (lambda r: cell(r, "age", float("inf"), 3), {"age: range", "age: whole numbers"}),
    "a category is unknown": (lambda r: cell(r, "sex", "2", 3), {"sex: categories"}),
    "a refused value is missing": (lambda r: cell(r, "sex", None, 3), {"sex: missing"}),
    "a refused column is all missing": (lambda r: r.assign(age=np.nan), {"age: missing"}),
    "an imputed column is all missing": (lambda r: r.assign(chol=np.nan, thal=None), set()),
    "a column is absent": (
        lambda r: r.drop(columns="chol"),
        {"table: columns", "chol: type", "chol: range", "chol: missing"},
    ),
    "a column is not declared": (lambda r: r.assign(surname="x"), {"table: columns"}),
    "numbers are text": (lambda r: r.assign(ca=r["ca"].astype(str)), {"ca: type", "ca: range"}),
    "categories are numbers": (lambda r: r.assign(sex=r["sex"].astype(float)), {"sex: type", "sex: categories"}),
    "cells are lists": (lambda r: r.assign(sex=[["0"]] * len(r)), {"sex: type", "sex: categories"}),
    "five rows are left": (lambda r: r.head(5), {*NO_ROWS} - {"target: prevalence"}),
    "no row is left": (lambda r: r.head(0), NO_ROWS | NO_SPLITS),
    "everyone is ill": (lambda r: r[r["target"] == 1], {"table: rows", "table: rows of class 0", "target: prevalence"}),
    "a target is neither 0 nor 1": (
        lambda r: r.assign(target=r["target"].where(r.index != 3, 2)),
        {"target: categories"},
    ),
    "the prevalence has drifted": (lambda r: r.assign(target=(r.index < 8).astype(int)), {"target: prevalence"}),
    "a patient is in two splits": (lambda r: cell(r, "patient", "p0000", 1), {"patient: in one split only"}),
    "a patient has two rows in one split": (lambda r: cell(r, "patient", "p0000", 3), set()),
    "nothing is left for the test": (
        lambda r: r.assign(split=r["split"].replace("test", "train")),
        {"table: rows in test"},
    ),
    "a split has another name": (lambda r: cell(r, "split", "tests", 2), {"split: categories"}),
    "text is kept as Python objects": (lambda r: r.astype({"sex": object, "patient": object}), set()),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_hospital_where(situation: str, tmp_path: Path) -> None:
    change, expected = SITUATIONS[situation]
    assert failed(change(hospital()), tmp_path) == expected


@pytest.mark.parametrize("column", ["age", "thal", "patient", "target", "split"])
def test_a_hospital_whose_column_stands_twice_is_quarantined(column: str, tmp_path: Path) -> None:
    rows = hospital().assign(thal=None)
    assert failed(pd.concat([rows, rows[[column]]], axis=1), tmp_path)


def test_a_table_without_header_is_quarantined_and_its_first_row_not_repeated(tmp_path: Path) -> None:
    rows = hospital()
    rows.columns = [CANARY, *map(str, range(1000, 1000 + len(rows.columns) - 1))]
    assert "table: columns" in failed(rows, tmp_path)
    assert_absent(tmp_path)


def test_a_share_of_missing_values_is_admitted_up_to_its_bound(tmp_path: Path) -> None:
    raw = HEART.model_dump(mode="json")
    raw["columns"]["chol"]["missing_at_most"] = 0.7  # 1 - 0.7 is a little over 0.3
    cohort = Cohort.model_validate(raw)
    rows = hospital()
    assert failed(cell(rows, "chol", np.nan, *range(63)), tmp_path, cohort) == set()
    assert failed(cell(rows, "chol", np.nan, *range(64)), tmp_path, cohort) == {"chol: missing"}


def assert_absent(home: Path) -> None:
    files = [file for file in home.rglob("*") if file.is_file()]
    assert {str(file.relative_to(home)) for file in files} == {"result.json", "data_docs/index.html"}
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert CANARY not in text
        assert "98765" not in text


@pytest.mark.parametrize("column", ["chol", "sex", "patient", "target"])
@pytest.mark.parametrize("canary", [CANARY, float(CANARY), [CANARY]], ids=["text", "number", "list"])
def test_a_planted_value_is_in_no_file_no_verdict_and_no_log(
    column: str, canary: object, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    verdict = examine(HEART, cell(hospital(), column, canary, 3), tmp_path)
    assert verdict.admitted == (column == "patient" and isinstance(canary, str))
    assert "98765" not in verdict.model_dump_json() + caplog.text
    assert capfd.readouterr() == ("", "")
    assert_absent(tmp_path)


def test_the_only_patient_of_a_hospital_is_not_shown_as_a_mean(tmp_path: Path) -> None:
    examine(HEART, hospital(1).assign(target=98765.4321), tmp_path)
    assert_absent(tmp_path)


def test_the_full_result_counts_what_the_page_shows_and_needs_no_other_host(tmp_path: Path) -> None:
    verdict = examine(HEART, cell(hospital(), "chol", 9999.5, 3, 4), tmp_path)
    written = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    counts = {each["expectation_config"]["meta"]["name"]: each["result"] for each in written["result"]["results"]}
    assert list(counts) == list(expectations(HEART))
    assert counts["chol: range"]["unexpected_count"] == 2
    assert counts["table: rows of class 1"]["observed_value"] == 45
    assert written["contract"] == suite_digest(HEART)
    assert tuple(written["failed"]) == verdict.failed == ("chol: range",)
    page = (tmp_path / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert "chol: range — from 60 to 700 mg/dl" in page
    assert "2 unexpected values found" in re.sub(r"<[^>]*>|\s+", " ", page).replace("  ", " ")
    assert not re.search(r"(?:src|href)=|https?:|url\(", page)


def test_the_next_examination_overwrites_the_files_of_the_last(tmp_path: Path) -> None:
    examine(HEART, hospital().assign(age=5.0), tmp_path)
    examine(HEART, hospital(), tmp_path)
    first = (tmp_path / "result.json").read_bytes()
    examine(HEART, hospital(), tmp_path)
    assert (tmp_path / "result.json").read_bytes() == first
    assert_absent(tmp_path)


def test_a_unit_with_markup_reaches_the_page_as_text(tmp_path: Path) -> None:
    raw = SMALL.model_dump(mode="json")
    raw["title"], raw["columns"]["weight"]["unit"] = "<b>A & B</b>", "<script>$x</script>"
    examine(Cohort.model_validate(raw), one_row(), tmp_path)
    page = (tmp_path / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;&#36;x" in page
    assert "<script" not in page
    assert "<b>A" not in page


OPENED = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True
written = set()
def watch(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        written.add(os.path.abspath(arguments[0]))
    elif event in ("os.mkdir", "socket.connect", "socket.getaddrinfo"):
        written.add(str(arguments[0]))
import pandas as pd
from fedmed.data.cohort import read_cohort
from fedmed.data.contract import examine
assert "great_expectations" not in sys.modules, "imported before it is needed"
sys.addaudithook(watch)
cohort = read_cohort(Path(sys.argv[1]) / "cohorts" / "heart_disease.yaml")
examine(cohort, pd.DataFrame({"age": [98765.4321]}), Path(sys.argv[2]))
print("\\n".join(sorted(written - {os.devnull})))
"""


def test_a_fresh_process_writes_nothing_outside_its_home_and_asks_no_host(tmp_path: Path) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = [sys.executable, "-c", OPENED, str(ROOT), str(home)]
    done = subprocess.run(run, cwd=elsewhere, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.split()
    assert all(line.startswith(str(home)) for line in done.stdout.split()), done.stdout
    assert list(elsewhere.iterdir()) == []


def test_an_expectation_that_great_expectations_drops_stops_the_examination() -> None:
    named = expectations(SMALL)
    named["age: range"] = {"type": "expect_nothing_of_the_kind", "kwargs": {}}  # type: ignore[assignment]  # the point
    with pytest.raises(ContractError, match=f"kept {len(named) - 1} of {len(named)}"):
        _suite("small", named)


@pytest.mark.parametrize("name", ["split", "patient", "target"])
def test_an_input_with_a_name_of_fedmeds_own_is_refused(name: str) -> None:
    raw = SMALL.model_dump(mode="json")
    raw["columns"][name] = {"type": "number", "range": [0, 1]}
    with pytest.raises(ValueError, match="FedMed's own"):
        Cohort.model_validate(raw)


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(ContractError, match="cannot write under"):
        examine(SMALL, one_row(), tmp_path / "home")


def test_a_contract_is_another_when_its_declaration_is() -> None:
    raw = HEART.model_dump(mode="json")
    raw["columns"]["age"]["range"] = [17, 100]
    assert suite_digest(HEART) != suite_digest(Cohort.model_validate(raw))
    assert suite_digest(HEART) == suite_digest(HEART.model_copy(update={"title": "other words"}))


def one_row(**cells: object) -> pd.DataFrame:
    """A single row of the small cohort that fits, but for the cells that are given."""
    fitting: dict[str, object] = {"age": 50.0, "weight": 70.5, "sex": "0", "smoker": "yes"}
    return pd.DataFrame(
        {"patient": ["p"], **{name: [cells.get(name, value)] for name, value in fitting.items()}}
    ).assign(target=1, split="train")


INFINITE, NAN = float("inf"), float("nan")
NO_NUMBERS = ["", "50", [50], 1j, pd.Timestamp("2020-01-01")]
CELLS: dict[str, list[object]] = {
    "age": [None, NAN, 17, 18, 100, 50.5, 101, 1e308, -INFINITE, 10**400, np.float32(50), np.int64(50), *NO_NUMBERS],
    "weight": [None, NAN, True, -5, -5.1, 300.5, 300.6, INFINITE, *NO_NUMBERS],
    "sex": [None, "", "0", "2", 0, 0.0, False, ["0"]],
    "smoker": [None, NAN, "no", "1", "maybe", 1],
}


@pytest.mark.parametrize(
    ("column", "value"),
    [(column, value) for column in CELLS for value in CELLS[column]],
    ids=lambda value: repr(value)[:20],
)
def test_a_bad_row_fails_the_contract_exactly_when_it_is_outside(column: str, value: object, tmp_path: Path) -> None:
    rows = one_row(**{column: value})
    about = {name.split(":")[0] for name in failed(rows, tmp_path, SMALL)} & set(SMALL.columns)
    assert about == set(rows_outside(SMALL, rows).get(0, ()))


def test_rows_outside_are_named_by_position_and_column() -> None:
    rows = pd.concat([one_row(), one_row(age=17.0, sex="2"), one_row(smoker=None), one_row(sex=None)])
    assert rows_outside(SMALL, rows) == {1: ("age", "sex"), 3: ("sex",)}
    assert rows_outside(SMALL, rows.head(0)) == {}


def test_rows_without_a_declared_column_are_refused_before_they_are_judged() -> None:
    with pytest.raises(RecordsError, match="absent or twice: sex"):
        rows_outside(SMALL, one_row().drop(columns="sex"))

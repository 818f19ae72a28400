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

from fedmed.data.arrays import as_cell
from fedmed.data.cohort import Cohort, read_cohort
from fedmed.data.contract import examine, suite_digest
from fedmed.data.expectations import expectations, suite_of
from fedmed.data.rules import rows_outside
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
        suite_of("small", named)


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


def of_kind(**target: object) -> Cohort:
    raw = SMALL.model_dump()
    return Cohort.model_validate({**raw, "minimum": {"rows": 1, "per_class": 5}, "target": target})


FOLLOW_UP = of_kind(
    name="death", kind="survival", time="t", event="e", unit="days", horizon=365, longest=4000, prevalence=[0.05, 0.9]
)
STAGES = of_kind(name="stage", kind="multiclass", column="s", classes={"I": "early", "II": "", "III": "late"})


def followed(n: int = 30, **columns: object) -> pd.DataFrame:
    rows = pd.concat([one_row()] * n, ignore_index=True)
    splits = [("train", "validation", "test")[i % 3] for i in range(n)]
    return rows.assign(
        patient=[f"p{i}" for i in range(n)],
        split=splits,
        target=[i % 2 for i in range(n)],
        duration=[float(i + 1) for i in range(n)],
    ).assign(**columns)  # type: ignore[arg-type]  # whatever a situation needs


FOLLOW_UPS: dict[str, tuple[pd.DataFrame, set[str]]] = {
    "is as declared": (followed(), set()),
    "has the longest follow-up": (cell(followed(), "duration", 4000.0, 3), set()),
    "has a longer one": (cell(followed(), "duration", 4000.5, 3), {"duration: range"}),
    "has months told as days of 1970": (followed(duration=17e8), {"duration: range"}),
    "has a follow-up of nothing": (cell(followed(), "duration", 0.0, 3), {"duration: range"}),
    "has a negative follow-up": (cell(followed(), "duration", -3.0, 3), {"duration: range"}),
    "has an infinite follow-up": (cell(followed(), "duration", float("inf"), 3), {"duration: range"}),
    "has a missing follow-up": (cell(followed(), "duration", None, 3), {"duration: missing"}),
    "has durations as text": (followed(duration="30"), {"duration: type", "duration: range"}),
    "has no durations": (
        followed().drop(columns="duration"),
        {"table: columns", "duration: type", "duration: range", "duration: missing"},
    ),
    "has an event that is neither": (cell(followed(), "target", -1, 3), {"target: categories"}),
    "has four events": (followed(target=[1] * 4 + [0] * 26), {"table: rows of class 1"}),
    "has events only": (followed(target=1), {"target: prevalence"}),
    "has an event more than is plausible": (followed(target=[1] * 28 + [0] * 2), {"target: prevalence"}),
}


@pytest.mark.parametrize("situation", FOLLOW_UPS)
def test_a_follow_up_that(situation: str, tmp_path: Path) -> None:
    rows, expected = FOLLOW_UPS[situation]
    assert failed(rows, tmp_path, FOLLOW_UP) == expected


def staged(*counts: int) -> pd.DataFrame:
    stages = [number for number, count in enumerate(counts, start=-1) for _ in range(count)]
    return followed(len(stages), target=stages).drop(columns="duration")


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((0, 10, 10, 10), set()),
        ((0, 20, 5, 5), set()),
        ((0, 20, 6, 4), {"table: rows of class 2"}),
        ((0, 30, 0, 0), {"table: rows of class 1", "table: rows of class 2"}),
        ((1, 10, 10, 10), {"target: categories"}),
        ((0, 10, 10, 10, 5), {"target: categories"}),
    ],
)
def test_every_declared_class_has_its_minimum_and_there_is_no_other(
    counts: tuple[int, ...], expected: set[str], tmp_path: Path
) -> None:
    assert failed(staged(*counts), tmp_path, STAGES) == expected


XRAY = Cohort.model_validate({**SMALL.model_dump(), "columns": {"chest": {"type": "image", "shape": [2, 3]}}})
STAY = Cohort.model_validate(
    {
        **SMALL.model_dump(),
        "columns": {
            "stay": {
                "type": "series",
                "steps": 2,
                "step": 60,
                "channels": {
                    "HR": {"range": [1, 300], "missing_at_most": 0.5},
                    "FiO2": {"range": [0.21, 1], "outside": "drop", "outside_at_most": 0.25},
                },
            },
            "age": {"type": "integer", "range": [18, 100]},
        },
    }
)
PIXELS = b"\xfe" + CANARY.encode()[:5]


def stay(*steps: tuple[float, float]) -> bytes:
    return as_cell(np.array(steps), STAY.columns["stay"])


def rows_of(column: str, cells: list[object]) -> pd.DataFrame:
    columns = {column: pd.Series(cells, dtype=object), **({"age": 50.0} if column == "stay" else {})}
    patients = [f"p{i}" for i in range(len(cells))]
    splits = [("train", "validation", "test")[i % 3] for i in range(len(cells))]
    return pd.DataFrame({"patient": patients, **columns}).assign(
        target=[i % 2 for i in range(len(cells))], split=splits
    )


STEADY = stay((80, 0.21), (80, 0.5))
IMAGES: dict[str, tuple[object, set[str]]] = {
    "a good one": (PIXELS, set()),
    "one of another size": (PIXELS + b"7", {"chest: type"}),
    "text": (CANARY, {"chest: type"}),
    "a list": ([CANARY], {"chest: type"}),
    "a number": (float(CANARY), {"chest: type"}),
    "none": (None, {"chest: missing"}),
    "a missing number": (NAN, {"chest: missing"}),
}
SERIES: dict[str, tuple[object, set[str]]] = {
    "a good one": (STEADY, set()),
    "one at its limits": (stay((1, 0.21), (300, 1)), set()),
    "one never observed": (stay((NAN, NAN), (NAN, NAN)), set()),
    "one with a heart that stands still": (stay((80, 0.5), (0, NAN)), {"stay.HR: range"}),
    "one with an infinite heart rate": (stay((80, 0.5), (INFINITE, NAN)), {"stay.HR: range"}),
    "one with oxygen in percent": (stay((80, 50.0), (80, 60.0)), set()),
    "one step too many": (STEADY + STEADY[:8], {"stay: type"}),
    "half a number": (STEADY[:-2], {"stay: type"}),
    "no bytes": (b"", {"stay: type"}),
    "text": (CANARY, {"stay: type"}),
    "none": (None, {"stay: missing"}),
}


@pytest.mark.parametrize(
    ("column", "situation"), [*(("chest", name) for name in IMAGES), *(("stay", name) for name in SERIES)]
)
def test_among_good_images_and_series_there_is(column: str, situation: str, tmp_path: Path) -> None:
    given, expected = (IMAGES if column == "chest" else SERIES)[situation]
    cohort, good = (XRAY, PIXELS) if column == "chest" else (STAY, STEADY)
    rows = rows_of(column, [good, good, good, good, given, good])
    assert failed(rows, tmp_path, cohort) == expected
    # The row check at prediction names the same rows; shares over rows are the contract's alone.
    assert rows_outside(cohort, rows) == ({4: (column,)} if expected else {})


def test_a_share_of_steps_outside_is_admitted_up_to_its_bound_and_told_as_a_share(tmp_path: Path) -> None:
    wrong, empty = stay((80, 50.0), (80, 0.5)), stay((80, NAN), (80, NAN))
    # of eight observed steps two, then of six two: a step without observation does not count
    assert failed(rows_of("stay", [wrong, wrong, STEADY, STEADY]), tmp_path, STAY) == set()
    page = (tmp_path / "data_docs" / "index.html").read_text(encoding="utf-8")
    assert "at most 25 % of the observed steps not from 0.21 to 1" in page
    assert "25 % of the observed steps" in page
    assert failed(rows_of("stay", [wrong, wrong, STEADY, empty]), tmp_path, STAY) == {"stay.FiO2: outside"}
    assert failed(rows_of("stay", [empty] * 4), tmp_path, STAY) == set()


def test_a_channel_that_is_never_observed_in_most_rows_is_named(tmp_path: Path) -> None:
    silent = stay((NAN, 0.5), (NAN, 0.5))
    assert failed(rows_of("stay", [silent, silent, STEADY, STEADY]), tmp_path, STAY) == set()
    assert failed(rows_of("stay", [silent, silent, silent, STEADY]), tmp_path, STAY) == {"stay.HR: missing"}


def test_no_pixel_and_no_measurement_is_written_anywhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    telling = stay((98765.4321, 98765.4321), (80, NAN))
    for cohort, column, cells in ((XRAY, "chest", [PIXELS, PIXELS + b"7", [PIXELS]]), (STAY, "stay", [telling] * 3)):
        for rows in (rows_of(column, cells), pd.concat([rows_of(column, cells)] * 2, axis=1)):
            assert failed(rows, tmp_path, cohort)
            assert_absent(tmp_path)
            for file in tmp_path.rglob("*.*"):
                raw = file.read_bytes() if file.is_file() else b""
                assert PIXELS not in raw
                assert telling not in raw
                for trace in ("47c0e6b7", "b7e6c047", "fe393837", r"\xfe", "/jk4"):  # hexadecimal, repr and base64
                    assert trace not in raw.decode().lower()
    assert "98765" not in caplog.text
    assert capfd.readouterr() == ("", "")


@pytest.mark.timeout(120)  # seconds on an idle machine
def test_four_thousand_series_are_examined_whole(tmp_path: Path) -> None:
    raw = STAY.model_dump()
    raw["columns"]["stay"] = {
        "type": "series",
        "steps": 48,
        "step": 60,
        "channels": {f"c{i}": {"range": [0, 1], "outside": "drop"} for i in range(37)},
    }
    cohort = Cohort.model_validate(raw)
    chance = np.random.default_rng(0).random((4000, 48, 37), dtype=np.float32)
    rows = rows_of("stay", [grid.tobytes() for grid in chance])
    assert failed(rows, tmp_path, cohort) == set()

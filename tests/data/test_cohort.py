"""What a declaration may say, how it is refused, and when two declarations are the same."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from fedmed.data.cohort import Cohort, read_cohort
from fedmed.errors import DeclarationError
from fedmed.targets.target import Target

HEART = Path(__file__).parents[2] / "cohorts" / "heart_disease.yaml"
GOOD = """\
name: small
patient_id: person
target: {name: ill, column: outcome, positive: "> 0"}
columns:
  age: {type: integer, unit: years, range: [18, 100]}
  sex: {type: category, categories: {"0": female, "1": male}}
"""


def declared(tmp_path: Path, text: str) -> Cohort:
    path = tmp_path / "cohort.yaml"
    path.write_text(text, encoding="utf-8")
    return read_cohort(path)


def test_a_declaration_is_read_with_its_columns_in_order(tmp_path: Path) -> None:
    cohort = declared(tmp_path, GOOD)
    assert list(cohort.columns) == ["age", "sex"]
    assert cohort.table_columns == ["person", "age", "sex", "outcome"]
    assert cohort.numbers() == ["age"]
    assert cohort.columns["age"].largest_missing_share == 0.0


FAULTS = {
    "an unknown key": ("unit: years", "units: years", r"columns\.age\.units: unknown key"),
    "an unknown key at the top": ("name: small", "name: small\nsite: x", r"site: unknown key"),
    "a range upside down": ("[18, 100]", "[100, 18]", r"columns\.age.*low < high"),
    "a range of nothing": ("[18, 100]", "[18, 18]", r"columns\.age.*low < high"),
    "a range of one number": ("[18, 100]", "[18]", r"columns\.age\.range"),
    "an infinite range": ("[18, 100]", "[18, .inf]", r"columns\.age\.range"),
    "a range that is no number": ("[18, 100]", "[18, .nan]", r"columns\.age\.range"),
    "a number without a range": (", range: [18, 100]", "", r"columns\.age.*needs `range"),
    "a category with a range": ("{type: category,", "{type: category, range: [0, 1],", r"columns\.sex.*no `range`"),
    "a category without categories": (', categories: {"0": female, "1": male}', "", r"columns\.sex"),
    "a type that is none": ("type: integer", "type: float", r"columns\.age\.type"),
    "a rule that is none": ('"> 0"', '"more than 0"', r"target.*must read like"),
    "a rule with code in it": ('"> 0"', '"> __import__(1)"', r"target.*must read like"),
    "a name with a path": ("  age:", "  ../age:", r"columns\.\.\./age"),
    "a name that is too long": ("  age:", f"  {'a' * 64}:", r"columns"),
    "a YAML key that stands twice": ("  sex:", "  age: {type: integer, range: [0, 1]}\n  sex:", r"'age' stands twice"),
    "a category that stands twice": ('"1": male', '"0": male', r"'0' stands twice"),
    "a column that is the target, too": ("column: outcome", "column: age", r"age: a name may serve once"),
    "a column that is the patient, too": ("patient_id: person", "patient_id: sex", r"sex: a name may serve once"),
    "a column called split": ("  age:", "  split:", r"FedMed's own"),
    "no columns": (GOOD[GOOD.index("columns:") :], "columns: {}\n", r"columns"),
    "a missing share over one": ("unit: years", "missing_at_most: 1.5", r"columns\.age\.missing_at_most"),
    "a prevalence upside down": ('"> 0"', '"> 0", prevalence: [0.9, 0.1]', r"low < high"),
    "no YAML": ("name: small", "name: [small", r"not valid YAML"),
    "a Python object": ("name: small", "name: !!python/object/apply:os.getcwd []", r"not valid YAML"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_declaration_is_refused_that_has(fault: str, tmp_path: Path) -> None:
    old, new, message = FAULTS[fault]
    assert GOOD.count(old) == 1
    with pytest.raises(DeclarationError, match=message):
        declared(tmp_path, GOOD.replace(old, new))


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n"])
def test_a_file_that_is_no_mapping_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="expected a mapping"):
        declared(tmp_path, text)


def test_a_missing_file_and_one_that_is_not_utf_8_are_named(tmp_path: Path) -> None:
    with pytest.raises(DeclarationError, match="there is no file"):
        read_cohort(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("title: Zürich".encode("latin-1"))
    with pytest.raises(DeclarationError, match="UTF-8"):
        read_cohort(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: small", "name: small\ntitle: A small cohort"),
        ("name: small", "name: small\nsource: {citation: us, licence: CC0}"),
        ("unit: years", "title: age at admission, unit: years"),
        ("name: small", "# a remark\nname: small"),
        ("[18, 100]", "[18.0, 1.0e+2]"),
    ],
    ids=["title", "source", "column title", "remark", "other notation"],
)
def test_a_cosmetic_change_keeps_the_digest(old: str, new: str, tmp_path: Path) -> None:
    assert declared(tmp_path, GOOD.replace(old, new)).digest == declared(tmp_path, GOOD).digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[18, 100]", "[17, 100]"),
        ("unit: years", "unit: months"),
        ('"1": male', '"2": male'),
        ('"> 0"', '">= 0"'),
        ("patient_id: person", "patient_id: null"),
        ("unit: years", "unit: years, missing: impute"),
        ("unit: years", "unit: years, missing_codes: [99]"),
        ("name: small", "name: small\nminimum: {rows: 51}"),
    ],
)
def test_a_change_that_bears_on_the_data_changes_the_digest(old: str, new: str, tmp_path: Path) -> None:
    assert declared(tmp_path, GOOD.replace(old, new)).digest != declared(tmp_path, GOOD).digest


def test_the_order_of_columns_is_part_of_the_digest(tmp_path: Path) -> None:
    *head, age, sex = GOOD.splitlines(keepends=True)
    assert declared(tmp_path, "".join([*head, sex, age])).digest != declared(tmp_path, GOOD).digest


@pytest.mark.parametrize(
    ("rule", "labels"),
    [
        ("> 0", [0, 0, 1, 1]),
        (">= 0", [0, 1, 1, 1]),
        ("<0", [1, 0, 0, 0]),
        ("<= -1", [1, 0, 0, 0]),
        ("== 1", [0, 0, 1, 0]),
        ("!= 1.0", [1, 1, 0, 1]),
        (" > 1.5 ", [0, 0, 0, 1]),
    ],
)
def test_a_target_rule_labels_its_column(rule: str, labels: list[int]) -> None:
    target = Target.model_validate({"name": "ill", "column": "x", "positive": rule})
    assert target.label(pd.DataFrame({"x": [-1.0, 0.0, 1.0, 2.0]}))["target"].tolist() == labels


def test_the_cohort_that_ships_declares_thirteen_inputs() -> None:
    cohort = read_cohort(HEART)
    assert len(cohort.columns) == 13
    assert cohort.columns["chol"].missing_codes == (0,)


SURVIVAL = "target: {name: ill, kind: survival, time: days, event: dead, unit: days, horizon: 1825}"
BINARY = 'target: {name: ill, column: outcome, positive: "> 0"}'
STAGES = 'target: {name: ill, kind: multiclass, column: stage, classes: {"I": early, "II": "", "III": late}}'
XRAY = "columns:\n  xray: {type: image, shape: [28, 28]}\n"
STAY = """\
columns:
  stay:
    type: series
    steps: 48
    step: 60
    channels: {HR: {unit: bpm, range: [1, 300]}, FiO2: {range: [0.21, 1], outside: drop, outside_at_most: 0.1}}
    long: {time: minute, parameter: parameter, value: value}
  age: {type: integer, range: [18, 100]}
"""


def of(target: str = BINARY, columns: str = "") -> str:
    assert GOOD.count(BINARY) == 1
    text = GOOD.replace(BINARY, target)
    return text[: text.index("columns:")] + columns if columns else text


def test_each_kind_of_target_names_its_columns_classes_and_labels(tmp_path: Path) -> None:
    binary = declared(tmp_path, of()).target
    stages = declared(tmp_path, of(STAGES)).target
    survival = declared(tmp_path, of(SURVIVAL)).target
    assert [target.kind for target in (binary, stages, survival)] == ["binary", "multiclass", "survival"]
    assert [target.columns for target in (binary, stages, survival)] == [["outcome"], ["stage"], ["days", "dead"]]
    assert [target.classes_count for target in (binary, stages, survival)] == [2, 3, 2]
    assert stages.meanings == {0: "early", 1: "", 2: "late"}
    assert survival.meanings == {0: "censored", 1: "ill"}
    assert [target.label_columns for target in (stages, survival)] == [["target"], ["target", "duration"]]
    assert declared(tmp_path, of(SURVIVAL)).table_columns == ["person", "age", "sex", "days", "dead"]


def test_a_class_is_numbered_in_declared_order_and_an_undeclared_one_is_none(tmp_path: Path) -> None:
    labels = declared(tmp_path, of(STAGES)).target.label(pd.DataFrame({"stage": ["III", "I", "IV"]}, index=[5, 3, 9]))
    assert labels["target"].tolist() == [2, 0, -1]
    assert labels["target"].dtype == "int64"
    assert labels.index.tolist() == [5, 3, 9]


def test_a_follow_up_is_labelled_with_its_duration_and_event(tmp_path: Path) -> None:
    raw = pd.DataFrame({"days": [10.0, 2.5, 0.0, 7.0], "dead": [1.0, 0.0, 2.0, 0.5]})
    labels = declared(tmp_path, of(SURVIVAL)).target.label(raw)
    assert list(labels) == ["target", "duration"]
    assert labels["target"].tolist() == [1, 0, -1, -1]
    assert labels["duration"].tolist() == [10.0, 2.5, 0.0, 7.0]
    assert [labels[name].dtype for name in labels] == ["int64", "float64"]


@pytest.mark.parametrize(("told", "longest"), [("", 36500.0), (", longest: 9000", 9000.0)])
def test_the_longest_follow_up_is_declared_or_twenty_horizons(told: str, longest: float, tmp_path: Path) -> None:
    target = declared(tmp_path, of(SURVIVAL.replace(": 1825", f": 1825{told}"))).target
    assert [number.longest for number in target.numbers] == [longest]


def test_what_a_row_is_follows_from_the_columns(tmp_path: Path) -> None:
    table, picture, stay = (declared(tmp_path, of(columns=columns)) for columns in ("", XRAY, STAY))
    assert [cohort.modality for cohort in (table, picture, stay)] == ["tabular", "image", "series"]
    assert [cohort.arrays() for cohort in (table, picture, stay)] == [[], ["xray"], ["stay"]]
    assert stay.tabular() == stay.numbers() == ["age"]
    assert picture.columns["xray"].array_shape == (1, 28, 28)
    assert stay.columns["stay"].array_shape == (48, 2)
    assert [c.cell_size for c in (*picture.columns.values(), *stay.columns.values())] == [784, 384, 0]


@pytest.mark.parametrize("text", [of(), of(STAGES), of(SURVIVAL), of(columns=XRAY), of(SURVIVAL, STAY)])
def test_a_declaration_that_was_written_as_json_is_the_same_when_read_again(text: str, tmp_path: Path) -> None:
    cohort = declared(tmp_path, text)
    again = Cohort.model_validate_json(cohort.model_dump_json())
    assert again == cohort
    assert again.digest == cohort.digest


KINDS = {
    "a survival target without horizon": (of(SURVIVAL), ", horizon: 1825", "", r"kind survival needs `horizon`"),
    "a survival target without time and unit": (of(SURVIVAL), "time: days, ", "", r"survival needs `time`"),
    "a horizon of nothing": (of(SURVIVAL), ": 1825", ": 0", r"horizon"),
    "a longest follow-up before the horizon": (of(SURVIVAL), ": 1825", ": 1825, longest: 9", r"at least the `horizon`"),
    "a survival target with a rule": (
        of(SURVIVAL),
        "unit: days",
        'positive: "> 0", unit: days',
        r"survival has no `positive`",
    ),
    "a time that is the event": (of(SURVIVAL), "event: dead", "event: days", r"days: a name may serve once"),
    "a time that is an input": (of(SURVIVAL), "time: days", "time: age", r"age: a name may serve once"),
    "a target that is the patient of FedMed": (of(), "outcome", "patient", r"patient: a name may serve once"),
    "a binary target without a rule": (of(), ', positive: "> 0"', "", r"binary needs `positive`"),
    "a binary target with classes": (of(), '"> 0"', '"> 0", classes: {a: "", b: ""}', r"binary has no `classes`"),
    "a multiclass target of one class": (of(STAGES), '"II": "", "III": late', "", r"target\.classes"),
    "a multiclass target with a prevalence": (
        of(STAGES),
        "column: stage",
        "prevalence: [0, .5], column: stage",
        r"no `prevalence`",
    ),
    "a kind that is none": (of(SURVIVAL), "kind: survival", "kind: regression", r"target\.kind"),
    "an image without a shape": (of(columns=XRAY), ", shape: [28, 28]", "", r"type image needs `shape`"),
    "an image of one dimension": (of(columns=XRAY), "[28, 28]", "[784]", r"xray\.shape"),
    "an image of no pixel": (of(columns=XRAY), "[28, 28]", "[28, 0]", r"xray\.shape"),
    "an image too large for a cell": (of(columns=XRAY), "[28, 28]", "[9999, 9999]", r"99980001 bytes"),
    "an image with a range": (of(columns=XRAY), "[28, 28]", "[28, 28], range: [0, 1]", r"type image has no `range`"),
    "an image that may be missing": (
        of(columns=XRAY),
        "[28, 28]",
        "[2, 2], missing: impute",
        r"image has no `missing`",
    ),
    "an image beside a number": (
        of(columns=XRAY),
        "  xray",
        "  age: {type: number, range: [0, 1]}\n  xray",
        r"image alone",
    ),
    "a series without channels": (of(columns=STAY), "    step: 60\n", "", r"type series needs `step`"),
    "a number with steps": (of(), "unit: years", "unit: years, steps: 3", r"type integer has no `steps`"),
    "a channel upside down": (of(columns=STAY), "[1, 300]", "[300, 1]", r"channels\.HR.*low < high"),
    "a share of what is refused": (
        of(columns=STAY),
        "[1, 300]",
        "[1, 300], outside_at_most: 0.2",
        r"goes with `outside: drop`",
    ),
    "a long form without patients": (
        of(columns=STAY),
        "patient_id: person\n",
        "",
        r"stay: a series in long form needs",
    ),
}


@pytest.mark.parametrize("fault", KINDS)
def test_a_target_an_image_or_a_series_is_refused_that_is(fault: str, tmp_path: Path) -> None:
    text, old, new, message = KINDS[fault]
    assert text.count(old) == 1
    with pytest.raises(DeclarationError, match=message):
        declared(tmp_path, text.replace(old, new))


def test_two_series_in_a_cohort_are_refused(tmp_path: Path) -> None:
    second = STAY.removeprefix("columns:\n").replace("stay", "more").replace("age", "years")
    with pytest.raises(DeclarationError, match=r"stay, more: a cohort has .* one series"):
        declared(tmp_path, of(columns=STAY + second))


def test_the_title_of_a_channel_keeps_the_digest_and_its_range_changes_it(tmp_path: Path) -> None:
    first = declared(tmp_path, of(columns=STAY)).digest
    titled = STAY.replace("unit: bpm", "unit: bpm, title: heart rate")
    assert declared(tmp_path, of(columns=titled)).digest == first
    assert declared(tmp_path, of(columns=STAY.replace("300", "301"))).digest != first

"""What a declaration may say, how it is refused, and when two declarations are the same."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from fedmed.data.cohort import Cohort, Target, read_cohort
from fedmed.errors import DeclarationError

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

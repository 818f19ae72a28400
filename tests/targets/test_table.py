"""The table of kinds: what it refuses when it is imported, and that reading a declaration stays light."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmed.targets.kind import Form
from fedmed.targets.table import KINDS, check
from fedmed.targets.target import Target
from fedmed.training.losses import LOSSES

ROOT = Path(__file__).parents[2]
TARGETS = {
    "binary": Target(name="ill", column="outcome", positive="> 0"),
    "multiclass": Target(name="stage", kind="multiclass", column="s", classes={"I": "early", "II": "", "III": "late"}),
    "survival": Target(name="death", kind="survival", time="t", event="e", unit="days", horizon=10),
}
NAMES = KINDS["binary"].names(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": lambda classes: (*NAMES, "luck")}, "metric luck: expected one of METRICS"),
        ({"validated": ("luck",)}, "metric luck: expected one of METRICS"),
        ({"validated": ("c_index",)}, "kind binary: expected metrics that it measures, got c_index"),
        ({"headline": ("auroc", "macro_auroc")}, "kind binary: expected metrics that it measures, got macro_auroc"),
        ({"drawn": ("luck",)}, "kind binary: expected metrics that it measures, got luck"),
        ({"told_curves": ("roc", "luck")}, "kind binary: expected curves of Curves, got luck"),
    ],
)
def test_a_kind_that_names_what_nobody_knows_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check({**KINDS, "binary": replace(KINDS["binary"], **change)})


def test_the_kinds_are_those_that_a_declaration_may_name() -> None:
    check(KINDS)
    with pytest.raises(ValueError, match="kinds of target: expected binary, multiclass, survival, got binary"):
        check({"binary": KINDS["binary"]})


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_what_its_label_and_its_network_need(kind: str) -> None:
    this, target = KINDS[kind], TARGETS[kind]
    assert {*this.needs, *this.may} <= set(Target.model_fields)
    assert this.columns[0] == "target"
    assert [number.name for number in this.numbers(target)] == list(this.columns[1:])
    assert {*this.required(target)} <= {*this.meanings(target)}
    for form in (Form(name) for name in this.forms or ("cox",)):
        assert this.outputs(target, form) >= 1
        assert this.losses(form)
        assert {*this.losses(form)} <= {*LOSSES}
        assert this.answers(target, form)


def test_reading_a_declaration_loads_neither_torch_nor_pandas() -> None:
    code = "import sys, fedmed.targets.target; print({'torch', 'pandas', 'mlflow'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "set()\n"

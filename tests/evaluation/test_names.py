"""The table of metrics: nothing stands in it without saying what it tells of small classes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedmed.evaluation.names import METRICS, RULES, Metric, Small, figures_of, metric_named, telling

ROOT = Path(__file__).parents[2]


def test_a_metric_without_a_disclosure_rule_is_none() -> None:
    make: Any = Metric
    with pytest.raises(TypeError, match="disclosure"):
        make("luck")


def test_a_metric_under_a_rule_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ValueError, match="metric luck: expected a disclosure rule"):
        Metric("luck", "maybe")  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize("name", ["luck", "recall", "recall_", "recall_x", "auroc_1", ""])
def test_of_a_name_that_is_not_in_the_table_nothing_is_known(name: str) -> None:
    with pytest.raises(ValueError, match="expected one of METRICS"):
        telling(["rows", name], Small(classes=False))


def imported(folder: Path, old: str, new: str, module: str) -> subprocess.CompletedProcess[str]:
    """What happens to whoever imports a copy of FedMed in which one line of the table was forgotten."""
    shutil.copytree(ROOT / "fedmed", folder / "fedmed", ignore=shutil.ignore_patterns("__pycache__"))
    table = folder / "fedmed/evaluation/names.py"
    text = table.read_text(encoding="utf-8")
    assert text.count(old) == 1
    table.write_text(text.replace(old, new), encoding="utf-8")
    command = [sys.executable, "-c", f"import {module}"]
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)


RULE = 'Metric("auroc", "per class", {'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (RULE, 'Metric("auroc", over={', "missing 1 required positional argument: 'disclosure'"),
        (RULE, 'Metric("auroc", "per clas", {', "metric auroc: expected a disclosure rule"),
        (
            '        Metric("recall", "per class", of_each_class=True),\n',
            "",
            "metric recall_0: expected one of METRICS",
        ),
        ('        Metric("events", "counts a class", lies="count"),\n', "", "metric events: expected one of METRICS"),
        ('        Metric("loss", "by', '        Metric("lost", "by', "metric loss: expected one of METRICS"),
    ],
)
def test_whoever_forgets_what_a_metric_tells_cannot_import(old: str, new: str, message: str, tmp_path: Path) -> None:
    found = imported(tmp_path, old, new, "fedmed.targets.table")
    assert found.returncode == 1
    assert message in found.stderr


def test_a_copy_that_forgot_nothing_imports(tmp_path: Path) -> None:
    assert imported(tmp_path, RULE, RULE, "fedmed.targets.table").returncode == 0


def test_what_the_rules_withhold() -> None:
    """No class small: nothing. Else all but the rows and, unless rows are decided alike or few differ, those by rule."""
    every = [name for name in METRICS if not METRICS[name].of_each_class]
    assert telling(every, Small(False)) == frozenset()
    mild = telling(every, Small(True, decided_alike=False, few_predictions=False))
    assert {*every} - mild == {"rows", "accuracy", "brier", "log_loss", "loss"}
    assert telling(every, Small(True, True, False)) - mild == {"accuracy"}
    assert telling(every, Small(True, False, True)) - mild == {"brier", "log_loss", "loss"}
    assert {*every} - telling(every, Small(True)) == {"rows"}  # what was not looked at counts as the worst


def test_every_rule_is_that_of_some_metric() -> None:
    assert {metric.disclosure for metric in METRICS.values()} == set(RULES)


def test_what_is_drawn_from_resamples_stands_in_the_order_of_the_table() -> None:
    assert tuple(figures_of("survival")) == ("c_index", "uno_c_index", "integrated_brier")
    assert metric_named("recall_12") is METRICS["recall"]

"""Reports as the coordinator sees them: an honest one of each kind is taken, and one that no test can give is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fedmed.coordinator.reports import REPORT, Reported, check_report
from fedmed.data.cohort import Cohort
from fedmed.errors import MessageRefused
from fedmed.gates import judge
from fedmed.targets.table import KINDS
from fedmed.wire.messages import SiteEvaluation

MODEL = "a" * 64
TARGETS: dict[str, dict[str, Any]] = {
    "binary": {"name": "ill", "column": "y", "positive": "> 0"},
    "multiclass": {"name": "stage", "kind": "multiclass", "column": "y", "classes": {"a": "", "b": "", "c": ""}},
    "survival": {"name": "death", "kind": "survival", "time": "t", "event": "e", "unit": "days", "horizon": 9.33333},
}


def cohort_of(kind: str) -> Cohort:
    """A cohort with one number and one category, of which subgroups are told."""
    return Cohort.model_validate(
        {
            "name": "small",
            "target": TARGETS[kind],
            "columns": {
                "age": {"type": "integer", "range": [0, 100]},
                "sex": {"type": "category", "categories": {"m": "", "f": ""}},
            },
            "subgroups": ["sex"],
        }
    )


def report_of(kind: str) -> dict[str, Any]:
    """What a hospital with 300 test rows sends, as JSON."""
    draw, rows, horizon = np.random.default_rng(5), 300, TARGETS[kind].get("horizon")
    if kind == "binary":
        labels = draw.integers(0, 2, rows).astype(float)
        said: Any = np.clip(0.3 + 0.4 * labels + draw.normal(0, 0.2, rows), 0.01, 0.99)
    elif kind == "multiclass":
        labels = draw.integers(0, 3, rows).astype(float)
        said = draw.dirichlet([1, 1, 1], rows)
    else:
        labels = np.stack([draw.uniform(0.1, 12, rows), draw.integers(0, 2, rows)], axis=1)
        said = np.sort(draw.uniform(0, 1, (rows, 4)), axis=1)[:, ::-1].copy()
    is_ = KINDS[kind]
    options: dict[str, Any] = {"minimum_cell": 11, "resamples": 100, "horizon": horizon}
    measured = is_.measure(said, labels, **options, generator=np.random.default_rng(1))
    comparison = is_.compare(
        "north",
        labels,
        federated=said,
        own=said[::-1].copy(),
        reference=is_.reference(labels, rows, horizon),
        **options,
        generator=np.random.default_rng(2),
    )
    report = SiteEvaluation(
        run="run-1",
        round=3,
        sender="north",
        purpose="evaluate",
        question="c" * 64,
        models={"federated": MODEL},
        measurements={"federated": measured, "own": measured},
        comparison=comparison,
        curves=is_.curves(said, labels, 11, horizon),
        subgroups={"sex": {"m": measured, "f": measured}},
    )
    return report.model_dump(mode="json")


def check(kind: str, content: dict[str, Any]) -> None:
    """The check, on what comes out of JSON."""
    check_report(SiteEvaluation.model_validate(content), cohort_of(kind), MODEL)


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_honest_hospital_sends_is_taken(kind: str) -> None:
    content = report_of(kind)
    check(kind, content)
    assert kind == "multiclass" or any(content["curves"].values())


def value(number: float) -> dict[str, Any]:
    """A measurement without an interval."""
    return {"value": number}


IMPOSSIBLE: dict[str, tuple[str, str, Callable[[dict[str, Any]], Any]]] = {
    "another model was tested": ("binary", "models", lambda d: d["models"].update(federated="b" * 64)),
    "no model is named": ("binary", "models", lambda d: d.update(models={})),
    "the federated model is missing": ("binary", "measurements", lambda d: d["measurements"].pop("federated")),
    "a model that nobody asked for": ("binary", "measurements", lambda d: d["measurements"].update({"<b>": {}})),
    "a metric of another name": (
        "binary",
        "measurements",
        lambda d: d["measurements"]["own"].update({"../|x": value(0.5)}),
    ),
    "a metric is missing": ("survival", "measurements", lambda d: d["measurements"]["federated"].pop("c_index")),
    "a share of seven": ("survival", "measurements", lambda d: d["measurements"]["own"].update(c_index=value(7))),
    "fewer rows than none": ("binary", "measurements", lambda d: d["measurements"]["own"].update(rows=value(-3))),
    "half an event": ("survival", "measurements", lambda d: d["measurements"]["own"].update(events=value(2.5))),
    "a loss beyond all numbers": (
        "binary",
        "measurements",
        lambda d: d["measurements"]["own"].update(log_loss=value(1e300)),
    ),
    "a column that is not declared": ("binary", "subgroups", lambda d: d["subgroups"].update(race={})),
    "a category that is not declared": (
        "binary",
        "subgroups",
        lambda d: d["subgroups"]["sex"].update(x=d["subgroups"]["sex"]["m"]),
    ),
    "a subgroup without metrics": ("binary", "subgroups", lambda d: d["subgroups"]["sex"].update(m={})),
    "it speaks for another hospital": ("binary", "comparison", lambda d: d["comparison"].update(hospital="south")),
    "a verdict about no metric": ("binary", "comparison", lambda d: d["comparison"].update(metric="luck")),
    "a verdict without figures": ("binary", "comparison", lambda d: d["comparison"].update(figures={})),
    "a verdict without the hospital's own": (
        "binary",
        "comparison",
        lambda d: [of.pop("own") for of in d["comparison"]["figures"].values()],
    ),
    "a difference of nine": (
        "binary",
        "comparison",
        lambda d: d["comparison"]["differences"]["brier"].update(own=value(-9)),
    ),
    "a curve of two points": (
        "binary",
        "curves",
        lambda d: d["curves"].update(roc={"false_positive_rate": [0, 1], "true_positive_rate": [0, 1]}),
    ),
    "a curve with too few rates": ("binary", "curves", lambda d: d["curves"]["roc"]["true_positive_rate"].pop()),
    "a rate above one": ("binary", "curves", lambda d: d["curves"]["roc"]["true_positive_rate"].__setitem__(0, 1.5)),
    "a bin without rows": ("binary", "curves", lambda d: d["curves"]["calibration"][0].update(rows=0)),
    "a thousand bins": (
        "binary",
        "curves",
        lambda d: d["curves"].update(calibration=d["curves"]["calibration"] * 1000),
    ),
    "survival curves of two classes": (
        "binary",
        "curves",
        lambda d: d["curves"].update(risk_groups=[{"rows": 20, "times": [0, 1], "survival": [1, 0.5]}]),
    ),
    "a thousand risk groups": (
        "survival",
        "curves",
        lambda d: d["curves"].update(risk_groups=d["curves"]["risk_groups"] * 1000),
    ),
    "a risk group with too few points": (
        "survival",
        "curves",
        lambda d: d["curves"]["risk_groups"][0]["survival"].pop(),
    ),
    "a risk group without points": (
        "survival",
        "curves",
        lambda d: d["curves"]["risk_groups"][0].update(times=[], survival=[]),
    ),
    "survival beyond the horizon": (
        "survival",
        "curves",
        lambda d: d["curves"]["risk_groups"][0]["times"].__setitem__(-1, 1e300),
    ),
    "curves of two classes for three": (
        "multiclass",
        "curves",
        lambda d: d["curves"].update(calibration=[{"mean_prediction": 0.5, "observed_share": 0.5, "rows": 20}]),
    ),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_what_no_test_can_have_given_is_refused(what: str) -> None:
    kind, part, spoil = IMPOSSIBLE[what]
    content = report_of(kind)
    spoil(content)
    with pytest.raises(MessageRefused) as refused:
        check(kind, content)
    assert str(refused.value) == f"north: the report's {part} cannot be of such an evaluation"
    verdicts = judge(REPORT, Reported(SiteEvaluation.model_validate(content), cohort_of(kind), MODEL))
    assert [name for name, verdict in verdicts.items() if not verdict.passed] == [part]


def test_all_that_cannot_be_is_told_at_once() -> None:
    content = report_of("binary")
    for what in ("no model is named", "a metric of another name", "a column that is not declared"):
        IMPOSSIBLE[what][2](content)
    IMPOSSIBLE["it speaks for another hospital"][2](content)
    IMPOSSIBLE["a rate above one"][2](content)
    with pytest.raises(MessageRefused) as refused:
        check("binary", content)
    parts = [reason.split()[2] for reason in str(refused.value).removeprefix("north: ").split("; ")]
    assert parts == list(REPORT) == ["models", "measurements", "subgroups", "comparison", "curves"]

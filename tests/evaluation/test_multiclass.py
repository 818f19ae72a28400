"""Figures of several classes: by hand, against scikit-learn, and what a small class withholds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmed.evaluation import metrics, multiclass
from fedmed.evaluation.disclosure import names_of_classes as names_of
from fedmed.evaluation.disclosure import withheld_of_classes as withheld
from fedmed.evaluation.measurement import Measurement
from fedmed.evaluation.multiclass import class_counts
from fedmed.evaluation.names import figures_of
from fedmed.targets.multiclass import OVER_CLASSES
from fedmed.targets.table import KINDS

KIND = KINDS["multiclass"]
METRICS = figures_of("multiclass")


def hospital(rows: int, seed: int, classes: int = 3, sharpness: float = 2.0) -> tuple[NDArray[Any], NDArray[Any]]:
    generator = np.random.default_rng(seed)
    score = generator.normal(size=(rows, classes))
    p = np.exp(sharpness * score)
    p /= p.sum(axis=1, keepdims=True)
    return p, np.array([generator.choice(classes, p=row) for row in p])


def value(name: str, p: Any, y: Any) -> float:
    checked = multiclass.checked(p, y)
    return float(METRICS[name](*checked, np.ones((1, len(checked[0]))))[0])


def measured(p: Any, y: Any, **settings: Any) -> dict[str, Measurement]:
    return KIND.measure(p, y, **({"resamples": 200, "generator": np.random.default_rng(0)} | settings))


def test_four_rows_by_hand() -> None:
    """Decided 0, 1, 2, 2 of true 0, 1, 1, 2: recalls 1, 1/2, 1."""
    p = [[0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.0, 0.2, 0.8]]
    y = [0, 1, 1, 2]
    assert value("accuracy", p, y) == 0.75
    assert value("balanced_accuracy", p, y) == pytest.approx((1 + 0.5 + 1) / 3)
    assert value("brier", p, y) == pytest.approx((0.24 + 0.06 + (0.04 + 0.49 + 0.25) + 0.08) / 4)
    assert value("log_loss", p, y) == pytest.approx(-np.log([0.6, 0.8, 0.3, 0.8]).mean())
    # class 0: .6 above all others, 1; class 1: .8 and .3 against .2 and .2, 1; class 2: .8 against .2, .1, .5, 1
    assert value("macro_auroc", p, y) == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_they_are_those_of_sklearn(seed: int) -> None:
    from sklearn import metrics as theirs

    p, y = hospital(120, seed, classes=4)
    own = (y[:, None] == np.arange(4)).astype(int)
    expected = {
        "accuracy": theirs.accuracy_score(y, p.argmax(axis=1)),
        "balanced_accuracy": theirs.balanced_accuracy_score(y, p.argmax(axis=1)),
        "macro_auroc": theirs.roc_auc_score(y, p, multi_class="ovr", average="macro"),
        "macro_auprc": theirs.average_precision_score(own, p, average="macro"),
        "log_loss": theirs.log_loss(y, p),
        "brier": theirs.brier_score_loss(y, p, scale_by_half=False),
    }
    assert {name: value(name, p, y) for name in METRICS} == pytest.approx(expected)


def test_two_classes_give_what_the_binary_metrics_do() -> None:
    p, y = hospital(80, 1, classes=2)
    assert value("macro_auroc", p, y) == pytest.approx(metrics.auroc(p[:, 1], y))
    assert value("brier", p, y) == pytest.approx(2 * metrics.brier(p[:, 1], y))
    assert value("log_loss", p, y) == pytest.approx(metrics.log_loss(p[:, 1], y))


def test_a_resample_is_the_rows_it_holds() -> None:
    p, y = multiclass.checked(*hospital(60, 2))
    held = np.random.default_rng(1).integers(0, 4, size=60)
    again = np.repeat(np.arange(60), held)
    for metric in METRICS.values():
        expected = metric(p[again], y[again], np.ones((1, again.size)))
        assert metric(p, y, held[None, :].astype(float)) == pytest.approx(expected)


def test_a_class_that_is_not_there_leaves_its_averages_undefined() -> None:
    p, y = hospital(40, 3)
    p, y = p[y != 2], y[y != 2]
    assert np.isnan([value(name, p, y) for name in sorted(OVER_CLASSES)]).all()
    assert np.isfinite(value("accuracy", p, y))


def test_a_large_hospital_gets_every_figure_in_order() -> None:
    p, y = hospital(200, 5)
    found = measured(p, y)
    assert tuple(found) == names_of(3) == ("rows", *METRICS, "recall_0", "recall_1", "recall_2")
    assert all(entry.value is not None for entry in found.values())
    assert found["recall_1"].value == pytest.approx((p[y == 1].argmax(axis=1) == 1).mean(), abs=1e-4)


@pytest.mark.parametrize("small", [0, 1, 10])
def test_one_small_class_withholds_what_speaks_of_classes(small: int) -> None:
    p, y = hospital(400, 6)
    kept = np.flatnonzero((y != 2) | (np.cumsum(y == 2) <= small))
    found = measured(p[kept], y[kept], minimum_cell=11)
    hidden = {name for name, entry in found.items() if entry.reason == "suppressed"}
    assert hidden == OVER_CLASSES | {"recall_0", "recall_1", "recall_2"}
    assert set(KIND.validate(p[kept], y[kept], 11)) == {"accuracy", "brier"}


def test_a_model_that_always_says_one_class_does_not_tell_the_share_of_it() -> None:
    y = np.array([0] * 40 + [1] * 20 + [2] * 3)
    p = np.tile([0.6, 0.3, 0.1], (63, 1))
    assert {"accuracy", "brier", "log_loss"} <= withheld(p, y, 11)
    figures = KIND.round_figures(p, y, 0.9, 11)
    assert (figures.rows, figures.loss, figures.metrics) == (63, None, {})


def test_few_rows_of_a_class_are_told_but_not_estimated_over() -> None:
    y = np.array([0] * 40 + [1] * 30 + [2] * 6)
    p = hospital(76, 1)[0]
    found = measured(p, y, minimum_cell=5)
    unknown = {name for name, entry in found.items() if entry.reason == "not estimable"}
    assert unknown == OVER_CLASSES | {"recall_2"}


def test_counts_of_classes_hold_those_that_nobody_is_in() -> None:
    assert class_counts([0, 0, 2], 4) == {"class 0": 2, "class 1": 0, "class 2": 1, "class 3": 0}


@pytest.mark.parametrize(
    ("p", "y"),
    [
        ([[0.5, 0.5]], [2]),
        ([[0.5, 0.4]], [0]),
        ([[1.5, -0.5]], [0]),
        ([[np.nan, 1.0]], [0]),
        ([0.5, 0.5], [0, 1]),
        ([[0.5, 0.5]], [0, 1]),
        ([[0.5, 0.5]], [0.5]),
    ],
)
def test_what_is_no_probability_or_class_is_refused(p: Any, y: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        multiclass.checked(p, y)

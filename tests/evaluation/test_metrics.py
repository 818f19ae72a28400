"""Metrics: numbers worked out by hand, scikit-learn's, and laws that hold for any predictions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fedmed.evaluation import metrics
from fedmed.evaluation.metrics import resample_counts
from fedmed.evaluation.names import figures_of

Rows: TypeAlias = tuple[NDArray[Any], NDArray[Any]]

METRICS = figures_of("binary")
FUNCTIONS: dict[str, Callable[..., float]] = {name: getattr(metrics, name) for name in METRICS}
PROBABILITY = np.array([0.1, 0.3, 0.3, 0.6, 0.8, 0.9])
LABEL = np.array([0, 0, 1, 0, 1, 1])


@st.composite
def predictions(draw: st.DrawFn) -> Rows:
    """Up to 40 rows of both classes, with ties."""
    rows = draw(st.integers(2, 40))
    p = draw(hnp.arrays(np.float64, rows, elements=st.integers(0, 20).map(lambda step: step / 20)))
    y = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, 1)))
    assume(0 < y.sum() < rows)
    return p, y


def simulated(rows: int, seed: int, ties: bool = False) -> Rows:
    generator = np.random.default_rng(seed)
    score = generator.normal(size=rows)
    y = (generator.random(rows) < 1 / (1 + np.exp(-score))).astype(int)
    p = 1 / (1 + np.exp(-1.7 * score - 0.4))
    return (np.round(p, 1) if ties else p), y


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [
        ("prevalence", 3 / 6),
        ("accuracy", 4 / 6),  # .3 of a positive and .6 of a negative are wrong
        ("sensitivity", 2 / 3),
        ("specificity", 2 / 3),
        ("brier", (0.01 + 0.09 + 0.49 + 0.36 + 0.04 + 0.01) / 6),
        ("log_loss", -math.log(0.9 * 0.7 * 0.3 * 0.4 * 0.8 * 0.9) / 6),
        ("auroc", 7.5 / 9),  # .3 beats .1, ties .3, loses to .6: 1.5; .8 and .9 beat all three
        ("auprc", (1 + 1 + 3 / 5) / 3),  # precision at .9, .8 and, with its tie, .3
    ],
)
def test_six_rows_by_hand(name: str, by_hand: float) -> None:
    assert FUNCTIONS[name](PROBABILITY, LABEL) == pytest.approx(by_hand, abs=1e-12)


def test_a_probability_of_one_half_decides_for_positive() -> None:
    assert metrics.accuracy([0.5], [1]) == 1
    assert metrics.accuracy([0.5], [0]) == 0


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_agrees(seed: int, ties: bool) -> None:
    from sklearn import metrics as theirs

    p, y = simulated(80, seed, ties)
    clipped = np.clip(p, metrics.CLIP, 1 - metrics.CLIP)
    for ours, other in {
        "auroc": theirs.roc_auc_score(y, p),
        "auprc": theirs.average_precision_score(y, p),
        "brier": theirs.brier_score_loss(y, p),
        "log_loss": theirs.log_loss(y, clipped),
        "accuracy": theirs.accuracy_score(y, p >= 0.5),
        "sensitivity": theirs.recall_score(y, p >= 0.5),
        "specificity": theirs.recall_score(y, p >= 0.5, pos_label=0),
    }.items():
        assert FUNCTIONS[ours](p, y) == pytest.approx(other, abs=1e-9), ours


@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_slope_is_that_of_an_unpenalised_logistic_regression(seed: int) -> None:
    from sklearn.linear_model import LogisticRegression

    p, y = simulated(80, seed)
    score = np.log(p / (1 - p))[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(score, y)
    assert metrics.calibration_slope(p, y) == pytest.approx(float(fitted.coef_[0, 0]), abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_intercept_makes_the_mean_prediction_right(seed: int) -> None:
    p, y = simulated(80, seed)
    score = np.log(p / (1 - p)) + metrics.calibration_intercept(p, y)
    assert np.mean(1 / (1 + np.exp(-score))) == pytest.approx(y.mean(), abs=1e-9)


def test_calibration_of_well_calibrated_predictions() -> None:
    p, y = np.repeat([0.2, 0.8], 5), np.array([0, 0, 0, 0, 1, 0, 1, 1, 1, 1])
    assert metrics.calibration_slope(p, y) == pytest.approx(1, abs=1e-9)
    assert metrics.calibration_intercept(p, y) == pytest.approx(0, abs=1e-9)


def test_calibration_undoes_a_known_distortion() -> None:
    """Logits multiplied by 3 have a slope of 1/3; logits lowered by .7 have an intercept of .7."""
    p, y = np.repeat([0.2, 0.8], 5), np.array([0, 0, 0, 0, 1, 0, 1, 1, 1, 1])
    score = np.log(p / (1 - p))
    assert metrics.calibration_slope(1 / (1 + np.exp(-3 * score)), y) == pytest.approx(1 / 3, abs=1e-9)
    assert metrics.calibration_intercept(1 / (1 + np.exp(-(score - 0.7))), y) == pytest.approx(0.7, abs=1e-9)


def test_classes_that_barely_overlap_still_have_a_slope() -> None:
    """Newton's method from a flat start may overshoot; the likelihood still has a finite maximum."""
    p = np.concatenate([np.linspace(0.01, 0.49, 49), np.linspace(0.51, 0.99, 49), [0.501, 0.499]])
    y = np.concatenate([np.zeros(49), np.ones(49), [0, 1]])
    slope = metrics.calibration_slope(p, y)
    assert math.isfinite(slope)
    assert slope > 10


def test_an_outlier_does_not_make_the_slope_diverge() -> None:
    """Undamped, Newton's method diverges here. At the maximum, the residuals are orthogonal to the logits."""
    p, y = np.r_[0.0, np.linspace(0.1, 0.9, 20)], np.r_[0, np.ones(19), 0]
    slope = metrics.calibration_slope(p, y)
    clipped = np.clip(p, metrics.CLIP, 1 - metrics.CLIP)
    score = slope * np.log(clipped / (1 - clipped))
    residual = y - 1 / (1 + np.exp(-score - metrics.calibration_intercept(1 / (1 + np.exp(-score)), y)))
    assert slope == pytest.approx(0.2775, abs=1e-4)
    assert residual @ score == pytest.approx(0, abs=1e-6)


def test_every_resample_with_overlapping_classes_converges() -> None:
    generator = np.random.default_rng(3)
    for rows in (12, 30, 100):
        for strength in (0.0, 1.0, 4.0, 12.0):
            score = generator.normal(size=rows)
            y = (generator.random(rows) < 1 / (1 + np.exp(-strength * score))).astype(float)
            p = 1 / (1 + np.exp(-score * generator.choice([0.01, 1.0, 20.0])))
            counts = resample_counts(rows, 300, generator)
            logit = np.log(np.clip(p, 1e-7, 1 - 1e-7)) - np.log1p(-np.clip(p, 1e-7, 1 - 1e-7))
            found = np.isfinite(METRICS["calibration_slope"](p, y, counts))
            for held, estimated in zip(counts > 0, found, strict=True):
                ill, well = logit[held & (y == 1)], logit[held & (y == 0)]
                overlap = bool(ill.size and well.size and ill.min() < well.max() and well.min() < ill.max())
                assert estimated == overlap
            one_class = (counts @ y == 0) | (counts @ y == rows)
            assert np.array_equal(np.isnan(METRICS["calibration_intercept"](p, y, counts)), one_class)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_no_rows_have_no_metric(name: str) -> None:
    assert math.isnan(FUNCTIONS[name]([], []))


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_metric_over_both(name: str, label: int) -> None:
    defined = {"prevalence", "accuracy", "brier", "log_loss", "sensitivity" if label else "specificity"}
    defined |= {"auprc"} if label else set()  # precision is always 1 without negative rows
    assert math.isfinite(FUNCTIONS[name]([0.2, 0.7, 0.9], [label] * 3)) == (name in defined)


def test_equal_probabilities_rank_nobody() -> None:
    p, y = np.full(6, 0.4), LABEL
    assert metrics.auroc(p, y) == 0.5
    assert metrics.auprc(p, y) == 0.5  # the prevalence
    assert math.isnan(metrics.calibration_slope(p, y))
    assert metrics.calibration_intercept(p, y) == pytest.approx(math.log(0.6 / 0.4), abs=1e-9)


def test_probabilities_of_exactly_0_and_1_are_finite() -> None:
    p, y = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 1, 0, 1])
    assert metrics.log_loss(p, y) == pytest.approx(-math.log(metrics.CLIP) / 2, abs=1e-6)
    assert metrics.calibration_slope(p, y) == pytest.approx(0, abs=1e-9)
    assert metrics.calibration_intercept(p, y) == pytest.approx(0, abs=1e-9)
    assert metrics.brier(p, y) == 0.5


@pytest.mark.parametrize(("p", "y"), [([0.2, 0.8], [0, 1]), ([0.8, 0.2], [0, 1]), ([0.2, 0.5, 0.5, 0.8], [0, 0, 1, 1])])
def test_separated_classes_have_no_slope(p: list[float], y: list[int]) -> None:
    assert math.isnan(metrics.calibration_slope(p, y))


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize(
    ("p", "y"),
    [
        ([0.5, math.nan], [0, 1]),
        ([0.5, math.inf], [0, 1]),
        ([0.5, 1.0001], [0, 1]),
        ([0.5, -0.1], [0, 1]),
        ([0.5, 0.5], [0, 2]),
        ([0.5, 0.5], [0, math.nan]),
        ([0.5, 0.5], [0]),
        ([[0.5, 0.5]], [[0, 1]]),
    ],
)
def test_what_is_no_probability_or_label_is_refused(name: str, p: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        FUNCTIONS[name](p, y)
    assert "1.0001" not in str(refused.value)


@given(predictions())
def test_a_rising_transform_changes_no_ranking(data: Rows) -> None:
    p, y = data
    for name in ("auroc", "auprc"):
        assert FUNCTIONS[name](0.1 + 0.3 * p**3, y) == pytest.approx(FUNCTIONS[name](p, y), abs=1e-12)


@given(predictions())
def test_swapping_the_labels_turns_the_auroc_round(data: Rows) -> None:
    p, y = data
    assert metrics.auroc(p, 1 - y) == pytest.approx(1 - metrics.auroc(p, y), abs=1e-12)


@given(predictions())
def test_swapping_labels_and_probabilities_changes_no_error(data: Rows) -> None:
    p, y = data
    assert metrics.brier(1 - p, 1 - y) == pytest.approx(metrics.brier(p, y), abs=1e-12)
    assert metrics.log_loss(1 - p, 1 - y) == pytest.approx(metrics.log_loss(p, y), abs=1e-9)
    assert metrics.calibration_intercept(1 - p, 1 - y) == pytest.approx(-metrics.calibration_intercept(p, y), abs=1e-7)


@given(predictions())
def test_the_order_of_rows_does_not_matter(data: Rows) -> None:
    p, y = data
    for name, metric in FUNCTIONS.items():
        assert metric(p[::-1], y[::-1]) == pytest.approx(metric(p, y), abs=1e-7, nan_ok=True), name


@given(predictions(), st.integers(0, 2**32))
def test_a_resample_is_what_its_rows_are(data: Rows, seed: int) -> None:
    """The contract of a metric: the metric of a resample is that of its rows, written out."""
    p, y = data
    counts = resample_counts(p.size, 3, np.random.default_rng(seed))
    assert np.all(counts.sum(axis=1) == p.size)
    for name, metric in METRICS.items():
        at_once = metric(p, y.astype(float), counts)
        for held, value in zip(counts.astype(int), at_once, strict=True):
            written_out = FUNCTIONS[name](np.repeat(p, held), np.repeat(y, held))
            assert value == pytest.approx(written_out, abs=1e-6, nan_ok=True), name

"""Metrics of a predicted probability against a label of 0 or 1.

Each function takes `probability` and `label`, both of shape `(rows,)`, and returns a float, nan where the metric is
undefined (no rows, no row of a class, separated classes). It raises ValueError for what is no probability or label.
The functions that end in `_over` are the same arithmetic over many resamples at once, which is what a bootstrap needs:
arrays `(rows,)`, `(rows,)` and `(resamples, rows)`, how often each resample holds each row, give one `(resamples,)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]
Over: TypeAlias = Callable[[Array, Array, Array], Array]

THRESHOLD = 0.5
CLIP = 1e-7  # a float32 probability cannot lie closer to 1 than 6e-8
_STEPS = 60
_TOLERANCE = 1e-9


def checked(probability: ArrayLike, label: ArrayLike) -> tuple[Array, Array]:
    """Both as float64 arrays of shape `(rows,)`.

    Raises:
        ValueError: if the shapes differ, a probability is not in [0, 1] (nan included) or a label is not 0 or 1. The
            message holds no value: it would be a patient's.
    """
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(label, dtype=np.float64)
    if p.ndim != 1 or p.shape != y.shape:
        raise ValueError(f"expected probabilities and labels of one shape (rows,), got {p.shape} and {y.shape}")
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"expected probabilities in [0, 1]; {np.sum(~((p >= 0) & (p <= 1)))} of {p.size} are not")
    if not np.all((y == 0) | (y == 1)):
        raise ValueError(f"expected labels of 0 or 1; {np.sum((y != 0) & (y != 1))} of {y.size} are not")
    return p, y


def prevalence(probability: ArrayLike, label: ArrayLike) -> float:
    """Share of positive rows.

    >>> prevalence([0.1, 0.9, 0.5, 0.2], [0, 1, 0, 0])
    0.25
    """
    return _one(prevalence_over, probability, label)


def accuracy(probability: ArrayLike, label: ArrayLike) -> float:
    """Share of rows decided rightly, where a probability of at least 0.5 decides for positive.

    >>> accuracy([0.1, 0.9, 0.5, 0.2], [0, 1, 0, 0])
    0.75
    """
    return _one(accuracy_over, probability, label)


def sensitivity(probability: ArrayLike, label: ArrayLike) -> float:
    """Share of the positive rows decided rightly; nan without any.

    >>> sensitivity([0.9, 0.4, 0.2], [1, 1, 0])
    0.5
    """
    return _one(sensitivity_over, probability, label)


def specificity(probability: ArrayLike, label: ArrayLike) -> float:
    """Share of the negative rows decided rightly; nan without any.

    >>> specificity([0.9, 0.4, 0.2], [1, 0, 0])
    1.0
    """
    return _one(specificity_over, probability, label)


def brier(probability: ArrayLike, label: ArrayLike) -> float:
    """Mean squared error of the probability; 0 is perfect, 0.25 a coin (Brier 1950, Monthly Weather Review 78).

    >>> brier([1.0, 0.5], [1, 0])
    0.125
    """
    return _one(brier_over, probability, label)


def log_loss(probability: ArrayLike, label: ArrayLike) -> float:
    """Mean negative log likelihood in nats, of probabilities kept 1e-7 away from 0 and 1.

    >>> round(log_loss([0.5, 0.5], [1, 0]), 4)
    0.6931
    """
    return _one(log_loss_over, probability, label)


def auroc(probability: ArrayLike, label: ArrayLike) -> float:
    """Chance that a positive row gets a higher probability than a negative one, a tie counting half.

    The Mann-Whitney form of the area under the receiver operating characteristic (Hanley & McNeil 1982, Radiology 143).

    >>> auroc([0.1, 0.4, 0.4, 0.8], [0, 0, 1, 1])
    0.875
    """
    return _one(auroc_over, probability, label)


def auprc(probability: ArrayLike, label: ArrayLike) -> float:
    """Average precision: the precision at each distinct probability, weighted by the recall gained there.

    No line is drawn between the points, which would flatter (Davis & Goadrich 2006, ICML, section 4). Compare it with
    the prevalence, which is what a coin reaches.

    >>> round(auprc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 4)
    0.8333
    """
    return _one(auprc_over, probability, label)


def calibration_slope(probability: ArrayLike, label: ArrayLike) -> float:
    """Slope b of logit P(label = 1) = a + b logit(probability); under 1, the probabilities are too extreme.

    Cox 1958 (Biometrika 45); Van Calster et al. 2019 (BMC Medicine 17:230, "weak calibration"). Fitted by maximum
    likelihood. It is nan where no finite maximum exists: one class, equal probabilities, or classes that the
    probability separates (Albert & Anderson 1984, Biometrika 71).

    >>> calibration_slope([0.2, 0.8], [0, 1])
    nan
    >>> half_as_sure_would_be_right = ([0.2] * 3 + [0.8] * 3, [0, 0, 1, 0, 1, 1])
    >>> round(calibration_slope(*half_as_sure_would_be_right), 4)
    0.5
    """
    return _one(calibration_slope_over, probability, label)


def calibration_intercept(probability: ArrayLike, label: ArrayLike) -> float:
    """Calibration in the large: a of logit P(label = 1) = a + logit(probability); above 0, risks are underestimated.

    The slope is fixed at 1 (Van Calster et al. 2019, BMC Medicine 17:230, "mean calibration"). nan with one class.

    >>> round(calibration_intercept([0.5, 0.5, 0.5, 0.5], [1, 1, 1, 0]), 4)  # ln 3
    1.0986
    """
    return _one(calibration_intercept_over, probability, label)


def resample_counts(rows: int, resamples: int, generator: np.random.Generator) -> Array:
    """How often each resample of a plain bootstrap holds each row (Efron 1979, Annals of Statistics 7).

    Args:
        rows: rows drawn, with replacement, out of as many.
        resamples: how many times.
        generator: the only source of randomness; equal generators give equal resamples.

    Returns:
        Array of shape `(resamples, rows)`; each line sums to `rows`.
    """
    drawn = generator.integers(rows, size=(resamples, rows)) + rows * np.arange(resamples)[:, None]
    held = np.bincount(drawn.ravel(), minlength=resamples * rows).astype(np.float64)
    return held.reshape(resamples, rows)


def _one(metric: Over, probability: ArrayLike, label: ArrayLike) -> float:
    p, y = checked(probability, label)
    return float(metric(p, y, np.ones((1, p.size)))[0]) if p.size else float("nan")


def _ratio(numerator: Array, denominator: Array) -> Array:
    ratio: Array = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def _mean(of_row: Array, counts: Array) -> Array:
    return _ratio(counts @ of_row, counts.sum(axis=1))


def right(p: Array, y: Array) -> Array:
    """1 for each row decided rightly, else 0; arrays of shape `(rows,)`, checked."""
    return np.asarray((p >= THRESHOLD) == (y == 1), dtype=np.float64)


def prevalence_over(_: Array, y: Array, counts: Array) -> Array:
    """:func:`prevalence` of each resample."""
    return _mean(y, counts)


def accuracy_over(p: Array, y: Array, counts: Array) -> Array:
    """:func:`accuracy` of each resample."""
    return _mean(right(p, y), counts)


def sensitivity_over(p: Array, y: Array, counts: Array) -> Array:
    """:func:`sensitivity` of each resample."""
    return _ratio(counts @ (right(p, y) * y), counts @ y)


def specificity_over(p: Array, y: Array, counts: Array) -> Array:
    """:func:`specificity` of each resample."""
    return _ratio(counts @ (right(p, y) * (1 - y)), counts @ (1 - y))


def brier_over(p: Array, y: Array, counts: Array) -> Array:
    """:func:`brier` of each resample."""
    return _mean((p - y) ** 2, counts)


def log_loss_over(p: Array, y: Array, counts: Array) -> Array:
    """:func:`log_loss` of each resample."""
    p = np.clip(p, CLIP, 1 - CLIP)
    return _mean(-np.where(y == 1, np.log(p), np.log1p(-p)), counts)


def by_distinct(p: Array, y: Array, counts: Array) -> tuple[Array, Array]:
    """Positive and negative rows at each distinct probability, ascending; both of shape `(resamples, distinct)`."""
    order = np.argsort(p, kind="stable")
    first = np.flatnonzero(np.diff(p[order], prepend=-1.0) > 0)
    sorted_counts = counts[:, order]
    positive = np.add.reduceat(sorted_counts * y[order], first, axis=1)
    return positive, np.add.reduceat(sorted_counts, first, axis=1) - positive


def auroc_over(p: Array, y: Array, counts: Array) -> Array:
    """:func:`auroc` of each resample."""
    positive, negative = by_distinct(p, y, counts)
    below = np.cumsum(negative, axis=1) - negative
    won = (positive * (below + negative / 2)).sum(axis=1)
    return _ratio(won, positive.sum(axis=1) * negative.sum(axis=1))


def auprc_over(p: Array, y: Array, counts: Array) -> Array:
    """:func:`auprc` of each resample."""
    positive, negative = (side[:, ::-1] for side in by_distinct(p, y, counts))
    true, false = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    precision = true / np.maximum(true + false, 1)  # at the top, a resample may hold no row yet
    return _ratio((positive * precision).sum(axis=1), true[:, -1])


def _logit(p: Array) -> Array:
    p = np.clip(p, CLIP, 1 - CLIP)
    return np.asarray(np.log(p) - np.log1p(-p))


def _expit(score: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(score / 2)))


def calibration_slope_over(p: Array, y: Array, counts: Array) -> Array:
    """:func:`calibration_slope` of each resample, by Newton's method; a step that lowers a likelihood is halved."""
    score = _logit(p)
    spread = float(score.std())
    slope = np.full(counts.shape[0], np.nan)
    if spread == 0:
        return slope
    z = (score - score.mean()) / spread  # well conditioned, whatever the probabilities
    going = np.flatnonzero(_overlap(z, y, counts))
    share = _mean(y, counts[going])
    at = np.stack([np.log(share) - np.log1p(-share), np.zeros(going.size)], axis=1)
    kept, best = at.copy(), np.full(going.size, -np.inf)
    for _ in range(_STEPS):
        if not going.size:
            break
        held = counts[going]
        linear = at[:, :1] + at[:, 1:] * z
        likelihood = np.sum(held * (y * linear - np.logaddexp(0, linear)), axis=1)
        worse = ~(likelihood >= best - 1e-12 * np.abs(best))
        kept, best = np.where(worse[:, None], kept, at), np.where(worse, best, likelihood)
        step = _newton_step(held, y, _expit(linear), z)
        at = np.where(worse[:, None], (kept + at) / 2, at + step)
        done = ~worse & (np.abs(step).max(axis=1) <= _TOLERANCE * (1 + np.abs(kept).max(axis=1)))
        slope[going[done]] = at[done, 1] / spread
        on = ~done & np.isfinite(at).all(axis=1)
        going, at, kept, best = going[on], at[on], kept[on], best[on]
    return slope


def _overlap(z: Array, y: Array, counts: Array) -> NDArray[np.bool_]:
    """Whether the classes overlap in each resample: else the likelihood has no finite maximum."""
    positive, negative = (counts > 0) & (y == 1), (counts > 0) & (y == 0)
    reach = [
        (np.where(rows, z, np.inf).min(axis=1), np.where(rows, z, -np.inf).max(axis=1)) for rows in (positive, negative)
    ]
    (lowest_positive, highest_positive), (lowest_negative, highest_negative) = reach
    return np.asarray((highest_negative > lowest_positive) & (highest_positive > lowest_negative))


def _newton_step(counts: Array, y: Array, predicted: Array, z: Array) -> Array:
    residual, weight = counts * (y - predicted), counts * predicted * (1 - predicted)
    a, b, c = weight.sum(axis=1), weight @ z, weight @ z**2
    g, h = residual.sum(axis=1), residual @ z
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # a singular step is not finite, and given up
        return np.asarray(np.stack([c * g - b * h, a * h - b * g], axis=1) / (a * c - b * b)[:, None])


def calibration_intercept_over(p: Array, y: Array, counts: Array) -> Array:
    """:func:`calibration_intercept` of each resample, by Newton's method inside a bracket that halves."""
    score, share = _logit(p), _mean(y, counts)
    intercept = np.full(counts.shape[0], np.nan)
    going = np.flatnonzero((share > 0) & (share < 1))
    share = share[going]
    # The mean of expit(a + score) lies between expit(a + lowest score) and expit(a + highest score).
    target = np.log(share) - np.log1p(-share)
    low, high = target - score.max() - 1e-6, target - score.min() + 1e-6
    at = target - _mean(score, counts[going])
    for _ in range(_STEPS):
        if not going.size:
            break
        held = counts[going]
        predicted = _expit(at[:, None] + score)
        excess = (held * (predicted - y)).sum(axis=1)
        low, high = np.where(excess < 0, at, low), np.where(excess > 0, at, high)
        proposed = at - excess / np.maximum((held * predicted * (1 - predicted)).sum(axis=1), 1e-300)
        proposed = np.where((proposed >= low) & (proposed <= high), proposed, (low + high) / 2)
        done = np.abs(proposed - at) <= _TOLERANCE * (1 + np.abs(at))
        intercept[going[done]] = proposed[done]
        going, low, high, at = going[~done], low[~done], high[~done], proposed[~done]
    return intercept

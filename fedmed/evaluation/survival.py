"""Metrics of a survival model: whom it thinks at risk, and how far its survival curves are from what happened.

Labels are of shape `(rows, 2)`: the follow-up, and 1 if it ended with the event, 0 if it was censored. What happened
after the horizon is not looked at: an event later than that is a row without an event. Where an event and a censoring
fall on the same time, the event counts as the earlier (Kalbfleisch & Prentice 2002, section 1.4). Times are compared in
single precision, in which labels come.

A function whose last argument is `counts` gives one value a resample, as in :mod:`fedmed.evaluation.metrics`; `counts`
has shape `(resamples, rows)` and the result `(resamples,)`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedmed.evaluation.metrics import Array

STEPS = 20
FEWEST_EVENTS = 10
_CELLS = 4_000_000  # pairs held at once: 32 MB an array
_STEEPEST = 500.0  # of a log hazard: its exponential is still a number


class Forecast(NamedTuple):
    """What a survival model says of every row.

    `risk`, of shape `(rows,)`, orders the rows, higher meaning sooner; `survival`, of shape `(rows, times)`, is the
    chance of no event by each of `times`, which rise and are above 0. A forecast without times only orders.
    """

    risk: Array
    times: Array
    survival: Array

    def of(self, rows: NDArray[np.bool_]) -> Forecast:
        """The forecast of some of the rows; `rows` is of shape `(rows,)`."""
        return Forecast(self.risk[rows], self.times, self.survival[rows])


def checked_labels(labels: ArrayLike) -> Array:
    """Labels as float64 of shape `(rows, 2)`.

    Raises:
        ValueError: if a duration is not finite and at least 0, or an event not 0 or 1. The message holds no value.
    """
    y = np.asarray(labels, dtype=np.float64)
    if y.ndim != 2 or y.shape[1] != 2:
        raise ValueError(f"expected labels of shape (rows, 2), duration and event, got {y.shape}")
    if wrong := int(np.sum(~(np.isfinite(y[:, 0]) & (y[:, 0] >= 0)))):
        raise ValueError(f"expected durations that are finite and at least 0; {wrong} of {len(y)} are not")
    if wrong := int(np.sum((y[:, 1] != 0) & (y[:, 1] != 1))):
        raise ValueError(f"expected events of 0 or 1; {wrong} of {len(y)} are not")
    return np.stack([_single(y[:, 0]), y[:, 1]], axis=1)


def forecast(prediction: ArrayLike | Forecast, horizon: float | None = None) -> Forecast:
    """A prediction as a forecast.

    Args:
        prediction: a log relative hazard of shape `(rows,)`, or the survival at the ends of equal intervals up to the
            horizon, of shape `(rows, intervals)`, or a forecast already.
        horizon: the follow-up considered; without it, the survival curves are used only to order the rows.

    Returns:
        Of a log relative hazard, a forecast without times: its curves need a baseline, see :func:`cox_forecast`. Of
        survival curves, the risk is minus their mean, that is minus the restricted mean survival time but for a factor
        (Royston & Parmar 2013, BMC Medical Research Methodology 13:152).

    Raises:
        ValueError: if a value is not finite, or a survival not in [0, 1].

    >>> forecast([[0.9, 0.8], [0.5, 0.1]], horizon=10.0).times.tolist()
    [5.0, 10.0]
    """
    if isinstance(prediction, Forecast):
        return prediction
    p = np.asarray(prediction, dtype=np.float64)
    if p.ndim not in (1, 2) or not np.isfinite(p).all():
        raise ValueError(f"expected finite predictions of shape (rows,) or (rows, intervals), got shape {p.shape}")
    if p.ndim == 1:
        return Forecast(p, np.empty(0), np.empty((p.size, 0)))
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"expected survival in [0, 1]; {np.sum((p < 0) | (p > 1))} of {p.size} are not")
    times = grid(horizon, p.shape[1]) if horizon is not None else np.empty(0)
    return Forecast(-p.mean(axis=1), times, p[:, : times.size])


def grid(horizon: float, steps: int = STEPS) -> Array:
    """The ends of equal intervals up to the horizon, of shape `(steps,)`.

    >>> grid(8.0, 4).tolist()
    [2.0, 4.0, 6.0, 8.0]
    """
    return _single(horizon * np.arange(1, steps + 1) / steps)


def kaplan_meier(labels: ArrayLike, times: ArrayLike) -> Array:
    """The share without the event by each time (Kaplan & Meier 1958, JASA 53); of shape `(times,)`.

    >>> kaplan_meier([[1, 1], [2, 0], [3, 1], [4, 0]], [0.5, 1, 2, 3, 9]).tolist()  # 3/4, then half of it
    [1.0, 0.75, 0.75, 0.375, 0.375]
    """
    y = checked_labels(labels)
    distinct, event, _, at_risk = (part[..., :] for part in _table(y, np.ones((1, len(y)))))
    share = np.concatenate([[1.0], np.cumprod(1 - event[0] / np.maximum(at_risk[0], 1))])
    return np.asarray(share[np.searchsorted(distinct, _single(np.asarray(times)), side="right")])


def cox_forecast(risk: ArrayLike, training_risk: ArrayLike, training_labels: ArrayLike, times: ArrayLike) -> Forecast:
    """The survival curves of a Cox model under the baseline hazard of some training rows.

    Breslow's estimator (Breslow 1972, discussion of Cox, JRSS B 34):  H(t) = Σ events at u ≤ t / Σ exp(risk) at risk at
    u, and  S(t | x) = exp(−H(t) exp(risk)).  A constant added to every risk cancels out.

    Args:
        risk: log relative hazards of the rows forecast, of shape `(rows,)`.
        training_risk: those of the training rows.
        training_labels: of shape `(training rows, 2)`.
        times: of shape `(times,)`.

    >>> even = cox_forecast([0.0], [0.0, 0.0], [[1, 1], [2, 1]], [1, 2])
    >>> even.survival.round(4).tolist()  # exp(−1/2), exp(−1/2 − 1)
    [[0.6065, 0.2231]]
    """
    r, trained, y = forecast(risk).risk, forecast(training_risk).risk, checked_labels(training_labels)
    at = _single(np.asarray(times))
    centre = float(trained.mean()) if trained.size else 0.0
    hazard = np.exp(np.minimum(trained - centre, _STEEPEST))
    distinct, place = np.unique(y[:, 0], return_inverse=True)
    events = np.bincount(place, weights=y[:, 1], minlength=distinct.size)
    at_risk = np.cumsum(np.bincount(place, weights=hazard, minlength=distinct.size)[::-1])[::-1]
    baseline = np.concatenate([[0.0], np.cumsum(events / np.maximum(at_risk, 1e-300))])
    cumulated = baseline[np.searchsorted(distinct, at, side="right")]
    return Forecast(r, at, np.exp(-np.exp(np.minimum(r - centre, _STEEPEST))[:, None] * cumulated))


def c_index(risk: ArrayLike, labels: ArrayLike, horizon: float | None = None) -> float:
    """Chance that, of two rows of which one is known to have had the event first, that one had the higher risk.

    Harrell's (Harrell et al. 1982, JAMA 247; 1996, Statistics in Medicine 15:361). Rows i and j are compared if i had
    the event, by the horizon, and j was followed longer, or as long and then censored. A tie in risk counts half; two
    events at the same time are not compared. nan where there is no pair.

    >>> c_index([3, 2, 2, 1], [[1, 1], [2, 1], [3, 0], [4, 1]])  # 5 pairs: 1 before 2, 3, 4; 2 before 3 (tied), 4
    0.9
    """
    r, y = forecast(risk).risk, checked_labels(labels)
    return float(c_index_over(r, y, horizon, np.ones((1, r.size)))[0])


def uno_c_index(risk: ArrayLike, labels: ArrayLike, horizon: float | None = None) -> float:
    """Harrell's C with every pair weighted by the inverse squared chance of still being followed.

    Uno et al. 2011 (Statistics in Medicine 30:1105, equation 6): Harrell's depends on who was censored when, this does
    not as long as censoring is independent of the risk. The chance is the Kaplan-Meier estimate of the censoring, just
    before the event.

    >>> uno_c_index([3, 2, 2, 1], [[1, 1], [2, 1], [3, 0], [4, 1]])  # no weight differs before the first censoring
    0.9
    """
    r, y = forecast(risk).risk, checked_labels(labels)
    return float(uno_c_index_over(r, y, horizon, np.ones((1, r.size)))[0])


def integrated_brier(prediction: Forecast, labels: ArrayLike) -> float:
    """Mean squared error of the survival curves over time, the censored rows being stood for by the others.

    Graf et al. 1999 (Statistics in Medicine 18:2529, equations 5 and 6). At time t, with G the Kaplan-Meier estimate of
    not being censored (Gerds & Schumacher 2006, Biometrical Journal 48, for the left limits):

        BS(t) = mean of  S(t)² / G(T−) where the event came at T ≤ t,  (1 − S(t))² / G(t−) where the row is known to be
        without it at t, and 0 where the row was censored before t.

    The score is the mean of BS over [0, last time], by the trapezoid rule over the forecast's times, BS(0) being 0.
    Times at which nobody is followed any more are left out. nan where no time is left. 0 is perfect; a survival of .5
    throughout scores at most .25.

    >>> sure = Forecast(np.array([1.0, 0.0]), np.array([1.0, 2.0]), np.array([[0.0, 0.0], [1.0, 0.5]]))
    >>> integrated_brier(sure, [[1, 1], [2, 0]])  # BS is 0, 0, (.5)² / 2
    0.03125
    """
    y = checked_labels(labels)
    return float(integrated_brier_over(prediction, y, np.ones((1, len(y))))[0])


def c_index_over(risk: Array, labels: Array, horizon: float | None, counts: Array) -> Array:
    """:func:`c_index` of each resample; arrays of shape `(rows,)`, `(rows, 2)`, checked, and `(resamples, rows)`."""
    return _concordance(risk, labels, horizon, counts, counts)


def uno_c_index_over(risk: Array, labels: Array, horizon: float | None, counts: Array) -> Array:
    """:func:`uno_c_index` of each resample."""
    followed = _uncensored_before(labels, labels[:, 0], counts)
    weight = counts / np.where(counts > 0, followed, 1.0) ** 2
    return _concordance(risk, labels, horizon, weight, counts)


def integrated_brier_over(prediction: Forecast, labels: Array, counts: Array) -> Array:
    """:func:`integrated_brier` of each resample; the times are those of the rows themselves."""
    duration, event = labels[:, 0], labels[:, 1]
    kept = int((prediction.times <= duration.max(initial=0.0)).sum())
    if not kept:
        return np.full(counts.shape[0], np.nan)
    times, survival = prediction.times[:kept], prediction.survival[:, :kept]
    happened = (event[:, None] == 1) & (duration[:, None] <= times)
    without = (duration[:, None] > times) | ((duration[:, None] == times) & (event[:, None] == 0))
    of_events = counts / np.where(counts > 0, _uncensored_before(labels, duration, counts), 1.0)
    rest = counts @ np.where(without, (1 - survival) ** 2, 0.0)
    at_times = _uncensored_before(labels, times, counts)
    weighted = of_events @ np.where(happened, survival**2, 0.0) + np.divide(
        rest, at_times, out=np.zeros_like(rest), where=at_times > 0
    )
    score = np.concatenate([np.zeros((len(counts), 1)), weighted / counts.sum(axis=1, keepdims=True)], axis=1)
    spans = np.diff(times, prepend=0.0)
    return np.asarray(((score[:, 1:] + score[:, :-1]) / 2 * spans).sum(axis=1) / times[-1])


def events_by(labels: Array, horizon: float | None) -> NDArray[np.bool_]:
    """Which rows are known to have had the event by the horizon, of shape `(rows,)`."""
    return np.asarray(
        (labels[:, 1] == 1) & (labels[:, 0] <= _single(np.asarray(np.inf if horizon is None else horizon)))
    )


def _single(times: NDArray[np.floating[Any]]) -> Array:
    rounded: Array = times.astype(np.float32).astype(np.float64)
    return rounded


def _concordance(risk: Array, labels: Array, horizon: float | None, weight: Array, counts: Array) -> Array:
    """Weighted share of concordant pairs: `weight` of the row with the event, `counts` of the other.

    Every row with an event is held against all rows, some events at a time, for all resamples by one matrix product.
    """
    duration, event = labels[:, 0], labels[:, 1]
    first = np.flatnonzero(events_by(labels, horizon))
    won, pairs = np.zeros(len(counts)), np.zeros(len(counts))
    block = max(1, _CELLS // max(1, risk.size))
    for start in range(0, first.size, block):
        i = first[start : start + block]
        later = (duration > duration[i, None]) | ((duration == duration[i, None]) & (event == 0))
        higher = (risk[i, None] > risk) + 0.5 * (risk[i, None] == risk)
        won += ((weight[:, i] @ (later * higher)) * counts).sum(axis=1)
        pairs += ((weight[:, i] @ later.astype(np.float64)) * counts).sum(axis=1)
    return np.asarray(np.divide(won, pairs, out=np.full(len(counts), np.nan), where=pairs > 0))


def _uncensored_before(labels: Array, times: Array, counts: Array) -> Array:
    """P(not censored before t), by Kaplan-Meier, at each time of each resample; of shape `(resamples, times)`."""
    distinct, event, censored, at_risk = _table(labels, counts)
    open_to_it = at_risk - event  # events come first
    lost = np.divide(censored, open_to_it, out=np.zeros_like(censored), where=open_to_it > 0)
    share = np.concatenate([np.ones((len(counts), 1)), np.cumprod(1 - lost, axis=1)], axis=1)
    return np.asarray(share[:, np.searchsorted(distinct, times, side="left")])


def _table(labels: Array, counts: Array) -> tuple[Array, Array, Array, Array]:
    """The distinct times, and at each: events, censored rows, rows still followed; `(resamples, distinct times)`."""
    if not len(labels):
        nothing = np.zeros((len(counts), 0))
        return np.empty(0), nothing, nothing, nothing
    order = np.argsort(labels[:, 0], kind="stable")
    duration, event = labels[order].T
    first = np.flatnonzero(np.diff(duration, prepend=-1.0) > 0)
    held = counts[:, order]
    events = np.add.reduceat(held * event, first, axis=1)
    ended = np.add.reduceat(held, first, axis=1)
    at_risk = np.cumsum(ended[:, ::-1], axis=1)[:, ::-1]
    return duration[first], events, ended - events, at_risk

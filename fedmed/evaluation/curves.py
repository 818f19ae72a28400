"""The points that may leave a hospital for a plot: ROC and calibration, or the survival of groups of similar risk."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedmed.evaluation.disclosure import class_counts, event_counts
from fedmed.evaluation.metrics import Array, by_distinct, checked
from fedmed.evaluation.survival import Forecast, checked_labels, events_by, forecast, grid, kaplan_meier
from fedmed.privacy.cells import DEFAULT_MINIMUM, may_publish
from fedmed.typed_yaml import Record

GRID = tuple(step / 20 for step in range(21))
DECIMALS = 4
RISK_GROUPS = 3
BINS = 10


class RocCurve(Record):
    """True-positive rates at fixed false-positive rates, which no patient's prediction has chosen."""

    false_positive_rate: tuple[float, ...] = GRID
    true_positive_rate: tuple[float, ...]


class CalibrationBin(Record):
    """Rows of similar prediction: their mean prediction, the share of positive rows, and how many there are."""

    mean_prediction: float
    observed_share: float
    rows: int


class RiskGroup(Record):
    """Rows of similar predicted risk: how many there are, and the share of them without the event by some times."""

    rows: int
    times: tuple[float, ...]
    survival: tuple[float, ...]


class Curves(Record):
    """What may be drawn of a model on one hospital's rows; None where it may not be told, or is not of this kind."""

    roc: RocCurve | None = None
    calibration: tuple[CalibrationBin, ...] | None = None
    risk_groups: tuple[RiskGroup, ...] | None = None


def roc_curve(probability: ArrayLike, label: ArrayLike, *, minimum_cell: int = DEFAULT_MINIMUM) -> RocCurve | None:
    """The curve at the false-positive rates 0, .05, …, 1.

    Args:
        probability: predictions of shape `(rows,)`.
        label: 0 or 1, of shape `(rows,)`.
        minimum_cell: the fewest patients that a published cell may hold.

    Returns:
        Rates in four decimals, interpolated linearly between the points of the whole curve (Fawcett 2006, Pattern
        Recognition Letters 27, section 6); where it rises upright, its upper end. None if a class is small.

    Raises:
        ValueError: for what is no probability or label, or a minimum cell under 5.
    """
    p, y = checked(probability, label)
    if not may_publish(class_counts(y), minimum_cell):
        return None
    positive, negative = (side[0, ::-1] for side in by_distinct(p, y, np.ones((1, p.size))))
    false = np.concatenate([[0.0], np.cumsum(negative) / negative.sum()])
    true = np.concatenate([[0.0], np.cumsum(positive) / positive.sum()])
    rates = np.interp(GRID, false, true)  # of equal points it takes the last: the upper end
    return RocCurve(true_positive_rate=tuple(round(float(rate), DECIMALS) for rate in rates))


def calibration_curve(
    probability: ArrayLike, label: ArrayLike, *, minimum_cell: int = DEFAULT_MINIMUM, bins: int = BINS
) -> tuple[CalibrationBin, ...] | None:
    """Observed against predicted risk in bins of similar prediction.

    The bins start as quantiles of the prediction, equal predictions staying together, and are merged upwards until each
    holds enough of both classes (Van Calster et al. 2019, BMC Medicine 17:230, on calibration curves).

    Args:
        probability: predictions of shape `(rows,)`.
        label: 0 or 1, of shape `(rows,)`.
        minimum_cell: the fewest patients of either class in a bin.
        bins: the most bins to make.

    Returns:
        Between one and `bins` bins by ascending prediction, in four decimals. None if a class is small.

    Raises:
        ValueError: for what is no probability or label, a minimum cell under 5, or fewer bins than one.

    Guarantees:
        - Every bin holds at least `minimum_cell` rows of each class; every row is in one bin.
        - No finer merging of the quantile bins would do so.
        - The order of the rows changes nothing.
    """
    p, y = checked(probability, label)
    order = np.argsort(p)  # sums, and so their last digit, must not depend on the order of the file
    p, y = p[order], y[order]
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, got {bins}")
    if not may_publish(class_counts(y), minimum_cell):
        return None
    edges = np.quantile(p, np.arange(1, bins) / bins)
    quantile_bin = np.searchsorted(edges, p, side="left")
    groups = _merged(quantile_bin, bins, lambda rows: may_publish(class_counts(y[rows]), minimum_cell))
    return tuple(
        CalibrationBin(
            mean_prediction=round(float(p[rows].mean()), DECIMALS),
            observed_share=round(float(y[rows].mean()), DECIMALS),
            rows=int(rows.sum()),
        )
        for rows in groups
    )


def risk_groups(
    prediction: ArrayLike | Forecast,
    labels: ArrayLike,
    *,
    minimum_cell: int = DEFAULT_MINIMUM,
    horizon: float | None,
    groups: int = RISK_GROUPS,
) -> tuple[RiskGroup, ...] | None:
    """Kaplan-Meier curves of rows of similar risk, from low to high.

    Royston & Altman 2013, BMC Medical Research Methodology 13:33, on "Kaplan-Meier curves for risk groups".

    Args:
        prediction: of a survival model.
        labels: duration and event, of shape `(rows, 2)`.
        minimum_cell: the fewest patients that a published cell may hold.
        horizon: the follow-up considered; without it there are no curves.
        groups: how many to begin with: thirds.

    Returns:
        Each group's rows and its curve, from 1 at time 0, at some of twenty equal steps up to the horizon. None if the
        thirds, merged upwards like the bins of :func:`calibration_curve`, do not give two groups.

    Raises:
        ValueError: for what is no prediction or label, or a minimum cell under 5.

    Guarantees:
        - Every group holds at least `minimum_cell` rows with the event by the horizon, and as many without.
        - Between two points of a curve lie at least `minimum_cell` events, and after its last point at least as many
          rows are followed: no drop can be counted out to few patients.
        - The order of the rows changes nothing.
    """
    y, risk = checked_labels(labels), forecast(prediction, horizon).risk
    if horizon is None or not may_publish(event_counts(y, horizon), minimum_cell):
        return None
    edges = np.quantile(risk, np.arange(1, groups) / groups)
    third = np.searchsorted(edges, risk, side="left")
    found = _merged(third, groups, lambda rows: may_publish(event_counts(y[rows], horizon), minimum_cell))
    told = [_group(y[rows], horizon, minimum_cell) for rows in found]
    return tuple(told) if len(told) > 1 and all(len(group.times) > 1 for group in told) else None


def _group(y: Array, horizon: float, minimum_cell: int) -> RiskGroup:
    kept, last = [0.0], 0
    for time in grid(horizon):
        events = int(events_by(y, time).sum())
        if events - last >= minimum_cell and (y[:, 0] > time).sum() >= minimum_cell:
            kept.append(float(time))
            last = events
    share = kaplan_meier(y, kept)
    return RiskGroup(
        rows=len(y),
        times=tuple(round(time, DECIMALS) for time in kept),
        survival=tuple(round(float(entry), DECIMALS) for entry in share),
    )


def _merged(bins: NDArray[np.intp], count: int, enough: Callable[[NDArray[np.bool_]], bool]) -> list[NDArray[np.bool_]]:
    """The rows of each bin, a bin that does not hold enough being joined to the next, and the last to the one before.

    All rows together hold enough.
    """
    groups: list[NDArray[np.bool_]] = []
    open_rows = np.zeros(bins.size, dtype=bool)
    for current in range(count):
        open_rows = open_rows | (bins == current)
        if enough(open_rows):
            groups.append(open_rows)
            open_rows = np.zeros(bins.size, dtype=bool)
    groups[-1] = groups[-1] | open_rows
    return groups

"""The points that may leave a hospital for a plot: a receiver operating characteristic and a calibration curve."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedmed.evaluation.disclosure import class_counts
from fedmed.evaluation.metrics import Array, by_distinct, checked
from fedmed.privacy.cells import DEFAULT_MINIMUM, may_publish
from fedmed.typed_yaml import Record

GRID = tuple(step / 20 for step in range(21))
DECIMALS = 4


class RocCurve(Record):
    """True-positive rates at fixed false-positive rates, which no patient's prediction has chosen."""

    false_positive_rate: tuple[float, ...] = GRID
    true_positive_rate: tuple[float, ...]


class CalibrationBin(Record):
    """Rows of similar prediction: their mean prediction, the share of positive rows, and how many there are."""

    mean_prediction: float
    observed_share: float
    rows: int


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
    probability: ArrayLike, label: ArrayLike, *, minimum_cell: int = DEFAULT_MINIMUM, bins: int = 10
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
    groups: list[Array] = []
    open_rows = np.zeros(p.size, dtype=bool)
    for current in range(bins):
        open_rows |= quantile_bin == current
        if may_publish(class_counts(y[open_rows]), minimum_cell):
            groups.append(open_rows)
            open_rows = np.zeros(p.size, dtype=bool)
    groups[-1] = groups[-1] | open_rows  # the whole table suffices, so there is a last group
    return tuple(
        CalibrationBin(
            mean_prediction=round(float(p[rows].mean()), DECIMALS),
            observed_share=round(float(y[rows].mean()), DECIMALS),
            rows=int(rows.sum()),
        )
        for rows in groups
    )

"""Whether a model serves all alike: its figures in groups of a hospital's patients, and their spread over hospitals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedmed.evaluation.measurement import SUPPRESSED, Measurement
from fedmed.evaluation.names import LOWER_IS_BETTER
from fedmed.privacy.cells import told_groups
from fedmed.typed_yaml import Record

Measured = Mapping[str, Measurement]


class Spread(Record):
    """One metric over the hospitals that tell it: the best, the worst, and how far they are apart.

    `deviation` is the standard deviation over the hospitals, which are all there are: it is divided by their number.
    """

    hospitals: int
    best: float
    best_at: str
    worst: float
    worst_at: str
    gap: float
    deviation: float


def spread(metric: str, values: Mapping[str, float]) -> Spread | None:
    """The spread of a metric over hospitals; None where fewer than two tell it.

    Args:
        metric: its name, which says whether lower is better.
        values: hospital → value. Of equal values the first counts as best and as worst.

    >>> spread("brier", {"north": 0.1, "south": 0.2, "west": 0.15}).worst_at
    'south'
    """
    if len(values) < 2:
        return None
    sign = -1 if metric in LOWER_IS_BETTER else 1
    best, worst = max(values, key=lambda site: sign * values[site]), min(values, key=lambda site: sign * values[site])
    mean = math.fsum(values.values()) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values.values()) / len(values)
    return Spread(
        hospitals=len(values),
        best=values[best],
        best_at=best,
        worst=values[worst],
        worst_at=worst,
        gap=round(abs(values[best] - values[worst]), 6),
        deviation=round(math.sqrt(variance), 6),
    )


def of_subgroups(
    codes: Sequence[object],
    categories: Sequence[str],
    *,
    classes: Callable[[NDArray[np.bool_]], Mapping[str, int]],
    measure: Callable[[NDArray[np.bool_]], dict[str, Measurement]],
    names: Sequence[str],
    minimum_cell: int,
) -> dict[str, dict[str, Measurement]]:
    """One model's measurements in each category of a column, on one hospital's rows.

    Args:
        codes: of every row, its category; what is none of them belongs to no subgroup.
        categories: the declared ones, in order.
        classes: rows → patients of each class among them.
        measure: rows → measurements.
        names: of the measurements.
        minimum_cell: the fewest patients that a published cell may hold.

    Guarantees:
        - :func:`fedmed.privacy.cells.told_groups` decides which subgroups are told; of the others every figure is
          suppressed, the number of rows too. A category without a row is small as well.
    """
    held = [np.asarray([code == category for code in codes], dtype=bool) for category in categories]
    none = ~np.logical_or.reduce(held) if held else np.ones(len(codes), dtype=bool)
    told = told_groups([classes(rows) for rows in held], minimum_cell, rest=int(none.sum()))
    return {
        category: measure(rows) if may else dict.fromkeys(names, SUPPRESSED)
        for category, rows, may in zip(categories, held, told, strict=True)
    }


def widest_gap(subgroups: Mapping[str, Mapping[str, Any]], metric: str) -> tuple[str, str, float] | None:
    """The subgroups with the best and the worst value of a metric, and the gap; None where fewer than two tell it.

    Args:
        subgroups: category → metric → measurement, as a record or JSON.
        metric: which one.
    """
    values = {}
    for category, figures in subgroups.items():
        entry = figures.get(metric)
        value = entry.value if isinstance(entry, Measurement) else (entry or {}).get("value")
        if value is not None:
            values[category] = float(value)
    found = spread(metric, values)
    return None if found is None else (found.best_at, found.worst_at, found.gap)

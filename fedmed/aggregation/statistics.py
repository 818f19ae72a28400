"""Means and deviations over all hospitals, from sums: no hospital shows a value, and none is asked for a row.

A site sends, for every input that is scaled, how many values its training rows have, their sum and their sum of
squares, on the declared range scaled to [0, 1] (so that the sums are well conditioned), as fixed-point integers. The
values are those of a number column or the observed steps of a channel of a series. An image counts once, with the mean
of its pixels and the mean of their squares: the moments of all pixels follow, because every image has as many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedmed.aggregation.grid import FixedPoint
from fedmed.data.arrays import measurements, raw_arrays
from fedmed.data.cohort import Cohort, Column
from fedmed.models.encoding import WHITE, InputStatistics, scale_range, scaled_inputs

MOST_VALUES = 10**9
GRID = FixedPoint(bits=64, limit=float(MOST_VALUES), weight=1)
"""Sums up to 10⁹ values, to a step of about 10⁻¹⁰; the bound holds for the sum over all sites."""

_IMAGES_AT_ONCE = 256


class _Moments(NamedTuple):
    """One input of a hospital: rows that have a value; values missing; number, sum and sum of squares of the others."""

    rows: int
    missing: int
    number: float
    total: float
    squares: float


def column_sums(rows: pd.DataFrame, cohort: Cohort, minimum_cell: int) -> Tensor:
    """One hospital's sums.

    Args:
        rows: its training rows, cleaned.
        cohort: the declaration, for ranges.
        minimum_cell: an input with a value in fewer rows than this contributes nothing; fewer missing values than this
            are counted as if they were the hospital's mean.

    Returns:
        Integers of shape `(3 · scaled inputs,)`: counts, sums, sums of squares, each in the order of
        :func:`fedmed.models.encoding.scaled_inputs`.

    Raises:
        RangeExceeded: a value is so far outside its range that no sum can hold it.
    """
    sums = [_told(moments, minimum_cell) for moments in _moments(rows, cohort)]
    return GRID.encode(torch.tensor(sums, dtype=torch.float64).reshape(-1, 3).T.reshape(-1), 1)


def _told(moments: _Moments, minimum_cell: int) -> tuple[float, float, float]:
    rows, missing, number, total, squares = moments
    if rows < minimum_cell:
        return 0.0, 0.0, 0.0
    if 0 < missing < minimum_cell:
        # The count beside the number of rows would tell a small number of missing values: they count as the mean.
        mean = total / number
        return number + missing, total + missing * mean, squares + missing * mean * mean
    return number, total, squares


def _moments(rows: pd.DataFrame, cohort: Cohort) -> Iterator[_Moments]:
    """Of every input of :func:`scaled_inputs`, in its order, on its range scaled to [0, 1]."""
    for name, column in cohort.columns.items():
        if column.type == "image":
            yield _of_images(rows, column, name)
        elif column.type == "series":
            steps = measurements(rows[name], column, name).astype(np.float64)
            for place, channel in enumerate(column.channels or {}):
                yield _of_values(steps[..., place], *scale_range(cohort, f"{name}.{channel}"))
        elif column.type != "category":
            yield _of_values(rows[name].to_numpy(dtype=np.float64)[:, None], *scale_range(cohort, name))


def _of_values(values: np.ndarray, low: float, high: float) -> _Moments:
    """Of values `(rows, values of a row)`, NaN where missing."""
    seen = ~np.isnan(values)
    unit = (values[seen] - low) / (high - low)
    with np.errstate(over="ignore"):  # the grid refuses what is too large
        return _Moments(int(seen.any(axis=1).sum()), int((~seen).sum()), unit.size, unit.sum(), np.square(unit).sum())


def _of_images(rows: pd.DataFrame, column: Column, name: str) -> _Moments:
    total = squares = 0.0
    for start in range(0, len(rows), _IMAGES_AT_ONCE):
        pixels = raw_arrays(rows[name].iloc[start : start + _IMAGES_AT_ONCE], column, name).astype(np.float64) / WHITE
        total += pixels.sum() / column.cell_size
        squares += np.square(pixels).sum() / column.cell_size
    return _Moments(len(rows), 0, float(len(rows)), total, squares)


def plausible(sums: Tensor) -> bool:
    """Whether a hospital's sums can be those of values in [0, 1]: 0 ≤ squares ≤ sum ≤ count ≤ 10⁹, to rounding."""
    counts, totals, squares = sums.reshape(3, -1).double() / 2.0**GRID.exponent
    slack = 1e-6 * (counts.abs() + 1)
    ordered = (squares >= -slack) & (squares <= totals + slack) & (totals <= counts + slack) & (counts <= MOST_VALUES)
    return bool(ordered.all())


def pool_statistics(sums: Sequence[Tensor], cohort: Cohort) -> InputStatistics:
    """Mean and deviation (with denominator n) of every scaled input over all hospitals; of an image, of all pixels.

    An input without values anywhere gets the middle of its range and a deviation of 1.
    """
    totals = (torch.stack(list(sums)).sum(dim=0).double() / 2.0**GRID.exponent).reshape(3, -1).tolist()
    mean, deviation = {}, {}
    for name, count, total, squares in zip(scaled_inputs(cohort), *totals, strict=True):
        low, high = scale_range(cohort, name)
        centre = total / count if count else 0.5
        variance = squares / count - centre**2 if count else 0.0
        if variance * count <= 2 * len(sums) * 2.0**-GRID.exponent:  # what rounding to the grid alone may make of 0
            variance = 0.0
        mean[name] = low + (high - low) * centre
        deviation[name] = (high - low) * math.sqrt(variance) or 1.0
    return InputStatistics(mean=mean, deviation=deviation)

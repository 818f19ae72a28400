"""Means and deviations over all hospitals, from sums: no hospital shows a value, and none is asked for a row.

A site sends, for every number column, how many training rows have a value, their sum and their sum of squares, on the
declared range scaled to [0, 1] (so that the sums are well conditioned), as fixed-point integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from fedmed.aggregation.fixed_point import FixedPoint
from fedmed.data.cohort import Cohort
from fedmed.models.encoding import InputStatistics

MOST_ROWS = 10**9
GRID = FixedPoint(bits=64, limit=float(MOST_ROWS), weight=1)
"""Sums up to 10⁹ rows, to a step of about 10⁻¹⁰; the bound holds for the sum over all sites."""


def column_sums(rows: pd.DataFrame, cohort: Cohort, minimum_cell: int) -> Tensor:
    """One hospital's sums.

    Args:
        rows: its training rows, cleaned.
        cohort: the declaration, for ranges.
        minimum_cell: a column with fewer values than this contributes nothing; fewer missing values than this are
            counted as if they were the hospital's mean.

    Returns:
        Integers of shape `(3 · number columns,)`: counts, sums, sums of squares.
    """
    columns = []
    for name in cohort.numbers():
        low, high = _range(cohort, name)
        values = torch.tensor(rows[name].dropna().to_numpy(), dtype=torch.float64)
        unit = (values - low) / (high - low)
        missing = len(rows) - len(unit)
        if 0 < missing < minimum_cell <= len(unit):
            # The count beside the number of rows would tell a small number of missing values: they count as the mean.
            unit = torch.cat([unit, unit.mean().repeat(missing)])
        if len(unit) < minimum_cell:
            unit = unit[:0]
        columns.append(
            torch.stack([torch.tensor(float(len(unit)), dtype=torch.float64), unit.sum(), unit.square().sum()])
        )
    stacked = torch.stack(columns).T.reshape(-1) if columns else torch.zeros(0, dtype=torch.float64)
    return GRID.encode(stacked, 1)


def plausible(sums: Tensor) -> bool:
    """Whether a hospital's sums can be those of values in [0, 1]: 0 ≤ squares ≤ sum ≤ count ≤ 10⁹, to rounding."""
    counts, totals, squares = sums.reshape(3, -1).double() / 2.0**GRID.exponent
    slack = 1e-6 * (counts.abs() + 1)
    ordered = (squares >= -slack) & (squares <= totals + slack) & (totals <= counts + slack) & (counts <= MOST_ROWS)
    return bool(ordered.all())


def pool_statistics(sums: Sequence[Tensor], cohort: Cohort) -> InputStatistics:
    """Mean and deviation (with denominator n) of every number column over all hospitals.

    A column without values anywhere gets the middle of its range and a deviation of 1.
    """
    totals = (torch.stack(list(sums)).sum(dim=0).double() / 2.0**GRID.exponent).reshape(3, -1).tolist()
    mean, deviation = {}, {}
    for name, count, total, squares in zip(cohort.numbers(), *totals, strict=True):
        low, high = _range(cohort, name)
        centre = total / count if count else 0.5
        variance = squares / count - centre**2 if count else 0.0
        if variance * count <= 2 * len(sums) * 2.0**-GRID.exponent:  # what rounding to the grid alone may make of 0
            variance = 0.0
        mean[name] = low + (high - low) * centre
        deviation[name] = (high - low) * math.sqrt(variance) or 1.0
    return InputStatistics(mean=mean, deviation=deviation)


def _range(cohort: Cohort, name: str) -> tuple[float, float]:
    limits = cohort.columns[name].range
    if limits is None:
        raise ValueError(f"{name} is no number column")
    return limits

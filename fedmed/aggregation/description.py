"""What one hospital tells of its training rows, column by column: counts and sums, as it may tell them.

A hospital counts its rows on a grid that the declaration fixes, withholds small counts by :mod:`fedmed.privacy.tables`,
and adds to that the sums of :mod:`fedmed.aggregation.statistics`. What follows for all hospitals together is said in
:mod:`fedmed.aggregation.summaries`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedmed.aggregation.statistics import GRID, MOST_VALUES, plausible
from fedmed.data.arrays import measurements
from fedmed.data.cohort import Cohort
from fedmed.privacy.tables import FEW, WITHHELD, told_bins, told_categories, told_cells
from fedmed.targets.kind import TARGET
from fedmed.weights import Layout

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

BINS = 64
"""Bins of a number's declared range; of an integer's, as many as hold equally many whole numbers, at most these."""


class Feature(NamedTuple):
    """One thing that is described: a number on a grid of bins, or a category, the target among them."""

    name: str
    kind: Literal["number", "category"]
    meanings: Mapping[str, str] = {}
    edges: tuple[float, ...] = ()
    range: tuple[float, float] = (0.0, 1.0)
    unit: str = ""
    may_miss: bool = False

    @property
    def cells(self) -> int:
        """Counts in its table: bins or categories, and missing values where the declaration admits them."""
        return (len(self.edges) - 1 if self.kind == "number" else len(self.meanings)) + self.may_miss


class Told(NamedTuple):
    """What one hospital tells of one feature: rows, its minimum cell, the table, and count, sum and sum of squares."""

    rows: int
    minimum_cell: int
    counts: Integers
    sums: tuple[float, float, float]


def described(cohort: Cohort) -> list[Feature]:
    """What is described of a cohort: the target, the follow-up, every column of the table, every channel of a series.

    A row's value of a channel is the mean of its observed steps; of an image, nothing is described.
    """
    features = [Feature(TARGET, "category", {str(code): text for code, text in cohort.target.meanings.items()})]
    for number in cohort.target.numbers:
        limits = (0.0, number.looked_at)
        features.append(Feature(number.name, "number", edges=_edges("number", limits), range=limits, unit=number.unit))
    for name, column in cohort.columns.items():
        may_miss = column.missing == "impute"
        if column.categories is not None:
            features.append(Feature(name, "category", column.categories, may_miss=may_miss))
        elif column.range is not None:
            edges = _edges(column.type, column.range)
            features.append(
                Feature(name, "number", edges=edges, range=column.range, unit=column.unit, may_miss=may_miss)
            )
        for part, channel in (column.channels or {}).items():
            edges = _edges("number", channel.range)
            features.append(
                Feature(f"{name}.{part}", "number", edges=edges, range=channel.range, unit=channel.unit, may_miss=True)
            )
    return features


def description_layout(cohort: Cohort) -> dict[str, Layout]:
    """The tensors of a description: `counts`, all features' tables, and `sums`, three a number."""
    features = described(cohort)
    numbers = sum(feature.kind == "number" for feature in features)
    return {
        "counts": Layout("I64", (sum(feature.cells for feature in features),)),
        "sums": Layout("I64", (3 * numbers,)),
    }


def describe_rows(rows: pd.DataFrame, cohort: Cohort, minimum_cell: int) -> dict[str, Tensor]:
    """One hospital's tables, as they may leave it.

    Args:
        rows: its training rows, cleaned.
        cohort: the declaration, for bins and categories.
        minimum_cell: the fewest rows that a told count may hold.

    Returns:
        `counts`, int64 of shape `(cells,)`, the features' tables one after the other, WITHHELD for a count that is not
        told; `sums`, int64 of shape `(3 · numbers,)` on the grid of :mod:`fedmed.aggregation.statistics`: counts, sums,
        sums of squares of the values scaled to [0, 1] on their range.

    Raises:
        ValueError: if the minimum is under 5.
        RangeExceeded: if a sum does not fit the grid.

    Guarantees:
        - A told count is at least `minimum_cell`, and no smaller one follows from the told ones and the number of rows.
        - Of a number with fewer values than `minimum_cell`, nothing is told.
        - Fewer missing values than `minimum_cell` are counted as the hospital's mean, or as the first code: the message
          is the one of a hospital that has that value there.
    """
    counts: list[int] = []
    sums: list[tuple[float, float, float]] = []
    for feature in described(cohort):
        if feature.kind == "category":
            counts += _category_counts(rows, cohort, feature, minimum_cell)
        else:
            bins, moments = _number_counts(_values(rows, cohort, feature), feature, minimum_cell)
            counts += bins
            sums.append(moments)
    columns = torch.tensor(sums, dtype=torch.float64).reshape(-1, 3).T.reshape(-1)
    return {"counts": torch.tensor(counts, dtype=torch.int64), "sums": GRID.encode(columns, 1)}


def read_tables(tables: Mapping[str, Tensor], cohort: Cohort, rows: int, minimum_cell: int) -> dict[str, Told]:
    """Feature → what a hospital tells of it, held against the rules by which it was to be told.

    Args:
        tables: of the layout that :func:`description_layout` gives.
        cohort: the declaration.
        rows: training rows of the hospital.
        minimum_cell: the one that it has applied.

    Raises:
        ValueError: naming the feature whose table no hospital can have made by these rules.
    """
    if not plausible(tables["sums"]):
        raise ValueError("the sums are not those of any values within the declared ranges")
    moments = (tables["sums"].reshape(3, -1).double() / 2.0**GRID.exponent).T.tolist()
    told, start, number = {}, 0, 0
    for feature in described(cohort):
        counts = tables["counts"][start : start + feature.cells].numpy()
        start += feature.cells
        told[feature.name] = Told(rows, minimum_cell, counts, (0.0, 0.0, 0.0))
        if feature.kind == "number":
            count, total, squares = moments[number]
            told[feature.name] = Told(rows, minimum_cell, counts, (count, total, squares))
            number += 1
        if not _possible(feature, told[feature.name]):
            raise ValueError(f"{feature.name}: expected counts of {rows} rows by the agreed rules, got others")
    return told


def _edges(kind: str, limits: tuple[float, float]) -> tuple[float, ...]:
    """Edges of the bins; those of whole numbers lie between these."""
    low, high = limits
    if kind == "integer":
        first, last = math.ceil(low), math.floor(high)
        if first <= last:
            width = math.ceil((last - first + 1) / BINS)
            bins = math.ceil((last - first + 1) / width)
            return tuple(first - 0.5 + width * place for place in range(bins + 1))
    return tuple(float(edge) for edge in np.linspace(low, high, BINS + 1))


def _values(rows: pd.DataFrame, cohort: Cohort, feature: Feature) -> Array:
    """One value a row, float64 of shape `(rows,)`, NaN where there is none."""
    if feature.name in cohort.target.label_columns:
        values: Array = rows[feature.name].to_numpy(dtype=np.float64)
        return values.clip(*feature.range)  # a follow-up beyond the horizon counts as the horizon
    name, _, part = feature.name.partition(".")
    column = cohort.columns[name]
    if column.channels is None:
        return rows[name].to_numpy(dtype=np.float64)
    steps = measurements(rows[name], column, name)[..., list(column.channels).index(part)].astype(np.float64)
    observed = np.count_nonzero(~np.isnan(steps), axis=1)
    return np.where(observed > 0, np.nansum(steps, axis=1) / np.maximum(observed, 1), np.nan)


def _category_counts(rows: pd.DataFrame, cohort: Cohort, feature: Feature, minimum_cell: int) -> list[int]:
    codes: list[object] = list(cohort.target.meanings) if feature.name == TARGET else list(feature.meanings)
    column = rows[feature.name]
    counts = [int((column == code).sum()) for code in codes]
    missing = int(column.isna().sum())
    if sum(counts) + missing != len(rows) or (missing and not feature.may_miss):  # the contract admits no such table
        return [WITHHELD] * feature.cells
    return told_categories(counts, missing, minimum_cell) if feature.may_miss else told_cells(counts, minimum_cell)


def _number_counts(values: Array, feature: Feature, minimum_cell: int) -> tuple[list[int], tuple[float, float, float]]:
    present = values[~np.isnan(values)]
    missing = len(values) - len(present)
    if len(present) < minimum_cell or (missing and not feature.may_miss):  # the contract does not admit the latter
        return [WITHHELD] * feature.cells, (0.0, 0.0, 0.0)
    low, high = feature.range
    unit = (present - low) / (high - low)
    count, total, squares = float(unit.size), float(unit.sum()), float(np.square(unit).sum())
    if missing < minimum_cell:
        # As in `statistics.column_sums`: the counts beside the number of rows would tell the missing values.
        mean = total / count
        count, total, squares = count + missing, total + missing * mean, squares + missing * mean * mean
        present = np.concatenate([present, np.full(missing, low + (high - low) * mean)])
    edges = np.array(feature.edges)
    place = np.clip(np.searchsorted(edges, present, side="right") - 1, 0, len(edges) - 2)
    bins = told_bins(np.bincount(place, minlength=len(edges) - 1).tolist(), minimum_cell)
    if feature.may_miss:
        bins.append(missing if missing >= minimum_cell else FEW)
    return bins, (count, total, squares)


def _possible(feature: Feature, told: Told) -> bool:
    """Whether a table can have been made by the rules above."""
    counts, rows, minimum = told.counts, told.rows, told.minimum_cell
    if feature.may_miss and counts[-1] == FEW:
        counts = counts[:-1]  # the other counts then hold every row
    shown = counts[counts != WITHHELD]
    if rows > MOST_VALUES or (shown < minimum).any() or shown.sum() > rows:
        return False
    withheld = len(counts) - len(shown)
    if feature.kind == "category":
        return bool(rows - shown.sum() >= minimum) if withheld > 1 else not withheld and bool(shown.sum() == rows)
    if not len(shown):
        return feature.may_miss and len(counts) == feature.cells and told.sums[0] == 0
    bins = counts[: len(feature.edges) - 1]
    values = bins[bins != WITHHELD].sum()
    return bool(shown.sum() == rows and bins[-1] != WITHHELD and counts[-1] != WITHHELD and values == told.sums[0])

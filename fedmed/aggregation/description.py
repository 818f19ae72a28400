"""What the hospitals' training rows look like, column by column, from counts and sums that each may tell.

A hospital counts its rows on a grid that the declaration fixes, withholds small counts by :mod:`fedmed.privacy.tables`,
and adds to that the sums of :mod:`fedmed.aggregation.statistics`. Everything over all hospitals follows from what each
has told; where counts were withheld, a figure has bounds within which the true one lies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, Self

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
from fedmed.typed_yaml import Record
from fedmed.weights import Layout

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

BINS = 64
"""Bins of a number's declared range; of an integer's, as many as hold equally many whole numbers, at most these."""
SHOWN_BINS = 16
WIDEST = 1 / 8
"""A quantile whose bounds are further apart than this share of the range gets no value: it would be a guess."""
PERCENTILES = (5, 25, 50, 75, 95)


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


class Between(Record):
    """A count and its share of all rows, or the bounds within which they lie because parts were withheld."""

    at_least: int
    at_most: int
    share: tuple[float, float]

    @classmethod
    def of(cls, rows: int, at_least: int, at_most: int) -> Self:
        """The bounds of a count among `rows`."""
        low, high = (round(count / rows, 4) if rows else 0.0 for count in (at_least, at_most))
        return cls(at_least=at_least, at_most=at_most, share=(low, high))

    def __str__(self) -> str:
        """The count; "at most 10" of one that is withheld, which is never shown as 0."""
        if self.at_least == self.at_most:
            return str(self.at_least)
        return f"{self.at_least}–{self.at_most}" if self.at_least else f"at most {self.at_most}"


class Quantile(Record):
    """The value below which a share of the rows lies, and the bounds within which the true one does."""

    value: float | None
    at_least: float
    at_most: float


class NumberSummary(Record):
    """A number over some hospitals: missing values, mean, variance (denominator n), quantiles and histogram.

    Figures are absent where no hospital told any. Fewer missing values of a hospital than its minimum cell count as
    its mean, as they do in training. The histogram's shares are estimates where bins were merged.
    """

    kind: Literal["number"] = "number"
    unit: str
    hospitals: int
    values: int
    missing: Between
    mean: float | None
    variance: float | None
    quantiles: dict[str, Quantile]
    edges: tuple[float, ...]
    shares: tuple[float, ...]


class CategorySummary(Record):
    """A category over some hospitals: what each code means, its rows, and those of missing values."""

    kind: Literal["category"] = "category"
    meanings: dict[str, str]
    counts: dict[str, Between]
    missing: Between


Summary = NumberSummary | CategorySummary


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


def summarise(feature: Feature, told: Sequence[Told]) -> Summary:
    """One feature over some hospitals, one or all.

    Args:
        feature: what is described.
        told: what each hospital told of it.

    Guarantees:
        - The true counts of all hospitals' rows together lie within the bounds. So do the true quantiles of the rows of
          those hospitals that have enough values to tell any; a quantile is the least value with that share of the rows
          at it or below (the inverse of the distribution function).
        - Where no bin was merged and no missing value withheld, the bounds of a quantile are one bin apart; the value
          is interpolated linearly inside the bin.
    """
    if feature.kind == "category":
        return CategorySummary(
            meanings=dict(feature.meanings),
            counts={code: _cell(feature, told, place) for place, code in enumerate(feature.meanings)},
            missing=_missing(feature, told),
        )
    heard = [part for part in told if part.sums[0] > 0]
    count, total, squares = (sum(part.sums[place] for part in heard) for place in range(3))
    low, high = feature.range
    mean = low + (high - low) * total / count if count else None
    variance = max(squares / count - (total / count) ** 2, 0.0) if count else None
    if variance is not None and count * variance <= 2 * len(heard) * 2.0**-GRID.exponent:  # what rounding alone makes
        variance = 0.0
    curves = _Curves.of(feature, heard)
    edges, shares = curves.histogram() if heard else ((), ())
    return NumberSummary(
        unit=feature.unit,
        hospitals=len(heard),
        values=round(count),
        missing=_missing(feature, told),
        mean=mean,
        variance=None if variance is None else (high - low) ** 2 * variance,
        quantiles={f"{p} %": curves.quantile(p) for p in PERCENTILES} if heard else {},
        edges=edges,
        shares=shares,
    )


class _Curves(NamedTuple):
    """How many of the pooled values lie below each edge: at least, at most, and interpolated. Shape `(edges,)` each."""

    edges: Array
    lower: Array
    middle: Array
    upper: Array
    doubtful: int

    @classmethod
    def of(cls, feature: Feature, told: Sequence[Told]) -> _Curves:
        size = len(feature.edges)
        lower, middle, upper = (np.zeros(size) for _ in range(3))
        for part in told:
            below = 0
            ends = np.flatnonzero(part.counts[: size - 1] != WITHHELD) + 1
            for start, end in pairwise([0, *ends.tolist()]):
                held, width = int(part.counts[end - 1]), end - start
                # Before the last bin of a group, it had not reached the minimum; of the last group this is not known.
                most = held if end == size - 1 else min(held, part.minimum_cell - 1)
                likely = min(held * (width - 1) / width, most)
                inside = slice(start + 1, end)
                lower[inside] += below
                upper[inside] += below + most
                middle[inside] += below + likely * np.arange(1, width) / max(width - 1, 1)
                below += held
                for curve in (lower, middle, upper):
                    curve[end] += below
        # A missing value that counts as a mean may be any of these rows, and may be none.
        doubtful = sum(part.minimum_cell - 1 for part in told if feature.may_miss and part.counts[-1] == FEW)
        return cls(np.array(feature.edges), lower, middle, upper, doubtful)

    def quantile(self, percent: int) -> Quantile:
        count = self.middle[-1]
        surely = 100 * self.lower - percent * count - (100 - percent) * self.doubtful >= 0
        hardly = 100 * self.upper - percent * count + percent * self.doubtful < 0
        at_most = self.edges[int(np.argmax(surely))] if surely.any() else self.edges[-1]
        at_least = self.edges[max(int(np.count_nonzero(hardly)) - 1, 0)]
        value = np.interp(percent / 100 * count, self.middle, self.edges)
        told = at_most - at_least <= WIDEST * (self.edges[-1] - self.edges[0])
        return Quantile(
            value=float(np.clip(value, at_least, at_most)) if told else None,
            at_least=float(at_least),
            at_most=float(at_most),
        )

    def histogram(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        shown = np.unique(np.linspace(0, len(self.edges) - 1, SHOWN_BINS + 1).round().astype(int))
        shares = np.diff(self.middle[shown]) / self.middle[-1]
        return (
            tuple(float(edge) for edge in self.edges[shown]),
            tuple(round(float(share), 4) for share in shares),
        )


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


def _rows(told: Sequence[Told]) -> int:
    return sum(part.rows for part in told)


def _cell(feature: Feature, told: Sequence[Told], place: int) -> Between:
    """A code's rows: what is told, and at most all that was withheld where it is withheld too."""
    at_least = at_most = 0
    for part in told:
        count = int(part.counts[place])
        if count == WITHHELD:
            at_most += _withheld(part)
        else:
            doubtful = feature.may_miss and place == 0 and part.counts[-1] == FEW
            at_least += max(count - part.minimum_cell + 1, 0) if doubtful else count
            at_most += count
    return Between.of(_rows(told), at_least, at_most)


def _withheld(part: Told) -> int:
    return part.rows - int(part.counts[part.counts >= 0].sum())


def _missing(feature: Feature, told: Sequence[Told]) -> Between:
    at_least = at_most = 0
    for part in told if feature.may_miss else ():
        count = int(part.counts[-1])
        if count == FEW:
            at_most += part.minimum_cell - 1
        elif count != WITHHELD:
            at_least += count
            at_most += count
        elif feature.kind == "category":
            at_most += _withheld(part)
        else:  # too few values to tell any
            at_least += max(part.rows - part.minimum_cell + 1, 0)
            at_most += part.rows
    return Between.of(_rows(told), at_least, at_most)

"""What the training rows of some hospitals look like together, from the tables that each has told.

Where counts were withheld, a figure has bounds within which the true one lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fedmed.aggregation.description import Feature, Told
from fedmed.aggregation.statistics import GRID
from fedmed.privacy.tables import FEW, WITHHELD
from fedmed.typed_yaml import Record

Array = NDArray[np.float64]

SHOWN_BINS = 16
WIDEST = 1 / 8
"""A quantile whose bounds are further apart than this share of the range gets no value: it would be a guess."""
PERCENTILES = (5, 25, 50, 75, 95)


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

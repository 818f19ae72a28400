"""A metric with its uncertainty, or the plain word that it cannot be estimated or may not be told."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, Self, TypeVar

import numpy as np
from pydantic import model_validator

from fedmed.evaluation.metrics import Array, resample_counts
from fedmed.evaluation.names import COUNTS
from fedmed.typed_yaml import Record

K = TypeVar("K")

RESAMPLES = 1000
FEWEST_RESAMPLES = 100
FEWEST_PER_CLASS = 10
UNDEFINED_AT_MOST = 0.025
DECIMALS = 4
_BLOCK = 1_000_000  # rows times resamples held at once: 8 MB an array


class Measurement(Record):
    """A value with its 95 % interval, or the reason why there is none.

    A suppressed value may have one bound: what anybody can work out from the rows and the minimum cell.

    >>> print(Measurement(value=0.812, low=0.741, high=0.874))
    .812 (.741–.874)
    >>> print(NOT_ESTIMABLE, SUPPRESSED, Measurement(reason="suppressed", low=0.65), sep=", ")
    not estimable, suppressed, ≥ .65
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: Literal["", "not estimable", "suppressed"] = ""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.value is None) != bool(self.reason):
            raise ValueError("a measurement has either a value or a reason for having none")
        ends = (self.low is not None) + (self.high is not None)
        if ends not in {"": (0, 2), "not estimable": (0,), "suppressed": (0, 1)}[self.reason]:
            raise ValueError("a value has both ends of its interval or none; a suppressed one has at most one bound")
        return self

    def __str__(self) -> str:
        return self.text()

    def text(self, decimals: int = 3) -> str:
        """For people: `.812 (.741–.874)`, `not estimable`, `suppressed`, or a bound such as `≥ .65`.

        Args:
            decimals: how many to show; 0 for a number of rows. A bound has two.
        """
        if self.value is not None:
            interval = "" if self.low is None else f" ({self.interval_text(decimals)})"
            return number(self.value, decimals) + interval
        if self.low is not None:
            return f"≥ {number(self.low, 2)}"
        return f"≤ {number(self.high, 2)}" if self.high is not None else self.reason

    def interval_text(self, decimals: int = 3) -> str:
        """`.741–.874`, or `−.051 to −.008` where a dash would be read as a minus; empty without an interval."""
        if self.low is None or self.high is None:
            return ""
        return (" to " if self.low < 0 else "–").join(number(end, decimals) for end in (self.low, self.high))


NOT_ESTIMABLE = Measurement(reason="not estimable")
SUPPRESSED = Measurement(reason="suppressed")


def number(value: float, decimals: int = 3) -> str:
    """A number without its leading zero, and with a minus sign that is one.

    >>> number(0.5), number(-0.0294), number(1.25), number(-0.0001), number(37, 0)
    ('.500', '−.029', '1.250', '.000', '37')
    """
    digits = f"{abs(value):.{decimals}f}"
    sign = "−" if value < 0 and float(digits) else ""
    return sign + (digits[1:] if digits.startswith("0.") else digits)


def texts(measured: Mapping[str, Measurement]) -> dict[str, str]:
    """Each measurement for people, numbers of patients as whole numbers.

    >>> texts({"rows": Measurement(value=37), "auroc": SUPPRESSED})
    {'rows': '37', 'auroc': 'suppressed'}
    """
    return {name: entry.text(0 if name in COUNTS else 3) for name, entry in measured.items()}


def assemble(
    names: Sequence[str],
    *,
    rows: int,
    shares: Mapping[str, Callable[[], Measurement]],
    statistics: Mapping[str, Callable[[Array], Array]],
    hidden: Collection[str],
    unknown: Collection[str],
    resamples: int,
    generator: np.random.Generator,
) -> dict[str, Measurement]:
    """Measurements of one model on the same rows, whatever is predicted.

    Args:
        names: of all measurements, in order; `rows` is one of them, every other is in `shares` or in `statistics`.
        rows: how many rows there are.
        shares: measurements that have an interval of their own.
        statistics: as for :func:`bootstrap`, which gives the interval.
        hidden: what is "suppressed".
        unknown: what is "not estimable", unless it is suppressed.
        resamples: how many to draw, at least 100.
        generator: the only source of randomness.
    """
    told = [name for name in names if name not in {*hidden, *unknown}]
    measured = {name: shares[name]() for name in told if name in shares}
    drawn = {name: statistics[name] for name in told if name in statistics}
    measured |= bootstrap(drawn, rows=rows, resamples=resamples, generator=generator)
    measured |= dict.fromkeys(unknown, NOT_ESTIMABLE) | {"rows": Measurement(value=rows)}
    return {name: SUPPRESSED if name in hidden else measured[name] for name in names}


def bootstrap(
    statistics: Mapping[K, Callable[[Array], Array]], *, rows: int, resamples: int, generator: np.random.Generator
) -> dict[K, Measurement]:
    """Each statistic of the rows with its percentile interval; all of them see the same resamples.

    Args:
        statistics: functions of how often each row counts, an array of shape `(resamples, rows)`, that return one of
            shape `(resamples,)`.
        rows: how many rows there are; at least one, unless there is no statistic.
        resamples: how many to draw, at least 100.
        generator: the only source of randomness.

    Raises:
        ValueError: if `resamples` is under 100; the 2.5 % point of so few is one of the lowest two.

    >>> import numpy as np
    >>> height = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> mean = {"mean": lambda counts: counts @ height / 5}
    >>> print(bootstrap(mean, rows=5, resamples=1000, generator=np.random.default_rng(0))["mean"].value)
    3.0
    """
    if resamples < FEWEST_RESAMPLES:
        raise ValueError(f"resamples: expected at least {FEWEST_RESAMPLES}, got {resamples}")
    if not statistics:
        return {}
    draws: dict[K, list[Array]] = {name: [] for name in statistics}
    block = max(1, _BLOCK // rows)
    for start in range(0, resamples, block):
        counts = resample_counts(rows, min(block, resamples - start), generator)
        for name, statistic in statistics.items():
            draws[name].append(statistic(counts))
    once = np.ones((1, rows))
    return {
        name: interval(float(statistic(once)[0]), np.concatenate(draws[name])) for name, statistic in statistics.items()
    }


def interval(value: float, draws: Array) -> Measurement:
    """A value with the percentile interval of its bootstrap.

    Args:
        value: the metric on the rows themselves; nan where undefined.
        draws: the metric on each resample, of shape `(resamples,)`; nan where undefined.

    >>> import numpy as np
    >>> print(interval(0.5, np.linspace(0, 1, 101)))
    .500 (.025–.975)
    >>> print(interval(0.5, np.array([0.4, 0.6, np.nan])))
    not estimable
    """
    defined = draws[np.isfinite(draws)]
    if not math.isfinite(value) or defined.size < (1 - UNDEFINED_AT_MOST) * draws.size:
        return NOT_ESTIMABLE
    low, high = np.percentile(defined, (2.5, 97.5))
    if high - low <= 1e-12:
        return Measurement(value=_rounded(value))
    return Measurement(value=_rounded(value), low=_rounded(low), high=_rounded(high))


def share(part: float, rows: float) -> Measurement:
    """A share of rows with Wilson's score interval (Wilson 1927, JASA 22; Brown, Cai & DasGupta 2001, section 3.1.1).

    Args:
        part: the rows counted.
        rows: the rows that they are a share of; at least one.

    >>> print(share(30, 30))
    1.000 (.886–1.000)
    """
    from scipy.stats import binomtest  # takes half a second, and who only reads measurements needs none

    low, high = binomtest(int(part), int(rows)).proportion_ci(0.95, method="wilson")
    return Measurement(value=_rounded(part / rows), low=_rounded(low), high=_rounded(high))


def _rounded(value: float) -> float:
    return round(float(value), DECIMALS) + 0.0  # no negative zero

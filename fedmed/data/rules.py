"""The rules of a cohort's contract, each written once: predicates over columns, and numbers taken of the whole table.

Great Expectations runs them to admit a hospital (:mod:`fedmed.data.contract`); prediction asks those that a single row
can break, without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from fedmed.data.arrays import beyond, channel_of, is_cell
from fedmed.data.cohort import PATIENT, SPLIT, Cohort, Column
from fedmed.data.split import SPLITS
from fedmed.errors import RecordsError
from fedmed.targets.kind import TARGET

Predicate = Callable[..., np.ndarray]
"""From one column or two, and what the rule gives, to which rows keep it: boolean of shape `(rows,)`."""


@dataclass(frozen=True)
class Rule:
    """A rule that each row keeps or breaks.

    Args:
        name: such as "age: range".
        says: what is expected, for people.
        columns: the column that it is about, and one beside it if the predicate takes two.
        predicate: of `PREDICATES`.
        given: what the predicate is given besides; numbers, text and lists only.
        may_break: the largest share of rows that may break it.
        of_one_row: whether a single row that breaks it is outside the contract, so that no model is asked about it.
    """

    name: str
    says: str
    columns: tuple[str, ...]
    predicate: str
    given: Mapping[str, Any] = field(default_factory=dict)
    may_break: float = 0.0
    of_one_row: bool = False


@dataclass(frozen=True)
class Total:
    """A rule that only the whole table keeps or breaks: a number taken of it lies from `low` to `high`.

    Args:
        name: such as "table: rows".
        says: what is expected, for people.
        measure: of `MEASURES`.
        column: the column that it is about; none if it is about the table.
        given: what the measure is given besides; numbers, text and lists only.
        low: the smallest that may be; none if there is no such bound.
        high: the largest that may be.
    """

    name: str
    says: str
    measure: str
    column: str | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None


def rules(cohort: Cohort) -> list[Rule | Total]:
    """The rules of a cohort's contract, in the order of the declaration."""
    return [
        *_of_table(cohort),
        *(rule for name, column in cohort.columns.items() for rule in _of_input(name, column)),
        *_of_patient(),
        *_of_target(cohort),
        _among(SPLIT, dict.fromkeys(SPLITS, "")),
        _missing(SPLIT),
    ]


def kept(rule: Rule, rows: pd.DataFrame) -> np.ndarray:
    """Which rows keep a rule; boolean of shape `(rows,)`."""
    return PREDICATES[rule.predicate](*(rows[name] for name in rule.columns), **rule.given)


def rows_outside(cohort: Cohort, rows: pd.DataFrame) -> dict[int, tuple[str, ...]]:
    """The rows that a model of this cohort must not be asked about, by the contract's rules of one row.

    Args:
        cohort: the declaration.
        rows: a frame with at least the cohort's columns, cleaned; others are not looked at.

    Returns:
        For the position of each such row (from 0, whatever the index) the columns with a value of the wrong type or
        size, outside the range or the categories, or missing where the declaration refuses that; in declared order. A
        series is outside if a channel that refuses it was observed outside its range.

    Raises:
        RecordsError: a column of the cohort is absent, or stands twice.
    """
    if wrong := [name for name in cohort.columns if list(rows.columns).count(name) != 1]:
        raise RecordsError(f"cohort {cohort.name}: expected each column once; absent or twice: {', '.join(wrong)}")
    outside: dict[int, dict[str, None]] = {}
    for rule in rules(cohort):
        if isinstance(rule, Rule) and rule.of_one_row:
            for position in np.flatnonzero(~kept(rule, rows)):
                outside.setdefault(int(position), {})[rule.columns[0]] = None
    return {position: tuple(outside[position]) for position in sorted(outside)}


def _of_table(cohort: Cohort) -> Iterator[Total]:
    def rows(of: str, least: int, **where: Any) -> Total:
        return Total(f"table: rows{of}", f"at least {least}", "rows", given=where, low=least)

    declared = [PATIENT, *cohort.columns, *cohort.target.label_columns, SPLIT]
    says = f"the {len(declared)} that are declared"
    yield Total("table: columns", says, "columns_astray", given={"declared": declared}, high=0)
    yield rows("", cohort.minimum.rows)
    for label in cohort.target.required:
        yield rows(f" of class {label}", cohort.minimum.per_class, where=TARGET, equals=label)
    for name in SPLITS:
        yield rows(f" in {name}", 1, where=SPLIT, equals=name)


def _of_input(name: str, column: Column) -> Iterator[Rule | Total]:
    def rule(what: str, says: str, predicate: str, **given: Any) -> Rule:
        return Rule(f"{name}: {what}", says, (name,), predicate, given, of_one_row=True)

    if column.cell_size:
        size = f"{column.cell_size} bytes, {' × '.join(map(str, column.array_shape))}"
        yield rule("type", size, "sized", size=column.cell_size)
        yield from _of_channels(name, column)
    elif column.range is None:
        yield rule("type", "text", "text")
        yield _among(name, column.categories or {}, of_one_row=True)
    else:
        low, high = column.range
        yield rule("type", "numbers", "number")
        yield rule("range", _from_to(low, high, column.unit), "between", low=low, high=high)
    if column.type == "integer":
        yield rule("whole numbers", "no fractions", "whole")
    # One row cannot tell a share: where some may be missing, any one may.
    yield _missing(name, column.largest_missing_share, of_one_row=column.missing == "refuse")


def _of_channels(name: str, column: Column) -> Iterator[Rule | Total]:
    channels = column.channels or {}
    for place, (channel, its) in enumerate(channels.items()):
        (low, high), own, share = its.range, f"{name}.{channel}", its.missing_at_most
        of_it = {"place": place, "channels": len(channels)}
        limits, says = {**of_it, "low": low, "high": high}, _from_to(low, high, its.unit)
        if its.outside == "refuse":
            yield Rule(f"{own}: range", says, (name,), "channel_between", limits, of_one_row=True)
        else:
            says = f"at most {_percent(its.outside_at_most)} of the observed steps not {says}"
            yield Total(f"{own}: outside", says, "share_of_steps_outside", name, limits, high=its.outside_at_most)
        if share < 1:
            says = f"never observed in at most {_percent(share)} of the rows"
            yield Rule(f"{own}: missing", says, (name,), "channel_observed", of_it, may_break=share)


def _of_patient() -> Iterator[Rule]:
    yield Rule(f"{PATIENT}: type", "text", (PATIENT,), "text")
    yield _missing(PATIENT)
    says = "all rows of a patient are in the same split"
    yield Rule(f"{PATIENT}: in one split only", says, (PATIENT, SPLIT), "in_one_only")


def _of_target(cohort: Cohort) -> Iterator[Rule | Total]:
    target = cohort.target
    yield Rule(f"{TARGET}: type", "numbers", (TARGET,), "number")
    yield _among(TARGET, target.meanings)
    yield _missing(TARGET)
    if target.has_prevalence:
        low, high = target.prevalence
        says = f"share of class 1 from {low:.12g} to {high:.12g}; see the rows of each class"
        yield Total(f"{TARGET}: prevalence", says, "mean", TARGET, low=low, high=high)
    for name, _, longest, unit in target.numbers:
        yield Rule(f"{name}: type", "numbers", (name,), "number")
        says = f"over 0, and at most {longest:.12g} {unit}"
        yield Rule(f"{name}: range", says, (name,), "above_and_at_most", {"low": 0, "high": longest})
        yield _missing(name)


def _among(name: str, values: Mapping[Any, str], *, of_one_row: bool = False) -> Rule:
    says = "one of " + ", ".join(f"{value} ({means})" if means else str(value) for value, means in values.items())
    return Rule(f"{name}: categories", says, (name,), "among", {"values": list(values)}, of_one_row=of_one_row)


def _missing(name: str, share: float = 0.0, *, of_one_row: bool = False) -> Rule:
    says = f"in at most {_percent(share)} of the rows"
    return Rule(f"{name}: missing", says, (name,), "present", may_break=share, of_one_row=of_one_row)


def _percent(share: float) -> str:
    return f"{100 * share:.12g} %"


def _from_to(low: float, high: float, unit: str) -> str:
    return f"from {low:.12g} to {high:.12g} {unit}".strip()


def _each(holds: Callable[..., bool]) -> Predicate:
    """The predicate that holds for every cell; a missing one keeps it, for `present` alone is about missing cells."""

    def predicate(cells: pd.Series, **given: Any) -> np.ndarray:
        each = zip(cells, cells.isna(), strict=True)
        return np.array([missing or holds(cell, **given) for cell, missing in each], dtype=bool)

    return predicate


def _present(cells: pd.Series) -> np.ndarray:
    return cells.notna().to_numpy(dtype=bool)


def _in_one_only(holders: pd.Series, groups: pd.Series) -> np.ndarray:
    return (groups.groupby(holders).transform("nunique") == 1).to_numpy(dtype=bool)


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float | np.integer | np.floating) and not isinstance(cell, bool)


def _is_whole(cell: Any) -> bool:
    return _is_number(cell) and bool(cell % 1 == 0)


def _is_between(cell: Any, low: float, high: float) -> bool:
    return _is_number(cell) and bool(low <= cell <= high)


def _is_above_and_at_most(cell: Any, low: float, high: float) -> bool:
    return _is_number(cell) and bool(low < cell <= high)


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str)


def _is_among(cell: Any, values: list[Any]) -> bool:
    return (_is_text(cell) or _is_number(cell)) and cell in values


# A cell that is no series fails by its type alone.


def _is_channel_between(cell: Any, place: int, channels: int, low: float, high: float) -> bool:
    return not _is_series(cell, channels) or not bool(beyond(channel_of(cell, place, channels), low, high).any())


def _is_channel_observed(cell: Any, place: int, channels: int) -> bool:
    return not _is_series(cell, channels) or not bool(np.isnan(channel_of(cell, place, channels)).all())


def _is_series(cell: Any, channels: int) -> bool:
    return isinstance(cell, bytes) and len(cell) % (4 * channels) == 0


PREDICATES: dict[str, Predicate] = {
    "present": _present,
    "number": _each(_is_number),
    "whole": _each(_is_whole),
    "between": _each(_is_between),
    "above_and_at_most": _each(_is_above_and_at_most),
    "text": _each(_is_text),
    "among": _each(_is_among),
    "sized": _each(is_cell),
    "channel_between": _each(_is_channel_between),
    "channel_observed": _each(_is_channel_observed),
    "in_one_only": _in_one_only,
}


def _rows(table: pd.DataFrame, where: str | None = None, equals: Any = None) -> int:
    return len(table) if where is None else int((table[where] == equals).sum())


def _columns_astray(table: pd.DataFrame, declared: list[str]) -> int:
    """How many columns are absent, not declared, or stand once more."""
    found = list(table.columns)
    return len(set(declared) - set(found)) + sum(name not in declared for name in found) + len(found) - len(set(found))


def _mean(cells: pd.Series) -> float:
    return float(cells.mean())


def _share_of_steps_outside(cells: pd.Series, place: int, channels: int, low: float, high: float) -> float:
    """The share of a channel's observed steps, over all rows, that lie outside its range; 0 of none."""
    values = [channel_of(cell, place, channels) for cell in cells if _is_series(cell, channels)]
    joined = np.concatenate(values) if values else np.empty(0, dtype=np.float32)
    observed = int((~np.isnan(joined)).sum())
    return int(beyond(joined, low, high).sum()) / observed if observed else 0.0


MEASURES: dict[str, Callable[..., float]] = {
    "rows": _rows,
    "columns_astray": _columns_astray,
    "mean": _mean,
    "share_of_steps_outside": _share_of_steps_outside,
}

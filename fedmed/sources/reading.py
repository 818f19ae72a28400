"""Read a hospital's own files into one clean table, or say what is wrong without quoting a cell.

Structure and types are checked here; whether values are plausible is the contract's question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedmed.data.cells import MISSING, as_code, as_text, categories, clean, numbers
from fedmed.data.cohort import PATIENT, Cohort, Column
from fedmed.errors import RecordsError
from fedmed.sources.long_form import series_of
from fedmed.sources.tables import parse_csv, read_table
from fedmed.targets.target import Target

_SEPARATORS = {";": "a semicolon", "\t": "a tab", "|": "a bar"}


def read_records(files: Sequence[Path], cohort: Cohort, site: str) -> pd.DataFrame:
    """The records of one hospital.

    Args:
        files: tables with the declared columns, as CSV (comma, UTF-8, a header row), Parquet or, of arrays, `.npz`. Of
            a series in long form, tables without the series, each patient once, and tables with one measurement a row;
            which is which is told by their columns, and the order does not matter.
        cohort: the declaration.
        site: the hospital's name; if the files have the cohort's site column, every row must carry it.

    Returns:
        A frame with `patient` (a digest, str), the declared inputs (numbers as float64 with NaN, categories as str
        with None, images and series as bytes with None) and the raw target columns (float64; the classes of a
        multiclass target as str). Columns that are not declared are left out.

    Raises:
        RecordsError: naming file, line or column, never a cell.
    """
    if not files:
        raise RecordsError(f"{site}: expected at least one CSV, Parquet or .npz file, got none")
    return _clean(_tables(files, cohort, cohort.table_columns), cohort, site)


def read_rows(file: Path, cohort: Cohort, *others: Path) -> pd.DataFrame:
    """Rows to predict: the declared inputs only, cleaned as :func:`read_records` does; the target need not be there.

    Args:
        file: a table of rows.
        cohort: the declaration.
        others: further tables; of a series in long form, that of the measurements.

    Returns:
        The declared inputs, in the order of the files' rows.

    Raises:
        RecordsError: naming file, line or column, never a cell.
    """
    table = _tables([file, *others], cohort, list(cohort.columns))
    return pd.DataFrame({name: _column(table[name], column, name) for name, column in cohort.columns.items()})


def read_embedded(cohort: Cohort, site: str) -> pd.DataFrame:
    """The records of one hospital in the table that ships with FedMed.

    Raises:
        RecordsError: if the declaration names no such table, or the table no such hospital.
    """
    table = _embedded_table(cohort, site)
    rows = table[table[cohort.site_column] == site]
    if rows.empty:
        known = ", ".join(sorted(table[cohort.site_column].unique()))
        raise RecordsError(
            f"{site}: the hospital has no records, and the table that ships with {cohort.name} knows only {known}."
            f" Add them with `fedmed data add --site {site} FILE`."
        )
    return _clean(rows.reset_index(drop=True), cohort, site)


def _embedded_table(cohort: Cohort, site: str) -> pd.DataFrame:
    if cohort.embedded is None or cohort.site_column is None:
        raise RecordsError(
            f"{site}: the hospital has no records; add them with `fedmed data add --site {site} FILE`, or, if"
            f" {cohort.name} is a public cohort, with `fedmed data fetch {cohort.name}`"
        )
    source = resources.files("fedmed.public.tables").joinpath(cohort.embedded, f"{cohort.embedded}.csv")
    if not source.is_file():
        raise RecordsError(f"no table named {cohort.embedded!r} ships with FedMed")
    return parse_csv(source.read_bytes(), cohort.embedded, partial(_chosen, cohort=cohort, needed=cohort.table_columns))


def _tables(files: Sequence[Path], cohort: Cohort, needed: list[str]) -> pd.DataFrame:
    """The needed columns of all files, and the site's; of a series in long form, a cell for each patient."""
    image = next(((name, column) for name, column in cohort.columns.items() if column.type == "image"), None)
    parts = [read_table(file, partial(_chosen, cohort=cohort, needed=needed), image) for file in files]
    if not _measured(cohort):
        return pd.concat([part.astype(object) for part in parts], ignore_index=True)
    (series,) = cohort.arrays()
    measured = _measured(cohort)
    long = [part for part in parts if list(part) == measured]
    rows = [part.astype(object) for part in parts if list(part) != measured]
    held = [series in part for part in rows]
    if rows and all(held) and not long:
        return pd.concat(rows, ignore_index=True)
    if not long or any(held):
        raise RecordsError(
            f"column {series}: expected it in the table of rows, or beside that a table of measurements with columns"
            f" {', '.join(measured)}; got {'both' if any(held) else 'neither'}"
        )
    if not rows and set(needed) > {series}:
        raise RecordsError(f"beside the measurements, expected a table with columns {', '.join(needed)}")
    return _with_series(rows, pd.concat(long, ignore_index=True)[measured], cohort)


def _measured(cohort: Cohort) -> list[str]:
    """Patient, time, parameter and value of a table of measurements; nothing if the cohort knows no such table."""
    form = next((column.long for column in cohort.columns.values() if column.long is not None), None)
    return [] if form is None else [cohort.patient_id or "", form.time, form.parameter, form.value]


def _chosen(header: list[str], name: str, *, cohort: Cohort, needed: list[str]) -> list[str]:
    """The columns of a file to read, by its header: those needed, or those of the measurements of a series."""
    site, measured = cohort.site_column, _measured(cohort)
    if measured and not (series := set(cohort.arrays())) & set(header):
        if set(measured) <= set(header):
            needed, site = measured, None
        else:
            needed = list(dict.fromkeys([measured[0], *(column for column in needed if column not in series)]))
    # What was found in the header is never quoted: in a file without a header it would be a patient's row.
    twice = sorted({column for column in (*needed, site) if column is not None and header.count(column) > 1})
    if twice:
        raise RecordsError(f"{name}: column {', '.join(twice)} stands twice in the header")
    if missing := [column for column in needed if column not in header]:
        if len(header) == 1 and (found := [words for mark, words in _SEPARATORS.items() if mark in header[0]]):
            raise RecordsError(f"{name}: expected cells separated by commas; the header seems to use {found[0]}")
        hint = " Is the header row missing?" if len(missing) == len(needed) else ""
        raise RecordsError(
            f"{name}: column {', '.join(missing)} missing; {cohort.name} declares {len(needed)} columns,"
            f" of which the header has {len(needed) - len(missing)}.{hint}"
        )
    return [*needed, *([site] if site is not None and site in header else [])]


def _with_series(rows: list[pd.DataFrame], long: pd.DataFrame, cohort: Cohort) -> pd.DataFrame:
    """The rows, each with its series; `long` has the columns of :func:`_measured`."""
    (series,) = cohort.arrays()
    column, (own, time, parameter, value) = cohort.columns[series], _measured(cohort)
    holders = _codes(long[own])
    table = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame({own: holders.unique()}, dtype=object)
    patients = _codes(table[own])
    if twice := int(patients.duplicated().sum()):
        raise RecordsError(f"column {own}: expected each patient once beside the measurements; {twice} rows repeat one")
    parameters = _codes(long[parameter])
    for name, found, known, what in (
        (own, holders, list(patients), "patient of the other table"),
        (parameter, parameters, list(column.channels or {}), "declared channel"),
    ):
        if not found.isin(known).any():
            raise RecordsError(f"column {name}: none of the measurements is of a {what}; is it written the same way?")
    minutes, values = _plain(long[time], time), _plain(long[value], value)
    cells = series_of(list(patients), holders, minutes, parameters, values, column)
    return table.assign(**{series: pd.Series(cells, dtype=object)})


def _codes(values: pd.Series) -> pd.Series:
    """Identities or names as text, :func:`as_code` of each; fast where many are the same."""
    places, distinct = pd.factorize(values.astype(object))
    texts = np.array([*map(as_code, distinct), ""], dtype=object)
    return pd.Series(texts[places], dtype=object)


def _plain(values: pd.Series, name: str) -> np.ndarray:
    """Numbers as float64 `(rows,)`; those of a Parquet file are numbers already."""
    if values.dtype.kind in "iuf":
        return values.to_numpy(dtype=np.float64)
    return _numbers(values.astype(object), name).to_numpy()


def _clean(table: pd.DataFrame, cohort: Cohort, site: str) -> pd.DataFrame:
    if cohort.site_column in table.columns:
        foreign = int((table[cohort.site_column].map(as_text) != site).sum())
        if foreign:
            raise RecordsError(
                f"{site}: in {foreign} of {len(table)} rows, column {cohort.site_column} is empty or names another"
                " hospital"
            )
    clean = {name: _column(table[name], column, name) for name, column in cohort.columns.items()}
    for target in cohort.target.columns:
        clean[target] = _raw_target(table[target], cohort.target, target)
        if (unlabelled := int(clean[target].isna().sum())) > 0:
            raise RecordsError(
                f"{site}: the target {target} is missing in {unlabelled} of {len(table)} rows; leave those rows out"
            )
    frame = pd.DataFrame(clean)
    if cohort.patient_id is None:
        identity = pd.Series(["\x1f".join(map(_identity, row)) for row in frame.itertuples(index=False)])
    else:
        identity = table[cohort.patient_id].map(as_text)
        if (unnamed := int(identity.isin(MISSING).sum())) > 0:
            raise RecordsError(f"{site}: {cohort.patient_id} is missing in {unnamed} of {len(table)} rows")
    # Not keyed: the split is ordered by it and must be the same wherever the same rows are split. It stays encrypted.
    frame.insert(
        0, PATIENT, [hashlib.sha256(f"{cohort.name}\x1f{value}".encode()).hexdigest()[:32] for value in identity]
    )
    return frame


def _raw_target(values: pd.Series, target: Target, name: str) -> pd.Series:
    if target.classes is not None:
        return categories(values, MISSING - target.classes.keys()).values
    return _numbers(values, name)


def _identity(value: Any) -> str:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else as_text(value)


def _column(values: pd.Series, column: Column, name: str) -> pd.Series:
    cells, unread = clean(values, column)
    if column.cell_size:
        return _of_size(cells, unread, column, name)
    if column.type == "category":
        return cells
    return _finite(cells, unread, name, whole=column.type == "integer")


def _numbers(values: pd.Series, name: str) -> pd.Series:
    return _finite(*numbers(values), name)


def _of_size(cells: pd.Series, wrong: np.ndarray, column: Column, name: str) -> pd.Series:
    if wrong.any():
        shape = " × ".join(map(str, column.array_shape))
        raise RecordsError(
            f"column {name}: expected the {column.cell_size} bytes of {shape} in every cell, but {int(wrong.sum())} of"
            f" {len(cells)} have not (first in row {_first(wrong)})"
        )
    return cells


def _finite(cells: pd.Series, wrong: np.ndarray, name: str, *, whole: bool = False) -> pd.Series:
    if wrong.any():
        texts = cells[wrong].map(as_text)
        hint = " Is the decimal mark a comma? Export with a point." if _all_with_comma(texts) else ""
        raise RecordsError(
            f"column {name}: expected numbers, but {int(wrong.sum())} of {len(cells)} cells are none"
            f" (first in row {_first(wrong)}).{hint}"
        )
    infinite = np.isinf(cells.to_numpy())
    if infinite.any():
        raise RecordsError(
            f"column {name}: {int(infinite.sum())} numbers are too large to hold (first in row {_first(infinite)})"
        )
    fractional = (cells.notna() & (cells != cells.round())).to_numpy()
    if whole and fractional.any():
        raise RecordsError(
            f"column {name}: expected whole numbers, but {int(fractional.sum())} are not"
            f" (first in row {_first(fractional)})"
        )
    return cells


def _all_with_comma(texts: pd.Series) -> bool:
    return bool(texts.str.fullmatch(r"[+-]?\d+,\d+").all())


def _first(flags: np.ndarray) -> int:
    return int(np.flatnonzero(flags)[0]) + 1

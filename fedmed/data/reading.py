"""Read a hospital's own CSV or Parquet files into one clean table, or say what is wrong without quoting a cell.

Structure and types are checked here; whether values are plausible is the contract's question.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedmed.data.cohort import PATIENT, Cohort, Column
from fedmed.errors import RecordsError

MISSING = frozenset({"", "?", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"})
LARGEST_FILE = 1 << 30
LARGEST_CELL = 1 << 16
_SEPARATORS = {";": "a semicolon", "\t": "a tab", "|": "a bar"}


def read_records(files: Sequence[Path], cohort: Cohort, site: str) -> pd.DataFrame:
    """The records of one hospital.

    Args:
        files: CSV (comma, UTF-8, a header row) or Parquet files, all with the declared columns.
        cohort: the declaration.
        site: the hospital's name; if the files have the cohort's site column, every row must carry it.

    Returns:
        A frame with `patient` (a digest, str), the declared inputs (numbers as float64 with NaN, categories as str
        with None) and the raw target column (float64). Columns that are not declared are left out.

    Raises:
        RecordsError: naming file, line or column, never a cell.
    """
    if not files:
        raise RecordsError(f"{site}: expected at least one CSV or Parquet file, got none")
    return _clean(pd.concat([_read(file, cohort) for file in files], ignore_index=True), cohort, site)


def read_rows(file: Path, cohort: Cohort) -> pd.DataFrame:
    """Rows to predict: the declared inputs only, cleaned as :func:`read_records` does; the target need not be there."""
    table = _read(file, cohort, needed=list(cohort.columns))
    return pd.DataFrame({name: _column(table[name], column, name) for name, column in cohort.columns.items()})


def read_embedded(cohort: Cohort, site: str) -> pd.DataFrame:
    """The records of one hospital in the table that ships with FedMed.

    Raises:
        RecordsError: if the declaration names no such table, or the table no such hospital.
    """
    table = _embedded_table(cohort)
    rows = table[table[cohort.site_column] == site]
    if rows.empty:
        known = ", ".join(sorted(table[cohort.site_column].unique()))
        raise RecordsError(
            f"{site}: the hospital has no records, and the table that ships with {cohort.name} knows only {known}."
            f" Add them with `fedmed data add --site {site} FILE`."
        )
    return _clean(rows.reset_index(drop=True), cohort, site)


def _embedded_table(cohort: Cohort) -> pd.DataFrame:
    if cohort.embedded is None or cohort.site_column is None:
        raise RecordsError(f"{cohort.name} ships no table: add records with `fedmed data add --site SITE FILE`")
    source = resources.files("fedmed.datasets").joinpath(cohort.embedded, f"{cohort.embedded}.csv")
    if not source.is_file():
        raise RecordsError(f"no table named {cohort.embedded!r} ships with FedMed")
    return _parse_csv(source.read_bytes(), cohort.embedded, cohort, None)


def _read(file: Path, cohort: Cohort, needed: list[str] | None = None) -> pd.DataFrame:
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise RecordsError(f"{file.name}: expected at most {LARGEST_FILE >> 20} MiB; split it into several files")
        raw = file.read_bytes()
    except OSError as problem:
        raise RecordsError(f"{file}: cannot be read: {problem.strerror}") from None
    if raw[:4] in (b"PAR1", b"PARE"):
        return _parse_parquet(raw, file.name, cohort, needed)
    return _parse_csv(raw, file.name, cohort, needed)


def _parse_csv(raw: bytes, name: str, cohort: Cohort, needed: list[str] | None) -> pd.DataFrame:
    text = _decode(raw, name)
    csv.field_size_limit(LARGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _check_header(header, name, cohort, needed)
        rows = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise RecordsError(f"{name}, line {reader.line_num}: expected {len(header)} cells, got {len(row)}")
            rows.append(row)
    except csv.Error:
        raise RecordsError(
            f"{name}, line {reader.line_num}: not well-formed CSV (a quote left open, or an oversized cell)"
        ) from None
    if not rows:
        raise RecordsError(f"{name}: expected rows below the header, got none")
    # Undeclared columns go at once: they may even share a name, and another file of the hospital may lack them.
    wanted = [column for column in _wanted(cohort, needed) if column in header]
    return pd.DataFrame(rows, columns=header, dtype=object)[wanted]


def _wanted(cohort: Cohort, needed: list[str] | None) -> list[str]:
    return [*(needed or cohort.table_columns), *([cohort.site_column] if cohort.site_column else [])]


def _decode(raw: bytes, name: str) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecordsError(
            f"{name}: expected UTF-8, got UTF-16. Export the file again as UTF-8 without a byte-order mark."
        )
    if raw.startswith(b"\xef\xbb\xbf"):
        raise RecordsError(
            f"{name}: begins with a byte-order mark. Export it as UTF-8 without BOM ('CSV', not 'CSV UTF-8', in Excel)."
        )
    if (position := raw.find(b"\0")) >= 0:
        raise RecordsError(f"{name}: a NUL byte at byte {position}. The file is damaged or no text; export it again.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise RecordsError(
            f"{name}: expected UTF-8, but byte {problem.start} is not. Export the file again as UTF-8."
        ) from None


def _check_header(header: list[str], name: str, cohort: Cohort, needed: list[str] | None) -> None:
    # What was found in the header is never quoted: in a file without a header it would be a patient's row.
    expected = needed or cohort.table_columns
    twice = sorted({column for column in _wanted(cohort, needed) if header.count(column) > 1})
    if twice:
        raise RecordsError(f"{name}: column {', '.join(twice)} stands twice in the header")
    missing = [column for column in expected if column not in header]
    if not missing:
        return
    if len(header) == 1 and (found := [words for mark, words in _SEPARATORS.items() if mark in header[0]]):
        raise RecordsError(f"{name}: expected cells separated by commas; the header seems to use {found[0]}")
    hint = " Is the header row missing?" if len(missing) == len(expected) else ""
    raise RecordsError(
        f"{name}: column {', '.join(missing)} missing; {cohort.name} declares {len(expected)} columns,"
        f" of which the header has {len(expected) - len(missing)}.{hint}"
    )


def _parse_parquet(raw: bytes, name: str, cohort: Cohort, needed: list[str] | None) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(raw))
        _check_header(file.schema_arrow.names, name, cohort, needed)
        if file.metadata.num_rows == 0:
            raise RecordsError(f"{name}: expected rows, got none")
        present = [column for column in _wanted(cohort, needed) if column in file.schema_arrow.names]
        table = file.read(columns=present)
        rows: pd.DataFrame = table.to_pandas().astype(object)
        return rows
    except (pa.ArrowException, OSError):
        raise RecordsError(f"{name}: not a readable Parquet file (encrypted, truncated or damaged)") from None


def _clean(table: pd.DataFrame, cohort: Cohort, site: str) -> pd.DataFrame:
    if cohort.site_column in table.columns:
        foreign = int((table[cohort.site_column].map(_text) != site).sum())
        if foreign:
            raise RecordsError(
                f"{site}: in {foreign} of {len(table)} rows, column {cohort.site_column} is empty or names another"
                " hospital"
            )
    clean = {name: _column(table[name], column, name) for name, column in cohort.columns.items()}
    target = cohort.target.column
    clean[target] = _numbers(table[target], target, whole=False, codes=())
    if (unlabelled := int(clean[target].isna().sum())) > 0:
        raise RecordsError(
            f"{site}: the target {target} is missing in {unlabelled} of {len(table)} rows; leave those rows out"
        )
    frame = pd.DataFrame(clean)
    if cohort.patient_id is None:
        identity = pd.Series(["\x1f".join(map(_text, row)) for row in frame.itertuples(index=False)])
    else:
        identity = table[cohort.patient_id].map(_text)
        if (unnamed := int(identity.isin(MISSING).sum())) > 0:
            raise RecordsError(f"{site}: {cohort.patient_id} is missing in {unnamed} of {len(table)} rows")
    # Not keyed: the split is ordered by it and must be the same wherever the same rows are split. It stays encrypted.
    frame.insert(
        0, PATIENT, [hashlib.sha256(f"{cohort.name}\x1f{value}".encode()).hexdigest()[:32] for value in identity]
    )
    return frame


def _column(values: pd.Series, column: Column, name: str) -> pd.Series:
    if column.type == "category":
        codes = {as_code(code) for code in column.missing_codes} | MISSING
        coded = [as_code(value) for value in values]
        return pd.Series([None if code in codes else code for code in coded], dtype=object)
    numeric = [float(code) for code in column.missing_codes if isinstance(code, float | int)]
    words = [code for code in column.missing_codes if isinstance(code, str)]
    values = values.mask(values.map(_text).isin(words))
    return _numbers(values, name, whole=column.type == "integer", codes=numeric)


def _numbers(values: pd.Series, name: str, *, whole: bool, codes: Iterable[float]) -> pd.Series:
    texts = values.map(_text)
    missing = texts.isin(MISSING)
    # pd.to_numeric would read "0x1F" or "1_000" and drop "٣"; the pattern admits plain decimal numbers only.
    plain = texts.str.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?").astype(bool)
    wrong = ~missing & ~plain
    if wrong.any():
        comma = bool(texts[wrong].str.fullmatch(r"[+-]?\d+,\d+").all())
        hint = " Is the decimal mark a comma? Export with a point." if comma else ""
        raise RecordsError(
            f"column {name}: expected numbers, but {int(wrong.sum())} of {len(values)} cells are none"
            f" (first in row {_first(wrong)}).{hint}"
        )
    numbers = pd.to_numeric(texts.where(~missing, None), errors="coerce").astype("float64").reset_index(drop=True)
    infinite = pd.Series(np.isinf(numbers.to_numpy()))
    if infinite.any():
        raise RecordsError(
            f"column {name}: {int(infinite.sum())} numbers are too large to hold (first in row {_first(infinite)})"
        )
    fractional = numbers.notna() & (numbers != numbers.round())
    if whole and fractional.any():
        raise RecordsError(
            f"column {name}: expected whole numbers, but {int(fractional.sum())} are not"
            f" (first in row {_first(fractional)})"
        )
    return numbers.mask(numbers.isin(list(codes)))


def _first(flags: pd.Series) -> int:
    return int(np.flatnonzero(flags.to_numpy())[0]) + 1


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return str(value).strip()


def as_code(value: Any) -> str:
    """A category's code as text: 1, 1.0 and "1.0" are the same code."""
    text = _text(value)
    whole, point, zeros = text.partition(".")
    return whole if point and whole.lstrip("+-").isdigit() and set(zeros) <= {"0"} else text

"""A hospital's file as a table of raw cells: CSV, Parquet or NumPy arrays, none of which can run code.

Which columns are read is the caller's choice, once it has seen the header.
"""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from fedmed.data.cohort import Column
from fedmed.errors import RecordsError

LARGEST_FILE = 1 << 30
LARGEST_CELL = 1 << 16
IMAGES = "images"
"""The array of a `.npz` file that holds the image, whatever the declaration calls it."""

Choice = Callable[[list[str], str], list[str]]
"""From a header and the file's name to the columns to read, each of which stands in it; or a RecordsError."""


def read_table(file: Path, choose: Choice, image: tuple[str, Column] | None = None) -> pd.DataFrame:
    """The chosen columns of a file, in the order of the choice; at least one row.

    Args:
        file: its first bytes, not its name, say what it is.
        choose: the columns to read.
        image: name and declaration of the image, if there is one.

    Returns:
        A frame of text (CSV) or of what the file holds, images as bytes.

    Raises:
        RecordsError: naming file, line or column, never a cell.
    """
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise RecordsError(f"{file.name}: expected at most {LARGEST_FILE >> 20} MiB; split it into several files")
        raw = file.read_bytes()
    except OSError as problem:
        raise RecordsError(f"{file}: cannot be read: {problem.strerror}") from None
    if raw[:4] in (b"PAR1", b"PARE"):
        return _parse_parquet(raw, file.name, choose)
    if raw[:4] == b"PK\x03\x04":
        return _parse_npz(raw, file.name, choose, image)
    return parse_csv(raw, file.name, choose)


def parse_csv(raw: bytes, name: str, choose: Choice) -> pd.DataFrame:
    """The chosen columns of a CSV file, as text; see :func:`read_table`."""
    text = _decode(raw, name)
    csv.field_size_limit(LARGEST_CELL)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        chosen = choose(header, name)
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
    # The others go at once: they may even share a name, and another file of the hospital may lack them.
    return pd.DataFrame(rows, columns=header, dtype=object)[chosen]


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


def _parse_parquet(raw: bytes, name: str, choose: Choice) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(raw))
        chosen = choose(list(file.schema_arrow.names), name)
        if file.metadata.num_rows == 0:
            raise RecordsError(f"{name}: expected rows, got none")
        rows: pd.DataFrame = file.read(columns=chosen).to_pandas()
        return rows[chosen].astype({column: object for column in chosen if rows[column].dtype.kind not in "iuf"})
    except (pa.ArrowException, OSError):
        raise RecordsError(f"{name}: not a readable Parquet file (encrypted, truncated or damaged)") from None


def _parse_npz(raw: bytes, name: str, choose: Choice, image: tuple[str, Column] | None) -> pd.DataFrame:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as members:
            if not all(member.filename.endswith(".npy") for member in members.infolist()):
                raise RecordsError(f"{name}: a ZIP or Excel file; expected CSV, Parquet or the arrays of a .npz file")
            if sum(member.file_size for member in members.infolist()) > LARGEST_FILE:
                raise RecordsError(f"{name}: expected at most {LARGEST_FILE >> 20} MiB once unpacked; split it")
        with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
            stands_in = {image[0]: IMAGES} if image and image[0] not in arrays.files and IMAGES in arrays.files else {}
            header = [image[0] if image and stands_in and held == IMAGES else held for held in arrays.files]
            chosen = {column: arrays[stands_in.get(column, column)] for column in choose(header, name)}
    except (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, KeyError, NotImplementedError):
        raise RecordsError(f"{name}: not a readable .npz file of plain arrays (damaged, or it holds objects)") from None
    sizes = {array.shape[0] if array.ndim else 0 for array in chosen.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise RecordsError(f"{name}: expected arrays with one entry a row, all of the same length")
    columns = {
        column: _images(array, image[1], name) if image and column == image[0] else _flat(array, column, name)
        for column, array in chosen.items()
    }
    return pd.DataFrame({column: pd.Series(cells, dtype=object) for column, cells in columns.items()})


def _images(array: np.ndarray, column: Column, name: str) -> list[bytes]:
    layers, *size = column.array_shape
    if array.shape[1:] == (*size, layers) != (layers, *size):
        array = np.moveaxis(array, -1, 1)  # colours last, as picture files have them
    if array.dtype != np.uint8 or array.shape[1:] not in {column.array_shape, column.shape}:
        raise RecordsError(
            f"{name}: expected images of uint8 {column.shape}, got {array.dtype} {tuple(array.shape[1:])}"
        )
    return [np.ascontiguousarray(picture).tobytes() for picture in array]


def _flat(array: np.ndarray, column: str, name: str) -> list[object]:
    if array.size != len(array) or array.dtype.kind not in "biufU":
        raise RecordsError(f"{name}: array {column}: expected one number or text a row")
    cells: list[object] = array.reshape(-1).tolist()
    return cells

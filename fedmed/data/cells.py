"""What the raw cells of a declared column mean: numbers, codes, images or series, or that nothing is there.

A hospital's files and the rows that a model is asked about are cleaned here alike, so that a cell means the same at
training and at prediction. A cell that cannot be read stays as it came: what becomes of it is the caller's choice.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fedmed.data.arrays import as_bytes, as_cell, is_cell, raw_arrays
from fedmed.data.cohort import Column

MISSING = frozenset({"", "?", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"})

# pd.to_numeric would read "0x1F" or "1_000" and drop "٣"; the pattern admits plain decimal numbers only.
_PLAIN = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?"


class Cells(NamedTuple):
    """A column's cells once they are cleaned, on a fresh index.

    `values` holds numbers as float64 with NaN where one is missing, categories as text and images and series as bytes,
    both with None; it is of objects if a cell that could not be read stands in it. `unread` tells which could not,
    boolean of shape `(rows,)`.
    """

    values: pd.Series
    unread: np.ndarray


def clean(values: pd.Series, column: Column) -> Cells:
    """The cells of a declared column; cells that are clean already come out as they are.

    >>> age = Column(type="integer", range=(18, 100), missing_codes=(-9, "unknown"))
    >>> clean(pd.Series(["50", " 51.0", 52, -9, "unknown", "?", None], dtype=object), age).values.tolist()
    [50.0, 51.0, 52.0, nan, nan, nan, nan]
    """
    if column.cell_size:
        return arrays(values, column)
    if column.type == "category":
        return categories(values, {as_code(code) for code in column.missing_codes} | MISSING)
    return numbers(values, column.missing_codes)


def numbers(values: pd.Series, missing_codes: Collection[float | str] = ()) -> Cells:
    """Cells as float64; a missing code is a number, or a word that stands where a number should."""
    words = {code for code in missing_codes if isinstance(code, str)}
    codes = [float(code) for code in missing_codes if not isinstance(code, str)]
    if values.dtype.kind in "iuf" and not words:
        numbers = values.astype("float64").reset_index(drop=True)
        unread = np.isinf(numbers.to_numpy())
    else:
        texts = pd.Series([as_text(value) for value in values], dtype=object)
        missing = texts.isin(MISSING | words)
        unread = (~missing & ~texts.str.fullmatch(_PLAIN).astype(bool)).to_numpy()
        numbers = pd.to_numeric(texts.where(~missing, None), errors="coerce").astype("float64")
    numbers = numbers.mask(numbers.isin(codes))
    if unread.any():
        numbers = numbers.astype(object).where(~unread, values.astype(object).reset_index(drop=True))
    return Cells(numbers, unread)


def categories(values: pd.Series, missing: Collection[str]) -> Cells:
    """Codes as text, None for one of `missing`; any cell can be read as a code, though not as a declared one."""
    codes = [as_code(value) for value in values]
    cells = pd.Series([None if code in missing else code for code in codes], dtype=object)
    return Cells(cells, np.zeros(len(cells), dtype=bool))


def arrays(values: pd.Series, column: Column) -> Cells:
    """Images and series as bytes; a series without what stands for "not measured"."""
    cells: list[Any] = [None if _is_nothing(value) else as_bytes(value) for value in values]
    held = [place for place, cell in enumerate(cells) if is_cell(cell, column.cell_size)]
    unread = np.array([cell is not None for cell in cells], dtype=bool)
    unread[held] = False
    if column.type == "series":
        grids = raw_arrays([cells[place] for place in held], column, "").copy()
        for number, channel in enumerate((column.channels or {}).values()):
            steps = grids[..., number]
            steps[np.isnan(steps) | np.isin(steps, np.array(channel.missing_codes, dtype=steps.dtype))] = np.nan
        for place, grid in zip(held, grids, strict=True):
            cells[place] = as_cell(grid, column)
    return Cells(pd.Series(cells, dtype=object), unread)


def as_text(value: Any) -> str:
    """A cell as text without the space around it; nothing where nothing is there."""
    if isinstance(value, np.number | np.bool_):
        value = value.item()  # or a float32 would be written shorter than it is held
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA or value is pd.NaT:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    return str(value).strip()


def as_code(value: Any) -> str:
    """A category's code as text: 1, 1.0 and "1.0" are the same code."""
    text = as_text(value)
    whole, point, zeros = text.partition(".")
    return whole if point and whole.lstrip("+-").isdigit() and set(zeros) <= {"0"} else text


def _is_nothing(value: Any) -> bool:
    return not isinstance(value, bytes | bytearray | memoryview) and as_text(value) in MISSING

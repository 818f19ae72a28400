"""A cell means the same in a hospital's file and in a row that a model is asked about."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedmed.data.arrays import as_cell
from fedmed.data.cells import as_code, as_text, clean
from fedmed.data.cohort import Cohort, Column
from fedmed.data.rules import rows_outside
from fedmed.serving.prediction import as_declared
from fedmed.sources.reading import read_rows

AGE = Column(type="integer", range=(0, 120), missing="impute", missing_codes=(-9, "unknown"))
SEX = Column(type="category", categories={"0": "", "1": ""}, missing="impute", missing_codes=(9,))
STAY = Column.model_validate(
    {"type": "series", "steps": 2, "step": 60, "channels": {"HR": {"range": [1, 300], "missing_codes": [-1]}}}
)
NOTHING = [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, "", " ", "?", "NA", "nan", "null"]
CELLS: list[tuple[Column, Any, Any]] = [
    *((column, cell, None) for column in (AGE, SEX, STAY) for cell in NOTHING),
    *((AGE, cell, 50.0) for cell in (50, 50.0, np.int64(50), np.float32(50), "50", " 50 ", "50.0", "5e1")),
    *((AGE, cell, None) for cell in (-9, -9.0, "-9", "-9.0", "unknown")),
    (AGE, np.float32(0.1), float(np.float32(0.1))),
    (AGE, True, 1.0),
    *((SEX, cell, "1") for cell in (1, 1.0, np.int64(1), np.True_, True, "1", "1.0", " 1 ")),
    *((SEX, cell, None) for cell in (9, 9.0, "9", "9.0")),
]


def shown(value: object) -> object:
    return None if pd.api.types.is_scalar(value) and pd.isna(value) else value


@pytest.mark.parametrize(("column", "cell", "meant"), CELLS, ids=lambda each: getattr(each, "type", repr(each)[:20]))
def test_a_cell_is_read_as(column: Column, cell: object, meant: object) -> None:
    values, unread = clean(pd.Series([cell], dtype=object, index=[7]), column)
    assert values.index.tolist() == [0]
    assert unread.tolist() == [False]
    assert shown(values[0]) == meant
    # and what is clean already stays
    again, unread = clean(values, column)
    assert (shown(again[0]), unread.tolist()) == (meant, [False])


UNREAD: list[tuple[Column, Any]] = [
    *((AGE, cell) for cell in ("fifty", "1,5", "0x1F", "1_000", "inf", float("inf"), [50], 1j, b"50")),
    *((STAY, cell) for cell in (b"", b"1234567", "no series!", 3.5, [80, 90])),
]


@pytest.mark.parametrize(("column", "cell"), UNREAD, ids=lambda each: getattr(each, "type", repr(each)[:20]))
def test_a_cell_that_cannot_be_read_stays_beside_one_that_can(column: Column, cell: object) -> None:
    values, unread = clean(pd.Series([cell, None], dtype=object), column)
    assert unread.tolist() == [True, False]
    assert values[0] == cell
    assert shown(values[1]) is None


def test_a_column_of_numbers_needs_no_detour_through_text() -> None:
    for kind in ("int64", "float32", "float64"):
        values, unread = clean(pd.Series([50, -9], dtype=kind), AGE.model_copy(update={"missing_codes": (-9.0,)}))
        assert values.dtype == "float64"
        assert [shown(value) for value in values] == [50.0, None]
        assert not unread.any()


def test_what_stands_for_not_measured_in_a_series_is_nothing_in_bytes_and_in_base64() -> None:
    raw, meant = (as_cell(np.array([[80], [second]]), STAY) for second in (-1, np.nan))
    for cell in (raw, bytearray(raw), memoryview(raw), base64.b64encode(raw).decode()):
        values, unread = clean(pd.Series([cell], dtype=object), STAY)
        assert values.tolist() == [meant]
        assert not unread.any()


COHORT = Cohort.model_validate(
    {
        "name": "small",
        "target": {"name": "ill", "column": "outcome", "positive": "> 0"},
        "columns": {"age": AGE.model_dump(), "sex": SEX.model_dump(), "stay": STAY.model_dump()},
    }
)
FILE = """age,sex,stay
50,1,{good}
 51.0,1.0,{coded}
unknown,9,{good}
-9,9.0,{good}
121,2,{good}
"""


def test_a_file_and_the_same_cells_in_a_request_are_one_table(tmp_path: Path) -> None:
    good, coded = (base64.b64encode(as_cell(np.array([[80], [x]]), STAY)).decode() for x in (90, -1))
    text = FILE.format(good=good, coded=coded)
    (tmp_path / "rows.csv").write_text(text)
    lines = [line.split(",") for line in text.splitlines()]
    request = pd.DataFrame(lines[1:], columns=lines[0], dtype=object)
    read, asked = read_rows(tmp_path / "rows.csv", COHORT), as_declared(request, COHORT)
    pd.testing.assert_frame_equal(read, asked)
    pd.testing.assert_frame_equal(as_declared(read, COHORT), read)
    assert rows_outside(COHORT, asked) == {4: ("age", "sex")}


def test_text_and_codes() -> None:
    assert [as_text(each) for each in (" a ", 1, 1.5, True, np.float32(0.1), None)] == [
        "a",
        "1",
        "1.5",
        "1",
        "0.10000000149011612",
        "",
    ]
    assert [as_code(each) for each in (1, 1.0, "1.00", "1.5", "-2.0", "x.0")] == ["1", "1", "1", "1.5", "-2", "x.0"]

"""What the bytes of an image or a series mean, and which cells are none."""

from __future__ import annotations

import base64
import math

import numpy as np
import pytest

from fedmed.data.arrays import as_bytes, as_cell, channel_of, is_cell, measurements, outside, raw_arrays
from fedmed.data.cohort import Channel, Column
from fedmed.errors import RecordsError

PICTURE = Column(type="image", shape=(2, 3))
STAY = Column.model_validate(
    {
        "type": "series",
        "steps": 2,
        "step": 60,
        "channels": {"HR": {"range": [1, 300]}, "FiO2": {"range": [0.21, 1], "outside": "drop"}},
    }
)


def test_a_cell_comes_back_as_the_array_that_it_was() -> None:
    picture = np.arange(250, 256).reshape(2, 3)
    assert raw_arrays([as_cell(picture, PICTURE)] * 2, PICTURE, "x").tolist() == [[picture.tolist()]] * 2
    stay = np.array([[80.5, 0.25], [-1, 21]])
    assert raw_arrays([as_cell(stay, STAY)], STAY, "x")[0].tolist() == stay.tolist()
    assert raw_arrays([], STAY, "x").shape == (0, 2, 2)


def test_the_bytes_are_little_endian_float32_step_by_step() -> None:
    cell = np.array([1.5, -2.0, math.inf, 4.0], dtype="<f4").tobytes()
    assert len(cell) == STAY.cell_size == 16
    assert channel_of(cell, 0, 2).tolist() == [1.5, math.inf]
    assert channel_of(cell, 1, 2).tolist() == [-2.0, 4.0]
    assert as_cell(np.array([[1.5, -2.0], [math.inf, 4.0]], dtype=">f8"), STAY) == cell


def test_what_a_channel_drops_was_not_observed_and_what_it_refuses_stays() -> None:
    seen = measurements([as_cell(np.array([[800, 21.0], [80, 0.21]]), STAY)], STAY, "stay")[0]
    assert seen[:, 0].tolist() == [800, 80]
    assert np.isnan(seen[:, 1]).tolist() == [True, False]


@pytest.mark.parametrize(
    ("value", "wrong"),
    [(0.21, False), (0.2099, True), (1.0, False), (1.001, True), (math.nan, False), (math.inf, True)],
)
def test_limits_are_compared_as_the_values_are_held(value: float, wrong: bool) -> None:
    assert outside(np.array([value], dtype=np.float32), Channel(range=(0.21, 1))).tolist() == [wrong]


def test_base64_text_is_bytes_and_other_text_stays_what_it_is() -> None:
    assert as_bytes(base64.b64encode(b"\0\xff7").decode()) == b"\0\xff7"
    assert as_bytes(base64.encodebytes(bytes(100)).decode()) == bytes(100)
    assert as_bytes(bytearray(b"ab")) == as_bytes(memoryview(b"ab")) == b"ab"
    for other in ("no base64!", 7, None, [1]):
        assert as_bytes(other) is other


@pytest.mark.parametrize("cell", [b"12345", b"1234567", b"", "123456", None, 6, [1, 2, 3, 4, 5, 6]])
def test_a_cell_that_is_none_is_counted_and_not_quoted(cell: object) -> None:
    assert not is_cell(cell, 6)
    with pytest.raises(RecordsError, match=r"^column x: expected 6 bytes in every cell; 1 of 2 have not$"):
        raw_arrays([bytes(6), cell], PICTURE, "x")  # type: ignore[list-item]  # the point

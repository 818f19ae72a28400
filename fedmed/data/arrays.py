"""Images and series as the bytes of a table's cell, and back: what the bytes mean is said by the cohort's declaration.

A cell of an image is uint8 in C order; a cell of a series is little-endian float32 of shape `(steps, channels)`, NaN
where nothing was observed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any

import numpy as np

from fedmed.data.cohort import Channel, Column
from fedmed.errors import RecordsError

_TYPES: dict[str, np.dtype[Any]] = {"image": np.dtype("u1"), "series": np.dtype("<f4")}


def as_cell(array: np.ndarray, column: Column) -> bytes:
    """The cell that holds one image or one series.

    >>> list(as_cell(np.array([[0, 255], [7, 1]]), Column(type="image", shape=(2, 2))))
    [0, 255, 7, 1]
    """
    return array.astype(_TYPES[column.type]).tobytes()


def as_bytes(cell: Any) -> Any:
    """A cell as bytes; base64 text, in which a CSV file or JSON holds bytes, is decoded. Anything else stays."""
    if isinstance(cell, str):
        try:
            return base64.b64decode("".join(cell.split()), validate=True)  # some write it in lines
        except (binascii.Error, ValueError):
            return cell
    return bytes(cell) if isinstance(cell, bytearray | memoryview) else cell


def is_cell(cell: Any, size: int) -> bool:
    """Whether a cell is bytes, and as many as declared."""
    return isinstance(cell, bytes) and len(cell) == size


def channel_of(cell: bytes, place: int, channels: int) -> np.ndarray:
    """One channel of one series as it is: float32 of shape `(steps,)`."""
    return np.frombuffer(cell, dtype=_TYPES["series"])[place::channels]


def raw_arrays(cells: Iterable[bytes], column: Column, name: str) -> np.ndarray:
    """The arrays in cells, as they are.

    Args:
        cells: one a row, none missing.
        column: the declaration of an image or a series.
        name: the column's name, for the message.

    Returns:
        Read-only array of shape `(rows, channels, height, width)` uint8, or `(rows, steps, channels)` float32.

    Raises:
        RecordsError: a cell has another size than declared.
    """
    held = list(cells)
    if wrong := sum(not is_cell(cell, column.cell_size) for cell in held):
        raise RecordsError(
            f"column {name}: expected {column.cell_size} bytes in every cell; {wrong} of {len(held)} have not"
        )
    return np.frombuffer(b"".join(held), dtype=_TYPES[column.type]).reshape(len(held), *column.array_shape)


def measurements(cells: Iterable[bytes], column: Column, name: str) -> np.ndarray:
    """What was observed in series: as :func:`raw_arrays`, with NaN in place of what a channel drops.

    Returns:
        float32 of shape `(rows, steps, channels)`, its own memory.
    """
    values = raw_arrays(cells, column, name).copy()
    for place, channel in enumerate((column.channels or {}).values()):
        if channel.outside == "drop":
            values[..., place][outside(values[..., place], channel)] = np.nan
    return values


def outside(values: np.ndarray, channel: Channel) -> np.ndarray:
    """Whether each of a channel's values was observed and lies outside its range; boolean, of the values' shape.

    The limits are compared in float32, as the values are held: 0.21 is inside [0.21, 1].
    """
    return beyond(values, *channel.range)


def beyond(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Whether each value is outside [low, high] in float32; NaN is not."""
    return (values < np.float32(low)) | (values > np.float32(high))

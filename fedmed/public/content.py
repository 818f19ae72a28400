"""What a table holds, as one SHA-256: the same for every packaging, order of rows, and way to write a number."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pandas as pd


def content_digest(table: pd.DataFrame) -> str:
    """SHA-256 of a table's content.

    Columns are taken by name and rows in the order of their text, so neither order matters. Numbers have their
    shortest exact decimal text (whole ones without a point), missing values are null, bytes their own SHA-256.

    >>> one = pd.DataFrame({"a": [1.0, None], "b": ["x", b"y"]})
    >>> other = pd.DataFrame({"b": [b"y", "x"], "a": [float("nan"), 1]})
    >>> content_digest(one) == content_digest(other)
    True
    >>> content_digest(one) == content_digest(one.head(1))
    False
    """
    names = sorted(table.columns)
    rows = sorted(
        json.dumps([canonical(value) for value in row]) for row in zip(*(table[name] for name in names), strict=True)
    )
    digest = hashlib.sha256(json.dumps(names).encode())
    for row in rows:
        digest.update(b"\n" + row.encode())
    return digest.hexdigest()


def canonical(value: Any) -> str | None:
    """The canonical text of a cell: number, text or bytes; None for a missing one.

    >>> [canonical(value) for value in (54.0, np.int64(54), 0.1, -0.0, "54", b"", float("nan"), None)][:5]
    ['#54', '#54', '#0.1', '#0', '"54']
    """
    if isinstance(value, bytes):
        return f"*{hashlib.sha256(value).hexdigest()}"
    if isinstance(value, str):
        return f'"{value}'
    if value is None or value is pd.NA or np.isnan(value):
        return None
    number = float(value)
    return f"#{int(number)}" if number.is_integer() else f"#{number!r}"

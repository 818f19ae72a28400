"""One SHA-256 for what a table holds, whatever it was packed in."""

from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from fedmed.public.content import canonical, content_digest

CELLS = st.none() | st.text(max_size=5) | st.binary(max_size=4) | st.floats(allow_nan=True, allow_infinity=False)
TABLES = st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6)


def frame(rows: list[tuple[object, object]]) -> pd.DataFrame:
    return pd.DataFrame(
        {"a": pd.Series([r[0] for r in rows], dtype=object), "b": pd.Series([r[1] for r in rows], dtype=object)}
    )


@given(TABLES, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_columns_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    assert content_digest(frame(rows)) == content_digest(frame(shuffled)[["b", "a"]])


@given(TABLES, st.integers(0, 5), CELLS)
def test_another_cell_is_another_content(rows, place, cell):
    place %= len(rows)
    changed = [*rows[:place], (cell, rows[place][1]), *rows[place + 1 :]]
    same = canonical(cell) == canonical(rows[place][0])
    assert (content_digest(frame(rows)) == content_digest(frame(changed))) == same


def test_one_row_more_is_another_content():
    once = frame([("x", 1)])
    assert content_digest(once) != content_digest(pd.concat([once, once]))


def test_a_number_is_the_same_in_every_type_and_no_text():
    assert {canonical(value) for value in (3, 3.0, np.float32(3), np.int16(3), True + 2)} == {"#3"}
    assert canonical("3") == '"3'
    assert canonical(0.1) == "#0.1"
    assert canonical(np.float32(0.1)) == "#0.10000000149011612"

"""Small cells: what is told, what is withheld, and that the one does not give away the other."""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.privacy.cells import Count, checked_minimum, may_publish, published


def test_a_table_of_large_cells_is_told_whole() -> None:
    told = published({"negative": 25, "positive": 12}, 11)
    assert {name: count.value for name, count in told.items()} == {"rows": 37, "negative": 25, "positive": 12}


def test_the_large_class_is_withheld_with_the_small_one() -> None:
    told = published({"negative": 35, "positive": 2}, 11)
    assert {name: count.value for name, count in told.items()} == {"rows": 37, "negative": None, "positive": None}


@pytest.mark.parametrize(("small", "told"), [(11, True), (10, False), (1, False), (0, False)])
def test_the_minimum_itself_is_told_and_an_empty_class_is_not(small: int, told: bool) -> None:
    assert may_publish({"negative": 40, "positive": small}, 11) is told


def test_too_few_rows_withhold_the_total() -> None:
    assert published({"negative": 5, "positive": 5}, 11)["rows"].value is None


def test_a_withheld_count_is_never_shown_as_zero() -> None:
    assert str(Count(value=None)) == "suppressed"
    assert all("0" not in str(count) for count in published({"negative": 3, "positive": 0}).values())


def test_an_empty_class_looks_like_any_other_small_one() -> None:
    assert published({"negative": 37, "positive": 0}) == published({"negative": 30, "positive": 7})


@pytest.mark.parametrize("minimum", [4, 1, 0, -11])
def test_a_minimum_that_protects_nobody_is_refused(minimum: int) -> None:
    with pytest.raises(ValueError, match="at least 5"):
        checked_minimum(minimum)
    with pytest.raises(ValueError, match="at least 5"):
        published({"negative": 40, "positive": 40}, minimum)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="negative one"):
        may_publish({"negative": -1, "positive": 40})


def test_a_cell_called_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="no cell may be called"):
        published({"rows": 40})


@pytest.mark.parametrize("minimum", [5, 11])
@pytest.mark.parametrize("cells", [2, 3])
def test_no_withheld_count_follows_from_what_is_told(minimum: int, cells: int) -> None:
    """Every table with up to 26 patients is published; whoever knows the rule lists the tables that look like that."""
    consistent = defaultdict(list)
    most = 26 if cells == 2 else 18
    for table in itertools.product(range(most + 1), repeat=cells):
        if sum(table) <= most:
            told = published({f"cell {number}": count for number, count in enumerate(table)}, minimum)
            consistent[tuple(count.value for count in told.values())].append(table)
    for values, tables in consistent.items():
        for cell in range(cells):
            possible = {table[cell] for table in tables}
            if values[1 + cell] is None:
                assert len(possible) >= minimum
            else:
                assert possible == {values[1 + cell]}


@given(st.lists(st.integers(0, 100), min_size=1, max_size=5), st.integers(5, 30))
def test_nothing_under_the_minimum_is_ever_told(counts: list[int], minimum: int) -> None:
    told = published({f"cell {number}": count for number, count in enumerate(counts)}, minimum)
    assert all(count.value is None or count.value >= minimum for count in told.values())

"""No small count is told, and none follows by subtraction, even for whoever knows the rules and the total."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.privacy.tables import FEW, WITHHELD, told_bins, told_categories, told_cells

Counts = tuple[int, ...]
counts = st.lists(st.integers(0, 40), min_size=1, max_size=8)
minima = st.integers(5, 20)


def test_a_table_without_small_counts_is_told_whole() -> None:
    assert told_cells([11, 30, 12], 11) == [11, 30, 12]
    assert told_bins([11, 30, 12], 11) == [11, 30, 12]
    assert told_categories([11, 30], 12, 11) == [11, 30, 12]


def test_one_small_count_takes_the_last_large_one_with_it() -> None:
    assert told_cells([3, 40, 50], 11) == [WITHHELD, 40, WITHHELD]
    assert told_cells([40, 50, 3], 11) == [40, WITHHELD, WITHHELD]


def test_of_two_cells_both_are_told_or_none() -> None:
    assert told_cells([10, 90], 11) == [WITHHELD, WITHHELD]
    assert told_cells([0, 100], 11) == [WITHHELD, WITHHELD]


def test_a_large_count_that_would_not_hide_a_small_one_takes_the_next_with_it() -> None:
    # 4 + 15 = 19: with a large count of at least 11 beside it, the small one were at most 8. 10 must be possible.
    assert told_cells([4, 60, 70, 15], 11) == [WITHHELD, 60, WITHHELD, WITHHELD]


def test_few_missing_values_count_as_the_first_code() -> None:
    assert told_categories([30, 40], 7, 11) == [37, 40, FEW]
    assert told_categories([30, 40], 0, 11) == [30, 40, FEW]


def test_many_missing_values_are_a_cell_like_others() -> None:
    assert told_categories([30, 40], 25, 11) == [30, 40, 25]
    assert told_categories([3, 12], 25, 11) == [WITHHELD, WITHHELD, WITHHELD]


def test_bins_are_merged_with_the_next_until_they_are_enough() -> None:
    assert told_bins([0, 5, 6, 11, 10, 0, 1], 11) == [WITHHELD, WITHHELD, 11, 11, WITHHELD, WITHHELD, 11]


def test_the_rest_joins_the_last_group() -> None:
    assert told_bins([20, 3, 0], 11) == [WITHHELD, WITHHELD, 23]


def test_a_table_with_fewer_rows_than_the_minimum_tells_nothing() -> None:
    assert told_bins([4, 6], 11) == [WITHHELD, WITHHELD]
    assert told_cells([10], 11) == [WITHHELD]


@pytest.mark.parametrize("rule", [told_cells, told_bins])
def test_a_minimum_that_protects_nobody_and_a_negative_count_are_refused(rule: Callable[..., list[int]]) -> None:
    with pytest.raises(ValueError, match="at least 5"):
        rule([10], 4)
    with pytest.raises(ValueError, match="negative"):
        rule([10, -1], 5)
    with pytest.raises(ValueError, match="negative"):
        told_categories([10], -1, 5)


@given(counts, minima)
def test_what_is_told_is_large_and_what_is_not_is_more_than_one(table: list[int], minimum: int) -> None:
    told = told_cells(table, minimum)
    shown = [count for count in told if count != WITHHELD]
    assert all(count >= minimum for count in shown)
    assert all(count in (WITHHELD, true) for count, true in zip(told, table, strict=True))
    if len(shown) < len(table) and sum(table) >= minimum:
        assert sum(table) - sum(shown) >= minimum
        assert told.count(WITHHELD) > 1 or len(table) == 1


@given(counts, minima)
def test_groups_of_bins_hold_every_row_and_enough_each(table: list[int], minimum: int) -> None:
    told = told_bins(table, minimum)
    shown = [count for count in told if count != WITHHELD]
    assert all(count >= minimum for count in shown)
    assert sum(shown) == (sum(table) if sum(table) >= minimum else 0)
    assert (told[-1] != WITHHELD) == (sum(table) >= minimum)


@given(counts, minima, st.data())
def test_a_table_with_few_missing_values_is_told_like_one_without(
    table: list[int], minimum: int, data: st.DataObject
) -> None:
    missing = data.draw(st.integers(0, minimum - 1))
    fewer = data.draw(st.integers(0, missing))
    filled = [table[0] + missing - fewer, *table[1:]]
    assert told_categories(table, missing, minimum) == told_categories(filled, fewer, minimum)


# Every table of so many rows, sorted by what is told of it: each withheld count must have several possible values.

MINIMUM = 5


def tables(cells: int, rows: int) -> Iterator[Counts]:
    if cells == 1:
        yield (rows,)
        return
    for first in range(rows + 1):
        for rest in tables(cells - 1, rows - first):
            yield (first, *rest)


def fewest_possible_values(
    rule: Callable[[Counts], list[int]], hidden: Callable[[Counts, int], bool], cells: int, rows: int
) -> int:
    alike = defaultdict(list)
    for table in tables(cells, rows):
        alike[tuple(rule(table))].append(table)
    return min(
        (
            len({table[place] for table in same})
            for told, same in alike.items()
            for place in range(cells)
            if hidden(told, place)
        ),
        default=99,
    )


def untold(told: Counts, place: int) -> bool:
    return told[place] < 0


def merged(told: Counts, place: int) -> bool:
    return told[place] < 0 or (place > 0 and told[place - 1] < 0)


SIZES = [(2, 26), (3, 22), (4, 16), (5, 13)]


@pytest.mark.parametrize(("cells", "most"), SIZES)
def test_subtraction_finds_no_withheld_cell(cells: int, most: int) -> None:
    for rows in range(MINIMUM, most + 1):
        assert fewest_possible_values(lambda t: told_cells(t, MINIMUM), untold, cells, rows) >= MINIMUM - 1


@pytest.mark.parametrize(("cells", "most"), SIZES)
def test_subtraction_finds_no_withheld_category_and_no_missing_value(cells: int, most: int) -> None:
    for rows in range(2 * MINIMUM, most + 1):
        possible = fewest_possible_values(lambda t: told_categories(t[:-1], t[-1], MINIMUM), untold, cells, rows)
        assert possible >= MINIMUM - 1


@pytest.mark.parametrize(("cells", "most"), SIZES)
def test_subtraction_finds_no_merged_bin(cells: int, most: int) -> None:
    for rows in range(MINIMUM, most + 1):
        assert fewest_possible_values(lambda t: told_bins(t, MINIMUM), merged, cells, rows) >= MINIMUM


def test_the_search_finds_a_rule_that_only_leaves_out_small_counts() -> None:
    naive: Callable[[Counts], list[int]] = lambda t: [count if count >= MINIMUM else WITHHELD for count in t]  # noqa: E731
    assert fewest_possible_values(naive, untold, 3, 20) == 1

"""Which counts of a table may stand beside its total: small ones are merged with others, so no subtraction finds them.

The total of a table is known elsewhere (a hospital's training rows), so to leave out one small count would tell it.
Two rules withhold more than the small counts themselves (secondary suppression; Hundepool et al. 2012, *Statistical
Disclosure Control*, ch. 4). Which other counts are withheld follows from places in the table and not from which of
them is smallest: who knows the rule could compute from that (minimality attack; Wong et al. 2007, VLDB, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence

from fedmed.privacy.cells import checked_minimum

WITHHELD = -1
"""Stands for a count that is not told; never 0."""
FEW = -2
"""Stands for a number of missing values under the minimum, none among them."""


def told_cells(counts: Sequence[int], minimum: int) -> list[int]:
    """The counts of cells without an order, such as classes.

    Args:
        counts: rows in each cell; the cells do not overlap.
        minimum: the fewest rows that a told cell may hold.

    Returns:
        Each count, or WITHHELD. With one small count, the last counts that are not small are withheld too, until what
        they hold above the minimum is at least `minimum - 1` with the small counts: enough to hide any of these.

    Raises:
        ValueError: if a count is negative or the minimum is under 5.

    Guarantees:
        - Every told count is at least `minimum`, and where one is withheld, at least one other is.
        - The withheld counts sum to at least `minimum`, or the whole table does not.
        - For whoever knows the total, the minimum and this rule, a withheld count of a table of at least `minimum` rows
          has at least `minimum - 1` possible values.

    >>> told_cells([3, 40, 30], 11)  # 30 hides 3: only their sum, 33, follows from a total of 73
    [-1, 40, -1]
    >>> told_cells([3, 40, 12], 11)  # 12 and 3 sum to 15: 3 could be 4 at most, so 40 is withheld too
    [-1, -1, -1]
    """
    _check(counts, minimum)
    hidden = {place for place, count in enumerate(counts) if count < minimum}
    if not hidden:
        return list(counts)
    slack, cover = sum(counts[place] for place in hidden), 0
    for place in reversed(range(len(counts))):
        if cover and slack >= minimum - 1:
            break
        if place not in hidden:
            hidden.add(place)
            slack, cover = slack + counts[place] - minimum, cover + 1
    if not (cover and slack >= minimum - 1):
        return [WITHHELD] * len(counts)
    return [WITHHELD if place in hidden else count for place, count in enumerate(counts)]


def told_categories(counts: Sequence[int], missing: int, minimum: int) -> list[int]:
    """The counts of a category's codes and, last, of missing values.

    Args:
        counts: rows of each code.
        missing: rows without one.
        minimum: the fewest rows that a told cell may hold.

    Returns:
        What :func:`told_cells` tells of all these. Fewer missing values than `minimum` are told as FEW, none among
        them, and count as the first code: a small number there would hide other counts at most hospitals.

    Guarantees:
        - Every told count is at least `minimum`.
        - A withheld count of a table of at least `2 * minimum` rows has at least `minimum - 1` possible values.
        - A table with few missing values gives what the same table gives with any smaller number of them and as many
          more rows of the first code.

    >>> told_categories([248, 45], 10, 11), told_categories([248, 45], 40, 11)
    ([258, 45, -2], [248, 45, 40])
    """
    _check([missing], minimum)
    if missing < minimum:
        return [*told_cells([counts[0] + missing, *counts[1:]], minimum), FEW]
    rest, *codes = told_cells([missing, *counts], minimum)
    return [*codes, rest]


def told_bins(counts: Sequence[int], minimum: int) -> list[int]:
    """The counts of cells in order, such as a histogram's bins: neighbours are merged from the left.

    Args:
        counts: rows in each bin.
        minimum: the fewest rows that a told group of bins may hold.

    Returns:
        WITHHELD for a bin that is merged with the next, and at the last bin of each group the rows of the group. All
        are WITHHELD if the table has fewer rows than `minimum`.

    Raises:
        ValueError: if a count is negative or the minimum is under 5.

    Guarantees:
        - Every group holds at least `minimum` rows, and every row is in one group, so there is nothing to subtract.
        - A bin that was merged has at least `minimum` possible values for whoever knows this rule.
        - It does tell where a group ends: in the group's last bin, or in the last group some bin, is at least one row.

    >>> told_bins([2, 9, 30, 0, 4, 7, 1], 11)  # the last row has no group of its own
    [-1, 11, 30, -1, -1, -1, 12]
    """
    _check(counts, minimum)
    told, ends, held = [WITHHELD] * len(counts), [], 0
    for place, count in enumerate(counts):
        held += count
        if held >= minimum:
            told[place], held = held, 0
            ends.append(place)
    if ends and ends[-1] != len(counts) - 1:
        rest, told[ends[-1]] = told[ends[-1]] + held, WITHHELD
        told[-1] = rest
    return told


def _check(counts: Sequence[int], minimum: int) -> None:
    checked_minimum(minimum)
    if any(count < 0 for count in counts):
        raise ValueError("a table of counts: expected numbers of rows, got a negative one")

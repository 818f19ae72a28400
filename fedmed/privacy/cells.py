"""Small cells: which counts of patients may be told, and how the others are withheld."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedmed.typed_yaml import Record

LOWEST_MINIMUM = 5
DEFAULT_MINIMUM = 11


class Count(Record):
    """A number of patients, or the fact that it may not be told. A withheld count is never shown as 0.

    >>> print(Count(value=37), Count(value=None))
    37 suppressed
    """

    value: int | None

    def __str__(self) -> str:
        return "suppressed" if self.value is None else str(self.value)


def checked_minimum(minimum: int) -> int:
    """The minimum cell itself.

    Args:
        minimum: the fewest patients that a published cell may hold.

    Raises:
        ValueError: if it is under 5, below which a cell protects nobody.
    """
    if minimum < LOWEST_MINIMUM:
        raise ValueError(f"minimum cell: expected at least {LOWEST_MINIMUM} patients, got {minimum}")
    return minimum


def may_publish(counts: Mapping[str, int], minimum: int = DEFAULT_MINIMUM) -> bool:
    """Whether every count of a table may be told: each cell holds at least `minimum` patients.

    A cell of 0 is small too: a hospital without one healthy patient says the diagnosis of everybody in it.

    Args:
        counts: patients in each cell; the cells do not overlap.
        minimum: the fewest patients that a published cell may hold.

    Raises:
        ValueError: if a count is negative or the minimum is under 5.

    >>> may_publish({"healthy": 25, "diseased": 12}), may_publish({"healthy": 35, "diseased": 2})
    (True, False)
    """
    checked_minimum(minimum)
    if any(count < 0 for count in counts.values()):
        raise ValueError("a table of counts: expected numbers of patients, got a negative one")
    return all(count >= minimum for count in counts.values())


def published(counts: Mapping[str, int], minimum: int = DEFAULT_MINIMUM) -> dict[str, Count]:
    """The table as it may leave the hospital, its total under the key `rows`.

    Args:
        counts: patients in each cell; the cells do not overlap and none is called `rows`.
        minimum: the fewest patients that a published cell may hold.

    Returns:
        `rows` first, then each cell in the order given.

    Guarantees:
        - The total is told if, and only if, it is at least `minimum`.
        - If one cell is small, every cell is suppressed (complementary suppression; Hundepool et al. 2012,
          *Statistical Disclosure Control*, ch. 4): two numbers of "total = small + large" give the third.
        - Which cell is small is not told, nor whether it is empty.
        - It looks at one table. Two tables of nearly the same patients are the caller's matter.

    Raises:
        ValueError: if a count is negative, a cell is called `rows`, or the minimum is under 5.

    >>> {name: str(count) for name, count in published({"healthy": 35, "diseased": 2}).items()}
    {'rows': '37', 'healthy': 'suppressed', 'diseased': 'suppressed'}
    """
    if "rows" in counts:
        raise ValueError("a table of counts: no cell may be called `rows`, which is the total")
    open_table = may_publish(counts, minimum)
    rows = sum(counts.values())
    return {"rows": Count(value=rows if rows >= minimum else None)} | {
        name: Count(value=count if open_table else None) for name, count in counts.items()
    }


def told_groups(groups: Sequence[Mapping[str, int]], minimum: int = DEFAULT_MINIMUM, rest: int = 0) -> list[bool]:
    """Which groups of patients may be spoken of beside all of them together.

    Args:
        groups: patients of each class in each group, the same classes in every group; no patient is in two groups.
        minimum: the fewest patients that a published cell may hold.
        rest: patients in none of the groups. They are never spoken of, and count as one more group that is not told.

    Returns:
        For each group, whether figures of it may leave the hospital.

    Raises:
        ValueError: if a count is negative or the minimum is under 5.

    Guarantees:
        - A told group holds at least `minimum` patients of every class.
        - If one group is not told, another is not either: all patients less those of the told groups would be the one.
          Groups are held back from the last on, not the smallest first, of which an onlooker could conclude more (Wong
          et al. 2007, VLDB, section 3), until those held back have, of every class, at least `minimum - 1` patients
          beyond what a told group would need; if there are not as many, none is told.

    >>> told_groups([{"ill": 30, "well": 30}, {"ill": 2, "well": 20}, {"ill": 40, "well": 50}], 11)
    [True, False, False]
    >>> told_groups([{"ill": 30, "well": 30}, {"ill": 2, "well": 20}], 11)
    [False, False]
    """
    if rest < 0:
        raise ValueError("a table of counts: expected numbers of patients, got a negative one")
    told = [may_publish(group, minimum) for group in groups]
    if all(told) and not rest:
        return told
    classes = {name for group in groups for name in group}
    slack = {
        name: sum(group.get(name, 0) for group, may in zip(groups, told, strict=True) if not may) for name in classes
    }
    covers = 0
    for place in reversed(range(len(groups))):
        if covers and all(spare >= minimum - 1 for spare in slack.values()):
            break
        if told[place]:
            told[place], covers = False, covers + 1
            slack = {name: spare + groups[place].get(name, 0) - minimum for name, spare in slack.items()}
    if not (covers and all(spare >= minimum - 1 for spare in slack.values())):
        return [False] * len(groups)
    return told

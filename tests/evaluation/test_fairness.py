"""Spread over hospitals, and figures in subgroups that no subtraction finds."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmed.evaluation.fairness import of_subgroups, spread
from fedmed.evaluation.measurement import SUPPRESSED, Measurement
from fedmed.privacy.cells import told_groups


def test_the_spread_by_hand() -> None:
    found = spread("auroc", {"north": 0.9, "south": 0.7, "west": 0.8})
    assert found is not None
    assert (found.best, found.best_at, found.worst, found.worst_at) == (0.9, "north", 0.7, "south")
    assert (found.gap, found.hospitals) == (0.2, 3)
    assert found.deviation == pytest.approx((0.02 / 3) ** 0.5, abs=1e-6)


def test_of_an_error_the_largest_is_the_worst() -> None:
    found = spread("integrated_brier", {"north": 0.1, "south": 0.2})
    assert found is not None
    assert (found.best_at, found.worst_at) == ("north", "south")


@pytest.mark.parametrize("values", [{}, {"north": 0.5}])
def test_one_hospital_has_no_spread(values: dict[str, float]) -> None:
    assert spread("auroc", values) is None


def groups(*sizes: tuple[int, int]) -> list[dict[str, int]]:
    return [{"ill": ill, "well": well} for ill, well in sizes]


def test_groups_with_enough_of_every_class_are_told() -> None:
    assert told_groups(groups((11, 11), (40, 90)), 11) == [True, True]


def test_a_single_small_group_takes_another_with_it() -> None:
    assert told_groups(groups((3, 30), (50, 50), (50, 50)), 11) == [False, True, False]


def test_another_that_barely_suffices_hides_nothing_and_a_third_is_taken() -> None:
    """11 and 3 ill: of their sum, 14, the small group could have 3 at most."""
    assert told_groups(groups((3, 30), (50, 50), (90, 90), (11, 50)), 11) == [False, True, False, False]


def test_a_group_without_a_patient_is_small() -> None:
    assert told_groups(groups((0, 0), (50, 50)), 11) == [False, False]


def test_patients_in_no_group_are_one_that_is_never_told() -> None:
    assert told_groups(groups((50, 50), (50, 50), (50, 50)), 11, rest=1) == [True, True, False]
    assert told_groups(groups((50, 50)), 11, rest=1) == [False]


def test_nobody_is_told_where_nothing_can_hide_the_small_group() -> None:
    assert told_groups(groups((1, 12), (12, 12)), 11) == [False, False]


def test_no_small_count_follows_from_what_is_told() -> None:
    """Every table of three groups with 0 to 20 ill in each, minimum 5: who knows the rule, the total and the counts of

    the told groups still finds at least four possible counts for each group that is not told.
    """
    minimum, largest = 5, 20
    possible: dict[Any, list[set[int]]] = {}
    for ill in itertools.product(range(largest + 1), repeat=3):
        well = (8, 9, 30)  # enough, so that the one class decides
        told = told_groups(groups(*zip(ill, well, strict=True)), minimum)
        seen = (sum(ill), tuple(count if may else None for count, may in zip(ill, told, strict=True)))
        sets = possible.setdefault(seen, [set(), set(), set()])
        for place, count in enumerate(ill):
            sets[place].add(count)
    for (total, told_counts), sets in possible.items():
        between = total - sum(count or 0 for count in told_counts)
        for count, found in zip(told_counts, sets, strict=True):
            if count is not None:
                assert count >= minimum
            elif minimum - 1 <= between <= largest:  # with more, the largest count tried here decides
                assert len(found) >= minimum - 1, (total, told_counts)


def test_counts_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        told_groups(groups((-1, 5)), 11)
    with pytest.raises(ValueError, match="negative"):
        told_groups(groups((50, 50)), 11, rest=-1)


def in_subgroups(codes: list[object], label: NDArray[Any], minimum: int = 11) -> dict[str, dict[str, Measurement]]:
    return of_subgroups(
        codes,
        ["0", "1"],
        classes=lambda rows: {"ill": int(label[rows].sum()), "well": int((1 - label[rows]).sum())},
        measure=lambda rows: {"rows": Measurement(value=int(rows.sum()))},
        names=("rows",),
        minimum_cell=minimum,
    )


def test_subgroups_are_measured_on_their_own_rows() -> None:
    found = in_subgroups(["0"] * 40 + ["1"] * 60, np.tile([0, 1], 50))
    assert {code: told["rows"].value for code, told in found.items()} == {"0": 40, "1": 60}


def test_of_two_subgroups_both_are_told_or_neither() -> None:
    found = in_subgroups(["0"] * 12 + ["1"] * 60, np.tile([0, 1], 36))
    assert [told["rows"] for told in found.values()] == [SUPPRESSED, SUPPRESSED]


def test_a_hospital_with_one_sex_does_not_say_so() -> None:
    found = in_subgroups(["1"] * 100, np.tile([0, 1], 50))
    assert [told["rows"] for told in found.values()] == [SUPPRESSED, SUPPRESSED]


def test_rows_without_a_value_are_not_found_by_subtraction() -> None:
    found = in_subgroups(["0"] * 48 + ["1"] * 50 + [None, np.nan], np.tile([0, 1], 50))
    assert [str(told["rows"].text(0)) for told in found.values()] == ["48", "suppressed"]  # 2 hide among 52

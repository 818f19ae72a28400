"""Who is in which split: by patient, in the declared shares, whatever the order of rows, and stable under growth."""

from __future__ import annotations

import random

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.data.split import SPLITS, SplitOptions, assign, split

people = st.lists(st.tuples(st.integers(0, 30).map(str), st.integers(0, 1)), max_size=60)
options = st.builds(
    SplitOptions,
    train=st.sampled_from([0.5, 0.6, 0.7]),
    validation=st.sampled_from([0.1, 0.15, 0.25]),
    seed=st.integers(0, 9),
)


def by_patient(rows: list[tuple[str, int]], chosen: SplitOptions, site: str = "north") -> dict[str, str]:
    names = assign([patient for patient, _ in rows], [label for _, label in rows], chosen, site)
    found: dict[str, str] = {}
    for (patient, _), name in zip(rows, names, strict=True):
        assert found.setdefault(patient, name) == name, "a patient stands in two splits"
    return found


@given(people, options)
def test_no_patient_is_in_two_splits(rows: list[tuple[str, int]], chosen: SplitOptions) -> None:
    assert set(by_patient(rows, chosen).values()) <= set(SPLITS)


@given(people, options, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(
    rows: list[tuple[str, int]], chosen: SplitOptions, chance: random.Random
) -> None:
    shuffled = list(rows)
    chance.shuffle(shuffled)
    assert by_patient(rows, chosen) == by_patient(shuffled, chosen)


@given(st.integers(0, 80), st.integers(0, 80), options)
def test_the_shares_hold_within_each_class_up_to_rounding(healthy: int, ill: int, chosen: SplitOptions) -> None:
    rows = [(f"h{i}", 0) for i in range(healthy)] + [(f"i{i}", 1) for i in range(ill)]
    found = by_patient(rows, chosen)
    for letter, size in (("h", healthy), ("i", ill)):
        names = [name for patient, name in found.items() if patient.startswith(letter)]
        assert abs(names.count("train") - chosen.train * size) <= 0.5 + 1e-9
        until = names.count("train") + names.count("validation")
        assert abs(until - (chosen.train + chosen.validation) * size) <= 0.5 + 1e-9


@given(st.sets(st.integers(0, 200), min_size=1, max_size=60), st.integers(201, 400), options)
def test_a_new_patient_moves_at_most_one_other_across_each_cut(
    ids: set[int], newcomer: int, chosen: SplitOptions
) -> None:
    before = by_patient([(str(i), 1) for i in ids], chosen)
    after = by_patient([(str(i), 1) for i in [*ids, newcomer]], chosen)
    assert sum(before[patient] != after[patient] for patient in before) <= 2


@given(st.integers(0, 5), st.sets(st.integers(0, 50), max_size=20))
def test_a_new_patient_of_one_class_moves_nobody_of_the_other(seed: int, ids: set[int]) -> None:
    chosen = SplitOptions(seed=seed)
    healthy = [(f"h{i}", 0) for i in ids]
    before, after = by_patient(healthy, chosen), by_patient([*healthy, ("new", 1)], chosen)
    assert {patient: after[patient] for patient in before} == before


def test_one_ill_row_makes_a_patient_ill() -> None:
    patients = [f"p{i}" for i in range(20)]
    once = by_patient([(patient, 1) for patient in patients], SplitOptions())
    twice = by_patient([(patient, label) for patient in patients for label in (1, 0)], SplitOptions())
    assert once == twice
    assert once != by_patient([(patient, int(patient > "p5")) for patient in patients], SplitOptions())


def test_a_hospital_with_five_rows_has_three_one_and_one() -> None:
    # round(.6 · 5) = 3, round(.75 · 5) = 4
    names = list(assign(list("abcde"), [1] * 5, SplitOptions(), "tiny"))
    assert [names.count(name) for name in SPLITS] == [3, 1, 1]


def test_a_hospital_with_one_class_is_split_all_the_same() -> None:
    names = list(assign([str(i) for i in range(100)], [0] * 100, SplitOptions(), "north"))
    assert [names.count(name) for name in SPLITS] == [60, 15, 25]


def test_both_classes_are_cut_at_the_declared_shares() -> None:
    rows = [(f"{label}-{i}", label) for label in (0, 1) for i in range(100 if label else 20)]
    found = by_patient(rows, SplitOptions())
    ill = [name for patient, name in found.items() if patient.startswith("1")]
    healthy = [name for patient, name in found.items() if patient.startswith("0")]
    assert [ill.count(name) for name in SPLITS] == [60, 15, 25]
    assert [healthy.count(name) for name in SPLITS] == [12, 3, 5]


def test_seed_and_site_give_other_splits() -> None:
    rows = [(str(i), i % 2) for i in range(40)]
    first = by_patient(rows, SplitOptions(seed=1))
    assert first == by_patient(rows, SplitOptions(seed=1))
    assert first != by_patient(rows, SplitOptions(seed=2))
    assert first != by_patient(rows, SplitOptions(seed=1), site="south")


def test_no_rows_give_three_empty_tables() -> None:
    empty = pd.DataFrame({"patient": pd.Series([], dtype=object), "age": pd.Series([], dtype=float)})
    tables = split(empty, pd.DataFrame({"target": pd.Series([], dtype="int64")}), SplitOptions(), "north")
    assert {name: len(table) for name, table in tables.items()} == dict.fromkeys(SPLITS, 0)


cells = st.tuples(
    st.sampled_from("abcdef"), st.sampled_from([1.0, 2.0, float("nan")]), st.sampled_from(["x", "y", None])
)


@given(st.lists(cells, min_size=1, max_size=25), st.randoms(use_true_random=False))
def test_the_tables_are_the_same_whatever_the_order_of_the_records(
    rows: list[tuple[str, float, str | None]], chance: random.Random
) -> None:
    def tables(lines: list[tuple[str, float, str | None]]) -> dict[str, pd.DataFrame]:
        records = pd.DataFrame(lines, columns=["patient", "age", "sex"]).astype({"patient": object, "sex": object})
        labels = pd.DataFrame({"target": records["patient"].map(lambda patient: int(patient < "d"))})
        return split(records, labels, SplitOptions(), "north")

    shuffled = list(rows)
    chance.shuffle(shuffled)
    first, second = tables(rows), tables(shuffled)
    assert sum(map(len, first.values())) == len(rows)
    for name in SPLITS:
        pd.testing.assert_frame_equal(first[name], second[name])


@pytest.mark.parametrize("shares", [(0.7, 0.3), (0.9, 0.2), (0, 0.5), (1, 0.1), (0.5, -0.1)])
def test_shares_that_leave_no_test_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"train|validation"):
        SplitOptions(train=shares[0], validation=shares[1])


@given(st.lists(st.integers(0, 60), min_size=1, max_size=5), options)
def test_the_shares_hold_within_each_of_any_number_of_classes(sizes: list[int], chosen: SplitOptions) -> None:
    rows = [(f"{label}-{i}", label) for label, size in enumerate(sizes) for i in range(size)]
    found = by_patient(rows, chosen)
    for label, size in enumerate(sizes):
        names = [name for patient, name in found.items() if patient.startswith(f"{label}-")]
        assert abs(names.count("train") - chosen.train * size) <= 0.5 + 1e-9


def test_the_split_of_two_classes_does_not_change_when_a_third_is_declared() -> None:
    rows = [(str(i), i % 2) for i in range(40)]
    more = by_patient(rows + [(f"x{i}", 2) for i in range(9)], SplitOptions())
    assert by_patient(rows, SplitOptions()).items() <= more.items()


def test_a_survival_target_is_stratified_by_its_event_and_keeps_the_duration() -> None:
    records = pd.DataFrame({"patient": [f"p{i:02d}" for i in range(40)], "age": 50.0})
    labels = pd.DataFrame({"target": [int(i < 20) for i in range(40)], "duration": [float(i + 1) for i in range(40)]})
    tables = split(records, labels, SplitOptions(), "north")
    assert [int(tables[name]["target"].sum()) for name in SPLITS] == [12, 3, 5]
    joined = pd.concat(tables.values()).sort_values("patient")
    assert list(joined) == ["patient", "age", "target", "duration"]
    assert joined["duration"].tolist() == labels["duration"].tolist()

"""Whose turn it is: drawn from public things alone, fair, and the same whoever computes it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmed.strategies.base import Turn
from fedmed.strategies.buffered import as_they_arrive, polynomial
from fedmed.strategies.options import AggregationOptions
from fedmed.strategies.table import STRATEGIES

SITES = ("east", "north", "south", "west")
every_strategy = pytest.mark.parametrize("name", STRATEGIES)
hospitals = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=6, unique=True)


@every_strategy
@settings(max_examples=15)
@given(sites=hospitals, number=st.integers(1, 12), seed=st.integers(0, 99), share=st.floats(0.1, 1))
def test_turns_are_of_hospitals_of_the_run_each_once_on_a_model_that_there_is(
    name: str, sites: list[str], number: int, seed: int, share: float
) -> None:
    options = AggregationOptions(participation=share, buffer=2)
    schedule = STRATEGIES[name].schedule  # type: ignore[index]  # of the table
    turns = schedule(sites, number, seed, options)
    names = [turn.site for turn in turns]
    assert names == sorted(set(names))
    assert set(names) <= set(sites)
    assert len(names) >= 1
    assert all(0 <= turn.base < number for turn in turns)
    assert turns == schedule(sites[::-1], number, seed, options)


@pytest.mark.parametrize(("share", "count"), [(1.0, 4), (0.75, 3), (0.5, 2), (0.3, 1), (0.01, 1)])
def test_a_share_of_the_hospitals_is_drawn_anew_each_round_and_all_get_their_turn(share: float, count: int) -> None:
    options = AggregationOptions(participation=share)
    schedule = STRATEGIES["fedavg"].schedule
    drawn = [tuple(turn.site for turn in schedule(SITES, number, 7, options)) for number in range(1, 41)]
    assert {len(names) for names in drawn} == {count}
    assert {site for names in drawn for site in names} == set(SITES)
    assert len(set(drawn)) == {4: 1}.get(count, len(set(drawn)))
    assert count == 4 or len(set(drawn)) > 2


def test_cyclic_gives_everyone_one_turn_in_each_cycle_in_the_same_order() -> None:
    schedule = STRATEGIES["cyclic"].schedule
    order = [schedule(SITES, number, 7, AggregationOptions()) for number in range(1, 9)]
    assert all(len(turns) == 1 and turns[0].base == number for number, turns in enumerate(order))
    first = [turns[0].site for turns in order]
    assert sorted(first[:4]) == sorted(SITES)
    assert first[:4] == first[4:]


@given(seed=st.integers(0, 50), size=st.integers(1, 6))
@settings(max_examples=20)
def test_a_hospital_trains_on_the_model_that_its_last_buffer_made(seed: int, size: int) -> None:
    options, last = AggregationOptions(buffer=size), dict.fromkeys(SITES, 0)
    for number in range(1, 13):
        turns = as_they_arrive(SITES, number, seed, options)
        assert len(turns) == min(size, len(SITES))
        for turn in turns:
            assert turn.base == last[turn.site]
            last[turn.site] = number
    assert min(last.values()) > 0  # even the slowest has arrived


def test_a_recorded_order_is_kept() -> None:
    options = AggregationOptions(buffer=2, arrivals=("west", "east", "west", "north", "east", "south"))
    rounds = [as_they_arrive(SITES, number, 0, options) for number in (1, 2, 3)]
    assert rounds[0] == (Turn("east", 0), Turn("west", 0))
    assert rounds[1] == (Turn("north", 0), Turn("west", 1))
    assert rounds[2] == (Turn("east", 1), Turn("south", 0))


def test_an_update_counts_less_the_older_its_model() -> None:
    counts = [polynomial(staleness) for staleness in range(9)]
    assert counts[0] == 1.0
    assert counts[3] == 0.5
    assert counts[8] == pytest.approx(1 / 3)
    assert counts == sorted(counts, reverse=True)

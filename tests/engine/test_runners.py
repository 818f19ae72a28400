"""One contract over all runners and strategies: whoever carries the questions, the states are the same to the byte."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from engines import RUNNERS, SITES, Case, Failing, Losing, Open, PowerCut, Shuffled, digest

from fedmed.engine.loop import federate
from fedmed.errors import QuorumNotMet
from fedmed.strategies.algorithm import Algorithm, State
from fedmed.strategies.table import STRATEGIES

every_runner = pytest.mark.parametrize("runner", RUNNERS)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
New = Callable[..., Case]


def changed(strategy: str) -> dict[str, Any]:
    return {"aggregation": {"strategy": strategy, "buffer": 2}}


def whole(how: Algorithm, at: Open) -> State:
    """The state after the last round."""
    *_, last = federate(how, at.states, at.runner, scored=False)
    return last.state


REFERENCE: dict[str, tuple[str, str, float | None]] = {}
WITHOUT: dict[str, tuple[str, str, float | None]] = {}


def reference(case: New, strategy: str) -> tuple[str, str, float | None]:
    """What a run in this process ends with, one hospital after the other."""
    if strategy not in REFERENCE:
        new = case(changed(strategy))
        REFERENCE[strategy] = digest(whole(new.agreed.plan.algorithm, RUNNERS["here"](new)()))
    return REFERENCE[strategy]


@every_strategy
@every_runner
def test_every_runner_comes_to_the_same_bytes(runner: str, strategy: str, case: New) -> None:
    new = case(changed(strategy))
    assert digest(whole(new.agreed.plan.algorithm, RUNNERS[runner](new)())) == reference(case, strategy)


@every_strategy
@every_runner
def test_a_run_cut_in_and_after_every_round_comes_to_the_same_bytes_in_whatever_order_answers_come(
    runner: str, strategy: str, case: New
) -> None:
    new = case(changed(strategy))
    how, opened = new.agreed.plan.algorithm, RUNNERS[runner](new)
    for number in range(1, how.rounds + 1):
        states, asking = opened()
        with pytest.raises(PowerCut, match=f"aggregate · round {number:02d}"):
            next(federate(how, states, Failing(asking), since=number, scored=False))
        assert number not in states
        states, asking = opened()
        going = federate(how, states, Shuffled(asking, number), since=number, scored=False)
        assert next(going).number == number
        going.close()
    states, asking = opened()
    assert list(federate(how, states, asking, since=how.rounds + 1)) == []
    assert digest(states[how.rounds]) == reference(case, strategy)


def away(how: Algorithm) -> tuple[int, str]:
    """A round that is not the last if there are several, and a hospital whose turn it is there beside others."""
    number = min(2, how.rounds)
    return number, how.turns(number)[-1].site


@every_strategy
@every_runner
def test_a_hospital_whose_update_is_lost_is_out_of_that_round_only_and_has_had_no_turn(
    runner: str, strategy: str, case: New
) -> None:
    new = case(changed(strategy))
    how = new.agreed.plan.algorithm
    number, site = away(how)
    if len(how.turns(number)) == 1:
        pytest.skip("there is one turn a round")

    def without(at: Open, *, asked: bool) -> State:
        return whole(how, Open(at.states, Losing(at.runner, {number: [site]}, asked=asked)))

    if strategy not in WITHOUT:  # what it comes to if the hospital is not even asked
        WITHOUT[strategy] = digest(without(RUNNERS["here"](case(changed(strategy)))(), asked=False))
    opened = RUNNERS[runner](new)()
    assert digest(without(opened, asked=True)) == WITHOUT[strategy] != reference(case, strategy)
    assert opened.states[number].refused == {site: f"{site} is away"}
    for turn in range(1, how.rounds + 1):
        expected = {each.site for each in how.turns(turn)} - ({site} if turn == number else set())
        assert set(opened.states[turn].took_part) == expected


@every_strategy
@every_runner
def test_a_quorum_that_is_not_met_ends_the_run_with_the_reasons(runner: str, strategy: str, case: New) -> None:
    new = case(changed(strategy))
    how, (states, asking) = new.agreed.plan.algorithm, RUNNERS[runner](new)()
    nobody = Losing(asking, {1: SITES}, asked=False)
    turns = how.turns(1)
    reasons = "; ".join(f"{turn.site}: {turn.site} is away" for turn in turns)
    with pytest.raises(QuorumNotMet, match=f"round 1 could use 0 of {len(turns)} hospitals.*{reasons}"):
        next(federate(how, states, nobody, 2))
    assert list(states) == [0]


@every_runner
def test_a_round_goes_on_with_as_many_as_the_quorum_and_not_with_one_less(runner: str, case: New) -> None:
    new = case(changed("scaffold"))
    how, (states, asking) = new.agreed.plan.algorithm, RUNNERS[runner](new)()
    lost: Mapping[int, Sequence[str]] = {1: ["east"], 2: ["east", "north"]}
    going = federate(how, states, Losing(asking, lost, asked=True), 2, scored=False)
    assert set(next(going).state.took_part) == {"centre", "north"}
    with pytest.raises(QuorumNotMet, match=r"round 2 could use 1 of 3 hospitals, but .* is 2\. east: .*; north: "):
        next(going)
    assert sorted(states) == [0, 1]


@every_runner
def test_every_hospital_says_what_it_makes_of_a_rounds_model(runner: str, case: New) -> None:
    new = case(changed("fedbn"))
    how, (states, asking) = new.agreed.plan.algorithm, RUNNERS[runner](new)()
    rounds = list(federate(how, states, Shuffled(asking, 1)))
    assert [list(round_.scores) for round_ in rounds] == [list(SITES)] * 3
    if "agents" not in runner:  # as each uses the model, with its own layers; behind messages a score is a message
        assert [round_.scores for round_ in rounds] == [round_.scores for round_ in scored(case)]


def scored(case: New) -> list[Any]:
    new = case(changed("fedbn"))
    states, asking = RUNNERS["here"](new)()
    return list(federate(new.agreed.plan.algorithm, states, asking))

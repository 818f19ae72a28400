"""The rounds themselves, on two hospitals whose numbers can be worked out on paper: who is asked what, and when.

North has one row and is pulled to (12, 0), South three and is pulled to (0, -4); two steps of ½ come to ¾ of the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import Barrier
from typing import Any

import pytest
import torch
from federation import how_of, pulled_to

from fedmed.engine.loop import check_quorum, federate
from fedmed.engine.members import Members
from fedmed.engine.runner import Answer, Here, Question, Refusal, Threads
from fedmed.errors import QuorumNotMet, RangeExceeded
from fedmed.strategies.algorithm import Algorithm, State
from fedmed.strategies.options import AggregationOptions
from fedmed.strategies.server import Part, gather
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import TrainingOptions

LOCAL = TrainingOptions(learning_rate=0.5, local_epochs=2, batch_size=3, rounds=3)
PROBLEMS = {"north": pulled_to(12, 0, 1, LOCAL), "south": pulled_to(0, -4, 3, LOCAL)}


def start(strategy: str = "fedavg", **options: object) -> tuple[Algorithm, dict[int, State]]:
    chosen = AggregationOptions.model_validate({"strategy": strategy, **options})
    how = how_of(STRATEGIES[chosen.strategy], chosen, PROBLEMS)
    return how, {0: how.start({"w": torch.zeros(2)})}


class Seen:
    """A runner of this process that remembers what it was asked and which steps it ran."""

    def __init__(self, respond: Callable[[Question], Answer | Refusal]) -> None:
        self._inner = Here(respond)
        self.asked: list[tuple[str, int, str, int]] = []
        self.steps: list[str] = []

    def ask(self, questions: Sequence[Question]) -> Iterator[Answer | Refusal]:
        self.asked += [question[:4] for question in questions]
        return self._inner.ask(questions)

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        self.steps.append(name)
        return work()


def test_a_round_trains_adds_up_and_scores_and_nothing_is_asked_before_it_is_asked_for() -> None:
    how, states = start()
    runner = Seen(Members(how, PROBLEMS, states, lambda site, state: state["w"].tolist()))
    rounds = federate(how, states, runner)
    assert runner.asked == []
    first = next(rounds)
    assert runner.asked == [
        ("train", 1, "north", 0),
        ("train", 1, "south", 0),
        ("score", 1, "north", 1),
        ("score", 1, "south", 1),
    ]
    assert runner.steps == ["aggregate · round 01"]
    # ¾ of (1 · (12, 0) + 3 · (0, -4)) / 4
    assert first.state.weights["w"].tolist() == [2.25, -2.25]
    assert first.scores == {"north": [2.25, -2.25], "south": [2.25, -2.25]}
    assert states[1] is first.state
    assert [round_.number for round_ in rounds] == [2, 3]
    assert runner.steps[-1] == "aggregate · round 03"


def test_the_training_loss_is_the_mean_over_all_rows_and_each_hospitals_own_where_it_can_be_seen() -> None:
    how, states = start()
    state = next(federate(how, states, Here(Members(how, PROBLEMS, states)))).state
    # the last of two steps: North 6 short of 12, ½ · 6²; South 2 short of 4, ½ · 2²
    assert state.losses == {"north": pytest.approx(18.0, rel=1e-4), "south": pytest.approx(2.0, rel=1e-4)}
    assert state.loss == pytest.approx((18 + 3 * 2) / 4, rel=1e-4)


def test_a_round_whose_state_was_saved_is_not_trained_again_but_scored() -> None:
    how, states = start()
    *_, whole = federate(how, states, Here(Members(how, PROBLEMS, states)))
    how, again = start()
    again[1] = states[1]
    runner = Seen(Members(how, PROBLEMS, again))
    rounds = list(federate(how, again, runner))
    assert [entry[:2] for entry in runner.asked if entry[:2] == ("train", 1)] == []
    assert [entry[0] for entry in runner.asked[:2]] == ["score", "score"]
    assert rounds[-1].state.weights["w"].tolist() == whole.state.weights["w"].tolist()
    late = Seen(Members(how, PROBLEMS, again))
    assert [round_.number for round_ in federate(how, again, late, since=3)] == [3]
    assert {entry[1] for entry in late.asked} == {3}


def test_rounds_that_nobody_is_to_score_are_not_scored() -> None:
    how, states = start()
    runner = Seen(Members(how, PROBLEMS, states))
    assert [round_.scores for round_ in federate(how, states, runner, scored=False)] == [{}] * 3
    assert {entry[0] for entry in runner.asked} == {"train"}


def test_a_strategy_that_gives_fewer_a_turn_than_the_quorum_goes_on_with_those() -> None:
    how, states = start("cyclic")
    rounds = list(federate(how, states, Here(Members(how, PROBLEMS, states)), quorum=2))
    assert [len(round_.state.took_part) for round_ in rounds] == [1, 1, 1]
    with pytest.raises(QuorumNotMet, match="round 1 could use 0 of 1 hospitals, but the quorum"):
        next(federate(*start("cyclic"), Here(lambda question: Refusal(question.site, "away")), quorum=0))


def test_who_does_not_score_is_silent_and_too_many_silent_ones_end_the_run() -> None:
    how, states = start()
    members = Members(how, PROBLEMS, states)

    def respond(question: Question) -> Answer | Refusal:
        if question.purpose == "score" and question.site == "south":
            raise RangeExceeded("no figure")
        return members(question)

    first = next(federate(how, states, Here(respond)))
    assert (list(first.scores), first.silent) == (["north"], {"south": "no figure"})
    how, states = start()
    members = Members(how, PROBLEMS, states)
    with pytest.raises(QuorumNotMet, match=r"score of round 1 was answered by 1 of 2 .* south: no figure"):
        next(federate(how, states, Here(respond), quorum=2))
    assert 1 in states  # what was trained stays


def test_of_a_refusal_reasons_are_kept_with_the_state() -> None:
    how, states = start()
    members = Members(how, PROBLEMS, states)

    def respond(question: Question) -> Answer | Refusal:
        return Refusal("south", "has no time") if question.site == "south" else members(question)

    state = next(federate(how, states, Here(respond), scored=False)).state
    assert (state.took_part, state.refused) == ({"north": ""}, {"south": "has no time"})
    assert state.weights["w"].tolist() == [9, 0]


def test_an_error_that_is_none_of_fedmeds_own_is_not_taken_for_a_refusal() -> None:
    def respond(question: Question) -> Answer:
        raise ZeroDivisionError

    for runner in (Here(respond), Threads(respond, 2)):
        with pytest.raises(ZeroDivisionError):
            next(federate(*start(), runner))


def test_threads_work_side_by_side() -> None:
    how, states = start()
    members, both = Members(how, PROBLEMS, states), Barrier(2, timeout=20)

    def respond(question: Question) -> Answer | Refusal:
        both.wait()  # each waits for the other: one after the other they would never come
        return members(question)

    assert next(federate(how, states, Threads(respond, 2))).state.weights["w"].tolist() == [2.25, -2.25]


def test_a_quorum_names_all_that_are_not_there() -> None:
    check_quorum(["a"], 1, "the plan has", {"b": "no reason"})
    expected = r"the plan has 1 of 3 hospitals, but the quorum \(federation.quorum\) is 2\. b: age: range, sex; c: away"
    with pytest.raises(QuorumNotMet, match=expected):
        check_quorum(["a"], 2, "the plan has", {"c": "away", "b": ("age: range", "sex")})


def test_beside_the_sum_no_vector_is_held_unless_a_rule_looks_at_each() -> None:
    for rule, held in (("mean", set()), ("median", {"north", "south"})):
        how, _ = start(combine=rule)
        vector = torch.ones(how.form.size, dtype=torch.int64)
        gathered = gather(how, 1, [Part(site, vector) for site in PROBLEMS])
        assert gathered is not None
        assert set(gathered.each) == held
        assert gathered.total.tolist() == [2] * how.form.size
        assert vector.tolist() == [1] * how.form.size


def test_a_hospital_keeps_its_last_turn_that_counted_and_forgets_those_before() -> None:
    how, states = start("scaffold")
    members = Members(how, PROBLEMS, states)
    assert members.kept("north", 0) == ({}, {})
    for round_ in federate(how, states, Here(members), scored=False):
        memory = members.kept("north", round_.number).memory
        assert members.kept("north", round_.number).memory is memory
    # An update that never came leaves its hospital where it was.
    lost = members.kept("south", 3)
    members(Question("train", 4, "south", 3, ("south",)))
    assert members.kept("south", 3) is lost

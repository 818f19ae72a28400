"""Asking hospitals: a question is posted, an answer is found, and nobody is waited for without end."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from small_run import SITES, called, head_of

from fedmed.coordinator.admission import questions_to
from fedmed.coordinator.asking import SILENT, Asked, Called, Posted, Silent, ask, ask_all, sort_out, waiting
from fedmed.errors import MessageConflict, QuorumNotMet
from fedmed.exchange.base import Exchange
from fedmed.exchange.folder import FolderExchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.settings import Settings
from fedmed.wire.messages import Question, Refusal, Response, Statistics
from fedmed.wire.post import find, inbox, post, put_payload

SETTINGS = Settings.model_validate({"cohort": "c.yaml", "federation": {"sites": list(SITES)}})
QUESTIONS = questions_to("run-1", "statistics", dict.fromkeys(SITES, "a" * 64), SETTINGS)
NORTH, SOUTH, WEST = QUESTIONS


def answer(exchange: Exchange, question: Question) -> Statistics:
    """Answer a question, and give what was said."""
    said = Statistics(**head_of(question), payload=put_payload(exchange, question.recipient.encode()))
    post(exchange, said)
    return said


def refuse(exchange: Exchange, question: Question, reason: str) -> None:
    post(exchange, Refusal(**head_of(question), reason=reason))


@pytest.fixture
def exchange() -> MemoryExchange:
    return MemoryExchange()


def test_questions_lie_in_the_hospitals_inboxes_before_anybody_is_called(exchange: MemoryExchange) -> None:
    def looks(posted: list[Posted]) -> list[Called]:
        for each, question in zip(posted, QUESTIONS, strict=True):
            assert inbox(exchange, each.site, "run-1") == [each.name] == [question.address.name]
            assert find(exchange, each.name) == question
            assert (each.purpose, each.run, each.round) == ("statistics", "run-1", 0)
            assert each.answer == f"to/coordinator/run-1/001.00000.statistics.{each.site}"
        return [Called(each) for each in posted]

    assert len(list(ask(exchange, looks, QUESTIONS))) == 3


def test_answers_come_back_as_they_come_and_those_who_say_nothing_are_told_apart(exchange: MemoryExchange) -> None:
    said = answer(exchange, SOUTH)
    refuse(exchange, WEST, "another person must allow it")

    def backwards(posted: list[Posted]) -> list[Called]:
        return [Called(each) for each in reversed(posted)]

    assert list(ask(exchange, backwards, QUESTIONS)) == [
        Silent("west", "another person must allow it"),
        said,
        Silent("north", SILENT),
    ]
    assert ask_all(exchange, called, QUESTIONS, Statistics) == Asked(
        {"south": said}, {"north": SILENT, "west": "another person must allow it"}
    )


def test_why_a_call_came_to_nothing_is_told_unless_the_answer_is_there_all_the_same(exchange: MemoryExchange) -> None:
    said = answer(exchange, NORTH)

    def broken(posted: list[Posted]) -> list[Called]:
        return [Called(each, "no route to the host") for each in posted]

    asked = ask_all(exchange, broken, QUESTIONS, Statistics)
    assert asked == Asked({"north": said}, {"south": "no route to the host", "west": "no route to the host"})


def test_an_answer_to_another_question_is_refused(exchange: MemoryExchange) -> None:
    # It stands at the right address, but was given when another minimum cell was asked for.
    stricter = SOUTH.model_copy(update={"minimum_cell": 20})
    assert stricter.answer_address == SOUTH.answer_address
    answer(exchange, stricter)
    asked = ask_all(exchange, called, QUESTIONS, Statistics)
    assert asked.answers == {}
    assert asked.failed["south"] == (
        "south: what stands at to/coordinator/run-1/001.00000.statistics.south answers another question"
    )


def test_a_refusal_of_another_question_is_not_one_of_this(exchange: MemoryExchange) -> None:
    refuse(exchange, SOUTH.model_copy(update={"minimum_cell": 20}), "too high")
    assert "answers another question" in ask_all(exchange, called, QUESTIONS, Statistics).failed["south"]


def test_what_is_no_answer_at_all_is_that_hospitals_own_matter(exchange: MemoryExchange) -> None:
    said = answer(exchange, NORTH)
    exchange.put(SOUTH.answer_address.name, b"no message")
    question = WEST.model_copy(update={"sender": "west", "recipient": "coordinator"})
    assert question.address == WEST.answer_address
    post(exchange, question)  # a message, and at this address, but it answers nothing
    asked = ask_all(exchange, called, QUESTIONS, Statistics)
    assert asked.answers == {"north": said}
    assert "not what its kind asks for" in asked.failed["south"]
    assert "answers another question" in asked.failed["west"]


def test_an_answer_of_another_kind_is_not_the_one_that_was_asked_for() -> None:
    wrong = Refusal(**head_of(NORTH), reason="")
    assert sort_out([wrong, Silent("south", "asleep")], Statistics) == Asked(
        {}, {"north": "north: expected a Statistics, got another message", "south": "asleep"}
    )


def test_the_same_question_twice_is_posted_once_and_another_at_its_address_is_a_conflict(
    exchange: MemoryExchange,
) -> None:
    for _ in range(2):
        ask_all(exchange, called, QUESTIONS, Statistics)
    assert len(exchange.names("to/")) == 3
    with pytest.raises(MessageConflict, match=r"statistics\.coordinator"):
        list(ask(exchange, called, [SOUTH.model_copy(update={"minimum_cell": 20})]))


def test_a_quorum_is_held_against_who_answered() -> None:
    asked = Asked({"north": object()}, {"south": "asleep", "west": SILENT})
    assert asked.need(1, "statistics were answered by") is asked
    with pytest.raises(QuorumNotMet) as stopped:
        asked.need(2, "statistics were answered by")
    assert str(stopped.value) == (
        "statistics were answered by 1 of 3 hospitals, but the quorum (federation.quorum) is 2."
        f" south: asleep; west: {SILENT}"
    )


# Waiting for hospitals on hosts of their own.


def test_who_has_not_answered_by_the_deadline_is_given_up(exchange: MemoryExchange) -> None:
    said = answer(exchange, NORTH)
    began = time.monotonic()
    asked = ask_all(exchange, waiting(exchange, within=0.3, pause=0.02), QUESTIONS, Statistics)
    assert 0.3 <= time.monotonic() - began < 5
    assert asked == Asked({"north": said}, {"south": SILENT, "west": SILENT})


def test_nobody_is_waited_for_when_all_have_answered(exchange: MemoryExchange) -> None:
    for question in QUESTIONS:
        answer(exchange, question)
    began = time.monotonic()
    outcomes = list(ask(exchange, waiting(exchange, within=60), QUESTIONS))
    assert time.monotonic() - began < 5
    assert [type(outcome) for outcome in outcomes] == [Statistics] * 3


def test_an_answer_that_comes_while_others_are_waited_for_is_taken_as_it_comes(tmp_path: Path) -> None:
    exchange = FolderExchange(tmp_path)
    answer(exchange, WEST)
    outcomes = ask(exchange, waiting(exchange, within=60, pause=0.01), QUESTIONS)
    first = next(outcomes)
    late = threading.Timer(0.1, lambda: [answer(exchange, NORTH), refuse(exchange, SOUTH, "no time")])
    late.start()
    try:
        rest = list(outcomes)
    finally:
        late.join()
    assert isinstance(first, Response)
    assert first.sender == "west"
    assert {outcome.sender if isinstance(outcome, Response) else outcome for outcome in rest} == {
        "north",
        Silent("south", "no time"),
    }


def test_a_torn_answer_is_waited_for_until_it_is_whole(tmp_path: Path) -> None:
    exchange = FolderExchange(tmp_path)
    said = answer(exchange, NORTH)
    path = tmp_path / NORTH.answer_address.name
    path.write_bytes(path.read_bytes()[:-1])
    late = threading.Timer(0.1, lambda: post(exchange, said))
    late.start()
    try:
        assert list(ask(exchange, waiting(exchange, within=60, pause=0.01), [NORTH])) == [said]
    finally:
        late.join()


def test_what_cannot_be_read_at_an_answers_place_ends_the_waiting_for_that_hospital_alone(tmp_path: Path) -> None:
    exchange = FolderExchange(tmp_path)
    said = answer(exchange, NORTH)
    (tmp_path / SOUTH.answer_address.name).mkdir()
    with (tmp_path / WEST.answer_address.name).open("wb") as file:
        file.truncate(1 << 40)
    asked = ask_all(exchange, waiting(exchange, within=60), QUESTIONS, Statistics)
    assert asked.answers == {"north": said}
    assert "expected a file, got something else" in asked.failed["south"]
    assert "expected at most" in asked.failed["west"]

"""Ask hospitals through an exchange: post questions, have them answered, and tell answers from silence.

How hospitals come to answer is the one thing that is left open here: a :data:`Call`. On one machine it runs their
agents, elsewhere it waits for them. Whoever waits gives up by a deadline.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from fedmed.engine.loop import check_quorum
from fedmed.errors import ExchangeError, MessageRefused
from fedmed.exchange.base import Exchange
from fedmed.weights import sha256
from fedmed.wire.messages import LARGEST_MESSAGE, Question, Refusal, Response, encode
from fedmed.wire.post import find, post

T = TypeVar("T")
SILENT = "did not answer by the deadline"


class Posted(NamedTuple):
    """A question as it stands in the exchange: who is asked what, and the names of question and answer."""

    site: str
    purpose: str
    run: str
    round: int
    name: str
    answer: str


class Called(NamedTuple):
    """That a hospital need not be waited for any longer, and what kept it from answering, if anything is known."""

    posted: Posted
    problem: str = ""


Call = Callable[[Sequence[Posted]], Iterator[Called]]
Step = Callable[[str, Callable[[], Any]], Any]
"""Runs a step of the coordinator under a name."""


class Silent(NamedTuple):
    """A hospital that did not answer, and why."""

    site: str
    reason: str


class Asked(NamedTuple):
    """Hospital → its answer, and hospital → why there is none that can be used; each sorted."""

    answers: dict[str, Any]
    failed: dict[str, str]

    def need(self, quorum: int, what: str) -> Asked:
        """Go on only if enough have answered.

        Raises:
            QuorumNotMet: if too few have.
        """
        check_quorum(sorted(self.answers), quorum, what, self.failed)
        return self


def right_away(name: str, work: Callable[[], T]) -> T:
    """A :data:`Step` that is just run."""
    return work()


def waiting(exchange: Exchange, within: float, pause: float = 0.2) -> Call:
    """A :data:`Call` for hospitals on hosts of their own: look for their answers until a deadline.

    Args:
        exchange: where they post.
        within: seconds until those that have not answered are given up.
        pause: seconds between two looks.
    """

    def call(posted: Sequence[Posted]) -> Iterator[Called]:
        left, until = list(posted), time.monotonic() + within
        while left:
            there = [question for question in left if _stands(exchange, question.answer)]
            yield from map(Called, there)
            left = [question for question in left if question not in there]
            if left and time.monotonic() > until:
                yield from (Called(question, SILENT) for question in left)
                return
            if left and not there:
                time.sleep(pause)

    return call


def _stands(exchange: Exchange, name: str) -> bool:
    """Whether there is something to judge under a name; what cannot be read is judged too."""
    try:
        return exchange.get(name, LARGEST_MESSAGE) is not None
    except ExchangeError:
        return True


def ask(exchange: Exchange, call: Call, questions: Sequence[Question]) -> Iterator[Response | Silent]:
    """Post questions and yield what comes of each, as it comes; nothing is raised for a hospital."""
    digests = {}
    posted = []
    for question in questions:
        name = post(exchange, question)
        digests[name] = sha256(encode(question))
        address = question.address
        answer = question.answer_address.name
        posted.append(Posted(address.recipient, question.purpose, address.run, address.round, name, answer))
    for called in call(posted):
        yield _outcome(exchange, called, digests[called.posted.name])


def ask_all(exchange: Exchange, call: Call, questions: Sequence[Question], kind: type[Response]) -> Asked:
    """Ask, and wait for everybody: the answers of a kind, and why others have none."""
    return sort_out(ask(exchange, call, questions), kind)


def sort_out(outcomes: Iterable[Response | Silent], kind: type[Response]) -> Asked:
    """Answers and silence apart."""
    answers: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for outcome in outcomes:
        if isinstance(outcome, Silent):
            failed[outcome.site] = outcome.reason
        elif isinstance(outcome, kind):
            answers[outcome.sender] = outcome
        else:
            failed[outcome.sender] = f"{outcome.sender}: expected a {kind.__name__}, got another message"
    return Asked(dict(sorted(answers.items())), dict(sorted(failed.items())))


def _outcome(exchange: Exchange, called: Called, digest: str) -> Response | Silent:
    site = called.posted.site
    try:
        message = find(exchange, called.posted.answer)
        if message is None:
            return Silent(site, called.problem or SILENT)
        if not isinstance(message, Response) or message.question != digest:
            raise MessageRefused(f"{site}: what stands at {called.posted.answer} answers another question")
        if isinstance(message, Refusal):
            return Silent(site, message.reason)
        return message
    except ExchangeError as problem:
        return Silent(site, str(problem))

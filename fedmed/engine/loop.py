"""Federated rounds: train at each site, aggregate, score at each site; then the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple

from fedmed.aggregation.stage import Told
from fedmed.engine.runner import Answer, Question, Refusal, Runner
from fedmed.errors import QuorumNotMet
from fedmed.gates import Gate, Verdict, fails, need
from fedmed.strategies.algorithm import Algorithm, State
from fedmed.strategies.base import Turn
from fedmed.strategies.server import Part, gather, move


class Round(NamedTuple):
    """A finished round: the state that it led to, what each hospital says of that model, and who says nothing."""

    number: int
    state: State
    scores: Mapping[str, Any]
    silent: Mapping[str, str]


class Attendance(NamedTuple):
    """Who is there, what they are needed for, and why the others are not there."""

    present: Sequence[str]
    absent: Mapping[str, object]
    what: str


def quorum_of(fewest: int) -> Gate[Attendance]:
    """A gate that passes where at least so many hospitals are there."""

    def enough(those: Attendance) -> Verdict:
        if len(those.present) >= fewest:
            return Verdict("passes")
        reasons = "; ".join(f"{site}: {_words(reason)}" for site, reason in sorted(those.absent.items()))
        hospitals = len(those.present) + len(those.absent)
        return fails(
            f"{those.what} {len(those.present)} of {hospitals} hospitals, but the quorum (federation.quorum) is"
            f" {fewest}. {reasons}"
        )

    return enough


def check_quorum(present: Sequence[str], quorum: int, what: str, absent: Mapping[str, object]) -> None:
    """Stop if fewer hospitals are there than the quorum.

    Raises:
        QuorumNotMet: saying how many there are, who is missing and why.
    """
    need({"quorum": quorum_of(quorum)}, Attendance(present, absent, what), QuorumNotMet)


def federate(
    how: Algorithm,
    states: MutableMapping[int, State],
    runner: Runner,
    quorum: int = 1,
    *,
    since: int = 1,
    scored: bool = True,
) -> Iterator[Round]:
    """Run rounds, one for each `next`.

    Args:
        how: the run's algorithm.
        states: round → the state after it, at least that of round 0. A round whose state stands here already is not
            trained again, so a run is gone on with by calling this with what was saved; each new state is put here.
        runner: asks the hospitals, and runs the steps.
        quorum: fewest hospitals with which a round goes on; a strategy may give fewer of them a turn.
        since: the first round to run.
        scored: whether hospitals are asked what they make of each round's model.

    Yields:
        Each round when it is done.

    Raises:
        QuorumNotMet: if too few hospitals answer, or too few answers count.

    Guarantees:
        The states do not depend on the runner, on who answers first, or on where a run was cut short.
    """
    for number in range(since, how.rounds + 1):
        if number not in states:
            _train(how, states, runner, number, quorum)
        scores, silent = _score(how, runner, number, quorum) if scored else ({}, {})
        yield Round(number, states[number], scores, silent)


def _train(how: Algorithm, states: MutableMapping[int, State], runner: Runner, number: int, quorum: int) -> None:
    """Everything of a round up to its new state: the stages' questions, training, the sum."""
    turns = list(how.turns(number))
    refused: dict[str, str] = {}
    told: dict[str, dict[str, bytes]] = {}
    enough = min(quorum, len(turns))
    for about, _ in how.asks("before"):
        told[about], silent = _stage(runner, number, turns, about, told)
        turns = [turn for turn in turns if turn.site in told[about]]
        refused |= silent
        check_quorum([turn.site for turn in turns], enough, f"round {number} ({about}) was answered by", refused)

    def parts() -> Iterable[Part]:
        for answer in runner.ask(_questions("train", number, turns, told=told)):
            if isinstance(answer, Refusal):
                refused[answer.site] = answer.reason
            else:
                yield Part(answer.site, answer.content, answer.name)

    gathered = gather(how, number, parts())
    took_part = sorted(gathered.names) if gathered else []
    check_quorum(took_part, max(enough, 1), f"round {number} could use", refused)
    remaining = [turn for turn in turns if turn.site in took_part]
    for about, _ in how.asks("after"):
        told[about], _ = _stage(runner, number, remaining, about, told)
        check_quorum(sorted(told[about]), enough, f"round {number} ({about}) was answered by", refused)

    def aggregate() -> None:
        if gathered is not None:
            states[number] = move(how, number, states, gathered, refused, told)

    runner.step(f"aggregate · round {number:02d}", aggregate)


def _stage(
    runner: Runner, number: int, turns: Sequence[Turn], about: str, told: Told
) -> tuple[dict[str, bytes], dict[str, str]]:
    """What the hospitals whose turn it is answer to a stage's question, and who does not."""
    answers, refused = _sorted(runner.ask(_questions("stage", number, turns, about, told)))
    return {site: bytes(answer.content) for site, answer in answers.items()}, refused


def _score(how: Algorithm, runner: Runner, number: int, quorum: int) -> tuple[dict[str, Any], dict[str, str]]:
    """What every hospital makes of a round's model."""
    everyone = [Turn(site, number) for site in how.sites]
    answers, silent = _sorted(runner.ask(_questions("score", number, everyone)))
    check_quorum(sorted(answers), min(quorum, len(everyone)), f"score of round {number} was answered by", silent)
    return {site: answer.content for site, answer in answers.items()}, silent


def _questions(
    purpose: str, number: int, turns: Sequence[Turn], about: str = "", told: Told | None = None
) -> list[Question]:
    sites = tuple(sorted(turn.site for turn in turns))
    return [Question(purpose, number, turn.site, turn.base, sites, about, dict(told or {})) for turn in turns]


def _sorted(answers: Iterable[Answer | Refusal]) -> tuple[dict[str, Answer], dict[str, str]]:
    """Answers and refusals apart, each by hospital, sorted: nothing is to depend on who comes first."""
    came = sorted(answers, key=lambda answer: answer.site)
    return (
        {answer.site: answer for answer in came if isinstance(answer, Answer)},
        {answer.site: answer.reason for answer in came if isinstance(answer, Refusal)},
    )


def _words(reason: object) -> str:
    return ", ".join(map(str, reason)) if isinstance(reason, tuple | list) else str(reason)

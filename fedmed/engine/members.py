"""Hospitals without messages: tables in memory that answer the engine's questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedmed.aggregation.stage import Context
from fedmed.engine.runner import Answer, Question, Refusal
from fedmed.strategies.algorithm import Algorithm, State
from fedmed.strategies.client import Given, Kept, sent_vector, take_turn
from fedmed.training.local import Problem
from fedmed.weights import Weights

Score = Callable[[str, Weights], Any]
"""A hospital and a state as it would use it → what it tells of it."""


class Members:
    """Hospitals of which each has a problem to fit; called with a question, they answer it.

    Args:
        how: the run's algorithm.
        problems: hospital → its training rows.
        states: the same mapping that the rounds write their states to.
        score: what a hospital tells of a round's model; nothing if left out.
    """

    def __init__(
        self, how: Algorithm, problems: Mapping[str, Problem], states: Mapping[int, State], score: Score | None = None
    ) -> None:
        self.how, self.states = how, states
        self._problems, self._score = problems, score
        self._turns: dict[str, dict[int, Kept]] = {site: {} for site in problems}
        self._own: dict[tuple[str, int], dict[str, bytes]] = {}

    def __call__(self, question: Question) -> Answer | Refusal:
        """What a hospital answers."""
        purpose, number, site, *_ = question
        if purpose == "stage":
            return self._about_stage(question)
        if purpose == "score":
            state = self.state_at(site, number)
            return Answer(site, None if self._score is None else self._score(site, state))
        base = self.states[question.base]
        shared = base.memory if self.how.strategy.shares_memory else {}
        given = Given(number, base.weights, shared, self.kept(site, number - 1))
        sent, self._turns[site][number] = take_turn(self.how, self._problems[site], site, given)
        return Answer(site, sent_vector(self.how, sent, base.weights, self._context(question)))

    def kept(self, site: str, number: int) -> Kept:
        """What a hospital has of its last turn, up to a round, that counted; earlier ones are forgotten."""
        turns = self._turns[site]
        counted = [turn for turn in turns if turn <= number and site in self.states[turn].took_part]
        if not counted:
            return Kept()
        for turn in [turn for turn in turns if turn < max(counted)]:
            del turns[turn]
        return turns[max(counted)]

    def state_at(self, site: str, number: int) -> Weights:
        """The global state after a round as a hospital has it, with its own layers in place."""
        return {**self.states[number].weights, **self.kept(site, number).personal}

    def _about_stage(self, question: Question) -> Answer:
        asks = dict([*self.how.asks("before"), *self.how.asks("after")])
        reply = asks[question.about].answer(self._context(question))
        self._own.setdefault((question.site, question.round), {})[question.about] = reply.kept
        return Answer(question.site, reply.told)

    def _context(self, question: Question) -> Context:
        return context_of(self.how, question, self._own.get((question.site, question.round), {}))


def context_of(how: Algorithm, question: Question, kept: Mapping[str, bytes] | None = None) -> Context:
    """What a stage knows at a hospital of this process; there is one attempt, and no name for the run.

    Args:
        how: the run's algorithm.
        question: what the hospital is asked.
        kept: what it has kept of its own answers to the stages' questions in this round.
    """
    return Context(
        run="",
        attempt=1,
        round=question.round,
        site=question.site,
        sites=question.sites,
        weight=how.weights[question.site],
        seed=how.training.seed,
        told=question.told,
        kept=kept or {},
    )

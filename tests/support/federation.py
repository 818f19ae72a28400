"""Rounds of a strategy without messages: the engine on problems that fit on a page, with all that happens on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedmed.aggregation.grid import FixedPoint
from fedmed.engine.loop import federate as rounds_of
from fedmed.engine.members import Members
from fedmed.engine.runner import Answer, Here, Question, Refusal
from fedmed.models.networks import initial_weights
from fedmed.seeds import torch_generator
from fedmed.strategies.algorithm import Algorithm, algorithm
from fedmed.strategies.base import Strategy
from fedmed.strategies.client import Kept
from fedmed.strategies.options import AggregationOptions
from fedmed.training.local import Problem, TrainingOptions
from fedmed.weights import Weights

torch.set_num_threads(1)  # as in tasks.site: on problems this small, torch's own threads only wait for each other


class After(NamedTuple):
    """What there is after a round: the global state, the server's memory, the updates and what every hospital keeps."""

    state: Weights
    memory: Weights
    updates: Mapping[str, Tensor]
    kept: Mapping[str, Kept]


def how_of(
    strategy: Strategy,
    options: AggregationOptions,
    problems: Mapping[str, Problem],
    *,
    personal: Sequence[str] = (),
    limit: float = 64.0,
    bits: int = 64,
) -> Algorithm:
    """The algorithm of some problems, on a grid of its own."""
    first = next(iter(problems.values()))
    rows = {site: len(problem.labels) for site, problem in problems.items()}
    weight = sum(strategy.weigh(count) for count in rows.values())
    grid = FixedPoint.model_validate({"bits": bits, "limit": limit, "weight": weight})
    return algorithm(first.network, first.options, options, rows, grid=grid, personal=personal, strategy=strategy)


def federate(
    strategy: Strategy,
    options: AggregationOptions,
    problems: Mapping[str, Problem],
    rounds: int,
    *,
    start: Weights | None = None,
    personal: Sequence[str] = (),
    limit: float = 64.0,
    bits: int = 64,
    absent: frozenset[tuple[str, int]] = frozenset(),
) -> list[After]:
    """The states from the start (entry 0) to round `rounds`, or to the strategy's last; `absent` sites do not answer."""
    first = next(iter(problems.values()))
    assert rounds <= first.options.rounds, f"training.rounds gives {first.options.rounds} rounds"
    how = how_of(strategy, options, problems, personal=personal, limit=limit, bits=bits)
    states = {0: how.start(start or initial_weights(first.network, torch_generator(first.options.seed, "start")))}
    members = Members(how, problems, states)
    updates: dict[str, Tensor] = {}

    def respond(question: Question) -> Answer | Refusal:
        if (question.site, question.round) in absent:
            return Refusal(question.site, "absent")
        answer = members(question)
        if isinstance(answer, Answer):
            updates[question.site] = answer.content
        return answer

    trace = [After(states[0].weights, states[0].memory, {}, dict.fromkeys(problems, Kept()))]
    for round_ in islice(rounds_of(how, states, Here(respond), scored=False), rounds):
        kept = {site: members.kept(site, round_.number) for site in problems}
        trace.append(After(round_.state.weights, round_.state.memory, dict(updates), kept))
        updates.clear()
    return trace


class Point(nn.Module):
    """Two parameters and rows of two numbers: what it gives is how far the rows are from the parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(2))

    def forward(self, rows: Tensor) -> Tensor:
        """`(rows, 2)` → `(rows, 2)`."""
        return self.w - rows


def half_squares(outputs: Tensor, labels: Tensor) -> Tensor:
    """½ mean ‖w − row‖², with gradient w − mean row."""
    return outputs.square().sum(dim=1).mean() / 2


def pulled_to(x: float, y: float, rows: int, training: TrainingOptions) -> Problem:
    """A hospital of so many rows whose objective is ½‖w − (x, y)‖²."""
    return Problem(Point(), half_squares, torch.tensor([[x, y]] * rows), torch.zeros(rows), training)


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """½ mean (output − label)²."""
    return (outputs.squeeze(1) - labels).square().mean() / 2

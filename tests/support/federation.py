"""Rounds of a strategy without hospitals: turns, updates and the server, on problems that fit on a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedmed.aggregation.codec import encode_update, travelling
from fedmed.aggregation.grid import FixedPoint
from fedmed.models.networks import initial_weights
from fedmed.models.parts import Parts, parts_of
from fedmed.seeds import torch_generator
from fedmed.strategies.base import Strategy
from fedmed.strategies.client import Kept, take_turn
from fedmed.strategies.options import AggregationOptions
from fedmed.strategies.server import aggregate, server_rate
from fedmed.training.local import Problem, TrainingOptions
from fedmed.weights import Weights

torch.set_num_threads(1)  # as in tasks.site: on problems this small, torch's own threads only wait for each other


class After(NamedTuple):
    """What there is after a round: the global state, the server's memory, the updates and what every hospital keeps."""

    state: Weights
    memory: Weights
    updates: Mapping[str, Tensor]
    kept: Mapping[str, Kept]


def federate(
    strategy: Strategy,
    options: AggregationOptions,
    problems: Mapping[str, Problem],
    rounds: int,
    *,
    start: Weights | None = None,
    parts: Parts | None = None,
    limit: float = 64.0,
    bits: int = 64,
    absent: frozenset[tuple[str, int]] = frozenset(),
) -> list[After]:
    """The states from the start (entry 0) to the last round; `absent` sites do not answer in a round."""
    first = next(iter(problems.values()))
    parts = parts or parts_of(first.network, keep_normalisation=strategy.keeps_normalisation)
    weights = {site: strategy.weigh(len(problem.labels)) for site, problem in problems.items()}
    grid = FixedPoint.model_validate({"bits": bits, "limit": limit, "weight": sum(weights.values())})
    begin = start or initial_weights(first.network, torch_generator(first.options.seed, "start"))
    memory = strategy.init(travelling(begin, parts)[0], options)
    kept: dict[str, Kept] = {site: Kept() for site in problems}
    trace = [After(begin, memory, {}, dict(kept))]
    for number in range(1, rounds + 1):
        turns = [
            turn
            for turn in strategy.schedule(tuple(sorted(problems)), number, first.options.seed, options)
            if (turn.site, number) not in absent
        ]
        updates = {}
        for turn in turns:
            base = trace[turn.base]
            shared = base.memory if strategy.shares_memory else {}
            sent, kept[turn.site] = take_turn(
                strategy,
                options,
                problems[turn.site],
                turn.site,
                number,
                base.state,
                shared,
                kept[turn.site],
                parts,
            )
            there = travelling(base.state, parts)
            updates[turn.site] = encode_update(sent, *there, strategy, weights[turn.site], grid)
        state, memory = aggregate(
            strategy,
            options,
            trace[-1].state,
            trace[-1].memory,
            updates,
            {site: weights[site] for site in updates},
            grid,
            parts,
            sites=len(problems),
            rate=server_rate(strategy, options, number, rounds),
            staleness={turn.site: number - 1 - turn.base for turn in turns},
            started={turn.site: trace[turn.base].state for turn in turns if turn.base != number - 1},
        )
        trace.append(After(state, memory, updates, dict(kept)))
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

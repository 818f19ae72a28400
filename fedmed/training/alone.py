"""The model that a hospital could train without the others: as well as its own rows allow.

Federating is worth it only against this one, so it is given what the federated model is not: as many passes as its
validation rows ask for and, where the network is small enough to be trained often, a choice of the penalty.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fedmed.training.local import Problem, fewest_in_batch, loss_of, train
from fedmed.weights import Weights, size

PENALTIES = (0.0, 0.001, 0.01, 0.03, 0.1)
MOST_EPOCHS = 200
PATIENCE = 25
SMALL = 1000
"""Networks with at most so many parameters are trained once a penalty; larger ones with the penalty of the run."""
PATIENCE_OF_LARGE = 8


class AloneResult(NamedTuple):
    """The best state by validation loss, and the choices that led there."""

    state: Weights
    penalty: float
    epochs: int


def train_alone(
    problem: Problem, validation: tuple[Tensor, Tensor], start: Weights, generator: torch.Generator
) -> AloneResult:
    """Early-stopped descent, over a grid of penalties for small networks, chosen by the loss on the validation rows.

    Args:
        problem: network, loss, training rows and options: step and batch size, optimiser.
        validation: features `(rows, …)` and labels to choose by.
        start: where every candidate starts.
        generator: draws the order of the rows.

    Returns:
        The candidate with the least validation loss; the earliest and least penalised of equals.
    """
    small = size(start) <= SMALL
    patience = PATIENCE if small else PATIENCE_OF_LARGE
    best, best_loss = AloneResult(dict(start), 0.0, 0), math.inf
    for penalty in PENALTIES if small else (problem.options.l2,):
        candidate = problem._replace(options=problem.options.model_copy(update={"l2": penalty}))
        held = candidate._replace(features=validation[0], labels=validation[1])
        state, since_better, candidate_loss = start, 0, math.inf
        for epoch, batches in zip(range(1, MOST_EPOCHS + 1), _passes(candidate, generator), strict=False):
            state = train(candidate, state, batches, rate=problem.options.learning_rate).state
            loss = loss_of(held, state)
            if loss < best_loss:
                best, best_loss = AloneResult(state, penalty, epoch), loss
            since_better = 0 if loss < candidate_loss else since_better + 1
            candidate_loss = min(loss, candidate_loss)
            if since_better >= patience:
                break
    return best


def _passes(problem: Problem, generator: torch.Generator) -> Iterator[list[Tensor]]:
    while True:
        parts = list(torch.split(torch.randperm(len(problem.labels), generator=generator), problem.options.batch_size))
        if len(parts) > 1 and len(parts[-1]) < fewest_in_batch(problem.network):
            parts[-2:] = [torch.cat(parts[-2:])]
        yield parts

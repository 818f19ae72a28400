"""The model that a hospital could train without the others: as well as its own rows allow.

Federating is worth it only against this one, so it is given what the federated model is not: a choice of the penalty,
and as many epochs as its validation rows ask for.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedmed.training.local import TrainingOptions, train_locally
from fedmed.weights import Weights

PENALTIES = (0.0, 0.001, 0.01, 0.03, 0.1)
MOST_EPOCHS = 200
PATIENCE = 25


class AloneResult(NamedTuple):
    """The best weights by validation loss, and the choices that led there."""

    weights: Weights
    penalty: float
    epochs: int


def train_alone(
    network: nn.Module,
    start: Weights,
    training: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    options: TrainingOptions,
    generator: torch.Generator,
) -> AloneResult:
    """Early-stopped SGD over a grid of penalties, chosen by the log loss on the validation rows.

    Args:
        network: gives the function.
        start: where every candidate starts.
        training: features `(rows, features)` and labels `(rows,)` to fit.
        validation: features and labels to choose by.
        options: step and batch size; epochs and penalty are chosen here.
        generator: draws the order of the rows.

    Returns:
        The candidate with the least validation loss; the earliest and least penalised of equals.
    """
    best = AloneResult(start, 0.0, 0)
    best_loss = math.inf
    for penalty in PENALTIES:
        candidate = options.model_copy(update={"l2": penalty})
        weights, since_better, candidate_loss = start, 0, math.inf
        for epoch in range(1, MOST_EPOCHS + 1):
            weights = train_locally(network, weights, *training, candidate, generator, epochs=1).weights
            loss = log_loss(network, weights, *validation)
            if loss < best_loss:
                best, best_loss = AloneResult(weights, penalty, epoch), loss
            since_better = 0 if loss < candidate_loss else since_better + 1
            candidate_loss = min(loss, candidate_loss)
            if since_better >= PATIENCE:
                break
    return best


def log_loss(network: nn.Module, weights: Weights, features: Tensor, labels: Tensor) -> float:
    """Mean log loss without the penalty; infinite where there are no rows."""
    if len(labels) == 0:
        return math.inf
    with torch.no_grad():
        logits = torch.func.functional_call(network, dict(weights), (features,)).squeeze(1)
        return binary_cross_entropy_with_logits(logits.double(), labels.double()).item()

"""Local training inside a round: mini-batch SGD on the regularised log loss, as a function of its arguments alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedmed.typed_yaml import Record
from fedmed.weights import Weights


class TrainingOptions(Record):
    """How a hospital trains within a round, and for how many rounds."""

    rounds: int = Field(40, ge=1, le=10_000, description="rounds of the run")
    local_epochs: int = Field(1, ge=1, description="passes over a hospital's training rows within a round")
    batch_size: int = Field(32, ge=1, description="rows a step; the last batch of an epoch may be smaller")
    learning_rate: float = Field(0.3, gt=0, description="step size of the local SGD")
    l2: float = Field(0.001, ge=0, description="factor η of the penalty η‖θ‖² on the weights (not on intercepts)")
    seed: int = Field(2026, ge=0, description="public seed of the run: starting weights and batch order")


class LocalResult(NamedTuple):
    """Weights after local training, and the mean log loss over the rows of the last epoch, before each step."""

    weights: dict[str, Tensor]
    loss: float


def train_locally(
    network: nn.Module,
    weights: Weights,
    features: Tensor,
    labels: Tensor,
    options: TrainingOptions,
    generator: torch.Generator,
    *,
    epochs: int | None = None,
) -> LocalResult:
    """Run `options.local_epochs` epochs of mini-batch SGD from `weights`.

    The objective of a batch B is  1/|B| Σ log loss + η ‖θ‖²,  θ without intercepts (McMahan et al. 2017, Algorithm 1,
    ClientUpdate, with the penalty added).

    Args:
        network: gives the function; its own parameters are not read.
        weights: where to start; not changed.
        features: float32 of shape `(rows, features)`.
        labels: float32 of shape `(rows,)`, 0 or 1.
        options: step size, batch size, epochs, η.
        generator: draws the order of the rows.
        epochs: another number of epochs than the options say.

    Returns:
        The new weights and the training loss.

    >>> net = nn.Linear(1, 1)
    >>> start = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
    >>> one = TrainingOptions(learning_rate=1.0, l2=0.0, batch_size=2)
    >>> x, y = torch.tensor([[2.0], [2.0]]), torch.tensor([1.0, 1.0])
    >>> train_locally(net, start, x, y, one, torch.Generator()).weights["weight"].item()  # 0 + (1 - σ(0)) · 2
    1.0
    """
    names = sorted(weights)
    values = [weights[name].detach().clone().requires_grad_(True) for name in names]
    rows = len(labels)
    loss_sum = 0.0
    for _ in range(epochs or options.local_epochs):
        loss_sum = 0.0
        order = torch.randperm(rows, generator=generator)
        for batch in torch.split(order, options.batch_size):
            logits = torch.func.functional_call(network, dict(zip(names, values, strict=True)), (features[batch],))
            loss = binary_cross_entropy_with_logits(logits.squeeze(1), labels[batch])
            gradients = torch.autograd.grad(loss, values)
            loss_sum += loss.item() * len(batch)
            with torch.no_grad():
                for value, gradient in zip(values, gradients, strict=True):
                    # d/dθ η‖θ‖² = 2ηθ, added to the gradient of the loss.
                    shrink = 2 * options.l2 * value if value.ndim > 1 else 0.0
                    value.sub_(options.learning_rate * (gradient + shrink))
    return LocalResult({name: value.detach() for name, value in zip(names, values, strict=True)}, loss_sum / rows)

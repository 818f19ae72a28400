"""Local training: mini-batch descent on a loss, as a function of its arguments alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fedmed.models.networks import normalisation_names, state_names
from fedmed.training.losses import Loss, LossOptions
from fedmed.typed_yaml import Record
from fedmed.weights import Weights

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam's (Kingma & Ba 2015, section 2)

Gradients = Sequence[Tensor]
Correction = Callable[[str, Tensor], Tensor]
"""What a strategy adds to the gradient of a parameter: from its name and present value, of the same shape."""


class TrainingOptions(Record):
    """How a hospital trains within a round, and for how many rounds."""

    rounds: int = Field(40, ge=1, le=10_000, description="rounds of the run")
    local_epochs: int = Field(1, ge=1, description="passes over a hospital's training rows within a round")
    local_updates: int = Field(
        0,
        ge=0,
        description="if above 0: steps within a round, in place of passes; the next round goes on there",
    )
    batch_size: int = Field(32, ge=1, description="rows a step; the last batch of a pass may be smaller")
    optimizer: Literal["sgd", "adam"] = Field("sgd", description="local optimiser; its state lives for one round")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of the local SGD")
    learning_rate: float = Field(0.3, gt=0, description="step size of the local optimiser")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how the local step size falls over the rounds: not at all, or towards 0"
    )
    warmup: int = Field(0, ge=0, description="rounds over which the local step size first rises")
    l2: float = Field(0.001, ge=0, description="factor η of the penalty η‖θ‖² on the weights (not on intercepts)")
    clip: float = Field(0.0, ge=0, description="if above 0: largest norm of a gradient; a longer one is shortened")
    loss: LossOptions = LossOptions()
    frozen: tuple[str, ...] = Field((), description="layers that keep their starting weights, such as `body.*`")
    sampler: str = Field("passes", description="which rows a step is made of: passes over all rows in a drawn order")
    slope: str = Field("mean", description="how the gradient of a step is made of its rows: the mean over them")
    patience: int = Field(0, ge=0, description="if above 0: stop after so many rounds without a lower validation loss")
    start: str = Field(
        "", description="a registered model to start from, such as `heart-disease/champion`; empty: random weights"
    )
    seed: int = Field(2026, ge=0, description="public seed of the run: starting weights and batch order")

    @model_validator(mode="after")
    def _known(self) -> Self:
        for key, table in (("sampler", SAMPLERS), ("slope", SLOPES)):
            if getattr(self, key) not in table:
                raise ValueError(f"`{key}`: expected {', '.join(table)}, got {getattr(self, key)!r}")
        return self


class Problem(NamedTuple):
    """What is fitted: a network and a loss on one hospital's encoded training rows.

    `patients` says of each row whose it is, as numbers from 0, `(rows,)`; None where every row is a patient's only one.
    """

    network: nn.Module
    loss: Loss
    features: Tensor
    labels: Tensor
    options: TrainingOptions
    patients: Tensor | None = None


class Trained(NamedTuple):
    """The state after training (parameters and statistics such as BatchNorm's), and how it went there.

    `loss` is the mean loss over the rows of the last pass, each before its step; `steps` is how many there were.
    """

    state: dict[str, Tensor]
    loss: float
    steps: int


def factor(number: int, of: int, schedule: str, warmup: int = 0) -> float:
    """What the step size is multiplied with in round `number` (from 1) of `of`.

    >>> [round(factor(number, 5, "linear"), 2) for number in (1, 3, 5)]
    [1.0, 0.6, 0.2]
    >>> [round(factor(number, 4, "constant", warmup=2), 2) for number in (1, 2, 3)]
    [0.5, 1.0, 1.0]
    """
    rise = min(1.0, number / warmup) if warmup else 1.0
    done = (number - 1) / of
    if schedule == "linear":
        return rise * (1 - done)
    return rise * (1 + math.cos(math.pi * done)) / 2 if schedule == "cosine" else rise


def batches_of_round(
    rows: int, options: TrainingOptions, number: int, order: Callable[[int], Tensor], *, fewest: int = 1
) -> list[Tensor]:
    """The batches of round `number`, each a tensor of row indices.

    Args:
        rows: how many training rows there are.
        options: batch size, and passes or updates a round.
        number: the round, from 1. It says where in the endless stream of passes the round begins.
        order: the order of the rows in pass e = 0, 1, …: a permutation of shape `(rows,)`.
        fewest: a last batch with fewer rows is joined to the one before it (BatchNorm cannot train on one row).

    >>> two = TrainingOptions(batch_size=2, local_updates=2)
    >>> [batch.tolist() for batch in batches_of_round(3, two, 2, lambda e: torch.arange(3) + 0 * e)]
    [[0, 1], [2]]
    """

    def batches(epoch: int) -> list[Tensor]:
        parts = list(torch.split(order(epoch), options.batch_size))
        if len(parts) > 1 and len(parts[-1]) < fewest:
            parts[-2:] = [torch.cat(parts[-2:])]
        return parts

    if not options.local_updates:
        first = (number - 1) * options.local_epochs
        return [batch for epoch in range(first, first + options.local_epochs) for batch in batches(epoch)]
    each = len(batches(0))
    first = (number - 1) * options.local_updates
    passes = {epoch: batches(epoch) for epoch in range(first // each, (first + options.local_updates - 1) // each + 1)}
    return [passes[update // each][update % each] for update in range(first, first + options.local_updates)]


def mean_slope(problem: Problem, state: Weights, values: Sequence[Tensor], batch: Tensor) -> tuple[Tensor, Gradients]:
    """The mean loss over the rows of a batch, and its gradient by the values, which stand in the state."""
    outputs = torch.func.functional_call(problem.network, dict(state), (problem.features[batch],))
    loss = problem.loss(outputs, problem.labels[batch])
    return loss, torch.autograd.grad(loss, values, materialize_grads=True)


Sampler = Callable[..., list[Tensor]]
"""As :func:`batches_of_round`: rows, options, round, order and `fewest` → the rows of every step."""
Slope = Callable[[Problem, Weights, Sequence[Tensor], Tensor], tuple[Tensor, Gradients]]
"""As :func:`mean_slope`: problem, state, the values in it that are trained, and a step's rows → loss and gradients."""

SAMPLERS: dict[str, Sampler] = {"passes": batches_of_round}
SLOPES: dict[str, Slope] = {"mean": mean_slope}


def fewest_in_batch(network: nn.Module) -> int:
    """Two if the network has BatchNorm, else one."""
    return 2 if normalisation_names(network) else 1


def train(
    problem: Problem,
    start: Weights,
    batches: Sequence[Tensor],
    *,
    rate: float,
    correct: Correction | None = None,
    fixed: Collection[str] = (),
) -> Trained:
    """Descend from `start`, one step a batch.

    The objective of a batch B is  1/|B| Σ loss + η ‖θ‖²,  θ without intercepts and scales (McMahan et al. 2017,
    Algorithm 1, ClientUpdate, with the penalty added).

    Args:
        problem: network, loss, features `(rows, …)`, labels, options. The network's own parameters are not read.
        start: parameters and statistics; not changed.
        batches: row indices of every step.
        rate: step size.
        correct: what a strategy adds to each parameter's gradient.
        fixed: parameters that keep their values.

    >>> from fedmed.training.losses import log_loss
    >>> x, y = torch.tensor([[2.0], [2.0]]), torch.tensor([1.0, 1.0])
    >>> one = Problem(nn.Linear(1, 1), log_loss, x, y, TrainingOptions(l2=0.0))
    >>> start = {"weight": torch.zeros(1, 1), "bias": torch.zeros(1)}
    >>> train(one, start, [torch.arange(2)], rate=1.0).state["weight"].item()  # 0 + (1 - σ(0)) · 2
    1.0
    """
    network, options = problem.network.train(), problem.options
    parameters = set(state_names(network).parameters)
    state = {name: start[name].detach().clone() for name in sorted(start)}
    names = [name for name in sorted(parameters & state.keys()) if name not in fixed]
    values = [state[name].requires_grad_(True) for name in names]
    first = [torch.zeros_like(value) for value in values]
    second = [torch.zeros_like(value) for value in values]
    losses: list[tuple[float, int]] = []
    slope_of = SLOPES[options.slope]
    for step, batch in enumerate(batches, 1):
        loss, gradients = slope_of(problem, state, values, batch)
        losses.append((loss.item(), len(batch)))
        with torch.no_grad():
            shorten = _shorten(gradients, options.clip)
            for place, (name, value, slope) in enumerate(zip(names, values, gradients, strict=True)):
                gradient = slope * shorten
                if value.ndim > 1:
                    gradient = gradient + 2 * options.l2 * value  # d/dθ η‖θ‖² = 2ηθ
                if correct is not None:
                    gradient = gradient + correct(name, value)
                if options.optimizer == "adam":
                    first[place].mul_(BETA_1).add_(gradient, alpha=1 - BETA_1)
                    second[place].mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
                    root = (second[place] / (1 - BETA_2**step)).sqrt().add_(EPSILON)
                    value.addcdiv_(first[place], root, value=-rate / (1 - BETA_1**step))
                    continue
                if options.momentum:
                    gradient = first[place].mul_(options.momentum).add_(gradient)
                value.sub_(rate * gradient)
    return Trained({name: value.detach() for name, value in state.items()}, _last_pass(losses, problem), len(batches))


def gradient(problem: Problem, at: Weights, *, fixed: Collection[str] = ()) -> Trained:
    """The gradient of the objective over all rows, as a state: statistics are as the pass leaves them."""
    network = problem.network.train()
    parameters = set(state_names(network).parameters)
    state = {name: at[name].detach().clone() for name in sorted(at)}
    names = [name for name in sorted(parameters & state.keys()) if name not in fixed]
    values = [state[name].requires_grad_(True) for name in names]
    loss = problem.loss(torch.func.functional_call(network, state, (problem.features,)), problem.labels)
    slopes = dict(zip(names, torch.autograd.grad(loss, values, materialize_grads=True), strict=True))
    with torch.no_grad():
        found = {name: value.detach() for name, value in state.items() if name not in parameters}
        for name in parameters & state.keys():
            slope = slopes.get(name, torch.zeros_like(state[name]))
            penalised = name in slopes and state[name].ndim > 1
            found[name] = slope + 2 * problem.options.l2 * state[name].detach() if penalised else slope
    return Trained(dict(sorted(found.items())), loss.item(), 1)


def loss_of(problem: Problem, state: Weights) -> float:
    """The loss on the problem's rows, without penalty and in float64; infinite where there are no rows."""
    if len(problem.labels) == 0:
        return math.inf
    with torch.no_grad():
        outputs = torch.func.functional_call(problem.network.eval(), dict(state), (problem.features,))
        return float(problem.loss(outputs.double(), problem.labels.double()))


def _shorten(gradients: Sequence[Tensor], clip: float) -> float:
    if not clip:
        return 1.0
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    return min(1.0, clip / norm) if norm else 1.0


def _last_pass(losses: Sequence[tuple[float, int]], problem: Problem) -> float:
    total, rows = 0.0, 0
    for loss, size in reversed(losses):
        total, rows = total + loss * size, rows + size
        if rows >= len(problem.labels):
            break
    return total / rows if rows else 0.0

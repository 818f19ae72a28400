"""What of a model a hospital makes its own: layers that it keeps, a few more passes, and a shift of the intercept.

Hospitals differ most in how many of their patients are ill. One shared intercept is then wrong everywhere, and one
local parameter repairs it while the shared weights stay shared: recalibration in the large (Steyerberg et al. 2004,
Statistics in Medicine 23:2567, method 1), with a prior so that a hospital with few of a class does not run away.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from fedmed.errors import SettingsError
from fedmed.models.networks import state_names
from fedmed.training.local import Problem, fewest_in_batch, train
from fedmed.training.losses import Loss
from fedmed.typed_yaml import Record
from fedmed.weights import Weights

STEPS = 50
TOLERANCE = 1e-10


class PersonalOptions(Record):
    """What each hospital adapts of the global model, for itself alone."""

    intercept: bool = Field(True, description="shift the model's intercept at each hospital to fit its own patients")
    spread: float = Field(1.0, gt=0, description="standard deviation of the shift's normal prior, in logits")
    layers: tuple[str, ...] = Field((), description="layers that each hospital has of its own, such as `head.*`")
    fine_tune: tuple[str, ...] = Field((), description="layers of the global model that each hospital trains on alone")
    fine_tune_epochs: int = Field(5, ge=1, description="passes of that training")
    fine_tune_rate: float = Field(0.01, gt=0, description="its step size")


class Personal(NamedTuple):
    """A model as one hospital uses it: the whole state, and the shift of its outputs (one number, or one a column)."""

    state: dict[str, Tensor]
    shift: tuple[float, ...] = ()


def personalise(
    problem: Problem,
    state: Weights,
    options: PersonalOptions,
    generator: torch.Generator,
    likelihood: Loss | None,
) -> Personal:
    """Make a model a hospital's own: train the chosen layers on, then fit the shift, both on its training rows.

    Args:
        problem: network, loss and the hospital's training rows.
        state: the global state, with the hospital's own layers in place.
        options: what to adapt.
        generator: draws the order of the rows.
        likelihood: what the shift is fitted by; None where none makes sense (a Cox model has no intercept).

    Raises:
        SettingsError: if a pattern of `fine_tune` fits no parameter.
    """
    own = dict(state)
    if options.fine_tune:
        own = fine_tune(problem, state, options, generator)
    if likelihood is None or not options.intercept:
        return Personal(own)
    with torch.no_grad():
        outputs = torch.func.functional_call(problem.network.eval(), own, (problem.features,))
    return Personal(own, fit_shift(outputs, problem.labels, likelihood, options.spread))


def fine_tuned(network: nn.Module, options: PersonalOptions) -> set[str]:
    """Names of the parameters that hospitals train on alone; none where `fine_tune` is empty.

    Raises:
        SettingsError: if its patterns fit no parameter.
    """
    parameters = sorted(state_names(network).parameters)
    chosen = {name for name in parameters if any(fnmatchcase(name, pattern) for pattern in options.fine_tune)}
    if options.fine_tune and not chosen:
        raise SettingsError(
            f"parameters: personal.fine_tune: {', '.join(options.fine_tune)} fits no parameter of the network, which"
            f" has {', '.join(parameters[:12])}"
        )
    return chosen


def fine_tune(
    problem: Problem, state: Weights, options: PersonalOptions, generator: torch.Generator
) -> dict[str, Tensor]:
    """A few more passes over one hospital's rows, in which only the chosen layers move; statistics stay as they are."""
    parameters, statistics = (sorted(names) for names in state_names(problem.network))
    chosen = fine_tuned(problem.network, options)
    rows, size = len(problem.labels), problem.options.batch_size
    batches: list[Tensor] = []
    for _ in range(options.fine_tune_epochs):
        parts = list(torch.split(torch.randperm(rows, generator=generator), size))
        if len(parts) > 1 and len(parts[-1]) < fewest_in_batch(problem.network):
            parts[-2:] = [torch.cat(parts[-2:])]
        batches += parts
    fixed = set(parameters) - chosen
    tuned = train(problem, state, batches, rate=options.fine_tune_rate, fixed=fixed).state
    return {**tuned, **{name: state[name] for name in statistics}}


def fit_shift(outputs: Tensor, labels: Tensor, loss: Loss, spread: float) -> tuple[float, ...]:
    """The shift b that minimises  Σ loss(outputs + b) + ‖b‖² / (2 spread²).

    Args:
        outputs: the model's outputs on the hospital's training rows, of shape `(rows, k)`.
        labels: of the same rows.
        loss: a mean over rows, convex in the shift.
        spread: standard deviation of the prior N(0, spread²).

    Returns:
        The minimum, by Newton's method: one number if k is 1, else one for each of the k outputs. 0 if there are no
        rows.

    >>> from fedmed.training.losses import log_loss
    >>> shift = fit_shift(torch.zeros(4, 1), torch.tensor([1.0, 1.0, 1.0, 0.0]), log_loss, spread=1e6)
    >>> round(shift[0], 4)  # logit(3/4) = ln 3
    1.0986
    """
    told, truth = outputs.double(), labels.double()

    def objective(shift: Tensor) -> Tensor:
        penalty = shift.square().sum() / (2 * spread**2)
        return penalty + len(truth) * loss(told + shift, truth) if len(truth) else penalty

    shift = torch.zeros(told.shape[1], dtype=torch.float64)
    for _ in range(STEPS):
        # Backward twice, and not torch.func.hessian: its levels are global, and hospitals work side by side in threads.
        at = shift.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(objective(at), at, create_graph=True)
        curvature = torch.stack([torch.autograd.grad(part, at, retain_graph=True)[0] for part in slope])
        step = torch.linalg.solve(curvature, slope.detach())
        # A Newton step on a sigmoid may overshoot where the curve is flat: no more than one logit at a time.
        shift = shift - step.clamp(-1.0, 1.0)
        if float(step.abs().max()) < TOLERANCE:
            break
    return tuple(shift.tolist())

"""One number that a hospital keeps to itself: the shift of the model's intercept that fits its own patients.

Hospitals differ most in how many of their patients are ill. One shared intercept is then wrong everywhere, and one
local parameter repairs it while the shared weights stay shared: recalibration in the large (Steyerberg et al. 2004,
Statistics in Medicine 23:2567, method 1), with a prior so that a hospital with few of a class does not run away.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from fedmed.typed_yaml import Record
from fedmed.weights import Weights

STEPS = 50
TOLERANCE = 1e-10


class PersonalOptions(Record):
    """What each hospital adapts of the global model, for itself alone."""

    intercept: bool = Field(True, description="shift the model's intercept at each hospital to fit its own patients")
    spread: float = Field(1.0, gt=0, description="standard deviation of the shift's normal prior, in logits")


def fit_shift(logits: Tensor, labels: Tensor, spread: float) -> float:
    """The shift b that minimises  Σ log loss(logit + b, label) + b² / (2 spread²).

    Args:
        logits: the global model's logits on the hospital's training rows, of shape `(rows,)`.
        labels: 0 or 1, of shape `(rows,)`.
        spread: standard deviation of the prior N(0, spread²).

    Returns:
        The minimum, by Newton's method: the function is strictly convex. 0 if there are no rows.

    >>> round(fit_shift(torch.zeros(4), torch.tensor([1.0, 1.0, 1.0, 0.0]), spread=1e6), 4)  # logit(3/4) = ln 3
    1.0986
    """
    z, y = logits.double(), labels.double()
    shift = 0.0
    for _ in range(STEPS):
        p = torch.sigmoid(z + shift)
        slope = (p - y).sum().item() + shift / spread**2
        curvature = (p * (1 - p)).sum().item() + 1 / spread**2
        step = slope / curvature
        # A Newton step on a sigmoid may overshoot where the curve is flat: no more than one logit at a time.
        shift -= max(-1.0, min(1.0, step))
        if abs(step) < TOLERANCE:
            break
    return shift


def shift_of(network: nn.Module, weights: Weights, features: Tensor, labels: Tensor, options: PersonalOptions) -> float:
    """The shift of a model at the hospital whose training rows these are; 0 if the options want none."""
    if not options.intercept:
        return 0.0
    with torch.no_grad():
        logits = torch.func.functional_call(network, dict(weights), (features,)).squeeze(1)
    return fit_shift(logits, labels, options.spread)

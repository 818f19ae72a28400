"""What of a hospital's turn travels: one vector of integers, and how it is taken apart again.

Statistics of normalisation layers are pooled as statistics, for every strategy alike: the running mean μ and variance
σ² of the hospitals' rows together are Σ p_k μ_k and Σ p_k (σ_k² + μ_k²) − μ². The plain average of variances, which
is what systems take that do not leave buffers out altogether, loses how far the hospitals' means lie apart.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fedmed.aggregation.grid import FixedPoint
from fedmed.models.parts import Parts
from fedmed.strategies.base import Sent, Strategy
from fedmed.weights import Weights, flatten, map_weights, scale, subtract, unflatten

NORMALISER = "normaliser"
SMALLER = 2.0**-10
"""A normaliser counts steps, up to many thousands; it travels scaled down to the range of a weight."""
WIDER = 2.0**-6
"""Activations, whose squares the moments are, reach further than weights move: they travel scaled down too."""


class Contents(NamedTuple):
    """The parts of an update's vector: change of the weights, of the statistics (as moments), extras, normaliser."""

    change: dict[str, Tensor]
    moments: dict[str, Tensor]
    extra: dict[str, dict[str, Tensor]]
    normaliser: float


def as_moments(statistics: Weights) -> dict[str, Tensor]:
    """Running variances as second moments σ² + μ², which average where variances do not; all else as it is."""
    return {
        name: tensor + statistics[mean].square() if (mean := _mean_of(name)) in statistics else tensor
        for name, tensor in statistics.items()
    }


def from_moments(moments: Weights) -> dict[str, Tensor]:
    """The inverse of :func:`as_moments`; a variance that rounding would make negative is 0.

    >>> there = as_moments({"bn.running_mean": torch.tensor([2.0]), "bn.running_var": torch.tensor([1.0])})
    >>> there["bn.running_var"].item(), from_moments(there)["bn.running_var"].item()
    (5.0, 1.0)
    """
    return {
        name: (tensor - moments[mean].square()).clamp(min=0.0) if (mean := _mean_of(name)) in moments else tensor
        for name, tensor in moments.items()
    }


def template(weights: Weights, statistics: Weights, strategy: Strategy) -> dict[str, Tensor]:
    """An update's vector by its parts, all 0: it gives the order and the size."""
    parts = {f"change/{name}": tensor for name, tensor in weights.items()}
    parts |= {f"moments/{name}": tensor for name, tensor in statistics.items()}
    parts |= {f"{extra}/{name}": tensor for extra in strategy.extra for name, tensor in weights.items()}
    return {**map_weights(torch.zeros_like, parts), NORMALISER: torch.zeros(1)}


def encode_update(
    sent: Sent, weights: Weights, statistics: Weights, strategy: Strategy, weight: int, grid: FixedPoint
) -> Tensor:
    """What a hospital sends: `weight` times everything, on the grid; integers of shape `(size,)`.

    Args:
        sent: what its turn came to.
        weights: the global weights that it started from, those that travel.
        statistics: the global statistics that it started from, those that travel.
        strategy: the run's.
        weight: the hospital's exact weight.
        grid: agreed in the plan.

    Raises:
        RangeExceeded: if a value is out of the agreed range.
    """
    moved = {name: sent.fitted.statistics[name] for name in statistics}
    parts = {f"change/{name}": sent.change[name] for name in weights}
    parts |= {f"moments/{name}": tensor for name, tensor in _apart(moved, statistics).items()}
    parts |= {f"{extra}/{name}": sent.extra[extra][name] for extra in strategy.extra for name in weights}
    return grid.encode(flatten({**parts, NORMALISER: torch.tensor([sent.normaliser * SMALLER])}), weight)


def decode_update(vector: Tensor, weights: Weights, statistics: Weights, strategy: Strategy) -> Contents:
    """The parts of a combined vector, float64 of shape `(size,)`."""
    parts = unflatten(vector, template(weights, statistics, strategy))

    def of(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{prefix}/"): tensor for key, tensor in parts.items() if key.startswith(f"{prefix}/")}

    extra = {name: of(name) for name in strategy.extra}
    return Contents(of("change"), scale(of("moments"), 1 / WIDER), extra, parts[NORMALISER].item() / SMALLER)


def blocks(weights: Weights, statistics: Weights, strategy: Strategy) -> list[int]:
    """How many integers each part of an update has, in order: a robust rule is used on every part by itself."""
    sizes: dict[str, int] = {}
    for key, tensor in sorted(template(weights, statistics, strategy).items()):
        part = key.partition("/")[0]
        sizes[part] = sizes.get(part, 0) + tensor.numel()
    return list(sizes.values())


def behind(started: Weights, base: Weights, parts: Parts, strategy: Strategy) -> Tensor:
    """What to add to an update made on an older state, so that its statistics are told from `base`; `(size,)`.

    Statistics are a state of their own and not a step: added up from different beginnings, they would be of no rows.
    """
    weights, now = travelling(base, parts)
    then = travelling(started, parts)[1]
    nothing = map_weights(Tensor.double, template(weights, now, strategy))
    return flatten({**nothing, **{f"moments/{name}": tensor for name, tensor in _apart(then, now).items()}})


def travelling(state: Weights, parts: Parts) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a state that travel: parameters, and statistics."""
    return {name: state[name] for name in parts.parameters}, {name: state[name] for name in parts.statistics}


def _apart(one: Weights, other: Weights) -> dict[str, Tensor]:
    """How far the moments of two statistics are apart, as they travel; float64."""
    first, second = (as_moments(map_weights(Tensor.double, statistics)) for statistics in (one, other))
    return scale(subtract(first, second), WIDER)


def _mean_of(name: str) -> str:
    """The running mean that belongs to a running variance; an impossible name for all else."""
    head, found, tail = name.rpartition("running_var")
    return f"{head}running_mean" if found and not tail else ""

"""What of a hospital's turn travels: one vector of numbers, and how it is taken apart again.

Statistics of normalisation layers are pooled as statistics, for every strategy alike: the running mean μ and variance
σ² of the hospitals' rows together are Σ p_k μ_k and Σ p_k (σ_k² + μ_k²) − μ². The plain average of variances, which
is what systems take that do not leave buffers out altogether, loses how far the hospitals' means lie apart.

The training loss is in the vector too, as Σ loss and Σ rows over the rows of all hospitals: beside it, it would tell
what a masked vector hides, and under equal weights its mean would be another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fedmed.weights import Weights, flatten, map_weights, scale, subtract, unflatten

NORMALISER = "normaliser"
LOSS, ROWS = "~training/loss", "~training/rows"
"""The last two numbers of a vector: `~` sorts after every letter."""
SMALLER = 2.0**-10
"""A normaliser counts steps, up to many thousands; it travels scaled down to the range of a weight."""
WIDER = 2.0**-6
"""Activations, whose squares the moments are, reach further than weights move: they travel scaled down too."""
LARGEST_LOSS = 1024.0
"""A loss per row above it is told as this much: it has a range of its own, so that its sum cannot leave the grid."""


class Form(NamedTuple):
    """What a vector is made of: the weights and statistics that travel, names of extras, and the unit of its rows.

    Args:
        weights: names and shapes of the parameters that travel.
        statistics: of the statistics that travel.
        extra: names of the further sets of weights that the strategy sends.
        unit: what a row counts, divided by the hospital's weight; 0 if the plan leaves loss and rows out.
    """

    weights: Weights
    statistics: Weights
    extra: tuple[str, ...]
    unit: float

    @property
    def template(self) -> dict[str, Tensor]:
        """The vector by its parts, all 0: it gives the order and the size."""
        parts = {f"change/{name}": tensor for name, tensor in self.weights.items()}
        parts |= {f"moments/{name}": tensor for name, tensor in self.statistics.items()}
        parts |= {f"{extra}/{name}": tensor for extra in self.extra for name, tensor in self.weights.items()}
        parts = {**map_weights(torch.zeros_like, parts), NORMALISER: torch.zeros(1)}
        return {**parts, LOSS: torch.zeros(1), ROWS: torch.zeros(1)} if self.unit else parts

    @property
    def size(self) -> int:
        """How many numbers a vector has."""
        return sum(self.blocks)

    @property
    def blocks(self) -> list[int]:
        """How many numbers each part has, in order: a robust rule is used on every part by itself."""
        sizes: dict[str, int] = {}
        for key, tensor in sorted(self.template.items()):
            part = key.partition("/")[0]
            sizes[part] = sizes.get(part, 0) + tensor.numel()
        return list(sizes.values())


class Moved(NamedTuple):
    """What a hospital's turn came to, of the tensors that travel."""

    change: Weights
    statistics: Weights
    extra: Mapping[str, Weights]
    normaliser: float
    loss: float
    rows: int


class Contents(NamedTuple):
    """The parts of a combined vector: change of the weights, of the statistics (as moments), extras, normaliser, loss.

    `loss` is the mean over all rows, None where the plan leaves it out.
    """

    change: dict[str, Tensor]
    moments: dict[str, Tensor]
    extra: dict[str, dict[str, Tensor]]
    normaliser: float
    loss: float | None


def unit_of_rows(rows: Mapping[str, int], weights: Mapping[str, int], limit: float) -> float:
    """The largest power of two with which no hospital's rows, divided by its weight, exceed the grid's limit.

    >>> unit_of_rows({"a": 300, "b": 40}, {"a": 300, "b": 40}, 16.0), unit_of_rows({"a": 300}, {"a": 1}, 16.0)
    (16.0, 0.03125)
    """
    return 2.0 ** math.floor(math.log2(limit / max(count / weights[site] for site, count in rows.items())))


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


def to_vector(moved: Moved, begun: Weights, form: Form, weight: int) -> Tensor:
    """A hospital's turn as one vector, float64 of shape `(size,)`, not yet weighted.

    Args:
        moved: what the turn came to.
        begun: the global statistics that it started from, those that travel.
        form: agreed in the plan.
        weight: the hospital's; the numbers of its rows travel divided by it, so that the weighted sum is of rows.
    """
    parts = {f"change/{name}": moved.change[name].double() for name in form.weights}
    statistics = {name: moved.statistics[name] for name in form.statistics}
    parts |= {f"moments/{name}": tensor for name, tensor in _apart(statistics, begun).items()}
    parts |= {f"{extra}/{name}": moved.extra[extra][name].double() for extra in form.extra for name in form.weights}
    parts[NORMALISER] = torch.tensor([moved.normaliser * SMALLER]).double()
    if form.unit:
        counted = moved.rows / weight * form.unit
        loss = min(moved.loss, LARGEST_LOSS) if math.isfinite(moved.loss) else LARGEST_LOSS
        parts |= {LOSS: _number(counted * loss / LARGEST_LOSS), ROWS: _number(counted)}
    return flatten(parts)


def from_vector(vector: Tensor, form: Form) -> Contents:
    """The parts of a combined vector, float64 of shape `(size,)`."""
    parts = unflatten(vector, form.template)

    def of(prefix: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{prefix}/"): tensor for key, tensor in parts.items() if key.startswith(f"{prefix}/")}

    extra = {name: of(name) for name in form.extra}
    loss = loss_in(vector) if form.unit else None
    return Contents(of("change"), scale(of("moments"), 1 / WIDER), extra, parts[NORMALISER].item() / SMALLER, loss)


def loss_in(vector: Tensor) -> float | None:
    """The mean loss over rows that the end of a vector, or of a sum of vectors, tells; None if it tells of no row."""
    loss, rows = vector[-2:].tolist()
    return loss / rows * LARGEST_LOSS if rows > 0 else None


def behind(started: Weights, now: Weights, form: Form) -> Tensor:
    """What to add to an update made on older statistics, so that they are told from those of now; `(size,)`.

    Statistics are a state of their own and not a step: added up from different beginnings, they would be of no rows.
    """
    nothing = map_weights(Tensor.double, form.template)
    return flatten({**nothing, **{f"moments/{name}": tensor for name, tensor in _apart(started, now).items()}})


def _number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def _apart(one: Weights, other: Weights) -> dict[str, Tensor]:
    """How far the moments of two statistics are apart, as they travel; float64."""
    first, second = (as_moments(map_weights(Tensor.double, statistics)) for statistics in (one, other))
    return scale(subtract(first, second), WIDER)


def _mean_of(name: str) -> str:
    """The running mean that belongs to a running variance; an impossible name for all else."""
    head, found, tail = name.rpartition("running_var")
    return f"{head}running_mean" if found and not tail else ""

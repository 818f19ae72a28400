"""Strategies by name: how much each site's update weighs, and the new global weights from their mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor

from fedmed.aggregation.fixed_point import FixedPoint
from fedmed.typed_yaml import Record
from fedmed.weights import Weights, flatten, subtract, unflatten


class AggregationOptions(Record):
    """The strategy and the integers that updates travel as."""

    strategy: Literal["fedavg", "mean"] = Field("fedavg", description="fedavg weighs a site by its rows, mean equally")
    bits: Literal[32, 64] = Field(32, description="bits of the integers that updates travel as")
    limit: float = Field(16.0, gt=0, description="largest change of a weight within a round; more is refused")


def by_rows(rows: int) -> int:
    """A site weighs as many as its training rows (McMahan et al. 2017, Algorithm 1: n_k / n)."""
    return rows


def equally(rows: int) -> int:
    """Every site weighs one: θ = 1/K Σ θ_k."""
    return 1


STRATEGIES: dict[str, Callable[[int], int]] = {"fedavg": by_rows, "mean": equally}


def encode_update(local: Weights, base: Weights, weight: int, grid: FixedPoint) -> Tensor:
    """What a site sends: its weighted change `weight · (local − base)` on the grid, integers of shape `(size,)`."""
    return grid.encode(flatten(subtract(local, base)), weight)


def aggregate(
    base: Weights, updates: Mapping[str, Tensor], weights: Mapping[str, int], grid: FixedPoint
) -> dict[str, Tensor]:
    """New global weights: base + Σ w_k (θ_k − base) / Σ w_k, which is Σ w_k θ_k / Σ w_k.

    Args:
        base: the weights that every site started from.
        updates: site → integers from :func:`encode_update`.
        weights: site → its weight.
        grid: the grid that the updates are on.

    Returns:
        Weights with the names, shapes and types of `base`.

    Guarantees:
        Independent of the order of sites, bit for bit.
    """
    if not updates:
        raise ValueError("expected at least one update, got none")
    if updates.keys() != weights.keys():
        raise ValueError(f"updates and weights of different sites: {sorted(updates.keys() ^ weights.keys())}")
    mean = grid.mean([updates[site] for site in sorted(updates)], sum(weights.values()))
    moved = unflatten(flatten(base).double() + mean, base)
    return {name: tensor.to(base[name].dtype) for name, tensor in moved.items()}

"""Adaptive servers: FedAdagrad, FedAdam and FedYogi are one function and three rules for the second moment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fedmed.strategies.averaging import local_sgd
from fedmed.strategies.base import Memory, Round, Strategy, pack, unpack, zeros
from fedmed.strategies.options import AggregationOptions
from fedmed.weights import Weights, map_weights

SecondMoment = Callable[[Tensor, Tensor, float], Tensor]
"""v and Δ² and β₂ → the new v."""


def adagrad(v: Tensor, square: Tensor, beta2: float) -> Tensor:
    """Adagrad: v + Δ²."""
    return v + square


def adam(v: Tensor, square: Tensor, beta2: float) -> Tensor:
    """Adam: β₂ v + (1 − β₂) Δ²."""
    return beta2 * v + (1 - beta2) * square


def yogi(v: Tensor, square: Tensor, beta2: float) -> Tensor:
    """Yogi: v − (1 − β₂) Δ² sign(v − Δ²)."""
    return v - (1 - beta2) * square * torch.sign(v - square)


def moments(weights: Weights, options: AggregationOptions) -> Memory:
    """Nothing seen yet: m = 0 and v = τ², the least that the paper admits."""
    return pack(m=zeros(weights), v=map_weights(lambda tensor: torch.full_like(tensor, options.tau**2), weights))


def step(
    second: SecondMoment, weights: Weights, memory: Memory, round_: Round, options: AggregationOptions
) -> tuple[Weights, Memory]:
    """One step: m ← β₁ m + (1 − β₁) Δ;  v by its rule;  w ← w + η m / (√v + τ)  (Reddi et al. 2021, Algorithm 2)."""
    beta = options.beta1
    m = map_weights(lambda m, change: beta * m + (1 - beta) * change, unpack(memory, "m"), round_.change)
    v = map_weights(lambda v, change: second(v, change.square(), options.beta2), unpack(memory, "v"), round_.change)
    moved = map_weights(lambda w, m, v: w + round_.rate * m / (v.sqrt() + options.tau), weights, m, v)
    return moved, pack(m=m, v=v)


FEDADAGRAD, FEDADAM, FEDYOGI = (
    Strategy(local_sgd, apply=partial(step, second), init=moments, rate=0.1) for second in (adagrad, adam, yogi)
)
"""FedAdagrad, FedAdam, FedYogi: Reddi et al. 2021, ICLR, Algorithm 2; no bias correction, as there."""

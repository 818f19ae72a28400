"""Averaging and what differs from it in who trains, how long, or what is averaged."""

from __future__ import annotations

from collections.abc import Sequence

from fedmed.seeds import derive
from fedmed.strategies.base import Memory, Round, Sent, Site, Strategy, Turn, equally, pack, unpack, zeros
from fedmed.strategies.options import AggregationOptions
from fedmed.weights import Weights, add, scale, subtract


def local_sgd(site: Site, options: AggregationOptions) -> Sent:
    """Δ_k = w_k − w: the change that local training makes (McMahan et al. 2017, Algorithm 1, ClientUpdate)."""
    fitted = site.train(site.base)
    return Sent(subtract(fitted.weights, site.base), fitted)


def one_gradient(site: Site, options: AggregationOptions) -> Sent:
    """Δ_k = −∇F_k(w), over all rows at once: the gradients are aggregated, the server steps (2017, section 2)."""
    fitted = site.gradient(site.base)
    return Sent(scale(fitted.weights, -1.0), fitted)


def independently(site: Site, options: AggregationOptions) -> Sent:
    """Train at once as long as in all rounds of a run, its step size falling as in those."""
    fitted = site.train(site.base, whole=True)
    return Sent(subtract(fitted.weights, site.base), fitted)


def no_momentum(weights: Weights, options: AggregationOptions) -> Memory:
    """At rest: v = 0."""
    return pack(v=zeros(weights))


def with_momentum(
    weights: Weights, memory: Memory, round_: Round, options: AggregationOptions
) -> tuple[Weights, Memory]:
    """Heavy ball: v ← β v + Δ;  w ← w + η v  (Hsu, Qi & Brown 2019, section 4.3; Δ is minus their Δw̄)."""
    v = add(scale(unpack(memory, "v"), options.momentum), round_.change)
    return add(weights, scale(v, round_.rate)), pack(v=v)


def one_by_one(sites: Sequence[str], number: int, seed: int, options: AggregationOptions) -> tuple[Turn, ...]:
    """One hospital a round, in an order drawn once: each goes on from the weights that the one before it left.

    >>> [one_by_one(["a", "b"], number, 0, AggregationOptions())[0].base for number in (1, 2, 3)]
    [0, 1, 2]
    """
    order = sorted(sorted(sites), key=lambda site: derive(seed, site, "cyclic"))
    return (Turn(order[(number - 1) % len(order)], number - 1),)


def once(rounds: int) -> int:
    """One round."""
    return 1


FEDAVG = Strategy(local_sgd)
"""FedAvg: McMahan, Moore, Ramage, Hampson & Agüera y Arcas 2017, AISTATS, Algorithm 1."""

MEAN = Strategy(local_sgd, weigh=equally)
"""FedAvg with every hospital of equal weight: θ = 1/K Σ θ_k."""

FEDSGD = Strategy(one_gradient)
"""FedSGD: McMahan et al. 2017, section 2: w ← w − η Σ n_k/n g_k. η is `aggregation.learning_rate`."""

FEDAVGM = Strategy(local_sgd, apply=with_momentum, init=no_momentum)
"""FedAvgM: Hsu, Qi & Brown 2019, arXiv 1909.06335, section 4.3."""

FEDBN = Strategy(local_sgd, keeps_normalisation=True)
"""FedBN: Li, Jiang, Zhang, Kamp & Dou 2021, ICLR, Algorithm 1: normalisation layers stay at the hospital."""

CYCLIC = Strategy(local_sgd, schedule=one_by_one, weigh=equally)
"""Cyclical weight transfer: Chang et al. 2018, JAMIA 25:945: each hospital trains on the last one's weights."""

ONE_SHOT = Strategy(independently, rounds=once)
"""One-shot averaging of independently trained models: Zinkevich et al. 2010, NeurIPS, Algorithm 3; Guha et al. 2019."""

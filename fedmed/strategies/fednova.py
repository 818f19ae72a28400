"""FedNova: hospitals that take more steps must not pull the global objective towards their own."""

from __future__ import annotations

from fedmed.strategies.base import Memory, Round, Sent, Site, Strategy
from fedmed.strategies.options import AggregationOptions
from fedmed.weights import Weights, add, scale, subtract


def accumulated(steps: int, momentum: float) -> float:
    """‖a‖₁ of `steps` local steps: τ for plain SGD, and with momentum ρ  [τ − ρ (1 − ρ^τ) / (1 − ρ)] / (1 − ρ).

    >>> accumulated(3, 0.0)
    3.0
    >>> accumulated(2, 0.5)  # 1 + (1 + 0.5)
    2.5
    """
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)


def normalised(site: Site, options: AggregationOptions) -> Sent:
    """d_k = Δ_k / ‖a_k‖₁: the mean local step (Wang et al. 2020, section 4, equation 10); one of Adam's counts 1."""
    fitted = site.train(site.base)
    length = accumulated(fitted.steps, site.momentum)
    return Sent(scale(subtract(fitted.weights, site.base), 1 / length), fitted, normaliser=length)


def effective(weights: Weights, memory: Memory, round_: Round, options: AggregationOptions) -> tuple[Weights, Memory]:
    """One normalised step: w ← w + η τ_eff Σ p_k d_k  with  τ_eff = Σ p_k ‖a_k‖₁."""
    return add(weights, scale(round_.change, round_.rate * round_.normaliser)), memory


FEDNOVA = Strategy(normalised, apply=effective)
"""FedNova: Wang, Liu, Liang, Joshi & Poor 2020, NeurIPS, section 4."""

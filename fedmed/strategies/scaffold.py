"""SCAFFOLD: control variates that correct the drift of hospitals whose data differ."""

from __future__ import annotations

from torch import Tensor

from fedmed.strategies.base import Memory, Round, Sent, Site, Strategy, equally, pack, unpack, zeros
from fedmed.strategies.fednova import accumulated
from fedmed.strategies.options import AggregationOptions
from fedmed.weights import Weights, add, map_weights, scale, subtract


def corrected(site: Site, options: AggregationOptions) -> Sent:
    """Steps y ← y − η (g(y) − c_k + c),  then  c_k⁺ = c_k − c + (x − y_k) / (K η)  (option II), K the steps.

    With momentum, K is ‖a‖₁, as in FedNova. Adam's steps do not tell the gradients: then  c_k⁺ = ∇F_k(x)  (option I).
    """
    c, own = unpack(site.shared, "c"), unpack(site.memory, "c") or zeros(site.base)

    def correct(name: str, value: Tensor) -> Tensor:
        return c[name] - own[name]

    there = {} if site.sgd else site.gradient(site.base).weights
    fitted = site.train(site.base, correct)
    change = subtract(fitted.weights, site.base)
    steps = accumulated(fitted.steps, site.momentum) * site.rate
    new = there or map_weights(lambda own, c, change: own - c - change / steps, own, c, change)
    return Sent(change, fitted, extra={"control": subtract(new, own)}, memory=pack(c=new))


def no_control(weights: Weights, options: AggregationOptions) -> Memory:
    """No correction yet: c = 0."""
    return pack(c=zeros(weights))


def move(weights: Weights, memory: Memory, round_: Round, options: AggregationOptions) -> tuple[Weights, Memory]:
    """Move both: x ← x + η_g mean Δy;  c ← c + |S|/N mean Δc."""
    c = add(unpack(memory, "c"), scale(round_.extra["control"], round_.share))
    return add(weights, scale(round_.change, round_.rate)), pack(c=c)


SCAFFOLD = Strategy(corrected, apply=move, init=no_control, weigh=equally, extra=("control",), shares_memory=True)
"""SCAFFOLD: Karimireddy, Kale, Mohri, Reddi, Stich & Suresh 2020, ICML, Algorithm 1."""

"""Strategies that add to the local objective a pull towards the global weights."""

from __future__ import annotations

from torch import Tensor

from fedmed.strategies.base import Memory, Round, Sent, Site, Strategy, equally, pack, unpack, zeros
from fedmed.strategies.options import AggregationOptions
from fedmed.weights import Weights, add, scale, subtract


def proximal(site: Site, options: AggregationOptions) -> Sent:
    """Minimise  F_k(w) + μ/2 ‖w − wᵗ‖²  (Li et al. 2020, equation 2): μ (w − wᵗ) is added to every gradient."""
    fitted = site.train(site.base, lambda name, value: options.mu * (value - site.base[name]))
    return Sent(subtract(fitted.weights, site.base), fitted)


def with_personal_model(site: Site, options: AggregationOptions) -> Sent:
    """Local SGD, and a personal v_k besides:  v ← v − η (∇F_k(v) + λ (v − wᵗ))  (Li et al. 2021, Alg. 1)."""
    fitted = site.train(site.base)
    personal = unpack(site.memory, "v") or dict(site.base)
    own = site.train(personal, lambda name, value: options.ditto_lambda * (value - site.base[name]))
    return Sent(
        subtract(fitted.weights, site.base),
        fitted,
        memory=pack(v=own.weights),
        personal={**own.weights, **own.statistics},
    )


def dynamic(site: Site, options: AggregationOptions) -> Sent:
    """Minimise  F_k(θ) − ⟨g_k, θ⟩ + α/2 ‖θ − θᵗ‖²,  then  g_k ← g_k − α (θ_k − θᵗ)  (Acar et al. 2021, Algorithm 1)."""
    g = unpack(site.memory, "g") or zeros(site.base)

    def correct(name: str, value: Tensor) -> Tensor:
        return options.alpha * (value - site.base[name]) - g[name]

    fitted = site.train(site.base, correct)
    change = subtract(fitted.weights, site.base)
    return Sent(change, fitted, memory=pack(g=subtract(g, scale(change, options.alpha))))


def no_drift(weights: Weights, options: AggregationOptions) -> Memory:
    """No drift yet: h = 0."""
    return pack(h=zeros(weights))


def undrift(weights: Weights, memory: Memory, round_: Round, options: AggregationOptions) -> tuple[Weights, Memory]:
    """Undo the drift: h ← h − α |P|/m Δ;  w ← w + Δ − h/α,  Δ the mean of θ_k − wᵗ over the |P| of m taking part."""
    h = subtract(unpack(memory, "h"), scale(round_.change, options.alpha * round_.share))
    mean = add(weights, round_.change)
    return subtract(mean, scale(h, 1 / options.alpha)), pack(h=h)


FEDPROX = Strategy(proximal)
"""FedProx: Li, Sahu, Zaheer, Sanjabi, Talwalkar & Smith 2020, MLSys, Algorithm 2."""

DITTO = Strategy(with_personal_model)
"""Ditto: Li, Hu, Beirami & Smith 2021, ICML, Algorithm 1; the personal model stays at the hospital."""

FEDDYN = Strategy(dynamic, apply=undrift, init=no_drift, weigh=equally)
"""FedDyn: Acar, Zhao, Navarro, Mattina, Whatmough & Saligrama 2021, ICLR, Algorithm 1."""

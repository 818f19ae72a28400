"""Every strategy against a second implementation, in plain numpy straight from its paper.

Three hospitals of different size fit a line: F_k(a, b) = ½ mean (a x + b - y)². Only the order of their rows, which is
drawn, is taken from the project.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
import torch
from federation import After, federate, squared_error
from numpy.typing import NDArray
from torch import nn

from fedmed.strategies.averaging import one_by_one
from fedmed.strategies.base import everyone
from fedmed.strategies.client import order_of
from fedmed.strategies.options import AggregationOptions
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import Problem, TrainingOptions

Vector = NDArray[np.float64]
ROUNDS = 3
ROWS = {"north": 7, "south": 4, "west": 10}
SITES = tuple(ROWS)
LOCAL = TrainingOptions(learning_rate=0.1, batch_size=3, local_epochs=2, rounds=ROUNDS, l2=0.0, seed=5)
START = {"weight": torch.tensor([[0.5]]), "bias": torch.tensor([-0.25])}


class Data(NamedTuple):
    x: Vector
    y: Vector


def _drawn(site: str, seed: int) -> Data:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=ROWS[site])
    return Data(x, (seed - 1) * x + seed + rng.normal(size=ROWS[site]))


DATA = {site: _drawn(site, seed) for seed, site in enumerate(SITES)}


# The papers.


def gradient(w: Vector, x: Vector, y: Vector) -> Vector:
    rest = w[0] * x + w[1] - y
    return np.array([np.mean(rest * x), np.mean(rest)])


class Local(NamedTuple):
    """K steps of SGD from `w`, with heavy-ball momentum, and something added to every gradient."""

    w: Vector
    steps: int


def sgd(
    site: str,
    w: Vector,
    number: int,
    correct: Callable[[Vector], Vector] = lambda w: 0 * w,
    *,
    rate: float = 0.1,
    momentum: float = 0.0,
    passes: range | None = None,
) -> Local:
    x, y = DATA[site]
    w, speed, steps = w.copy(), np.zeros(2), 0
    for epoch in passes or range(2 * (number - 1), 2 * number):
        order = order_of(5, site, len(x))(epoch).numpy()
        for first in range(0, len(order), 3):
            rows = order[first : first + 3]
            speed = momentum * speed + gradient(w, x[rows], y[rows]) + correct(w)
            w -= rate * speed
            steps += 1
    return Local(w, steps)


def w0() -> Vector:
    return np.array([0.5, -0.25])


P = {site: rows / sum(ROWS.values()) for site, rows in ROWS.items()}  # n_k / n
Q = {site: 1 / len(ROWS) for site in ROWS}


def fedavg(p: dict[str, float] = P) -> list[Vector]:
    w, path = w0(), []
    for t in range(1, ROUNDS + 1):
        w = sum(p[k] * sgd(k, w, t).w for k in SITES)
        path.append(w)
    return path


def fedsgd() -> list[Vector]:
    w, path = w0(), []
    for _ in range(ROUNDS):
        w = w - 0.7 * sum(P[k] * gradient(w, *DATA[k]) for k in SITES)
        path.append(w)
    return path


def fedprox(mu: float = 0.4) -> list[Vector]:
    w, path = w0(), []
    for t in range(1, ROUNDS + 1):
        w = sum(P[k] * sgd(k, w, t, lambda v, w=w: mu * (v - w)).w for k in SITES)
        path.append(w)
    return path


def fedavgm(beta: float = 0.6, eta: float = 0.8) -> list[Vector]:
    w, v, path = w0(), np.zeros(2), []
    for t in range(1, ROUNDS + 1):
        delta = sum(P[k] * (w - sgd(k, w, t).w) for k in SITES)  # Hsu et al.: Δw = Σ n_k/n Δw_k, w ← w - v
        v = beta * v + delta
        w = w - eta * v
        path.append(w)
    return path


def adaptive(rule: str) -> Callable[[], list[Vector]]:
    beta1, beta2, tau, eta = 0.7, 0.8, 0.05, 0.1

    def reddi_algorithm_2() -> list[Vector]:
        x, m, v, path = w0(), np.zeros(2), np.full(2, tau**2), []
        for t in range(1, ROUNDS + 1):
            delta = sum(P[k] * (sgd(k, x, t).w - x) for k in SITES)
            m = beta1 * m + (1 - beta1) * delta
            if rule == "adagrad":
                v = v + delta**2
            elif rule == "yogi":
                v = v - (1 - beta2) * delta**2 * np.sign(v - delta**2)
            else:
                v = beta2 * v + (1 - beta2) * delta**2
            x = x + eta * m / (np.sqrt(v) + tau)
            path.append(x)
        return path

    return reddi_algorithm_2


def scaffold(eta_g: float = 0.9, share: float = 1.0) -> list[Vector]:
    x, c, path = w0(), np.zeros(2), []
    c_i = {k: np.zeros(2) for k in SITES}
    for t in range(1, ROUNDS + 1):
        taking = part(t, share)
        dy, dc = {}, {}
        for k in taking:
            y = sgd(k, x, t, lambda v, k=k, c=c: c - c_i[k])
            c_plus = c_i[k] - c + (x - y.w) / (y.steps * 0.1)  # option II
            dy[k], dc[k] = y.w - x, c_plus - c_i[k]
        for k in taking:
            c_i[k] = c_i[k] + dc[k]
        x = x + eta_g * sum(dy.values()) / len(taking)
        c = c + len(taking) / len(SITES) * sum(dc.values()) / len(taking)
        path.append(x)
    return path


def fednova(rho: float = 0.0) -> list[Vector]:
    x, path = w0(), []
    for t in range(1, ROUNDS + 1):
        d, a_one = {}, {}
        for k in SITES:
            y = sgd(k, x, t, momentum=rho)
            a = [sum(rho**j for j in range(y.steps - step)) for step in range(y.steps)]  # a_k, step by step
            a_one[k] = sum(a)
            d[k] = (x - y.w) / (0.1 * a_one[k])  # G_k a_k / ‖a_k‖₁
        tau_eff = sum(P[k] * a_one[k] for k in SITES)
        x = x - tau_eff * 0.1 * sum(P[k] * d[k] for k in SITES)
        path.append(x)
    return path


def feddyn(alpha: float = 0.3, share: float = 1.0) -> list[Vector]:
    theta, h, path = w0(), np.zeros(2), []
    slope = {k: np.zeros(2) for k in SITES}  # ∇L_k(θ_k)
    for t in range(1, ROUNDS + 1):
        taking, new = part(t, share), {}
        for k in taking:
            new[k] = sgd(k, theta, t, lambda v, k=k, theta=theta: -slope[k] + alpha * (v - theta)).w
            slope[k] = slope[k] - alpha * (new[k] - theta)
        h = h - alpha * sum(new[k] - theta for k in taking) / len(SITES)
        theta = sum(new.values()) / len(taking) - h / alpha
        path.append(theta)
    return path


def ditto_personal(lam: float = 0.5) -> dict[str, Vector]:
    w, v = w0(), {k: w0() for k in SITES}
    for t in range(1, ROUNDS + 1):
        v = {k: sgd(k, v[k], t, lambda u, w=w: lam * (u - w)).w for k in SITES}
        w = sum(P[k] * sgd(k, w, t).w for k in SITES)
    return v


def cyclic() -> list[Vector]:
    w, path = w0(), []
    for t in range(1, ROUNDS + 1):
        w = sgd(one_by_one(SITES, t, 5, AggregationOptions())[0].site, w, t).w
        path.append(w)
    return path


def one_shot() -> list[Vector]:
    return [sum(P[k] * sgd(k, w0(), 1, passes=range(2 * ROUNDS)).w for k in SITES)]


ARRIVALS = ("north", "west", "north", "south", "west", "north")


def fedbuff(eta_g: float = 0.9) -> list[Vector]:
    path, begun = [w0()], dict.fromkeys(SITES, 0)
    arriving = iter(ARRIVALS)
    for t in range(1, ROUNDS + 1):
        buffer = np.zeros(2)
        came = [next(arriving), next(arriving)]
        for k in came:
            base = path[begun[k]]
            buffer += (sgd(k, base, t).w - base) / np.sqrt(1 + (t - 1 - begun[k]))
        path.append(path[-1] + eta_g * buffer / 2)
        begun.update(dict.fromkeys(came, t))
    return path[1:]


def part(t: int, share: float) -> list[str]:
    """Who takes part is drawn by the project; everything else is not."""
    return [turn.site for turn in everyone(SITES, t, 5, AggregationOptions(participation=share))]


CASES: dict[str, tuple[dict[str, object], Callable[[], list[Vector]]]] = {
    "fedavg": ({}, fedavg),
    "mean": ({}, lambda: fedavg(Q)),
    "fedsgd": ({"learning_rate": 0.7}, fedsgd),
    "fedprox": ({"mu": 0.4}, fedprox),
    "fedavgm": ({"momentum": 0.6, "learning_rate": 0.8}, fedavgm),
    **{
        f"fed{rule}": ({"beta1": 0.7, "beta2": 0.8, "tau": 0.05, "learning_rate": 0.1}, adaptive(rule))
        for rule in ("adagrad", "adam", "yogi")
    },
    "scaffold": ({"learning_rate": 0.9}, scaffold),
    "scaffold with two of three": ({"learning_rate": 0.9, "participation": 0.6}, lambda: scaffold(share=0.6)),
    "fednova": ({}, fednova),
    "fedbn": ({}, fedavg),
    "ditto": ({"ditto_lambda": 0.5}, fedavg),
    "feddyn": ({"alpha": 0.3}, feddyn),
    "feddyn with two of three": ({"alpha": 0.3, "participation": 0.6}, lambda: feddyn(share=0.6)),
    "cyclic": ({}, cyclic),
    "one_shot": ({}, one_shot),
    "fedbuff": ({"buffer": 2, "arrivals": ARRIVALS, "learning_rate": 0.9}, fedbuff),
}


def trace(strategy: str, local: TrainingOptions = LOCAL, **options: object) -> list[After]:
    problems = {
        site: Problem(
            nn.Linear(1, 1),
            squared_error,
            torch.tensor(data.x, dtype=torch.float32).unsqueeze(1),
            torch.tensor(data.y, dtype=torch.float32),
            local,
        )
        for site, data in DATA.items()
    }
    chosen = AggregationOptions.model_validate({"strategy": strategy, **options})
    found = STRATEGIES[chosen.strategy]
    return federate(found, chosen, problems, found.rounds(ROUNDS), start=START)


def values(state: object) -> list[float]:
    assert isinstance(state, dict)
    return [state["weight"].item(), state["bias"].item()]


@pytest.mark.parametrize("case", CASES)
def test_three_rounds_are_those_of_the_paper(case: str) -> None:
    options, paper = CASES[case]
    expected = paper()
    found = [values(after.state) for after in trace(case.partition(" ")[0], **options)[1:]]
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(list(theirs), rel=1e-5, abs=2e-6)


def test_every_strategy_is_held_against_a_paper() -> None:
    assert {case.partition(" ")[0] for case in CASES} == set(STRATEGIES)


@cache
def ends() -> dict[str, tuple[float, ...]]:
    return {case: tuple(np.round(paper()[-1], 4)) for case, (_, paper) in CASES.items()}


def test_the_papers_differ_here_so_that_one_cannot_pass_for_another() -> None:
    same = {"fedavg", "fedbn", "ditto"}  # their global weights are those of averaging
    others = [end for case, end in ends().items() if case not in same]
    assert len({*others, ends()["fedavg"]}) == len(others) + 1


def test_fednova_with_local_momentum_is_that_of_the_paper() -> None:
    found = trace("fednova", LOCAL.model_copy(update={"momentum": 0.5}))
    for after, theirs in zip(found[1:], fednova(rho=0.5), strict=True):
        assert values(after.state) == pytest.approx(list(theirs), rel=1e-5, abs=2e-6)


def test_dittos_personal_models_are_those_of_the_paper() -> None:
    kept = trace("ditto", ditto_lambda=0.5)[-1].kept
    for site, theirs in ditto_personal().items():
        assert values(dict(kept[site].personal)) == pytest.approx(list(theirs), rel=1e-5, abs=2e-6)

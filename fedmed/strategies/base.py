"""What a federated algorithm is: a handful of pure functions over plain state.

In its turn a hospital runs `client`, which trains and says what to send and what to keep. The coordinator combines
what was sent into one :class:`Round` and runs `apply`, which moves the global weights and its own memory. `init` makes
that memory. Weights here are parameters only; what a network merely counts (BatchNorm's running statistics) is pooled
by :mod:`fedmed.strategies.server` for every algorithm alike, and layers that a hospital keeps are not seen at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor

from fedmed.seeds import derive
from fedmed.strategies.options import AggregationOptions
from fedmed.training.local import Correction
from fedmed.weights import Weights, add, map_weights, scale

Memory = Mapping[str, Tensor]
"""What a side keeps between its turns, as named tensors; several sets of weights are told apart by :func:`pack`."""


class Fitted(NamedTuple):
    """Weights after local training, the statistics met on the way, the training loss, and the number of steps."""

    weights: Weights
    statistics: Weights
    loss: float
    steps: int


class Train(Protocol):
    """A hospital's local training from some weights: on this round's batches, or on those of all rounds at once."""

    def __call__(self, start: Weights, correct: Correction | None = None, *, whole: bool = False) -> Fitted:
        """Fit from `start`; see the class."""
        ...


class Site(NamedTuple):
    """What a hospital has in its turn.

    Args:
        base: the global weights that it starts from.
        shared: the server's memory, where the strategy shares it; else nothing.
        memory: what it kept of its last turn; nothing in its first.
        rate: this round's local step size.
        momentum: that of the local SGD; 0 where there is none.
        train: trains from some weights.
        gradient: the gradient of the local objective at some weights, over all rows.
        sgd: whether the local steps are SGD's, so that their sum tells the gradients that were met.
    """

    base: Weights
    shared: Memory
    memory: Memory
    rate: float
    momentum: float
    train: Train
    gradient: Callable[[Weights], Fitted]
    sgd: bool = True


class Sent(NamedTuple):
    """What a hospital does with its turn.

    Args:
        change: what is sent to be combined: names and shapes of the weights.
        fitted: the training that it rests on.
        normaliser: a positive number sent along, whose weighted mean the server sees; 1 where there is none.
        extra: more sets of weights to be combined, by the names that the strategy declares.
        memory: what the hospital keeps, to have it in its next turn.
        personal: weights that this hospital uses in place of the global ones, where it has any.
    """

    change: Weights
    fitted: Fitted
    normaliser: float = 1.0
    extra: Mapping[str, Weights] = {}
    memory: Memory = {}
    personal: Weights = {}


class Round(NamedTuple):
    """What the coordinator has of a round: everything combined over the hospitals that took part.

    Args:
        change: the combined change.
        extra: combined extras, by name.
        normaliser: the weighted mean of what was sent.
        share: hospitals that took part, as a share of all in the run.
        rate: this round's server step size.
    """

    change: Weights
    extra: Mapping[str, Weights]
    normaliser: float
    share: float
    rate: float


class Turn(NamedTuple):
    """One hospital in a round: it trains on the global model after round `base`."""

    site: str
    base: int


def nothing(weights: Weights, options: AggregationOptions) -> Memory:
    """No memory."""
    return {}


def average(weights: Weights, memory: Memory, round_: Round, options: AggregationOptions) -> tuple[Weights, Memory]:
    """Averaging: w ← w + η Δ, where Δ is the combined change; with η = 1 the mean of the local weights."""
    return add(weights, scale(round_.change, round_.rate)), memory


def by_rows(rows: int) -> int:
    """A hospital weighs as many as its training rows (McMahan et al. 2017, Algorithm 1: n_k / n)."""
    return rows


def equally(rows: int) -> int:
    """Every hospital weighs one."""
    return 1


def fresh(staleness: int) -> float:
    """Every update counts in full."""
    return 1.0


def as_asked(rounds: int) -> int:
    """As many rounds as params.yaml asks for."""
    return rounds


def everyone(sites: Sequence[str], number: int, seed: int, options: AggregationOptions) -> tuple[Turn, ...]:
    """All hospitals, or in each round another draw of the share that `participation` names; at least one.

    >>> [turn.site for turn in everyone(["a", "b"], 1, 0, AggregationOptions())]
    ['a', 'b']
    """
    count = max(1, round(options.participation * len(sites)))
    drawn = sorted(sorted(sites), key=lambda site: derive(seed, number, site, "participation"))[:count]
    return tuple(Turn(site, number - 1) for site in sorted(drawn))


class Strategy(NamedTuple):
    """A federated algorithm.

    Args:
        client: a hospital's turn.
        apply: global weights and memory after a round, from those before it.
        init: the server's memory before the first round.
        weigh: a hospital's weight from its number of training rows.
        schedule: who trains in a round, and on which model; a function of public things alone.
        rounds: how many rounds there are, from how many params.yaml asks for.
        staleness: what an update counts that is on a model so many rounds old.
        extra: names of the extras that `client` sends.
        shares_memory: whether the server's memory goes to the hospitals.
        keeps_normalisation: whether every hospital keeps normalisation layers to itself.
        rate: the server's step size, where params.yaml leaves it to the strategy.
    """

    client: Callable[[Site, AggregationOptions], Sent]
    apply: Callable[[Weights, Memory, Round, AggregationOptions], tuple[Weights, Memory]] = average
    init: Callable[[Weights, AggregationOptions], Memory] = nothing
    weigh: Callable[[int], int] = by_rows
    schedule: Callable[[Sequence[str], int, int, AggregationOptions], tuple[Turn, ...]] = everyone
    rounds: Callable[[int], int] = as_asked
    staleness: Callable[[int], float] = fresh
    extra: tuple[str, ...] = ()
    shares_memory: bool = False
    keeps_normalisation: bool = False
    rate: float = 1.0


def zeros(like: Weights) -> dict[str, Tensor]:
    """0 in the names and shapes of some weights."""
    return map_weights(lambda tensor: tensor * 0, like)


def pack(**sets: Weights) -> dict[str, Tensor]:
    """Several sets of weights as one memory.

    >>> import torch
    >>> sorted(pack(m={"w": torch.zeros(1)}, v={"w": torch.ones(1)}))
    ['m/w', 'v/w']
    """
    return {f"{name}/{key}": tensor for name, weights in sets.items() for key, tensor in weights.items()}


def unpack(memory: Memory, name: str) -> dict[str, Tensor]:
    """One set of weights out of a memory; nothing if it holds none of that name."""
    return {key.removeprefix(f"{name}/"): tensor for key, tensor in memory.items() if key.startswith(f"{name}/")}

"""The coordinator's side of a round: add up what came, take it apart, and let the strategy move the global state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fedmed.aggregation.codec import as_moments, behind, from_moments, from_vector, loss_in
from fedmed.aggregation.stage import Sum, Told, receive_through
from fedmed.strategies.algorithm import Algorithm, State
from fedmed.strategies.base import Round
from fedmed.strategies.robust import COMBINE
from fedmed.weights import Weights, map_weights


class Part(NamedTuple):
    """What one hospital sent in a round: integers of shape `(size,)`, and the name of the bytes that they came in."""

    site: str
    vector: Tensor
    name: str = ""


class Gathered(NamedTuple):
    """What came in a round.

    Args:
        total: the sum of all vectors, int64 of shape `(size,)`.
        names: hospital → the name of the bytes that its vector came in.
        each: hospital → its vector, where something has to look at each; else nothing, and only the sum is held.
        losses: hospital → its mean training loss, where each can be seen.
    """

    total: Tensor
    names: Mapping[str, str]
    each: Mapping[str, Tensor]
    losses: Mapping[str, float]


def gather(how: Algorithm, number: int, parts: Iterable[Part]) -> Gathered | None:
    """Add up what comes, one after the other; None if nothing does.

    Raises:
        ValueError: if a hospital comes twice, or one whose turn it is not: the sum would be of more than its weight.

    Guarantees:
        Independent of the order of `parts`, bit for bit. With `combine: mean` and nobody on an older model, one vector
        is held beside the sum, however many hospitals there are.
    """
    total: Tensor | None = None
    names, each, losses = {}, {}, {}
    apart = not _one_sum(how, number)
    awaited = {turn.site for turn in how.turns(number)}
    for site, vector, name in parts:
        if site not in awaited:
            raise ValueError(f"{site}: expected one update of each hospital whose turn it is in round {number}")
        awaited.remove(site)
        total = vector.to(torch.int64, copy=True) if total is None else total.add_(vector)
        names[site] = name
        if apart:
            each[site] = vector
        if how.sees_each and how.form.unit and (loss := loss_in(vector)) is not None:
            losses[site] = loss
    return None if total is None else Gathered(total, names, each, dict(sorted(losses.items())))


def move(
    how: Algorithm,
    number: int,
    states: Mapping[int, State],
    gathered: Gathered,
    refused: Mapping[str, str],
    told: Told,
) -> State:
    """The state after a round.

    Args:
        how: the run's algorithm.
        number: the round, from 1.
        states: round → the state after it; that before this round, and those that hospitals trained on.
        gathered: what came.
        refused: hospital → why nothing that counts came from it.
        told: what the hospitals answered to the stages' questions.

    Returns:
        A state with the names, shapes and types of the one before, in which what does not travel is as it was.
    """
    base, memory = states[number - 1].weights, states[number - 1].memory
    shared, statistics = how.travelling(base)
    sites = tuple(sorted(gathered.names))
    known = Sum(number, sites, sum(how.weights[site] for site in sites), told)
    summed = receive_through(how.stages, gathered.total, known)
    got = from_vector(_combined(how, number, states, gathered, known, summed), how.form)
    loss = loss_in(summed) if how.form.unit else None
    round_ = Round(got.change, got.extra, got.normaliser, len(sites) / len(how.sites), how.rate(number))
    kept = map_weights(Tensor.double, memory)
    moved, remembered = how.strategy.apply(map_weights(Tensor.double, shared), kept, round_, how.options)
    moments = {name: value.double() + got.moments[name] for name, value in as_moments(statistics).items()}
    state = {**base, **moved, **from_moments(moments)}
    return State(
        {name: state[name].to(base[name].dtype) for name in base},
        {name: tensor.float() for name, tensor in remembered.items()},
        took_part={site: gathered.names[site] for site in sites},
        refused=dict(sorted(refused.items())),
        loss=loss,
        losses=gathered.losses,
    )


def _one_sum(how: Algorithm, number: int) -> bool:
    """Whether the exact sum is enough: no robust rule, and every turn of the round on the newest model."""
    fresh = all(turn.base == number - 1 for turn in how.turns(number)) and how.strategy.staleness(0) == 1.0
    return how.options.combine == "mean" and fresh


def _combined(
    how: Algorithm, number: int, states: Mapping[int, State], gathered: Gathered, known: Sum, summed: Tensor
) -> Tensor:
    """The updates as one vector, float64 of shape `(size,)`; a robust rule is used on every part by itself."""
    base = states[number - 1].weights
    bases = {turn.site: turn.base for turn in how.turns(number)}
    counts = {site: how.strategy.staleness(number - 1 - bases[site]) for site in gathered.names}
    late = {site: states[bases[site]].weights for site in gathered.names if bases[site] != number - 1}
    if how.options.combine == "mean" and not late and all(count == 1.0 for count in counts.values()):
        return summed
    told = {}
    for site, vector in gathered.each.items():
        alone = Sum(number, (site,), how.weights[site], known.told)
        told[site] = (receive_through(how.stages, vector, alone) + _behind(how, late.get(site), base)) * counts[site]
    # Sums of floats depend on their order: the vectors are put into one that follows from what they hold.
    order = sorted(told, key=lambda site: (_in_order(told[site]), how.weights[site]))
    vectors = torch.stack([told[site] for site in order])
    shares = torch.tensor([float(how.weights[site]) for site in order], dtype=torch.float64)
    rule = COMBINE[how.options.combine]
    parts = torch.split(vectors, how.form.blocks, dim=1)
    return torch.cat([rule(part, shares, how.options) for part in parts if part.numel()])


def _behind(how: Algorithm, started: Weights | None, now: Weights) -> Tensor | float:
    return 0.0 if started is None else behind(how.travelling(started)[1], how.travelling(now)[1], how.form)


def _in_order(vector: Tensor) -> bytes:
    """Bytes that sort as the vectors do, coordinate by coordinate: a tie is broken alike whatever the scale."""
    bits = (vector + 0.0).numpy().view("int64")  # + 0.0: -0.0 is 0.0
    return bytes((bits ^ ((bits >> 63) & (2**63 - 1)) ^ -(2**63)).astype(">i8").tobytes())

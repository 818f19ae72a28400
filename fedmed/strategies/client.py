"""A hospital's side of a round: make ready what the strategy's client needs, run it, and make what is sent of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fedmed.aggregation.codec import Moved, to_vector
from fedmed.aggregation.stage import Context, send_through
from fedmed.models.networks import state_names
from fedmed.seeds import torch_generator
from fedmed.strategies.algorithm import Algorithm
from fedmed.strategies.base import Fitted, Memory, Sent, Site
from fedmed.training.local import (
    SAMPLERS,
    Correction,
    Problem,
    Trained,
    factor,
    fewest_in_batch,
    gradient,
    train,
)
from fedmed.weights import Weights


class Kept(NamedTuple):
    """What a hospital has after its turn and did not send: the strategy's memory, and its own tensors of the model."""

    memory: Memory = {}
    personal: Weights = {}


def order_of(seed: int, site: str, rows: int) -> Callable[[int], Tensor]:
    """The order of a hospital's rows in each pass: derived, so that any round can be computed without those before."""
    return lambda epoch: torch.randperm(rows, generator=torch_generator(seed, site, "pass", epoch))


class Given(NamedTuple):
    """What a hospital's turn starts from.

    Args:
        number: the round, from 1.
        base: the global state that it trains on.
        shared: the server's memory, where the strategy shares it.
        kept: what the hospital had after its last turn that counted.
    """

    number: int
    base: Weights
    shared: Memory = {}
    kept: Kept = Kept()


def take_turn(how: Algorithm, problem: Problem, site: str, given: Given) -> tuple[Sent, Kept]:
    """One hospital's turn in a round.

    Args:
        how: the run's algorithm.
        problem: network, loss, training rows and training options.
        site: the hospital's name; batch order is derived from it.
        given: the round and what it starts from.

    Returns:
        What it sends, and what it keeps. Nothing that came in is changed.
    """
    strategy, options, parts = how.strategy, how.options, how.parts
    number, base, shared, kept = given
    training, rows = problem.options, len(problem.labels)

    def rate_in(round_: int) -> float:
        return training.learning_rate * factor(round_, training.rounds, training.schedule, training.warmup)

    rate = rate_in(number)
    order, fewest = order_of(training.seed, site, rows), fewest_in_batch(problem.network)
    weights, statistics = how.travelling(base)
    own = {name: kept.personal.get(name, base[name]) for name in parts.personal}
    still = {name: base[name] for name in parts.frozen}
    after: dict[str, Tensor] = own

    def fitted(start: Weights, trained: Trained) -> Fitted:
        nonlocal after
        after = {name: trained.state[name] for name in parts.personal}
        return Fitted(
            {name: trained.state[name] for name in start},
            {name: trained.state[name] for name in parts.statistics},
            trained.loss,
            trained.steps,
        )

    def run(start: Weights, correct: Correction | None = None, *, whole: bool = False) -> Fitted:
        only_shared = None if correct is None else (lambda n, v: correct(n, v) if n in start else torch.zeros_like(v))
        trained = Trained({**statistics, **own, **still, **start}, 0.0, 0)
        for round_ in range(1, training.rounds + 1) if whole else (number,):
            batches = SAMPLERS[training.sampler](rows, training, round_, order, fewest=fewest)
            after_it = train(
                problem, trained.state, batches, rate=rate_in(round_), correct=only_shared, fixed=parts.frozen
            )
            trained = after_it._replace(steps=trained.steps + after_it.steps)
        return fitted(start, trained)

    def slope(at: Weights) -> Fitted:
        nonlocal after
        found = fitted(at, gradient(problem, {**statistics, **own, **still, **at}, fixed=parts.frozen))
        trained = state_names(problem.network).parameters
        after = {name: own[name] - rate * step if name in trained else step for name, step in after.items()}
        return found

    sgd = training.optimizer == "sgd"
    momentum = training.momentum if sgd else 0.0
    sent = strategy.client(Site(weights, shared, kept.memory, rate, momentum, run, slope, sgd), options)
    return sent, Kept(sent.memory, {**after, **sent.personal})


def sent_vector(how: Algorithm, sent: Sent, base: Weights, context: Context) -> Tensor:
    """What a hospital sends of its turn, through every stage: integers of shape `(size,)`.

    Args:
        how: the run's algorithm.
        sent: what the turn came to.
        base: the global state that it trained on.
        context: of the hospital in this round.

    Raises:
        RangeExceeded: if a value is out of the agreed range.
    """
    fitted = sent.fitted
    moved = Moved(sent.change, fitted.statistics, sent.extra, sent.normaliser, fitted.loss, how.rows[context.site])
    vector = to_vector(moved, how.travelling(base)[1], how.form, context.weight)
    return send_through(how.stages, vector, context)

"""A federation in memory: FedMed's own encoding, training, strategies and integers, without messages or Prefect.

A model of one site alone, and one of all rows in one place, are federations of one member: all three are trained by the
same code with the same options.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedmed.aggregation.codec import encode_update, travelling
from fedmed.aggregation.grid import FixedPoint
from fedmed.aggregation.statistics import column_sums, pool_statistics
from fedmed.data.cohort import Cohort
from fedmed.models.bundle import outputs
from fedmed.models.encoding import InputStatistics, encode, labels_of
from fedmed.models.networks import NetworkOptions, initial_weights, network_for
from fedmed.models.parts import parts_of
from fedmed.privacy.cells import DEFAULT_MINIMUM
from fedmed.seeds import torch_generator
from fedmed.strategies.base import Memory
from fedmed.strategies.client import Kept, take_turn
from fedmed.strategies.options import AggregationOptions
from fedmed.strategies.server import aggregate, server_rate
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import Problem, TrainingOptions, loss_of
from fedmed.training.losses import loss_for
from fedmed.weights import Weights

ALL = "all"
"""The one member of a federation that holds all rows in one place."""


class Recipe(NamedTuple):
    """How a model is trained."""

    network: NetworkOptions
    training: TrainingOptions
    aggregation: AggregationOptions = AggregationOptions()

    def alone(self) -> Recipe:
        """The same for one member: there is nothing to aggregate."""
        return self._replace(aggregation=AggregationOptions())


class Round(NamedTuple):
    """The global state after a round, and every site's state as the site itself would use it."""

    number: int
    state: dict[str, Tensor]
    own: dict[str, dict[str, Tensor]]


def statistics_of(rows: Mapping[str, pd.DataFrame], cohort: Cohort) -> InputStatistics:
    """Means and deviations over the rows of all sites, from their sums."""
    return pool_statistics([column_sums(table, cohort, DEFAULT_MINIMUM) for table in rows.values()], cohort)


def problems_of(
    rows: Mapping[str, pd.DataFrame], cohort: Cohort, statistics: InputStatistics, recipe: Recipe
) -> dict[str, Problem]:
    """What every site has to fit: its rows, encoded."""
    loss = loss_for(cohort.target, recipe.network, recipe.training.loss)
    return {
        site: Problem(
            network_for(cohort, recipe.network),
            loss,
            encode(table, cohort, statistics),
            labels_of(table, cohort.target),
            recipe.training,
        )
        for site, table in rows.items()
    }


def joined(problems: Mapping[str, Problem]) -> dict[str, Problem]:
    """The federation of one member that has the rows of all."""
    first = next(iter(problems.values()))
    features = torch.cat([problem.features for problem in problems.values()])
    labels = torch.cat([problem.labels for problem in problems.values()])
    return {ALL: first._replace(features=features, labels=labels)}


def rounds(
    problems: Mapping[str, Problem], recipe: Recipe, weights: Mapping[str, int] | None = None
) -> Iterator[Round]:
    """Train, round after round; `weights` says what each site weighs, the strategy if it is left out."""
    options, training = recipe.aggregation, recipe.training
    strategy = STRATEGIES[options.strategy]
    network = next(iter(problems.values())).network
    parts = parts_of(network, frozen=training.frozen, keep_normalisation=strategy.keeps_normalisation)
    state = initial_weights(network, torch_generator(training.seed, "start"))
    memory: Memory = strategy.init(travelling(state, parts)[0], options)
    weighed = dict(weights or {site: strategy.weigh(len(problem.labels)) for site, problem in problems.items()})
    grid = FixedPoint(bits=options.bits, limit=options.limit, weight=sum(weighed.values()))
    kept: dict[str, Kept] = {site: Kept() for site in problems}
    history = {0: state}
    for number in range(1, strategy.rounds(training.rounds) + 1):
        updates = {}
        for turn in strategy.schedule(list(problems), number, training.seed, options):
            base, shared = history[turn.base], memory if strategy.shares_memory else {}
            sent, kept[turn.site] = take_turn(
                strategy, options, problems[turn.site], turn.site, number, base, shared, kept[turn.site], parts
            )
            shape = travelling(base, parts)
            updates[turn.site] = encode_update(sent, *shape, strategy, weighed[turn.site], grid)
        rate = server_rate(strategy, options, number, training.rounds)
        taking = {site: weighed[site] for site in updates}
        state, memory = aggregate(
            strategy, options, state, memory, updates, taking, grid, parts, sites=len(problems), rate=rate
        )
        history = {number: state}
        yield Round(number, state, {site: {**state, **kept[site].personal} for site in problems})


class Chosen(NamedTuple):
    """The round that validation rows chose, and the loss there."""

    loss: float
    round: Round


def chosen_round(problems: Mapping[str, Problem], held: Mapping[str, Problem], recipe: Recipe) -> Chosen:
    """The round with the least mean loss over all held-out rows; the earliest of equals."""
    rows = sum(len(problem.labels) for problem in held.values())

    def judged(round_: Round) -> Chosen:
        losses = [loss_of(problem, round_.own[site]) * len(problem.labels) for site, problem in held.items()]
        return Chosen(sum(losses) / rows, round_)

    return min(map(judged, rounds(problems, recipe)), key=lambda chosen: chosen.loss)


def last_round(problems: Mapping[str, Problem], recipe: Recipe, weights: Mapping[str, int] | None = None) -> Round:
    """The last round."""
    *_, last = rounds(problems, recipe, weights)
    return last


def scores(problem: Problem, state: Weights) -> np.ndarray:
    """The network's first output for every row, float64 of shape `(rows,)`: a logit, or a log relative hazard."""
    return outputs(problem.network, state, problem.features)[:, 0].double().numpy()


def mean_over(values: Mapping[str, float]) -> float:
    """The plain mean over sites."""
    return float(np.mean(list(values.values())))


def corrected_interval(differences: np.ndarray, ratio: float) -> tuple[float, float, float]:
    """Mean of paired differences over repeated splits with a 95 % interval.

    The splits share rows, so their spread alone is too small: the variance of the mean is (1/J + ratio) times the
    sample variance, ratio being test rows over training rows (Nadeau & Bengio 2003, Machine Learning 52, section 3.1).

    >>> [round(x, 3) for x in corrected_interval(np.array([0.0, 0.02, 0.01, 0.03, 0.04]), 0.0)]
    [0.02, 0.0, 0.04]
    """
    from scipy.stats import t

    count = len(differences)
    mean = float(differences.mean())
    reach = float(t.ppf(0.975, count - 1)) * float(differences.std(ddof=1)) * (1 / count + ratio) ** 0.5
    return mean, mean - reach, mean + reach

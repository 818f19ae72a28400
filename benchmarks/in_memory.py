"""A federation in memory: FedMed's own encoding and its one round, without messages or Prefect.

A model of one site alone, and one of all rows in one place, are federations of one member: all three are trained by the
same code with the same options.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from fedmed.aggregation.statistics import column_sums, pool_statistics
from fedmed.data.cohort import Cohort
from fedmed.engine.loop import federate
from fedmed.engine.members import Members, Score
from fedmed.engine.runner import Here
from fedmed.models.bundle import outputs
from fedmed.models.encoding import InputStatistics, encode, labels_of
from fedmed.models.networks import NetworkOptions, initial_weights, network_for
from fedmed.privacy.cells import DEFAULT_MINIMUM
from fedmed.seeds import torch_generator
from fedmed.strategies.algorithm import algorithm
from fedmed.strategies.options import AggregationOptions
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
    """The global state after a round, every site's state as the site itself would use it, and what it says of that."""

    number: int
    state: Weights
    own: Mapping[str, Weights]
    scores: Mapping[str, float]


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
    problems: Mapping[str, Problem],
    recipe: Recipe,
    weights: Mapping[str, int] | None = None,
    score: Score | None = None,
) -> Iterator[Round]:
    """Train, round after round.

    Args:
        problems: site → its rows.
        recipe: how.
        weights: what each site weighs; the strategy says it if left out.
        score: what a site says of each round's state, as it would use it.
    """
    training, network = recipe.training, next(iter(problems.values())).network
    rows = {site: len(problem.labels) for site, problem in problems.items()}
    how = algorithm(network, training, recipe.aggregation, rows, weights=weights)
    states = {0: how.start(initial_weights(network, torch_generator(training.seed, "start")))}
    members = Members(how, problems, states, score)
    for number, state, scores, _ in federate(how, states, Here(members), scored=score is not None):
        own = {site: members.state_at(site, number) for site in problems}
        yield Round(number, state.weights, own, scores)


class Chosen(NamedTuple):
    """The round that validation rows chose, and the loss there."""

    loss: float
    round: Round


def chosen_round(problems: Mapping[str, Problem], held: Mapping[str, Problem], recipe: Recipe) -> Chosen:
    """The round with the least mean loss over all held-out rows; the earliest of equals."""
    rows = {site: len(problem.labels) for site, problem in held.items()}

    def judged(round_: Round) -> Chosen:
        return Chosen(sum(round_.scores[site] * rows[site] for site in held) / sum(rows.values()), round_)

    told = rounds(problems, recipe, score=lambda site, state: loss_of(held[site], state))
    return min(map(judged, told), key=lambda chosen: chosen.loss)


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

"""FedMed's own protocol on FLamby's heart-disease rows: every choice is made on training rows, by the code below.

The candidates and the rule are written down here. Training rows are divided into folds within each site; every
candidate is trained on all folds but one and judged on that one; the best by the mean log loss over sites and folds is
trained on all training rows, and only then is the test looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from flamby_protocol import SITES, complete_rows, halves
from folds import Divided, Rows, folds
from in_memory import Recipe, Round, last_round, problems_of, scores, statistics_of

from fedmed.data.cohort import Cohort, read_cohort
from fedmed.evaluation.measurement import Measurement, bootstrap, share
from fedmed.evaluation.metrics import accuracy, log_loss
from fedmed.evaluation.names import figures_of
from fedmed.models.networks import NetworkOptions
from fedmed.seeds import numpy_generator, torch_generator
from fedmed.sources.reading import read_embedded
from fedmed.strategies.options import AggregationOptions
from fedmed.targets.kind import TARGET
from fedmed.training.local import Problem, TrainingOptions
from fedmed.training.losses import log_loss as loss_of_outputs
from fedmed.training.personal import PersonalOptions, personalise

ROOT = Path(__file__).parents[1]


class HeartCandidate(NamedTuple):
    """A candidate: the penalty; how far a site's own model may go from the shared one (0: not); prior of its shift."""

    l2: float
    pull: float
    spread: float


HEART_CANDIDATES = tuple(
    HeartCandidate(l2, pull, spread) for l2 in (0.003, 0.01, 0.03) for pull in (0.0, 0.1, 0.03) for spread in (1.0, 3.0)
)
ALONE_PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3)
HEART_TRAINING = TrainingOptions(rounds=30, batch_size=64, learning_rate=0.3, schedule="cosine")


@cache
def heart_cohort() -> Cohort:
    """FedMed's declaration: all 13 inputs, and what is missing told as such."""
    return read_cohort(ROOT / "cohorts" / "heart_disease.yaml")


def heart_rows(seed: int) -> Divided:
    """FLamby's 740 rows and its split (`seed` 43; another seed gives another split of the same kind)."""
    cohort, train, test = heart_cohort(), {}, {}
    for site in SITES:
        table = read_embedded(cohort, site)[complete_rows(site)].reset_index(drop=True)
        table = pd.concat([table, cohort.target.label(table)], axis=1)
        first, second = halves(table[TARGET].to_numpy(), seed)
        train[site], test[site] = (table.iloc[places].reset_index(drop=True) for places in (first, second))
    return Divided(train, test)


def heart_recipe(candidate: HeartCandidate, seed: int) -> Recipe:
    """How a candidate is trained."""
    training = HEART_TRAINING.model_copy(update={"l2": candidate.l2, "seed": seed})
    strategy = {"strategy": "ditto", "ditto_lambda": candidate.pull} if candidate.pull else {"strategy": "fedavg"}
    return Recipe(NetworkOptions(name="logistic"), training, AggregationOptions.model_validate(strategy))


class Judged(NamedTuple):
    """Probability of disease and label of every row at every site."""

    probability: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]


def heart_models(
    divided: Divided, candidates: Iterable[HeartCandidate], seed: int
) -> dict[HeartCandidate, dict[str, Judged]]:
    """Candidate → "federated" (as each site uses it) and "global" (the shared model) on the second part's rows."""
    cohort = heart_cohort()
    statistics = statistics_of(divided.train, cohort)
    found: dict[HeartCandidate, dict[str, Judged]] = {}
    trained: dict[tuple[float, float], Round] = {}
    for candidate in candidates:
        recipe = heart_recipe(candidate, seed)
        problems = problems_of(divided.train, cohort, statistics, recipe)
        held = problems_of(divided.test, cohort, statistics, recipe)
        key = (candidate.l2, candidate.pull)
        last = trained[key] = trained.get(key) or last_round(problems, recipe)
        found[candidate] = {
            "federated": _judged(held, {site: _own(problems[site], last.own[site], candidate.spread) for site in held}),
            "global": _judged(held, dict.fromkeys(held, (last.state, 0.0))),
        }
    return found


def _own(problem: Problem, state: Mapping[str, Any], spread: float) -> tuple[Mapping[str, Any], float]:
    own = personalise(problem, state, PersonalOptions(spread=spread), torch_generator(0, "unused"), loss_of_outputs)
    return own.state, own.shift[0]


def _judged(held: Mapping[str, Problem], models: Mapping[str, tuple[Mapping[str, Any], float]]) -> Judged:
    logits = {site: scores(problem, models[site][0]) + models[site][1] for site, problem in held.items()}
    return Judged(
        {site: 0.5 * (1 + np.tanh(logit / 2)) for site, logit in logits.items()},
        {site: problem.labels.numpy().astype(float) for site, problem in held.items()},
    )


def heart_alone(divided: Divided, seed: int) -> dict[float, Judged]:
    """Penalty → each site's own model, trained with nobody else's rows or statistics."""
    cohort, found = heart_cohort(), {}
    for l2 in ALONE_PENALTIES:
        recipe = heart_recipe(HeartCandidate(l2, 0.0, 1.0), seed)
        each = []
        for site, rows in divided.train.items():
            statistics = statistics_of({site: rows}, cohort)
            last = last_round(problems_of({site: rows}, cohort, statistics, recipe), recipe)
            held = problems_of({site: divided.test[site]}, cohort, statistics, recipe)
            each.append(_judged(held, {site: (last.state, 0.0)}))
        found[l2] = Judged(
            {site: value for one in each for site, value in one.probability.items()},
            {site: value for one in each for site, value in one.labels.items()},
        )
    return found


class HeartChoice(NamedTuple):
    """What the training rows chose, and the mean log loss over sites and folds of each candidate."""

    candidate: HeartCandidate
    penalties: dict[str, float]
    losses: dict[HeartCandidate, float]


def choose_heart(train: Rows, repeats: int, seed: int) -> HeartChoice:
    """The candidate with the least log loss, a plain mean over sites and folds; for local models, site by site."""
    inner: dict[HeartCandidate, list[float]] = {candidate: [] for candidate in HEART_CANDIDATES}
    local: dict[tuple[str, float], list[float]] = {}
    for first, second in folds(train, repeats, seed):
        divided = Divided(first, second)
        for candidate, models in heart_models(divided, HEART_CANDIDATES, seed).items():
            judged = models["federated"]
            inner[candidate].append(
                float(np.mean([log_loss(judged.probability[site], judged.labels[site]) for site in train]))
            )
        for l2, judged in heart_alone(divided, seed).items():
            for site in train:
                local.setdefault((site, l2), []).append(log_loss(judged.probability[site], judged.labels[site]))
    losses = {candidate: float(np.mean(values)) for candidate, values in inner.items()}
    average = {key: float(np.mean(values)) for key, values in local.items()}
    penalties = {site: min((average[site, l2], l2) for l2 in ALONE_PENALTIES)[1] for site in train}
    return HeartChoice(min(losses, key=losses.__getitem__), penalties, losses)


class Scored(NamedTuple):
    """One split: what was chosen, and every model on the test rows."""

    choice: HeartChoice
    models: dict[str, Judged]


def score_heart(split_seed: int, repeats: int, seed: int) -> Scored:
    """Choose on the training rows of a split, train on all of them, and score the test rows."""
    choice = choose_heart(heart_rows(split_seed).train, repeats, seed)
    return Scored(choice, retrain(split_seed, choice, seed))


def retrain(split_seed: int, choice: HeartChoice, seed: int) -> dict[str, Judged]:
    """Train what was chosen on all training rows of a split, and score the test rows."""
    divided = heart_rows(split_seed)
    models = heart_models(divided, [choice.candidate], seed)[choice.candidate]
    local = heart_alone(divided, seed)
    alone = Judged(
        {site: local[l2].probability[site] for site, l2 in choice.penalties.items()},
        {site: local[l2].labels[site] for site, l2 in choice.penalties.items()},
    )
    ill = {site: float(rows[TARGET].mean()) for site, rows in divided.train.items()}
    majority = Judged({site: np.full(len(alone.labels[site]), ill[site]) for site in SITES}, alone.labels)
    return {**models, "alone": alone, "majority": majority}


def accuracies_of(judged: Judged) -> dict[str, float]:
    """Accuracy at every site."""
    return {site: accuracy(judged.probability[site], judged.labels[site]) for site in judged.labels}


REPORTED = ("auroc", "brier", "calibration_slope", "calibration_intercept")
SHARES = ("accuracy", "sensitivity", "specificity")


def report_of(judged: Judged, seed: int, resamples: int = 1000) -> dict[str, dict[str, str]]:
    """Site → metric → value with its 95 % interval, in words where there is none."""
    return {site: _report(judged.probability[site], judged.labels[site], seed, resamples) for site in judged.labels}


def _report(p: np.ndarray, y: np.ndarray, seed: int, resamples: int) -> dict[str, str]:
    right = (p >= 0.5) == (y == 1)
    of = {"accuracy": np.ones(len(y), dtype=bool), "sensitivity": y == 1, "specificity": y == 0}
    told = {name: str(share(float(right[of[name]].sum()), float(of[name].sum()))) for name in SHARES}
    statistics = {name: partial(over, p, y) for name, over in figures_of("binary").items() if name in REPORTED}
    drawn: dict[str, Measurement] = bootstrap(
        statistics, rows=len(y), resamples=resamples, generator=numpy_generator(seed, "report")
    )
    return told | {name: str(drawn[name]) for name in REPORTED}


def mean_interval(judged: Judged, seed: int, resamples: int = 4000) -> Measurement:
    """Mean of the sites' accuracies, with a bootstrap over the patients of each site."""
    generator, draws, values = numpy_generator(seed, "mean"), np.zeros(resamples), []
    for site, y in judged.labels.items():
        right = ((judged.probability[site] >= 0.5) == (y == 1)).astype(float)
        values.append(right.mean())
        draws += generator.binomial(len(y), right.mean(), resamples) / len(y) / len(judged.labels)
    low, high = np.percentile(draws, (2.5, 97.5))
    return Measurement(value=round(float(np.mean(values)), 4), low=round(float(low), 4), high=round(float(high), 4))

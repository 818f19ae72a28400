"""FedMed's own protocol on FLamby's TCGA-BRCA rows: a Cox model whose risk sets never leave a region.

Every region's batch is all of its patients, so the federation descends on the stratified partial likelihood: each
region has its own baseline hazard. Age is standardised over all regions from their sums. Candidates and rule are
written down here; the choice is made on inner folds of the training rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from folds import Divided, Rows, folds
from in_memory import Recipe, joined, last_round, problems_of, scores, statistics_of

from fedmed.data.cohort import Cohort, read_cohort
from fedmed.evaluation.measurement import Measurement, bootstrap
from fedmed.evaluation.survival import c_index, c_index_over
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import NetworkOptions
from fedmed.public.preparing import prepare
from fedmed.seeds import numpy_generator
from fedmed.sources.reading import read_records
from fedmed.strategies.options import AggregationOptions
from fedmed.targets.kind import TARGET
from fedmed.training.local import Problem, TrainingOptions

ROOT = Path(__file__).parents[1]
AGE = "age_at_index"


class Candidate(NamedTuple):
    """Whether the 0/1 covariates are standardised as age is, the penalty, and what a region weighs."""

    scale_all: bool
    l2: float
    weight: str


CANDIDATES = tuple(
    Candidate(scale_all, l2, weight)
    for scale_all in (False, True)
    for l2 in (0.01, 0.03, 0.1, 0.3, 1.0)
    for weight in ("rows", "events")
)
TRAINING = TrainingOptions(rounds=40, batch_size=4096, learning_rate=0.3)
AGGREGATION = AggregationOptions(strategy="fedadam", learning_rate=0.05, schedule="cosine")


def cohort_of() -> Cohort:
    """FedMed's declaration."""
    return read_cohort(ROOT / "cohorts" / "tcga_brca.yaml")


def brca_rows(data: Path) -> Divided:
    """FLamby's split: the column `fold` of its `train_test_split.csv`."""
    cohort, found = cohort_of(), {"train": dict[str, pd.DataFrame](), "test": dict[str, pd.DataFrame]()}
    folder = data / "tcga_brca"
    listed = pd.read_csv(folder / "train_test_split.csv")
    half = dict(zip(listed["pid"], listed["fold"], strict=True))
    with tempfile.TemporaryDirectory() as place:
        for region, table in prepare("tcga_brca", folder).items():
            for name, rows in found.items():
                file = Path(place) / f"{region}_{name}.parquet"
                table[table["pid"].map(half) == name].to_parquet(file)
                records = read_records([file], cohort, region)
                rows[region] = pd.concat([records, cohort.target.label(records)], axis=1)
    return Divided(found["train"], found["test"])


def recipe_of(candidate: Candidate) -> Recipe:
    """How a candidate is trained; it starts at zero and sees all rows in every step, so that no seed plays a part."""
    return Recipe(NetworkOptions(name="logistic"), TRAINING.model_copy(update={"l2": candidate.l2}), AGGREGATION)


def scale_of(rows: Rows, candidate: Candidate) -> InputStatistics:
    """The pooled means and deviations; without `scale_all` those of age, and 0 and 1 for the rest."""
    pooled = statistics_of(rows, cohort_of())
    if candidate.scale_all:
        return pooled
    return InputStatistics(
        mean={name: value if name == AGE else 0.0 for name, value in pooled.mean.items()},
        deviation={name: value if name == AGE else 1.0 for name, value in pooled.deviation.items()},
    )


def weights_of(problems: Mapping[str, Problem], candidate: Candidate) -> dict[str, int]:
    """What each region weighs. The loss is a mean over events: weights by events give the sum over all regions."""
    if candidate.weight == "events":
        return {region: max(1, int(problem.labels[:, 1].sum())) for region, problem in problems.items()}
    return {region: len(problem.labels) for region, problem in problems.items()}


class Risks(NamedTuple):
    """Log relative hazard of every row, and its duration and event, by region."""

    risk: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """All regions' rows together."""
        return np.concatenate(list(self.risk.values())), np.concatenate(list(self.labels.values()))


def fit(divided: Divided, candidate: Candidate, *, pool: bool = False) -> Risks:
    """Train on the first part, and score the second; `pool` puts all training rows in one place."""
    cohort, recipe = cohort_of(), recipe_of(candidate)
    statistics = scale_of(divided.train, candidate)
    problems = problems_of(divided.train, cohort, statistics, recipe)
    held = problems_of(divided.test, cohort, statistics, recipe)
    members = joined(problems) if pool else problems
    state = last_round(members, recipe, weights_of(members, candidate)).state
    return Risks(
        {region: scores(problem, state) for region, problem in held.items()},
        {region: problem.labels.double().numpy() for region, problem in held.items()},
    )


class Choice(NamedTuple):
    """What the training rows chose, and each candidate's mean C-index over folds."""

    candidate: Candidate
    c_indices: dict[Candidate, float]


def choose(train: Rows, repeats: int, seed: int) -> Choice:
    """The candidate with the highest C-index over all regions' held-out rows, a plain mean over folds."""
    found: dict[Candidate, list[float]] = {candidate: [] for candidate in CANDIDATES}
    for first, second in folds(train, repeats, seed):
        for candidate, values in found.items():
            values.append(c_index(*fit(Divided(first, second), candidate).pooled()))
    means = {candidate: float(np.mean(values)) for candidate, values in found.items()}
    return Choice(max(means, key=means.__getitem__), means)


def c_interval(risk: np.ndarray, labels: np.ndarray, seed: int, resamples: int = 1000) -> Measurement:
    """C-index with a bootstrap over patients."""
    statistic = {"c": lambda counts: c_index_over(risk, labels, None, counts)}
    return bootstrap(statistic, rows=len(risk), resamples=resamples, generator=numpy_generator(seed, "c index"))["c"]


def events(rows: Rows) -> dict[str, int]:
    """Deaths at every region."""
    return {region: int(table[TARGET].sum()) for region, table in rows.items()}

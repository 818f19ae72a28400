"""Federated, pooled and local models of three public cohorts, over repeated splits: what is lost and what is gained.

Every split gives each site a training, a validation and a test part, by patient. The federated model, the one trained
on all rows in one place and the one that each site trains alone have the same network and options, and each takes the
round with the least loss on its validation rows. Test rows are looked at once, after that.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from in_memory import Chosen, Recipe, chosen_round, joined, mean_over, problems_of, scores, statistics_of

from fedmed.data.cohort import Cohort, read_cohort
from fedmed.data.split import SPLITS, SplitOptions, split
from fedmed.evaluation.metrics import auroc
from fedmed.models.networks import NetworkOptions
from fedmed.public.preparing import prepare
from fedmed.sources.reading import read_records
from fedmed.strategies.options import AggregationOptions
from fedmed.training.local import TrainingOptions

ROOT = Path(__file__).parents[1]
WAYS = ("federated", "pooled", "alone")
SEEDS = (2026, 2027, 2028, 2029, 2030)


class Study(NamedTuple):
    """A cohort's recipe, and the penalties of which every way takes the one with the least validation loss."""

    recipe: Recipe
    penalties: tuple[float, ...]


STUDIES: dict[str, Study] = {
    "eicu_demo": Study(
        Recipe(NetworkOptions(name="logistic"), TrainingOptions(rounds=60, learning_rate=0.1)), (0.01, 0.03, 0.1)
    ),
    "physionet2012": Study(
        Recipe(
            NetworkOptions(name="gru", hidden=(32,)),
            TrainingOptions(rounds=20, batch_size=64, optimizer="adam", learning_rate=0.002, clip=1.0),
        ),
        (1e-4,),
    ),
    "pneumoniamnist": Study(
        Recipe(
            NetworkOptions(name="cnn", channels=(8, 16, 32)),
            TrainingOptions(rounds=20, batch_size=64, optimizer="adam", learning_rate=0.006),
            AggregationOptions(strategy="fedavgm", momentum=0.7),
        ),
        (1e-4,),
    ),
}
"""Chosen on validation rows of the splits with seeds 1 to 3, which are none of :data:`SEEDS`."""


class Tables(NamedTuple):
    """A cohort's declaration, and the clean records of every site."""

    cohort: Cohort
    records: dict[str, pd.DataFrame]


@cache
def tables(name: str, data: Path) -> Tables:
    """Prepare a cohort from its raw files and read it as a hospital would."""
    cohort = read_cohort(ROOT / "cohorts" / f"{name}.yaml")
    records = {}
    with tempfile.TemporaryDirectory() as folder:
        for site, table in prepare(name, data / name).items():
            file = Path(folder) / f"{site}.parquet"
            table.to_parquet(file)
            records[site] = read_records([file], cohort, site)
    return Tables(cohort, records)


def parts(told: Tables, seed: int) -> dict[str, dict[str, pd.DataFrame]]:
    """Part → site → rows."""
    options, found = SplitOptions(seed=seed), {name: dict[str, pd.DataFrame]() for name in SPLITS}
    for site, records in told.records.items():
        for part, rows in split(records, told.cohort.target.label(records), options, site).items():
            found[part][site] = rows
    return found


class Fitted(NamedTuple):
    """Scores and labels of one part's rows at every site, and the rounds and penalties that were chosen."""

    scores: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    chosen: list[tuple[int, float]]


def fit(told: Tables, study: Study, seed: int, way: str, part: str = "test") -> Fitted:
    """Train one way on one split, and score a part of it."""
    recipe = study.recipe if way == "federated" else study.recipe.alone()
    by_part = parts(told, seed)
    found = Fitted({}, {}, [])
    for group in [[site] for site in told.records] if way == "alone" else [list(told.records)]:
        rows = {name: {site: by_part[name][site] for site in group} for name in SPLITS}
        statistics = statistics_of(rows["train"], told.cohort)
        best: tuple[Chosen, float] | None = None
        for l2 in study.penalties:
            options = recipe.training.model_copy(update={"l2": l2, "seed": seed})
            penalised = recipe._replace(training=options)
            train, held = (
                problems_of(rows[name], told.cohort, statistics, penalised) for name in ("train", "validation")
            )
            members = (joined(train), joined(held)) if way == "pooled" else (train, held)
            chosen = chosen_round(*members, penalised)
            best = min([*([best] if best else []), (chosen, l2)], key=lambda each: each[0].loss)
        assert best is not None
        found.chosen.append((best[0].round.number, best[1]))
        for site, problem in problems_of(rows[part], told.cohort, statistics, recipe).items():
            state = best[0].round.own.get(site, best[0].round.state)
            found.scores[site] = scores(problem, state)
            found.labels[site] = problem.labels.numpy().astype(float)
    return found


def probability(score: np.ndarray) -> np.ndarray:
    """A logit as a probability."""
    return 0.5 * (1 + np.tanh(score / 2))


def figures(fitted: Fitted) -> dict[str, Any]:
    """AUROC at every site, its mean over sites, and the AUROC of all sites' rows together."""
    each = {site: auroc(probability(fitted.scores[site]), fitted.labels[site]) for site in fitted.scores}
    together = auroc(
        probability(np.concatenate(list(fitted.scores.values()))), np.concatenate(list(fitted.labels.values()))
    )
    rounded = {site: round(value, 4) for site, value in each.items()}
    return {"sites": rounded, "mean": round(mean_over(each), 4), "all": round(together, 4), "chosen": fitted.chosen}

"""Test accuracy at four hospitals over repeated splits: federated, global, alone, majority and pooled.

    python benchmarks/heart_disease.py [number of splits]

The four tables are public, so what FedMed suppresses at a hospital is computed here from its own rows. Nothing
is chosen on test rows: parameters are those of params.yaml, which were chosen on validation rows.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from plain import agents, prepare
from torch import Tensor

from fedmed.coordinator.history import choose_round
from fedmed.coordinator.training import rounds_of
from fedmed.data.cohort import read_cohort
from fedmed.exchange.memory import MemoryExchange
from fedmed.models.bundle import outputs, predictions
from fedmed.pooled import train_pooled
from fedmed.settings import Settings, read_settings
from fedmed.site.desk import Desk, open_session
from fedmed.site.evaluation import train_own
from fedmed.site.home import SiteHome
from fedmed.targets.table import KINDS
from fedmed.weights import Weights

ROOT = Path(__file__).parents[1]
MODELS = ("majority", "alone", "pooled", "global", "federated")


def accuracies(settings: Settings, split: int, folder: Path) -> dict[str, list[float]]:
    """Model → test accuracy at each hospital, for one split."""
    settings = settings.model_copy(update={"split": settings.split.model_copy(update={"seed": split})})
    cohort, exchange = read_cohort(ROOT / settings.cohort), MemoryExchange()
    homes = {site: SiteHome(folder / site) for site in sorted(settings.federation.sites)}
    run, _ = prepare(homes, settings, cohort, exchange, "bench", folder / "coordinator")
    plan, records = run.plan, list(rounds_of(run, exchange, agents(homes, exchange)))
    weights = run.states[choose_round(records).round].weights
    pooled = train_pooled(plan, homes.values())
    found: dict[str, list[float]] = {name: [] for name in MODELS}
    for home in homes.values():
        session = open_session(home)
        desk = session.desk(plan)
        features, labels = desk.examples["test"]
        own, personal = train_own(session, desk), desk.own(weights, {})
        majority = KINDS["binary"].reference(desk.examples["train"].labels.numpy(), len(labels), None)
        truth = labels.numpy() >= 0.5

        def says(
            state: Weights, shift: tuple[float, ...] = (0.0,), desk: Desk = desk, features: Tensor = features
        ) -> np.ndarray:
            return predictions(outputs(desk.network, state, features), plan.cohort.target, plan.network, shift)

        for name, probability in {
            "majority": np.full(len(truth), float(majority)),
            "alone": own if own is not None else np.full(len(truth), float(majority)),
            "pooled": says(pooled),
            "global": says(weights),
            "federated": says(personal.state, personal.shift or (0.0,)),
        }.items():
            found[name].append(float(((probability >= 0.5) == truth).mean()))
    return found


def main(splits: int) -> None:
    """Print a table: mean over splits, and the standard deviation of the mean over hospitals."""
    torch.set_num_threads(1)
    settings = read_settings(ROOT / "params.yaml")
    started, collected = time.perf_counter(), []
    for split in range(splits):
        with tempfile.TemporaryDirectory() as folder:
            collected.append(accuracies(settings, settings.split.seed + split, Path(folder)))
    sites = sorted(settings.federation.sites)
    print(f"| test accuracy, {splits} splits | {' | '.join(sites)} | mean of hospitals |")
    print("|---" * (len(sites) + 2) + "|")
    for name in MODELS:
        figures = np.array([found[name] for found in collected])
        means = figures.mean(axis=1)
        spread = means.std(ddof=1) if splits > 1 else 0.0
        cells = " | ".join(f"{value:.3f}" for value in figures.mean(axis=0))
        print(f"| {name} | {cells} | {means.mean():.4f} ± {spread:.4f} |")
    better = np.mean([np.mean(found["federated"]) > np.mean(found["alone"]) for found in collected])
    print(f"\nfederated above alone in {better:.0%} of the splits; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)

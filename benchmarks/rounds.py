"""Seconds and bytes a round, and the share that is orchestration, for 4, 16 and 64 hospitals.

    python benchmarks/rounds.py [rounds]

Every hospital holds 300 rows drawn from the embedded heart-disease table. The same rounds run in Prefect (the tasks of
`fedmed run`, on a server of their own) and in a plain loop over the same messages and the same folder exchange; the
difference is orchestration. Read the ratios: seconds depend on the machine.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from plain import agents, prepare, size_of

from fedmed.coordinator.training import rounds_of
from fedmed.data.cohort import Cohort, read_cohort
from fedmed.exchange.folder import FolderExchange
from fedmed.site.home import SiteHome
from fedmed.sources.reading import read_embedded
from fedmed.workspace import Workspace
from flows.environment import prefect_environment

ROOT = Path(__file__).parents[1]
FLOWER = 208  # milliseconds a round of four sites, Flower 1.42 simulation, logistic regression on the same table


def make_workspace(root: Path, sites: int, rounds: int) -> Workspace:
    """A workspace of `sites` hospitals with records of their own."""
    cohort = read_cohort(ROOT / "cohorts" / "heart_disease.yaml")
    (root / "cohorts").mkdir(parents=True)
    names = [f"hospital-{number:02d}" for number in range(1, sites + 1)]
    for name in ("prefect.toml", "cohorts/heart_disease.yaml"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    (root / "params.yaml").write_text(
        f"cohort: cohorts/heart_disease.yaml\nfederation: {{sites: [{', '.join(names)}], quorum: 2}}\n"
        f"training: {{rounds: {rounds}}}\n"
    )
    _add_records(root, names, cohort)
    return Workspace(root)


def _add_records(root: Path, names: list[str], cohort: Cohort) -> None:
    table = pd.concat([read_embedded(cohort, site) for site in ("cleveland", "hungarian", "va")], ignore_index=True)
    for number, name in enumerate(names):
        rows = table.sample(300, random_state=np.random.default_rng(number)).reset_index(drop=True)
        home = SiteHome(root / "sites" / name)
        home.vault(create_key=True).write(home.records, rows)


def plain_rounds(place: Workspace, rounds: int) -> list[float]:
    """Seconds of each round in a plain loop."""
    settings, exchange = place.settings, FolderExchange(place.root / "plain")
    homes = {site: place.home(site) for site in settings.federation.sites}
    run, _ = prepare(homes, settings, place.cohort, exchange, "plain", place.root / "plain-coordinator")
    going, seconds = rounds_of(run, exchange, agents(homes, exchange, os.cpu_count() or 1)), []
    for _ in range(rounds):
        began = time.perf_counter()
        next(going)
        seconds.append(time.perf_counter() - began)
    return seconds


def prefect_rounds(place: Workspace) -> list[float]:
    """Seconds of each round inside the flow, read from the run's journal."""
    from flows.federated_training import federated_training

    place.coordinator.journal().begin()
    targets = [*(f"partition@{site}" for site in place.settings.federation.sites), "validate", "train"]
    federated_training(workspace=str(place.root), stages=targets)
    ends = [event["time"] for event in place.coordinator.journal().events() if event["event"] == "round"]
    return [after - before for before, after in pairwise(ends)]


def main(rounds: int) -> None:
    """Print a table: one line for each number of hospitals."""
    torch.set_num_threads(1)
    print("| hospitals | in Prefect, ms a round | plain loop, ms a round | orchestration, ms | share | kB a round |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for sites in (4, 16, 64):
            place = make_workspace(Path(folder) / str(sites), sites, rounds)
            if sites == 4:
                (place.root / ".prefect").mkdir()
                context = prefect_environment(place.root)
                context.__enter__()
            plain = 1000 * statistics.median(plain_rounds(place, rounds))
            orchestrated = 1000 * statistics.median(prefect_rounds(place))
            cost = orchestrated - plain
            share = cost / orchestrated
            traffic = size_of(place.root / "plain") / rounds / 1000
            print(f"| {sites} | {orchestrated:.0f} | {plain:.0f} | {cost:.0f} | {share:.0%} | {traffic:.0f} |")
    print(f"\nFlower needs {FLOWER} ms a round of four sites, its work included.")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)

"""A whole little run with two hospitals whose agents are programs of their own; run by tests in a slim environment.

    python on_hosts_of_their_own.py FOLDER COMMAND…

FOLDER is made; COMMAND is what starts an agent, such as `fedmed-site`. Coordinator and hospitals share nothing but
the folder of the exchange. Prints one JSON document.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import signal
import subprocess
import sys
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fedmed
from fedmed.coordinator.admission import Admissions, ask_to_validate
from fedmed.coordinator.asking import ask_all, waiting
from fedmed.coordinator.evaluation import ask_to_evaluate, gather_evaluations
from fedmed.coordinator.home import CoordinatorHome
from fedmed.coordinator.plan import ask_for_statistics, make_plan, run_id
from fedmed.coordinator.training import keep_plan, rounds_of
from fedmed.data.cohort import Cohort, read_cohort
from fedmed.engine.loop import federate
from fedmed.engine.members import Members
from fedmed.engine.runner import Here
from fedmed.exchange.folder import FolderExchange
from fedmed.settings import Settings
from fedmed.site.home import SiteHome, partition_records
from fedmed.strategies.algorithm import algorithm
from fedmed.strategies.options import AggregationOptions
from fedmed.training.local import Problem, TrainingOptions
from fedmed.wire.messages import Admission, SiteEvaluation, Statistics

SITES = ("cleveland", "va")
SETTINGS = Settings.model_validate(
    {
        "cohort": "heart_disease.yaml",
        "federation": {"sites": list(SITES)},
        "training": {"rounds": 2},
        "evaluation": {"resamples": 100},
    }
)


def serving(command: list[str], home: SiteHome, exchange: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*command, "serve", "--home", str(home.path), "--exchange", str(exchange), "--pause", "0.05"]
    )


def federated(folder: Path, cohort: Cohort, command: list[str]) -> dict[str, Any]:
    """Validate, agree, train and evaluate, over a folder."""
    exchange = FolderExchange(folder / "exchange")
    homes = {site: SiteHome(folder / "hosts" / site) for site in SITES}
    receipts = {site: partition_records(home, cohort, SETTINGS.split)[0] for site, home in homes.items()}
    agents = [serving(command, home, exchange.root) for home in homes.values()]
    try:
        call = waiting(exchange, within=120, pause=0.05)
        questions = ask_to_validate(SETTINGS, receipts)
        admissions = Admissions.gather(questions, ask_all(exchange, call, questions, Admission))
        name = run_id(SETTINGS, cohort, admissions)
        asked = ask_all(exchange, call, ask_for_statistics(name, admissions, SETTINGS), Statistics)
        plan, begin = make_plan(name, 1, SETTINGS, cohort, admissions, asked, exchange)
        run = keep_plan(CoordinatorHome(folder / "coordinator"), plan, begin, SETTINGS.privacy.minimum_cell)
        records = list(rounds_of(run, exchange, call, quorum=len(SITES)))
        last = plan.algorithm.rounds
        counted = {site: run.states.counted(site, last) for site in SITES}
        asking = ask_to_evaluate(plan, last, 1, {"federated": run.model_of(last)}, SETTINGS, counted)
        evaluation = gather_evaluations(plan, last, run.model_of(last), ask_all(exchange, call, asking, SiteEvaluation))
    finally:
        for agent in agents:
            agent.send_signal(signal.SIGTERM)
        codes = [agent.wait(timeout=60) for agent in agents]
    return {
        "admitted": admissions.admitted,
        "expectations": {site: admissions.sites[site].expectations for site in SITES},
        "participants": [list(record.participants) for record in records],
        "scored": [sorted(record.sites) for record in records if record.validation_loss is not None],
        "evaluated": sorted(evaluation.sites),
        "failed": evaluation.failed,
        "weights": run.model_of(last).sha256,
        "codes": codes,
    }


class Point(nn.Module):
    """One number; what it gives is how far the rows are from it."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, rows: Tensor) -> Tensor:
        return self.w - rows


def simulated() -> float:
    """A round in memory, as in a notebook: 30 rows pull to 1 and 10 rows to −1, so the mean is one half."""
    rows = {"north": torch.ones(30, 1), "south": -torch.ones(10, 1)}
    training = TrainingOptions(rounds=1, learning_rate=1.0, local_epochs=1, batch_size=30, l2=0.0)
    how = algorithm(Point(), training, AggregationOptions(), {site: len(table) for site, table in rows.items()})
    problems = {
        site: Problem(Point(), lambda outputs, _: outputs.square().mean() / 2, table, torch.zeros(len(table)), training)
        for site, table in rows.items()
    }
    states = {0: how.start({"w": torch.zeros(1)})}
    (last,) = federate(how, states, Here(Members(how, problems, states)))
    return float(last.state.weights["w"])


def not_importable() -> list[str]:
    """Every module of FedMed that does not import here."""
    failed = []
    for module in pkgutil.walk_packages(fedmed.__path__, "fedmed."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError:
            failed.append(module.name)
    return failed


def main() -> None:
    folder, *command = sys.argv[1:]
    with resources.as_file(resources.files("fedmed.template") / "cohorts" / "heart_disease.yaml") as declaration:
        cohort = read_cohort(declaration)
    told = {
        "fedmed": str(Path(fedmed.__file__).parent),
        "not_importable": not_importable(),
        "installed": sorted(name for name in ("prefect", "mlflow", "fastapi", "matplotlib") if find_spec(name)),
        "simulated": simulated(),
        **federated(Path(folder), cohort, command),
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()

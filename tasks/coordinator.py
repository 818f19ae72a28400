"""What the coordinator does, as tasks: plan, aggregate a round, gather, register."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prefect import Task, task

from fedmed.coordinator.admission import Admissions
from fedmed.coordinator.asking import Asked
from fedmed.coordinator.description import gather_descriptions, write_description
from fedmed.coordinator.evaluation import gather_evaluations, write_evaluation
from fedmed.coordinator.history import RoundRecord, choose_round, write_history
from fedmed.coordinator.home import CoordinatorHome
from fedmed.coordinator.plan import make_plan
from fedmed.coordinator.release import release_of
from fedmed.coordinator.start import start_of
from fedmed.coordinator.training import Run, keep_plan
from fedmed.data.cohort import Cohort
from fedmed.exchange.base import Exchange
from fedmed.files import write_json
from fedmed.pooled import train_pooled
from fedmed.settings import Settings
from fedmed.site.home import SiteHome
from fedmed.weights import to_bytes
from fedmed.wire.messages import Payload
from fedmed.wire.post import put_payload
from tasks.receipts import SHARED

T = TypeVar("T")


def step(name: str, work: Callable[[], T]) -> T:
    """Run a step of the engine as a task under its name, such as `aggregate · round 03`; what it gives stays here."""
    given: list[T] = []

    def run() -> dict[str, str]:
        given[:] = [work()]
        return {"step": name}

    Task(run, name=name.partition(" ·")[0], task_run_name=name, **SHARED)()
    return given[0]


@task(name="plan", task_run_name="plan · run {run}", **SHARED)
def plan(
    run: str,
    attempt: int,
    home: CoordinatorHome,
    settings: Settings,
    cohort: Cohort,
    admissions: Admissions,
    asked: Asked,
    exchange: Exchange,
) -> dict[str, Any]:
    """Agree on the run's plan and first model, and keep both."""
    start = start_of(settings, cohort, home.tracking)
    agreed, begin = make_plan(run, attempt, settings, cohort, admissions, asked, exchange, start)
    keep_plan(home, agreed, begin, settings.privacy.minimum_cell)
    return {"run": run, "plan": agreed.digest, "participants": list(agreed.participants)}


@task(name="choose round", task_run_name="choose round", **SHARED)
def choose(home: CoordinatorHome, run: Run, records: Sequence[RoundRecord]) -> dict[str, Any]:
    """Choose the round by validation and write the run's history."""
    chosen = choose_round(records)
    write_history(home.training_folder, run.plan, records, chosen, run.states[chosen.round].weights)
    return {"run": run.plan.run, "round": chosen.round, "sha256": chosen.model.sha256}


@task(name="pool", task_run_name="pooled model · demonstration only", timeout_seconds=3600, **SHARED)
def pool(run: Run, homes: Sequence[SiteHome], exchange: Exchange) -> Payload:
    """Train the pooled model and post it for the evaluation; only where one machine holds every hospital's key."""
    return put_payload(exchange, to_bytes(train_pooled(run.plan, homes)))


@task(name="gather", task_run_name="gather evaluations", **SHARED)
def gather(home: CoordinatorHome, run: Run, number: int, asked: Asked) -> dict[str, Any]:
    """Collect what the hospitals made of the chosen model, and write the evaluation."""
    evaluation = gather_evaluations(run.plan, number, run.model_of(number), asked)
    write_evaluation(home.evaluation_folder, evaluation)
    return {"run": run.plan.run, "hospitals": sorted(evaluation.sites), "failed": evaluation.failed}


@task(name="pool descriptions", task_run_name="pool descriptions", **SHARED)
def describe(
    run: str, home: CoordinatorHome, settings: Settings, cohort: Cohort, asked: Asked, exchange: Exchange
) -> dict[str, Any]:
    """Pool the hospitals' descriptions of their data and write the result."""
    description = gather_descriptions(run, settings, cohort, asked, exchange)
    write_description(home.description_file, description)
    return {"run": run, "hospitals": sorted(description.hospitals), "failed": description.failed}


@task(name="register", task_run_name="register model", timeout_seconds=900, **SHARED)
def register(home: CoordinatorHome, settings: Settings, root: Path) -> dict[str, Any]:
    """Register the model with its evidence and lineage; the same release again changes nothing."""
    from fedmed import registry

    answer = registry.register(release_of(home, settings, root), settings.registry, home.tracking)
    write_json(home.registered_file, answer.model_dump())
    return answer.model_dump()

"""What the coordinator does, as tasks: plan, aggregate a round, gather, register."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task

from fedmed.coordinator.admission import Admissions
from fedmed.coordinator.description import gather_descriptions, write_description
from fedmed.coordinator.evaluation import gather_reports, plan_of, post_model, write_evaluation
from fedmed.coordinator.history import write_history
from fedmed.coordinator.plan import make_plan
from fedmed.coordinator.release import release_of
from fedmed.coordinator.rounds import aggregate_round, choose_round, record_round
from fedmed.coordinator.start import start_of
from fedmed.files import write_json
from fedmed.pooled import train_pooled
from fedmed.site.home import SiteHome
from fedmed.wire.messages import Payload
from fedmed.workspace import Workspace
from tasks.receipts import SHARED


@task(name="pool descriptions", task_run_name="pool descriptions", **SHARED)
def describe(root: Path, run: str, answered: list[str], failed: dict[str, str]) -> dict[str, Any]:
    """Pool the hospitals' descriptions of their data and write the result."""
    workspace = Workspace(root)
    description = gather_descriptions(
        run, workspace.settings(), workspace.cohort(), answered, failed, workspace.exchange()
    )
    write_description(workspace.description_file, description)
    return {"run": run, "hospitals": sorted(description.hospitals), "failed": description.failed}


@task(name="plan", task_run_name="plan · run {run}", **SHARED)
def plan(root: Path, run: str, admissions: Admissions, answered: list[str]) -> dict[str, Any]:
    """Post the run's plan and first model."""
    workspace = Workspace(root)
    start = start_of(workspace)
    agreed = make_plan(run, workspace.settings(), workspace.cohort(), admissions, answered, workspace.exchange(), start)
    return {"run": run, "plan": agreed.digest, "participants": list(agreed.participants)}


@task(name="aggregate", task_run_name="aggregate · round {number:02d}", **SHARED)
def aggregate(root: Path, run: str, number: int, answered: list[str]) -> dict[str, Any]:
    """Sum the round's updates into the next global model."""
    exchange = Workspace(root).exchange()
    model, refused = aggregate_round(plan_of(run, exchange), number, answered, exchange)
    return {
        "round": number,
        "participants": list(model.participants),
        "refused": refused,
        "sha256": model.payload.sha256,
        "size": model.payload.size,
    }


@task(name="choose round", task_run_name="choose round · run {run}", **SHARED)
def choose(root: Path, run: str, refused: dict[int, dict[str, str]], rounds: int) -> dict[str, Any]:
    """Choose the round by validation and write the run's history."""
    workspace = Workspace(root)
    exchange = workspace.exchange()
    agreed = plan_of(run, exchange)
    records = [record_round(agreed, number, refused.get(number, {}), exchange) for number in range(1, rounds + 1)]
    chosen = choose_round(records)
    write_history(workspace.training_folder, agreed, records, chosen, exchange)
    return {"run": run, "round": chosen.round, "validation_loss": chosen.validation_loss, "sha256": chosen.model.sha256}


@task(name="pool", task_run_name="pooled model · demonstration only", timeout_seconds=3600, **SHARED)
def pool(root: Path, run: str, number: int) -> Payload:
    """Train the pooled model and post it for the test; only where one machine holds every hospital's key."""
    workspace = Workspace(root)
    agreed = plan_of(run, workspace.exchange())
    homes = [SiteHome(workspace.home(site)) for site in agreed.participants]
    return post_model(agreed, train_pooled(agreed, homes), "pooled", number, workspace.exchange())


@task(name="gather", task_run_name="gather reports · round {number:02d}", **SHARED)
def gather(root: Path, run: str, number: int, answered: list[str], failed: dict[str, str]) -> dict[str, Any]:
    """Collect the hospitals' reports and write the evaluation."""
    workspace = Workspace(root)
    evaluation = gather_reports(run, number, answered, failed, workspace.exchange())
    write_evaluation(workspace.evaluation_folder, evaluation)
    return {"run": run, "hospitals": sorted(evaluation.sites), "failed": failed}


@task(name="register", task_run_name="register model", timeout_seconds=900, **SHARED)
def register(root: Path) -> dict[str, Any]:
    """Register the model with its evidence and lineage; the same release again changes nothing."""
    from fedmed import registry

    workspace = Workspace(root)
    answer = registry.register(release_of(workspace), workspace.settings().registry, workspace.tracking)
    write_json(workspace.registered_file, answer.model_dump())
    return answer.model_dump()

"""The flow that trains, tests and registers one model across all hospitals.

partition → validate every site → for each round: invite, train at each site, aggregate, evaluate at each site
          → choose the round by validation → test at each site → register
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from fedmed.coordinator.admission import Admissions, check_quorum, invite_to_validate, read_receipts
from fedmed.coordinator.evaluation import plan_of
from fedmed.coordinator.history import read_history
from fedmed.coordinator.plan import invite_to_statistics, run_id
from fedmed.coordinator.rounds import comparable_losses, invite, record_round, rounds_of, stalled
from fedmed.coordinator.runs import begin_run, finish_run, forget_reports, keep_admissions, read_admissions
from fedmed.coordinator.start import start_of
from fedmed.errors import SettingsError
from fedmed.lineage import STAGES
from fedmed.sources.public import is_public
from fedmed.sources.records import SOURCES
from fedmed.workspace import Workspace
from flows.asking import SITES, ask
from flows.pages import show_admissions, show_progress, show_registered, show_rounds, show_tests
from flows.pipeline import due_stages
from flows.rounds import federated_round
from tasks import coordinator
from tasks.site import partition


def _name() -> str:
    workspace = Workspace(flow_run.parameters["workspace"])
    stages = flow_run.parameters.get("stages")
    return f"{workspace.cohort().name} · {' '.join(stages) if stages else 'training'}"


@flow(
    name="federated training",
    flow_run_name=_name,
    description=__doc__,
    task_runner=SITES,
    persist_result=False,
)
def federated_training(workspace: str = ".", stages: list[str] | None = None, force: bool = False) -> dict[str, Any]:
    """Run what is due of the pipeline on a workspace.

    Args:
        workspace: its folder.
        stages: run just these, as `dvc repro` does; by default DVC is asked what is due.
        force: run everything, due or not.

    Returns:
        Names of the stages that ran.
    """
    place = Workspace(workspace)
    check_pooling(place)
    with place.lease():
        return {"stages": run_stages(place, stages, force=force)}


def run_stages(place: Workspace, stages: list[str] | None, *, force: bool, among: Sequence[str] = STAGES) -> list[str]:
    """Run what is due `among` some stages, in order, and say what ran."""
    ran = []
    for due in due_stages(place, stages, force=force, among=among):
        place.journal().add("stage", stage=due.stage)
        if due.stage == "partition":
            partition_every_site(place, due.sites)
        elif due.stage == "validate":
            validate_every_site(place)
        elif due.stage == "train":
            train_in_rounds(place, force=force)
        elif due.stage == "evaluate":
            test_at_every_site(place)
        elif due.stage == "register":
            register_model(place)
        ran.append(due.stage)
    place.journal().add("done", stages=ran)
    return ran


def check_pooling(place: Workspace) -> None:
    """Stop where hospitals' rows would be pooled that are nobody's to pool.

    Raises:
        SettingsError: if `evaluation.pooled` is asked for a cohort other than the public ones that FedMed declares.
    """
    if place.settings().evaluation.pooled and not is_public(place.cohort()):
        raise SettingsError(
            "parameters: evaluation.pooled trains on all hospitals' rows in one place, which is for the public cohorts"
            f" only ({', '.join(SOURCES)}), declared as FedMed declares them; set it to false"
        )


def partition_every_site(place: Workspace, sites: tuple[str, ...]) -> None:
    """Split and encrypt the records of the hospitals whose data or declaration have changed."""
    for future in [partition.submit(place.root, site) for site in sites]:
        future.result()


def validate_every_site(place: Workspace) -> Admissions:
    """Ask every hospital whether its data keep the contract; stop if too few do."""
    settings = place.settings()
    invitations = invite_to_validate(settings, read_receipts(place.receipts, settings))
    place.exchange().discard(invitations[0].run)
    asked = ask(place, invitations, quorum=0)  # who fails to answer is quarantined, and counted below
    admissions = Admissions.gather(invitations[0].run, asked.answered, asked.failed, place.exchange())
    keep_admissions(place, admissions)
    show_admissions(admissions)
    place.journal().add("validated", admitted=admissions.admitted, quarantined=admissions.quarantined)
    check_quorum(len(admissions.admitted), settings.federation.quorum, "validation admitted", admissions.quarantined)
    return admissions


def train_in_rounds(place: Workspace, *, force: bool = False) -> None:
    """Agree on a plan, then round after round: invite, train at each site, aggregate, evaluate at each site."""
    settings = place.settings()
    quorum, cell = settings.federation.quorum, settings.privacy.minimum_cell
    admissions = read_admissions(place)
    check_quorum(len(admissions.admitted), quorum, "training has", admissions.quarantined)
    start = start_of(place)
    run = run_id(settings, place.cohort(), admissions, start)
    begin_run(place, run, force=force)

    described = ask(place, invite_to_statistics(run, admissions, settings), quorum)
    coordinator.plan(place.root, run, admissions, described.answered)
    rounds = rounds_of(plan_of(run, place.exchange()))
    refused: dict[int, dict[str, str]] = {}
    with show_progress(f"round 0 of {rounds}") as progress:
        for number in range(1, rounds + 1):
            refused[number] = federated_round(place.root, run, number, rounds, quorum, cell)["refused"]
            progress(number, rounds)
            if settings.training.patience and stalled(_losses(place, run, refused), settings.training.patience):
                place.journal().add("stalled", run=run, round=number)
                break
    coordinator.choose(place.root, run, refused, len(refused))
    finish_run(place, run)
    show_rounds(read_history(place.training_folder)[0])


def _losses(place: Workspace, run: str, refused: dict[int, dict[str, str]]) -> list[float | None]:
    exchange = place.exchange()
    plan = plan_of(run, exchange)
    return comparable_losses([record_round(plan, number, reasons, exchange) for number, reasons in refused.items()])


def test_at_every_site(place: Workspace) -> None:
    """Measure the chosen model at every hospital, beside what each could do alone."""
    settings, exchange = place.settings(), place.exchange()
    history, _ = read_history(place.training_folder)
    plan = plan_of(history.run, exchange)
    models = {"federated": history.rounds[history.chosen - 1].model}
    if settings.evaluation.pooled:
        models["pooled"] = coordinator.pool(place.root, history.run, history.chosen)
    invitations = invite(
        plan,
        history.chosen,
        "test",
        models,
        settings.privacy.minimum_cell,
        settings.evaluation.resamples,
        own=settings.evaluation.own,
    )
    forget_reports(place, history.run)
    tested = ask(place, invitations, settings.federation.quorum)
    coordinator.gather(place.root, history.run, history.chosen, tested.answered, tested.failed)
    show_tests(place)


def register_model(place: Workspace) -> None:
    """Register the model with its evidence and lineage, and make it champion if it is better."""
    answer = coordinator.register(place.root)
    show_registered(answer)
    place.journal().add("registered", model=answer["model"], version=answer["version"], reason=answer["reason"])

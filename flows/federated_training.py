"""The flow that trains, evaluates and registers one model across all hospitals.

partition → validate every site → for each round: train at each site, aggregate, score at each site
          → choose the round by validation → evaluate at each site → register
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from fedmed.coordinator.admission import Admissions, ask_to_validate, read_receipts, validation_id
from fedmed.coordinator.evaluation import ask_to_evaluate, read_evaluation
from fedmed.coordinator.history import RoundRecord, comparable_losses, read_history, stalled
from fedmed.coordinator.plan import ask_for_statistics, check_plan, run_id
from fedmed.coordinator.runs import keep_admissions, read_admissions
from fedmed.coordinator.start import start_of
from fedmed.coordinator.training import Run, kept_run, rounds_of
from fedmed.engine.loop import check_quorum
from fedmed.errors import FedMedError, SettingsError, WorkspaceError
from fedmed.lineage import STAGES
from fedmed.public.declared import is_public
from fedmed.public.records import PUBLIC_COHORTS
from fedmed.wire.post import put_payload
from fedmed.workspace import Workspace
from flows.asking import SITES, ask, tasks_of_sites
from flows.pages import show_admissions, show_evaluation, show_progress, show_registered, show_rounds
from flows.pipeline import due_stages
from flows.rounds import federated_round
from tasks import coordinator
from tasks.site import partition


def _name() -> str:
    workspace = Workspace(flow_run.parameters["workspace"])
    stages = flow_run.parameters.get("stages")
    return f"{workspace.cohort.name} · {' '.join(stages) if stages else 'training'}"


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
    ran, journal = [], place.coordinator.journal()
    for due in due_stages(place, stages, force=force, among=among):
        journal.add("stage", stage=due.stage)
        if due.stage == "partition":
            partition_every_site(place, due.sites)
        elif due.stage == "validate":
            validate_every_site(place)
        elif due.stage == "train":
            train_in_rounds(place, force=force)
        elif due.stage == "evaluate":
            evaluate_at_every_site(place)
        elif due.stage == "register":
            register_model(place)
        ran.append(due.stage)
    journal.add("done", stages=ran)
    return ran


def check_pooling(place: Workspace) -> None:
    """Stop where hospitals' rows would be pooled that are nobody's to pool.

    Raises:
        SettingsError: if `evaluation.pooled` is asked for a cohort other than the public ones that FedMed declares.
    """
    if place.settings.evaluation.pooled and not is_public(place.cohort):
        raise SettingsError(
            "parameters: evaluation.pooled trains on all hospitals' rows in one place, which is for the public cohorts"
            f" only ({', '.join(PUBLIC_COHORTS)}), declared as FedMed declares them; set it to false"
        )


def partition_every_site(place: Workspace, sites: Sequence[str]) -> None:
    """Split and encrypt the records of the hospitals whose data or declaration have changed."""
    split, seconds = place.settings.split, place.settings.federation.answer_within
    futures = [partition.submit(site, place.home(site), place.cohort, split, seconds) for site in sites]
    for future in futures:
        place.coordinator.keep_receipt(future.result()["receipt"])


def validate_every_site(place: Workspace) -> Admissions:
    """Ask every hospital whether its data keep the contract; stop if too few do."""
    settings, home = place.settings, place.coordinator
    receipts = read_receipts(home.receipts, settings)
    run = validation_id(settings, receipts)
    questions = ask_to_validate(settings, receipts, home.open_attempt(run, "validate"))
    admissions = Admissions.gather(questions, ask(place, questions))  # who fails to answer is quarantined
    home.close_attempt(run, "validate")
    keep_admissions(home, admissions)
    show_admissions(admissions)
    home.journal().add("validated", admitted=admissions.admitted, quarantined=admissions.quarantined)
    check_quorum(admissions.admitted, settings.federation.quorum, "validation admitted", admissions.quarantined)
    return admissions


def train_in_rounds(place: Workspace, *, force: bool = False) -> None:
    """Agree on a plan, then round after round: train at each site, aggregate, score at each site."""
    settings, home = place.settings, place.coordinator
    admissions = read_admissions(home)
    check_quorum(admissions.admitted, settings.federation.quorum, "training has", admissions.quarantined)
    name = run_id(settings, place.cohort, admissions, start_of(settings, place.cohort, home.tracking))
    attempt, _ = home.begin_training(name, force=force)
    try:
        run = kept_run(home, name, attempt, settings.privacy.minimum_cell) or agree(place, name, attempt, admissions)
        check_plan(run.plan, settings, place.cohort)
        records = run_rounds(place, run)
    except FedMedError:
        home.close_attempt(name, "train")  # who refused is asked again the next time
        raise
    coordinator.choose(home, run, records)
    home.finish_training(name)
    show_rounds(read_history(home.training_folder)[0])


def agree(place: Workspace, name: str, attempt: int, admissions: Admissions) -> Run:
    """Ask for statistics and make the plan of a run."""
    settings, home = place.settings, place.coordinator
    asked = ask(place, ask_for_statistics(name, admissions, settings, attempt))
    asked.need(settings.federation.quorum, "statistics were answered by")
    coordinator.plan(name, attempt, home, settings, place.cohort, admissions, asked, place.exchange())
    return the_run(place, name, attempt)


def run_rounds(place: Workspace, run: Run) -> list[RoundRecord]:
    """Run the rounds that are still to be done, until the last or until validation stalls."""
    settings, journal, records = place.settings, place.coordinator.journal(), run.records
    of, patience = run.plan.algorithm.rounds, settings.training.patience
    rounds = rounds_of(
        run, place.exchange(), tasks_of_sites(place), coordinator.step, quorum=settings.federation.quorum
    )
    with show_progress(f"round {len(records)} of {of}") as progress:
        while len(records) < of and not stalled(comparable_losses(records), patience):
            done = federated_round(rounds, len(records) + 1, of)
            records = run.records
            journal.add(
                "round", run=run.plan.run, round=done["round"], rounds=of, loss=done["loss"], refused=done["refused"]
            )
            progress(len(records), of)
    if len(records) < of:
        journal.add("stalled", run=run.plan.run, round=len(records))
    return records


def evaluate_at_every_site(place: Workspace) -> None:
    """Measure the chosen model at every hospital, beside what each could do alone."""
    settings, home = place.settings, place.coordinator
    history, _ = read_history(home.training_folder)
    attempt = home.open_attempt(history.run, "evaluate")
    run, chosen = the_run(place, history.run, attempt), history.chosen
    put_payload(place.exchange(), run.plan.encoded())
    put_payload(place.exchange(), run.states.bytes_of(chosen, "model"))
    models = {"federated": run.model_of(chosen)}
    if settings.evaluation.pooled:
        models["pooled"] = coordinator.pool(run, [place.home(s) for s in run.plan.participants], place.exchange())
    counted = {site: run.states.counted(site, chosen) for site in run.plan.participants}
    asked = ask(place, ask_to_evaluate(run.plan, chosen, attempt, models, settings, counted))
    home.close_attempt(history.run, "evaluate")
    asked.need(settings.federation.quorum, "evaluation was answered by")
    coordinator.gather(home, run, chosen, asked)
    show_evaluation(read_evaluation(home.evaluation_folder))


def the_run(place: Workspace, name: str, attempt: int) -> Run:
    """A run that was agreed on.

    Raises:
        WorkspaceError: if nothing of it is kept.
    """
    run = kept_run(place.coordinator, name, attempt, place.settings.privacy.minimum_cell)
    if run is None:
        raise WorkspaceError(f"the plan of run {name} is gone; start it over with `fedmed run --force`")
    return run


def register_model(place: Workspace) -> None:
    """Register the model with its evidence and lineage, and make it champion if it is better."""
    answer = coordinator.register(place.coordinator, place.settings, place.root)
    show_registered(answer)
    place.coordinator.journal().add(
        "registered", model=answer["model"], version=answer["version"], reason=answer["reason"]
    )

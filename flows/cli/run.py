"""Commands that run the pipeline: all that is due, one stage, or on a schedule."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace

import click

from flows.cli.console import Console, table
from flows.cli.public import MIRROR, complete_records
from flows.cli.workspaces import workspace_of
from flows.environment import prefect_environment, running_server


@click.command()
@click.option("--force", is_flag=True, help="Run every stage, whether anything has changed or not.")
@click.option("--cohort", help="Run on this public cohort, in a workspace of its name that is made if there is none.")
@MIRROR
@click.pass_obj
def run(console: Console, *, force: bool, cohort: str | None, mirror: str | None) -> None:
    """Run what is due: partition, validate, train, evaluate, register.

    DVC says what is due; what ran is recorded in dvc.lock, so that a `dvc repro` afterwards does nothing. Parameters
    are in params.yaml. The same inputs and the same seed give the same weights, bit for bit.

    With --cohort, the cohort's records are fetched and added first where hospitals have none; git ignores the workspace
    that is made. For one that git is to keep, see `fedmed init --cohort`.
    """
    from flows.cli.progress import following
    from flows.cli.summary import summarise
    from flows.pipeline import anything_due

    if cohort is not None:
        console = _on(console, cohort, mirror)
    workspace = console.open()
    workspace.check()
    if not force and not anything_due(workspace):
        document, text = summarise(workspace)
        console.result({**document, "ran": []}, f"Everything is up to date.\n\n{text}")
        return
    with workspace.lease(), following(workspace.coordinator.journal(), shown=not console.quiet) as progress:
        workspace.coordinator.journal().begin(force=force)
        progress.doing("starting Prefect")
        with prefect_environment(workspace.root):
            from flows.federated_training import federated_training
            from flows.work_pool import ensure_work_pool

            ensure_work_pool()
            outcome = federated_training(workspace=str(workspace.root), force=force)
    document, text = summarise(workspace)
    console.result({**document, "ran": outcome["stages"]}, text)
    console.say("\nPages: fedmed ui   ·   this report again: fedmed status   ·   DVC's view: dvc metrics show")


def _on(console: Console, cohort: str, mirror: str | None) -> Console:
    """The console on the workspace of a public cohort, which has its records now."""
    from fedmed.public.records import public_cohort

    source = public_cohort(cohort)
    folder, written = workspace_of(console.root, cohort)
    if written:
        console.say(f"{folder}: a workspace for {cohort}")
    there = replace(console, workspace=str(folder))
    complete_records(there, there.open(), source, mirror)
    return there


@click.command()
@click.pass_obj
def validate(console: Console) -> None:
    """Ask every hospital whether its data keep the contract.

    Ends with 5 if a hospital is quarantined, or too few are admitted for a run.
    """
    workspace = console.open()
    with prefect_environment(workspace.root):
        from flows.site_validation import site_validation

        outcome = site_validation(workspace=str(workspace.root))
    rows = [(site, "admitted", "") for site in outcome["admitted"]]
    rows += [(site, "quarantined", ", ".join(failed)) for site, failed in outcome["quarantined"].items()]
    console.result(outcome, table(("hospital", "verdict", "failed expectations"), sorted(rows)))
    if outcome["quarantined"]:
        click.get_current_context().exit(5)


@click.command()
@click.option("--port", type=int, default=4200, show_default=True, help="Port of Prefect's pages, if it starts them.")
@click.option("--once", is_flag=True, help="Only make the deployments known to the server, then end.")
@click.pass_obj
def schedule(console: Console, port: int, *, once: bool) -> None:
    """Run training and the nightly validation on the schedules of prefect.yaml, until interrupted.

    Needs no work pool. It uses the Prefect server of PREFECT_API_URL, or that of `fedmed ui` on this workspace, and
    otherwise starts one.
    """
    from flows.servers import prefect_server

    workspace = console.open()
    with ExitStack() as stack:
        if "PREFECT_API_URL" not in os.environ and running_server(workspace.root) is None:
            server = stack.enter_context(prefect_server(workspace, port))
            console.say(f"Prefect  {server.pages}")
        stack.enter_context(prefect_environment(workspace.root))
        from flows.schedule import serve_flows

        serve_flows(workspace.root, say=console.say, once=once)


@click.command(hidden=True)
@click.argument("name", type=click.Choice(["partition", "validate", "train", "evaluate", "register"]))
@click.option("--site", help="The hospital, for the stage that runs once a hospital.")
@click.pass_obj
def stage(console: Console, name: str, site: str | None) -> None:
    """Run one stage, as dvc.yaml does."""
    workspace = console.open()
    if name == "partition" and site is None:
        raise click.UsageError("the stage `partition` needs --site")
    with workspace.lease(), prefect_environment(workspace.root):
        workspace.coordinator.journal().begin(stage=name)
        from flows.federated_training import federated_training

        federated_training(workspace=str(workspace.root), stages=[f"{name}@{site}" if site else name])
    console.say(f"{name}{f' · {site}' if site else ''}: done")

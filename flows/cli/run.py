"""Commands that run the pipeline: all that is due, one stage, or on a schedule."""

from __future__ import annotations

import click

from flows.cli.console import Console, table
from flows.environment import prefect_environment


@click.command()
@click.option("--force", is_flag=True, help="Run every stage, whether anything has changed or not.")
@click.pass_obj
def run(console: Console, *, force: bool) -> None:
    """Run what is due: partition, validate, train, evaluate, register.

    DVC says what is due; what ran is recorded in dvc.lock, so that a `dvc repro` afterwards does nothing. Parameters
    are in params.yaml. The same inputs and the same seed give the same weights, bit for bit.
    """
    from flows.cli.progress import following
    from flows.cli.summary import summarise

    workspace = console.open()
    workspace.settings(), workspace.cohort()
    workspace.journal().begin(force=force)
    with following(workspace.journal(), shown=not console.quiet) as progress:
        progress.doing("starting Prefect")
        with prefect_environment(workspace.root):
            from flows.federated_training import federated_training

            outcome = federated_training(workspace=str(workspace.root), force=force)
    document, text = summarise(workspace)
    console.result({**document, "ran": outcome["stages"]}, text)
    console.say("\nPages: fedmed ui   ·   this report again: fedmed status   ·   DVC's view: dvc metrics show")


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
@click.option("--once", is_flag=True, hidden=True, help="Register the deployments, then end (for tests).")
@click.pass_obj
def schedule(console: Console, *, once: bool) -> None:
    """Run training and the nightly validation on the schedules of prefect.yaml, until interrupted.

    Needs no work pool. It uses the Prefect server of `fedmed ui` on this workspace if PREFECT_API_URL points to it, and
    otherwise one of its own.
    """
    workspace = console.open()
    with prefect_environment(workspace.root):
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
    workspace.journal().begin(stage=name)
    with prefect_environment(workspace.root):
        from flows.federated_training import federated_training

        federated_training(workspace=str(workspace.root), stages=[f"{name}@{site}" if site else name])
    console.say(f"{name}{f' · {site}' if site else ''}: done")

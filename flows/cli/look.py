"""Commands that look at what there is, and use it: status, models, predict, the pages."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli.console import Console, table


@click.command()
@click.pass_obj
def status(console: Console) -> None:
    """Say what the last run came to: hospitals, rounds, test, registered model."""
    from flows.cli.summary import summarise

    document, text = summarise(console.open())
    console.result(document, text)


@click.command()
@click.option("--site", required=True, help="The hospital at which to predict.")
@click.option("--model", "version", default="champion", show_default=True, help="Alias or version of the model.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where to write; default predictions/ of the hospital.",
)
@click.argument("rows", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def predict(console: Console, site: str, version: str, output: Path | None, rows: Path) -> None:
    """Predict at a hospital: load the champion and write a probability for each of ROWS (CSV or Parquet).

    A row outside the contract gets no probability but the names of the columns that are wrong; the command then ends
    with 9, having written all others. The rows and the predictions stay at the hospital.
    """
    from fedmed import registry
    from fedmed.serving.prediction import predict as score
    from fedmed.site.personal import own_of
    from fedmed.sources.reading import read_rows

    workspace = console.open()
    home = workspace.home(site)
    bundle = registry.load(workspace.coordinator.tracking, workspace.settings.registry.model, version)
    own = own_of(home, bundle)
    answers = score(bundle, read_rows(rows, bundle.description.cohort), own)
    target = output or home.path / "predictions" / f"{rows.stem}.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch(mode=0o600)
    answers.to_csv(target, index=False)
    outside = answers[answers["reason"] != ""]
    document = {
        "site": site,
        "model": bundle.description.run,
        "personal": own is not None,
        "rows": len(answers),
        "outside": len(outside),
        "file": str(target),
    }
    lines = [f"{site}: {len(answers) - len(outside)} of {len(answers)} rows predicted, in {target}"]
    if own is None:
        lines.append(
            "  with the global model: it was never evaluated here, so the hospital has nothing of its own in it"
        )
    lines += [f"  row {row}: {reason}" for row, reason in zip(outside["row"], outside["reason"], strict=True)]
    console.result(document, "\n".join(lines))
    if len(outside):
        click.get_current_context().exit(9)


@click.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """List the registered models; promote one by hand."""
    if context.invoked_subcommand is not None:
        return
    from datetime import UTC, datetime

    from fedmed import registry

    console: Console = context.obj
    versions = registry.models(console.open().coordinator.tracking)
    rows = [
        (
            entry.model,
            entry.version,
            ", ".join(entry.aliases),
            entry.run,
            datetime.fromtimestamp(entry.created / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
            entry.decision,
        )
        for entry in versions
    ]
    text = (
        table(("model", "version", "aliases", "run", "registered (UTC)", "decision"), rows)
        if rows
        else "no model is registered yet"
    )
    console.result([entry.model_dump() for entry in versions], text)


@models.command()
@click.argument("version", type=int)
@click.pass_obj
def promote(console: Console, version: int) -> None:
    """Make VERSION the champion by hand."""
    from fedmed import registry

    workspace = console.open()
    entry = registry.promote(workspace.coordinator.tracking, workspace.settings.registry.model, version)
    console.result(entry.model_dump(), f"{entry.model} version {entry.version} is champion now")


@click.command()
@click.option("--prefect-port", type=int, default=4200, show_default=True, help="Port of Prefect's pages.")
@click.option("--mlflow-port", type=int, default=5001, show_default=True, help="Port of MLflow's pages.")
@click.pass_obj
def ui(console: Console, prefect_port: int, mlflow_port: int) -> None:
    """Start Prefect's and MLflow's pages on this workspace and print their addresses; Ctrl-C ends them."""
    from flows.servers import serve_pages

    serve_pages(console.open(), prefect_port, mlflow_port, say=console.result)

"""Public cohorts at the command line: fetch them, and put each hospital's records into its vault."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmed.errors import WorkspaceError
from flows.cli.console import Console, table
from flows.cli.workspaces import prepare_home

if TYPE_CHECKING:
    import pandas as pd

    from fedmed.public.records import PublicCohort
    from fedmed.workspace import Workspace

MIRROR = click.option(
    "--mirror",
    envvar="FEDMED_SOURCE_MIRROR",
    show_envvar=True,
    metavar="URL",
    help="Ask this address for MIRROR/COHORT/FILE, and not the publisher: for hospitals without a way out.",
)


def fetched_tables(
    console: Console, source: PublicCohort, mirror: str | None, sites: tuple[str, ...]
) -> dict[str, pd.DataFrame]:
    """The tables of a public cohort's hospitals; files that are not in the cache are fetched, with a progress bar."""
    from fedmed.public.fetching import files_folder
    from fedmed.public.preparing import obtain
    from flows.cli.progress import downloading

    console.say(f"{source.title}\n  licence   {source.licence} ({source.licence_url})\n  cite      {source.citation}")
    for note in source.notes:
        console.say(f"  note      {note}")
    with downloading(shown=not console.quiet) as progress:
        tables = obtain(source, sites, mirror=mirror, progress=progress)
    if not source.embedded:
        console.say(f"  verified  {source.rows} rows, content {source.content[:12]}…")
        console.say(f"  kept in   {files_folder(source)}")
    return tables


def add_tables(workspace: Workspace, tables: Mapping[str, pd.DataFrame]) -> dict[str, int]:
    """Put a table into the vault of each hospital.

    Returns:
        Site → rows.
    """
    from fedmed.site.home import add_records

    cohort, rows = workspace.cohort, {}
    with tempfile.TemporaryDirectory(prefix="fedmed-") as folder:
        for site, records in tables.items():
            home = workspace.home(site)
            prepare_home(home.path)
            # In the clear for a moment, as the public files in the cache are for good.
            file = Path(folder) / f"{site}.parquet"
            records.to_parquet(file, index=False)
            rows[site] = add_records(home, [file], cohort)
            file.unlink()
    return rows


def sites_of(workspace: Workspace, source: PublicCohort) -> tuple[str, ...]:
    """The hospitals of a workspace for this cohort.

    Raises:
        WorkspaceError: if the workspace is for another cohort.
    """
    if (found := workspace.cohort.name) != source.name:
        raise WorkspaceError(
            f"{workspace.root}: expected a workspace of the cohort {source.name}, this one is of {found}. Make one with"
            f" `fedmed init FOLDER --cohort {source.name}`."
        )
    return workspace.settings.federation.sites


def complete_records(console: Console, workspace: Workspace, source: PublicCohort, mirror: str | None) -> None:
    """Fetch and add the records of a public cohort unless every hospital has records; embedded ones need nothing."""
    sites = sites_of(workspace, source)
    if source.embedded or all(workspace.home(site).records.exists() for site in sites):
        return
    add_tables(workspace, fetched_tables(console, source, mirror, sites))


def tell_added(console: Console, source: PublicCohort, rows: Mapping[str, int]) -> None:
    """Say what was added to which vault."""
    text = table(("hospital", "rows, encrypted"), list(rows.items()))
    console.result({"cohort": source.name, "rows": dict(rows)}, text)
    console.say("Next: fedmed run")


@click.command("list")
@click.pass_obj
def list_cohorts(console: Console) -> None:
    """List the public cohorts: licence, hospitals, rows, and whether they have been fetched."""
    from fedmed.public.fetching import is_fetched
    from fedmed.public.records import PUBLIC_COHORTS

    document: list[dict[str, object]] = []
    rows: list[tuple[object, ...]] = []
    for source in PUBLIC_COHORTS.values():
        here = "ships with FedMed" if source.embedded else "fetched" if is_fetched(source) else "not fetched"
        rows.append((source.name, source.licence.partition(" (")[0], len(source.sites), f"{source.rows:,}", here))
        told = source.model_dump(
            include={"name", "title", "licence", "licence_url", "citation", "page", "content", "sites"}
        )
        document.append({**told, "rows": source.rows, "fetched": is_fetched(source)})
    console.result(document, table(("cohort", "licence", "hospitals", "rows", "here"), rows))
    console.say("\nfedmed data fetch COHORT   ·   fedmed init FOLDER --cohort COHORT   ·   fedmed run --cohort COHORT")


@click.command()
@click.argument("cohort")
@MIRROR
@click.pass_obj
def fetch(console: Console, cohort: str, mirror: str | None) -> None:
    """Fetch a public COHORT from its publisher, and hold it against its known content.

    The files are kept in FEDMED_DATA, or else in the user's cache directory. In a workspace of this cohort, each
    hospital's records are added to its vault at once; elsewhere, `fedmed data add COHORT` does that later.
    """
    from fedmed.public.fetching import files_folder
    from fedmed.public.records import public_cohort
    from fedmed.workspace import Workspace

    source = public_cohort(cohort)
    here = (console.root / "params.yaml").is_file()
    workspace = Workspace(console.root) if here and Workspace(console.root).cohort.name == cohort else None
    tables = fetched_tables(console, source, mirror, sites_of(workspace, source) if workspace else ())
    if workspace is not None and not source.embedded:
        tell_added(console, source, add_tables(workspace, tables))
        return
    rows = {site: len(records) for site, records in tables.items()}
    document = {"cohort": cohort, "folder": str(files_folder(source)), "rows": rows}
    console.result(document, table(("hospital", "rows"), list(rows.items())))
    console.say(f"Next: fedmed init {cohort} --cohort {cohort}, then `fedmed data add {cohort}` in it")

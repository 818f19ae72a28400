"""Commands that make a workspace, and that a hospital's data engineer uses."""

from __future__ import annotations

from pathlib import Path

import click

from flows.cli import public
from flows.cli.console import Console, table
from flows.cli.workspaces import make_workspace, prepare_home


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.option(
    "--cohort",
    default="heart_disease",
    show_default=True,
    help="The public cohort to start from: see `fedmed data list`.",
)
@click.pass_obj
def init(console: Console, folder: Path, cohort: str) -> None:
    """Make a workspace in FOLDER: parameters, pipeline, and the declaration of a cohort.

    Without --cohort it is ready to run on the heart-disease records of four hospitals that ship with FedMed; with it,
    its parameters suit another public cohort, which `fedmed data fetch` gets. For your own cohort, edit cohorts/,
    params.yaml (cohort, federation.sites) and add each hospital's records with `fedmed data add`. Files that are there
    already are left alone.
    """
    from fedmed.public.records import PUBLIC_COHORTS

    written = make_workspace(folder, cohort)
    document = {"workspace": str(folder.resolve()), "written": written}
    console.result(
        document, f"{folder.resolve()}: " + (f"wrote {', '.join(written)}" if written else "nothing to write")
    )
    enter = f"cd {folder} && " if str(folder) != "." else ""
    fetch_first = "" if PUBLIC_COHORTS[cohort].embedded else f"fedmed data fetch {cohort} && "
    console.say(f"Next: {enter}{fetch_first}fedmed run")


@click.group()
def data() -> None:
    """Add a hospital's records, check them, split and encrypt them."""


data.add_command(public.list_cohorts)
data.add_command(public.fetch)


@data.command()
@click.option("--site", help="The hospital whose own files these are, as params.yaml names it.")
@click.option(
    "--from",
    "copy",
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="Folder with a local copy of a public cohort's files; without it, what `fedmed data fetch` brought.",
)
@click.argument("what", nargs=-1, required=True, metavar="FILES... | COHORT")
@click.pass_obj
def add(console: Console, site: str | None, copy: Path | None, what: tuple[str, ...]) -> None:
    """Take a hospital's own CSV or Parquet FILES, or a public COHORT for all hospitals, in place of what was there.

    With --site, the files must have the columns that the cohort's declaration names; others are left out. The rows are
    encrypted under the hospital's key before they touch the disk; your files stay where they are.

    Without --site, COHORT is a public cohort (`fedmed data list`): its files are read from --from, or from where
    `fedmed data fetch` keeps them, held against their known content, and divided among the hospitals of params.yaml.
    """
    if site is None:
        _add_public(console, what, copy)
        return
    if copy is not None:
        raise click.UsageError("--from is for a public cohort; a hospital's own files are named after --site NAME")
    from fedmed.site.home import add_records

    workspace = console.open()
    home = workspace.home(site)
    prepare_home(home.path)
    rows = add_records(home, [Path(file) for file in what], workspace.cohort)
    console.result({"site": site, "rows": rows}, f"{site}: {rows} rows added and encrypted")
    console.say(f"Next: fedmed data check --site {site}")


def _add_public(console: Console, what: tuple[str, ...], copy: Path | None) -> None:
    from fedmed.public.fetching import files_folder
    from fedmed.public.preparing import prepare
    from fedmed.public.records import PUBLIC_COHORTS

    if len(what) > 1 or what[0] not in PUBLIC_COHORTS:
        raise click.UsageError(
            f"expected one public cohort ({', '.join(PUBLIC_COHORTS)}), or --site NAME before a hospital's own files"
        )
    workspace, source = console.open(), PUBLIC_COHORTS[what[0]]
    sites = public.sites_of(workspace, source)
    folder = files_folder(source) if copy is None else copy if copy.is_dir() else copy.parent
    public.tell_added(console, source, public.add_tables(workspace, prepare(source.name, folder, sites)))


@data.command()
@click.option("--site", required=True, help="The hospital, as params.yaml names it.")
@click.pass_obj
def partition(console: Console, site: str) -> None:
    """Split a hospital's records into training, validation and test, and encrypt them.

    `fedmed run` does this by itself where something has changed. A partition that is unchanged is not rewritten.
    """
    from fedmed.site.home import partition_records

    workspace = console.open()
    home = workspace.home(site)
    receipt, written = partition_records(home, workspace.cohort, workspace.settings.split)
    workspace.coordinator.keep_receipt(receipt)
    document = {**receipt.model_dump(), "written": written}
    console.result(
        document, f"{site}: {'partition written' if written else 'partition unchanged'} ({receipt.fingerprint[:12]}…)"
    )


@data.command()
@click.option("--site", required=True, help="The hospital, as params.yaml names it.")
@click.pass_obj
def check(console: Console, site: str) -> None:
    """Partition a hospital's records and hold them against the contract, as the coordinator will ask it to.

    Ends with 5 if the hospital would be quarantined. The full result stays at the hospital.
    """
    from fedmed.site.admission import examine_partition
    from fedmed.site.home import partition_records

    workspace = console.open()
    settings = workspace.settings
    home = workspace.home(site)
    receipt, _ = partition_records(home, workspace.cohort, settings.split)
    workspace.coordinator.keep_receipt(receipt)
    verdict, _, rows = examine_partition(home, settings.privacy.minimum_cell)
    told = [(split, "suppressed" if count is None else count) for split, count in rows.items()]
    page = home.contract / "data_docs" / "index.html"
    text = [
        f"{site}: " + (f"admitted ({verdict.expectations} expectations hold)" if verdict.admitted else "quarantined"),
        *(f"  failed: {name}" for name in verdict.failed),
        table(("split", "rows"), told),
        f"  in full, for the hospital only: {page}",
    ]
    document = {"site": site, **verdict.model_dump(), "rows": rows, "data_docs": str(page)}
    console.result(document, "\n".join(text))
    if not verdict.admitted:
        click.get_current_context().exit(5)


@data.command()
@click.option("--hospitals", is_flag=True, help="Print the tables of each hospital too.")
@click.pass_obj
def describe(console: Console, *, hospitals: bool) -> None:
    """Describe the hospitals' training rows: missing values, means, quantiles, categories, the target.

    Each admitted hospital counts its own rows and withholds small counts before they leave it; no row does. Where
    something was withheld, a figure has bounds. The whole description is written to coordinator/description.json.
    """
    from fedmed.coordinator.description import read_description
    from fedmed.coordinator.runs import read_admissions
    from flows.cli.description import description_text
    from flows.environment import prefect_environment

    workspace = console.open()
    read_admissions(workspace.coordinator)  # before a validation there is nobody to ask, so Prefect need not start
    with prefect_environment(workspace.root):
        from flows.description import describe_data

        describe_data(workspace=str(workspace.root))
    description = read_description(workspace.coordinator.description_file)
    console.result(description.model_dump(mode="json"), description_text(description, hospitals=hospitals))

"""Commands that make a workspace, and that a hospital's data engineer uses."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from flows.cli.console import Console, table

TEMPLATES = ("params.yaml", "dvc.yaml", "prefect.yaml", "prefect.toml", "cohorts/heart_disease.yaml")
IGNORED = """\
# All that this hospital owns stays out of git; DVC versions the encrypted partition.
/*
!/.gitignore
!/records/
"""


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default=".")
@click.pass_obj
def init(console: Console, folder: Path) -> None:
    """Make a workspace in FOLDER: parameters, pipeline, and the declaration of a cohort.

    It is ready to run on the heart-disease records of four hospitals that ship with FedMed. For your own cohort, edit
    cohorts/, params.yaml (cohort, federation.sites) and add each hospital's records with `fedmed data add`. Files
    that are there already are left alone.
    """
    from fedmed.lineage import initialise
    from fedmed.settings import read_settings

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name in TEMPLATES:
        target = folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            text = resources.files("fedmed.template").joinpath(name).read_text(encoding="utf-8")
            target.write_text(_without_sources(text) if name == "dvc.yaml" else text, encoding="utf-8")
            written.append(name)
    for site in read_settings(folder / "params.yaml").federation.sites:
        prepare_home(folder / "sites" / site)
    ignored = folder / ".gitignore"
    if not ignored.exists():
        ignored.write_text("/coordinator/\n/.prefect/\n", encoding="utf-8")
    initialise(folder.resolve())
    document = {"workspace": str(folder.resolve()), "written": written}
    console.result(
        document, f"{folder.resolve()}: " + (f"wrote {', '.join(written)}" if written else "nothing to write")
    )
    console.say(f"Next: cd {folder} && fedmed run" if str(folder) != "." else "Next: fedmed run")


def prepare_home(home: Path) -> None:
    """A hospital's folder, so that DVC finds what it looks for and git takes none of it."""
    (home / "records").mkdir(parents=True, exist_ok=True)
    for path, text in ((home / ".gitignore", IGNORED), (home / "records" / ".gitignore", "*\n!.gitignore\n")):
        if not path.exists():
            path.write_text(text, encoding="utf-8")


def _without_sources(pipeline: str) -> str:
    """The pipeline for a workspace outside FedMed's own repository: there is no source code for stages to depend on."""
    sources = ("- fedmed", "- flows", "- tasks")
    return "\n".join(line for line in pipeline.split("\n") if not line.strip().startswith(sources))


@click.group()
def data() -> None:
    """Add a hospital's records, check them, split and encrypt them."""


@data.command()
@click.option("--site", required=True, help="The hospital, as params.yaml names it.")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.pass_obj
def add(console: Console, site: str, files: tuple[Path, ...]) -> None:
    """Take a hospital's own CSV or Parquet FILES, in place of what it had.

    The files must have the columns that the cohort's declaration names; others are left out. The rows are encrypted
    under the hospital's key before they touch the disk; your files stay where they are.
    """
    from fedmed.site.home import SiteHome, add_records

    workspace = console.open()
    home = SiteHome(workspace.home(site))
    prepare_home(home.path)
    rows = add_records(home, files, workspace.cohort())
    console.result({"site": site, "rows": rows}, f"{site}: {rows} rows added and encrypted")
    console.say(f"Next: fedmed data check --site {site}")


@data.command()
@click.option("--site", required=True, help="The hospital, as params.yaml names it.")
@click.pass_obj
def partition(console: Console, site: str) -> None:
    """Split a hospital's records into training, validation and test, and encrypt them.

    `fedmed run` does this by itself where something has changed. A partition that is unchanged is not rewritten.
    """
    from fedmed.site.home import SiteHome, partition_records

    workspace = console.open()
    home = SiteHome(workspace.home(site))
    receipt, written = partition_records(home, workspace.cohort(), workspace.settings().split)
    workspace.keep_receipt(receipt)
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
    from fedmed.site.home import SiteHome, partition_records

    workspace = console.open()
    settings = workspace.settings()
    home = SiteHome(workspace.home(site))
    receipt, _ = partition_records(home, workspace.cohort(), settings.split)
    workspace.keep_receipt(receipt)
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
    from flows.environment import prefect_environment

    workspace = console.open()
    with prefect_environment(workspace.root):
        from flows.description import describe_data

        describe_data(workspace=str(workspace.root))
    from flows.tables import category_rows, number_rows

    description = read_description(workspace.description_file)
    scopes = {f"{len(description.hospitals)} hospitals": description.overall}
    scopes |= description.hospitals if hospitals else {}
    text = []
    for scope, part in scopes.items():
        text.append(f"{scope}: {part.rows} training rows; counts under {part.minimum_cell} are withheld")
        for rows in (category_rows(part, description.target), number_rows(part, description.target)):
            text += ["", table(list(rows[0]), [list(row.values()) for row in rows])] if rows else []
        text.append("")
    text += [f"{site} was not described: {reason}" for site, reason in description.failed.items()]
    console.result(description.model_dump(mode="json"), "\n".join(text).rstrip())

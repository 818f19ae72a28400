"""Make a workspace: for a cohort of one's own, or ready to run on a public one."""

from __future__ import annotations

from pathlib import Path

from fedmed.errors import WorkspaceError

PIPELINE = ("dvc.yaml", "prefect.yaml", "prefect.toml")
HOME_IGNORED = """\
# All that this hospital owns stays out of git; DVC versions the encrypted partition.
/*
!/.gitignore
!/records/
"""
RECORDS_IGNORED = "*\n!.gitignore\n"
WORKSPACE_IGNORED = "/coordinator/\n/comparison/\n/.prefect/\n"
DVC_IGNORED = "# Many files, none of them an input of a stage.\n/comparison\n/coordinator/exchange\n"
WHOLLY_IGNORED = "# `fedmed run --cohort` made this workspace; none of it belongs in the git repository around it.\n*\n"


def make_workspace(folder: Path, cohort: str, *, in_git: bool = True) -> list[str]:
    """Make a workspace for a public cohort, or add what one lacks; files that are there are left alone.

    Args:
        folder: where; it is made if there is none.
        cohort: one of :func:`fedmed.template.parameters.presets`.
        in_git: whether the workspace is versioned by the git work tree that it lies in, if it lies in one. If not, git
            is told to ignore all of it, and DVC works without git.

    Returns:
        The names of the files that were written.

    Raises:
        SettingsError: if there is no such preset.
        LineageError: if DVC cannot be set up.
    """
    from fedmed.lineage import initialise
    from fedmed.settings import read_settings
    from fedmed.template.parameters import parameters_for, template

    declaration = f"cohorts/{cohort}.yaml"
    texts = {
        "params.yaml": parameters_for(cohort),
        declaration: template(declaration),
        **{name: template(name) for name in PIPELINE},
        ".dvcignore": DVC_IGNORED,
        ".gitignore": WORKSPACE_IGNORED if in_git else WHOLLY_IGNORED,
    }
    texts["dvc.yaml"] = _without_sources(texts["dvc.yaml"])
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "params.yaml").exists():
        del texts[declaration]
    written = [name for name, text in texts.items() if _write(folder / name, text)]
    for site in read_settings(folder / "params.yaml").federation.sites:
        prepare_home(folder / "sites" / site)
    initialise(folder.resolve(), in_git=in_git)
    return written


def workspace_of(root: Path, cohort: str) -> tuple[Path, list[str]]:
    """The workspace in which `fedmed run --cohort` works: `root` if it is one of this cohort, else the one below it.

    Returns:
        Its folder, and what was written to make it.

    Raises:
        WorkspaceError: if there is another thing in its place.
    """
    from fedmed.workspace import Workspace

    if (root / "params.yaml").is_file() and Workspace(root).cohort.name == cohort:
        return root, []
    folder = root / cohort
    if (folder / "params.yaml").is_file():
        if (found := Workspace(folder).cohort.name) != cohort:
            raise WorkspaceError(f"{folder}: expected a workspace of the cohort {cohort}, found one of {found}")
        return folder, []
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WorkspaceError(
            f"{folder}: expected a workspace of the cohort {cohort}, or nothing, to make one. Run the command in"
            f" another folder, or make a workspace yourself with `fedmed init FOLDER --cohort {cohort}`."
        )
    return folder, make_workspace(folder, cohort, in_git=False)


def prepare_home(home: Path) -> None:
    """A hospital's folder, so that DVC finds what it looks for and git takes none of it."""
    (home / "records").mkdir(parents=True, exist_ok=True)
    _write(home / ".gitignore", HOME_IGNORED)
    _write(home / "records" / ".gitignore", RECORDS_IGNORED)


def _write(path: Path, text: str) -> bool:
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return True


def _without_sources(pipeline: str) -> str:
    """The pipeline for a workspace outside FedMed's own repository: there is no source code for stages to depend on."""
    sources = ("- fedmed", "- flows", "- tasks")
    return "\n".join(line for line in pipeline.split("\n") if not line.strip().startswith(sources))

"""The coordinator's own state of a run: admitted hospitals, and whether a run of this name was finished before."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from fedmed.coordinator.admission import Admissions
from fedmed.errors import WorkspaceError
from fedmed.files import write_atomically
from fedmed.workspace import Workspace


def keep_admissions(workspace: Workspace, admissions: Admissions) -> None:
    """Write who is admitted."""
    write_atomically(workspace.admission_file, admissions.model_dump_json(indent=1).encode() + b"\n")


def read_admissions(workspace: Workspace) -> Admissions:
    """The admissions of the last validation.

    Raises:
        WorkspaceError: if no hospital has been validated yet.
    """
    try:
        return Admissions.model_validate_json(workspace.admission_file.read_bytes())
    except FileNotFoundError:
        raise WorkspaceError("no hospital has been validated yet; run `fedmed validate`") from None
    except ValidationError:
        raise WorkspaceError(f"{workspace.admission_file}: not an admission; run `fedmed validate`") from None


def begin_run(workspace: Workspace, run: str, *, force: bool = False) -> None:
    """Make ready for a run.

    A run that was cut short goes on: what its hospitals have answered stays in the exchange and is not computed again.
    A run that was finished and is asked for again is computed anew, from nothing, and so is any run with `force`.
    """
    finished = _mark(workspace, run)
    if force or finished.exists():
        workspace.exchange().discard(run)
        finished.unlink(missing_ok=True)


def finish_run(workspace: Workspace, run: str) -> None:
    """Remember that a run was finished."""
    write_atomically(_mark(workspace, run), b"")


def is_finished(workspace: Workspace, run: str) -> bool:
    """Whether a run of this name was trained to its end."""
    return _mark(workspace, run).exists()


def forget_reports(workspace: Workspace, run: str) -> None:
    """Drop earlier tests of a run: a test is asked for again only because something in it has changed."""
    for topic in ("invite-test", "report"):
        workspace.exchange().discard(run, topic)


def _mark(workspace: Workspace, run: str) -> Path:
    return workspace.coordinator / "finished" / run

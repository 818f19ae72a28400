"""Who was admitted, as the coordinator remembers it."""

from __future__ import annotations

from pydantic import ValidationError

from fedmed.coordinator.admission import Admissions
from fedmed.coordinator.home import CoordinatorHome
from fedmed.errors import WorkspaceError
from fedmed.files import write_atomically


def keep_admissions(home: CoordinatorHome, admissions: Admissions) -> None:
    """Write who is admitted."""
    write_atomically(home.admission_file, admissions.model_dump_json(indent=1).encode() + b"\n")


def read_admissions(home: CoordinatorHome) -> Admissions:
    """The admissions of the last validation.

    Raises:
        WorkspaceError: if no hospital has been validated yet.
    """
    try:
        return Admissions.model_validate_json(home.admission_file.read_bytes())
    except FileNotFoundError:
        raise WorkspaceError("no hospital has been validated yet; run `fedmed validate`") from None
    except ValidationError:
        raise WorkspaceError(f"{home.admission_file}: not an admission; run `fedmed validate`") from None

"""What of a model is a hospital's own: kept in its folder, used at its predictions, and never sent."""

from __future__ import annotations

from pydantic import ValidationError

from fedmed.errors import WorkspaceError
from fedmed.files import write_atomically
from fedmed.models.bundle import ModelBundle
from fedmed.site.home import SiteHome
from fedmed.typed_yaml import Record


class _Personal(Record):
    """A shift of the intercept, of one model."""

    weights: str
    shift: float


def keep_shift(home: SiteHome, weights: str, shift: float) -> None:
    """Keep the shift of the model whose weights have this SHA-256."""
    kept = _Personal(weights=weights, shift=shift)
    write_atomically(home.models / f"{weights[:16]}.json", kept.model_dump_json(indent=1).encode() + b"\n", mode=0o600)


def shift_for(home: SiteHome, bundle: ModelBundle) -> float | None:
    """The hospital's shift of a model; None if the model was never tested here.

    Raises:
        WorkspaceError: if the hospital's file does not hold one.
    """
    path = home.models / f"{bundle.description.weights[:16]}.json"
    try:
        kept = _Personal.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise WorkspaceError(
            f"{path}: not a hospital's own part of a model; delete it and test the model again"
        ) from None
    return kept.shift if kept.weights == bundle.description.weights else None

"""What of a model is a hospital's own: kept in its folder, used at its predictions, and never sent."""

from __future__ import annotations

import torch
from pydantic import ValidationError

from fedmed.errors import MessageRefused, WorkspaceError
from fedmed.files import write_atomically
from fedmed.models.bundle import ModelBundle, expected_layout
from fedmed.site.home import SiteHome
from fedmed.training.personal import Personal
from fedmed.typed_yaml import Record
from fedmed.weights import Weights, from_bytes, sha256, to_bytes


class _Own(Record):
    """A hospital's shift of one model's outputs, and the digest of its own state where it differs from the global."""

    weights: str
    shift: tuple[float, ...]
    state: str | None


def keep_own(home: SiteHome, weights: str, shared: Weights, own: Personal) -> None:
    """Keep what is a hospital's own of the model whose weights have this SHA-256.

    Args:
        home: the hospital.
        weights: names the global model.
        shared: the global state.
        own: the model as the hospital uses it.
    """
    path = home.models / f"{weights[:16]}.json"
    digest = None
    if any(not torch.equal(own.state[name], shared[name]) for name in shared):
        data = to_bytes(own.state)
        digest = sha256(data)
        write_atomically(path.with_suffix(".safetensors"), data, mode=0o600)
    kept = _Own(weights=weights, shift=own.shift, state=digest)
    write_atomically(path, kept.model_dump_json(indent=1).encode() + b"\n", mode=0o600)


def own_of(home: SiteHome, bundle: ModelBundle) -> Personal | None:
    """A model as the hospital uses it; None if the model was never tested here.

    Raises:
        WorkspaceError: if the hospital's files do not hold one.
    """
    path = home.models / f"{bundle.description.weights[:16]}.json"
    try:
        kept = _Own.model_validate_json(path.read_bytes())
        if kept.weights != bundle.description.weights:
            return None
        if kept.state is None:
            return Personal(dict(bundle.weights), kept.shift)
        data = path.with_suffix(".safetensors").read_bytes()
        if sha256(data) != kept.state:
            raise MessageRefused("its state is another than it names")
        return Personal(from_bytes(data, expected_layout(bundle.description)), kept.shift)
    except FileNotFoundError:
        if path.exists():
            raise WorkspaceError(f"{path}: its {path.stem}.safetensors is gone; test the model again") from None
        return None
    except (ValidationError, MessageRefused):
        raise WorkspaceError(
            f"{path}: not a hospital's own part of a model; delete it and test the model again"
        ) from None

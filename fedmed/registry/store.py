"""The store and the door to it: a folder with `mlflow.db` (SQLite) and `artifacts/`, and MLflow opened on it.

MLflow is imported inside functions, for that takes seconds. Its own migrations make a new store, in 1.7 s; the tables
of its metadata could not be made on SQLite.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed.errors import RegistryError
from fedmed.locks import in_turn

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from fedmed.models.bundle import ModelBundle

DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"
MARKS = {"run": "fedmed.run", "weights": "fedmed.weights", "cohort": "fedmed.cohort"}
NOTE = "mlflow.note.content"  # Markdown, at the head of a page

# No pickle, nothing reported to anybody, and a refused request not quoted in a message: it would be a patient's row.
_SETTINGS = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_SCHEMA_DETAILS": "true",
}


@contextmanager
def opened(tracking: Path, *, create: bool = False) -> Iterator[MlflowClient]:
    """MLflow on this store; what it refuses becomes a RegistryError."""
    if not create and not (tracking / DATABASE).exists():
        raise RegistryError(f"{tracking}: there is no model registry here yet; `fedmed run` makes one")
    os.environ.update(_SETTINGS)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with quietly():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # importing it has set another level
    logging.getLogger("mlflow.utils.requirements_utils").setLevel(logging.ERROR)  # it misses FedMed run from its source
    try:
        yield MlflowClient(tracking_uri=_uri(tracking), registry_uri=_uri(tracking))
    except MlflowException as problem:
        raise RegistryError(f"MLflow on {tracking} refused: {problem.message}") from problem


@contextmanager
def quietly() -> Iterator[None]:
    """MLflow warns of its own type hints, of pandas functions that it still uses, and more; none of it is about us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def only_one(tracking: Path) -> AbstractContextManager[None]:
    """Wait until no other process changes the registry; the lock falls with the process that holds it."""
    return in_turn(tracking / ".lock")


def environment(tracking: Path) -> dict[str, str]:
    """What `mlflow server` and `mlflow models serve` need in their environment to use this store."""
    uri = _uri(tracking)
    # `mlflow models serve` calls uvicorn by its name alone, which must be the one beside this Python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {
        "MLFLOW_TRACKING_URI": uri,
        "MLFLOW_REGISTRY_URI": uri,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "PATH": path,
        **_SETTINGS,
    }


def local_copy(location: str) -> Path:
    """Where the artifacts of a location lie on this machine."""
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact_uri=location))


def marks_of(run: str, bundle: ModelBundle) -> dict[str, str]:
    """The tags by which run, model and version of a release are found again."""
    digest = bundle.description.cohort.digest
    return {MARKS["run"]: run, MARKS["weights"]: bundle.description.weights, MARKS["cohort"]: digest}


def _uri(tracking: Path) -> str:
    return f"sqlite:///{(tracking / DATABASE).resolve()}"

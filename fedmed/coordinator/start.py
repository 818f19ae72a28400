"""Where a run starts: at random weights, or at a registered model."""

from __future__ import annotations

from fedmed import registry
from fedmed.data.cohort import Cohort
from fedmed.errors import SettingsError
from fedmed.models.bundle import ModelBundle
from fedmed.settings import Settings
from fedmed.workspace import Workspace


def start_of(workspace: Workspace) -> ModelBundle | None:
    """The registered model that `training.start` names; None if it names none.

    Raises:
        RegistryError: if there is no such model or version.
        SettingsError: if the name cannot be read, or the model is for other inputs or another network than the run.
    """
    settings = workspace.settings()
    if not settings.training.start:
        return None
    name, _, version = settings.training.start.partition("/")
    bundle = registry.load(workspace.tracking, name, version or "champion")
    check_start(bundle, settings, workspace.cohort())
    return bundle


def check_start(bundle: ModelBundle, settings: Settings, cohort: Cohort) -> None:
    """Whether training can go on from a model.

    Raises:
        SettingsError: if its inputs, target or network are others than the run's.
    """
    described = bundle.description
    if described.cohort.digest != cohort.digest:
        raise SettingsError(
            f"parameters: training.start: {settings.training.start} was trained under another declaration of"
            f" {described.cohort.name}; start from a model of this one"
        )
    if described.network != settings.network:
        raise SettingsError(
            f"parameters: training.start: {settings.training.start} is a {described.network.name} that is built"
            f" otherwise than `network` says; make `network` as it was: {described.network.model_dump_json()}"
        )

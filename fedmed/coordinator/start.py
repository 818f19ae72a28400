"""Where a run starts: at random weights, or at a registered model."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from fedmed import registry
from fedmed.data.cohort import Cohort
from fedmed.errors import SettingsError
from fedmed.gates import Gate, Verdict, fails_if, need
from fedmed.models.bundle import ModelBundle, ModelDescription
from fedmed.settings import Settings


def start_of(settings: Settings, cohort: Cohort, tracking: Path) -> ModelBundle | None:
    """The registered model that `training.start` names; None if it names none.

    Raises:
        RegistryError: if there is no such model or version.
        SettingsError: if the name cannot be read, or the model is for other inputs or another network than the run.
    """
    if not settings.training.start:
        return None
    name, _, version = settings.training.start.partition("/")
    bundle = registry.load(tracking, name, version or "champion")
    check_start(bundle, settings, cohort)
    return bundle


def check_start(bundle: ModelBundle, settings: Settings, cohort: Cohort) -> None:
    """Whether training can go on from a model.

    Raises:
        SettingsError: if its inputs, target or network are others than the run's.
    """
    begun = Begun(bundle.description, settings, cohort)
    need(START, begun, lambda reasons: SettingsError(f"parameters: training.start: {reasons}"))


class Begun(NamedTuple):
    """A model that training is to go on from, and the run."""

    described: ModelDescription
    settings: Settings
    cohort: Cohort


def _same_declaration(that: Begun) -> Verdict:
    return fails_if(
        that.described.cohort.digest != that.cohort.digest,
        f"{that.settings.training.start} was trained under another declaration of {that.described.cohort.name}; start"
        " from a model of this one",
    )


def _same_network(that: Begun) -> Verdict:
    return fails_if(
        that.described.network != that.settings.network,
        f"{that.settings.training.start} is a {that.described.network.name} that is built otherwise than `network`"
        f" says; make `network` as it was: {that.described.network.model_dump_json()}",
    )


START: dict[str, Gate[Begun]] = {"declaration": _same_declaration, "network": _same_network}

"""`params.yaml` as one typed record: every public parameter of a run, gathered from the modules that read them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from fedmed import typed_yaml
from fedmed.aggregation.strategies import AggregationOptions
from fedmed.data.split import SplitOptions
from fedmed.errors import SettingsError
from fedmed.models.networks import ModelOptions
from fedmed.registry import RegistryOptions
from fedmed.training.local import TrainingOptions
from fedmed.training.recalibration import PersonalOptions
from fedmed.typed_yaml import Record

SiteName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class FederationOptions(Record):
    """Who takes part."""

    sites: tuple[SiteName, ...] = Field(min_length=1, description="the hospitals, each a folder under sites/")
    quorum: int = Field(2, ge=1, description="fewest hospitals with which a run, or a round, goes on")
    workers: int = Field(0, ge=0, description="sites that work side by side; 0: as many as there are cores")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("`sites` names a hospital twice")
        if {"coordinator", "everyone"} & set(self.sites):
            raise ValueError("`sites`: 'coordinator' and 'everyone' are taken")
        if self.quorum > len(self.sites):
            raise ValueError(f"`quorum` is {self.quorum}, but there are only {len(self.sites)} sites")
        return self

    @property
    def slots(self) -> int:
        """Number of sites that work side by side."""
        return min(self.workers or os.cpu_count() or 1, len(self.sites))


class PrivacyOptions(Record):
    """What may leave a hospital."""

    minimum_cell: int = Field(11, ge=5, description="smallest count that may leave a hospital; fewer is suppressed")


class EvaluationOptions(Record):
    """How the final model is measured at every hospital."""

    resamples: int = Field(1000, ge=100, le=100_000, description="bootstrap resamples of each interval")
    pooled: bool = Field(False, description="also train on all hospitals' rows together; only where that is lawful")


class Settings(Record):
    """Everything in `params.yaml`."""

    cohort: str = Field(description="the cohort's declaration, a path relative to the workspace")
    federation: FederationOptions
    split: SplitOptions = SplitOptions()
    privacy: PrivacyOptions = PrivacyOptions()
    model: ModelOptions = ModelOptions()
    training: TrainingOptions = TrainingOptions()
    aggregation: AggregationOptions = AggregationOptions()
    personal: PersonalOptions = PersonalOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    registry: RegistryOptions = RegistryOptions()


def read_settings(path: Path) -> Settings:
    """The settings in a `params.yaml`.

    Raises:
        SettingsError: naming every unknown key and every bad value by its path.
    """
    return typed_yaml.read(path, Settings, SettingsError, "parameters")

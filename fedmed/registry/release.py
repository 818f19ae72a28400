"""What goes into the registry, and what comes out of it: a release, what became of it, a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from fedmed.typed_yaml import Record


@dataclass(frozen=True)
class Release:
    """Everything about a federated run that is registered, none of it a patient's.

    Args:
        run: the run's name, derived from its content: the same run has the same name.
        model_folder: a saved :class:`~fedmed.models.bundle.ModelBundle` of this run.
        parameters: the public parameters, nested as in params.yaml.
        rounds: of each round `round`, `participants`, figures such as `train_loss`, and `sites`: hospital → figures.
        admissions: hospital → what left it of its contract: `admitted`, `failed`, …
        evaluation: hospital → model → metric → measurement (or its JSON). `federated` is the model as the hospital uses
            it, with its own shift of the intercept; `global`, where there are shifts, the same without, as it is
            registered; `own`, `pooled` and `majority` or `kaplan_meier` are what it is compared with.
        headline: the metrics that people are shown, the foremost first.
        subgroups: hospital → column → category → metric → measurement, of the federated model.
        lineage: `git_commit`, `parameters_hash`, … and `sites`: hospital → `fingerprint`, `dvc`.
        plots: image files.
        findings: sentences that sum the run up, such as whether federating helped each hospital.
    """

    run: str
    model_folder: Path
    parameters: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]
    admissions: Mapping[str, Mapping[str, Any]]
    evaluation: Mapping[str, Mapping[str, Mapping[str, Any]]]
    lineage: Mapping[str, Any]
    headline: Sequence[str] = field(default=())
    subgroups: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]] = field(default_factory=dict)
    plots: Sequence[Path] = field(default=())
    findings: Sequence[str] = field(default=())


class Registered(Record):
    """What became of a release: `aliases`, `champion` and `reason` as they were decided when it was registered."""

    run: str
    mlflow_run_id: str
    experiment_id: str
    model: str
    version: int
    aliases: tuple[str, ...]
    champion: bool
    reason: str

    @property
    def page(self) -> str:
        """The run's address on MLflow's pages, behind the server's own."""
        return f"/#/experiments/{self.experiment_id}/runs/{self.mlflow_run_id}"


class Version(Record):
    """A registered model version as it stands now."""

    model: str
    version: int
    aliases: tuple[str, ...]
    run: str
    mlflow_run_id: str
    experiment_id: str
    created: int = Field(description="milliseconds since 1970, UTC")
    decision: str = Field(description="as it was registered: `champion: ` or `challenger: `, and why")
    metrics: dict[str, float]

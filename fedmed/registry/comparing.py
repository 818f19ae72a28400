"""A comparison of strategies in MLflow: one run for it, and below it one run a variant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed import __version__
from fedmed.registry.figures import flat, plain, points, tested, validated
from fedmed.registry.release import Release
from fedmed.registry.run import METRICS_A_BATCH, PARAMS_A_BATCH, batches, experiment_named
from fedmed.registry.store import NOTE, only_one, opened
from fedmed.typed_yaml import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

COMPARISON, VARIANT, PARENT = "fedmed.comparison", "fedmed.variant", "mlflow.parentRunId"
ALL = "all"  # the mark of the comparison itself, where a variant has its run's name


@dataclass(frozen=True)
class Trial:
    """One variant as it is logged.

    Args:
        name: such as `scaffold-2026`.
        strategy: its strategy.
        seed: its seed.
        release: the run's parameters, rounds and reports; its model and lineage are not looked at.
        chosen: the round that was chosen.
        figures: more figures, such as bytes.
        curves: more figures by round: name → round → value.
    """

    name: str
    strategy: str
    seed: int
    release: Release
    chosen: int
    figures: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparisonRelease:
    """A comparison as it is logged, none of it a patient's.

    Args:
        name: as it was given.
        digest: of all that decides its figures; the same comparison has the same.
        note: Markdown, at the head of its page.
        parameters: what was compared.
        figures: of the strategies, such as `fedavg/auroc`.
        trials: its variants.
        files: the tables and results.
        plots: image files.
    """

    name: str
    digest: str
    note: str
    parameters: Mapping[str, str]
    figures: Mapping[str, float]
    trials: Sequence[Trial]
    files: Sequence[Path] = ()
    plots: Sequence[Path] = ()


class RegisteredComparison(Record):
    """Where a comparison stands in MLflow."""

    comparison: str
    experiment_id: str
    mlflow_run_id: str
    variants: dict[str, str]

    @property
    def page(self) -> str:
        """The run's address on MLflow's pages, behind the server's own."""
        return f"/#/experiments/{self.experiment_id}/runs/{self.mlflow_run_id}"


def register_comparison(release: ComparisonRelease, experiment: str, tracking: Path) -> RegisteredComparison:
    """Write a comparison into MLflow: a run "compare <name>", and one run a variant below it.

    Args:
        release: the comparison.
        experiment: the name of MLflow's experiment, made if there is none.
        tracking: folder of the store; made if there is none.

    Raises:
        RegistryError: MLflow refused.

    Guarantees:
        - Idempotent: the same comparison again adds nothing and gets the same answer.
        - Killed anywhere, the next call completes what is missing.
        - No model version is made, and no alias is moved.
    """
    with only_one(tracking), opened(tracking, create=True) as client:
        number = experiment_named(client, experiment, tracking)
        parent = _run(client, number, f"compare {release.name}", {**_marks(release, ALL), NOTE: release.note})
        children = {}
        for trial in release.trials:
            of_trial = {
                **_marks(release, trial.release.run),
                PARENT: parent.info.run_id,
                "fedmed.strategy": trial.strategy,
                "fedmed.seed": str(trial.seed),
            }
            child = _run(client, number, trial.name, of_trial)
            if child.info.status != "FINISHED":
                _log_trial(client, child, trial)
                client.set_terminated(child.info.run_id, "FINISHED")
            children[trial.name] = child.info.run_id
        if parent.info.status != "FINISHED":
            _log_parent(client, parent, release)
            client.set_terminated(parent.info.run_id, "FINISHED")
        return RegisteredComparison(
            comparison=release.name, experiment_id=number, mlflow_run_id=parent.info.run_id, variants=children
        )


def _marks(release: ComparisonRelease, variant: str) -> dict[str, str]:
    return {COMPARISON: release.digest, VARIANT: variant}


def _run(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> Run:
    """The run of the comparison that has these marks, or a new one."""
    wanted = " and ".join(f"tags.`{key}` = '{tags[key]}'" for key in (COMPARISON, VARIANT))
    if found := client.search_runs([experiment], wanted, max_results=1):
        return client.get_run(found[0].info.run_id)
    about = {"mlflow.source.name": f"fedmed {__version__}", "mlflow.source.type": "JOB", "mlflow.user": "fedmed"}
    return client.create_run(experiment, tags={**about, **tags}, run_name=name)


def _log_trial(client: MlflowClient, run: Run, trial: Trial) -> None:
    release = trial.release
    figures = {**validated(release, trial.chosen), **tested(release), **trial.figures}
    curves = [
        *points(release),
        *((name, value, step) for name, curve in trial.curves.items() for step, value in curve.items()),
    ]
    _log(client, run, dict(flat(release.parameters)), [*curves, *((k, v, trial.chosen) for k, v in figures.items())])
    client.log_dict(run.info.run_id, plain(release.evaluation), "evaluation.json")


def _log_parent(client: MlflowClient, run: Run, release: ComparisonRelease) -> None:
    _log(client, run, release.parameters, [(key, value, 0) for key, value in release.figures.items()])
    for folder, paths in ((None, release.files), ("plots", release.plots)):
        for path in paths:
            client.log_artifact(run.info.run_id, str(path), folder)


def _log(
    client: MlflowClient, run: Run, parameters: Mapping[str, str], figures: Sequence[tuple[str, float, int]]
) -> None:
    """Parameters and figures; the same again change nothing, because they have the moment at which the run began."""
    from mlflow.entities import Metric, Param

    for batch in batches([Param(key, value) for key, value in parameters.items()], PARAMS_A_BATCH):
        client.log_batch(run.info.run_id, params=batch)
    told: list[Metric] = [Metric(key, value, run.info.start_time, step) for key, value, step in figures]
    for batch in batches(told, METRICS_A_BATCH):
        client.log_batch(run.info.run_id, metrics=batch)

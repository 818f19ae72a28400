"""A release as a run of MLflow's: parameters, curves, figures, lineage, inputs and files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmed import __version__
from fedmed.registry.figures import flat, participants, plain, points, sites_of, tested, validated
from fedmed.registry.page import page, summary
from fedmed.registry.release import Release
from fedmed.registry.store import ARTIFACTS, MARKS, NOTE

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

    from fedmed.models.bundle import ModelBundle

METRICS_A_BATCH = 1000  # MLflow's own limit
PARAMS_A_BATCH = 100


def experiment_named(client: MlflowClient, name: str, tracking: Path) -> str:
    """The number of the experiment, which is made if there is none."""
    if (known := client.get_experiment_by_name(name)) is not None:
        return str(known.experiment_id)
    # MLflow's pages begin with what is for language models; the second tag says that this experiment is not.
    note = "Federated runs of FedMed. No patient's record is in here, only what left the hospitals."
    about = {NOTE: note, "mlflow.experimentKind": "custom_model_development"}
    location = str((tracking / ARTIFACTS).resolve())
    return str(client.create_experiment(name, artifact_location=location, tags=about))


def run_of(
    client: MlflowClient, experiment: str, release: Release, bundle: ModelBundle, marks: Mapping[str, str]
) -> Run:
    """The run of this release: the one that has its marks, or a new one."""
    wanted = " and ".join(f"tags.`{MARKS[key]}` = '{marks[MARKS[key]]}'" for key in ("run", "weights"))
    if found := client.search_runs([experiment], wanted, max_results=1):
        return client.get_run(found[0].info.run_id)
    tags = {
        **marks,
        "mlflow.source.name": f"fedmed {__version__}",
        "mlflow.source.type": "JOB",
        "mlflow.user": "fedmed",
        NOTE: summary(release, bundle),
        **_lineage_tags(release),
    }
    rounds, sites = len(release.rounds), len(sites_of(release))
    name = f"{bundle.description.cohort.name} · {sites} hospitals · {rounds} rounds · {release.run[:8]}"
    return client.create_run(experiment, tags=tags, run_name=name)


def log(client: MlflowClient, run: Run, logged: LoggedModel, release: Release, bundle: ModelBundle) -> None:
    """Everything about the run; logging it twice changes nothing."""
    from mlflow.entities import Metric, Param

    run_id, moment = run.info.run_id, run.info.start_time
    params = [Param(key, value) for key, value in flat(release.parameters)]
    for batch in batches(params, PARAMS_A_BATCH):
        client.log_batch(run_id, params=batch)
    curves = [Metric(key, value, moment, step) for key, value, step in points(release)]
    final = {**validated(release, bundle.description.round), **tested(release)}
    figures = [
        Metric(key, value, moment, bundle.description.round, model_id=logged.model_id, run_id=run_id)
        for key, value in final.items()
    ]
    for metrics in batches([*curves, *figures], METRICS_A_BATCH):
        client.log_batch(run_id, metrics=metrics)
    client.log_inputs(run_id, _datasets(release))
    client.log_dict(run_id, plain(release.admissions), "admissions.json")
    client.log_dict(run_id, plain(release.evaluation), "evaluation.json")
    if release.subgroups:
        client.log_dict(run_id, plain(release.subgroups), "subgroups.json")
    client.log_text(run_id, page(release, bundle), "evaluation.html")
    client.log_dict(run_id, {**plain(release.lineage), "participants": participants(release)}, "lineage.json")
    for plot in release.plots:
        client.log_artifact(run_id, str(plot), "plots")


def _datasets(release: Release) -> list[Any]:
    """Every hospital's partition as MLflow shows inputs: a name and a fingerprint, nothing that could be opened."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for site, entry in release.lineage.get("sites", {}).items():
        digest = str(entry.get("fingerprint") or entry.get("dvc") or "")[:36]  # MLflow holds no more
        source = json.dumps({"at": f"hospital {site}", **plain(entry)})
        if digest:
            dataset = Dataset(site, digest, source_type="encrypted partition", source=source)
            inputs.append(DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training, validation, test")]))
    return inputs


def _lineage_tags(release: Release) -> dict[str, str]:
    """What can be searched for; all of it is in `lineage.json`."""
    tags = {f"lineage.{key}": value for key, value in release.lineage.items() if isinstance(value, str)}
    for site, entry in release.lineage.get("sites", {}).items():
        tags[f"lineage.{site}"] = str(entry.get("fingerprint") or entry.get("dvc") or "")[:16]
    if commit := tags.pop("lineage.git_commit", ""):
        tags["mlflow.source.git.commit"] = commit
    return tags


def batches(entries: Sequence[Any], size: int) -> Iterable[list[Any]]:
    """The entries in lists of at most `size`."""
    return (list(entries[start : start + size]) for start in range(0, len(entries), size))

"""The one door to MLflow: a federated run, its model and how it was judged, as a run and a version in the registry.

The store is a folder: `mlflow.db` (SQLite) and `artifacts/`. MLflow is imported inside functions, for that takes
seconds. Its own migrations make a new store, in 1.7 s; the tables of its metadata could not be made on SQLite.
"""

from __future__ import annotations

import fcntl
import html
import importlib.metadata
import json
import logging
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fedmed import __version__
from fedmed.errors import RegistryError
from fedmed.evaluation.measurement import Measurement, number, texts
from fedmed.typed_yaml import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.models import ModelSignature

    from fedmed.data.cohort import Cohort
    from fedmed.models.bundle import ModelBundle

DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"
CHAMPION = "champion"
CHALLENGER = "challenger"
FEDERATED = "federated"
HIGHER_IS_BETTER = {
    "validation_loss": False,
    "validation_brier": False,
    "validation_accuracy": True,
    "validation_auroc": True,
}
_SERVING_CODE = Path(__file__).parent / "serving" / "mlflow_model.py"
_SERVING_NEEDS = ("mlflow", "numpy", "pandas", "pydantic", "PyYAML", "safetensors", "torch")
_HEADLINES = ("rows", "auroc", "accuracy", "brier", "calibration_slope")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_METRICS_A_BATCH = 1000  # MLflow's own limit
_PARAMS_A_BATCH = 100
_MARKS = {"run": "fedmed.run", "weights": "fedmed.weights", "cohort": "fedmed.cohort"}
_NOTE = "mlflow.note.content"  # Markdown, at the head of a page
_DECISION, _AGAINST, _DONE = "fedmed.decision", "fedmed.compared_with", "fedmed.registered"


class ChampionRule(Record):
    """When a new version takes the place of the champion.

    Both are judged by the validation rows, at the round that each chose: test rows that decide which model is served
    would no longer be a test, and their figures would rise with every release. Hospitals count alike, so that a small
    one is not outvoted, and none may pay for the others: the mean alone would let one of them get much worse.

    Figures are compared as they were recorded. If a hospital's records have changed in between they are of other rows,
    and the reason says so. A hospital where only one of the two was validated is left out; if there is none in common,
    or the cohort is declared otherwise, a person has to decide (:func:`promote`).
    """

    metric: Literal["validation_loss", "validation_brier", "validation_accuracy", "validation_auroc"] = Field(
        "validation_loss", description="what champion and challenger are compared by, as a mean over hospitals"
    )
    minimum_gain: float = Field(0.0, ge=0, description="the mean must be better by more than this")
    largest_loss_at_a_site: float = Field(0.05, ge=0, description="no hospital may get worse by more than this")


class RegistryOptions(Record):
    """Where a run is registered, and when its model becomes champion."""

    model: str = Field("heart-disease", pattern=f"^{_NAME.pattern}$", description="name of the registered model")
    experiment: str = Field("fedmed", pattern=f"^{_NAME.pattern}$", description="MLflow experiment that holds the runs")
    champion: ChampionRule = Field(ChampionRule(), description="when a new version becomes champion")


# No pickle, nothing reported to anybody, and a refused request not quoted in a message: it would be a patient's row.
_SETTINGS = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_SCHEMA_DETAILS": "true",
}


@dataclass(frozen=True)
class Release:
    """Everything about a federated run that is registered, none of it a patient's.

    Args:
        run: the run's name, derived from its content: the same run has the same name.
        model_folder: a saved :class:`~fedmed.models.bundle.ModelBundle` of this run.
        parameters: the public parameters, nested as in params.yaml.
        rounds: of each round `round`, `participants`, figures such as `train_loss`, and `sites`: hospital → figures.
        admissions: hospital → what left it of its contract: `admitted`, `failed`, …
        evaluation: hospital → model (`federated`, `own`, `majority`, `pooled`) → metric → measurement (or its JSON).
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


def register(release: Release, options: RegistryOptions, tracking: Path) -> Registered:
    """Write a release into MLflow and decide whether its model becomes champion.

    Args:
        release: what to register.
        options: the model's name and the rule for its champion.
        tracking: folder of the store; made if there is none.

    Returns:
        The version, with the alias `challenger` and, by the rule or if there was none, `champion`.

    Raises:
        RegistryError: MLflow refused, or the release contradicts itself.
        WorkspaceError: there is no model in its folder.
        MessageRefused: the weights are not those that its description names.

    Guarantees:
        - Idempotent: a run with the same name and weights is registered once, and asked for again gets the same answer.
        - Killed anywhere, the next call completes what is missing: one MLflow run, one version.
        - Two calls at once follow one another, so that each compares with the champion that it replaces.
        - Nothing is pickled, and what was suppressed is not logged as a figure.
    """
    from fedmed.models.bundle import load_bundle

    bundle = load_bundle(release.model_folder)
    if bundle.description.run != release.run or not _NAME.fullmatch(release.run):
        raise RegistryError(f"release {release.run!r}: its folder holds the model of run {bundle.description.run!r}")
    with _only_one(tracking), _client(tracking, create=True) as client:
        marks = _marks(release.run, bundle)
        experiment = _experiment(client, options.experiment, tracking)
        run = _run(client, experiment, release, bundle, marks)
        logged = _logged_model(client, run, release, options, bundle)
        if run.info.status != "FINISHED":
            _log(client, run, logged, release, bundle)
            client.set_terminated(run.info.run_id, "FINISHED")
        version = _version(client, options, release, bundle, run, logged, marks)
        return _decided(client, options, version, run)


def models(tracking: Path) -> list[Version]:
    """Every version of every model in the store, newest first; none if there is no store yet."""
    if not (tracking / DATABASE).exists():
        return []
    with _client(tracking) as client:
        numbers = [(found.name, found.version) for found in client.search_model_versions()]
        versions = [_described(client, client.get_model_version(*number_)) for number_ in numbers]
        return sorted(versions, key=lambda entry: (-entry.created, entry.model, -entry.version))


def promote(tracking: Path, model: str, version: int) -> Version:
    """Make a version champion by hand, whatever the rule says.

    Raises:
        RegistryError: there is no such version.
    """
    with _only_one(tracking), _client(tracking) as client:
        found = _found(client, model, str(version))
        before = _champion(client, model)
        client.set_model_version_tag(model, found.version, "fedmed.promoted_by_hand", f"in place of version {before}")
        client.set_registered_model_alias(model, CHAMPION, found.version)
        return _described(client, client.get_model_version(model, found.version))


def load(tracking: Path, model: str, alias_or_version: str = CHAMPION) -> ModelBundle:
    """The bundle behind an alias or a version's number.

    Raises:
        RegistryError: there is no such model, or its files are not what was registered.

    Guarantees:
        Nothing is unpickled. The weights are those whose SHA-256 stands in the registry.
    """
    from fedmed.models.bundle import load_bundle

    with _client(tracking) as client:
        found = _found(client, model, alias_or_version)
        bundle = load_bundle(_local(client.get_model_version_download_uri(model, found.version)) / "artifacts")
    if bundle.description.weights != found.tags.get(_MARKS["weights"]):
        raise RegistryError(f"{model} version {found.version}: its weights are not those that were registered")
    return bundle


def environment(tracking: Path) -> dict[str, str]:
    """What `mlflow server` and `mlflow models serve` need in their environment to use this store."""
    uri = _uri(tracking)
    # `mlflow models serve` calls uvicorn by its name alone, which must be the one beside this Python.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {"MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri, "PATH": path, **_SETTINGS}


def better(
    rule: ChampionRule, challenger: Mapping[str, float], champion: Mapping[str, float], version: int
) -> tuple[bool, str]:
    """Whether a challenger takes the champion's place, and why, in a sentence.

    Args:
        rule: the metric and its bounds.
        challenger: hospital → the metric on its validation rows.
        champion: the same of version `version`.
        version: the champion's number, for the sentence.

    >>> better(ChampionRule(), {"a": 0.40, "b": 0.30}, {"a": 0.45, "b": 0.31}, 1)
    (True, 'mean validation_loss over 2 hospitals is .350, better by .030 than .380 of version 1')
    >>> better(ChampionRule(), {"a": 0.40, "b": 0.30}, {"a": 0.60, "b": 0.20}, 1)[1].partition(", but ")[2]
    'b gets worse by .100 (at most .050)'
    """
    common = sorted(challenger.keys() & champion.keys())
    if not common:
        return False, f"version {version} has no {rule.metric} at a hospital that this one was validated at"
    sign = 1 if HIGHER_IS_BETTER[rule.metric] else -1
    gain = {site: sign * (challenger[site] - champion[site]) for site in common}
    new, old = (math.fsum(figures[site] for site in common) / len(common) for figures in (challenger, champion))
    mean, worst = sign * (new - old), min(gain, key=gain.__getitem__)
    hospitals = f"{len(common)} hospital{'s' if len(common) > 1 else ''}"
    said = f"mean {rule.metric} over {hospitals} is {number(new)}"
    than = f"than {number(old)} of version {version}"
    if not mean > rule.minimum_gain:
        change = (
            "no better" if mean == 0 else f"worse by {number(-mean)}" if mean < 0 else f"better by only {number(mean)}"
        )
        return False, f"{said}, {change} {than} (a gain over {number(rule.minimum_gain)} is asked for)"
    said = f"{said}, better by {number(mean)} {than}"
    if -gain[worst] > rule.largest_loss_at_a_site:
        limit = number(rule.largest_loss_at_a_site)
        return False, f"{said}, but {worst} gets worse by {number(-gain[worst])} (at most {limit})"
    return True, said


@contextmanager
def _client(tracking: Path, *, create: bool = False) -> Iterator[MlflowClient]:
    """MLflow on this store; what it refuses becomes a RegistryError."""
    if not create and not (tracking / DATABASE).exists():
        raise RegistryError(f"{tracking}: there is no model registry here yet; `fedmed run` makes one")
    os.environ.update(_SETTINGS)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with _quietly():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # importing it has set another level
    logging.getLogger("mlflow.utils.requirements_utils").setLevel(logging.ERROR)  # it misses FedMed run from its source
    try:
        yield MlflowClient(tracking_uri=_uri(tracking), registry_uri=_uri(tracking))
    except MlflowException as problem:
        raise RegistryError(f"MLflow on {tracking} refused: {problem.message}") from problem


@contextmanager
def _quietly() -> Iterator[None]:
    """MLflow warns of its own type hints, of pandas functions that it still uses, and more; none of it is about us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _only_one(tracking: Path) -> Iterator[None]:
    """Wait until no other process changes the registry; the lock falls with the process that holds it."""
    tracking.mkdir(parents=True, exist_ok=True)
    with (tracking / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _uri(tracking: Path) -> str:
    return f"sqlite:///{(tracking / DATABASE).resolve()}"


def _local(location: str) -> Path:
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact_uri=location))


def _marks(run: str, bundle: ModelBundle) -> dict[str, str]:
    """The tags by which run, model and version of a release are found again."""
    digest = bundle.description.cohort.digest
    return {_MARKS["run"]: run, _MARKS["weights"]: bundle.description.weights, _MARKS["cohort"]: digest}


def _experiment(client: MlflowClient, name: str, tracking: Path) -> str:
    if (known := client.get_experiment_by_name(name)) is not None:
        return str(known.experiment_id)
    # MLflow's pages begin with what is for language models; the second tag says that this experiment is not.
    note = "Federated runs of FedMed. No patient's record is in here, only what left the hospitals."
    about = {_NOTE: note, "mlflow.experimentKind": "custom_model_development"}
    location = str((tracking / ARTIFACTS).resolve())
    return str(client.create_experiment(name, artifact_location=location, tags=about))


def _run(client: MlflowClient, experiment: str, release: Release, bundle: ModelBundle, marks: Mapping[str, str]) -> Run:
    wanted = " and ".join(f"tags.`{_MARKS[key]}` = '{marks[_MARKS[key]]}'" for key in ("run", "weights"))
    if found := client.search_runs([experiment], wanted, max_results=1):
        return client.get_run(found[0].info.run_id)
    tags = {
        **marks,
        "mlflow.source.name": f"fedmed {__version__}",
        "mlflow.source.type": "JOB",
        "mlflow.user": "fedmed",
        _NOTE: _summary(release, bundle),
        **_lineage_tags(release),
    }
    rounds, sites = len(release.rounds), len(_sites(release))
    name = f"{bundle.description.cohort.name} · {sites} hospitals · {rounds} rounds · {release.run[:8]}"
    return client.create_run(experiment, tags=tags, run_name=name)


def _logged_model(
    client: MlflowClient, run: Run, release: Release, options: RegistryOptions, bundle: ModelBundle
) -> LoggedModel:
    """The run's model in MLflow's own format; one whose files were not written to the end is made anew."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    run_id, experiment = run.info.run_id, run.info.experiment_id
    for known in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        if known.status == LoggedModelStatus.READY:
            return known
        client.delete_logged_model(known.model_id)
    description = bundle.description
    made = client.create_logged_model(
        experiment,
        name=options.model,
        source_run_id=run_id,
        tags=_marks(release.run, bundle),
        params={"network": description.network.name, "round": str(description.round)},
        model_type="federated",
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        _save(folder, release.model_folder, description.cohort, run_id, made.model_id)
        client.log_model_artifacts(made.model_id, str(folder))
    client.log_outputs(run_id, [LoggedModelOutput(made.model_id, step=description.round)])
    return client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)


def _save(folder: Path, bundle_folder: Path, cohort: Cohort, run_id: str, model_id: str) -> None:
    """Write MLflow's model folder: our code file, the two files of the bundle, signature, example and requirements."""
    from fedmed.models.bundle import DESCRIPTION_FILE, WEIGHTS_FILE
    from fedmed.serving.prediction import example

    with _quietly():
        from mlflow.models import Model
        from mlflow.pyfunc import save_model

        save_model(
            folder,
            python_model=str(_SERVING_CODE),
            artifacts={
                "description": str(bundle_folder / DESCRIPTION_FILE),
                "weights": str(bundle_folder / WEIGHTS_FILE),
            },
            signature=_signature(cohort),
            input_example=example(cohort),
            # Named, or MLflow would import the model in another process to find them out.
            pip_requirements=[f"fedmed-flows=={__version__}", *(_pinned(name) for name in _SERVING_NEEDS)],
            mlflow_model=Model(run_id=run_id, model_id=model_id),
        )


def _signature(cohort: Cohort) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    def spec(name: str) -> ColSpec:
        column = cohort.columns[name]
        kind = DataType.string if column.type == "category" else DataType.double
        return ColSpec(kind, name, required=column.missing == "refuse")

    answers = [ColSpec(DataType.double, "probability", required=False), ColSpec(DataType.string, "reason")]
    return ModelSignature(inputs=Schema([*map(spec, cohort.columns)]), outputs=Schema([*answers]))


def _pinned(package: str) -> str:
    return f"{package}=={importlib.metadata.version(package).partition('+')[0]}"


def _log(client: MlflowClient, run: Run, logged: LoggedModel, release: Release, bundle: ModelBundle) -> None:
    """Everything about the run; logging it twice changes nothing."""
    from mlflow.entities import Metric, Param

    run_id, moment = run.info.run_id, run.info.start_time
    params = [Param(key, value) for key, value in _flat(release.parameters)]
    for batch in _batches(params, _PARAMS_A_BATCH):
        client.log_batch(run_id, params=batch)
    curves = [Metric(key, value, moment, step) for key, value, step in _curves(release)]
    final = {**_validated(release, bundle.description.round), **_tested(release)}
    figures = [
        Metric(key, value, moment, bundle.description.round, model_id=logged.model_id, run_id=run_id)
        for key, value in final.items()
    ]
    for metrics in _batches([*curves, *figures], _METRICS_A_BATCH):
        client.log_batch(run_id, metrics=metrics)
    client.log_inputs(run_id, _datasets(release))
    client.log_dict(run_id, _plain(release.admissions), "admissions.json")
    client.log_dict(run_id, _plain(release.evaluation), "evaluation.json")
    client.log_text(run_id, _page(release, bundle), "evaluation.html")
    client.log_dict(run_id, {**_plain(release.lineage), "participants": _participants(release)}, "lineage.json")
    for plot in release.plots:
        client.log_artifact(run_id, str(plot), "plots")


def _version(
    client: MlflowClient,
    options: RegistryOptions,
    release: Release,
    bundle: ModelBundle,
    run: Run,
    logged: LoggedModel,
    marks: Mapping[str, str],
) -> ModelVersion:
    name, run_id = options.model, run.info.run_id
    if not client.search_registered_models(f"name = '{name}'"):
        cohort = bundle.description.cohort
        about = f"{cohort.title or cohort.name}: the probability of `{cohort.target.name}`."
        client.create_registered_model(name, description=f"{about}\n\n{_HOW_TO_USE.format(name=name)}")
    if found := client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        return client.get_model_version(name, found[0].version)
    made = client.create_model_version(
        name,
        source=logged.artifact_location,  # a URI of the model itself would be looked up in MLflow's global store
        run_id=run_id,
        tags=dict(marks),
        description=_summary(release, bundle),
        model_id=logged.model_id,
    )
    link = json.dumps([{"name": name, "version": str(made.version)}])
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": link})  # MLflow's pages look for it here
    return client.get_model_version(name, made.version)


def _decided(client: MlflowClient, options: RegistryOptions, version: ModelVersion, run: Run) -> Registered:
    """Decide on the champion once, write the decision down, then move the aliases: a kill in between is made good."""
    name, number_ = options.model, str(version.version)
    tags = version.tags
    if _DONE not in tags:
        holder = _champion(client, name)
        if _DECISION not in tags or holder not in (tags[_AGAINST], number_):
            champion, reason = _judged(client, options, run, holder)
            tags = {_AGAINST: holder, _DECISION: f"{CHAMPION if champion else CHALLENGER}: {reason}"}
            client.update_model_version(name, number_, f"**{tags[_DECISION]}**\n\n{run.data.tags[_NOTE]}")
            for key, value in tags.items():
                client.set_model_version_tag(name, number_, key, value)
        newest = max(int(entry.version) for entry in client.search_model_versions(f"name = '{name}'"))
        if newest == int(number_):
            client.set_registered_model_alias(name, CHALLENGER, number_)
        if tags[_DECISION].startswith(CHAMPION):
            client.set_registered_model_alias(name, CHAMPION, number_)
        client.set_model_version_tag(name, number_, _DONE, "yes")
    decision, _, reason = tags[_DECISION].partition(": ")
    return Registered(
        run=version.tags[_MARKS["run"]],
        mlflow_run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        model=name,
        version=int(number_),
        aliases=(CHALLENGER, CHAMPION) if decision == CHAMPION else (CHALLENGER,),
        champion=decision == CHAMPION,
        reason=reason,
    )


def _judged(client: MlflowClient, options: RegistryOptions, run: Run, holder: str) -> tuple[bool, str]:
    if not holder:
        return True, "there was no champion yet"
    other = client.get_run(str(client.get_model_version(options.model, holder).run_id))
    ours = client.get_run(run.info.run_id)
    if ours.data.tags.get(_MARKS["cohort"]) != other.data.tags.get(_MARKS["cohort"]):
        return False, f"its cohort is declared otherwise than that of version {holder}: a person has to decide"
    metric = options.champion.metric
    champion, reason = better(options.champion, _at_sites(ours, metric), _at_sites(other, metric), int(holder))
    before, now = _fingerprints(other), _fingerprints(ours)
    changed = sorted(site for site in before.keys() & now.keys() if before[site] != now[site])
    return champion, reason + (f"; since then the records of {', '.join(changed)} have changed" if changed else "")


def _at_sites(run: Run, metric: str) -> dict[str, float]:
    """Hospital → the metric on its validation rows, at the round that the run chose."""
    parts = {tuple(key.split("/")): value for key, value in run.data.metrics.items()}
    wanted = ("validation", metric.removeprefix("validation_"))
    return {key[1]: value for key, value in parts.items() if len(key) == 3 and (key[0], key[2]) == wanted}


def _fingerprints(run: Run) -> dict[str, str]:
    entries = run.inputs.dataset_inputs if run.inputs else []
    return {entry.dataset.name: entry.dataset.digest for entry in entries}


def _champion(client: MlflowClient, model: str) -> str:
    """The champion's number, or an empty text."""
    return str(client.get_registered_model(model).aliases.get(CHAMPION, ""))


def _found(client: MlflowClient, model: str, alias_or_version: str) -> ModelVersion:
    known = client.search_registered_models(f"name = '{model}'") if _NAME.fullmatch(model) else []
    if not known:
        names = ", ".join(entry.name for entry in client.search_registered_models()) or "none"
        raise RegistryError(f"there is no registered model {model!r}; known: {names}")
    number_ = known[0].aliases.get(alias_or_version, alias_or_version)
    versions = {str(entry.version) for entry in client.search_model_versions(f"name = '{model}'")}
    if str(number_) not in versions:
        aliases = ", ".join(sorted(known[0].aliases)) or "none"
        numbers = ", ".join(sorted(versions, key=int)) or "none"
        raise RegistryError(f"{model} has no {alias_or_version!r}; versions: {numbers}; aliases: {aliases}")
    return client.get_model_version(model, str(number_))


def _described(client: MlflowClient, version: ModelVersion) -> Version:
    run = client.get_run(str(version.run_id))
    shown = {key: value for key, value in run.data.metrics.items() if key.startswith(("validation/", "test"))}
    return Version(
        model=version.name,
        version=int(version.version),
        aliases=tuple(sorted(version.aliases)),
        run=version.tags.get(_MARKS["run"], ""),
        mlflow_run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        created=int(version.creation_timestamp),
        decision=version.tags.get(_DECISION, ""),
        metrics=dict(sorted(shown.items())),
    )


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`{"training": {"rounds": 50}}` → `training.rounds`, `50`."""
    for key, value in parameters.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False)


def _batches(entries: Sequence[Any], size: int) -> Iterable[list[Any]]:
    return (list(entries[start : start + size]) for start in range(0, len(entries), size))


def _figures(record: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a record, the round's own and booleans apart."""
    numbers = {key: value for key, value in record.items() if type(value) in (int, float) and key != "round"}
    return {key: float(value) for key, value in numbers.items() if math.isfinite(value)}


def _curves(release: Release) -> Iterator[tuple[str, float, int]]:
    """Every figure of every round: `validation_loss` over all hospitals, `cleveland/validation_loss` of one."""
    for record in release.rounds:
        step = int(record["round"])
        yield "participants", float(len(record.get("participants", ()))), step
        yield from ((key, value, step) for key, value in _figures(record).items())
        for site, figures in record.get("sites", {}).items():
            yield from ((f"{site}/{key}", value, step) for key, value in _figures(figures).items())


def _validated(release: Release, chosen: int) -> dict[str, float]:
    """`validation/cleveland/loss` of the round that was kept: MLflow's tables show the last of a curve."""
    told = {"validation/round": float(chosen)}
    for record in (record for record in release.rounds if int(record["round"]) == chosen):
        for place, figures in {"": record, **record.get("sites", {})}.items():
            for key, value in _figures(figures).items():
                if key.startswith("validation_"):
                    told["/".join(filter(None, ("validation", place, key.removeprefix("validation_"))))] = value
    return told


def _tested(release: Release) -> dict[str, float]:
    """`test/cleveland/auroc` and `test/mean/auroc` of the federated model, `test own/mean/auroc` of another."""
    told = {f"test/{site}/{metric}": value for site, metric, value in _values(release, FEDERATED)}
    for model in _models(release):
        group = "test" if model == FEDERATED else f"test {model}"
        told |= {f"{group}/mean/{metric}": value for metric, value in _means(release, model).items()}
    return told


def _models(release: Release) -> list[str]:
    return list(dict.fromkeys(model for of_models in release.evaluation.values() for model in of_models))


def _values(release: Release, model: str) -> Iterator[tuple[str, str, float]]:
    """Hospital, metric and value, where there is a value."""
    for site, of_models in release.evaluation.items():
        for metric, entry in of_models.get(model, {}).items():
            if (value := _measurement(entry).value) is not None:
                yield site, metric, value


def _means(release: Release, model: str) -> dict[str, float]:
    """Metric → its mean over hospitals, where all of them tell it: over some it would be of other patients."""
    by_metric: dict[str, list[float]] = {}
    for _, metric, value in _values(release, model):
        by_metric.setdefault(metric, []).append(value)
    by_metric.pop("rows", None)
    sites = len(release.evaluation)
    return {metric: math.fsum(values) / sites for metric, values in by_metric.items() if len(values) == sites}


def _datasets(release: Release) -> list[Any]:
    """Every hospital's partition as MLflow shows inputs: a name and a fingerprint, nothing that could be opened."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for site, entry in release.lineage.get("sites", {}).items():
        digest = str(entry.get("fingerprint") or entry.get("dvc") or "")[:36]  # MLflow holds no more
        source = json.dumps({"at": f"hospital {site}", **_plain(entry)})
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


def _participants(release: Release) -> dict[str, list[str]]:
    return {str(record["round"]): list(record.get("participants", ())) for record in release.rounds}


def _sites(release: Release) -> list[str]:
    """The hospitals that took part in any round."""
    return sorted({site for sites in _participants(release).values() for site in sites})


def _measurement(entry: Any) -> Measurement:
    return entry if isinstance(entry, Measurement) else Measurement.model_validate(entry)


def _plain(content: Any) -> Any:
    """Records as JSON."""
    if hasattr(content, "model_dump"):
        return content.model_dump(mode="json")
    if isinstance(content, Mapping):
        return {str(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple | set | frozenset):
        return [_plain(value) for value in content]
    return content if isinstance(content, str | int | float | bool | None) else str(content)


_HOW_TO_USE = """`mlflow models serve -m models:/{name}@champion --env-manager local` serves the champion: post the
columns of its signature as they are, categories as their codes. A row outside the contract gets no probability, but the
names of the columns that keep it from one. `challenger` is the newest version, `champion` the best by the rule in
`params.yaml`."""


def _table(release: Release, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The evaluation for people: a head and a line for every hospital and model, a blank where nothing was measured."""
    lines = []
    for site, of_models in release.evaluation.items():
        for model, measured in of_models.items():
            told = texts({name: _measurement(entry) for name, entry in measured.items()})
            lines.append([site, model, *(told.get(name, "") for name in metrics)])
    return ["hospital", "model", *(_in_words(name) for name in metrics)], lines


def _metrics(release: Release) -> list[str]:
    """Every metric that was measured anywhere, in the order of the first that has them all."""
    every = [entry for of_models in release.evaluation.values() for entry in of_models.values()]
    entries = sorted(every, key=len, reverse=True)
    return list(dict.fromkeys(metric for entry in entries for metric in entry))


def _in_words(metric: str) -> str:
    return {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier"}.get(metric, metric.replace("_", " "))


def _lead(release: Release, bundle: ModelBundle) -> str:
    """The run in two sentences: MLflow's lists show only the beginning of a description."""
    description, sites = bundle.description, _sites(release)
    what = (
        f"A {description.network.name} model of {description.cohort.target.name}, learned by {len(sites)} hospitals"
        f" ({', '.join(sites)}); round {description.round} of {len(release.rounds)} was kept, by their validation rows."
    )
    means = {model: _means(release, model) for model in _models(release)}
    federated = means.pop(FEDERATED, {})
    told = []
    for metric in ("auroc", "accuracy", "brier"):
        if metric in federated:
            others = [f"{model} {number(figures[metric])}" for model, figures in means.items() if metric in figures]
            told.append(
                f"{_in_words(metric)} {number(federated[metric])}" + (f" ({', '.join(others)})" if others else "")
            )
    return f"{what} Mean over hospitals, on test rows: {', '.join(told)}." if told else what


def _facts(release: Release, bundle: ModelBundle) -> list[tuple[str, str]]:
    description = bundle.description
    quarantined = [
        f"{site} ({', '.join(entry.get('failed', ())) or 'no reason given'})"
        for site, entry in release.admissions.items()
        if not entry.get("admitted", True)
    ]
    target = description.cohort.target
    return [
        ("positive", f"{target.name}, that is {target.column} {target.positive}"),
        ("quarantined", ", ".join(quarantined) or "no hospital"),
        ("run", release.run),
        ("weights", f"SHA-256 {description.weights}"),
        ("git commit", str(release.lineage.get("git_commit") or "not recorded")),
    ]


def _summary(release: Release, bundle: ModelBundle) -> str:
    """Run and version in Markdown; MLflow shows it at the head of both pages."""
    head, lines = _table(release, [name for name in _HEADLINES if name in _metrics(release)])
    table = [head, ["---"] * len(head), *lines]
    parts = [
        _lead(release, bundle),
        "\n".join(f"- {sentence}" for sentence in release.findings),
        "**Test rows at each hospital**, with 95 % intervals; all metrics are in `evaluation.html`",
        "\n".join(f"| {' | '.join(line)} |" for line in table),
        "\n".join(f"- **{name}**: {value}" for name, value in _facts(release, bundle)),
    ]
    return "\n\n".join(part for part in parts if part)


def _page(release: Release, bundle: ModelBundle) -> str:
    """The same as a page of its own, with nothing loaded from elsewhere."""
    head, lines = _table(release, _metrics(release))
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    facts = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(fact)}</dd>" for key, fact in _facts(release, bundle))
    found = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in release.findings)
    title = f"Evaluation of {html.escape(release.run)}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{html.escape(_lead(release, bundle))}</p><ul>{found}</ul><dl>{facts}</dl>"
        "<p>Test rows at each hospital, with 95 % intervals. What is suppressed would tell of too few patients.</p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table></html>\n"
    )


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem;color:#1a1a1a}dt{font-weight:600}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dd{margin:0;overflow-wrap:anywhere}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}"
    "th,td{padding:.3rem .8rem;border-bottom:1px solid #ddd;text-align:left;white-space:nowrap}"
)

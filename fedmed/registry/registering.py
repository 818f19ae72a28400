"""Registering a release: run, model and version, each once, and who is champion then."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fedmed.errors import RegistryError
from fedmed.gates import PASSES, Gate, Verdict, against, cannot_tell, judge
from fedmed.registry.options import NAME, ChampionRule, RegistryOptions, better
from fedmed.registry.packaging import packaged
from fedmed.registry.page import summary
from fedmed.registry.release import Registered, Release
from fedmed.registry.run import experiment_named, log, run_of
from fedmed.registry.store import MARKS, NOTE, marks_of, only_one, opened
from fedmed.registry.versions import CHALLENGER, CHAMPION, DECISION, champion_of
from fedmed.targets.table import KINDS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion

    from fedmed.models.bundle import ModelBundle

_AGAINST, _DONE = "fedmed.compared_with", "fedmed.registered"
_HOW_TO_USE = """`mlflow models serve -m models:/{name}@champion --env-manager local` serves the champion: post the
columns of its signature as they are, categories as their codes. A row outside the contract gets no probability, but the
names of the columns that keep it from one. `challenger` is the newest version, `champion` the best by the rule in
`params.yaml`."""


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
    if bundle.description.run != release.run or not NAME.fullmatch(release.run):
        raise RegistryError(f"release {release.run!r}: its folder holds the model of run {bundle.description.run!r}")
    with only_one(tracking), opened(tracking, create=True) as client:
        marks = marks_of(release.run, bundle)
        experiment = experiment_named(client, options.experiment, tracking)
        run = run_of(client, experiment, release, bundle, marks)
        logged = packaged(client, run, release, options, bundle)
        if run.info.status != "FINISHED":
            log(client, run, logged, release, bundle)
            client.set_terminated(run.info.run_id, "FINISHED")
        version = _version(client, options, release, bundle, run, logged, marks)
        return _decided(client, options, version, run)


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
        about = f"{cohort.title or cohort.name}: {KINDS[cohort.target.kind].predicts} `{cohort.target.name}`."
        client.create_registered_model(name, description=f"{about}\n\n{_HOW_TO_USE.format(name=name)}")
    if found := client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        return client.get_model_version(name, found[0].version)
    made = client.create_model_version(
        name,
        source=logged.artifact_location,  # a URI of the model itself would be looked up in MLflow's global store
        run_id=run_id,
        tags=dict(marks),
        description=summary(release, bundle),
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
        holder = champion_of(client, name)
        if DECISION not in tags or holder not in (tags[_AGAINST], number_):
            champion, reason = _judged(client, options, run, holder)
            tags = {_AGAINST: holder, DECISION: f"{CHAMPION if champion else CHALLENGER}: {reason}"}
            client.update_model_version(name, number_, f"**{tags[DECISION]}**\n\n{run.data.tags[NOTE]}")
            for key, value in tags.items():
                client.set_model_version_tag(name, number_, key, value)
        newest = max(int(entry.version) for entry in client.search_model_versions(f"name = '{name}'"))
        if newest == int(number_):
            client.set_registered_model_alias(name, CHALLENGER, number_)
        if tags[DECISION].startswith(CHAMPION):
            client.set_registered_model_alias(name, CHAMPION, number_)
        client.set_model_version_tag(name, number_, _DONE, "yes")
    decision, _, reason = tags[DECISION].partition(": ")
    return Registered(
        run=version.tags[MARKS["run"]],
        mlflow_run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        model=name,
        version=int(number_),
        aliases=(CHALLENGER, CHAMPION) if decision == CHAMPION else (CHALLENGER,),
        champion=decision == CHAMPION,
        reason=reason,
    )


LIKELIHOOD = "network.survival"
"""The parameter by which validation losses differ in kind: a partial likelihood is not one of discrete times."""


class _Challenge(NamedTuple):
    """A new version's run, that of the champion, the champion's number, and what they are compared by."""

    ours: Run
    other: Run
    holder: str
    rule: ChampionRule


def _same_cohort(that: _Challenge) -> Verdict:
    if that.ours.data.tags.get(MARKS["cohort"]) == that.other.data.tags.get(MARKS["cohort"]):
        return PASSES
    return cannot_tell(f"its cohort is declared otherwise than that of version {that.holder}: a person has to decide")


def _same_loss(that: _Challenge) -> Verdict:
    ours, other = (run.data.params.get(LIKELIHOOD) for run in (that.ours, that.other))
    if that.rule.metric != "validation_loss" or ours == other:
        return PASSES
    return cannot_tell(
        f"its loss is another than that of version {that.holder} ({LIKELIHOOD}), so the two cannot be compared: a"
        " person has to decide, or registry.champion.metric names a metric that both have, such as validation_c_index"
    )


def _better(that: _Challenge) -> Verdict:
    rule = that.rule
    return better(rule, _at_sites(that.ours, rule.metric), _at_sites(that.other, rule.metric), int(that.holder))


COMPARABLE: dict[str, Gate[_Challenge]] = {"cohort": _same_cohort, "loss": _same_loss}
"""Whether a new version and the champion can be held against each other at all."""
TAKES_ITS_PLACE: dict[str, Gate[_Challenge]] = {"figures": _better}
"""Whether it is so much better that it becomes champion."""


def _judged(client: MlflowClient, options: RegistryOptions, run: Run, holder: str) -> tuple[bool, str]:
    if not holder:
        return True, "there was no champion yet"
    other = client.get_run(str(client.get_model_version(options.model, holder).run_id))
    challenge = _Challenge(client.get_run(run.info.run_id), other, holder, options.champion)
    if reasons := against(judge(COMPARABLE, challenge)):
        return False, "; ".join(reasons)
    verdicts = judge(TAKES_ITS_PLACE, challenge)
    reason = "; ".join(verdict.why for verdict in verdicts.values())
    before, now = _fingerprints(other), _fingerprints(challenge.ours)
    changed = sorted(site for site in before.keys() & now.keys() if before[site] != now[site])
    reason += f"; since then the partitions of {', '.join(changed)} have changed" if changed else ""
    return not against(verdicts), reason


def _at_sites(run: Run, metric: str) -> dict[str, float]:
    """Hospital → the metric on its validation rows, at the round that the run chose."""
    parts = {tuple(key.split("/")): value for key, value in run.data.metrics.items()}
    wanted = ("validation", metric.removeprefix("validation_"))
    return {key[1]: value for key, value in parts.items() if len(key) == 3 and (key[0], key[2]) == wanted}


def _fingerprints(run: Run) -> dict[str, str]:
    entries = run.inputs.dataset_inputs if run.inputs else []
    return {entry.dataset.name: entry.dataset.digest for entry in entries}

"""The versions of a store: list them, find one, load its model, make one champion by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedmed.errors import RegistryError
from fedmed.registry.options import NAME
from fedmed.registry.release import Version
from fedmed.registry.store import DATABASE, MARKS, local_copy, only_one, opened

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from fedmed.models.bundle import ModelBundle

CHAMPION = "champion"
CHALLENGER = "challenger"
DECISION = "fedmed.decision"  # tag of a version


def models(tracking: Path) -> list[Version]:
    """Every version of every model in the store, newest first; none if there is no store yet."""
    if not (tracking / DATABASE).exists():
        return []
    with opened(tracking) as client:
        numbers = [(found.name, found.version) for found in client.search_model_versions()]
        versions = [_described(client, client.get_model_version(*number_)) for number_ in numbers]
        return sorted(versions, key=lambda entry: (-entry.created, entry.model, -entry.version))


def promote(tracking: Path, model: str, version: int) -> Version:
    """Make a version champion by hand, whatever the rule says.

    Raises:
        RegistryError: there is no such version.
    """
    with only_one(tracking), opened(tracking) as client:
        found = find(client, model, str(version))
        before = champion_of(client, model)
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

    with opened(tracking) as client:
        found = find(client, model, alias_or_version)
        bundle = load_bundle(local_copy(client.get_model_version_download_uri(model, found.version)) / "artifacts")
    if bundle.description.weights != found.tags.get(MARKS["weights"]):
        raise RegistryError(f"{model} version {found.version}: its weights are not those that were registered")
    return bundle


def find(client: MlflowClient, model: str, alias_or_version: str) -> ModelVersion:
    """The version behind an alias or a number; a RegistryError that says what there is, if there is no such one."""
    known = client.search_registered_models(f"name = '{model}'") if NAME.fullmatch(model) else []
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


def champion_of(client: MlflowClient, model: str) -> str:
    """The champion's number, or an empty text."""
    return str(client.get_registered_model(model).aliases.get(CHAMPION, ""))


def _described(client: MlflowClient, version: ModelVersion) -> Version:
    run = client.get_run(str(version.run_id))
    shown = {key: value for key, value in run.data.metrics.items() if key.startswith(("validation/", "test"))}
    return Version(
        model=version.name,
        version=int(version.version),
        aliases=tuple(sorted(version.aliases)),
        run=version.tags.get(MARKS["run"], ""),
        mlflow_run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        created=int(version.creation_timestamp),
        decision=version.tags.get(DECISION, ""),
        metrics=dict(sorted(shown.items())),
    )

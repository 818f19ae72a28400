"""A comparison of strategies as small workspaces: one a strategy and seed, on the hospitals of the workspace above it.

comparison/<name>/<strategy>-<seed>/
    params.yaml  cohort.yaml     the parameters with what this variant changes, and the declaration
    sites                        a link to the hospitals of the workspace above
    coordinator/                 partition receipts and admissions from there; all else is the variant's own
    result.json                  once it is finished: what the comparison needs of it
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from pydantic import Field, ValidationError

from fedmed import typed_yaml
from fedmed.comparison.traffic import Traffic, messages_of, traffic
from fedmed.coordinator.evaluation import Evaluation, read_evaluation
from fedmed.coordinator.history import History, read_history
from fedmed.coordinator.home import CoordinatorHome
from fedmed.coordinator.plan import run_id
from fedmed.coordinator.runs import read_admissions
from fedmed.coordinator.start import start_of
from fedmed.coordinator.training import kept_run
from fedmed.errors import SettingsError, WorkspaceError
from fedmed.files import write_atomically
from fedmed.settings import EvaluationOptions, Settings
from fedmed.strategies.options import StrategyName
from fedmed.targets.kind import KindName
from fedmed.typed_yaml import Record
from fedmed.workspace import Workspace

RESULT = "result.json"
NAME = r"^[a-z0-9][a-z0-9_-]{0,62}$"
STRATEGY_NAMES: tuple[str, ...] = get_args(StrategyName)
REFERENCES = ("own", "pooled")
SECTIONS = ("network", "training", "aggregation", "personal", "evaluation")
"""What may differ between variants; the rest is the workspace's: whose data, how they are split, what may be told."""
_ELSEWHERE = {
    "aggregation.strategy": "name strategies with --strategies",
    "training.seed": "name seeds with --seeds",
    "evaluation.pooled": "use --pooled",
    "evaluation.own": "the first variant alone trains the hospitals' own models",
}


class Change(NamedTuple):
    """One parameter that differs from `params.yaml`, for one strategy, or for all where `strategy` is empty."""

    strategy: str
    key: str
    value: Any


class ComparisonRequest(Record):
    """What is to be compared. The first strategy is the one that the others are held against."""

    name: str = Field(pattern=NAME)
    strategies: tuple[StrategyName, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)
    changes: tuple[Change, ...] = ()
    pooled: bool = False


class Variant(NamedTuple):
    """One strategy under one seed, with all its parameters."""

    strategy: str
    seed: int
    settings: Settings

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.strategy}-{self.seed}"


class VariantResult(Record):
    """What a comparison needs of a finished variant.

    `values` is keyed by model (federated, own, pooled), metric and hospital, on the test rows, where a hospital tells
    it; `losses` has the validation loss of every round, `traffic` the bytes of every round.
    """

    strategy: str
    seed: int
    run: str
    evaluation: EvaluationOptions
    kind: KindName
    headline: tuple[str, ...]
    hospitals: tuple[str, ...]
    chosen: int
    losses: tuple[float | None, ...]
    values: dict[str, dict[str, dict[str, float]]]
    traffic: dict[int, Traffic]
    untested: dict[str, str] = {}

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.strategy}-{self.seed}"

    @property
    def validation_loss(self) -> float | None:
        """Of the chosen round."""
        return self.losses[self.chosen - 1]

    @property
    def moved(self) -> Traffic:
        """Bytes over all rounds."""
        return sum(self.traffic.values(), Traffic())


def read_change(text: str) -> Change:
    """`training.rounds=10` for all strategies, or `fedadam:aggregation.learning_rate=0.01` for one.

    Raises:
        SettingsError: if it has another form, or names no strategy that there is.

    >>> read_change("fedadam:aggregation.learning_rate=0.01")
    Change(strategy='fedadam', key='aggregation.learning_rate', value=0.01)
    >>> read_change("network.hidden=[64, 32]").value
    [64, 32]
    """
    left, found, right = text.partition("=")
    strategy, named, key = left.strip().rpartition(":")
    try:
        value = yaml.safe_load(right)
    except yaml.YAMLError:
        found = ""
    if not found or not key:
        raise SettingsError(f"--set {text}: expected KEY=VALUE or STRATEGY:KEY=VALUE, such as training.rounds=10")
    if named:
        check_strategies([strategy])
    return Change(strategy, key, value)


def read_request(
    settings: Settings,
    name: str,
    strategies: Sequence[str],
    seeds: Sequence[int],
    changes: Sequence[Change],
    *,
    pooled: bool,
) -> ComparisonRequest:
    """A request that can be carried out.

    Raises:
        SettingsError: as :func:`variants_of`, or if the comparison's name cannot be one of a folder.
    """
    if not re.fullmatch(NAME, name):
        raise SettingsError(f"--name {name}: expected small letters, digits, - and _, beginning with a letter or digit")
    request = ComparisonRequest.model_validate(
        {"name": name, "strategies": strategies, "seeds": seeds, "changes": changes, "pooled": pooled}
    )
    variants_of(settings, request)
    return request


def read_strategies(text: str) -> tuple[str, ...]:
    """`fedavg,scaffold`, or `all`.

    Raises:
        SettingsError: if one is not known, or stands twice.
    """
    names = STRATEGY_NAMES if text.strip() == "all" else tuple(filter(None, map(str.strip, text.split(","))))
    check_strategies(names)
    return names


def check_strategies(names: Sequence[str]) -> None:
    """Whether these are strategies, each once.

    Raises:
        SettingsError: saying which are not, and which there are.
    """
    unknown = [name for name in names if name not in STRATEGY_NAMES]
    if unknown or not names:
        what = f"no strategy {', '.join(map(repr, unknown))}" if unknown else "no strategy was named"
        raise SettingsError(f"{what}; there are {', '.join(STRATEGY_NAMES)}")
    if len(set(names)) != len(names):
        raise SettingsError(f"a strategy is named twice: {', '.join(names)}")


def read_seeds(text: str, first: int) -> tuple[int, ...]:
    """`3` is three seeds from `first` on; `1,2,3` are just these, and `7,` is one.

    Raises:
        SettingsError: if it is neither.

    >>> read_seeds("3", first=2026), read_seeds("1,5", first=2026), read_seeds("7,", first=2026)
    ((2026, 2027, 2028), (1, 5), (7,))
    """
    try:
        numbers = tuple(int(part) for part in filter(None, map(str.strip, text.split(","))))
    except ValueError:
        numbers = ()
    if "," not in text and numbers:
        numbers = tuple(range(first, first + numbers[0]))
    if not numbers or min(numbers) < 0 or len(set(numbers)) != len(numbers):
        raise SettingsError(
            f"--seeds {text}: expected how many, such as 3, or a list of different seeds, such as 1,2,3"
        )
    return numbers


def variants_of(settings: Settings, request: ComparisonRequest) -> list[Variant]:
    """Every strategy under every seed, strategies in the order of the request.

    Args:
        settings: those of the workspace.
        request: what to compare.

    Raises:
        SettingsError: if a change is for a strategy that is not compared, for a parameter that there is not or that
            belongs to the workspace, or has a bad value.
    """
    for change in request.changes:
        _check_change(change, request, settings)
    variants = []
    for place, (strategy, seed) in enumerate(product(request.strategies, request.seeds)):
        content = settings.model_dump(mode="json")
        for change in request.changes:
            if change.strategy in ("", strategy):
                section, _, key = change.key.partition(".")
                _put(content[section], key.split("."), change.value)
        content["aggregation"]["strategy"], content["training"]["seed"] = strategy, seed
        # What a hospital could do alone is the same beside every strategy, and takes long: once is enough.
        content["evaluation"] |= {"pooled": request.pooled, "own": place == 0}
        try:
            variants.append(Variant(strategy, seed, Settings.model_validate(content)))
        except ValidationError as problem:
            raise SettingsError(f"{strategy}, with what --set says:\n{typed_yaml.describe(problem)}") from None
    return variants


def folder_of(parent: Workspace, name: str) -> Path:
    """Where a comparison lies."""
    return parent.comparisons / name


def make_variant(parent: Workspace, name: str, variant: Variant) -> Workspace:
    """The variant's workspace below that of the hospitals; what it has done before stays.

    Args:
        parent: a workspace whose hospitals have been validated.
        name: of the comparison.
        variant: whose parameters are written.
    """
    folder = folder_of(parent, name) / variant.name
    content = {**variant.settings.model_dump(mode="json"), "cohort": "cohort.yaml"}
    declaration = (parent.root / variant.settings.cohort).read_bytes()
    write_atomically(folder / "cohort.yaml", declaration)
    write_atomically(folder / "params.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
    made = Workspace(folder)
    _link(made.root / "sites", parent.root / "sites")
    _link(made.coordinator.tracking, parent.coordinator.tracking)  # for `training.start`
    _link(made.coordinator.journal().path, parent.coordinator.journal().path)  # one bar follows all variants
    for path in (parent.coordinator.admission_file, *sorted(parent.coordinator.receipts.glob("*.json"))):
        write_atomically(made.coordinator.path / path.relative_to(parent.coordinator.path), path.read_bytes())
    return made


def run_of_variant(workspace: Workspace) -> str:
    """The name that the variant's run has."""
    settings, cohort, home = workspace.settings, workspace.cohort, workspace.coordinator
    return run_id(settings, cohort, read_admissions(home), start_of(settings, cohort, home.tracking))


def stages_left(workspace: Workspace, run: str) -> list[str]:
    """What of a variant is still to be done: a model that was trained already is only tested."""
    home = workspace.coordinator
    try:
        trained = read_history(home.training_folder)[0].run == run and home.attempts(run).finished
    except WorkspaceError:
        trained = False
    return ["evaluate"] if trained else ["train", "evaluate"]


def keep_result(workspace: Workspace, variant: Variant) -> VariantResult:
    """Write what the comparison needs of a variant that was trained and tested.

    Raises:
        WorkspaceError: if training or evaluation is missing.
    """
    history, _ = read_history(workspace.coordinator.training_folder)
    evaluation = read_evaluation(workspace.coordinator.evaluation_folder)
    run = kept_run(workspace.coordinator, history.run, 1, variant.settings.privacy.minimum_cell)
    if run is None:
        raise WorkspaceError(f"{workspace.root}: the plan of run {history.run} is gone; compare again with --force")
    result = VariantResult(
        strategy=variant.strategy,
        seed=variant.seed,
        run=history.run,
        evaluation=variant.settings.evaluation,
        kind=evaluation.kind,
        headline=evaluation.headline,
        hospitals=tuple(evaluation.sites),
        chosen=history.chosen,
        losses=tuple(record.validation_loss for record in history.rounds),
        values=_values(evaluation),
        traffic=traffic(messages_of(run.plan, workspace.exchange())),
        untested=evaluation.failed,
    )
    write_atomically(_result_file(workspace), result.model_dump_json(indent=1).encode() + b"\n")
    return result


def kept_result(workspace: Workspace, variant: Variant, run: str) -> VariantResult | None:
    """The result of a variant that was finished with just these parameters, hospitals and code; else None."""
    try:
        result = VariantResult.model_validate_json(_result_file(workspace).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
    return result if (result.run, result.evaluation) == (run, variant.settings.evaluation) else None


def forget(parent: Workspace, name: str, variants: Sequence[Variant]) -> None:
    """Drop what these variants have done, so that they are computed from nothing; hospitals' folders are left alone."""
    for variant in variants:
        folder = folder_of(parent, name) / variant.name
        (folder / RESULT).unlink(missing_ok=True)
        home = CoordinatorHome(folder / "coordinator")
        for path in home.path.glob("*"):
            if path.is_dir() and not path.is_symlink() and path != home.runs:
                shutil.rmtree(path)
        for run in home.runs.glob("*"):
            home.forget_run(run.name)


def records_of(parent: Workspace, name: str, result: VariantResult) -> tuple[Settings, History, Evaluation]:
    """The parameters, the rounds and the reports of a finished variant."""
    workspace = Workspace(folder_of(parent, name) / result.name)
    history, _ = read_history(workspace.coordinator.training_folder)
    return workspace.settings, history, read_evaluation(workspace.coordinator.evaluation_folder)


def _result_file(workspace: Workspace) -> Path:
    return workspace.root / RESULT


def _values(evaluation: Evaluation) -> dict[str, dict[str, dict[str, float]]]:
    tested = {model for report in evaluation.sites.values() for model in report.measurements}
    return {
        model: {metric: evaluation.values(model, metric) for metric in evaluation.headline}
        for model in ("federated", *REFERENCES)
        if model in tested
    }


def _check_change(change: Change, request: ComparisonRequest, settings: Settings) -> None:
    if change.strategy and change.strategy not in request.strategies:
        raise SettingsError(
            f"--set {change.strategy}:{change.key}: {change.strategy} is not among those that are compared:"
            f" {', '.join(request.strategies)}"
        )
    if change.key in _ELSEWHERE:
        raise SettingsError(f"--set {change.key}: {_ELSEWHERE[change.key]}")
    known = list(_keys({section: settings.model_dump()[section] for section in SECTIONS}))
    if change.key not in known:
        section = change.key.partition(".")[0]
        if section in Settings.model_fields and section not in SECTIONS:
            raise SettingsError(
                f"--set {change.key}: all variants have the `{section}` of the workspace; change params.yaml"
            )
        near = [key for key in known if key.startswith(f"{section}.") and key not in _ELSEWHERE]
        raise SettingsError(f"--set {change.key}: no such parameter; there are {', '.join(near or SECTIONS)}")


def _keys(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`{"training": {"rounds": 3}}` → `training.rounds`; a section inside a section may be named whole too."""
    for key, value in content.items():
        if prefix:
            yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{key}.")


def _put(content: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


def _link(path: Path, target: Path) -> None:
    """A relative link, so that the workspace may be moved as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = os.path.relpath(target, path.parent)
    if path.is_symlink() and str(path.readlink()) == wanted:
        return
    path.unlink(missing_ok=True)
    path.symlink_to(wanted)

"""What may be compared, how a variant's workspace is made, and when its result counts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from fedmed.comparison.traffic import Traffic
from fedmed.comparison.variants import (
    RESULT,
    STRATEGY_NAMES,
    Change,
    ComparisonRequest,
    Variant,
    VariantResult,
    folder_of,
    forget,
    kept_result,
    make_variant,
    read_change,
    read_request,
    read_seeds,
    read_strategies,
    stages_left,
    variants_of,
)
from fedmed.errors import SettingsError
from fedmed.settings import Settings, read_settings
from fedmed.strategies.table import STRATEGIES
from fedmed.workspace import Workspace

ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings() -> Settings:
    return read_settings(ROOT / "params.yaml")


@pytest.fixture
def parent(tmp_path: Path) -> Workspace:
    """A workspace whose hospitals have been validated, as far as a comparison looks."""
    (tmp_path / "cohorts").mkdir()
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / "cohorts" / "heart_disease.yaml", tmp_path / "cohorts")
    (tmp_path / "sites" / "va").mkdir(parents=True)
    made = Workspace(tmp_path)
    made.receipts.mkdir(parents=True)
    (made.receipts / "va.json").write_text("a receipt")
    made.admission_file.write_text("the admissions")
    return made


def request(**changes: Any) -> ComparisonRequest:
    content = {"name": "few", "strategies": ("fedavg", "fedadam"), "seeds": (1, 2), **changes}
    return ComparisonRequest.model_validate(content)


def result_of(variant: Variant, run: str = "abc") -> VariantResult:
    return VariantResult(
        strategy=variant.strategy,
        seed=variant.seed,
        run=run,
        evaluation=variant.settings.evaluation,
        kind="binary",
        headline=("accuracy",),
        hospitals=("va",),
        chosen=2,
        losses=(0.5, 0.4),
        values={"federated": {"accuracy": {"va": 0.8}}},
        traffic={1: Traffic(down=3, up=1), 2: Traffic(down=3, up=1)},
    )


def test_names_of_strategies_are_those_that_there_are() -> None:
    assert set(STRATEGY_NAMES) == set(STRATEGIES)
    assert read_strategies("all") == STRATEGY_NAMES
    assert read_strategies(" fedavg , scaffold,") == ("fedavg", "scaffold")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ("fedavg,foo", "no strategy 'foo'; there are fedavg, mean"),
        ("", "no strategy was named"),
        ("mean,mean", "twice"),
    ],
)
def test_a_strategy_that_there_is_not_is_named(names: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read_strategies(names)


@pytest.mark.parametrize("text", ["x", "0", "-1", "1,1", "1,-2", ",", "1.5"])
def test_bad_seeds_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="expected how many, such as 3, or a list"):
        read_seeds(text, first=1)


@pytest.mark.parametrize("text", ["rounds", "=3", "training.rounds=[1", "fedavg:=3"])
def test_a_change_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="expected KEY=VALUE or STRATEGY:KEY=VALUE"):
        read_change(text)


def test_a_change_for_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(SettingsError, match="no strategy 'foo'"):
        read_change("foo:training.rounds=3")


def test_only_strategy_seed_and_changes_differ(settings: Settings) -> None:
    changes = (Change("", "training.rounds", 7), Change("fedadam", "aggregation.learning_rate", 0.01))
    variants = variants_of(settings, request(changes=changes))
    assert [variant.name for variant in variants] == ["fedavg-1", "fedavg-2", "fedadam-1", "fedadam-2"]
    assert [variant.settings.training.seed for variant in variants] == [1, 2, 1, 2]
    assert [variant.settings.aggregation.strategy for variant in variants] == ["fedavg"] * 2 + ["fedadam"] * 2
    assert [variant.settings.aggregation.learning_rate for variant in variants] == [0.0, 0.0, 0.01, 0.01]
    for variant in variants:
        assert variant.settings.training.rounds == 7
        assert variant.settings.split == settings.split
        assert variant.settings.federation == settings.federation


def test_own_models_are_trained_once_and_the_pooled_one_only_if_asked_for(settings: Settings) -> None:
    assert settings.evaluation.pooled
    variants = variants_of(settings, request())
    assert [variant.settings.evaluation.own for variant in variants] == [True, False, False, False]
    assert not any(variant.settings.evaluation.pooled for variant in variants)
    assert all(variant.settings.evaluation.pooled for variant in variants_of(settings, request(pooled=True)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Change("", "training.foo", 1), "no such parameter; there are training.rounds"),
        (Change("", "foo", 1), "no such parameter; there are network, training"),
        (Change("", "split.seed", 1), "all variants have the `split` of the workspace"),
        (Change("", "cohort", "x"), "all variants have the `cohort` of the workspace"),
        (Change("", "training.seed", 1), "--seeds"),
        (Change("", "aggregation.strategy", "mean"), "--strategies"),
        (Change("", "evaluation.pooled", True), "--pooled"),
        (Change("scaffold", "training.rounds", 1), "not among those that are compared: fedavg, fedadam"),
        (Change("", "training.rounds", -1), "fedavg, with what --set says:\n  training.rounds"),
        (Change("", "aggregation.combine", "medan"), "'mean', 'median', 'trimmed_mean'"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.key,
)
def test_a_change_that_cannot_be_made_says_why(settings: Settings, change: Change, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        variants_of(settings, request(changes=(change,)))
    assert says in str(caught.value)


def test_a_name_that_leads_out_of_the_folder_is_refused(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="expected small letters"):
        read_request(settings, "../x", ("fedavg",), (1,), (), pooled=False)


def test_a_variant_is_a_workspace_on_the_same_hospitals(parent: Workspace) -> None:
    variant = variants_of(parent.settings(), request())[3]
    made = make_variant(parent, "few", variant)
    assert made.root == parent.root / "comparison" / "few" / "fedadam-2"
    assert made.settings() == variant.settings.model_copy(update={"cohort": "cohort.yaml"})
    assert made.cohort() == parent.cohort()
    assert made.home("va") == parent.home("va")
    assert made.admission_file.read_text() == "the admissions"
    assert (made.receipts / "va.json").read_text() == "a receipt"
    assert not made.exchange_folder.exists()
    made.journal().add("round", number=1)
    assert [event["event"] for event in parent.journal().events()] == ["round"]


def test_made_again_a_variant_keeps_what_it_has_done(parent: Workspace) -> None:
    variant = variants_of(parent.settings(), request())[0]
    made = make_variant(parent, "few", variant)
    (made.coordinator / "exchange").mkdir()
    assert (make_variant(parent, "few", variant).coordinator / "exchange").is_dir()


def test_a_moved_workspace_still_has_its_hospitals(parent: Workspace, tmp_path: Path) -> None:
    make_variant(parent, "few", variants_of(parent.settings(), request())[0])
    moved = Workspace(shutil.copytree(parent.root, tmp_path / "moved", symlinks=True))
    assert Workspace(folder_of(moved, "few") / "fedavg-1").home("va") == moved.root / "sites" / "va"


def test_a_result_counts_for_its_run_and_its_evaluation_only(parent: Workspace) -> None:
    first, second, *_ = variants_of(parent.settings(), request())
    made = make_variant(parent, "few", first)
    assert kept_result(made, first, "abc") is None
    result = result_of(first)
    (made.root / RESULT).write_text(result.model_dump_json())
    assert kept_result(made, first, "abc") == result
    assert kept_result(made, first, "other") is None
    assert kept_result(made, second, "abc") is None  # it would be tested without the hospitals' own models
    (made.root / RESULT).write_text("{}")
    assert kept_result(made, first, "abc") is None


def test_a_result_has_the_loss_of_the_chosen_round_and_the_bytes_of_all(parent: Workspace) -> None:
    result = result_of(variants_of(parent.settings(), request())[0])
    assert (result.validation_loss, result.moved, result.name) == (0.4, Traffic(down=6, up=2), "fedavg-1")


def test_what_is_forgotten_is_the_variants_and_not_the_hospitals(parent: Workspace) -> None:
    variant = variants_of(parent.settings(), request())[0]
    made = make_variant(parent, "few", variant)
    (made.root / RESULT).write_text("{}")
    (parent.home("va") / "row").write_text("a record")
    forget(parent, "few", variants_of(parent.settings(), request()))
    assert not made.coordinator.exists()
    assert not (made.root / RESULT).exists()
    assert (parent.home("va") / "row").exists()
    assert parent.journal().path.parent.exists()


def test_a_variant_that_was_never_trained_has_all_before_it(parent: Workspace) -> None:
    made = make_variant(parent, "few", variants_of(parent.settings(), request())[0])
    assert stages_left(made, "abc") == ["train", "evaluate"]

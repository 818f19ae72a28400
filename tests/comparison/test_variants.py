"""What may be compared, how a variant's workspace is made, and when its result counts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from small_run import SITES, START, SmallRun, plan_of

from fedmed.comparison.traffic import Traffic, messages_of, traffic
from fedmed.comparison.variants import (
    RESULT,
    STRATEGY_NAMES,
    Change,
    ComparisonRequest,
    Variant,
    VariantResult,
    folder_of,
    forget,
    keep_result,
    kept_result,
    make_variant,
    read_change,
    read_request,
    read_seeds,
    read_strategies,
    stages_left,
    variants_of,
)
from fedmed.coordinator.asking import Asked
from fedmed.coordinator.evaluation import gather_evaluations, write_evaluation
from fedmed.coordinator.history import choose_round, write_history
from fedmed.coordinator.training import keep_plan, kept_run
from fedmed.errors import SettingsError, WorkspaceError
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
    made.coordinator.receipts.mkdir(parents=True)
    (made.coordinator.receipts / "va.json").write_text("a receipt")
    made.coordinator.admission_file.write_text("the admissions")
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
    variant = variants_of(parent.settings, request())[3]
    made = make_variant(parent, "few", variant)
    assert made.root == parent.root / "comparison" / "few" / "fedadam-2"
    assert made.settings == variant.settings.model_copy(update={"cohort": "cohort.yaml"})
    assert made.cohort == parent.cohort
    assert made.home("va") == parent.home("va")
    assert made.coordinator.admission_file.read_text() == "the admissions"
    assert (made.coordinator.receipts / "va.json").read_text() == "a receipt"
    assert not made.coordinator.exchange_folder.exists()
    made.coordinator.journal().add("round", number=1)
    assert [event["event"] for event in parent.coordinator.journal().events()] == ["round"]


def test_made_again_a_variant_keeps_what_it_has_done(parent: Workspace) -> None:
    variant = variants_of(parent.settings, request())[0]
    made = make_variant(parent, "few", variant)
    made.coordinator.exchange_folder.mkdir()
    assert make_variant(parent, "few", variant).coordinator.exchange_folder.is_dir()


def test_a_moved_workspace_still_has_its_hospitals(parent: Workspace, tmp_path: Path) -> None:
    make_variant(parent, "few", variants_of(parent.settings, request())[0])
    moved = Workspace(shutil.copytree(parent.root, tmp_path / "moved", symlinks=True))
    assert Workspace(folder_of(moved, "few") / "fedavg-1").home("va").path == moved.root / "sites" / "va"


def test_a_result_counts_for_its_run_and_its_evaluation_only(parent: Workspace) -> None:
    first, second, *_ = variants_of(parent.settings, request())
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
    result = result_of(variants_of(parent.settings, request())[0])
    assert (result.validation_loss, result.moved, result.name) == (0.4, Traffic(down=6, up=2), "fedavg-1")


def test_what_is_forgotten_is_the_variants_and_not_the_hospitals(parent: Workspace) -> None:
    variant = variants_of(parent.settings, request())[0]
    made = make_variant(parent, "few", variant)
    (made.root / RESULT).write_text("{}")
    (parent.home("va").path / "row").write_text("a record")
    parent.coordinator.tracking.mkdir()
    parent.coordinator.journal().add("round", number=1)
    made.coordinator.exchange_folder.mkdir()
    made.coordinator.training_folder.mkdir()
    made.coordinator.begin_training("abc")
    forget(parent, "few", variants_of(parent.settings, request()))
    assert not made.coordinator.exchange_folder.exists()
    assert not made.coordinator.training_folder.exists()
    assert not (made.root / RESULT).exists()
    assert (parent.home("va").path / "row").exists()
    assert parent.coordinator.tracking.exists()
    assert len(list(parent.coordinator.journal().events())) == 1


@pytest.mark.parametrize("ended", ["killed", "failed", "finished"])
def test_hospitals_are_asked_anew_about_a_variant_that_was_forgotten(parent: Workspace, ended: str) -> None:
    # Their outboxes answer a question that they know with the bytes that they sent before: the numbers go on.
    variants = variants_of(parent.settings, request())
    made = make_variant(parent, "few", variants[0])
    assert made.coordinator.begin_training("abc") == (1, 1)
    keep_plan(made.coordinator, plan_of().model_copy(update={"run": "abc"}), START, 11)
    if ended == "failed":
        made.coordinator.close_attempt("abc", "train")
    if ended == "finished":
        made.coordinator.finish_training("abc")
    forget(parent, "few", variants)
    again = make_variant(parent, "few", variants[0])
    assert stages_left(again, "abc") == ["train", "evaluate"]
    assert kept_run(again.coordinator, "abc", 1, 11) is None
    assert again.coordinator.begin_training("abc") == (2, 2)


def test_a_variant_that_was_never_trained_has_all_before_it(parent: Workspace) -> None:
    made = make_variant(parent, "few", variants_of(parent.settings, request())[0])
    assert stages_left(made, "abc") == ["train", "evaluate"]


def finished(folder: Path, made: Workspace) -> SmallRun:
    """A run that the variant has trained: two rounds, of which the second is chosen."""
    this = SmallRun(made.coordinator.path, plan_of(rounds=2), made.exchange()).everybody()
    for number, loss in ((1, 0.5), (2, 0.4)):
        this.score("north", loss, 40, number=number)
    records = list(this.rounds())
    write_history(
        made.coordinator.training_folder, this.plan, records, choose_round(records), this.run.states[2].weights
    )
    return this


def test_a_variant_that_was_trained_to_its_end_is_only_evaluated(parent: Workspace, tmp_path: Path) -> None:
    made = make_variant(parent, "few", variants_of(parent.settings, request())[0])
    finished(tmp_path, made)
    assert stages_left(made, "run-1") == ["train", "evaluate"]  # killed before it was marked as finished
    made.coordinator.finish_training("run-1")
    assert stages_left(made, "run-1") == ["evaluate"]
    assert stages_left(made, "another") == ["train", "evaluate"]
    made.coordinator.begin_training("run-1")  # and begun anew
    assert stages_left(made, "run-1") == ["train", "evaluate"]


def test_the_result_of_a_variant_is_kept_with_the_bytes_that_it_moved(parent: Workspace, tmp_path: Path) -> None:
    variant = variants_of(parent.settings, request())[0]
    made = make_variant(parent, "few", variant)
    with pytest.raises(WorkspaceError, match="no model has been trained here yet"):
        keep_result(made, variant)
    this = finished(tmp_path, made)
    with pytest.raises(WorkspaceError, match="no model has been evaluated here yet"):
        keep_result(made, variant)
    asked = Asked({}, dict.fromkeys(SITES, "no test rows"))
    evaluation = gather_evaluations(this.plan, 2, this.run.model_of(2), asked)
    write_evaluation(made.coordinator.evaluation_folder, evaluation)
    result = keep_result(made, variant)
    assert (result.run, result.chosen, result.losses) == ("run-1", 2, (0.5, 0.4))
    assert result.untested == dict.fromkeys(SITES, "no test rows")
    assert result.traffic == traffic(messages_of(this.plan, this.exchange))
    assert result.traffic[1].down == 6 * this.run.model_of(0).size
    assert kept_result(made, variant, "run-1") == result
    (this.run.folder / "plan.json").unlink()
    with pytest.raises(WorkspaceError, match="the plan of run run-1 is gone; compare again with --force"):
        keep_result(made, variant)

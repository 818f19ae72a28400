"""The real MLflow on a store of its own: a comparison becomes one run with its variants below it, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedmed import registry
from fedmed.evaluation.measurement import SUPPRESSED, Measurement
from fedmed.registry import ComparisonRelease, Release, Trial, register_comparison
from fedmed.registry.store import opened

PARENT = "mlflow.parentRunId"


@pytest.fixture
def tracking(tmp_path: Path) -> Path:
    return tmp_path / "my store"


@pytest.fixture
def client(tracking: Path) -> Iterator[Any]:
    with opened(tracking, create=True) as made:
        yield made


def trial(strategy: str, seed: int, accuracy: float) -> Trial:
    release = Release(
        run=f"{strategy}{seed}",
        model_folder=Path(),
        parameters={"training": {"seed": seed}, "aggregation": {"strategy": strategy}},
        rounds=[
            {"round": 1, "participants": ["va"], "validation_loss": 0.9, "sites": {"va": {"validation_loss": 0.9}}},
            {"round": 2, "participants": ["va"], "validation_loss": 0.5, "sites": {"va": {"validation_loss": 0.5}}},
        ],
        admissions={},
        evaluation={"va": {"federated": {"accuracy": Measurement(value=accuracy), "auroc": SUPPRESSED}}},
        lineage={},
    )
    return Trial(f"{strategy}-{seed}", strategy, seed, release, 2, {"bytes/up": 7.0}, {"bytes_up": {1: 3.0, 2: 4.0}})


@pytest.fixture
def release(tmp_path: Path) -> Callable[..., ComparisonRelease]:
    def made(**changes: Any) -> ComparisonRelease:
        for name in ("table.md", "loss.png"):
            (tmp_path / name).write_text("content")
        content: dict[str, Any] = {
            "name": "few",
            "digest": "d1",
            "note": "# Comparison few",
            "parameters": {"strategies": "fedavg, mean"},
            "figures": {"fedavg/accuracy": 0.8, "mean/accuracy": 0.7},
            "trials": [trial("fedavg", 1, 0.8), trial("mean", 1, 0.7)],
            "files": [tmp_path / "table.md"],
            "plots": [tmp_path / "loss.png"],
        }
        return ComparisonRelease(**{**content, **changes})

    return made


def all_runs(client: Any) -> list[Any]:
    numbers = [entry.experiment_id for entry in client.search_experiments()]
    return [client.get_run(run.info.run_id) for run in client.search_runs(numbers)]


def test_a_comparison_is_a_run_with_its_variants_below_it(
    release: Callable[..., ComparisonRelease], tracking: Path, client: Any
) -> None:
    answer = register_comparison(release(), "fedmed", tracking)
    parent = client.get_run(answer.mlflow_run_id)
    assert parent.info.run_name == "compare few"
    assert parent.data.metrics == {"fedavg/accuracy": 0.8, "mean/accuracy": 0.7}
    assert parent.data.params == {"strategies": "fedavg, mean"}
    assert parent.data.tags["mlflow.note.content"] == "# Comparison few"
    assert {entry.path for entry in client.list_artifacts(answer.mlflow_run_id)} == {"table.md", "plots"}
    assert list(answer.variants) == ["fedavg-1", "mean-1"]
    child = client.get_run(answer.variants["mean-1"])
    assert child.info.run_name == "mean-1"
    assert child.data.tags[PARENT] == answer.mlflow_run_id
    assert (child.data.tags["fedmed.strategy"], child.data.tags["fedmed.seed"]) == ("mean", "1")
    assert child.data.params == {"training.seed": "1", "aggregation.strategy": "mean"}
    assert child.data.metrics["test/va/accuracy"] == 0.7
    assert child.data.metrics["validation/loss"] == 0.5
    assert child.data.metrics["bytes/up"] == 7.0
    curve = client.get_metric_history(child.info.run_id, "validation_loss")
    assert [(point.step, point.value) for point in curve] == [(1, 0.9), (2, 0.5)]
    assert [point.value for point in client.get_metric_history(child.info.run_id, "bytes_up")] == [3.0, 4.0]


def test_what_was_suppressed_is_no_figure(
    release: Callable[..., ComparisonRelease], tracking: Path, client: Any
) -> None:
    answer = register_comparison(release(), "fedmed", tracking)
    for name in answer.variants.values():
        assert not [key for key in client.get_run(name).data.metrics if "auroc" in key]


def test_the_same_comparison_again_adds_nothing(
    release: Callable[..., ComparisonRelease], tracking: Path, client: Any
) -> None:
    first = register_comparison(release(), "fedmed", tracking)
    before = [run.to_dictionary() for run in all_runs(client)]
    assert register_comparison(release(), "fedmed", tracking) == first
    assert [run.to_dictionary() for run in all_runs(client)] == before
    assert len(before) == 3


def test_another_comparison_of_the_same_name_is_another_run(
    release: Callable[..., ComparisonRelease], tracking: Path, client: Any
) -> None:
    first = register_comparison(release(), "fedmed", tracking)
    second = register_comparison(release(digest="d2"), "fedmed", tracking)
    assert first.mlflow_run_id != second.mlflow_run_id
    assert not set(first.variants.values()) & set(second.variants.values())
    assert len(all_runs(client)) == 6


def test_cut_short_it_is_completed_by_the_next_call(
    release: Callable[..., ComparisonRelease], tracking: Path, client: Any
) -> None:
    broken = release(plots=[tracking / "not there.png"])
    with pytest.raises(OSError, match=r"not there\.png"):
        register_comparison(broken, "fedmed", tracking)
    assert [run.info.status for run in all_runs(client)].count("RUNNING") == 1
    register_comparison(release(), "fedmed", tracking)
    assert [run.info.status for run in all_runs(client)] == ["FINISHED"] * 3
    (child, *_) = [run for run in all_runs(client) if PARENT in run.data.tags]
    assert len(client.get_metric_history(child.info.run_id, "validation_loss")) == 2


def test_no_model_and_no_alias_comes_of_it(release: Callable[..., ComparisonRelease], tracking: Path) -> None:
    register_comparison(release(), "fedmed", tracking)
    assert registry.models(tracking) == []


def test_long_curves_and_many_parameters_are_logged_whole(
    release: Callable[..., ComparisonRelease], tracking: Path, client: Any
) -> None:
    long = trial("mean", 1, 0.7)
    long = replace(
        long,
        release=replace(long.release, parameters={f"key{place}": place for place in range(150)}),
        curves={"bytes_up": dict.fromkeys(range(1, 1201), 1.0)},
    )
    answer = register_comparison(release(trials=[long]), "fedmed", tracking)
    child = client.get_run(answer.variants["mean-1"])
    assert len(child.data.params) == 150
    assert len(client.get_metric_history(child.info.run_id, "bytes_up")) == 1200

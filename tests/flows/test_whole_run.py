"""From four hospitals' records to a registered model: what one command leaves behind, seen by every tool."""

from __future__ import annotations

import json
import sqlite3
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from workplace import BIN, SITES, Workplace, embedded_rows, write_rows

pytestmark = pytest.mark.slow


def task_runs(place: Workplace) -> list[tuple[str, str]]:
    with sqlite3.connect(place.root / ".prefect" / "prefect.db") as database:
        # Of the training run alone: other tests may validate on the same workspace.
        return database.execute(
            "select task_run.name, task_run.state_type from task_run join flow_run on flow_run.id = task_run.flow_run_id"
            " where flow_run.name like '%training%'"
        ).fetchall()


def test_every_task_of_every_round_is_recorded_under_a_speaking_name(trained: Workplace) -> None:
    recorded = task_runs(trained)
    names = [name for name, _ in recorded]
    for site in SITES:
        assert names.count(f"validate · {site}") == 1
        for number in (1, 2, 3):
            assert names.count(f"train · {site} · round {number:02d}") == 1
            assert names.count(f"score · {site} · round {number:02d}") == 1
    assert [names.count(f"round {number:02d} of 03") for number in (1, 2, 3)] == [1, 1, 1]
    assert {state for _, state in recorded} == {"COMPLETED"}


def test_a_rounds_tasks_stand_inside_the_round(trained: Workplace) -> None:
    with sqlite3.connect(trained.root / ".prefect" / "prefect.db") as database:
        runs = database.execute("select id, name, task_inputs from task_run").fetchall()
    (round_id,) = [identifier for identifier, name, _ in runs if name == "round 02 of 03"]
    inside = {
        name
        for _, name, inputs in runs
        if any(
            parent["id"].replace("-", "") == round_id.replace("-", "")
            for parent in json.loads(inputs).get("__parents__", [])
        )
    }
    assert inside == {"aggregate · round 02"} | {
        f"{what} · {site} · round 02" for what in ("train", "score") for site in SITES
    }


def test_no_weights_and_no_pickles_are_in_prefects_results(trained: Workplace) -> None:
    assert not list((trained.root / ".prefect").glob("storage/*"))


def test_dvc_repro_after_a_run_does_nothing(trained: Workplace, tmp_path: Path) -> None:
    place = trained.copy(tmp_path / "copy")
    assert "up to date" in place.call("dvc", "repro").stdout
    assert json.loads(place.call("dvc", "status", "--json").stdout) == {}


def test_a_second_run_finds_nothing_to_do(trained: Workplace) -> None:
    assert trained.fedmed("run")["ran"] == []


def test_a_training_parameter_makes_training_due_and_not_partitioning(trained: Workplace, tmp_path: Path) -> None:
    place = trained.copy(tmp_path / "copy")
    place.parameters(training__learning_rate=0.05)
    due = json.loads(place.call("dvc", "status", "--json").stdout)
    assert list(due) == ["train"]
    before = place.fedmed("status")["chosen"]["sha256"]
    outcome = place.fedmed("run")
    assert outcome["ran"] == ["train", "evaluate", "register"]
    assert outcome["chosen"]["sha256"] != before


def test_dvc_shows_metrics_and_plots(trained: Workplace, tmp_path: Path) -> None:
    place = trained.copy(tmp_path / "copy")
    metrics = json.loads(place.call("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert metrics["coordinator/training/metrics.json"]["data"]["rounds"] == 3
    assert 0 < metrics["coordinator/evaluation/metrics.json"]["data"]["mean_over_hospitals"]["accuracy"]["value"] <= 1
    page = place.call("dvc", "plots", "show").stdout.strip().removeprefix("file://")
    assert "validation_loss" in Path(page).read_text()


def test_an_experiment_runs_from_the_command_line_of_dvc(
    tmp_path: Path, new_workspace: Callable[..., Workplace]
) -> None:
    place = new_workspace()
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run([*git, *command], cwd=place.root, check=True)
    place.call("dvc", "init", "-q", "-f")
    subprocess.run([*git, "add", "-A"], cwd=place.root, check=True)
    subprocess.run([*git, "commit", "-qm", "dvc"], cwd=place.root, check=True)
    place.fedmed("run")
    done = place.call("dvc", "exp", "run", "-S", "training.learning_rate=0.05")
    assert "partition@va' didn't change" in done.stdout
    assert "Running stage 'train'" in done.stdout


def test_rows_are_predicted_at_a_hospital_and_one_outside_the_contract_is_not(
    trained: Workplace, tmp_path: Path
) -> None:
    place = trained.copy(tmp_path / "copy")
    rows = embedded_rows("cleveland")[:4]
    rows[2] = {**rows[2], "age": "756"}
    file = write_rows(tmp_path / "rows.csv", rows)
    done = place.call("fedmed", "predict", "--site", "cleveland", str(file), check=False)
    assert done.returncode == 9
    assert "row 3: outside the contract: age" in done.stdout
    assert "756" not in done.stdout + done.stderr
    written = (place.root / "sites" / "cleveland" / "predictions" / "rows.csv").read_text().splitlines()
    assert len(written) == 5
    scored = [line.split(",")[1] for line in written[1:]]
    assert scored[2] == ""
    assert all(0 < float(probability) < 1 for probability in scored[:2] + scored[3:])


def test_no_patients_value_is_in_anything_that_the_coordinator_has(
    new_workspace: Callable[..., Workplace], tmp_path: Path
) -> None:
    # A patient whose values nobody else has, in each of the three splits, in text and as packed doubles.
    place = new_workspace()
    canary = 613.828125
    rows = embedded_rows("hungarian")
    for position, row in enumerate(rows):
        row["chol"] = str(canary + position * 2**-10)
    place.call("fedmed", "data", "add", "--site", "hungarian", str(write_rows(tmp_path / "own.csv", rows)))
    place.fedmed("run")
    values = [canary + position * 2**-10 for position in range(len(rows))]
    texts = {str(value).encode() for value in values}
    needles = texts | {struct.pack("<d", value) for value in values}
    assert all(text in (tmp_path / "own.csv").read_bytes() for text in texts)  # the search can find
    searched = 0
    for folder in ("coordinator", ".prefect", ".dvc"):
        for path in (place.root / folder).rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                searched += 1
                assert not [needle for needle in needles if needle in content], path
    assert searched > 100
    for path in (place.root / "sites" / "hungarian").rglob("*"):
        if path.is_file():
            assert not [needle for needle in needles if needle in path.read_bytes()], path


def test_the_same_rows_give_the_same_weights_under_other_keys_and_any_number_of_workers(
    trained: Workplace, new_workspace: Callable[..., Workplace]
) -> None:
    other = new_workspace()
    with (other.root / "prefect.toml").open("a") as settings:
        settings.write("\n[tasks.runner]\nthread_pool_max_workers = 1\n")
    outcome, known = other.fedmed("run"), trained.fedmed("status")
    assert outcome["chosen"]["sha256"] == known["chosen"]["sha256"]
    keys = [(p.root / "sites" / "va" / "keys" / "data.key").read_bytes() for p in (other, trained)]
    assert keys[0] != keys[1]


def test_registering_again_makes_no_second_version(trained: Workplace, tmp_path: Path) -> None:
    # A copied MLflow store keeps absolute paths, so this one is trained in its own place.
    before = trained.fedmed("models")
    trained.call("fedmed", "stage", "register")
    assert [entry["version"] for entry in trained.fedmed("models")] == [entry["version"] for entry in before]


def test_the_command_line_says_who_is_champion(trained: Workplace) -> None:
    (entry,) = trained.fedmed("models")
    assert set(entry["aliases"]) == {"challenger", "champion"}
    assert (BIN / "fedmed").exists()


def test_what_is_asked_again_is_no_change_for_the_pipeline(trained: Workplace, tmp_path: Path) -> None:
    place = trained.copy(tmp_path / "copy")
    kept = {
        name: (place.root / "coordinator" / name).read_bytes()
        for name in ("admission.json", "training/rounds.json", "evaluation/evaluations.json")
    }
    place.fedmed("validate")
    place.fedmed("run", "--force")
    assert {name: (place.root / "coordinator" / name).read_bytes() for name in kept} == kept
    assert json.loads(place.call("dvc", "status", "--json").stdout) == {}

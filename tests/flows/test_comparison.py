"""Two strategies under two seeds by one command: interrupted, gone on with, asked for again, and in MLflow once."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from workplace import BIN, SITES, Workplace

from fedmed.registry.store import opened

pytestmark = pytest.mark.slow

COMMAND = ("compare", "--strategies", "fedavg,scaffold", "--seeds", "2", "--name", "few")
NAMES = ("fedavg-2026", "fedavg-2027", "scaffold-2026", "scaffold-2027")


class Done(NamedTuple):
    """A comparison that was interrupted after its first variant and then gone on with."""

    place: Workplace
    before: dict[str, bytes]
    outcome: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.place.root / "comparison" / "few"


def results(place: Workplace) -> dict[str, bytes]:
    folder = place.root / "comparison" / "few"
    return {path.parent.name: path.read_bytes() for path in sorted(folder.glob("*/result.json"))}


def interrupted(place: Workplace) -> None:
    """Start the comparison and end it, as Ctrl-C does, once the first variant is finished."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "DVC_"))}
    process = subprocess.Popen(
        [str(BIN / "fedmed"), *COMMAND],
        cwd=place.root,
        env={**clean, "PATH": f"{BIN}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 240
    while not results(place) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    root = tmp_path_factory.mktemp("compared") / "work"
    root.mkdir()
    place = Workplace(root)
    place.call("fedmed", "init")
    place.parameters(training__rounds=3, evaluation__resamples=100)
    interrupted(place)
    before = results(place)
    return Done(place, before, place.fedmed(*COMMAND))


def test_an_interrupted_comparison_goes_on_where_it_stopped(done: Done) -> None:
    assert next(iter(done.before)) == NAMES[0]
    assert len(done.before) < len(NAMES)
    assert done.outcome["computed"] == [name for name in NAMES if name not in done.before]
    assert {name: results(done.place)[name] for name in done.before} == done.before


def test_asked_for_again_nothing_is_computed(done: Done) -> None:
    again = done.place.fedmed(*COMMAND)
    assert again["computed"] == []
    assert again["comparison"] == done.outcome["comparison"]
    assert again["registered"] == done.outcome["registered"]


def test_interrupting_changes_no_figure(done: Done) -> None:
    command = ("compare", "--strategies", "scaffold,fedavg", "--seeds", "2026,", "--name", "straight")
    straight = done.place.fedmed(*command)["comparison"]
    known = done.outcome["comparison"]["variants"]
    for variant in straight["variants"]:
        (same,) = [of for of in known if (of["strategy"], of["seed"]) == (variant["strategy"], variant["seed"])]
        assert variant["losses"] == same["losses"]
        assert variant["values"]["federated"] == same["values"]["federated"]


def test_only_the_first_variant_trains_what_hospitals_could_do_alone(done: Done) -> None:
    variants = done.outcome["comparison"]["variants"]
    assert ["own" in variant["values"] for variant in variants] == [True, False, False, False]


def test_bytes_follow_from_the_size_of_the_model(done: Done) -> None:
    # Four hospitals fetch the model to train and again to evaluate it; scaffold also fetches c, as large as the model.
    sizes = {}
    for strategy in ("fedavg", "scaffold"):
        training = done.folder / f"{strategy}-2026" / "coordinator" / "training"
        sizes[strategy] = json.loads((training / "rounds.json").read_text())["rounds"][0]["model"]["size"]
        moved = done.outcome["comparison"]["strategies"][strategy]
        shared = moved["traffic_of_a_round"]["down"] - 8 * sizes[strategy]
        assert shared == 0 if strategy == "fedavg" else 0 < shared < 8 * sizes[strategy]
        assert moved["traffic"]["down"] == 3 * moved["traffic_of_a_round"]["down"]
    up = {name: entry["traffic"]["up"] for name, entry in done.outcome["comparison"]["strategies"].items()}
    assert up["fedavg"] < up["scaffold"] < 2 * up["fedavg"]  # the change and c's, behind one header


def test_tables_and_plots_are_written(done: Done) -> None:
    names = {path.name for path in done.folder.iterdir() if path.is_file()}
    assert names == {"table.md", "table.csv", "results.json", "validation_loss.png", "bytes.png"}
    assert "| scaffold |" in (done.folder / "table.md").read_text()


def test_mlflow_has_one_run_with_its_variants_below_it(done: Done) -> None:
    registered = done.outcome["registered"]
    with opened(done.place.root / "coordinator" / "mlflow") as client:
        (comparison,) = client.search_runs([registered["experiment_id"]], "attributes.run_name = 'compare few'")
        assert comparison.info.run_id == registered["mlflow_run_id"]
        mark = comparison.data.tags["fedmed.comparison"]
        runs = client.search_runs([registered["experiment_id"]], f"tags.`fedmed.comparison` = '{mark}'")
        assert len(runs) == 1 + len(NAMES)
        assert {run.info.status for run in runs} == {"FINISHED"}
        children = {
            run.info.run_name: run
            for run in runs
            if run.data.tags.get("mlflow.parentRunId") == registered["mlflow_run_id"]
        }
        assert set(children) == set(NAMES)
        for name, run in children.items():
            assert len(client.get_metric_history(run.info.run_id, "validation_loss")) == 3
            assert run.data.params["training.seed"] == name.partition("-")[2]
        assert client.search_model_versions() == []


def test_prefect_shows_a_sub_flow_for_every_variant(done: Done) -> None:
    with sqlite3.connect(done.place.root / ".prefect" / "prefect.db") as database:
        names = {name for (name,) in database.execute("select name from flow_run")}
    assert {"compare few", "fedavg · seed 2026", "scaffold · seed 2027"} <= names


def test_the_workspace_itself_is_left_as_it_was(done: Done) -> None:
    own = done.place.root / "coordinator"
    assert not (own / "training").exists()
    assert not (own / "exchange" / "payloads").exists()
    for site in SITES:
        assert (done.place.root / "sites" / site / "partition" / "manifest.json").exists()
    assert json.loads(done.place.call("dvc", "status", "--json", "validate").stdout) == {}


def test_a_strategy_that_diverges_is_named_and_the_others_are_compared(done: Done) -> None:
    ended = done.place.call(
        "fedmed",
        "--json",
        *("compare", "--strategies", "fedavg,mean", "--seeds", "1", "--name", "wild"),
        *("--set", "mean:training.learning_rate=1e9"),
        check=False,
    )
    assert ended.returncode == 1
    compared = json.loads(ended.stdout)["comparison"]
    assert list(compared["strategies"]) == ["fedavg"]
    assert list(compared["failed"]) == ["mean-2026"]

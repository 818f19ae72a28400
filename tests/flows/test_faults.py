"""What goes wrong at a hospital or with the coordinator, and what FedMed does about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from workplace import BIN, Workplace, embedded_rows, write_rows

pytestmark = pytest.mark.slow
Make = Callable[..., Workplace]


def in_months(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "age": str(12 * int(row["age"]))} for row in rows]


def test_a_hospital_whose_ages_are_in_months_is_quarantined_and_the_others_go_on(
    new_workspace: Make, tmp_path: Path
) -> None:
    place = new_workspace()
    place.call(
        "fedmed", "data", "add", "--site", "va", str(write_rows(tmp_path / "va.csv", in_months(embedded_rows("va"))))
    )
    outcome = place.fedmed("run")
    assert outcome["quarantined"] == {"va": ["age: range"]}
    assert sorted(outcome["test"]) == ["cleveland", "hungarian", "switzerland"]
    assert (place.root / "sites" / "va" / "contract" / "data_docs" / "index.html").exists()


def test_a_hospital_with_five_rows_is_quarantined(new_workspace: Make, tmp_path: Path) -> None:
    place = new_workspace()
    rows = write_rows(tmp_path / "va.csv", embedded_rows("va")[:5])
    place.call("fedmed", "data", "add", "--site", "va", str(rows))
    done = place.call("fedmed", "--json", "validate", check=False)
    assert done.returncode == 5
    outcome = json.loads(done.stdout)
    assert outcome["admitted"] == ["cleveland", "hungarian", "switzerland"]
    assert "table: rows" in outcome["quarantined"]["va"]


def test_too_few_hospitals_stop_the_run_with_the_reasons(new_workspace: Make, tmp_path: Path) -> None:
    place = new_workspace(federation__quorum=4)
    place.call(
        "fedmed", "data", "add", "--site", "va", str(write_rows(tmp_path / "va.csv", in_months(embedded_rows("va"))))
    )
    done = place.call("fedmed", "run", check=False)
    assert done.returncode == 5
    assert (
        "validation admitted 3 of 4 hospitals, but the quorum (federation.quorum) is 4. va: age: range" in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_a_flipped_bit_in_a_partition_stops_the_run_and_is_left_to_be_looked_at(
    trained: Workplace, tmp_path: Path
) -> None:
    place = trained.copy(tmp_path / "copy")
    path = place.root / "sites" / "va" / "partition" / "train.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for command in (("fedmed", "run"), ("dvc", "repro")):
        done = place.call(*command, check=False)
        assert done.returncode != 0
        assert "va/partition/train.parquet: does not open under this hospital's key" in done.stdout + done.stderr
    assert path.read_bytes() == content
    assert place.call("fedmed", "run", check=False).returncode == 4
    place.call("dvc", "checkout", "--force")
    assert place.fedmed("run")["ran"] == []


def test_a_file_that_is_not_as_declared_changes_nothing(new_workspace: Make, tmp_path: Path) -> None:
    place = new_workspace()
    file = tmp_path / "va.csv"
    file.write_bytes(write_rows(file, embedded_rows("va")).read_bytes().replace(b"va,", b"va\0,", 1))
    done = place.call("fedmed", "data", "add", "--site", "va", str(file), check=False)
    assert done.returncode == 3
    assert "NUL byte" in done.stderr
    assert not (place.root / "sites" / "va" / "records" / "records.parquet").exists()


def test_an_unknown_parameter_is_an_error_with_its_path(new_workspace: Make) -> None:
    place = new_workspace(training__learning_rat=0.1)
    done = place.call("fedmed", "run", check=False)
    assert done.returncode == 2
    assert "training.learning_rat: unknown key" in done.stderr


def test_a_run_that_was_killed_goes_on_to_the_identical_model(new_workspace: Make) -> None:
    whole = new_workspace("whole", training__rounds=25)
    expected = whole.fedmed("run")["chosen"]["sha256"]

    cut = new_workspace("cut", training__rounds=25)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    process = subprocess.Popen(
        [str(BIN / "fedmed"), "-q", "run"],
        cwd=cut.root,
        env={**environment, "PATH": f"{BIN}:{environment['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    journal = cut.root / "coordinator" / "journal.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if journal.exists() and journal.read_text().count('"event": "round"') >= 5:
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    updates = sorted((cut.root / "coordinator" / "exchange" / "messages").glob("*/*/update/*.json"))
    answered = {path: path.stat().st_mtime_ns for path in updates}
    assert len(answered) >= 20
    outcome = cut.fedmed("run")
    assert outcome["chosen"]["sha256"] == expected
    assert {path: path.stat().st_mtime_ns for path in answered} == answered, "a hospital trained a round again"


def test_a_forced_run_computes_everything_again_and_gets_the_same_model(new_workspace: Make) -> None:
    place = new_workspace()
    before = place.fedmed("run")["chosen"]["sha256"]
    updates = list((place.root / "coordinator" / "exchange" / "messages").glob("*/*/update/*.json"))
    written = {path: path.stat().st_mtime_ns for path in updates}
    outcome = place.fedmed("run", "--force")
    assert outcome["chosen"]["sha256"] == before
    assert all(path.stat().st_mtime_ns > written[path] for path in updates)


def test_the_journal_of_a_failed_run_says_where_it_ended(new_workspace: Make) -> None:
    place = new_workspace()
    (place.root / "cohorts" / "heart_disease.yaml").unlink()
    done = place.call("fedmed", "--json", "run", check=False)
    assert done.returncode == 2
    assert json.loads(done.stderr.splitlines()[-1])["error"] == "DeclarationError"

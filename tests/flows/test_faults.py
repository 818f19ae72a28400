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
from workplace import BIN, SITES, Workplace, embedded_rows, write_rows

pytestmark = pytest.mark.slow
Make = Callable[..., Workplace]


def updates(place: Workplace) -> list[Path]:
    """What stands in the exchange of what hospitals sent to be added up."""
    return sorted((place.root / "coordinator" / "exchange" / "to" / "coordinator").glob("*/*.train.*"))


def said(place: Workplace) -> list[str]:
    """The names of all answers in the hospitals' outboxes."""
    chains = [(place.root / "sites" / site / "outbox" / "chain.jsonl").read_text() for site in SITES]
    return [json.loads(line)["name"] for chain in chains for line in chain.splitlines()]


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

    answered = {path: path.stat().st_mtime_ns for path in updates(cut)}
    assert len(answered) >= 20
    outcome = cut.fedmed("run")
    assert outcome["chosen"]["sha256"] == expected
    assert {path: path.stat().st_mtime_ns for path in answered} == answered
    trained = [name for name in said(cut) if ".train." in name]
    assert len(trained) == len(set(trained)) == 25 * len(SITES), "a hospital trained a round again"


def test_a_forced_run_computes_everything_again_and_gets_the_same_model(new_workspace: Make) -> None:
    place = new_workspace()
    before = place.fedmed("run")["chosen"]["sha256"]
    written = updates(place)
    outcome = place.fedmed("run", "--force")
    assert outcome["chosen"]["sha256"] == before
    anew = set(updates(place)) - set(written)
    assert len(anew) == len(written) == 3 * len(SITES), "every hospital trains every round once more"
    trained = [name for name in said(place) if ".train." in name]
    assert len(trained) == len(set(trained)) == 2 * 3 * len(SITES)


def test_the_journal_of_a_failed_run_says_where_it_ended(new_workspace: Make) -> None:
    place = new_workspace()
    (place.root / "cohorts" / "heart_disease.yaml").unlink()
    done = place.call("fedmed", "--json", "run", check=False)
    assert done.returncode == 2
    assert json.loads(done.stderr.splitlines()[-1])["error"] == "DeclarationError"


def started(place: Workplace) -> subprocess.Popen[bytes]:
    """`fedmed run` in the background."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [str(BIN / "fedmed"), "-q", "run"],
        cwd=place.root,
        env={**environment, "PATH": f"{BIN}:{environment['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for_rounds(place: Workplace, process: subprocess.Popen[bytes], number: int) -> None:
    journal = place.root / "coordinator" / "journal.jsonl"
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if journal.exists() and journal.read_text().count('"event": "round"') >= number:
            return
        time.sleep(0.02)
    raise AssertionError("the run ended, or did not come so far")


def test_parameters_edited_in_the_middle_of_a_run_change_nothing_of_it_and_are_due_afterwards(
    new_workspace: Make,
) -> None:
    expected = new_workspace("whole", training__rounds=20).fedmed("run")
    place = new_workspace("edited", training__rounds=20)
    process = started(place)
    wait_for_rounds(place, process, 3)
    place.parameters(training__learning_rate=0.01, training__rounds=3, privacy__minimum_cell=20)
    assert process.wait(timeout=120) == 0
    outcome = place.fedmed("status")
    assert outcome["rounds"] == 20
    assert outcome["chosen"]["sha256"] == expected["chosen"]["sha256"]
    assert "train" in json.loads(place.call("dvc", "status", "--json").stdout)
    again = place.fedmed("run")
    assert again["rounds"] == 3
    assert "train" in again["ran"]


IN_PROCESS = """
import json, os, sys, threading, time
from pathlib import Path
root = Path(sys.argv[1])
from flows.environment import prefect_environment
with prefect_environment(root):
    {patch}
    from flows.federated_training import federated_training
    federated_training(workspace=str(root))
    from prefect.client.orchestration import get_client
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(limit=200)
    print(json.dumps([[run.name, run.state_type.value, run.run_count] for run in runs]))
"""


def in_process(place: Workplace, patch: str) -> list[tuple[str, str, int]]:
    """The flow in a process of its own, with something of FedMed's replaced first: name, state, tries of each task."""
    script = place.root.parent / "script.py"
    script.write_text(IN_PROCESS.format(patch=patch.replace("\n", "\n    ")))
    done = place.call("python", str(script), str(place.root))
    return [tuple(entry) for entry in json.loads(done.stdout.splitlines()[-1])]


def test_an_aggregate_that_fails_is_tried_again(new_workspace: Make) -> None:
    tasks = in_process(
        new_workspace(),
        """from fedmed.engine import loop
move, failures = loop.move, [OSError("the disk is full for a moment")]
def failing(how, number, *rest):
    if number == 2 and failures:
        raise failures.pop()
    return move(how, number, *rest)
loop.move = failing""",
    )
    tries = {name: (state, count) for name, state, count in tasks if name.startswith("aggregate")}
    assert tries == {
        "aggregate · round 01": ("COMPLETED", 1),
        "aggregate · round 02": ("COMPLETED", 2),
        "aggregate · round 03": ("COMPLETED", 1),
    }


def test_a_hospital_that_hangs_is_left_out_and_hangs_nobody(new_workspace: Make) -> None:
    place = new_workspace(federation__answer_within=30, training__rounds=1)  # the contract alone takes a while
    tasks = in_process(
        place,
        """import fedmed.site.answers as answers
train = answers.train
answers.train = lambda request: time.sleep(3600) if request.home.name == "va" else train(request)""",
    )
    states = {name: state for name, state, _ in tasks}
    assert states["train · va · round 01"] == "FAILED"
    assert states["train · cleveland · round 01"] == states["register model"] == "COMPLETED"
    rounds = json.loads((place.root / "coordinator" / "training" / "rounds.json").read_text())["rounds"]
    assert [entry["participants"] for entry in rounds] == [["cleveland", "hungarian", "switzerland"]]
    assert "did not answer within 30 seconds" in rounds[0]["sites"]["va"]["refused"]


def test_an_update_that_was_lost_or_torn_in_the_exchange_is_healed_from_the_outbox(new_workspace: Make) -> None:
    place = new_workspace(training__rounds=25)
    process = started(place)
    wait_for_rounds(place, process, 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    whole = {path: path.read_bytes() for path in updates(place)}
    last = max(path.name.split(".")[1] for path in whole)
    torn, *others = [path for path in whole if path.name.split(".")[1] == last]
    torn.write_bytes(whole[torn][: len(whole[torn]) // 2])
    for path in others:
        path.unlink()
    place.fedmed("run")
    undisturbed = new_workspace("undisturbed", training__rounds=25).fedmed("run")["chosen"]["sha256"]
    assert place.fedmed("status")["chosen"]["sha256"] == undisturbed

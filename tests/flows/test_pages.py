"""What a person opens: Prefect's and MLflow's pages on a workspace, and the flows on their schedules."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from workplace import BIN, SITES, Workplace

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def get(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def pages(trained: Workplace) -> Iterator[dict[str, str]]:
    """`fedmed ui` on the trained workspace: what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    process = subprocess.Popen(
        [str(BIN / "fedmed"), "--json", "ui", "--prefect-port", str(free_port()), "--mlflow-port", str(free_port())],
        cwd=trained.root,
        env={**environment, "PATH": f"{BIN}:{environment['PATH']}"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        printed = ""
        until = time.monotonic() + 150
        while not printed.rstrip().endswith("}") and time.monotonic() < until:
            printed += process.stdout.readline()
        yield json.loads(printed)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        process.stdout.close()


def test_prefects_page_draws_a_rounds_tasks_inside_the_round(pages: dict[str, str]) -> None:
    (run,) = get(f"{pages['prefect_api']}/flow_runs/filter", {"flow_runs": {"name": {"like_": "training"}}})
    assert run["state_type"] == "COMPLETED"
    nodes = dict(get(f"{pages['prefect_api']}/flow_runs/{run['id']}/graph-v2")["nodes"])
    rounds = {node["id"]: node["label"] for node in nodes.values() if node["label"].startswith("round ")}
    inside = [rounds[outer["id"]] for node in nodes.values() for outer in node["encapsulating"]]
    assert sorted(set(inside)) == ["round 01 of 03", "round 02 of 03", "round 03 of 03"]
    assert len(inside) == 3 * (4 + 1 + 4)


def test_prefects_api_names_every_step_of_a_run_as_the_design_does(pages: dict[str, str]) -> None:
    (run,) = get(f"{pages['prefect_api']}/flow_runs/filter", {"flow_runs": {"name": {"like_": "training"}}})
    body = {"flow_runs": {"id": {"any_": [run["id"]]}}, "limit": 200}
    names = [task["name"] for task in get(f"{pages['prefect_api']}/task_runs/filter", body)]
    for site in SITES:
        assert names.count(f"validate · {site}") == names.count(f"evaluate · {site}") == 1
        for number in (1, 2, 3):
            assert names.count(f"train · {site} · round {number:02d}") == 1
            assert names.count(f"score · {site} · round {number:02d}") == 1
    for number in (1, 2, 3):
        assert names.count(f"round {number:02d} of 03") == names.count(f"aggregate · round {number:02d}") == 1
    assert names.count("register model") == 1


def test_prefects_page_has_tables_progress_and_the_way_to_mlflow(pages: dict[str, str], trained: Workplace) -> None:
    artifacts = {entry["key"]: entry for entry in get(f"{pages['prefect_api']}/artifacts/filter", {})}
    expected = {
        "admissions",
        "rounds",
        "rounds-done",
        "evaluation",
        "spread",
        "subgroups",
        "did-federating-help",
        "mlflow-run",
    }
    assert set(artifacts) >= expected
    assert len(json.loads(artifacts["rounds"]["data"])) == 3
    (version,) = trained.fedmed("models")
    assert version["mlflow_run_id"] in artifacts["mlflow-run"]["data"]


def test_mlflows_page_has_curves_lineage_and_the_champion(pages: dict[str, str], trained: Workplace) -> None:
    (version,) = trained.fedmed("models")
    api = f"{pages['mlflow']}/api/2.0/mlflow"
    run = get(f"{api}/runs/get?run_id={version['mlflow_run_id']}")["run"]["data"]
    assert {"validation_loss", "cleveland/validation_loss", "test/cleveland/accuracy"} <= {
        m["key"] for m in run["metrics"]
    }
    assert {"training.learning_rate", "aggregation.strategy"} <= {p["key"] for p in run["params"]}
    tags = {tag["key"]: tag["value"] for tag in run["tags"]}
    (page,) = (trained.root / "coordinator" / "mlflow").rglob(f"{version['mlflow_run_id']}/**/lineage.json")
    lineage = json.loads(page.read_text())
    assert len(lineage["sites"]["cleveland"]["fingerprint"]) == 64
    assert lineage["sites"]["cleveland"]["fingerprint"].startswith(tags["lineage.cleveland"])
    assert lineage["sites"]["cleveland"]["dvc"].endswith(".dir")
    assert lineage["participants"]["3"] == ["cleveland", "hungarian", "switzerland", "va"]
    curve = get(f"{api}/metrics/get-history?run_id={version['mlflow_run_id']}&metric_key=validation_loss")["metrics"]
    assert [point["step"] for point in curve] == [1, 2, 3]
    champion = get(f"{api}/registered-models/alias?name=heart-disease&alias=champion")["model_version"]
    assert champion["version"] == str(version["version"])


def test_a_run_beside_open_pages_appears_on_them(pages: dict[str, str], trained: Workplace) -> None:
    trained.call("fedmed", "validate")
    runs = get(f"{pages['prefect_api']}/flow_runs/filter", {"flow_runs": {"name": {"like_": "site validation"}}})
    assert [run["state_type"] for run in runs] == ["COMPLETED"]


def test_the_flows_are_scheduled_without_a_work_pool(pages: dict[str, str], trained: Workplace) -> None:
    trained.call("fedmed", "schedule", "--once")
    deployments = get(f"{pages['prefect_api']}/deployments/filter", {})
    crons = {entry["name"]: [s["schedule"]["cron"] for s in entry["schedules"]] for entry in deployments}
    assert crons == {"training": ["0 2 * * 0"], "nightly-validation": ["0 1 * * *"]}
    assert {entry["entrypoint"] for entry in deployments} == {
        "flows.federated_training.federated_training",
        "flows.site_validation.site_validation",
    }


def test_prefect_deploys_all_without_a_question(trained: Workplace, tmp_path: Path) -> None:
    place = trained.copy(tmp_path / "copy")
    (place.root / ".prefect" / "server.json").unlink(missing_ok=True)
    done = place.call("prefect", "--no-prompt", "deploy", "--all")
    assert done.stdout.count("successfully created") + done.stdout.count("successfully updated") == 2
    with sqlite3.connect(place.root / ".prefect" / "prefect.db") as database:
        names = {name for (name,) in database.execute("select name from deployment")}
    assert names == {"training", "nightly-validation"}

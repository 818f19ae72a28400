"""The pages of a workspace: Prefect's and MLflow's own servers, started together and ended together."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from fedmed.errors import WorkspaceError
from fedmed.registry import environment
from fedmed.workspace import Workspace
from flows.environment import server_settings

STARTUP_SECONDS = 120
HOST = "127.0.0.1"


def serve_pages(place: Workspace, prefect_port: int, mlflow_port: int, *, say: Callable[[Any, str], None]) -> None:
    """Start both servers on loopback, say where they are, and wait until interrupted.

    Raises:
        WorkspaceError: if a server does not start; the other one is ended.
    """
    prefect, mlflow = f"http://{HOST}:{prefect_port}", f"http://{HOST}:{mlflow_port}"
    servers = {
        "Prefect": (f"{prefect}/api/health", _prefect(place, prefect_port)),
        "MLflow": (f"{mlflow}/health", _mlflow(place, mlflow_port)),
    }
    try:
        for name, (health, process) in servers.items():
            _await(name, health, process)
        text = (
            f"Prefect  {prefect}   flows, rounds, tasks, tables\n"
            f"MLflow   {mlflow}   runs, curves, models\n"
            f"Flows of another terminal appear here while they run with PREFECT_API_URL={prefect}/api. Ctrl-C ends both."
        )
        say({"prefect": prefect, "mlflow": mlflow, "prefect_api": f"{prefect}/api"}, text)
        while all(process.poll() is None for _, process in servers.values()):
            time.sleep(0.5)
        raise WorkspaceError("a server ended by itself; its log is in coordinator/logs")
    finally:
        for _, process in servers.values():
            process.terminate()
        for _, process in servers.values():
            process.wait(timeout=30)


def _prefect(place: Workspace, port: int) -> subprocess.Popen[bytes]:
    settings = {**server_settings(place.root), "PREFECT_SERVER_UI_API_URL": f"http://{HOST}:{port}/api"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    return _start(place, "prefect", command, settings)


def _mlflow(place: Workspace, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    return _start(place, "mlflow", command, environment(place.tracking))


def _start(place: Workspace, name: str, command: list[str], settings: dict[str, str]) -> subprocess.Popen[bytes]:
    log = place.coordinator / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        return subprocess.Popen(command, env={**os.environ, **settings}, cwd=place.root, stdout=file, stderr=file)  # noqa: S603  # fixed words


def _await(name: str, health: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise WorkspaceError(
                f"{name} did not start (is its port taken? choose another one); its log is in coordinator/logs"
            )
        try:
            with urllib.request.urlopen(health, timeout=2):  # noqa: S310  # loopback
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.3)
    raise WorkspaceError(f"{name} did not answer within {STARTUP_SECONDS} s; its log is in coordinator/logs")

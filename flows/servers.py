"""The pages of a workspace: Prefect's and MLflow's own servers, started together and ended together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NamedTuple

from fedmed.errors import WorkspaceError
from fedmed.files import write_json
from fedmed.registry import environment
from fedmed.workspace import Workspace
from flows.environment import SERVER_FILE, running_server, server_settings

STARTUP_SECONDS = 120
HOST = "127.0.0.1"


def serve_pages(place: Workspace, prefect_port: int, mlflow_port: int, *, say: Callable[[Any, str], None]) -> None:
    """Start both servers on loopback, say where they are, and wait until interrupted.

    Raises:
        WorkspaceError: if a server does not start, or ends by itself; the other one is ended.
    """
    with prefect_server(place, prefect_port) as prefect, _mlflow_server(place, mlflow_port) as mlflow:
        text = (
            f"Prefect  {prefect.pages}   flows, rounds, tasks, tables\n"
            f"MLflow   {mlflow.pages}   runs, curves, models\n"
            "`fedmed run` in another terminal appears here while it goes on. Ctrl-C ends both."
        )
        say({"prefect": prefect.pages, "prefect_api": f"{prefect.pages}/api", "mlflow": mlflow.pages}, text)
        while prefect.process.poll() is None and mlflow.process.poll() is None:
            time.sleep(0.5)
        raise WorkspaceError("a server ended by itself; its log is in coordinator/logs")


class Server(NamedTuple):
    """A running server and where its pages are."""

    pages: str
    process: subprocess.Popen[bytes]


@contextmanager
def prefect_server(place: Workspace, port: int) -> Iterator[Server]:
    """Prefect's server on this workspace, for the time of the block; `fedmed run` finds and uses it.

    Raises:
        WorkspaceError: if it does not start, or one is running on this workspace already.
    """
    if (api := running_server(place.root)) is not None:
        raise WorkspaceError(f"a Prefect server runs on this workspace already: {api.removesuffix('/api')}")
    pages = f"http://{HOST}:{port}"
    settings = {**server_settings(place.root), "PREFECT_SERVER_UI_API_URL": f"{pages}/api"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    note = place.root / ".prefect" / SERVER_FILE
    with _running(place, "prefect", command, settings, pages, f"{pages}/api/health") as server:
        write_json(note, {"api": f"{pages}/api"})
        try:
            yield server
        finally:
            note.unlink(missing_ok=True)


def _mlflow_server(place: Workspace, port: int) -> AbstractContextManager[Server]:
    pages = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    return _running(place, "mlflow", command, environment(place.coordinator.tracking), pages, f"{pages}/health")


@contextmanager
def _running(
    place: Workspace, name: str, command: list[str], settings: dict[str, str], pages: str, health: str
) -> Iterator[Server]:
    port = int(pages.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise WorkspaceError(f"{name}: port {port} is taken by another program; choose another one") from None
    process = _start(place, name, command, settings)
    try:
        _await(name, health, process)
        yield Server(pages, process)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server and whatever it has started: it leads a process group of its own."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            continue
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a child that outlived it
        return


def _start(place: Workspace, name: str, command: list[str], settings: dict[str, str]) -> subprocess.Popen[bytes]:
    log = place.coordinator.path / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        whole = {**os.environ, **settings}
        return subprocess.Popen(  # noqa: S603  # fixed words
            command, env=whole, cwd=place.root, stdout=file, stderr=file, start_new_session=True
        )


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

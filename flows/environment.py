"""Prefect, set up for one workspace: its own home, quiet, offline, and nothing lost at the end of a run."""

from __future__ import annotations

import json
import logging
import os
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmed.errors import SettingsError

SERVER_FILE = "server.json"


def server_settings(root: Path) -> dict[str, str]:
    """The workspace's prefect.toml as environment variables, for a Prefect inside this process or beside it.

    Raises:
        SettingsError: if the file is missing or no TOML.
    """
    path = root / "prefect.toml"
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: there is no such file. `fedmed init` writes one.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SettingsError(f"{path}: not valid TOML: {problem}") from None
    settings = dict(_flat(written, "PREFECT"))
    settings["PREFECT_HOME"] = str(root / settings.get("PREFECT_HOME", ".prefect"))
    return {**settings, "DO_NOT_TRACK": "1"}


def _flat(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        name = f"{prefix}_{key.upper()}"
        if isinstance(value, dict):
            yield from _flat(value, name)
        else:
            yield name, str(value).lower() if isinstance(value, bool) else str(value)


@contextmanager
def prefect_environment(root: Path) -> Iterator[None]:
    """Set Prefect up for this process. What the environment says already stays; call before Prefect is imported.

    A server that `fedmed ui` runs on this workspace is used, so that a run is seen while it goes on. Otherwise Prefect
    starts one for the time of the run.
    """
    # The command line says itself what went wrong; Prefect's pages keep the log.
    settings = {**server_settings(root), "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
    if (api := running_server(root)) is not None:
        settings["PREFECT_API_URL"] = api
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    logging.getLogger("prefect.task_runs").addFilter(_no_thread_warning)
    yield


def running_server(root: Path) -> str | None:
    """The API address of the Prefect server that runs on this workspace, or None."""
    try:
        api = str(json.loads((root / ".prefect" / SERVER_FILE).read_text(encoding="utf-8"))["api"])
        with urllib.request.urlopen(f"{api}/health", timeout=2):  # noqa: S310  # our own file, loopback
            return api
    except (OSError, ValueError, KeyError, urllib.error.URLError):
        return None


def _no_thread_warning(record: logging.LogRecord) -> bool:
    # Every task with a time limit in a worker thread is warned of; `ask` has a deadline of its own for what hangs.
    return "is running in a worker thread" not in record.getMessage()

"""Serve the flows of prefect.yaml on their schedules from one process, without a work pool."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from prefect import Flow, serve
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType

from fedmed.errors import SettingsError


def serve_flows(root: Path, *, say: Callable[[str], None], once: bool = False) -> None:
    """Make a deployment of every entry of prefect.yaml and run it on its schedule, until interrupted.

    Args:
        root: the workspace.
        say: where to tell what is served.
        once: only register the deployments.

    Raises:
        SettingsError: if prefect.yaml does not say what to serve.
    """
    deployments = [_deployment(entry, root) for entry in read_deployments(root / "prefect.yaml")]
    for deployment in deployments:
        crons = ", ".join(str(getattr(schedule.schedule, "cron", "")) for schedule in deployment.schedules or ())
        say(f"{deployment.flow_name} / {deployment.name}: {crons or 'no schedule'} (UTC)")
    if once:
        for deployment in deployments:
            deployment.apply()
        return
    serve(*deployments)


def read_deployments(path: Path) -> list[dict[str, Any]]:
    """The deployments that a prefect.yaml declares.

    Raises:
        SettingsError: if there is none, or one names no flow of FedMed's.
    """
    try:
        entries: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
    except FileNotFoundError:
        raise SettingsError(f"{path}: there is no such file. `fedmed init` writes one.") from None
    except (yaml.YAMLError, KeyError, TypeError):
        raise SettingsError(f"{path}: expected a list under `deployments`") from None
    for entry in entries:
        if not str(entry.get("entrypoint", "")).startswith("flows.") or not entry.get("name"):
            raise SettingsError(f"{path}: a deployment needs a `name` and an `entrypoint` such as flows.module.flow")
    return entries


def _deployment(entry: dict[str, Any], root: Path) -> RunnerDeployment:
    module, _, name = str(entry["entrypoint"]).rpartition(".")
    flow: Flow[..., Any] = getattr(importlib.import_module(module), name)
    deployment = flow.to_deployment(
        name=entry["name"],
        description=entry.get("description"),
        parameters={**entry.get("parameters", {}), "workspace": str(root)},
        cron=[schedule["cron"] for schedule in entry.get("schedules", ())],
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    if not isinstance(deployment, RunnerDeployment):
        raise TypeError("outside an event loop, Prefect gives the deployment itself")
    return deployment

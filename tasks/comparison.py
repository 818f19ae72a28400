"""What becomes of a comparison of strategies, as tasks: its tables and plots, and its runs in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task

from fedmed.comparison.compared import Compared, write_comparison
from fedmed.comparison.trials import comparison_release
from fedmed.comparison.variants import folder_of
from fedmed.workspace import Workspace
from tasks.receipts import SHARED


@task(name="compare", task_run_name="tables and plots", timeout_seconds=900, **SHARED)
def write(root: Path, compared: Compared) -> list[Path]:
    """Write the comparison's tables and plots."""
    return list(write_comparison(folder_of(Workspace(root), compared.name), compared))


@task(name="register comparison", task_run_name="register comparison", timeout_seconds=900, **SHARED)
def register(root: Path, compared: Compared, plots: list[Path]) -> dict[str, Any]:
    """Register the comparison as a run with one below it for each variant; the same again changes nothing."""
    from fedmed import registry

    workspace = Workspace(root)
    release = comparison_release(workspace, compared, plots)
    experiment, tracking = workspace.settings.registry.experiment, workspace.coordinator.tracking
    answer = registry.register_comparison(release, experiment, tracking)
    return answer.model_dump()

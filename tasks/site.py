"""What a hospital does, as tasks: each hands an invitation to the hospital's own code and returns its receipt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from prefect import Task, task

from fedmed.exchange.folder import FolderExchange
from fedmed.site.answers import answer
from fedmed.site.home import SiteHome, partition_records
from fedmed.site.log import kept_at_home
from fedmed.wire.messages import Invitation, Purpose, Receipt
from fedmed.workspace import Workspace
from tasks.receipts import SHARED

torch.set_num_threads(1)  # sites work side by side, one core each; torch's own threads would only compete


def _answer(invitation: Invitation, home: Path, exchange: Path) -> Receipt:
    """Let the hospital whose folder is `home` answer; its answer goes into the exchange, the receipt comes back."""
    with kept_at_home(SiteHome(home)):
        return answer(SiteHome(home), invitation, FolderExchange(exchange))


def _site_task(purpose: Purpose, name: str, *, minutes: float, verb: str) -> Task[..., Receipt]:
    return Task(
        _answer,
        name=purpose,
        description=f"{verb} Returns a receipt; the answer itself is in the exchange.",
        task_run_name=name,
        timeout_seconds=60 * minutes,
        **SHARED,
    )


SITE_TASKS: dict[Purpose, Task[..., Receipt]] = {
    "validate": _site_task(
        "validate",
        "validate · {invitation.recipient}",
        minutes=15,
        verb="Hold the hospital's data against the contract.",
    ),
    "describe": _site_task(
        "describe", "describe · {invitation.recipient}", minutes=15, verb="Send counts and sums of the training rows."
    ),
    "statistics": _site_task(
        "statistics", "statistics · {invitation.recipient}", minutes=5, verb="Send the sums of the number columns."
    ),
    "train": _site_task(
        "train",
        "train · {invitation.recipient} · round {invitation.round:02d}",
        minutes=60,
        verb="Train on the hospital's own rows.",
    ),
    "evaluate": _site_task(
        "evaluate",
        "evaluate · {invitation.recipient} · round {invitation.round:02d}",
        minutes=15,
        verb="Measure the round's model on the hospital's validation rows.",
    ),
    "test": _site_task(
        "test",
        "test · {invitation.recipient}",
        minutes=60,
        verb="Measure the chosen model on the hospital's test rows.",
    ),
}


@task(name="partition", task_run_name="partition · {site}", timeout_seconds=900, **SHARED)
def partition(root: Path, site: str) -> dict[str, Any]:
    """Split and encrypt a hospital's records; what the coordinator may know of it becomes a receipt."""
    workspace = Workspace(root)
    home = SiteHome(workspace.home(site))
    with kept_at_home(home):
        receipt, written = partition_records(home, workspace.cohort(), workspace.settings().split)
    workspace.keep_receipt(receipt)
    return {**receipt.model_dump(), "written": written}

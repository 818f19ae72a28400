"""What a hospital does, as tasks: each is one step of the hospital's agent and returns its receipt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from prefect import Task, task
from prefect.runtime import task_run

from fedmed.data.cohort import Cohort
from fedmed.data.split import SplitOptions
from fedmed.deadline import within
from fedmed.exchange.folder import FolderExchange
from fedmed.site.agent import Receipt, step
from fedmed.site.home import SiteHome, partition_records
from fedmed.site.log import kept_at_home
from fedmed.wire.purposes import PURPOSES, Purpose
from tasks.receipts import RETRIES, SHARED

torch.set_num_threads(1)  # sites work side by side, one core each; torch's own threads would only compete


def _step(site: str, round: int, run: str, question: str, home: Path, exchange: Path, seconds: float) -> Receipt:
    """Let the hospital whose folder is `home` answer what its inbox holds under a name, within so many seconds.

    A time limit of Prefect's does not stop a thread. This one leaves it behind: whoever waits goes on.
    """
    last = (task_run.run_count or 1) > RETRIES
    return within(seconds, site, lambda: step(SiteHome(home), FolderExchange(exchange), run, question, last=last))


def _site_task(name: str, purpose: Purpose) -> Task[..., Receipt]:
    return Task(
        _step,
        name=name,
        description=f"{purpose.says} Returns a receipt; the answer itself is in the exchange.",
        task_run_name=purpose.title,
        **SHARED,
    )


SITE_TASKS: dict[str, Task[..., Receipt]] = {name: _site_task(name, purpose) for name, purpose in PURPOSES.items()}


@task(name="partition", task_run_name="partition · {site}", **SHARED)
def partition(site: str, home: SiteHome, cohort: Cohort, split: SplitOptions, seconds: float) -> dict[str, Any]:
    """Split and encrypt a hospital's records; what the coordinator may know of it comes back as a receipt."""
    with kept_at_home(home):
        receipt, written = within(seconds, site, lambda: partition_records(home, cohort, split))
    return {"receipt": receipt, "written": written}

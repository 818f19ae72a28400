"""What every task has in common: it returns a receipt, persists nothing, and is retried only where that can help."""

from __future__ import annotations

from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from fedmed.errors import FedMedError, SiteFailed

RETRIES = 2


def can_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether a failure may pass by itself: a full disk or a lost connection may, a refused message does not."""
    problem = state.data  # the exception itself; asking the state for its result would raise it
    return not isinstance(problem, FedMedError) or isinstance(problem, SiteFailed)


SHARED: dict[str, Any] = {
    "cache_policy": NO_CACHE,  # the default hashes every input, and results live in homes and exchange, not in Prefect
    "persist_result": False,
    "retries": RETRIES,
    "retry_delay_seconds": [1, 5],
    "retry_condition_fn": can_pass,
}

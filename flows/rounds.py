"""One round of federated training: train at each site, aggregate, score at each site.

The round itself is `fedmed.engine`'s; here it becomes a task that calls tasks. On the run's page it is one bar that
opens to show its sites' tasks. A sub-flow would be that too, for 0.2 to 1.1 s a round in place of 0.04
(docs/adr/0006-a-round-is-a-task-of-tasks.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.transactions import CommitMode, transaction

from fedmed.coordinator.history import RoundRecord


@task(name="round", task_run_name="round {number:02d} of {of:02d}", cache_policy=NO_CACHE, persist_result=False)
def federated_round(rounds: Iterator[RoundRecord], number: int, of: int) -> dict[str, Any]:
    """Run the next round; its tasks are shown inside it.

    Returns:
        The round's number, its participants, its validation loss, and who was refused or did not answer, and why.
    """
    # EAGER: what a hospital has finished counts at once, and is not renamed "rolled back" if the round fails later.
    with transaction(commit_mode=CommitMode.EAGER):
        record = next(rounds)
    refused = {site: entry.refused for site, entry in record.sites.items() if entry.refused}
    return {
        "round": record.round,
        "participants": list(record.participants),
        "loss": record.validation_loss,
        "refused": refused,
    }

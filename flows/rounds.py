"""One round of federated training: invite, train at each site, aggregate, evaluate at each site.

A round is a task that calls tasks. On the run's page it is one bar that opens to show its sites' tasks. A sub-flow
would be that too, for 0.2 to 1.1 s a round in place of 0.04 (docs/adr/0006-a-round-is-a-task-of-tasks.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.transactions import CommitMode, transaction

from fedmed.coordinator.admission import check_quorum
from fedmed.coordinator.evaluation import plan_of
from fedmed.coordinator.rounds import invite, invite_to_train, record_round
from fedmed.wire.messages import Payload
from fedmed.workspace import Workspace
from flows.asking import ask
from tasks.coordinator import aggregate


@task(name="round", task_run_name="round {number:02d} of {of:02d}", cache_policy=NO_CACHE, persist_result=False)
def federated_round(root: Path, run: str, number: int, of: int, quorum: int, minimum_cell: int) -> dict[str, Any]:
    """Run one round; its tasks are shown inside it.

    Returns:
        The round's number, its participants, its validation loss, and who was refused or did not answer, and why.
    """
    # EAGER: what a hospital has finished counts at once, and is not renamed "rolled back" if the round fails later.
    with transaction(commit_mode=CommitMode.EAGER):
        return _run_round(Workspace(root), run, number, of, quorum, minimum_cell)


def _run_round(place: Workspace, run: str, number: int, of: int, quorum: int, minimum_cell: int) -> dict[str, Any]:
    exchange = place.exchange()
    plan = plan_of(run, exchange)
    invitations = invite_to_train(plan, number, minimum_cell, exchange)
    enough = min(quorum, len(invitations))  # a strategy may give fewer hospitals a turn than the quorum counts
    trained = ask(place, invitations, enough)
    result = aggregate(place.root, run, number, trained.answered)
    refused = {**trained.failed, **result["refused"]}
    check_quorum(len(result["participants"]), enough, f"round {number} could use", refused)
    model = Payload(sha256=result["sha256"], size=result["size"])
    ask(place, invite(plan, number, "evaluate", {"federated": model}, minimum_cell), quorum)
    record = record_round(plan, number, refused, exchange)
    place.journal().add("round", run=run, round=number, rounds=of, loss=record.validation_loss, refused=refused)
    return {"round": number, "participants": result["participants"], "loss": record.validation_loss, "refused": refused}

"""Ask hospitals side by side, and tell those that answered from those that did not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from prefect.settings import get_current_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from fedmed.coordinator.admission import check_quorum
from fedmed.errors import FedMedError
from fedmed.wire.messages import Invitation, Receipt
from fedmed.workspace import Workspace
from tasks.site import SITE_TASKS

SITES: TaskRunner[Any] = ThreadPoolTaskRunner(
    max_workers=get_current_settings().tasks.runner.thread_pool_max_workers or os.cpu_count() or 1
)
"""Runs sites side by side, on as many workers as there are cores, or as prefect.toml says."""


class Asked(NamedTuple):
    """Receipts of the hospitals that answered, and why the others did not."""

    receipts: list[Receipt]
    failed: dict[str, str]

    @property
    def answered(self) -> list[str]:
        """Names of the hospitals that answered."""
        return [receipt.site for receipt in self.receipts]


def ask(place: Workspace, invitations: Sequence[Invitation], quorum: int) -> Asked:
    """Post the invitations and wait for every hospital's receipt.

    Args:
        place: the workspace.
        invitations: of one purpose, one a hospital.
        quorum: fewest answers with which to go on.

    Raises:
        QuorumNotMet: if too few answered.
    """
    exchange = place.exchange()
    for invitation in invitations:
        exchange.post(invitation)
    futures = {
        invitation.recipient: SITE_TASKS[invitation.purpose].submit(
            invitation, place.home(invitation.recipient), place.exchange_folder
        )
        for invitation in invitations
    }
    asked = Asked([], {})
    for site, future in futures.items():
        try:
            asked.receipts.append(future.result())
        except FedMedError as problem:
            asked.failed[site] = str(problem)
        except Exception as problem:  # noqa: BLE001  # a time-out or a crash of one hospital must not end the others
            asked.failed[site] = type(problem).__name__
    check_quorum(len(asked.receipts), quorum, f"{invitations[0].topic} was answered by", asked.failed)
    return asked

"""The work pool that prefect.yaml names: it must exist before `prefect deploy` will refer to it."""

from __future__ import annotations

import asyncio

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

NAME = "fedmed"


def ensure_work_pool() -> None:
    """Make the work pool if there is none; a worker for it is started with `prefect worker start -p fedmed`."""
    asyncio.run(_ensure())


async def _ensure() -> None:
    async with get_client() as client:
        try:
            await client.create_work_pool(WorkPoolCreate(name=NAME, type="process", description="FedMed's deployments"))
        except ObjectAlreadyExists:
            return

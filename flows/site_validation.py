"""The nightly flow: ask every hospital whether its data keep the contract, and train nothing."""

from __future__ import annotations

from typing import Any

from prefect import flow

from fedmed.workspace import Workspace
from flows.asking import SITES
from flows.federated_training import partition_every_site, validate_every_site


@flow(
    name="site validation",
    flow_run_name="site validation",
    description=__doc__,
    task_runner=SITES,
    persist_result=False,
)
def site_validation(workspace: str = ".") -> dict[str, Any]:
    """Validate every hospital of a workspace on its present records; an unchanged partition is not rewritten.

    Returns:
        Names of the admitted hospitals; quarantined hospital → failed expectations.

    Raises:
        QuorumNotMet: if too few are admitted for a training run: better known the night before.
    """
    place = Workspace(workspace)
    partition_every_site(place, place.settings.federation.sites)
    admissions = validate_every_site(place)
    return {"admitted": admissions.admitted, "quarantined": admissions.quarantined}

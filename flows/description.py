"""The flow that describes the hospitals' data: counts, means and quantiles of the training rows, and no row leaves."""

from __future__ import annotations

from typing import Any

from prefect import flow

from fedmed.coordinator.description import ask_to_describe, description_id, read_description
from fedmed.coordinator.runs import read_admissions
from fedmed.workspace import Workspace
from flows.asking import SITES, ask
from flows.pages import show_description
from tasks import coordinator


@flow(
    name="describe data",
    flow_run_name="describe data",
    description=__doc__,
    task_runner=SITES,
    persist_result=False,
)
def describe_data(workspace: str = ".") -> dict[str, Any]:
    """Describe the training rows of the hospitals that the last validation admitted.

    Returns:
        The run's name, the hospitals described, and hospital → why it could not be.

    Raises:
        WorkspaceError: if no hospital has been validated yet.
        QuorumNotMet: if too few can be described.
    """
    place = Workspace(workspace)
    settings, home = place.settings, place.coordinator
    admissions = read_admissions(home)
    run = description_id(settings, place.cohort, admissions)
    asked = ask(place, ask_to_describe(settings, place.cohort, admissions, home.open_attempt(run, "describe")))
    home.close_attempt(run, "describe")
    asked.need(settings.federation.quorum, "the question for a description was answered by")
    outcome = coordinator.describe(run, home, settings, place.cohort, asked, place.exchange())
    show_description(read_description(home.description_file))
    return outcome

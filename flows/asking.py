"""How hospitals come to answer on one machine: a Prefect task for each runs one step of its agent."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from prefect.futures import as_completed
from prefect.settings import get_current_settings
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from fedmed.coordinator.asking import Asked, Call, Called, Posted, ask_all
from fedmed.errors import FedMedError
from fedmed.wire.messages import Question
from fedmed.wire.purposes import PURPOSES
from fedmed.workspace import Workspace
from tasks.site import SITE_TASKS

SITES: TaskRunner[Any] = ThreadPoolTaskRunner(
    max_workers=get_current_settings().tasks.runner.thread_pool_max_workers or os.cpu_count() or 1
)
"""Runs sites side by side, on as many workers as there are cores, or as prefect.toml says."""


def tasks_of_sites(place: Workspace) -> Call:
    """A way to have questions answered: each as a task with its title, retries and deadline."""

    def call(posted: Sequence[Posted]) -> Iterator[Called]:
        asked = {_submitted(place, question): question for question in posted}
        for future in as_completed(list(asked)):
            yield Called(asked[future], _problem(future))

    return call


def ask(place: Workspace, questions: Sequence[Question]) -> Asked:
    """Ask hospitals side by side, and wait for all: who answered, and why the others did not."""
    kind = PURPOSES[questions[0].purpose].answer
    return ask_all(place.exchange(), tasks_of_sites(place), questions, kind)


def _submitted(place: Workspace, question: Posted) -> Any:
    return SITE_TASKS[question.purpose].submit(
        site=question.site,
        round=question.round,
        run=question.run,
        question=question.name,
        home=place.home(question.site).path,
        exchange=place.coordinator.exchange_folder,
        seconds=place.settings.federation.answer_within,
    )


def _problem(future: Any) -> str:
    try:
        future.result()
    except FedMedError as problem:
        return str(problem)
    except Exception as problem:  # noqa: BLE001  # a crash of one hospital must not end the others
        return type(problem).__name__
    return ""

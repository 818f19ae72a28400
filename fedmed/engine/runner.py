"""How hospitals are asked, and how the coordinator's steps are run: the one thing that differs between rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple, Protocol, TypeVar

from fedmed.aggregation.stage import Told
from fedmed.errors import FedMedError

T = TypeVar("T")


class Question(NamedTuple):
    """What one hospital is asked in a round.

    Args:
        purpose: `train`, `score`, or `stage` for a question of a stage.
        round: from 1.
        site: who is asked.
        base: the round on whose model the answer is to be.
        sites: all hospitals that are asked this together, sorted.
        about: which question of which stage, as `stage.question`.
        told: what was answered to the stages' questions before.
    """

    purpose: str
    round: int
    site: str
    base: int
    sites: tuple[str, ...]
    about: str = ""
    told: Told = {}


class Answer(NamedTuple):
    """What a hospital said.

    `content` is a vector of integers for `train`, bytes for `stage`, and what the runner's hospitals tell for `score`;
    `name` is that of the bytes it came in, where it came in any.
    """

    site: str
    content: Any
    name: str = ""


class Refusal(NamedTuple):
    """That a hospital does not answer, and why."""

    site: str
    reason: str


Respond = Callable[[Question], Answer | Refusal]


class Runner(Protocol):
    """Asks hospitals and runs steps."""

    def ask(self, questions: Sequence[Question]) -> Iterator[Answer | Refusal]:
        """One answer or refusal for each question, as they come; nothing is raised for a hospital."""
        ...

    def step(self, name: str, work: Callable[[], T]) -> T:
        """Run a step of the coordinator under its name, and give what it gives; it may be run again if it fails."""
        ...


def _answered(respond: Respond, question: Question) -> Answer | Refusal:
    """What a hospital says; that it fails is its refusal."""
    try:
        return respond(question)
    except FedMedError as problem:
        return Refusal(question.site, str(problem))


class Here:
    """Hospitals of this process, one after the other."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    def ask(self, questions: Sequence[Question]) -> Iterator[Answer | Refusal]:
        """See :class:`Runner`."""
        return (_answered(self._respond, question) for question in questions)

    def step(self, name: str, work: Callable[[], T]) -> T:
        """See :class:`Runner`."""
        return work()


class Threads:
    """Hospitals of this process, so many side by side."""

    def __init__(self, respond: Respond, workers: int) -> None:
        self._respond, self._workers = respond, workers

    def ask(self, questions: Sequence[Question]) -> Iterator[Answer | Refusal]:
        """See :class:`Runner`."""
        with ThreadPoolExecutor(self._workers) as pool:
            for future in as_completed([pool.submit(_answered, self._respond, question) for question in questions]):
                yield future.result()

    def step(self, name: str, work: Callable[[], T]) -> T:
        """See :class:`Runner`."""
        return work()

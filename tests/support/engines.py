"""Runs of the engine over every runner, on the same hospitals: in this process, in others, and behind messages.

Everything here can be imported by a process that a runner has started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from golden import KINDS, Hospitals, Kind, cohort_of, settings_from
from plain import agents
from torch import Tensor

from fedmed.aggregation.grid import FixedPoint
from fedmed.aggregation.statistics import column_sums, pool_statistics
from fedmed.coordinator import training
from fedmed.coordinator.states import KeptStates
from fedmed.engine.members import Members
from fedmed.engine.processes import Processes, Workers
from fedmed.engine.runner import Answer, Here, Question, Refusal, Runner, Threads
from fedmed.exchange.base import Exchange
from fedmed.exchange.folder import FolderExchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.models.networks import initial_weights, network_for
from fedmed.seeds import numpy_generator, torch_generator
from fedmed.settings import Settings
from fedmed.site.desk import open_session
from fedmed.site.home import SiteHome
from fedmed.strategies.algorithm import State
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import loss_of
from fedmed.weights import Weights, sha256, to_bytes
from fedmed.wire.messages import Plan, decode_plan

torch.set_num_threads(1)  # as in tasks.site

SITES = ("centre", "east", "north")
"""Three of the five hospitals: enough that one is away and two are left."""
CELL = 10


class Agreed(NamedTuple):
    """A run that was agreed on, its first weights, and the hospitals' folders."""

    plan: Plan
    begin: Weights
    homes: Mapping[str, SiteHome]

    @property
    def first(self) -> State:
        """The state before the first round."""
        return self.plan.algorithm.start(self.begin)


def agree(run: str, hospitals: Hospitals, changes: Mapping[str, Any], kind: Kind = KINDS["own"]) -> Agreed:
    """A plan for three hospitals; the parameters are those of the golden runs, with some changed."""
    settings: Settings = settings_from({"network": kind.network, **changes})
    cohort = cohort_of(kind)
    homes = {site: home for site, home in hospitals.of(kind).items() if site in SITES}
    sessions = {site: open_session(home) for site, home in homes.items()}
    rows = {site: len(session.tables["train"]) for site, session in sessions.items()}
    strategy = STRATEGIES[settings.aggregation.strategy]
    weights = {site: strategy.weigh(count) for site, count in rows.items()}
    options = settings.aggregation
    begin = initial_weights(network_for(cohort, settings.network), torch_generator(settings.training.seed, "start"))
    sums = [column_sums(session.tables["train"], cohort, CELL) for session in sessions.values()]
    plan = Plan(
        run=run,
        participants=SITES,
        rows=rows,
        weights=weights,
        fingerprints={site: session.manifest.fingerprint for site, session in sessions.items()},
        cohort=cohort,
        statistics=pool_statistics(sums, cohort),
        network=settings.network,
        training=settings.training,
        aggregation=options,
        personal=settings.personal,
        grid=FixedPoint(bits=options.bits, limit=options.limit, weight=sum(weights.values())),
        start=sha256(to_bytes(begin)),
    )
    return Agreed(plan, begin, homes)


def members(plan: bytes, folders: Mapping[str, Path], states: Any, sites: Sequence[str]) -> Members:
    """Hospitals whose rows are those at the desks of their folders; what they score is the training loss."""
    agreed = decode_plan(plan)
    problems = {site: open_session(SiteHome(folders[site])).desk(agreed).problem() for site in sites}
    return Members(agreed.algorithm, problems, states, lambda site, state: loss_of(problems[site], state))


def members_elsewhere(
    enter: Callable[[], None], plan: bytes, folders: Mapping[str, Path], sites: Sequence[str]
) -> Members:
    """The same in another process, where first something is entered into the tables that the plan names."""
    enter()
    return members(plan, folders, {}, sites)


def nothing() -> None:
    """What is entered where nothing is."""


class Open(NamedTuple):
    """A runner at work: states that were saved, and whom it asks."""

    states: KeptStates
    runner: Runner


Opener = Callable[[], Open]
"""Begins anew from what was saved, as after the coordinator's end; the hospitals live on."""


class Case(NamedTuple):
    """What a runner is made of."""

    agreed: Agreed
    folder: Path
    workers: Workers
    enter: Callable[[], None] = nothing

    @property
    def folders(self) -> dict[str, Path]:
        """The hospitals' folders."""
        return {site: home.path for site, home in self.agreed.homes.items()}

    def kept(self) -> KeptStates:
        """The states as they lie on the disk; the first of them is written if there is none."""
        states = KeptStates(self.folder / "states", self.agreed.plan.algorithm)
        if 0 not in states:
            states[0] = self.agreed.first
        return states


def _in_this_process(case: Case, runner: Callable[[Members], Runner]) -> Opener:
    there = members(case.agreed.plan.encoded(), case.folders, case.kept(), SITES)
    return lambda: Open(case.kept(), runner(there))


def _in_processes(case: Case) -> Opener:
    make = partial(members_elsewhere, case.enter, case.agreed.plan.encoded(), case.folders)
    runner = Processes(case.workers, make, SITES, case.kept())
    return lambda: Open(case.kept(), runner)


def _behind(exchange: Callable[[], Exchange], case: Case) -> Opener:
    def opened() -> Open:
        case.kept()
        run, there = training.Run(case.folder, case.agreed.plan, 1, CELL), exchange()
        return Open(run.states, training.Hospitals(run, there, agents(case.agreed.homes, there)))

    return opened


def _over_memory(case: Case) -> Opener:
    exchange = MemoryExchange()
    return _behind(lambda: exchange, case)


RUNNERS: dict[str, Callable[[Case], Opener]] = {
    "here": lambda case: _in_this_process(case, Here),
    "threads": lambda case: _in_this_process(case, lambda there: Threads(there, 2)),
    "processes": _in_processes,
    "agents over a folder": lambda case: _behind(lambda: FolderExchange(case.folder / "exchange"), case),
    "agents over memory": _over_memory,
}


class Shuffled:
    """A runner whose answers come in a drawn order, after all of them are there."""

    def __init__(self, inner: Runner, seed: int) -> None:
        self._inner, self._chance = inner, numpy_generator(seed, "arrival")
        self.step = inner.step

    def ask(self, questions: Sequence[Question]) -> Iterator[Answer | Refusal]:
        """See :class:`Runner`."""
        answers = list(self._inner.ask(questions))
        return (answers[place] for place in self._chance.permutation(len(answers)))


class Losing:
    """A runner on whose way some hospitals' answers are lost: when they were sent, or before they were asked for.

    Args:
        inner: who carries the questions.
        lost: round → hospitals.
        asked: whether they are asked at all.
        about: the question of a stage whose answers are lost; those that are to train if left out.
    """

    def __init__(self, inner: Runner, lost: Mapping[int, Sequence[str]], *, asked: bool, about: str = "") -> None:
        self._inner, self._lost, self._asked = inner, lost, asked
        self._what = ("stage", about) if about else ("train", "")
        self.step = inner.step

    def ask(self, questions: Sequence[Question]) -> Iterator[Answer | Refusal]:
        """See :class:`Runner`."""

        def lost(question: Question) -> bool:
            what = question.purpose, question.about
            return what == self._what and question.site in self._lost.get(question.round, ())

        away = {question.site for question in questions if lost(question)}
        for answer in self._inner.ask([each for each in questions if self._asked or each.site not in away]):
            if answer.site not in away:
                yield answer
        yield from (Refusal(site, f"{site} is away") for site in sorted(away))


class Listening:
    """A runner that remembers every vector that it has carried: what a curious coordinator would see."""

    def __init__(self, inner: Runner) -> None:
        self._inner = inner
        self.step = inner.step
        self.heard: dict[tuple[int, str], Tensor] = {}

    def ask(self, questions: Sequence[Question]) -> Iterator[Answer | Refusal]:
        """See :class:`Runner`."""
        asked = {question.site: question for question in questions}
        for answer in self._inner.ask(questions):
            question = asked[answer.site]
            if isinstance(answer, Answer) and question.purpose == "train":
                self.heard[question.round, answer.site] = answer.content.clone()
            yield answer


class PowerCut(Exception):
    """The coordinator's end in the middle of a round."""


class Failing:
    """A runner with which the coordinator ends after the answers came and before it has written their sum."""

    def __init__(self, inner: Runner) -> None:
        self._inner = inner

    def ask(self, questions: Sequence[Question]) -> Iterator[Answer | Refusal]:
        """See :class:`Runner`."""
        return self._inner.ask(questions)

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """See :class:`Runner`."""
        raise PowerCut(name)


def digest(state: State) -> tuple[str, str, float | None]:
    """What two runs have in common that end alike: weights, the server's memory, and the training loss."""
    return sha256(to_bytes(state.weights)), sha256(to_bytes(state.memory)), state.loss

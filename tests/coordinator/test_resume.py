"""Runs of three real hospitals, whole and cut short, answered late, lost and begun anew: the same bytes."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from plain import agents

from fedmed.coordinator.admission import Admissions
from fedmed.coordinator.asking import Call, Called, Posted, ask_all
from fedmed.coordinator.history import RoundRecord
from fedmed.coordinator.home import CoordinatorHome
from fedmed.coordinator.plan import ask_for_statistics, make_plan
from fedmed.coordinator.training import Run, keep_plan, kept_run, rounds_of
from fedmed.data.cohort import read_cohort
from fedmed.data.partition import read_manifest, read_partition
from fedmed.data.split import SplitOptions
from fedmed.errors import QuorumNotMet
from fedmed.exchange.base import Exchange
from fedmed.exchange.folder import FolderExchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.settings import Settings
from fedmed.site.agent import step
from fedmed.site.home import SiteHome, partition_records
from fedmed.wire.messages import Admission, Statistics, read_name
from fedmed.wire.post import inbox

HEART = read_cohort(Path(__file__).parents[2] / "cohorts" / "heart_disease.yaml")
HOSPITALS = ("cleveland", "hungarian", "va")
RUN = "run-1"

STRATEGIES: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "scaffold": {},
    "ditto": {},
    "feddyn": {},
    "fedadam": {"learning_rate": 0.01},
    "fedbuff": {"buffer": 2},
    "cyclic": {},
    "fedavg with personal layers": {},
}
every_case = pytest.mark.parametrize("case", STRATEGIES)


def parameters_of(case: str, **training: Any) -> Settings:
    strategy, _, personal = case.partition(" with ")
    return Settings.model_validate(
        {
            "cohort": "c.yaml",
            "federation": {"sites": HOSPITALS},
            "aggregation": {"strategy": strategy, **STRATEGIES[case]},
            "network": {"name": "mlp", "hidden": [4]} if personal else {"name": "logistic"},
            "personal": {"layers": ["head.*"]} if personal else {},
            "training": {"rounds": 4, "learning_rate": 0.1, "local_epochs": 1, **training},
        }
    )


@pytest.fixture(scope="module")
def partitioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of three hospitals that have said nothing yet."""
    root = tmp_path_factory.mktemp("sites")
    for name in HOSPITALS:
        partition_records(SiteHome(root / name), HEART, SplitOptions())
    return root


@pytest.fixture
def place(partitioned: Path, tmp_path: Path) -> Callable[..., Place]:
    """Makes federations, each with homes of its own."""
    numbers = itertools.count()

    def made(settings: Settings, exchange: Exchange | None = None) -> Place:
        folder = tmp_path / str(next(numbers))
        shutil.copytree(partitioned, folder / "sites")
        return Place(folder, settings, exchange or MemoryExchange())

    return made


class Place(NamedTuple):
    """A coordinator's home, the hospitals' homes beside it, and where they meet."""

    folder: Path
    settings: Settings
    exchange: Exchange

    @property
    def homes(self) -> dict[str, SiteHome]:
        return {name: SiteHome(self.folder / "sites" / name) for name in HOSPITALS}

    @property
    def home(self) -> CoordinatorHome:
        return CoordinatorHome(self.folder / "coordinator")

    def call(self, order: Sequence[str] = HOSPITALS, workers: int = 1) -> Call:
        """How hospitals come to answer: each takes a step, in this order."""
        answered = agents(self.homes, self.exchange, workers)

        def in_order(posted: Sequence[Posted]) -> Iterator[Called]:
            return answered(sorted(posted, key=lambda each: order.index(each.site)))

        return in_order

    def begun(self, *, force: bool = False, call: Call | None = None) -> Run:
        """The run, agreed on or found again, under the attempt that is due."""
        attempt, _ = self.home.begin_training(RUN, force=force)
        if (run := kept_run(self.home, RUN, attempt, 11)) is not None:
            return run
        admitted = Admissions(validation="v", sites={name: admission(home) for name, home in self.homes.items()})
        questions = ask_for_statistics(RUN, admitted, self.settings, attempt)
        asked = ask_all(self.exchange, call or self.call(), questions, Statistics)
        plan, begin = make_plan(RUN, attempt, self.settings, HEART, admitted, asked, self.exchange)
        return keep_plan(self.home, plan, begin, 11)

    def played(self, call: Call | None = None, rounds: int = 4, *, force: bool = False, quorum: int = 1) -> list[str]:
        """Go on with the run up to a round: the digests of what it came to."""
        call = call or self.call()
        run = self.begun(force=force, call=call)
        going = rounds_of(run, self.exchange, call, quorum=quorum)
        while len(run.records) < rounds:
            next(going)
        return digests_of(run)


def admission(home: SiteHome) -> Admission:
    """The admission of a hospital, without the contract."""
    return Admission(
        run="v",
        sender=home.name,
        purpose="validate",
        question="0" * 64,
        admitted=True,
        failed=(),
        expectations=9,
        fingerprint=read_manifest(home.partition, home.vault()).fingerprint,
        rows={"train": len(read_partition(home.partition, home.vault())["train"])},
    )


def digests_of(run: Run) -> list[str]:
    """Updates that counted, models, the server's memories, and losses, round after round."""
    found = [run.model_of(0).sha256]
    for record in run.records:
        state = run.states.record(record.round)
        found += [*state.took_part.values(), state.model.sha256, state.memory.sha256 if state.memory else ""]
        found += [repr(record.train_loss), repr(record.validation_loss)]
    return found


def said(exchange: Exchange) -> dict[str, bytes | None]:
    """Everything that lies in an exchange, by name."""
    return {name: exchange.get(name) for prefix in ("to/", "payloads/") for name in exchange.names(prefix)}


def test_the_same_inputs_give_the_same_weights_whoever_answers_first(
    place: Callable[..., Place], tmp_path: Path
) -> None:
    settings = parameters_of("fedavg", rounds=2)
    first = place(settings).played(rounds=2)
    without_memory = [digest for digest in first if digest]
    assert (
        len(set(without_memory)) == 13
    )  # a start; for each round three updates, a model and two losses: all different
    for order in (HOSPITALS[::-1], ("hungarian", "va", "cleveland")):
        this = place(settings)
        assert this.played(this.call(order), rounds=2) == first
    this = place(settings, FolderExchange(tmp_path / "exchange"))
    assert this.played(this.call(workers=3), rounds=2) == first


# A run that was cut short goes on as if it had not been.


def cut(run: Run, after: int, *, states: bool = True) -> None:
    """What a coordinator has that was killed in the round after so many: no records since, and perhaps no states."""
    for folder in ("rounds", "states")[: 2 if states else 1]:
        for path in (run.folder / folder).glob("0*"):
            if int(path.name[:5]) > after:
                path.unlink()


CUTS: dict[str, tuple[int, bool, Callable[[str], bool]]] = {
    "all after round 2": (2, True, lambda name: address(name) > 2),
    "the last round's score": (3, False, lambda name: False),
    "the last model and an update of it": (3, True, lambda name: address(name) == 4 and name.endswith(".va")),
    "the whole exchange": (2, True, lambda name: True),
    "everything but the plan": (0, True, lambda name: address(name) > 0),
}


def address(name: str) -> int:
    """The round of a message; payloads belong to none, and count as late."""
    return read_name(name).round if name.startswith("to/") else 99


@every_case
def test_a_run_that_is_gone_on_with_in_the_middle_gives_the_same_bytes(case: str, place: Callable[..., Place]) -> None:
    whole = place(parameters_of(case))
    expected = whole.played()
    run = whole.begun()
    everything = said(whole.exchange)
    for lost, (after, states, of) in CUTS.items():
        cut(run, after, states=states)
        left = MemoryExchange()
        for name, data in everything.items():
            if not of(name):
                left.put(name, data or b"")
        this = whole._replace(exchange=left)
        entries = {site: len(home.outbox.entries()) for site, home in whole.homes.items()}
        assert this.played() == expected, lost
        # Nothing was computed again: every answer was in an outbox. And what is put there again is what was there.
        assert {site: len(home.outbox.entries()) for site, home in whole.homes.items()} == entries, lost
        assert said(left).items() <= everything.items(), lost
        asked = [address(name) for site in HOSPITALS for name in inbox(left, site) if of(name)]
        assert all(number > after for number in asked), lost


@every_case
def test_a_coordinator_that_lost_everything_begins_anew_and_comes_to_the_same(
    case: str, place: Callable[..., Place]
) -> None:
    this = place(parameters_of(case, rounds=3))
    expected = this.played(rounds=3)
    assert this.played(rounds=3, force=True) == expected  # hospitals compute once more, under another attempt
    assert this.home.attempts(RUN).begun == 2
    entries = this.homes["va"].outbox.of_run(RUN)
    assert {entry.begun for entry in entries if ".train." in entry.name} == {1, 2}


class CrashesOnce(MemoryExchange):
    """The first time that a hospital posts its update of a round, the process dies before it is there."""

    def __init__(self, site: str, number: int) -> None:
        super().__init__()
        self.due = f"to/coordinator/{RUN}/001.{number:05d}.train.{site}"

    def put(self, name: str, data: bytes) -> None:
        if name == self.due:
            self.due = ""
            raise ConnectionError
        super().put(name, data)


@every_case
def test_a_hospital_that_dies_between_keeping_its_turn_and_posting_it_sends_the_same_update_again(
    case: str, place: Callable[..., Place]
) -> None:
    settings = parameters_of(case, rounds=3)
    expected = place(settings).played(rounds=3)
    crashing, crashes = place(settings, CrashesOnce("hungarian", 2)), 0
    for _ in range(2):
        try:
            again = crashing.played(rounds=3)
        except ConnectionError:
            crashes += 1
            kept = crashing.homes["hungarian"].outbox.of_run(RUN)[-1]
            assert kept.name.endswith(".00002.train.hungarian")
            assert crashing.exchange.get(kept.name) is None
    assert again == expected
    assert crashes == 1 or case in {"cyclic", "fedbuff"}  # it had no turn in that round
    turns = [entry.name for entry in crashing.homes["hungarian"].outbox.of_run(RUN)]
    assert len(turns) == len(set(turns))


@pytest.mark.parametrize(
    ("how", "says"),
    [("gone", "the bodies of run run-1 are gone"), ("damaged", "not what the chain names at line")],
)
def test_a_hospital_that_lost_what_it_kept_refuses_and_does_not_go_on_as_if_it_were_new(
    how: str, says: str, place: Callable[..., Place]
) -> None:
    this = place(parameters_of("scaffold", rounds=3))
    this.played(rounds=2)
    bodies = this.homes["va"].outbox.folder / "bodies" / f"{RUN}.bin"
    assert bodies.stat().st_mode & 0o777 == 0o600
    if how == "gone":
        bodies.unlink()
    else:
        data = bodies.read_bytes()
        bodies.write_bytes(bytes(len(data)))
    this.played(rounds=3)
    last = this.begun().records[-1]
    assert last.participants == ("cleveland", "hungarian")
    assert says in last.sites["va"].refused
    assert "fedmed run --force" in last.sites["va"].refused


def without(call: Call, site: str, number: int, kept: list[Posted] | None = None) -> Call:
    """A call in which a hospital does not answer for its training in a round; what it was asked is kept."""

    def away(posted: Sequence[Posted]) -> Iterator[Called]:
        left = [each for each in posted if (each.site, each.purpose, each.round) != (site, "train", number)]
        missed = [each for each in posted if each not in left]
        if kept is not None:
            kept.extend(missed)
        yield from (Called(each, "did not answer in time") for each in missed)
        yield from call(left)

    return away


@every_case
def test_a_hospital_whose_update_came_too_late_keeps_nothing_of_it(case: str, place: Callable[..., Place]) -> None:
    settings = parameters_of(case)
    absent = place(settings)
    expected = absent.played(without(absent.call(), "va", 2))
    this, missed = place(settings), []
    this.played(without(this.call(), "va", 2, missed), rounds=2)
    for posted in missed:  # now it answers, and is heard by nobody
        step(this.homes["va"], this.exchange, posted.run, posted.name)
        assert this.exchange.get(posted.answer) is not None
    assert this.played() == expected
    assert missed or case in {"cyclic", "fedbuff"}


def test_a_run_that_is_begun_anew_has_nothing_of_the_attempt_before_it(place: Callable[..., Place]) -> None:
    expected = place(parameters_of("scaffold", rounds=2)).played(rounds=2)
    before = place(parameters_of("scaffold", rounds=3, learning_rate=0.3))
    assert before.played(rounds=3)[:6] != expected[:6]
    after = before._replace(settings=parameters_of("scaffold", rounds=2))
    assert after.played(rounds=2, force=True) == expected


# A hospital that refused is asked again.


def test_a_run_without_a_quorum_asks_those_who_refused_again_and_comes_to_the_same(
    place: Callable[..., Place],
) -> None:
    settings = parameters_of("scaffold", rounds=3)
    expected = place(settings).played(rounds=3, quorum=3)
    this = place(settings)
    this.played(rounds=1, quorum=3)
    partition = this.homes["va"].partition
    partition.rename(partition.with_name("elsewhere"))
    for _ in range(2):  # killed or not: under the same number, the hospital has said no
        with pytest.raises(QuorumNotMet, match=r"round 2 could use 2 of 3 hospitals.* va: .*partition"):
            this.played(rounds=3, quorum=3)
    partition.with_name("elsewhere").rename(partition)
    with pytest.raises(QuorumNotMet):
        this.played(rounds=3, quorum=3)
    this.home.close_attempt(RUN, "train")
    assert this.played(rounds=3, quorum=3) == expected
    attempts = [
        (read_name(name).attempt, read_name(name).round) for name in inbox(this.exchange, "va") if "train" in name
    ]
    assert attempts == [(1, 1), (1, 2), (2, 2), (2, 3)]
    records: list[RoundRecord] = this.begun().records
    assert [record.sites["va"].refused for record in records] == ["", "", ""]

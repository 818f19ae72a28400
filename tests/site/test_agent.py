"""The agent finds what is asked, answers it once, lets nothing out that is not kept, and may be ended at any instant."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from one_hospital import HEART, Run, fingerprint_of, restarted
from plain import agents

from fedmed.coordinator.admission import Admissions
from fedmed.coordinator.asking import ask_all, waiting
from fedmed.coordinator.home import CoordinatorHome
from fedmed.coordinator.plan import ask_for_statistics, make_plan
from fedmed.coordinator.training import keep_plan, rounds_of
from fedmed.data.split import SplitOptions
from fedmed.errors import MessageConflict, SettingsError
from fedmed.exchange.base import Exchange
from fedmed.exchange.folder import FolderExchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.settings import Settings
from fedmed.site import agent, answers, outbox
from fedmed.site.agent import TRIES, due, serve, step
from fedmed.site.desk import open_session
from fedmed.site.home import SiteHome, partition_records
from fedmed.wire.messages import Admission, Refusal, Statistics, read_name
from fedmed.wire.post import payload_name, post, reference

ROOT = Path(__file__).parents[2]
SITES = ("cleveland", "hungarian")


# A whole little run, by hospitals that nobody calls.

SETTINGS = Settings.model_validate(
    {
        "cohort": "heart.yaml",
        "federation": {"sites": SITES, "quorum": 2},
        "training": {"rounds": 2},
        "aggregation": {"strategy": "scaffold"},
    }
)


def admitted(homes: dict[str, SiteHome]) -> Admissions:
    return Admissions(
        validation="v",
        sites={
            site: Admission(
                run="v",
                sender=site,
                purpose="validate",
                question="0" * 64,
                admitted=True,
                failed=(),
                expectations=1,
                fingerprint=fingerprint_of(home),
                rows={split: len(table) for split, table in open_session(home).tables.items()},
            )
            for site, home in homes.items()
        },
    )


def whole_run(folder: Path, homes: dict[str, SiteHome], exchange: Exchange, call: Any) -> list[str]:
    """Statistics, plan and two rounds; the names of the models."""
    admissions = admitted(homes)
    asked = ask_all(exchange, call, ask_for_statistics("run-of-two", admissions, SETTINGS), Statistics)
    assert asked.failed == {}
    plan, begin = make_plan("run-of-two", 1, SETTINGS, HEART, admissions, asked, exchange)
    run = keep_plan(CoordinatorHome(folder), plan, begin, SETTINGS.privacy.minimum_cell)
    records = list(rounds_of(run, exchange, call, quorum=2))
    assert [record.participants for record in records] == [SITES, SITES]
    assert all(record.sites[site].validation_loss is not None for record in records for site in SITES)
    return [run.model_of(number).sha256 for number in range(3)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteHome]:
    root = tmp_path_factory.mktemp("two")
    homes = {site: SiteHome(root / site) for site in SITES}
    for home in homes.values():
        partition_records(home, HEART, SplitOptions())
    return homes


def afresh(homes: dict[str, SiteHome], root: Path) -> dict[str, SiteHome]:
    """Copies of hospitals that have said nothing yet."""
    for site, home in homes.items():
        shutil.copytree(home.path, root / site, ignore=shutil.ignore_patterns("outbox", "logs"))
    return {site: SiteHome(root / site) for site in homes}


def serving(homes: dict[str, SiteHome], exchange: Exchange, ended: threading.Event) -> list[threading.Thread]:
    threads = [
        threading.Thread(target=serve, args=(home, exchange), kwargs={"until": ended.is_set, "pause": 0.01})
        for home in homes.values()
    ]
    for thread in threads:
        thread.start()
    return threads


@pytest.fixture
def served(two: dict[str, SiteHome], tmp_path: Path) -> tuple[dict[str, SiteHome], FolderExchange, list[str]]:
    """A run that agents answered which nobody called, over a folder."""
    homes, exchange, ended = afresh(two, tmp_path / "served"), FolderExchange(tmp_path / "exchange"), threading.Event()
    threads = serving(homes, exchange, ended)
    try:
        models = whole_run(tmp_path / "home", homes, exchange, waiting(exchange, within=60, pause=0.01))
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    return homes, exchange, models


def test_agents_that_serve_answer_a_run_as_agents_that_are_called_do(
    served: tuple[dict[str, SiteHome], FolderExchange, list[str]], two: dict[str, SiteHome], tmp_path: Path
) -> None:
    _, exchange, models = served
    called, memory = afresh(two, tmp_path / "called"), MemoryExchange()
    assert whole_run(tmp_path / "other", called, memory, agents(called, memory)) == models
    assert len(set(models)) == 3
    names = exchange.names("to/")
    assert names == memory.names("to/")
    assert [exchange.get(name) for name in names] == [memory.get(name) for name in names]


def test_whatever_stands_under_a_hospitals_name_is_in_its_outbox(
    served: tuple[dict[str, SiteHome], FolderExchange, list[str]],
) -> None:
    homes, exchange, models = served
    said = {site: [home.outbox.said(entry) for entry in home.outbox.entries()] for site, home in homes.items()}
    files = {str(path.relative_to(exchange.root)) for path in exchange.root.rglob("*") if path.is_file()}
    to_coordinator = {name for name in files if name.startswith("to/coordinator/")}
    assert len(to_coordinator) == 2 * (1 + 2 + 2)  # statistics, and of each round training and score
    for name in to_coordinator:
        sender = read_name(name).sender
        (of,) = [each for each in said[sender] if each.entry.name == name]
        assert exchange.get(name) == of.message
        if of.payload is not None:
            assert exchange.get(payload_name(reference(of.payload))) == of.payload
    # Nothing lies there beside: what is not a hospital's is the coordinator's, by what the questions name.
    payloads = {payload_name(reference(each.payload)) for of in said.values() for each in of if each.payload}
    coordinators = {name for name in files if name.startswith("payloads/")} - payloads
    assert {name.rpartition("/")[2] for name in coordinators} >= set(models[:2])
    assert all(name.startswith(("to/", "payloads/")) for name in files)
    kept = [each.kept for of in said.values() for each in of if each.kept]
    assert len(kept) == 4
    content = b"".join(path.read_bytes() for path in exchange.root.rglob("*") if path.is_file())
    assert not [each for each in kept if each in content]  # what a hospital keeps, it keeps


# What is due.


def asked(run: Run, purpose: str, **changes: Any) -> tuple[str, str]:
    return run.name, post(run.exchange, run.question(purpose, **changes))


def test_questions_are_found_by_looking_and_answered_once(small: SiteHome) -> None:
    run = Run(small)
    assert due(small, run.exchange) == []
    first = asked(run, "statistics", round=0)
    second = asked(run, "train")
    assert due(small, run.exchange) == [first, second]
    step(small, run.exchange, *first)
    assert due(small, run.exchange) == [second]
    step(small, run.exchange, *second)
    assert due(small, run.exchange) == []


def test_a_question_that_was_overtaken_is_left(small: SiteHome) -> None:
    run = Run(small)
    asked(run, "train", round=1)
    statistics = asked(run, "statistics", round=0)
    asked(run, "score", round=1)
    later = asked(run, "train", round=2)
    assert due(small, run.exchange) == [statistics, later]
    next_attempt = asked(run, "train", round=1, attempt=2)
    assert due(small, run.exchange) == [statistics, next_attempt]
    other = Run(small, exchange=run.exchange)  # another run's rounds are its own
    of_the_other = asked(other, "train", round=1)
    assert set(due(small, run.exchange)) == {statistics, next_attempt, of_the_other}


def test_an_answer_that_is_lost_is_due_again_also_if_it_was_overtaken(small: SiteHome, tmp_path: Path) -> None:
    run = Run(small, exchange=FolderExchange(tmp_path))
    first, second = asked(run, "train", round=1), asked(run, "train", round=2)
    for question in (first, second):
        step(small, run.exchange, *question)
    before = {name: run.exchange.get(name) for name in run.exchange.names("to/coordinator/")}
    for name in before:
        (tmp_path / name).unlink()
    assert due(small, run.exchange) == [first, second]
    for question in due(small, run.exchange):
        assert step(small, run.exchange, *question).reused
    assert {name: run.exchange.get(name) for name in run.exchange.names("to/coordinator/")} == before
    assert due(small, run.exchange) == []


def test_an_answer_that_does_not_stand_there_whole_is_due_again(small: SiteHome, tmp_path: Path) -> None:
    run = Run(small, exchange=FolderExchange(tmp_path))
    question = asked(run, "train")
    path = tmp_path / step(small, run.exchange, *question).name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert due(small, run.exchange) == [question]
    assert step(small, run.exchange, *question).reused
    assert path.read_bytes() == whole
    assert due(small, run.exchange) == []


def test_an_answer_whose_bodies_were_dropped_is_not_due_and_one_given_later_is(small: SiteHome, tmp_path: Path) -> None:
    run = Run(small, exchange=FolderExchange(tmp_path))
    first = asked(run, "train", round=1)
    lost = tmp_path / step(small, run.exchange, *first).name
    assert small.outbox.drop_bodies(before=1e12) == [run.name]
    lost.unlink()
    assert due(small, run.exchange) == []
    second = asked(run, "train", round=2)
    (tmp_path / step(small, run.exchange, *second).name).unlink()
    assert due(small, run.exchange) == [second]


def test_names_that_no_question_can_have_are_passed_over(small: SiteHome, tmp_path: Path) -> None:
    run = Run(small, exchange=FolderExchange(tmp_path))
    question = asked(run, "train")
    for name in ("notes.txt", f"{run.name}/notes", f"{run.name}/1.1.train.coordinator", "a/b/c/d"):
        run.exchange.put(f"to/cleveland/{name}", b"anything")
    assert due(small, run.exchange) == [question]


# Serving.


def until(done: Callable[[], bool], most: int = 40) -> Callable[[], bool]:
    """Until something is so; it has to be so after at most so many looks."""
    looks = 0

    def ended() -> bool:
        nonlocal looks
        looks += 1
        assert looks < most
        return done()

    return ended


def answered(run: Run, purpose: str) -> Callable[[], bool]:
    return lambda: run.answer(purpose) is not None


def times(number: int) -> Callable[[], bool]:
    """After so many looks."""
    left = iter(range(number))
    return lambda: next(left, None) is None


def test_what_fails_each_time_is_refused_in_the_end(small: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def failing(request: Any) -> Any:
        calls.append(run.answer("statistics"))
        raise ValueError("chol 234.5678")

    monkeypatch.setattr(answers, "statistics", failing)
    run = Run(small)
    asked(run, "statistics")
    serve(small, run.exchange, until=until(answered(run, "statistics")), pause=0.0)
    assert calls == [None] * TRIES  # nothing was said before the last
    refusal = run.answer("statistics")
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "cleveland: ValueError; the hospital's log (logs/site.log) has the details"
    assert (small.path / "logs" / "site.log").read_text(encoding="utf-8").count("ValueError: chol") == TRIES
    assert due(small, run.exchange) == []
    assert run.ask("statistics").reused  # and stays refused


def test_what_fails_once_is_tried_again(small: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = answers.statistics, [ValueError("no"), OSError("nor now")]

    def at_first_failing(request: Any) -> Any:
        if left:
            raise left.pop()
        return real(request)

    monkeypatch.setattr(answers, "statistics", at_first_failing)
    run = Run(small)
    asked(run, "statistics")
    serve(small, run.exchange, until=until(answered(run, "statistics")), pause=0.0)
    assert isinstance(run.answer("statistics"), Statistics)


def test_options_that_are_wrong_are_refused_at_once(small: SiteHome) -> None:
    run = Run(small)
    asked(run, "statistics")
    looks = 0

    def ended() -> bool:  # they become wrong while the agent serves
        nonlocal looks
        looks += 1
        (small.path / "site.yaml").write_text("minimum_cell: [\n")
        return looks == 2

    serve(small, run.exchange, until=ended, pause=0.0)
    refusal = run.answer("statistics")
    assert isinstance(refusal, Refusal)
    assert "site options" in refusal.reason
    with pytest.raises(SettingsError, match=r"site\.yaml: not valid YAML"):
        serve(small, run.exchange, until=times(1))


def test_a_full_disk_is_waited_out(small: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    left, real = [OSError(28, "No space left on device")] * (TRIES + 2), outbox._append

    def full(path: Path, data: bytes) -> int:
        if left:
            raise left.pop()
        return real(path, data)

    monkeypatch.setattr(outbox, "_append", full)
    run = Run(small)
    asked(run, "statistics")
    serve(small, run.exchange, until=until(answered(run, "statistics")), pause=0.0)
    assert isinstance(run.answer("statistics"), Statistics)
    assert "No space left" in (small.path / "logs" / "site.log").read_text(encoding="utf-8")


def test_one_question_that_cannot_be_answered_holds_up_no_other(small: SiteHome, tmp_path: Path) -> None:
    run = Run(small, exchange=FolderExchange(tmp_path))
    name = run.question("statistics", round=0).address.name
    run.exchange.put(name, b"{}")  # no question
    asked(run, "train")
    taken = run.question("score").answer_address.name
    run.exchange.put(taken, b"somebody else's bytes")
    asked(run, "score")
    serve(small, run.exchange, until=until(answered(run, "train")), pause=0.0)
    with pytest.raises(MessageConflict, match="other bytes stand here"):
        run.ask("score")
    assert run.exchange.get(taken) == b"somebody else's bytes"
    log = (small.path / "logs" / "site.log").read_text(encoding="utf-8")
    assert "MessageRefused" in log
    serve(small, run.exchange, until=times(2 * TRIES), pause=0.0)
    again = (small.path / "logs" / "site.log").read_text(encoding="utf-8").removeprefix(log)
    assert again.count(f"{name}: MessageRefused") == TRIES  # it is not tried for ever


def test_an_exchange_that_fails_is_waited_for(small: SiteHome, tmp_path: Path) -> None:
    run = Run(small, exchange=FolderExchange(tmp_path / "exchange"))
    asked(run, "statistics")
    inbox = tmp_path / "exchange" / "to"

    def ended() -> bool:
        if not inbox.exists():
            inbox.with_name("away").rename(inbox)
        return run.answer("statistics") is not None

    inbox.rename(inbox.with_name("away"))
    looked: list[int] = []
    serve(small, run.exchange, until=lambda: bool(looked) or bool(looked.append(1)), pause=0.0)
    assert small.outbox.entries() == []
    serve(small, run.exchange, until=until(ended), pause=0.0)
    assert isinstance(run.answer("statistics"), Statistics)


def test_old_bodies_are_dropped_when_the_agent_begins(small: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    run, now = Run(small), outbox.time.time()
    (small.path / "site.yaml").write_text("keep_bodies: 2\n")
    run.ask("statistics")
    for days, kept in ((1, True), (3, False)):
        with monkeypatch.context() as patch:
            patch.setattr(agent.time, "time", lambda days=days: now + 86_400 * days)
            serve(small, run.exchange, until=times(1), pause=0.0)
        assert (small.outbox.folder / "bodies" / f"{run.name}.bin").exists() == kept
    assert [entry.kind for entry in small.outbox.entries()] == ["answer", "dropped"]


# Ended at any instant.

FILES = {str(ROOT / "fedmed" / part) for part in ("site/agent.py", "site/outbox.py", "exchange/folder.py")}


class Killed(BaseException):
    """What ends a process, as far as a test of one process can be ended."""


def killed_after(lines: int, work: Callable[[], object]) -> bool:
    """Do some work, and end it before the line that follows so many of the agent's; whether that was before its end."""
    left = lines

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in FILES:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                sys.settrace(None)  # what is run on the way out is not counted
                raise Killed
        return trace

    # In a thread of its own: what is ended inside a handler leaves the error handled there behind in its thread.
    told: list[bool | BaseException] = []

    def run() -> None:
        sys.settrace(trace)
        try:
            work()
            told.append(False)
        except Killed:
            told.append(True)
        except BaseException as problem:  # noqa: BLE001  # handed to who waits
            told.append(problem)
        finally:
            sys.settrace(None)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (outcome,) = told
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


@pytest.fixture
def _collected() -> Iterator[None]:
    """What there is already is left out when garbage is collected, hundreds of times."""
    gc.freeze()
    yield
    gc.unfreeze()


def in_the_exchange(exchange: FolderExchange) -> dict[str, bytes | None]:
    return {name: exchange.get(name) for part in ("to/", "payloads/") for name in exchange.names(part)}


def what_was_said(home: SiteHome) -> list[tuple[Any, ...]]:
    box = home.outbox
    return [(entry.kind, entry.question, entry.name, *box.said(entry)[1:]) for entry in box.entries()]


CHEAP = [
    pytest.param("statistics", {}, id="statistics"),
    pytest.param("train", {"plan": None}, id="refusal"),
    pytest.param("train", {}, id="train", marks=pytest.mark.slow),
]


@pytest.mark.usefixtures("_collected")
@pytest.mark.parametrize(("purpose", "changes"), CHEAP)
def test_an_agent_that_is_ended_after_any_line_goes_on_to_the_same_bytes(
    purpose: str, changes: dict[str, Any], small: SiteHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox.os, "fsync", lambda handle: None)  # nobody cuts the power here
    root = tmp_path / "exchange"
    run = Run(small, exchange=FolderExchange(root))
    ((_, name),) = [asked(run, purpose, **changes)]
    shutil.copytree(root, tmp_path / "as it was asked")

    def work() -> object:
        return step(small, run.exchange, run.name, name)

    work()
    undisturbed, said = in_the_exchange(FolderExchange(root)), what_was_said(small)
    lines, instants = 0, set()
    while True:
        shutil.rmtree(root)
        shutil.copytree(tmp_path / "as it was asked", root)
        shutil.rmtree(small.outbox.folder, ignore_errors=True)
        restarted(monkeypatch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # who is killed closes nothing
            ended_early = killed_after(lines, work)
            gc.collect()
        restarted(monkeypatch)
        standing = in_the_exchange(FolderExchange(root))
        assert standing.items() <= undisturbed.items()
        answers_there = {each for each in standing if each.startswith("to/coordinator/")}
        assert answers_there <= {each[2] for each in what_was_said(small)}  # kept before it leaves
        instants.add((small.outbox.folder.exists(), len(what_was_said(small)), len(standing)))
        work()
        assert in_the_exchange(FolderExchange(root)) == undisturbed
        assert what_was_said(small) == said
        assert due(small, run.exchange) == []
        assert list(root.rglob(".*")) == []
        if not ended_early:
            break
        lines += 1
    assert lines > 80
    assert len(instants) >= 4  # before and after the outbox, the payload and the message


@pytest.mark.usefixtures("_collected")
def test_dropping_bodies_may_be_ended_after_any_line(small: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox.os, "fsync", lambda handle: None)
    run = Run(small)
    run.ask("statistics")
    whole = small.outbox.folder.with_name("whole")
    shutil.copytree(small.outbox.folder, whole)
    lines = 0
    while True:
        shutil.rmtree(small.outbox.folder)
        shutil.copytree(whole, small.outbox.folder)
        restarted(monkeypatch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            ended_early = killed_after(lines, lambda: small.outbox.drop_bodies(before=1e12))
            gc.collect()
        restarted(monkeypatch)
        bodies = small.outbox.folder / "bodies" / f"{run.name}.bin"
        assert bodies.exists() or "dropped" in [entry.kind for entry in small.outbox.entries()]
        small.outbox.drop_bodies(before=1e12)
        assert not bodies.exists()
        kinds = [entry.kind for entry in small.outbox.entries()]
        assert kinds in (["answer", "dropped"], ["answer", "dropped", "dropped"])
        if not ended_early:
            break
        lines += 1
    assert lines > 20


# What is loaded.


def loaded(statement: str, libraries: list[str]) -> str:
    code = f"import sys; {statement}; print(*sorted(set({libraries}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module", ["fedmed.exchange", "fedmed.exchange.base", "fedmed.exchange.folder", "fedmed.exchange.memory"]
)
def test_an_exchange_loads_no_large_library(module: str) -> None:
    assert loaded(f"import {module}", ["torch", "pandas", "numpy", "pydantic", "scipy", "pyarrow"]) == ""


def test_an_agent_loads_nothing_that_only_others_need() -> None:
    others = ["prefect", "mlflow", "matplotlib", "great_expectations", "dvc", "flows", "tasks", "fedmed.coordinator"]
    assert loaded("import fedmed.site.agent", others) == ""
    every = "import importlib; from fedmed.wire.purposes import PURPOSES as P"
    load = "[importlib.import_module(p.answered_by.partition(':')[0]) for p in P.values()]"
    assert loaded(f"{every}; {load}", others) == ""

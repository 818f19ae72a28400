"""What a hospital has said: appended, chained, on the disk before it leaves, and looked up when it is asked again."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from one_hospital import Run, restarted

from fedmed.errors import OutboxDamaged
from fedmed.exchange.folder import FolderExchange
from fedmed.site import outbox as module
from fedmed.site.home import SiteHome
from fedmed.site.outbox import START, Entry, Outbox, outbox_at
from fedmed.weights import sha256
from fedmed.wire.messages import Refusal, StageAnswer, encode
from fedmed.wire.post import payload_name, reference

ROOT = Path(__file__).parents[2]


def question(number: int) -> str:
    return sha256(f"question {number}".encode())


def answer(number: int, payload: bytes = b"", run: str = "run-1") -> Any:
    content = {
        "run": run,
        "round": number,
        "sender": "va",
        "purpose": "stage",
        "question": question(number) if run == "run-1" else sha256(f"{run} {number}".encode()),
    }
    return StageAnswer(**content, payload=reference(payload)) if payload else Refusal(**content, reason="not today")


@pytest.fixture
def box(tmp_path: Path) -> Outbox:
    """An outbox with three answers: one without a payload, one with, one of which something is kept."""
    filled = Outbox(tmp_path / "outbox")
    filled.add(answer(1))
    filled.add(answer(2, b"two"), b"two")
    filled.add(answer(3, b"three"), b"three", b"kept of three", plan="a" * 64, begun=1)
    return filled


def again(box: Outbox) -> Outbox:
    """The outbox as another process would read it."""
    return Outbox(box.folder)


def lines(box: Outbox) -> list[bytes]:
    return box.chain.read_bytes().splitlines(keepends=True)


def test_every_line_names_the_one_before_it(box: Outbox) -> None:
    entries = again(box).entries()
    assert [entry.number for entry in entries] == [1, 2, 3]
    assert [entry.previous for entry in entries] == [START, *(sha256(line) for line in lines(box)[:2])]
    assert again(box).head == box.head == sha256(lines(box)[2])
    assert entries[2].name == "to/coordinator/run-1/001.00003.stage.va"
    assert (entries[2].plan, entries[2].begun) == ("a" * 64, 1)


def test_what_was_said_is_found_by_its_question_and_its_address(box: Outbox) -> None:
    read = again(box)
    entry = read.answer_to(question(3))
    assert entry is not None
    assert read.answer_at(entry.name) == entry
    assert read.said(entry) == (entry, encode(answer(3, b"three")), b"three", b"kept of three")
    first = read.answer_to(question(1))
    assert first is not None
    assert read.said(first) == (first, encode(answer(1)), None, b"")
    assert read.answer_to(question(4)) is None
    assert read.answer_at("to/coordinator/run-1/001.00004.stage.va") is None
    assert read.of_run("run-1") == read.entries()
    assert read.of_run("run-2") == []


def test_the_same_question_has_one_answer_whatever_is_said_to_it_later(box: Outbox) -> None:
    before = box.chain.read_bytes()
    other = StageAnswer(**{**answer(2, b"two").model_dump(), "payload": reference(b"other")})
    for outbox in (box, again(box)):
        entry = outbox.add(other, b"other")
        assert outbox.said(entry).payload == b"two"
    assert box.chain.read_bytes() == before


def test_a_second_answer_at_an_address_leaves_the_first_one_there(box: Outbox) -> None:
    first = box.answer_to(question(2))
    other = StageAnswer(**{**answer(2, b"other").model_dump(), "question": question(9)})
    assert box.add(other, b"other").number == 4
    assert first is not None
    assert box.answer_at(first.name) == again(box).answer_at(first.name) == first


def test_nobody_else_reads_what_a_hospital_has_said(box: Outbox) -> None:
    assert stat.S_IMODE(box.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(box.chain.stat().st_mode) == 0o600
    assert stat.S_IMODE((box.folder / "bodies").stat().st_mode) == 0o700
    assert stat.S_IMODE((box.folder / "bodies" / "run-1.bin").stat().st_mode) == 0o600


def test_an_empty_outbox_has_said_nothing_and_is_not_made_by_looking(tmp_path: Path) -> None:
    box = Outbox(tmp_path / "outbox")
    assert (box.entries(), box.head, box.answer_to("0" * 64)) == ([], START, None)
    assert not box.folder.exists()


def test_a_folder_has_one_outbox_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert outbox_at(tmp_path / "outbox") is outbox_at(Path("outbox"))


# A chain that was tampered with.


def with_a_changed_line(there: list[bytes]) -> list[bytes]:
    return [there[0].replace(b'"begun":0', b'"begun":1'), *there[1:]]


def with_a_space_more(there: list[bytes]) -> list[bytes]:
    return [there[0], there[1].replace(b'":', b'": ', 1), *there[2:]]


def without_its_first_line(there: list[bytes]) -> list[bytes]:
    return there[1:]


def without_a_line_in_the_middle(there: list[bytes]) -> list[bytes]:
    return [there[0], there[2]]


def with_two_lines_the_other_way_round(there: list[bytes]) -> list[bytes]:
    return [there[0], there[2], there[1]]


def with_a_line_twice(there: list[bytes]) -> list[bytes]:
    return [*there, there[2]]


def with_a_line_that_is_none(there: list[bytes]) -> list[bytes]:
    return [*there, b"{}\n"]


def with_a_flipped_bit(there: list[bytes]) -> list[bytes]:
    return [there[0], bytes([there[1][0] ^ 1]) + there[1][1:], there[2]]


TAMPERED = [
    (with_a_changed_line, 2),
    (with_a_space_more, 3),
    (without_its_first_line, 1),
    (without_a_line_in_the_middle, 2),
    (with_two_lines_the_other_way_round, 2),
    (with_a_line_twice, 4),
    (with_a_line_that_is_none, 4),
    (with_a_flipped_bit, 2),
]


@pytest.mark.parametrize(("tamper", "line"), TAMPERED, ids=[tamper.__name__ for tamper, _ in TAMPERED])
def test_a_chain_is_damaged(tamper: Callable[[list[bytes]], list[bytes]], line: int, box: Outbox) -> None:
    there = lines(box)
    box.chain.write_bytes(b"".join(tamper(there)))
    asked: list[Callable[[Outbox], object]] = [
        lambda outbox: outbox.entries(),
        lambda outbox: outbox.head,
        lambda outbox: outbox.answer_to(question(1)),
        lambda outbox: outbox.add(answer(4)),
        lambda outbox: outbox.drop_bodies(0.0),
    ]
    for ask in asked:
        with pytest.raises(OutboxDamaged, match=rf"chain\.jsonl, line {line}: does not follow from those before it"):
            ask(again(box))
    assert box.chain.read_bytes() == b"".join(tamper(there))  # nothing was mended that a person has to look at


def test_a_last_line_that_was_changed_names_other_bytes_than_the_bodies_hold(box: Outbox) -> None:
    # The chain itself ends there: only who has noted its head can tell that the last line is another, or is gone.
    there = lines(box)
    last = Entry.model_validate_json(there[2])
    changed = last.model_copy(update={"payload": sha256(b"other")})
    box.chain.write_bytes(b"".join([*there[:2], changed.model_dump_json().encode() + b"\n"]))
    read = again(box)
    assert read.head != box._head
    with pytest.raises(OutboxDamaged, match="not what the chain names at line 3"):
        read.said(read.entries()[2])


def test_a_chain_that_is_gone_or_shorter_than_it_was_is_damaged(box: Outbox) -> None:
    whole = box.chain.read_bytes()
    box.chain.write_bytes(b"".join(lines(box)[:2]))
    with pytest.raises(OutboxDamaged, match="shorter than it was; restored from a copy"):
        box.entries()
    box.chain.unlink()
    with pytest.raises(OutboxDamaged, match="gone, with all that this hospital has said"):
        box.add(answer(4))
    box.chain.write_bytes(whole)
    assert len(box.entries()) == 3


def test_another_process_goes_on_with_the_chain(box: Outbox) -> None:
    other = again(box)
    other.add(answer(4, b"four"), b"four")
    box.add(answer(5))
    other.add(answer(6))
    assert [entry.number for entry in box.entries()] == [1, 2, 3, 4, 5, 6]
    assert box.entries() == other.entries() == again(box).entries()


# A last line that was torn by a crash.


def test_a_line_that_was_torn_anywhere_is_cut_off_and_answered_anew(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "fsync", lambda handle: None)  # hundreds of times: it would take a minute
    there = lines(box)
    before, last = b"".join(there[:2]), there[2]
    for cut in range(len(last)):
        box.chain.write_bytes(before + last[:cut])
        read = again(box)
        assert len(read.entries()) == 2
        assert read.answer_to(question(3)) is None
        assert box.chain.read_bytes() == before + last[:cut]  # who only reads mends nothing
        entry = read.add(answer(3, b"three"), b"three", b"kept of three", plan="a" * 64, begun=1)
        assert (entry.number, entry.previous) == (3, sha256(there[1]))
        assert read.said(entry)[1:] == (encode(answer(3, b"three")), b"three", b"kept of three")
        assert again(box).entries() == read.entries()
        assert box.chain.read_bytes().startswith(before)


def test_bodies_that_were_torn_before_their_line_was_written_are_passed_over(box: Outbox) -> None:
    with (box.folder / "bodies" / "run-1.bin").open("ab") as file:
        file.write(b"half a mess")
    read = again(box)
    entry = read.add(answer(4, b"four"), b"four", b"kept of four")
    for number, payload, kept in ((2, b"two", b""), (3, b"three", b"kept of three"), (4, b"four", b"kept of four")):
        found = again(box).answer_to(question(number))
        assert found is not None
        assert again(box).said(found)[1:] == (encode(answer(number, payload)), payload, kept)
    assert entry.offset > len(b"half a mess")


# Bodies.


def test_bodies_that_are_gone_or_damaged_are_said_clearly(box: Outbox) -> None:
    entry = box.entries()[2]
    bodies = box.folder / "bodies" / "run-1.bin"
    whole = bodies.read_bytes()
    begin, end = entry.offset, entry.offset + sum(entry.sizes)
    for place in range(begin, end):
        bodies.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(OutboxDamaged, match=r"run-1\.bin: not what the chain names at line 3; start the run over"):
            box.said(entry)
        bodies.write_bytes(whole[:place])
        with pytest.raises(OutboxDamaged, match="not what the chain names at line 3"):
            box.said(entry)
    assert box.said(box.entries()[1]).payload == b"two"  # the others are whole
    bodies.unlink()
    with pytest.raises(OutboxDamaged, match="the bodies of run run-1 are gone; start the run over with `fedmed run"):
        box.said(entry)
    assert len(again(box).entries()) == 3


def at(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    monkeypatch.setattr(module.time, "time", lambda: now)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Outbox:
    """A hospital that has taken part in four runs, one after the other; the first was asked once more at the end."""
    box = Outbox(tmp_path / "outbox")
    for moment, run in enumerate("abcda", start=1):
        at(monkeypatch, moment)
        box.add(answer(moment, f"{run}{moment}".encode(), run), f"{run}{moment}".encode())
    return box


def bodies(box: Outbox) -> str:
    return "".join(sorted(path.stem for path in (box.folder / "bodies").iterdir()))


def test_bodies_of_runs_that_ended_long_ago_are_dropped_and_the_chain_says_so(runs: Outbox) -> None:
    head = runs.head
    assert runs.drop_bodies(before=4) == ["b", "c"]
    assert bodies(runs) == "ad"  # the first run is old, and was asked again
    entries = again(runs).entries()
    assert [(entry.kind, entry.run) for entry in entries[5:]] == [("dropped", "b"), ("dropped", "c")]
    assert entries[5].previous == head
    assert [entry.run for entry in again(runs).of_run("b")] == ["b"]  # its digests are for good
    for entry in entries[:5]:
        if entry.run in "bc":
            with pytest.raises(OutboxDamaged, match=f"the bodies of run {entry.run} are gone"):
                runs.said(entry)
        else:
            assert runs.said(entry).payload == f"{entry.run}{entry.number}".encode()


def test_bodies_are_dropped_once(runs: Outbox) -> None:
    runs.drop_bodies(before=4)
    there = runs.chain.read_bytes()
    assert runs.drop_bodies(before=4) == again(runs).drop_bodies(before=4) == []
    assert runs.chain.read_bytes() == there


def test_a_run_that_was_dropped_may_be_asked_again(runs: Outbox) -> None:
    runs.drop_bodies(before=4)
    entry = runs.add(answer(9, b"b9", "b"), b"b9")
    assert again(runs).said(entry).payload == b"b9"
    with pytest.raises(OutboxDamaged, match="not what the chain names at line 2"):
        runs.said(runs.of_run("b")[0])


def test_a_hospital_that_never_took_part_has_nothing_to_drop(tmp_path: Path) -> None:
    assert Outbox(tmp_path / "outbox").drop_bodies(before=1e12) == []


def test_dropping_that_was_cut_short_is_gone_on_with(runs: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fails(OSError(errno.EIO, "input/output error")))
        with pytest.raises(OSError, match="input/output"):
            runs.drop_bodies(before=4)
    assert bodies(runs) == "abcd"
    assert [entry.kind for entry in runs.entries()[5:]] == ["dropped"]
    assert again(runs).drop_bodies(before=4) == ["b", "c"]
    assert bodies(runs) == "ad"


# A disk that takes no more.


def fails(problem: BaseException) -> Callable[..., Any]:
    def failing(*_: object, **__: object) -> Any:
        raise problem

    return failing


def failing_from(call: Callable[..., Any], number: int, half: bool) -> Callable[..., Any]:
    """A call of the operating system's that finds the disk full from the n-th time on, perhaps in the middle."""
    calls = 0

    def called(handle: int, *data: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= number:
            if half and calls == number and data:
                return call(handle, data[0][: len(data[0]) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return call(handle, *data)

    return called


FULL = [("write", 1, False), ("write", 1, True), ("write", 2, False), ("write", 2, True)]
FULL += [("fsync", number, False) for number in range(1, 7)]


@pytest.mark.parametrize("purpose", ["statistics", "train"])
@pytest.mark.parametrize(("call", "number", "half"), FULL)
def test_on_a_full_disk_nothing_is_posted_and_the_next_step_succeeds(
    purpose: str, call: str, number: int, half: bool, small: SiteHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(small, exchange=FolderExchange(tmp_path / "exchange"))
    with monkeypatch.context() as patch:
        patch.setattr(module.os, call, failing_from(getattr(os, call), number, half))
        with pytest.raises(OSError, match="No space left"):
            run.ask(purpose)
    assert run.exchange.names("to/coordinator/") == []
    assert small.outbox.entries() == again(small.outbox).entries() == []
    receipt = run.ask(purpose)
    assert (receipt.reused, receipt.refused) == (False, False)
    (entry,) = again(small.outbox).entries()
    said = again(small.outbox).said(entry)
    assert run.exchange.get(receipt.name) == said.message
    assert said.payload is not None
    assert run.exchange.get(payload_name(reference(said.payload))) == said.payload


def test_a_line_that_another_process_wrote_is_on_the_disk_before_it_counts(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It may have been killed between writing and forcing to the disk.
    monkeypatch.setattr(module.os, "fsync", fails(OSError(errno.EIO, "input/output error")))
    with pytest.raises(OSError, match="input/output"):
        again(box).answer_to(question(1))


# What is lost or damaged in the exchange is healed from the outbox.


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 1]) + raw[len(raw) // 2 + 1 :])


def deleted(path: Path) -> None:
    path.unlink()


DAMAGE: list[Callable[[Path], None]] = [cut, emptied, flipped, deleted]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("what", ["message", "payload", "both"])
def test_what_the_exchange_has_lost_is_healed_by_the_next_step(
    what: str, damage: Callable[[Path], None], small: SiteHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "exchange"
    run = Run(small, exchange=FolderExchange(root))
    update = run.told("train")
    message = root / update.address.name
    payload = root / payload_name(update.payload)
    before = message.read_bytes(), payload.read_bytes()
    for path, whole in ((message, what == "payload"), (payload, what == "message")):
        if not whole:
            damage(path)
    restarted(monkeypatch)
    receipt = run.ask("train")
    assert receipt.reused
    assert (message.read_bytes(), payload.read_bytes()) == before
    assert len(small.outbox.entries()) == 1


def test_what_the_bodies_have_lost_cannot_be_healed_and_is_said(small: SiteHome, tmp_path: Path) -> None:
    run = Run(small, exchange=FolderExchange(tmp_path / "exchange"))
    update = run.told("train")
    (small.outbox.folder / "bodies" / f"{run.name}.bin").unlink()
    (tmp_path / "exchange" / update.address.name).unlink()
    with pytest.raises(OutboxDamaged, match="are gone; start the run over"):
        run.ask("train")
    # The next turn needs what was kept of the last one that counted, and does not begin from nothing in silence.
    reason = run.refused("train", round=2, counted=update.payload.sha256)
    assert f"the bodies of run {run.name} are gone" in reason


def test_a_turn_that_counted_and_is_not_in_the_outbox_is_missed(small: SiteHome) -> None:
    reason = Run(small).refused("train", round=2, counted="a" * 64)
    assert "the outbox does not hold the update aaaaaaaaaaaa… that counted last" in reason


# At once.


def test_threads_that_are_asked_the_same_at_once_give_one_answer(small: SiteHome) -> None:
    run = Run(small)
    ready, receipts = threading.Barrier(6), []

    def ask() -> None:
        ready.wait()
        receipts.append(run.ask("train"))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(receipts) == 6
    assert {receipt.name for receipt in receipts} == {run.answer("train").address.name}
    (entry,) = small.outbox.entries()
    assert run.exchange.get(entry.name) == small.outbox.said(entry).message


def test_threads_that_say_different_things_at_once_are_heard_one_after_the_other(tmp_path: Path) -> None:
    boxes = [Outbox(tmp_path / "outbox") for _ in range(4)]  # as four processes would each have one
    ready = threading.Barrier(4)

    def say(place: int) -> None:
        ready.wait()
        for number in range(10):
            data = f"{place} {number}".encode()
            boxes[place].add(answer(10 * place + number, data), data)

    threads = [threading.Thread(target=say, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = again(boxes[0])
    assert sorted(entry.question for entry in read.entries()) == sorted(question(number) for number in range(40))
    for place in range(4):
        for number in range(10):
            entry = read.answer_to(question(10 * place + number))
            assert entry is not None
            assert read.said(entry).payload == f"{place} {number}".encode()


ONE_STEP = """
import sys, time
from pathlib import Path
from fedmed.exchange.folder import FolderExchange
from fedmed.site.agent import step
from fedmed.site.desk import open_session
from fedmed.site.home import SiteHome

home, exchange, run, name, ready, go = sys.argv[1:]
open_session(SiteHome(Path(home)))
Path(ready).touch()
while not Path(go).exists():
    time.sleep(0.001)
print(*step(SiteHome(Path(home)), FolderExchange(Path(exchange)), run, name))
"""


@pytest.mark.slow
def test_processes_that_are_asked_the_same_at_once_give_one_answer(small: SiteHome, tmp_path: Path) -> None:
    run = Run(small, exchange=FolderExchange(tmp_path / "exchange"))
    asked = run.question("train")
    run.exchange.put(asked.address.name, encode(asked))
    go = tmp_path / "go"
    started = [
        subprocess.Popen(
            [
                *(sys.executable, "-c", ONE_STEP, small.path, tmp_path / "exchange", run.name, asked.address.name),
                *(tmp_path / f"ready{place}", go),
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in range(2)
    ]
    while not all((tmp_path / f"ready{place}").exists() for place in range(2)):
        assert all(process.poll() is None for process in started)
        threading.Event().wait(0.05)
    go.touch()
    for process in started:
        told, problem = process.communicate(timeout=120)
        assert process.returncode == 0, problem
        assert told.startswith("cleveland train to/coordinator/")
    (entry,) = small.outbox.entries()
    assert run.exchange.get(entry.name) == small.outbox.said(entry).message
    assert json.loads(small.outbox.chain.read_bytes())["number"] == 1

"""What a hospital has said, before anybody hears it: append-only, chained by digests, on the disk before it leaves.

    outbox/chain.jsonl        one line an answer: its number, the digest of the line before it, what was asked, what was
                              said and where, by digests; kept for good
    outbox/bodies/<run>.bin   the bytes of message, payload and what the hospital keeps of the turn, one after the other

The same question is answered by the same bytes: they are looked up here, not computed again. What a strategy, a
network's own layers or a stage remember from turn to turn lies here too, beside the update that it belongs to, so that
neither can be ahead of the other. Bodies may be dropped after a time that the hospital declares; the chain says so.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from fedmed.errors import OutboxDamaged
from fedmed.locks import in_turn
from fedmed.typed_yaml import Record
from fedmed.wire.messages import Response, encode

START = "0" * 64
"""What the first line of a chain follows."""


class Entry(Record):
    """One line of the chain: an answer, or that the bodies of a run were dropped.

    Args:
        number: from 1.
        previous: SHA-256 of the line before.
        time: seconds since 1970; for people, nothing is decided by it but when bodies may be dropped.
        kind: `answer` or `dropped`.
        run: the run that the answer, or the dropped bodies, belong to.
        question: SHA-256 of the question's bytes.
        plan: SHA-256 of the plan that the question names; empty if it names none.
        begun: the attempt in which that plan was begun from nothing.
        name: of the answer's address in the exchange.
        message: SHA-256 of the answer's bytes.
        payload: that of its payload; empty if it has none.
        kept: that of what the hospital keeps; empty if it keeps nothing.
        sizes: how many bytes each of the three has.
        offset: where the first of them begins in the run's bodies.
    """

    number: int
    previous: str
    time: float
    kind: Literal["answer", "dropped"]
    run: str
    question: str = ""
    plan: str = ""
    begun: int = 0
    name: str = ""
    message: str = ""
    payload: str = ""
    kept: str = ""
    sizes: tuple[int, int, int] = (0, 0, 0)
    offset: int = 0


class Said(NamedTuple):
    """An answer as it left: the bytes of the message and of its payload, and what the hospital keeps of it."""

    entry: Entry
    message: bytes
    payload: bytes | None
    kept: bytes


class Outbox:
    """The outbox in one folder; use :func:`outbox_at`, which has one object a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._read = 0
        self._head = START
        self._entries: list[Entry] = []
        self._by_question: dict[str, Entry] = {}
        self._by_name: dict[str, Entry] = {}

    @property
    def chain(self) -> Path:
        """The chain's file."""
        return self.folder / "chain.jsonl"

    def entries(self) -> list[Entry]:
        """All lines of the chain, in order, each held against the one before it.

        Raises:
            OutboxDamaged: if a line does not follow from those before it.
        """
        with self._lock:
            self._catch_up()
            return list(self._entries)

    @property
    def head(self) -> str:
        """SHA-256 of the last line: who knows it knows whether anything before it was changed."""
        with self._lock:
            self._catch_up()
            return self._head

    def answer_to(self, question: str) -> Entry | None:
        """The answer to the question whose bytes have this SHA-256, if there is one."""
        with self._lock:
            self._catch_up()
            return self._by_question.get(question)

    def answer_at(self, name: str) -> Entry | None:
        """The answer that was given under a name, whatever the question was."""
        with self._lock:
            self._catch_up()
            return self._by_name.get(name)

    def of_run(self, run: str) -> list[Entry]:
        """The answers that belong to a run, in order."""
        return [entry for entry in self.entries() if entry.run == run and entry.kind == "answer"]

    def add(
        self, response: Response, payload: bytes | None = None, kept: bytes = b"", *, plan: str = "", begun: int = 0
    ) -> Entry:
        """Keep an answer; it is on the disk when this returns. If the question was answered meanwhile, that counts.

        Raises:
            OSError: if the disk is full or cannot be written; nothing has been said then.
        """
        message = encode(response)
        parts = (message, payload or b"", kept)
        with self._alone():
            if (earlier := self._by_question.get(response.question)) is not None:
                return earlier
            path = self._bodies(response.run)
            offset = _append(path, b"".join(parts))
            return self._append(
                kind="answer",
                run=response.run,
                question=response.question,
                plan=plan,
                begun=begun,
                name=response.address.name,
                message=_sha256(message),
                payload=_sha256(payload) if payload is not None else "",
                kept=_sha256(kept) if kept else "",
                sizes=tuple(map(len, parts)),
                offset=offset,
            )

    def said(self, entry: Entry) -> Said:
        """The bytes of an answer.

        Raises:
            OutboxDamaged: if they are gone, or not those that the chain names.
        """
        try:
            with self._bodies(entry.run).open("rb") as file:
                file.seek(entry.offset)
                message, payload, kept = (file.read(size) for size in entry.sizes)
        except FileNotFoundError:
            raise OutboxDamaged(
                f"{self._bodies(entry.run)}: the bodies of run {entry.run} are gone; start the run over with"
                " `fedmed run --force`"
            ) from None
        expected = (entry.message, entry.payload, entry.kept)
        for part, digest in zip((message, payload, kept), expected, strict=True):
            if (digest or part) and _sha256(part) != digest:
                raise OutboxDamaged(
                    f"{self._bodies(entry.run)}: not what the chain names at line {entry.number}; start the run over"
                    " with `fedmed run --force`"
                )
        return Said(entry, message, payload if entry.payload else None, kept)

    def drop_bodies(self, before: float) -> list[str]:
        """Drop the bodies of runs that were answered for the last time before a time, in seconds since 1970.

        Returns:
            The runs; that they were dropped is in the chain before they are.
        """
        with self._alone():
            last = {entry.run: entry.time for entry in self._entries if entry.kind == "answer"}
            old = sorted(run for run, at in last.items() if at < before and self._bodies(run).exists())
            for run in old:
                self._append(kind="dropped", run=run)
                self._bodies(run).unlink(missing_ok=True)
            return old

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread or process adds to the chain meanwhile."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._lock, in_turn(self.folder / ".lock"):
            self._catch_up(mend=True)
            yield

    def _append(self, **content: Any) -> Entry:
        entry = Entry(number=len(self._entries) + 1, previous=self._head, time=round(time.time(), 3), **content)
        line = entry.model_dump_json().encode() + b"\n"
        self._read = _append(self.chain, line) + len(line)
        self._take(entry, line)
        return entry

    def _catch_up(self, *, mend: bool = False) -> None:
        """Read what was added since the last look, perhaps by another process.

        A last line that is not whole was torn by a crash, before anything of it had left: who is alone with the chain
        cuts it off.
        """
        try:
            size = self.chain.stat().st_size
        except FileNotFoundError:
            if self._read:
                raise OutboxDamaged(f"{self.chain}: gone, with all that this hospital has said") from None
            return
        if size < self._read:
            raise OutboxDamaged(f"{self.chain}: shorter than it was; restored from a copy?")
        if size == self._read:
            return
        with self.chain.open("rb+" if mend else "rb") as file:
            file.seek(self._read)
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            if mend and len(whole) < len(data):
                file.truncate(self._read + len(whole))
            os.fsync(file.fileno())  # who wrote it may have been killed before this; nothing leaves without it
        for line in whole.splitlines(keepends=True):
            self._take(self._checked(line), line)
        self._read += len(whole)

    def _checked(self, line: bytes) -> Entry:
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError:
            entry = None
        if entry is None or (entry.number, entry.previous) != (len(self._entries) + 1, self._head):
            raise OutboxDamaged(f"{self.chain}, line {len(self._entries) + 1}: does not follow from those before it")
        return entry

    def _take(self, entry: Entry, line: bytes) -> None:
        self._head = _sha256(line)
        self._entries.append(entry)
        if entry.kind == "answer":
            self._by_question[entry.question] = entry
            self._by_name.setdefault(entry.name, entry)

    def _bodies(self, run: str) -> Path:
        return self.folder / "bodies" / f"{run}.bin"


_outboxes: dict[Path, Outbox] = {}
_outboxes_lock = threading.Lock()


def outbox_at(folder: Path) -> Outbox:
    """The outbox of a folder; one object a folder in this process."""
    with _outboxes_lock:
        return _outboxes.setdefault(folder.absolute(), Outbox(folder.absolute()))


def _append(path: Path, data: bytes) -> int:
    """Append to a file and force it to the disk; where the bytes begin. What a crash leaves of them nobody names.

    Raises:
        OSError: if it cannot be done; the file is then as it was, as far as that can be.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        offset = os.lseek(handle, 0, os.SEEK_END)
        if offset == 0:  # a new file is in its folder, and the folder in its own, before anything is in the file
            _sync_folder(path.parent)
            _sync_folder(path.parent.parent)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(handle, left) :]
            os.fsync(handle)
        except OSError:
            with suppress(OSError):
                os.ftruncate(handle, offset)  # what is not on the disk for certain must not count later
            raise
    finally:
        os.close(handle)
    return offset


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

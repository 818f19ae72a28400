"""What every exchange keeps to, in memory and in a folder: bytes under names, written once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fedmed
from fedmed.errors import MessageConflict, MessageRefused
from fedmed.exchange import base
from fedmed.exchange.base import LARGEST, Exchange, check_name, check_prefix, is_name
from fedmed.exchange.folder import FolderExchange
from fedmed.exchange.memory import MemoryExchange

EXCHANGES: dict[str, Callable[[Path], Exchange]] = {"memory": lambda _: MemoryExchange(), "folder": FolderExchange}
NAME = "to/coordinator/run-1/001.00003.train.va"


@pytest.fixture(params=EXCHANGES)
def exchange(request: pytest.FixtureRequest, tmp_path: Path) -> Exchange:
    return EXCHANGES[request.param](tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x00", b"the bytes", bytes(1 << 16)], ids=len)
def test_what_was_put_is_got(exchange: Exchange, data: bytes) -> None:
    exchange.put(NAME, data)
    assert exchange.get(NAME) == data


def test_where_nothing_was_put_nothing_is_got(exchange: Exchange) -> None:
    assert exchange.get(NAME) is None
    exchange.put(NAME, b"1")
    assert exchange.get(NAME + ".b") is None
    assert exchange.get(NAME + "/below") is None


def test_the_same_bytes_twice_are_no_error(exchange: Exchange) -> None:
    for _ in range(3):
        exchange.put(NAME, b"the bytes")
    assert exchange.get(NAME) == b"the bytes"
    assert exchange.names("to/") == [NAME]


@pytest.mark.parametrize("other", [b"", b"the Bytes", b"the bytes ", b"the byte"])
def test_other_bytes_under_a_name_are_a_conflict_and_the_first_stay(exchange: Exchange, other: bytes) -> None:
    exchange.put(NAME, b"the bytes")
    with pytest.raises(MessageConflict, match=f"{NAME}: other bytes stand here already"):
        exchange.put(NAME, other)
    assert exchange.get(NAME) == b"the bytes"
    exchange.put(NAME, b"the bytes")


def test_what_was_put_does_not_follow_the_senders_buffer(exchange: Exchange) -> None:
    buffer = bytearray(b"the bytes")
    exchange.put(NAME, bytes(buffer))
    buffer[:] = b"something"
    assert exchange.get(NAME) == b"the bytes"


# Names.


def test_names_are_sorted_and_only_those_below_the_prefix(exchange: Exchange) -> None:
    names = ["to/va/run-2/001.a", "to/va/run-1/002.b", "to/va/run-1/001.c", "to/vab/run-1/001.d", "payloads/aa/aa"]
    for name in names:
        exchange.put(name, name.encode())
    assert exchange.names("to/va/run-1/") == ["to/va/run-1/001.c", "to/va/run-1/002.b"]
    assert exchange.names("to/va/") == ["to/va/run-1/001.c", "to/va/run-1/002.b", "to/va/run-2/001.a"]
    assert exchange.names("to/") == sorted(names)[1:]
    assert exchange.names("payloads/") == ["payloads/aa/aa"]
    assert exchange.names("to/nobody/") == []
    assert exchange.names("to/va/run-1/001.c/") == []  # it is a name and nothing lies below it


@pytest.mark.parametrize(
    "prefix", ["", "/", "to", "to/va", "../", "to//", "/to/", "To/", "to/../", ".hidden/", "to/\n/"]
)
def test_what_is_no_prefix_is_refused(exchange: Exchange, prefix: str) -> None:
    with pytest.raises(MessageRefused, match="expected a"):
        exchange.names(prefix)
    exchange.put(NAME, b"1")
    with pytest.raises(MessageRefused, match="expected a"):
        exchange.names(prefix)


HOSTILE = [
    "",
    ".",
    "..",
    "/",
    "../x",
    "to/../x",
    "to/..",
    "/etc/passwd",
    "to//va",
    "to/va/",
    "A",
    "to/VA/x",
    ".hidden",
    "to/.hidden",
    "to/va/-x",
    "to/va/_x",
    "a\n",
    "a\0",
    "a b",
    "a\\b",
    "é",
    "ａ",
    "c:x",
    "a" * 201,
    "to/" + "a" * 201,
    "/".join("abcdefghi"),
]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_name_that_could_lead_elsewhere_is_refused_and_nothing_written(
    exchange: Exchange, name: str, tmp_path: Path
) -> None:
    for attempt in (lambda: exchange.put(name, b"1"), lambda: exchange.get(name)):
        with pytest.raises(MessageRefused, match="expected a name in parts of small letters"):
            attempt()
    assert list(tmp_path.iterdir()) == []
    assert not is_name(name)


def test_a_refusal_quotes_no_more_of_a_name_than_a_person_reads() -> None:
    with pytest.raises(MessageRefused) as refused:
        check_name("A" * 100_000)
    assert len(str(refused.value)) < 300


def test_the_longest_names_are_taken(exchange: Exchange) -> None:
    name = "/".join(["a" * 200] * 8)
    exchange.put(name, b"1")
    assert exchange.get(name) == b"1"
    assert exchange.names("a" * 200 + "/") == [name]


@given(st.text("ab01._-/AZ é\n", max_size=20))
def test_what_is_a_name_is_one_path_below_a_folder(text: str) -> None:
    if is_name(text):
        root = Path("/exchange")
        assert (root / text).resolve().relative_to(root).as_posix() == text
        assert check_prefix(text + "/") == text + "/"


names = st.from_regex(r"[a-c][a-c.]{0,2}/[a-c]", fullmatch=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(puts=st.lists(st.tuples(names, st.binary(max_size=3)), max_size=8))
def test_a_folder_and_a_memory_answer_alike(
    puts: list[tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    here, there = MemoryExchange(), FolderExchange(tmp_path_factory.mktemp("exchange"))

    def tried(exchange: Exchange, name: str, data: bytes) -> str:
        try:
            exchange.put(name, data)
        except MessageConflict as problem:
            return str(problem)
        return ""

    for name, data in puts:
        assert tried(here, name, data) == tried(there, name, data)
        assert here.get(name) == there.get(name)
    for first in {name.partition("/")[0] for name, _ in puts}:
        assert here.names(f"{first}/") == there.names(f"{first}/")


# Sizes.


def test_more_bytes_than_the_largest_are_refused(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LARGEST == 1 << 30
    monkeypatch.setattr(base.check_size, "__defaults__", (1000,))
    exchange.put(NAME, bytes(1000))
    with pytest.raises(MessageRefused, match=r"other: expected at most 1000 bytes, got 1001"):
        exchange.put("other", bytes(1001))
    assert exchange.get("other") is None


def test_who_gets_says_how_much_it_would_take(exchange: Exchange) -> None:
    exchange.put(NAME, bytes(1000))
    assert exchange.get(NAME, 1000) == bytes(1000)
    with pytest.raises(MessageRefused, match=f"{NAME}: expected at most 999 bytes, got 1000"):
        exchange.get(NAME, 999)


# Two writers at once.


def race(puts: list[Callable[[], None]]) -> list[str]:
    """Run all at once; the names of the errors, empty where there was none."""
    ready, results = threading.Barrier(len(puts)), [""] * len(puts)

    def one(place: int) -> None:
        ready.wait()
        try:
            puts[place]()
        except Exception as problem:  # noqa: BLE001  # any other than a conflict is what the test looks for
            results[place] = type(problem).__name__

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(puts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_many_who_put_other_bytes_under_a_name_at_once_exactly_one_wins(exchange: Exchange) -> None:
    for attempt in range(15):
        name, contents = f"to/va/{attempt}", [f"{n}".encode() * 5000 for n in range(6)]
        results = race([lambda data=data, name=name: exchange.put(name, data) for data in contents])
        assert sorted(results) == ["", *["MessageConflict"] * 5]
        assert exchange.get(name) == contents[results.index("")]


def test_of_many_who_put_the_same_bytes_at_once_all_succeed(exchange: Exchange) -> None:
    for attempt in range(15):
        name, data = f"to/va/{attempt}", f"payload {attempt}".encode() * 1000
        assert race([lambda data=data, name=name: exchange.put(name, data)] * 6) == [""] * 6
        assert exchange.get(name) == data


def test_of_many_who_heal_what_was_torn_exactly_one_wins(tmp_path: Path) -> None:
    folder = FolderExchange(tmp_path)
    for attempt in range(15):
        name, contents = f"to/va/{attempt}", [f"{n}".encode() * 5000 for n in range(6)]
        folder.put(name, contents[0])
        (tmp_path / name).write_bytes(b"torn")
        results = race([lambda data=data, name=name: folder.put(name, data) for data in contents])
        assert sorted(results) == ["", *["MessageConflict"] * 5]
        assert folder.get(name) == contents[results.index("")]


WRITER = """
import sys, time
from pathlib import Path
from fedmed.errors import MessageConflict
from fedmed.exchange.folder import FolderExchange

root, who = Path(sys.argv[1]), sys.argv[2]
(root / f"{who}.ready").touch()
while not (root / "go").exists():
    time.sleep(0.001)
exchange, won = FolderExchange(root / "exchange"), 0
for number in range(40):
    exchange.put(f"same/{number}", b"the same" * 1000)
    try:
        exchange.put(f"other/{number}", who.encode() * 1000)
        won += 1
    except MessageConflict:
        pass
print(won)
"""


def test_of_processes_that_put_at_once_one_wins_each_name(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(fedmed.__file__).parents[1])}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), who], stdout=subprocess.PIPE, text=True, env=environment
        )
        for who in "abc"
    ]
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("*.ready"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    won = [int(writer.communicate(timeout=60)[0]) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert sum(won) == 40
    exchange = FolderExchange(tmp_path / "exchange")
    assert {exchange.get(name) for name in exchange.names("same/")} == {b"the same" * 1000}
    owners = [exchange.get(name) for name in exchange.names("other/")]
    assert [sum(data == who.encode() * 1000 for data in owners) for who in "abc"] == won
    left = [path.name for path in (tmp_path / "exchange").rglob("*") if path.is_file()]
    assert len([name for name in left if not name.startswith(".")]) == len([n for n in left if n != ".healing"]) == 80


# What can only go wrong in a folder.


@pytest.fixture
def folder(tmp_path: Path) -> FolderExchange:
    exchange = FolderExchange(tmp_path)
    exchange.put(NAME, b"the bytes")
    return exchange


def test_a_folder_holds_one_file_a_name_and_no_remains(folder: FolderExchange) -> None:
    folder.put("payloads/aa/aa", b"1")
    with pytest.raises(MessageConflict):
        folder.put(NAME, b"other")
    files = {path for path in folder.root.rglob("*") if path.is_file() and path.name != ".healing"}
    assert files == {folder.root / NAME, folder.root / "payloads" / "aa" / "aa"}
    assert FolderExchange(folder.root).get(NAME) == b"the bytes"


TORN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "without its last byte": lambda whole: whole[:-1],
    "without a line": lambda whole: whole[65:],
    "with a bit that has flipped": lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
    "with zeros where blocks were lost": lambda whole: bytes(len(whole)),
    "with another digest": lambda whole: b"0" * 64 + whole[64:],
    "with more than was put": lambda whole: whole + b"\n",
}


@pytest.mark.parametrize("how", TORN)
def test_a_torn_file_counts_as_absent_and_can_be_put_there_again(how: str, folder: FolderExchange) -> None:
    path = folder.root / NAME
    path.write_bytes(TORN[how](path.read_bytes()))
    assert folder.get(NAME) is None
    assert folder.names("to/") == [NAME]  # the name is there; whoever gets it is told that its bytes are not
    folder.put(NAME, b"the bytes")
    assert folder.get(NAME) == b"the bytes"
    with pytest.raises(MessageConflict):
        folder.put(NAME, b"other")


def test_in_place_of_a_torn_file_other_bytes_may_be_put(folder: FolderExchange) -> None:
    # Nobody has seen the first whole: what counts is what stands there whole first.
    (folder.root / NAME).write_bytes(b"torn")
    folder.put(NAME, b"other")
    assert folder.get(NAME) == b"other"


def test_an_oversized_file_is_refused_unread(folder: FolderExchange) -> None:
    with (folder.root / NAME).open("wb") as file:
        file.truncate(1 << 40)  # a sparse file of a tebibyte: reading it would end in a memory error
    with pytest.raises(MessageRefused, match=f"{NAME}: expected at most 100 bytes, got {(1 << 40) - 65}"):
        folder.get(NAME, 100)
    for attempt in (lambda: folder.get(NAME), lambda: folder.put(NAME, b"the bytes")):
        with pytest.raises(MessageRefused, match=f"at most {LARGEST} bytes"):
            attempt()


def test_a_folder_in_place_of_a_file_is_refused(folder: FolderExchange) -> None:
    (folder.root / "to" / "va").mkdir()
    for attempt in (lambda: folder.get("to/va"), lambda: folder.put("to/va", b"1")):
        with pytest.raises(MessageRefused, match="to/va: expected a file, got something else"):
            attempt()
    assert folder.names("to/va/") == []


@pytest.mark.parametrize("target", ["elsewhere", "nothing", "itself"])
def test_a_link_in_place_of_a_file_is_refused_and_not_followed(
    folder: FolderExchange, target: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = FolderExchange(tmp_path_factory.mktemp("outside"))
    outside.put("secret", b"not meant for here")
    link = folder.root / "to" / "link"
    link.symlink_to({"elsewhere": outside.root / "secret", "nothing": folder.root / "gone", "itself": link}[target])
    for attempt in (lambda: folder.get("to/link"), lambda: folder.put("to/link", b"not meant for here")):
        with pytest.raises(MessageRefused, match="to/link: expected a file, got something else"):
            attempt()
    assert folder.names("to/") == [NAME]
    assert outside.get("secret") == b"not meant for here"


def test_a_link_to_a_folder_is_not_listed(folder: FolderExchange, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret").write_bytes(b"")
    (folder.root / "to" / "va").symlink_to(outside)
    assert folder.names("to/") == [NAME]


def test_what_nobody_put_there_is_not_listed(folder: FolderExchange) -> None:
    for stray in (".DS_Store", "Thumbs.db", ".001.part", "a b", "note~"):
        (folder.root / "to" / stray).write_bytes(b"")
    os.mkfifo(folder.root / "to" / "pipe")
    (folder.root / "to" / "empty").mkdir()
    assert folder.names("to/") == [NAME]
    with pytest.raises(MessageRefused, match="to/pipe: expected a file"):
        folder.get("to/pipe")  # and does not wait for somebody to write into it


def test_what_cannot_be_written_is_said_and_does_not_appear(tmp_path: Path) -> None:
    (tmp_path / "payloads").write_text("a file where a folder should be")
    exchange = FolderExchange(tmp_path)
    with pytest.raises(OSError, match="payloads"):
        exchange.put("payloads/aa/aa", b"1")
    assert exchange.get("payloads/aa/aa") is None
    assert exchange.names("payloads/") == []


def test_a_folder_that_is_not_there_is_empty_and_made_when_it_is_needed(tmp_path: Path) -> None:
    exchange = FolderExchange(tmp_path / "new" / "exchange")
    assert exchange.get(NAME) is None
    assert exchange.names("to/") == []
    assert not (tmp_path / "new").exists()
    exchange.put(NAME, b"1")
    assert exchange.names("to/") == [NAME]


def test_the_exchange_knows_no_message_and_loads_neither_torch_nor_pandas() -> None:
    look = (
        "import sys, fedmed.exchange.folder, fedmed.exchange.memory\n"
        "print([name for name in ('torch', 'pandas', 'numpy', 'pydantic', 'fedmed.wire') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(fedmed.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"

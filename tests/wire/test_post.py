"""Messages and payloads in an exchange: each where it belongs, and nothing else taken for one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.errors import ExchangeError, MessageConflict, MessageMissing, MessageRefused
from fedmed.exchange.base import LARGEST, Exchange
from fedmed.exchange.folder import FolderExchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.wire.messages import COORDINATOR, LARGEST_MESSAGE, Address, Payload, Refusal, Score, Statistics, encode
from fedmed.wire.post import (
    bundle,
    check_payload,
    fetch,
    find,
    inbox,
    payload_name,
    payload_of,
    post,
    put_payload,
    reference,
    unbundle,
)

EXCHANGES: dict[str, Callable[[Path], Exchange]] = {"memory": lambda _: MemoryExchange(), "folder": FolderExchange}
BYTES = b"the payload"
NOWHERE = Address(COORDINATOR, "run-1", 1, 9, "statistics", "north")


@pytest.fixture(params=EXCHANGES)
def exchange(request: pytest.FixtureRequest, tmp_path: Path) -> Exchange:
    return EXCHANGES[request.param](tmp_path)


def message(payload: bytes = BYTES, sender: str = "north", run: str = "run-1", number: int = 0) -> Statistics:
    return Statistics(
        run=run, round=number, sender=sender, purpose="statistics", question="9" * 64, payload=reference(payload)
    )


def score(loss: float, run: str = "run-1") -> Score:
    head = {"run": run, "round": 1, "sender": "north", "purpose": "score", "question": "9" * 64}
    return Score.model_validate({**head, "model": "0" * 64, "rows": 20, "loss": loss})


def test_what_was_posted_is_found_with_its_payload(exchange: Exchange) -> None:
    assert post(exchange, message(), BYTES) == "to/coordinator/run-1/001.00000.statistics.north"
    found = fetch(exchange, message().address, Statistics)
    assert found == message()
    assert payload_of(exchange, found.payload) == BYTES
    assert find(exchange, message().address.name) == message()


def test_a_message_without_a_payload_is_found(exchange: Exchange) -> None:
    post(exchange, score(0.5))
    assert find(exchange, score(0.5).address) == score(0.5)


def test_where_nothing_was_posted_nothing_is_found(exchange: Exchange) -> None:
    assert find(exchange, NOWHERE) is None
    with pytest.raises(MessageMissing, match=r"nothing was posted at to/coordinator/run-1/001\.00009\.statistics"):
        fetch(exchange, NOWHERE, Statistics)
    with pytest.raises(MessageMissing, match="was not posted"):
        payload_of(exchange, reference(BYTES))


def test_the_same_message_twice_is_no_error_and_another_at_its_address_a_conflict(exchange: Exchange) -> None:
    for _ in range(2):
        post(exchange, message(), BYTES)
        post(exchange, score(0.5))
    for other in (score(0.25), message(b"other")):
        with pytest.raises(MessageConflict, match="other bytes stand here already"):
            post(exchange, other)
    assert find(exchange, message().address) == message()
    assert find(exchange, score(0.5).address) == score(0.5)


def test_two_sites_may_post_the_same_payload(exchange: Exchange) -> None:
    for sender in ("north", "south"):
        post(exchange, message(sender=sender), BYTES)
        assert payload_of(exchange, message(sender=sender).payload) == BYTES
    assert len(exchange.names("payloads/")) == 1


@pytest.mark.parametrize("wrong", [b"", b"the Payload", b"the payload ", BYTES[:-1]])
def test_a_payload_that_the_message_does_not_name_is_refused_and_nothing_posted(
    exchange: Exchange, wrong: bytes
) -> None:
    with pytest.raises(MessageRefused, match="expected 11 bytes with this digest"):
        post(exchange, message(), wrong)
    assert find(exchange, message().address) is None
    with pytest.raises(MessageMissing):
        payload_of(exchange, message().payload)


def test_a_payload_with_a_message_that_names_none_is_refused(exchange: Exchange) -> None:
    with pytest.raises(MessageRefused, match="score: a payload came with a message that names none"):
        post(exchange, score(0.5), BYTES)
    assert find(exchange, score(0.5).address) is None
    assert exchange.names("payloads/") == []


def test_a_payload_stands_there_before_the_message_that_names_it() -> None:
    class Watched(MemoryExchange):
        """Remembers in which order names were put."""

        def __init__(self) -> None:
            super().__init__()
            self.put_so_far: list[str] = []

        def put(self, name: str, data: bytes) -> None:
            self.put_so_far.append(name)
            super().put(name, data)

    exchange = Watched()
    post(exchange, message(), BYTES)
    assert exchange.put_so_far == [payload_name(reference(BYTES)), message().address.name]


def test_a_message_whose_payload_cannot_be_written_does_not_appear(tmp_path: Path) -> None:
    (tmp_path / "payloads").write_text("a file where a folder should be")
    exchange = FolderExchange(tmp_path)
    with pytest.raises(OSError, match="payloads"):
        post(exchange, message(), BYTES)
    assert find(exchange, message().address) is None


def test_a_message_whose_payload_is_not_there_tells_so(exchange: Exchange) -> None:
    post(exchange, message())
    with pytest.raises(MessageMissing, match="was not posted, or not the whole of it"):
        payload_of(exchange, message().payload)


def test_a_payload_of_another_size_than_its_reference_is_refused(exchange: Exchange) -> None:
    put_payload(exchange, BYTES)
    for size in (10, 12):
        with pytest.raises(MessageRefused):
            payload_of(exchange, Payload(sha256=reference(BYTES).sha256, size=size))


def test_a_payload_that_is_not_the_one_that_its_name_says_is_refused(exchange: Exchange) -> None:
    exchange.put(payload_name(reference(BYTES)), BYTES[::-1])
    with pytest.raises(MessageRefused, match="expected 11 bytes with this digest, got 11 others"):
        payload_of(exchange, reference(BYTES))


def test_a_payload_larger_than_the_largest_is_refused_before_it_is_looked_for(exchange: Exchange) -> None:
    huge = Payload(sha256="0" * 64, size=LARGEST + 1)
    post(exchange, message().model_copy(update={"payload": huge}))  # the words may stand there: nothing is fetched
    with pytest.raises(MessageRefused, match=f"{LARGEST + 1} bytes; at most {LARGEST} are taken"):
        payload_of(exchange, huge)


def test_an_oversized_payload_file_is_refused_unread(tmp_path: Path) -> None:
    exchange = FolderExchange(tmp_path)
    with (tmp_path / put_and_path(exchange)).open("wb") as file:
        file.truncate(1 << 40)  # a sparse file of a tebibyte: reading it would end in a memory error
    with pytest.raises(MessageRefused, match="expected at most 11 bytes"):
        payload_of(exchange, reference(BYTES))


def put_and_path(exchange: Exchange) -> str:
    return payload_name(put_payload(exchange, BYTES))


def test_a_changed_payload_file_counts_as_none_and_is_healed_by_its_sender(tmp_path: Path) -> None:
    exchange = FolderExchange(tmp_path)
    path = tmp_path / put_and_path(exchange)
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(MessageMissing, match="not the whole of it"):
        payload_of(exchange, reference(BYTES))
    put_payload(exchange, BYTES)
    assert payload_of(exchange, reference(BYTES)) == BYTES


@pytest.mark.parametrize("content", [b"", encode(message())[:-5], b"\x80\x04K\x01.", b"[]", b"\xff"], ids=repr)
def test_bytes_at_an_address_that_are_no_message_are_refused(exchange: Exchange, content: bytes) -> None:
    exchange.put(message().address.name, content)
    with pytest.raises(MessageRefused, match="not what its kind asks for"):
        find(exchange, message().address)


def test_an_oversized_message_is_neither_posted_nor_read(exchange: Exchange) -> None:
    large = message().model_copy(update={"run": "r" * LARGEST_MESSAGE})
    with pytest.raises(MessageRefused, match=f"expected a message of at most {LARGEST_MESSAGE} bytes"):
        post(exchange, large)
    exchange.put(message().address.name, encode(message()) + b" " * LARGEST_MESSAGE)
    with pytest.raises(MessageRefused, match=f"at most {LARGEST_MESSAGE} bytes"):
        find(exchange, message().address)


@pytest.mark.parametrize(
    "changes", [{"sender": "south"}, {"recipient": "south"}, {"run": "run-2"}, {"round": 1}, {"attempt": 2}], ids=str
)
def test_a_message_at_another_address_than_its_own_is_refused(exchange: Exchange, changes: dict[str, object]) -> None:
    moved = message().model_copy(update=changes)
    exchange.put(moved.address.name, encode(message()))
    with pytest.raises(MessageRefused, match="expected a message of this address, got another one"):
        find(exchange, moved.address)
    assert find(exchange, message().address) is None


def test_a_message_of_another_kind_at_an_address_is_refused(exchange: Exchange) -> None:
    refusal = Refusal(run="run-1", sender="north", purpose="statistics", question="9" * 64, reason="no time")
    assert refusal.address == message().address
    post(exchange, refusal)
    with pytest.raises(MessageRefused, match="expected a Statistics, got another message"):
        fetch(exchange, message().address, Statistics)
    assert fetch(exchange, message().address, Refusal) == refusal


def test_an_inbox_is_of_one_run_or_of_all_and_of_nobody_else(exchange: Exchange) -> None:
    for run in ("run-1", "run-2"):
        for sender in ("south", "north"):
            post(exchange, message(sender=sender, run=run), BYTES)
    names = [message(sender=sender, run="run-1").address.name for sender in ("north", "south")]
    assert inbox(exchange, COORDINATOR, "run-1") == names
    assert len(inbox(exchange, COORDINATOR)) == 4
    assert inbox(exchange, "north") == []
    assert inbox(exchange, COORDINATOR, "run") == []


def test_check_payload_returns_the_bytes_that_fit() -> None:
    assert check_payload(BYTES, reference(BYTES)) == BYTES
    with pytest.raises(MessageRefused):
        check_payload(BYTES[::-1], reference(BYTES))


# Bundles.


@given(st.dictionaries(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,9}", fullmatch=True), st.binary(max_size=40), max_size=4))
def test_a_bundle_comes_back_sorted_whatever_order_it_was_made_in(told: dict[str, bytes]) -> None:
    data = bundle(told)
    assert unbundle(data) == told
    assert list(unbundle(data)) == sorted(told)
    assert bundle(dict(reversed(told.items()))) == data
    assert bundle(unbundle(data)) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b'"text"',
        b"\xff",
        b'{"a": 3}',
        b'{"a": null}',
        b'{"a": "*"}',
        b'{"a": "YQ"}',
        b'{"a": "\xc3\xa9"}',
        b"[" * 100_000,
        json.dumps({"a": [base64.b64encode(b"x").decode()]}).encode(),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(ExchangeError, match="bundle: expected what hospitals told, by hospital, got something else"):
        unbundle(data)

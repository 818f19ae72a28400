"""What every exchange keeps to, in memory and in a folder."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmed.errors import ExchangeError, MessageConflict, MessageMissing, MessageRefused
from fedmed.exchange import base
from fedmed.exchange.base import Exchange, check_payload, fetch, reference
from fedmed.exchange.folder import FolderExchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.wire.messages import (
    COORDINATOR,
    EVERYONE,
    LARGEST_MESSAGE,
    Address,
    GlobalModel,
    Invitation,
    Payload,
    RoundEvaluation,
    Statistics,
    encode,
)

EXCHANGES: dict[str, Callable[[Path], Exchange]] = {"memory": lambda _: MemoryExchange(), "folder": FolderExchange}
BYTES = b"the payload"
NOWHERE = Address("run-1", 9, "statistics", "north", COORDINATOR)


@pytest.fixture(params=EXCHANGES)
def exchange(request: pytest.FixtureRequest, tmp_path: Path) -> Exchange:
    return EXCHANGES[request.param](tmp_path)


def message(payload: bytes = BYTES, sender: str = "north", run: str = "run-1", number: int = 0) -> Statistics:
    return Statistics(run=run, round=number, sender=sender, payload=reference(payload))


def evaluation(loss: float, run: str = "run-1") -> RoundEvaluation:
    return RoundEvaluation(run=run, round=1, sender="north", model="0" * 64, rows=20, loss=loss)


def test_what_was_posted_is_found_with_its_payload(exchange: Exchange) -> None:
    exchange.post(message(), BYTES)
    found = fetch(exchange, message().address, Statistics)
    assert found == message()
    assert exchange.payload(found.payload) == BYTES


def test_a_message_without_a_payload_is_found(exchange: Exchange) -> None:
    exchange.post(evaluation(0.5))
    assert exchange.find(evaluation(0.5).address) == evaluation(0.5)


def test_where_nothing_was_posted_nothing_is_found(exchange: Exchange) -> None:
    assert exchange.find(NOWHERE) is None
    with pytest.raises(MessageMissing, match="run-1/9/statistics/north/coordinator"):
        fetch(exchange, NOWHERE, Statistics)
    with pytest.raises(MessageMissing, match="was not posted"):
        exchange.payload(reference(BYTES))


def test_the_same_bytes_twice_are_no_error(exchange: Exchange) -> None:
    for _ in range(2):
        exchange.post(message(), BYTES)
    assert exchange.payload(message().payload) == BYTES


def test_other_bytes_at_an_address_are_a_conflict_and_the_first_stay(exchange: Exchange) -> None:
    exchange.post(evaluation(0.5))
    with pytest.raises(MessageConflict, match="another message stands here"):
        exchange.post(evaluation(0.25))
    assert exchange.find(evaluation(0.5).address) == evaluation(0.5)
    exchange.post(message(), BYTES)
    with pytest.raises(MessageConflict):
        exchange.post(message(b"other"), b"other")
    assert exchange.find(message().address) == message()


def test_two_sites_may_post_the_same_payload(exchange: Exchange) -> None:
    for sender in ("north", "south"):
        exchange.post(message(sender=sender), BYTES)
        assert exchange.payload(message(sender=sender).payload) == BYTES


@pytest.mark.parametrize("wrong", [b"", b"the Payload", b"the payload ", BYTES[:-1]])
def test_a_payload_that_the_message_does_not_name_is_refused_and_nothing_posted(
    exchange: Exchange, wrong: bytes
) -> None:
    with pytest.raises(MessageRefused, match="expected 11 bytes with this digest"):
        exchange.post(message(), wrong)
    assert exchange.find(message().address) is None
    with pytest.raises(MessageMissing):
        exchange.payload(message().payload)


def test_a_payload_with_a_message_that_names_none_is_refused(exchange: Exchange) -> None:
    with pytest.raises(MessageRefused, match="a message that names none"):
        exchange.post(evaluation(0.5), BYTES)
    assert exchange.find(evaluation(0.5).address) is None


def test_a_message_whose_payload_is_not_there_tells_so(exchange: Exchange) -> None:
    exchange.post(message())
    with pytest.raises(MessageMissing):
        exchange.payload(fetch(exchange, message().address, Statistics).payload)


def test_a_reference_with_a_wrong_size_is_refused(exchange: Exchange) -> None:
    exchange.post(message(), BYTES)
    with pytest.raises(MessageRefused):
        exchange.payload(Payload(sha256=reference(BYTES).sha256, size=10))


def test_a_payload_larger_than_the_largest_is_refused(exchange: Exchange) -> None:
    huge = Payload(sha256="0" * 64, size=base.LARGEST_PAYLOAD + 1)
    with pytest.raises(MessageRefused, match="at most"):
        exchange.post(Statistics(run="run-1", sender="north", payload=huge))
    with pytest.raises(ExchangeError):
        exchange.payload(huge)


def test_a_message_of_another_kind_at_an_address_is_refused(exchange: Exchange) -> None:
    exchange.post(evaluation(0.5))
    with pytest.raises(MessageRefused, match="expected a Statistics of this address"):
        fetch(exchange, evaluation(0.5).address, Statistics)


def test_discarding_forgets_a_topic_or_a_run_and_no_other(exchange: Exchange) -> None:
    kept = [message(run="run-1", number=2), message(run="run-2")]
    for each in (*kept, evaluation(0.5)):
        exchange.post(each, BYTES if each.payload else None)
    exchange.discard("run-1", "evaluation")
    assert exchange.find(evaluation(0.5).address) is None
    assert [exchange.find(each.address) for each in kept] == kept
    exchange.discard("run-1")
    assert [exchange.find(each.address) for each in kept] == [None, kept[1]]
    exchange.discard("run-3")
    exchange.post(evaluation(0.25))  # the address is free again
    assert exchange.find(evaluation(0.25).address) == evaluation(0.25)


def race(posts: list[Callable[[], None]]) -> list[str]:
    """Run all at once; the names of the errors, empty where there was none."""
    ready, results = threading.Barrier(len(posts)), [""] * len(posts)

    def one(place: int) -> None:
        ready.wait()
        try:
            posts[place]()
        except Exception as problem:  # noqa: BLE001  # any other than a conflict is what the test looks for
            results[place] = type(problem).__name__

    threads = [threading.Thread(target=one, args=(place,)) for place in range(len(posts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_of_many_who_post_to_one_address_at_once_exactly_one_wins(exchange: Exchange) -> None:
    for attempt in range(15):
        messages = [evaluation(loss / 8, run=f"run-{attempt}") for loss in range(6)]
        results = race([lambda each=each: exchange.post(each) for each in messages])
        assert sorted(results) == ["", *["MessageConflict"] * 5]
        assert exchange.find(messages[0].address) == messages[results.index("")]


def test_of_many_who_post_the_same_payload_at_once_all_succeed(exchange: Exchange) -> None:
    for attempt in range(15):
        data = f"payload {attempt}".encode() * 1000
        messages = [message(data, sender=f"site{i}", run=f"run-{attempt}") for i in range(6)]
        assert race([lambda each=each, data=data: exchange.post(each, data) for each in messages]) == [""] * 6
        assert exchange.payload(messages[0].payload) == data


HOSTILE = ["..", "../x", "a/b", "/etc", "A", "a.b", "", "-a", "a\n", "a\0", "é", "a" * 64, "."]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("part", ["run", "sender", "recipient"])
def test_a_name_that_could_be_a_path_makes_no_message(part: str, name: str) -> None:
    good = {"run": "run-1", "sender": "north", "recipient": "coordinator", "payload": reference(BYTES)}
    Statistics.model_validate(good)
    with pytest.raises(ValueError, match=part):
        Statistics.model_validate({**good, part: name})


@pytest.mark.parametrize("digest", ["../" + "0" * 61, "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", ""])
def test_a_digest_that_could_be_a_path_names_no_payload(digest: str) -> None:
    with pytest.raises(ValueError, match="sha256"):
        Payload(sha256=digest, size=1)


def test_a_message_goes_where_it_says_it_belongs() -> None:
    assert message(number=3).address == Address("run-1", 3, "statistics", "north", COORDINATOR)
    model = GlobalModel(run="run-1", payload=reference(BYTES))
    assert model.address == Address("run-1", 0, "model", COORDINATOR, EVERYONE)
    invitation = Invitation(run="run-1", recipient="north", purpose="train", minimum_cell=11, fingerprint="f" * 64)
    assert invitation.address == Address("run-1", 0, "invite-train", COORDINATOR, "north")


def test_check_payload_returns_the_bytes_that_fit() -> None:
    assert check_payload(BYTES, reference(BYTES)) == BYTES
    with pytest.raises(MessageRefused):
        check_payload(BYTES[::-1], reference(BYTES))


# What can only go wrong in a folder.


def message_file(root: Path) -> Path:
    return root / "messages" / "run-1" / "0000" / "statistics" / "north--coordinator.json"


def payload_file(root: Path) -> Path:
    digest = reference(BYTES).sha256
    return root / "payloads" / digest[:2] / digest


@pytest.fixture
def folder(tmp_path: Path) -> FolderExchange:
    exchange = FolderExchange(tmp_path)
    exchange.post(message(), BYTES)
    return exchange


def test_a_folder_holds_one_file_a_message_and_one_a_payload_and_no_remains(folder: FolderExchange) -> None:
    with pytest.raises(MessageConflict):
        folder.post(message(b"other"), b"other")
    files = {path for path in folder.root.rglob("*") if path.is_file()}
    assert {message_file(folder.root), payload_file(folder.root)} <= files
    assert len(files) == 3  # the other payload stays, named by nothing
    assert not [path for path in files if path.name.startswith(".")]
    assert FolderExchange(folder.root).find(message().address) == message()


@pytest.mark.parametrize("content", [b"", encode(message())[:-5], b"\x80\x04K\x01.", b"[]", b"\xff"])
def test_a_torn_message_file_is_refused(content: bytes, folder: FolderExchange) -> None:
    message_file(folder.root).write_bytes(content)
    with pytest.raises(MessageRefused, match="not what its kind asks for"):
        folder.find(message().address)


def test_an_oversized_message_file_is_refused_unread(folder: FolderExchange) -> None:
    with message_file(folder.root).open("wb") as file:
        file.truncate(1 << 40)  # a sparse file of a tebibyte: reading it would end in a memory error
    with pytest.raises(MessageRefused, match=f"at most {LARGEST_MESSAGE} bytes"):
        folder.find(message().address)


def test_an_oversized_payload_file_is_refused_unread(folder: FolderExchange) -> None:
    with payload_file(folder.root).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(MessageRefused, match="expected 11 bytes"):
        folder.payload(message().payload)


def test_a_changed_payload_file_is_refused(folder: FolderExchange) -> None:
    payload_file(folder.root).write_bytes(BYTES[::-1])
    with pytest.raises(MessageRefused, match="with this digest"):
        folder.payload(message().payload)


def test_a_message_moved_to_another_address_is_refused(folder: FolderExchange) -> None:
    moved = message_file(folder.root).with_name("south--coordinator.json")
    message_file(folder.root).rename(moved)
    with pytest.raises(MessageRefused, match="of this address"):
        fetch(folder, Address("run-1", 0, "statistics", "south", COORDINATOR), Statistics)


def test_a_message_whose_payload_cannot_be_written_does_not_appear(tmp_path: Path) -> None:
    (tmp_path / "payloads").write_text("a file where a folder should be")
    exchange = FolderExchange(tmp_path)
    with pytest.raises(OSError, match="payloads"):
        exchange.post(message(), BYTES)
    assert exchange.find(message().address) is None

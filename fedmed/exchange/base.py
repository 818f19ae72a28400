"""The exchange: one interface, four methods, whatever lies behind it."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from fedmed.errors import MessageMissing, MessageRefused
from fedmed.weights import sha256
from fedmed.wire.messages import Address, Message, Payload

LARGEST_PAYLOAD = 1 << 30


class Exchange(Protocol):
    """Holds messages at their addresses and payloads at their digests. Nobody calls anybody: both sides come to it."""

    def post(self, message: Message, payload: bytes | None = None) -> None:
        """Put a message, its payload first.

        Raises:
            MessageConflict: if other bytes stand at its address. The same bytes again are no error.
            MessageRefused: if the payload is not the one that the message names.
        """
        ...

    def find(self, address: Address) -> Any | None:
        """The message at an address, or None."""
        ...

    def payload(self, reference: Payload) -> bytes:
        """The bytes that a message names, checked.

        Raises:
            MessageMissing: if they are not there.
            MessageRefused: if they are oversized or not the bytes that the reference names.
        """
        ...

    def discard(self, run: str, topic: str | None = None) -> None:
        """Forget all messages of a run, or those of one topic."""
        ...


M = TypeVar("M", bound=Message)


def fetch(exchange: Exchange, address: Address, kind: type[M]) -> M:
    """The message of one kind at an address.

    Raises:
        MessageMissing: if nothing stands there.
        MessageRefused: if something else does.
    """
    message = exchange.find(address)
    if message is None:
        raise MessageMissing(f"nothing was posted at {'/'.join(map(str, address))}")
    if not isinstance(message, kind) or message.address != address:
        raise MessageRefused(
            f"{'/'.join(map(str, address))}: expected a {kind.__name__} of this address, got another message"
        )
    return message


def reference(data: bytes) -> Payload:
    """The name of some bytes."""
    return Payload(sha256=sha256(data), size=len(data))


def check_payload(data: bytes, expected: Payload) -> bytes:
    """`data`, if they are the bytes that `expected` names.

    Raises:
        MessageRefused: if they are not.
    """
    if len(data) != expected.size or sha256(data) != expected.sha256:
        raise MessageRefused(
            f"payload {expected.sha256[:12]}…: expected {expected.size} bytes with this digest, got {len(data)} others"
        )
    return data


def check_post(message: Message, payload: bytes | None) -> None:
    """Refuse a payload that the message does not name, or is too large.

    Raises:
        MessageRefused: naming what differs.
    """
    if payload is not None and message.payload is None:
        raise MessageRefused(f"{message.topic}: a payload came with a message that names none")
    if payload is not None and message.payload is not None:
        check_payload(payload, message.payload)
    if message.payload is not None and message.payload.size > LARGEST_PAYLOAD:
        raise MessageRefused(
            f"{message.topic}: a payload of {message.payload.size} bytes; at most {LARGEST_PAYLOAD} are taken"
        )

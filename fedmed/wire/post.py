"""Messages and payloads in an exchange of bytes: each at the name that follows from it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from fedmed.errors import MessageMissing, MessageRefused
from fedmed.exchange.base import LARGEST, Exchange
from fedmed.weights import sha256
from fedmed.wire.messages import LARGEST_MESSAGE, Address, Message, Payload, decode, encode, inbox_of

M = TypeVar("M", bound=Message)


def reference(data: bytes) -> Payload:
    """The name of some bytes."""
    return Payload(sha256=sha256(data), size=len(data))


def payload_name(payload: Payload) -> str:
    """Where bytes stand that are named by their digest."""
    return f"payloads/{payload.sha256[:2]}/{payload.sha256}"


def put_payload(exchange: Exchange, data: bytes) -> Payload:
    """Put bytes under their digest."""
    payload = reference(data)
    exchange.put(payload_name(payload), data)
    return payload


def post(exchange: Exchange, message: Message, payload: bytes | None = None) -> str:
    """Put a message at its address, its payload first; the address's name.

    Raises:
        MessageConflict: if another message stands there. The same again is no error.
        MessageRefused: if the payload is not the one that the message names, or either is too large.
    """
    if (payload is None) != (message.payload is None) and payload is not None:
        raise MessageRefused(f"{message.purpose}: a payload came with a message that names none")
    if payload is not None and message.payload is not None:
        exchange.put(payload_name(message.payload), check_payload(payload, message.payload))
    data, name = encode(message), message.address.name
    if len(data) > LARGEST_MESSAGE:
        raise MessageRefused(f"{name}: expected a message of at most {LARGEST_MESSAGE} bytes, got {len(data)}")
    exchange.put(name, data)
    return name


def find(exchange: Exchange, address: Address | str) -> Any | None:
    """The message at an address or under its name; None if there is none, or not a whole one.

    Raises:
        MessageRefused: if what stands there is none, or says that it belongs elsewhere.
    """
    name = address if isinstance(address, str) else address.name
    data = exchange.get(name, LARGEST_MESSAGE)
    if data is None:
        return None
    message = decode(data)
    if message.address.name != name:
        raise MessageRefused(f"{name}: expected a message of this address, got another one")
    return message


def fetch(exchange: Exchange, address: Address, kind: type[M]) -> M:
    """The message of one kind at an address.

    Raises:
        MessageMissing: if nothing stands there.
        MessageRefused: if something else does.
    """
    message = find(exchange, address)
    if message is None:
        raise MessageMissing(f"nothing was posted at {address.name}")
    if not isinstance(message, kind):
        raise MessageRefused(f"{address.name}: expected a {kind.__name__}, got another message")
    return message


def payload_of(exchange: Exchange, payload: Payload) -> bytes:
    """The bytes that a message names, checked.

    Raises:
        MessageMissing: if they are not there.
        MessageRefused: if they are oversized, or not the bytes that the reference names.
    """
    if payload.size > LARGEST:
        raise MessageRefused(f"payload {payload.sha256[:12]}…: {payload.size} bytes; at most {LARGEST} are taken")
    data = exchange.get(payload_name(payload), payload.size)
    if data is None:
        raise MessageMissing(f"payload {payload.sha256[:12]}… was not posted, or not the whole of it")
    return check_payload(data, payload)


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


def inbox(exchange: Exchange, party: str, run: str = "") -> list[str]:
    """The names of all messages for a party, of one run or of all."""
    return exchange.names(inbox_of(party, run))


def bundle(told: Mapping[str, bytes]) -> bytes:
    """What several hospitals told, as one payload.

    >>> unbundle(bundle({"b": b"1", "a": b"2"}))
    {'a': b'2', 'b': b'1'}
    """
    entries = {site: base64.b64encode(data).decode() for site, data in sorted(told.items())}
    return json.dumps(entries, separators=(",", ":")).encode()


def unbundle(data: bytes) -> dict[str, bytes]:
    """The inverse of :func:`bundle`.

    Raises:
        MessageRefused: if it is none.
    """
    try:
        return {str(site): base64.b64decode(entry, validate=True) for site, entry in json.loads(data).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise MessageRefused("bundle: expected what hospitals told, by hospital, got something else") from None

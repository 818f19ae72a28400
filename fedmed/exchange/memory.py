"""An exchange in memory: the whole interface, for tests and simulations inside one process."""

from __future__ import annotations

import threading
from typing import Any

from fedmed.errors import MessageConflict, MessageMissing
from fedmed.exchange.base import check_payload, check_post
from fedmed.wire.messages import Address, Message, Payload, decode, encode


class MemoryExchange:
    """See :class:`fedmed.exchange.base.Exchange`. Messages are kept as bytes, so what comes out was really encoded."""

    def __init__(self) -> None:
        self._messages: dict[Address, bytes] = {}
        self._payloads: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def post(self, message: Message, payload: bytes | None = None) -> None:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        check_post(message, payload)
        data = encode(message)
        with self._lock:
            if self._messages.get(message.address, data) != data:
                raise MessageConflict(f"{'/'.join(map(str, message.address))}: another message stands here already")
            if payload is not None and message.payload is not None:
                self._payloads[message.payload.sha256] = payload
            self._messages[message.address] = data

    def find(self, address: Address) -> Any | None:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        data = self._messages.get(address)
        return None if data is None else decode(data)

    def payload(self, reference: Payload) -> bytes:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        data = self._payloads.get(reference.sha256)
        if data is None:
            raise MessageMissing(f"payload {reference.sha256[:12]}… was not posted")
        return check_payload(data, reference)

    def discard(self, run: str, topic: str | None = None) -> None:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        with self._lock:
            for address in [a for a in self._messages if a.run == run and topic in (None, a.topic)]:
                del self._messages[address]

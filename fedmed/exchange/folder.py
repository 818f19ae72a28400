"""An exchange in a folder: for one machine, or a shared file system.

messages/<run>/<round>/<topic>/<sender>--<recipient>.json
payloads/<first two digits>/<sha256>
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

from fedmed.errors import MessageConflict, MessageMissing, MessageRefused
from fedmed.exchange.base import LARGEST_PAYLOAD, check_payload, check_post
from fedmed.files import create_exclusively, write_atomically
from fedmed.wire.messages import LARGEST_MESSAGE, Address, Message, Payload, decode, encode


class FolderExchange:
    """See :class:`fedmed.exchange.base.Exchange`. A message appears whole, after its payload, and only once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def post(self, message: Message, payload: bytes | None = None) -> None:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        check_post(message, payload)
        if payload is not None and message.payload is not None:
            target = self._payload_path(message.payload)
            # The same bytes may stand there already, posted with another message; damaged ones are replaced.
            if not target.is_file() or target.read_bytes() != payload:
                write_atomically(target, payload)
        path = self._path(message.address)
        data = encode(message)
        try:
            create_exclusively(path, data)
        except FileExistsError:
            if path.read_bytes() != data:
                raise MessageConflict(
                    f"{'/'.join(map(str, message.address))}: another message stands here already"
                ) from None

    def find(self, address: Address) -> Any | None:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        path = self._path(address)
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                raise MessageRefused(f"{path.name}: expected a file, got something else")
            if path.stat().st_size > LARGEST_MESSAGE:
                raise MessageRefused(f"{path.name}: expected at most {LARGEST_MESSAGE} bytes")
            return decode(path.read_bytes())
        except FileNotFoundError:
            return None

    def payload(self, reference: Payload) -> bytes:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        path = self._payload_path(reference)
        try:
            if (
                not stat.S_ISREG(path.lstat().st_mode)
                or path.stat().st_size != reference.size
                or reference.size > LARGEST_PAYLOAD
            ):
                raise MessageRefused(f"payload {reference.sha256[:12]}…: expected {reference.size} bytes, got others")
            return check_payload(path.read_bytes(), reference)
        except FileNotFoundError:
            raise MessageMissing(f"payload {reference.sha256[:12]}… was not posted") from None

    def discard(self, run: str, topic: str | None = None) -> None:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        folder = self.root / "messages" / run
        for unwanted in [folder] if topic is None else list(folder.glob(f"*/{topic}")):
            if unwanted.exists():
                shutil.rmtree(unwanted)

    def _path(self, address: Address) -> Path:
        name = f"{address.sender}--{address.recipient}.json"
        return self.root / "messages" / address.run / f"{address.round:04d}" / address.topic / name

    def _payload_path(self, reference: Payload) -> Path:
        return self.root / "payloads" / reference.sha256[:2] / reference.sha256

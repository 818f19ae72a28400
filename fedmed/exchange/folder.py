"""An exchange in a folder: for one machine, or a shared file system. A name is a path below it.

Each file begins with the SHA-256 of the rest, so that what was torn by a crash or damaged on the disk is told from what
stands there whole: it counts as nothing, and whoever put it there may put it again.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fedmed.errors import MessageConflict, MessageRefused
from fedmed.exchange.base import LARGEST, check_name, check_prefix, check_size, is_name
from fedmed.files import create_exclusively, write_atomically
from fedmed.locks import in_turn

_HEAD = 65


class FolderExchange:
    """See :class:`fedmed.exchange.base.Exchange`. Bytes appear whole, and of two writers at once one is told.

    Nothing is forced to the disk here: the sender has kept what it put, and heals what a power cut takes.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, data: bytes) -> None:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        check_size(name, len(data))
        path = self.root / check_name(name)
        content = _sealed(data)
        try:
            create_exclusively(path, content, durable=False)
        except FileExistsError:
            if not self._same(name, data):
                # What is torn is healed by one at a time: of two with other bytes, the second finds the first's.
                with in_turn(self.root / ".healing"):
                    if not self._same(name, data):
                        write_atomically(path, content, durable=False)

    def _same(self, name: str, data: bytes) -> bool:
        """Whether these bytes stand whole under a name; False if nothing whole does."""
        there = self.get(name)
        if there is not None and there != data:
            raise MessageConflict(f"{name}: other bytes stand here already")
        return there is not None

    def get(self, name: str, most: int = LARGEST) -> bytes | None:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        path = self.root / check_name(name)
        try:
            status = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode):
            raise MessageRefused(f"{name}: expected a file, got something else")
        check_size(name, status.st_size - _HEAD, most)
        return self._whole(path)

    def names(self, prefix: str) -> list[str]:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        return sorted(_below(self.root / check_prefix(prefix)[:-1], prefix))

    @staticmethod
    def _whole(path: Path) -> bytes | None:
        try:
            content = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return None
        data = content[_HEAD:]
        return data if content == _sealed(data) else None


def _sealed(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def _below(folder: Path, prefix: str) -> Iterator[str]:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _below(folder / entry.name, f"{prefix}{entry.name}/")
        elif entry.is_file(follow_symlinks=False) and is_name(prefix + entry.name):  # none is a file being written
            yield prefix + entry.name

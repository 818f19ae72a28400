"""Write a file whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace `path` by `data`: after a crash the old bytes or the new ones stand there, never a part.

    Args:
        path: the file; its folder is made if there is none.
        data: all of its new content.
        mode: who may read it; what only a hospital may see is written with 0600.
        durable: whether the bytes are on the disk when this returns; what can be written again need not be.

    Raises:
        OSError: if the disk is full or the folder cannot be written; the old file is then intact.
    """
    with _whole(path, data, mode, durable) as temporary:
        temporary.replace(path)


def create_exclusively(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Write `path` whole, and only if nothing stands there; a hard link is both atomic and exclusive.

    Raises:
        FileExistsError: if something does; of two writers at once, one gets this.
        OSError: if it cannot be written.
    """
    with _whole(path, data, mode, durable) as temporary:
        path.hardlink_to(temporary)


@contextmanager
def _whole(path: Path, data: bytes, mode: int, durable: bool) -> Iterator[Path]:
    """A temporary file beside `path` with all of `data`; gone at the end if it is still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(mode)
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any, *, mode: int = 0o644) -> None:
    """Write `content` as readable JSON, keys in their own order; see :func:`write_atomically`."""
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(), mode=mode)


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes; empty if there is no file that can be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""

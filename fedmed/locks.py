"""Files that one process holds at a time, by `filelock`: the operating system frees them when the process dies."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fedmed.errors import WorkspaceError

_changing = threading.Lock()  # of two threads that come at once, filelock would refuse one as if it were a stranger


@contextmanager
def held(path: Path, *, says: str) -> Iterator[None]:
    """Hold `path` or say no at once. What this process holds already it holds once more, in whichever thread.

    Args:
        path: the lock's file, made if there is none; it stays, and is empty.
        says: the sentence for whom it is refused.

    Raises:
        WorkspaceError: with that sentence, if another process holds it.

    Guarantees:
        - It is free again when the last that entered has left, or the process is dead, however it died.
        - On a file system that knows no such locks it fails with an OSError: a lock that outlives its process is no
          substitute.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, thread_local=False, is_singleton=True, fallback_to_soft=False)
    try:
        with _changing:
            lock.acquire(timeout=0)
    except Timeout:
        raise WorkspaceError(says) from None
    try:
        yield
    finally:
        with _changing:
            lock.release()


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Wait until nobody holds `path`, and hold it: processes and threads follow one another.

    Guarantees:
        As :func:`held`'s; asked for again inside itself, it fails with a RuntimeError and does not wait for ever.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, fallback_to_soft=False):
        yield

"""Write a file whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace `path` by `data`: after a crash the old bytes or the new ones stand there, never a part.

    Args:
        path: the file; its folder is made if there is none.
        data: all of its new content.
        mode: who may read it; what only a hospital may see is written with 0600.

    Raises:
        OSError: if the disk is full or the folder cannot be written; the old file is then intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any, *, mode: int = 0o644) -> None:
    """Write `content` as readable JSON, keys in their own order; see :func:`write_atomically`."""
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(), mode=mode)

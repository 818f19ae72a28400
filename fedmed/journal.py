"""What a run has done so far, one JSON line an event: `fedmed run` draws its progress from it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Appends events to a file. An event holds names, counts that may be told, losses and digests; never data."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, **facts: Any) -> None:
        """Start over with a first event."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("", encoding="utf-8")
        self.add("begun", **facts)

    def add(self, event: str, **facts: Any) -> None:
        """Append one event with the time in seconds since 1970."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **facts}, ensure_ascii=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def events(self, start: int = 0) -> Iterator[dict[str, Any]]:
        """The complete events from number `start` on; none if nothing was ever run."""
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
        except FileNotFoundError:
            return
        for line in lines[start:]:
            yield json.loads(line)

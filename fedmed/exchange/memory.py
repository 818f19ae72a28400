"""An exchange in memory: the whole interface, for tests and simulations inside one process."""

from __future__ import annotations

import threading

from fedmed.errors import MessageConflict
from fedmed.exchange.base import LARGEST, check_name, check_prefix, check_size


class MemoryExchange:
    """See :class:`fedmed.exchange.base.Exchange`."""

    def __init__(self) -> None:
        self._held: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, name: str, data: bytes) -> None:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        check_size(name, len(data))
        with self._lock:
            if self._held.setdefault(check_name(name), data) != data:
                raise MessageConflict(f"{name}: other bytes stand here already")

    def get(self, name: str, most: int = LARGEST) -> bytes | None:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        data = self._held.get(check_name(name))
        if data is not None:
            check_size(name, len(data), most)
        return data

    def names(self, prefix: str) -> list[str]:
        """See :class:`~fedmed.exchange.base.Exchange`."""
        check_prefix(prefix)
        with self._lock:
            return sorted(name for name in self._held if name.startswith(prefix))

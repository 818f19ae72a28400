"""Wait for work no longer than agreed: what does not end is left behind, and does not hold up its process."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

from fedmed.errors import HospitalSilent

T = TypeVar("T")


def within(seconds: float, who: str, work: Callable[[], T]) -> T:
    """What `work` gives, if it gives it in time.

    Args:
        seconds: how long to wait.
        who: who is waited for, for the message.
        work: runs in a thread of its own, which nobody waits for at the end of the process.

    Raises:
        HospitalSilent: if it has not ended by then; what it does later, it does for nobody.
        Exception: what `work` raises.

    >>> within(5.0, "va", lambda: 3)
    3
    """
    given: list[T] = []
    raised: list[BaseException] = []
    here = contextvars.copy_context()

    def run() -> None:
        try:
            given.append(here.run(work))
        except BaseException as problem:  # noqa: BLE001  # handed to who waits
            raised.append(problem)

    thread = threading.Thread(target=run, name=f"step of {who}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise HospitalSilent(f"{who}: did not answer within {seconds:g} seconds (federation.answer_within)")
    if raised:
        raise raised[0]
    return given[0]

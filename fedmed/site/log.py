"""A hospital's own log: what went wrong there, in full, for the eyes of the hospital alone."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from fedmed.errors import FedMedError, SiteFailed
from fedmed.site.home import SiteHome


@contextmanager
def kept_at_home(home: SiteHome) -> Iterator[None]:
    """Let no unforeseen error's message out of a hospital.

    FedMed's own errors hold no patient's value and pass. Anything else, from pandas for example, may quote a cell: its
    trace goes to the hospital's log, and what goes on is its type.

    Raises:
        SiteFailed: in place of any error that is not FedMed's.
    """
    try:
        yield
    except FedMedError as problem:
        write_log(home, f"{type(problem).__name__}: {problem}")
        raise
    except Exception as problem:  # noqa: BLE001  # the door of the hospital: whatever it is, it stays inside
        write_log(home, traceback.format_exc())
        reason = f"{home.name}: {type(problem).__name__}; the hospital's log (logs/site.log) has the details"
        raise SiteFailed(reason) from None


def write_log(home: SiteHome, text: str) -> None:
    """Add a line to the hospital's log."""
    home.log.parent.mkdir(parents=True, exist_ok=True)
    home.log.touch(mode=0o600)
    with home.log.open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text.rstrip()}\n")

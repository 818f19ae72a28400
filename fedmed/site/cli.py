"""The command of a hospital on a host of its own: `fedmed-site serve`. It needs neither Prefect, MLflow nor click."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from fedmed import __version__
from fedmed.errors import FedMedError, WorkspaceError


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    whole = argparse.ArgumentParser("fedmed-site", description="FedMed at a hospital.")
    whole.add_argument("--version", action="version", version=f"fedmed-site, version {__version__}")
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="answer what the coordinator asks, until interrupted",
        description="Answer what the coordinator asks, until Ctrl-C or SIGTERM: the question in hand is finished first,"
        " a second Ctrl-C does not wait for it. Whatever is cut short is gone on with at the next start.",
    )
    serve.add_argument(
        "--home", type=Path, required=True, metavar="FOLDER", help="the hospital's own folder; it is named after it"
    )
    serve.add_argument(
        "--exchange", type=Path, required=True, metavar="FOLDER", help="the folder in which questions are found"
    )
    serve.add_argument(
        "--pause", type=float, default=1.0, metavar="SECONDS", help="between two looks that find nothing (default 1)"
    )
    return whole


def serve(home: Path, exchange: Path, pause: float) -> None:
    """Answer what comes, until a signal says so.

    Args:
        home: the hospital's folder, with a partition in it.
        exchange: the folder in which both sides meet; it is waited for if it is not there yet.
        pause: seconds between two looks that find nothing.

    Raises:
        WorkspaceError: if there is no such hospital, or it has no partition.
    """
    import torch

    from fedmed.exchange.folder import FolderExchange
    from fedmed.site import agent
    from fedmed.site.home import SiteHome

    site = SiteHome(home.resolve())  # `.` has no name
    if not site.partition.is_dir():
        raise WorkspaceError(
            f"{site.path}: expected the folder of a hospital that has partitioned its records, found no partition/"
        )
    torch.set_num_threads(1)  # as in tasks.site: sums over several threads differ in their last bits
    ended: list[int] = []

    def end(number: int, _: FrameType | None) -> None:
        ended.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    for polite in (signal.SIGINT, signal.SIGTERM):
        signal.signal(polite, end)
    agent.serve(site, FolderExchange(exchange.resolve()), until=lambda: bool(ended), pause=pause)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; end with the exit code that the error says, as `fedmed` does."""
    given = parser().parse_args(arguments)
    try:
        serve(given.home, given.exchange, given.pause)
    except KeyboardInterrupt:
        sys.exit(130)
    except FedMedError as problem:
        sys.stderr.write(f"fedmed-site: {problem}\n")
        sys.exit(problem.exit_code)
    except Exception as problem:  # a trace may quote a cell, and helps nobody at a hospital
        if os.environ.get("FEDMED_DEBUG"):
            raise
        sys.stderr.write(
            f"fedmed-site: something unforeseen: {type(problem).__name__}. FEDMED_DEBUG=1 shows the trace.\n"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()

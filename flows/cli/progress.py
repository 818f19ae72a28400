"""A progress bar over the rounds, drawn from the run's journal while the flow works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console as Terminal
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from fedmed.journal import Journal

SAYS = {
    "partition": "splitting and encrypting each hospital's records",
    "validate": "holding each hospital's data against the contract",
    "train": "training",
    "evaluate": "evaluating at each hospital",
    "register": "registering the model",
}


class Follower:
    """Turns the journal's events into what a person sees."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._task: TaskID | None = None
        self._first: tuple[float, int] | None = None
        self._variant = ""

    def doing(self, what: str) -> None:
        """Say what goes on, without a measure of how far it is."""
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(what, total=None, note="")

    def take(self, event: dict[str, Any]) -> None:
        """Show one event."""
        if self._bar is None or self._task is None:
            return
        name = event["event"]
        if name == "variant":
            self._variant = f"{event['name']} ({event['number']} of {event['of']}): "
            self._first = None
            self.doing(self._variant.rstrip(": "))
        elif name == "not finished":
            self._bar.console.print(f"  [yellow]{event['name']} was not finished[/yellow]: {event['reason']}")
        elif name == "stage":
            self.doing(self._variant + SAYS[event["stage"]])
        elif name == "up to date":
            self._bar.console.print(f"  [dim]{event['stage']}: up to date[/dim]")
        elif name == "validated":
            for site, failed in event["quarantined"].items():
                self._bar.console.print(f"  [yellow]{site} is quarantined[/yellow]: {', '.join(failed)}")
        elif name == "edited":
            files = ", ".join(event["files"])
            self._bar.console.print(
                f"  [yellow]{files}: edited meanwhile[/yellow]; {event['stage']} is due again by it"
            )
        elif name == "round":
            self._bar.update(self._task, total=event["rounds"], completed=event["round"], note=self._note(event))
            for site, reason in event["refused"].items():
                self._bar.console.print(f"  [yellow]round {event['round']}: {site} took no part[/yellow]: {reason}")

    def _note(self, event: dict[str, Any]) -> str:
        """The round, the loss, and the time left at the pace of the rounds so far."""
        loss = "" if event["loss"] is None else f" · validation loss {event['loss']:.4f}"
        left = ""
        if self._first is None:
            self._first = (event["time"], event["round"])
        else:
            began, first = self._first
            pace = (event["time"] - began) / max(1, event["round"] - first)
            left = f" · {max(0, round(pace * (event['rounds'] - event['round'])))} s left"
        return f"round {event['round']} of {event['rounds']}{loss}{left}"


@contextmanager
def following(journal: Journal, *, shown: bool) -> Iterator[Follower]:
    """Follow a journal in the background until the block ends; on a pipe, print the events that matter and no bar."""
    if not shown:
        yield Follower(None)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Terminal(stderr=True), transient=True) as bar:
        follower, ended = Follower(bar), threading.Event()

        def follow() -> None:
            seen = 0
            while True:
                last = ended.is_set()
                for event in journal.events(seen):
                    follower.take(event)
                    seen += 1
                if last:
                    return
                time.sleep(0.1)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield follower
        finally:
            ended.set()
            thread.join()


@contextmanager
def downloading(*, shown: bool) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A progress bar for each file that comes; what to call with the file's name, the bytes so far, and all bytes."""
    if not shown:
        yield None
        return
    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=30), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Terminal(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def told(name: str, come: int, length: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=length)
            bar.update(tasks[name], completed=come)

        yield told

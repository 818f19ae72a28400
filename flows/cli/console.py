"""How the command line speaks: to a person, to a person in a hurry, or to a script."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmed.errors import FedMedError

if TYPE_CHECKING:
    from fedmed.workspace import Workspace


@dataclass(frozen=True)
class Console:
    """Where the workspace is, and how to print."""

    workspace: str
    quiet: bool
    as_json: bool

    def open(self) -> Workspace:
        """The workspace; a network of one's own may lie in its folder (last on the path, so that it hides nothing).

        Raises:
            WorkspaceError: if there is none.
        """
        from fedmed.workspace import Workspace

        workspace = Workspace(self.workspace)
        if str(workspace.root) not in sys.path:
            sys.path.append(str(workspace.root))
        return workspace

    @property
    def root(self) -> Path:
        """The workspace's folder, whether it is one or not."""
        return Path(self.workspace).resolve()

    def say(self, text: str = "") -> None:
        """Something that a person wants to know and a script does not."""
        if not self.quiet:
            click.echo(text)

    def result(self, document: Any, text: str) -> None:
        """The command's result: as JSON for scripts, as text for people."""
        click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str) if self.as_json else text)

    @staticmethod
    def fail(problem: FedMedError, *, as_json: bool) -> None:
        """An error, on standard error."""
        if as_json:
            document = {"error": type(problem).__name__, "message": str(problem), "exit_code": problem.exit_code}
            click.echo(json.dumps(document, ensure_ascii=False), err=True)
        else:
            click.echo(f"{click.style('error', fg='red', bold=True)}: {problem}", err=True)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain table in columns: the first to the left, the others to the right."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    return "\n".join(
        "  " + line.rstrip() for line in [lines[0], "  ".join("─" * width for width in widths), *lines[1:]]
    )

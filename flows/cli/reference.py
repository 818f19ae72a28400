"""The help of every command as one page: `python -m flows.cli.reference > docs/cli.md` writes it."""

from __future__ import annotations

from collections.abc import Iterator

import click

WIDTH = 100
INTRODUCTION = """\
# Command line

The help of every command, as `fedmed COMMAND --help` prints it. The options of `fedmed` itself stand before the
command: `fedmed --json status`. This page is written by `python -m flows.cli.reference`.
"""


def reference() -> str:
    """The page `docs/cli.md`; hidden commands are left out."""
    from flows.cli import cli

    sections = (f"\n## `{name}`\n\n```text\n{text}\n```\n" for name, text in _helps(cli, "fedmed", None))
    return INTRODUCTION + "".join(sections)


def _helps(command: click.Command, name: str, parent: click.Context | None) -> Iterator[tuple[str, str]]:
    settings = {**command.context_settings, "terminal_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield context.command_path, "\n".join(line.rstrip() for line in command.get_help(context).split("\n"))
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found is not None and not found.hidden:
                yield from _helps(found, inner, context)


if __name__ == "__main__":
    click.echo(reference(), nl=False)

"""The command line: `fedmed` and its commands. What a command needs is imported when it runs, so help is quick."""

from __future__ import annotations

import os
import signal
import sys

import click

from fedmed import __version__
from fedmed.errors import FedMedError
from flows.cli import compare, data, look, run
from flows.cli.console import Console

EPILOG = """Exit codes: 0 done · 1 something unforeseen · 2 parameters, declaration, workspace or usage · 3 records or
contract · 4 key or damaged partition · 5 quorum not met, or a hospital quarantined · 6 exchange · 7 registry · 8 DVC ·
9 rows to predict are outside the contract · 10 a public cohort cannot be had · 130 interrupted."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=EPILOG)
@click.version_option(__version__, prog_name="fedmed")
@click.option(
    "-C",
    "--workspace",
    type=click.Path(file_okay=False),
    default=".",
    show_default=True,
    help="The workspace's folder.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print results only, no progress and no hints.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for scripts.")
@click.pass_context
def cli(context: click.Context, workspace: str, *, quiet: bool, as_json: bool) -> None:
    """Train one model across hospitals without a record leaving a hospital.

    A first run, on four real hospitals' records: fedmed init demo, cd demo, fedmed run, fedmed ui.
    """
    context.obj = Console(workspace=workspace, quiet=quiet or as_json, as_json=as_json)


cli.add_command(data.init)
cli.add_command(data.data)
cli.add_command(run.validate)
cli.add_command(run.run)
cli.add_command(compare.compare)
cli.add_command(look.status)
cli.add_command(look.predict)
cli.add_command(look.models)
cli.add_command(look.ui)
cli.add_command(run.schedule)
cli.add_command(run.stage)


def main() -> None:
    """Run the command line; end with the exit code that the error says."""
    for polite in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(polite, signal.default_int_handler)  # as Ctrl-C: what was started is ended
    try:
        code = cli.main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as problem:
        problem.show()
        sys.exit(problem.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except FedMedError as problem:
        Console.fail(problem, as_json="--json" in sys.argv)
        sys.exit(problem.exit_code)
    except Exception as problem:  # a trace may quote a cell, and helps nobody at a hospital
        if os.environ.get("FEDMED_DEBUG"):
            raise
        unforeseen = FedMedError(f"something unforeseen: {type(problem).__name__}. FEDMED_DEBUG=1 shows the trace.")
        Console.fail(unforeseen, as_json="--json" in sys.argv)
        sys.exit(1)

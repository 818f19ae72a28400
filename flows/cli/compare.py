"""The command that compares strategies on the hospitals of a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from flows.cli.console import Console, table
from flows.environment import prefect_environment


@click.command()
@click.option(
    "--strategies",
    default="fedavg,fedprox,fedadam,scaffold",
    show_default=True,
    metavar="NAMES",
    help="With commas between, or `all`. The others are held against the first.",
)
@click.option(
    "--seeds",
    default="3",
    show_default=True,
    metavar="HOW_MANY|LIST",
    help="How many, from training.seed on; or which, such as 1,2,3.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="[STRATEGY:]KEY=VALUE",
    help="A parameter that differs from params.yaml, for all strategies or for one. May be repeated.",
)
@click.option("--combine", metavar="RULE", help="Short for --set aggregation.combine=RULE.")
@click.option("--name", default="strategies", show_default=True, help="Of the comparison, and of its folder.")
@click.option("--pooled", is_flag=True, help="Also train on all hospitals' rows together; only where that is lawful.")
@click.option("--force", is_flag=True, help="Forget what this comparison has computed, and begin anew.")
@click.pass_obj
def compare(
    console: Console,
    *,
    strategies: str,
    seeds: str,
    changes: tuple[str, ...],
    combine: str | None,
    name: str,
    pooled: bool,
    force: bool,
) -> None:
    """Compare strategies, each under several seeds, on the hospitals of the workspace.

    Every strategy and seed is trained and tested in a small workspace below comparison/NAME, on the partitions that the
    hospitals have; only training.seed differs between seeds. An interrupted comparison goes on where it stopped, and
    what was finished with the same parameters, partitions and code is not computed again.

    For example: fedmed compare --strategies fedavg,fedadam --seeds 5 --set fedadam:aggregation.learning_rate=0.01

    Tables and plots are in comparison/NAME, and in MLflow a run with one below it for each strategy and seed. No model
    is registered. A strategy that cannot be finished is left out and named; the command ends with 1 then.
    """
    from fedmed.comparison.variants import Change, read_change, read_request, read_seeds, read_strategies
    from flows.cli.progress import following

    workspace = console.open()
    settings = workspace.settings
    every = [read_change(text) for text in changes]
    every += [Change("", "aggregation.combine", combine)] if combine is not None else []
    request = read_request(
        settings, name, read_strategies(strategies), read_seeds(seeds, settings.training.seed), every, pooled=pooled
    )
    with workspace.lease(), following(workspace.coordinator.journal(), shown=not console.quiet) as progress:
        workspace.coordinator.journal().begin(comparison=name)
        progress.doing("starting Prefect")
        with prefect_environment(workspace.root):
            from flows.comparison import compare_strategies
            from flows.work_pool import ensure_work_pool

            ensure_work_pool()
            outcome = compare_strategies(workspace=str(workspace.root), request=request, force=force)
    _tell(console, workspace.comparisons / name, outcome)


def _tell(console: Console, folder: Path, outcome: dict[str, Any]) -> None:
    from fedmed.comparison.compared import Compared, short_table

    compared = Compared.model_validate(outcome["comparison"])
    lines = [table(*short_table(compared)), ""]
    lines += [f"  {variant} was not finished: {reason}" for variant, reason in compared.failed.items()]
    seeds = f", ± standard deviation over {len(compared.seeds)} seeds" if len(compared.seeds) > 1 else ""
    lines += [f"  Test figures as means over hospitals{seeds}. Choose by the validation loss."]
    console.result({**outcome, "folder": str(folder)}, "\n".join(lines))
    console.say(f"\nTables and plots: {folder}   ·   pages: fedmed ui")
    if compared.failed:
        click.get_current_context().exit(1)

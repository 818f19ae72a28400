"""A finished comparison as it goes into the registry: its figures by name, and every variant as a run of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from fedmed.comparison.compared import Compared
from fedmed.comparison.variants import VariantResult, folder_of, records_of
from fedmed.coordinator.admission import digest_of
from fedmed.coordinator.release import evaluation_table
from fedmed.registry import ComparisonRelease, Release, Trial
from fedmed.workspace import Workspace

FILES = ("table.md", "table.csv", "results.json")


def comparison_release(parent: Workspace, compared: Compared, plots: Sequence[Path]) -> ComparisonRelease:
    """Gather what is registered of a comparison.

    Args:
        parent: the workspace.
        compared: the finished comparison.
        plots: as :func:`~fedmed.comparison.compared.write_comparison` returned them.

    Raises:
        WorkspaceError: if a variant's rounds or reports are gone.
    """
    folder = folder_of(parent, compared.name)
    return ComparisonRelease(
        name=compared.name,
        digest=digest_of(compared.model_dump(mode="json")),
        note=(folder / "table.md").read_text(encoding="utf-8"),
        parameters={
            "strategies": ", ".join(compared.strategies),
            "seeds": ", ".join(map(str, compared.seeds)),
            "changes": ", ".join(compared.changes) or "none",
            "hospitals": ", ".join(compared.sites),
            "not finished": ", ".join(compared.failed) or "none",
        },
        figures=dict(_figures(compared)),
        trials=[_trial(parent, compared.name, result) for result in compared.variants],
        files=[folder / name for name in FILES],
        plots=plots,
    )


def _figures(compared: Compared) -> Iterator[tuple[str, float]]:
    """Such as `fedavg/auroc`, `fedavg/auroc/deviation`, `scaffold/auroc/difference` and `fedavg/bytes_down`."""
    for strategy, of in compared.strategies.items():
        for metric, found in of.metrics.items():
            told: dict[str, float | None] = {}
            if (value := found.value) is not None:
                told |= {"": value.mean, "/deviation": value.deviation, "/low": value.low, "/high": value.high}
            if found.difference is not None:
                told["/difference"] = found.difference.mean
            if found.spread is not None:
                told |= {"/worst": found.spread.worst, "/over_hospitals": found.spread.deviation}
            yield from ((f"{strategy}/{metric}{key}", value) for key, value in told.items() if value is not None)
        if of.validation_loss is not None:
            yield f"{strategy}/validation_loss", of.validation_loss.mean
        yield f"{strategy}/bytes_down", float(of.traffic.down)
        yield f"{strategy}/bytes_up", float(of.traffic.up)


def _trial(parent: Workspace, name: str, result: VariantResult) -> Trial:
    settings, history, evaluation = records_of(parent, name, result)
    release = Release(
        run=result.run,
        model_folder=Path(),
        parameters=settings.model_dump(mode="json"),
        rounds=[record.model_dump(mode="json") for record in history.rounds],
        admissions={},
        evaluation=evaluation_table(evaluation),
        lineage={},
        headline=evaluation.headline,
        subgroups={site: report.subgroups for site, report in evaluation.sites.items() if report.subgroups},
    )
    moved = result.moved
    return Trial(
        name=result.name,
        strategy=result.strategy,
        seed=result.seed,
        release=release,
        chosen=result.chosen,
        figures={
            "rounds": float(len(result.losses)),
            "bytes/down": float(moved.down),
            "bytes/up": float(moved.up),
        },
        curves={
            "bytes_down": {number: float(of.down) for number, of in result.traffic.items()},
            "bytes_up": {number: float(of.up) for number, of in result.traffic.items()},
        },
    )

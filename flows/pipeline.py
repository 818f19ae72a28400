"""Which stages a flow runs: those that it was told, or those that DVC says are due, recorded as they end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fedmed.lineage import STAGES, Pipeline
from fedmed.workspace import Workspace


class Due(NamedTuple):
    """One stage to run, and the hospitals that it concerns where it runs once a hospital."""

    stage: str
    sites: tuple[str, ...] = ()


def anything_due(workspace: Workspace) -> bool:
    """Whether DVC says that any stage is due."""
    pipeline = Pipeline(workspace.root)
    return any(pipeline.is_due(target) for stage in STAGES for target in pipeline.targets(stage))


def due_stages(
    workspace: Workspace, targets: Sequence[str] | None, *, force: bool, among: Sequence[str] = STAGES
) -> Iterator[Due]:
    """The stages to run, in order.

    Args:
        workspace: where.
        targets: what to run, such as `["train"]` or `["partition@va"]` (how `dvc repro` calls); None to ask DVC.
        force: with no targets, run everything whether it is due or not.
        among: with no targets, the stages that are asked about.

    Yields:
        Each stage when its turn has come. With no targets it is recorded in `dvc.lock` once the next one is asked for:
        a stage that failed is not recorded, nor is one whose parameters were edited
        meanwhile: it is due again by what they say now.
    """
    if targets is not None:
        for stage in STAGES:
            sites = tuple(target.partition("@")[2] for target in targets if target.startswith(f"{stage}@"))
            if stage in targets or sites:
                yield Due(stage, sites)
        return
    pipeline = Pipeline(workspace.root)
    for stage in (stage for stage in STAGES if stage in among):
        due = [target for target in pipeline.targets(stage) if force or pipeline.is_due(target)]
        if not due:
            workspace.coordinator.journal().add("up to date", stage=stage)
            continue
        yield Due(stage, tuple(target.partition("@")[2] for target in due if "@" in target))
        if edited := workspace.edited():
            # DVC would record what the file says now, of a stage that ran by what it said before.
            workspace.coordinator.journal().add("edited", stage=stage, files=edited)
            continue
        for target in due:
            pipeline.record(target)

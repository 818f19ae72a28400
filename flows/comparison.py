"""The flow that compares strategies: each under several seeds, on the same hospitals, one sub-flow a variant.

partition and validate, if due
→ for each strategy and seed: train in rounds, evaluate at every site → tables, plots, MLflow
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from fedmed.comparison.compared import compare_results
from fedmed.comparison.variants import (
    ComparisonRequest,
    Variant,
    VariantResult,
    forget,
    keep_result,
    kept_result,
    make_variant,
    run_of_variant,
    stages_left,
    variants_of,
)
from fedmed.errors import FedMedError
from fedmed.workspace import Workspace
from flows.asking import SITES
from flows.federated_training import check_pooling, federated_training, run_stages
from flows.pages import show_comparison
from tasks import comparison


@flow(
    name="compare strategies",
    flow_run_name="compare {request.name}",
    description=__doc__,
    task_runner=SITES,
    persist_result=False,
)
def compare_strategies(workspace: str, request: ComparisonRequest, force: bool = False) -> dict[str, Any]:
    """Compare strategies on a workspace; what was finished before is not computed again.

    Args:
        workspace: its folder.
        request: what to compare.
        force: forget what was computed, and begin anew.

    Returns:
        The comparison, where it stands in MLflow, and the names of the variants that were computed now.

    Raises:
        FedMedError: what the first variant ended with, if not one of them could be finished.
    """
    place = Workspace(workspace)
    with place.lease():
        variants = variants_of(place.settings, request)
        if force:
            forget(place, request.name, variants)
        run_stages(place, None, force=False, among=("partition", "validate"))
        results, computed, failed = [], [], {}
        for number, variant in enumerate(variants, 1):
            place.coordinator.journal().add("variant", name=variant.name, number=number, of=len(variants))
            try:
                result, new = run_variant(place, request.name, variant)
            except FedMedError as problem:  # one that diverges is a finding, and no reason to lose the others
                failed[variant.name] = problem
                place.coordinator.journal().add("not finished", name=variant.name, reason=str(problem))
                continue
            results.append(result)
            computed += [variant.name] if new else []
        if not results:
            raise next(iter(failed.values()))
        reasons = {name: str(problem) for name, problem in failed.items()}
        compared = compare_results(request, place.cohort.name, results, reasons)
        registered = comparison.register(place.root, compared, comparison.write(place.root, compared))
        show_comparison(compared, registered)
        place.coordinator.journal().add("done", stages=computed)
        return {"comparison": compared.model_dump(mode="json"), "registered": registered, "computed": computed}


def run_variant(place: Workspace, name: str, variant: Variant) -> tuple[VariantResult, bool]:
    """Train and test one variant unless it has been; whether anything was computed."""
    own = make_variant(place, name, variant)
    check_pooling(own)
    run = run_of_variant(own)
    if (kept := kept_result(own, variant, run)) is not None:
        return kept, False
    sub_flow = federated_training.with_options(flow_run_name=variant.name.replace("-", " · seed "))
    sub_flow(workspace=str(own.root), stages=stages_left(own, run))
    return keep_result(own, variant), True

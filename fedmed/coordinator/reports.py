"""Which reports are refused: those that no hospital can have made that followed the plan.

A report is read by everything that comes after the test: tables, pictures, the registry's pages. What is accepted here
has the shape that those count on, so that one hospital's report cannot end the run of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

from fedmed.data.cohort import Cohort
from fedmed.errors import MessageRefused
from fedmed.evaluation.comparison import REFERENCES
from fedmed.evaluation.curves import BINS, DECIMALS, GRID, RISK_GROUPS, Curves
from fedmed.evaluation.measurement import Measurement
from fedmed.evaluation.names import COUNTS, UNBOUNDED
from fedmed.targets.table import KINDS
from fedmed.wire.messages import SiteEvaluation

MODELS = ("federated", "global", "own", "pooled")
LARGEST = 1e9
WIDEST = 2.0
"""No share, area or score of :mod:`fedmed.evaluation` is larger; the Brier score of several classes reaches it."""


def check_report(report: SiteEvaluation, cohort: Cohort, model: str) -> None:
    """Hold a report against the declaration and the model that was to be tested.

    Args:
        report: what a hospital sent.
        cohort: the declaration in the run's plan.
        model: SHA-256 of the federated model.

    Raises:
        MessageRefused: naming the first part that cannot be.

    Guarantees:
        - It is of this model, and speaks for its sender alone.
        - Every model and every subgroup has exactly the metrics of the target's kind, in their ranges.
        - Columns and categories of subgroups are declared ones.
        - A comparison has what its sentence says; curves are of the kind, and of as many points as they should.
    """
    for part, holds in _rules(report, cohort, model):
        if not holds():
            raise MessageRefused(f"{report.sender}: the report's {part} cannot be of such an evaluation")


def _rules(report: SiteEvaluation, cohort: Cohort, model: str) -> Iterator[tuple[str, Callable[[], bool]]]:
    kind = KINDS[cohort.target.kind]
    names = set(kind.names(cohort.target.classes_count))
    comparison = report.comparison
    compared = [*comparison.figures.items(), *comparison.differences.items()]

    def whole(figures: Mapping[str, Measurement]) -> bool:
        return figures.keys() == names and _plausible(figures.items())

    yield "models", lambda: report.models.get("federated") == model
    yield "measurements", lambda: "federated" in report.measurements and report.measurements.keys() <= {*MODELS}
    yield "measurements", lambda: all(map(whole, report.measurements.values()))
    yield (
        "subgroups",
        lambda: (
            report.subgroups.keys() <= {*cohort.subgroups}
            and all(of.keys() <= {*(cohort.columns[name].categories or ())} for name, of in report.subgroups.items())
            and all(whole(figures) for of in report.subgroups.values() for figures in of.values())
        ),
    )
    yield (
        "comparison",
        lambda: (
            comparison.hospital == report.sender
            and all(metric in names and of.keys() <= {*MODELS, *REFERENCES} for metric, of in compared)
            and {"federated", "own"} <= comparison.figures.get(comparison.metric, {}).keys()
            and "own" in comparison.differences.get(comparison.metric, {})
            and _plausible(
                chain.from_iterable(((metric, entry) for entry in of.values()) for metric, of in compared), -1
            )
        ),
    )
    yield "curves", lambda: _drawable(report.curves, cohort)


def _plausible(figures: Iterable[tuple[str, Measurement]], sign: int = 0) -> bool:
    """Whether every figure lies where its metric can; with a sign of -1 also below 0, as differences do."""

    def within(metric: str, number: float) -> bool:
        if metric in COUNTS:
            return 0 <= number <= LARGEST and number == round(number)
        if metric in UNBOUNDED:
            return abs(number) <= LARGEST
        return sign * WIDEST <= number <= WIDEST

    return all(
        within(metric, number)
        for metric, figure in figures
        for number in (figure.value, figure.low, figure.high)
        if number is not None
    )


def _drawable(curves: Curves, cohort: Cohort) -> bool:
    """Whether the curves are those of the target's kind, and can be drawn."""
    if {name for name, curve in curves if curve is not None} - {*KINDS[cohort.target.kind].told_curves}:
        return False
    roc, bins, groups = curves.roc, curves.calibration or (), curves.risk_groups or ()
    latest = (cohort.target.horizon or 0.0) * (1 + 1e-6) + 10.0**-DECIMALS  # times are told rounded
    return (
        (roc is None or (roc.false_positive_rate == GRID and len(roc.true_positive_rate) == len(GRID)))
        and (roc is None or _shares(roc.true_positive_rate))
        and len(bins) <= BINS
        and len(groups) <= RISK_GROUPS
        and all(1 <= rows <= LARGEST for rows in [*(entry.rows for entry in bins), *(group.rows for group in groups)])
        and all(_shares((entry.mean_prediction, entry.observed_share)) for entry in bins)
        and all(
            1 < len(group.times) == len(group.survival)
            and all(0 <= time <= latest for time in group.times)
            and _shares(group.survival)
            for group in groups
        )
    )


def _shares(numbers: Iterable[float]) -> bool:
    return all(0 <= number <= 1 for number in numbers)

"""Which reports are refused: those that no hospital can have made that followed the plan.

A report is read by everything that comes after the test: tables, pictures, the registry's pages. What is accepted here
has the shape that those count on, so that one hospital's report cannot end the run of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import NamedTuple

from fedmed.data.cohort import Cohort
from fedmed.errors import MessageRefused
from fedmed.evaluation.comparison import REFERENCES
from fedmed.evaluation.curves import BINS, DECIMALS, GRID, RISK_GROUPS, Curves
from fedmed.evaluation.measurement import Measurement
from fedmed.evaluation.names import COUNTS, UNBOUNDED
from fedmed.gates import Gate, fails_if, need
from fedmed.targets.table import KINDS
from fedmed.wire.messages import SiteEvaluation

MODELS = ("federated", "global", "own", "pooled")
LARGEST = 1e9
WIDEST = 2.0
"""No share, area or score of :mod:`fedmed.evaluation` is larger; the Brier score of several classes reaches it."""


class Reported(NamedTuple):
    """A report as it came, the declaration in the run's plan, and the SHA-256 of the federated model."""

    report: SiteEvaluation
    cohort: Cohort
    model: str

    @property
    def metrics(self) -> set[str]:
        """The metrics of the target's kind."""
        return set(KINDS[self.cohort.target.kind].names(self.cohort.target.classes_count))

    def whole(self, figures: Mapping[str, Measurement]) -> bool:
        """Whether these are exactly the metrics of the target's kind, each where it can be."""
        return figures.keys() == self.metrics and _plausible(figures.items())


def check_report(report: SiteEvaluation, cohort: Cohort, model: str) -> None:
    """Hold a report against the declaration and the model that was to be tested.

    Args:
        report: what a hospital sent.
        cohort: the declaration in the run's plan.
        model: SHA-256 of the federated model.

    Raises:
        MessageRefused: naming every part that cannot be.

    Guarantees:
        - It is of this model, and speaks for its sender alone.
        - Every model and every subgroup has exactly the metrics of the target's kind, in their ranges.
        - Columns and categories of subgroups are declared ones.
        - A comparison has what its sentence says; curves are of the kind, and of as many points as they should.
    """
    need(REPORT, Reported(report, cohort, model), lambda reasons: MessageRefused(f"{report.sender}: {reasons}"))


def _part(name: str, holds: Callable[[Reported], bool]) -> Gate[Reported]:
    """A gate on one part of a report: whether a hospital that followed the plan can have made it."""
    return lambda that: fails_if(not holds(that), f"the report's {name} cannot be of such an evaluation")


def _of_this_model(that: Reported) -> bool:
    return that.report.models.get("federated") == that.model


def _measured(that: Reported) -> bool:
    measurements = that.report.measurements
    return (
        "federated" in measurements and measurements.keys() <= {*MODELS} and all(map(that.whole, measurements.values()))
    )


def _declared_subgroups(that: Reported) -> bool:
    subgroups, cohort = that.report.subgroups, that.cohort
    return (
        subgroups.keys() <= {*cohort.subgroups}
        and all(of.keys() <= {*(cohort.columns[name].categories or ())} for name, of in subgroups.items())
        and all(that.whole(figures) for of in subgroups.values() for figures in of.values())
    )


def _compared(that: Reported) -> bool:
    comparison = that.report.comparison
    compared = [*comparison.figures.items(), *comparison.differences.items()]
    return (
        comparison.hospital == that.report.sender
        and all(metric in that.metrics and of.keys() <= {*MODELS, *REFERENCES} for metric, of in compared)
        and {"federated", "own"} <= comparison.figures.get(comparison.metric, {}).keys()
        and "own" in comparison.differences.get(comparison.metric, {})
        and _plausible(chain.from_iterable(((metric, entry) for entry in of.values()) for metric, of in compared), -1)
    )


REPORT: dict[str, Gate[Reported]] = {
    "models": _part("models", _of_this_model),
    "measurements": _part("measurements", _measured),
    "subgroups": _part("subgroups", _declared_subgroups),
    "comparison": _part("comparison", _compared),
    "curves": _part("curves", lambda that: _drawable(that.report.curves, that.cohort)),
}


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

"""The metrics, once: what each is called, which way is better, where it lies, and what it tells of small classes.

`METRICS[name]` is the only place in which a metric stands. What may leave a hospital is read off its disclosure rule,
which has no default: a metric without one, or with one that is not in `RULES`, fails when this module is imported, and
one that a kind of target names without an entry here fails when :mod:`fedmed.targets.table` is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from fedmed.evaluation import metrics, multiclass, survival
from fedmed.evaluation.metrics import Array

BINARY, MULTICLASS, SURVIVAL = "binary", "multiclass", "survival"
Rule = Literal["of all rows", "counts a class", "per class", "by decisions", "by predictions", "over events"]
Over: TypeAlias = Callable[..., Array]


class Small(NamedTuple):
    """What is small in a hospital's rows. What a kind of target does not look at counts as the worst.

    `classes`: a class, or the rows with or without the event, has fewer patients than the minimum cell;
    `decided_alike`: all rows are decided for one class; `few_predictions`: there are fewer different predictions, in
    hundredths, than the minimum cell.
    """

    classes: bool
    decided_alike: bool = True
    few_predictions: bool = True


RULES: Mapping[str, Callable[[Small], bool]] = {
    "of all rows": lambda small: False,
    "counts a class": lambda small: small.classes,
    "per class": lambda small: small.classes,
    "by decisions": lambda small: small.classes and small.decided_alike,
    "by predictions": lambda small: small.classes and small.few_predictions,
    "over events": lambda small: small.classes,
}
"""Disclosure rule → whether a figure would tell how many patients are in a small class:

- "of all rows" never does;
- "counts a class" is the size or the share of one;
- "per class" is made of ratios over the rows of one, and cannot be estimated where a class has few;
- "by decisions" is the share of a class where all rows are decided alike;
- "by predictions" is an equation for the sizes of the classes, which can be solved where predictions take few values;
- "over events" is a sum over the rows with the event.
"""


@dataclass(frozen=True)
class Metric:
    """A figure of a model.

    Args:
        name: as messages and files have it.
        disclosure: the rule of :data:`RULES` by which it is withheld.
        over: kind of target → the metric over resamples, which a bootstrap draws; nothing where it is no such figure.
            Of classes: prediction, labels and how often each resample holds each row, of shape `(resamples, rows)`, →
            `(resamples,)`. Of survival: forecast, labels, horizon and that.
        lower_is_better: which way is better.
        lies: a count, a share (or what is at most 2, as the Brier score of several classes is), or anywhere.
        of_each_class: whether it stands once a class, as `name_0`, `name_1` and so on.
        words: for people; its name, if empty.
        title: at the head of a picture; its words, if empty.

    Raises:
        ValueError: the disclosure rule is none.
    """

    name: str
    disclosure: Rule
    over: Mapping[str, Over] = field(default_factory=dict)
    lower_is_better: bool = False
    lies: Literal["count", "share", "anywhere"] = "share"
    of_each_class: bool = False
    words: str = ""
    title: str = ""

    def __post_init__(self) -> None:
        if self.disclosure not in RULES:
            raise ValueError(
                f"metric {self.name}: expected a disclosure rule ({', '.join(RULES)}), got {self.disclosure!r}"
            )


def _index(own: Over) -> Over:
    """A C-index of a forecast, which looks at its risk alone."""

    def over(said: Any, labels: Array, horizon: float | None, counts: Array) -> Array:
        return own(said.risk, labels, horizon, counts)

    return over


def _integrated_brier(said: Any, labels: Array, horizon: float | None, counts: Array) -> Array:
    return survival.integrated_brier_over(said, labels, counts)


# In the order in which they are told.
METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("rows", "of all rows", lies="count"),
        Metric("events", "counts a class", lies="count"),
        Metric("prevalence", "counts a class", {BINARY: metrics.prevalence_over}),
        Metric("auroc", "per class", {BINARY: metrics.auroc_over}, words="AUROC"),
        Metric("auprc", "per class", {BINARY: metrics.auprc_over}, words="AUPRC"),
        Metric(
            "accuracy",
            "by decisions",
            {BINARY: metrics.accuracy_over, MULTICLASS: multiclass.accuracy_over},
            title="Accuracy",
        ),
        Metric("sensitivity", "per class", {BINARY: metrics.sensitivity_over}),
        Metric("specificity", "per class", {BINARY: metrics.specificity_over}),
        Metric(
            "balanced_accuracy", "per class", {MULTICLASS: multiclass.balanced_accuracy_over}, title="Balanced accuracy"
        ),
        Metric("macro_auroc", "per class", {MULTICLASS: multiclass.macro_auroc_over}, words="macro AUROC"),
        Metric("macro_auprc", "per class", {MULTICLASS: multiclass.macro_auprc_over}, words="macro AUPRC"),
        Metric(
            "brier",
            "by predictions",
            {BINARY: metrics.brier_over, MULTICLASS: multiclass.brier_over},
            lower_is_better=True,
            words="Brier",
            title="Brier score",
        ),
        Metric(
            "log_loss",
            "by predictions",
            {BINARY: metrics.log_loss_over, MULTICLASS: multiclass.log_loss_over},
            lower_is_better=True,
            lies="anywhere",
            title="Log loss",
        ),
        Metric("calibration_slope", "per class", {BINARY: metrics.calibration_slope_over}, lies="anywhere"),
        Metric("calibration_intercept", "per class", {BINARY: metrics.calibration_intercept_over}, lies="anywhere"),
        Metric("recall", "per class", of_each_class=True),
        Metric("c_index", "over events", {SURVIVAL: _index(survival.c_index_over)}, words="C-index"),
        Metric("uno_c_index", "over events", {SURVIVAL: _index(survival.uno_c_index_over)}, words="Uno's C-index"),
        Metric(
            "integrated_brier",
            "over events",
            {SURVIVAL: _integrated_brier},
            lower_is_better=True,
            words="integrated Brier",
            title="Integrated Brier score",
        ),
        # What training makes small, of the validation rows: a log loss, or a likelihood over the events.
        Metric("loss", "by predictions", lower_is_better=True, lies="anywhere"),
    )
}

LOWER_IS_BETTER = frozenset(name for name, metric in METRICS.items() if metric.lower_is_better)
COUNTS = frozenset(name for name, metric in METRICS.items() if metric.lies == "count")
UNBOUNDED = frozenset(name for name, metric in METRICS.items() if metric.lies == "anywhere")


def metric_named(name: str) -> Metric:
    """The metric of a name; `recall_2` is the recall of class 2.

    Raises:
        ValueError: there is none, so that nothing is known of what it tells.

    >>> metric_named("recall_2").disclosure
    'per class'
    """
    family, _, place = name.rpartition("_")
    if name in METRICS and not METRICS[name].of_each_class:
        return METRICS[name]
    if place.isdigit() and family in METRICS and METRICS[family].of_each_class:
        return METRICS[family]
    raise ValueError(f"metric {name}: expected one of METRICS in {__name__}, which says what a figure of it tells")


def figures_of(kind: str) -> dict[str, Over]:
    """The metrics that are drawn from resamples for a kind of target, in order."""
    return {name: metric.over[kind] for name, metric in METRICS.items() if kind in metric.over}


def with_rule(names: Iterable[str], rule: Rule) -> frozenset[str]:
    """Those of the names whose metric has this disclosure rule."""
    return frozenset(name for name in names if metric_named(name).disclosure == rule)


def telling(names: Iterable[str], small: Small) -> frozenset[str]:
    """Those of the names that would tell how many patients are in a small class."""
    return frozenset(name for name in names if RULES[metric_named(name).disclosure](small))


def in_words(metric: str) -> str:
    """A metric for people.

    >>> in_words("c_index"), in_words("calibration_slope"), in_words("recall_2")
    ('C-index', 'calibration slope', 'recall 2')
    """
    known = METRICS.get(metric)
    return known.words if known is not None and known.words else metric.replace("_", " ")


def title_of(metric: str) -> str:
    """A metric at the head of a picture.

    >>> title_of("brier"), title_of("auroc")
    ('Brier score', 'AUROC')
    """
    known = METRICS.get(metric)
    return known.title if known is not None and known.title else in_words(metric)

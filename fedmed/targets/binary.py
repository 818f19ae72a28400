"""Two classes: a row is positive, or it is not."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedmed.errors import DeclarationError
from fedmed.evaluation.comparison import Reading, compare_classes
from fedmed.evaluation.curves import Curves, calibration_curve, roc_curve
from fedmed.evaluation.disclosure import NAMES, PER_CLASS, class_counts, withheld
from fedmed.evaluation.measurement import FEWEST_PER_CLASS, RESAMPLES, SUPPRESSED, Measurement, assemble, share
from fedmed.evaluation.metrics import THRESHOLD, Array, checked, right
from fedmed.evaluation.names import figures_of
from fedmed.privacy.cells import DEFAULT_MINIMUM
from fedmed.targets.kind import TARGET, Form, Kind

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from fedmed.targets.target import Target

_COMPARISONS: dict[str, Callable[[Any, float], Any]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_RULE = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(-?\d+(?:\.\d+)?)\s*")
_FIGURES = figures_of("binary")
_VALIDATED = ("accuracy", "auroc", "auprc", "brier")


def _check(target: Target) -> None:
    if not _RULE.fullmatch(target.positive or ""):
        raise ValueError(f"`positive` must read like '> 0' with one of {', '.join(_COMPARISONS)}")


def _label(target: Target, frame: pd.DataFrame) -> pd.DataFrame:
    match = _RULE.fullmatch(target.positive or "")
    if match is None:  # pragma: no cover  # the validator has refused it
        raise DeclarationError(f"target rule {target.positive!r} cannot be read")
    holds: pd.Series = _COMPARISONS[match[1]](frame[target.column], float(match[2]))
    return holds.astype("int64").to_frame(TARGET)


def _says(logits: Tensor, form: Form) -> Tensor:
    return logits.squeeze(1).sigmoid()


def _decided(target: Target, given: NDArray[np.float64]) -> NDArray[np.int64]:
    return (given[:, 0] >= THRESHOLD).astype(np.int64)


def _withheld(prediction: Any, labels: Any, minimum_cell: int, horizon: float | None = None) -> frozenset[str]:
    return withheld(prediction, labels, minimum_cell, ("loss",))


def _values(prediction: Any, labels: Any, horizon: float | None = None) -> dict[str, float]:
    p, y = checked(prediction, labels)
    once = np.ones((1, p.size))
    return {name: float(_FIGURES[name](p, y, once)[0]) for name in _VALIDATED}


def measure(
    probability: ArrayLike,
    label: ArrayLike,
    *,
    minimum_cell: int = DEFAULT_MINIMUM,
    resamples: int = RESAMPLES,
    generator: np.random.Generator,
    horizon: float | None = None,
    fewest_per_class: int = FEWEST_PER_CLASS,
) -> dict[str, Measurement]:
    """Every metric of one model on one hospital's rows, fit to leave the hospital.

    Shares of rows (prevalence, accuracy, sensitivity, specificity) have Wilson's interval (1927, JASA 22): a bootstrap
    of 30 right out of 30 would read 1.000–1.000. The other metrics have the percentile interval of a plain bootstrap
    over rows (Efron 1979, Annals of Statistics 7; Efron & Tibshirani 1993, ch. 13). Plain, not stratified by class: how
    many of the next patients are ill is uncertain too, and the Brier score and log loss move with it; and a stratified
    interval would be narrower or wider with class counts that may have to stay secret. In simulations of
    150 rows the intervals held the truth 92–96 % of the time; with about 15 rows in a class, those of AUROC and
    calibration slope did so 89–91 % of the time.

    Args:
        probability: predictions of shape `(rows,)`; one row a patient, or the intervals are too narrow.
        label: 0 or 1, of shape `(rows,)`.
        minimum_cell: the fewest patients that a published cell may hold.
        resamples: how many to draw, at least 100.
        generator: the only source of randomness.
        horizon: of no meaning here.
        fewest_per_class: with fewer rows in a class, the metrics over a class are "not estimable". It matters only
            where the minimum cell is lower.

    Returns:
        `rows`, then each metric in the order of the table, in four decimals: no more leaves than is read.

    Raises:
        ValueError: for what is no probability or label, a minimum cell under 5, or fewer than 100 resamples.

    Guarantees:
        - What :func:`~fedmed.evaluation.disclosure.withheld` names is "suppressed", and nothing else is.
        - A metric that is undefined, or is so in over 2.5 % of the resamples (one tail of the interval), is "not
          estimable". Fewer undefined resamples are left out.
        - An interval of no width is left out: such data cannot say how uncertain the value is.
        - Equal generators give equal measurements.
    """
    p, y = checked(probability, label)
    return assemble(
        NAMES,
        rows=p.size,
        shares={name: partial(share_of, p, y) for name, share_of in _SHARES.items()},
        statistics={name: partial(metric, p, y) for name, metric in _FIGURES.items() if name not in _SHARES},
        hidden=withheld(p, y, minimum_cell),
        unknown=PER_CLASS if min(class_counts(y).values()) < fewest_per_class else frozenset(),
        resamples=resamples,
        generator=generator,
    )


_SHARES: dict[str, Callable[[Array, Array], Measurement]] = {
    "prevalence": lambda p, y: share(y.sum(), p.size),
    "accuracy": lambda p, y: share(right(p, y).sum(), p.size),
    "sensitivity": lambda p, y: share((right(p, y) * y).sum(), y.sum()),
    "specificity": lambda p, y: share((right(p, y) * (1 - y)).sum(), (1 - y).sum()),
}


def _bound(y: Array, majority: int, minimum_cell: int) -> Measurement:
    """What rows and minimum cell say about a suppressed share of a class: in hundredths, rounded to stay true.

    Nothing where both classes may be small: that they are would give the count away (of 20 rows, 10 and 10).
    """
    rows, large = y.size, int((y == majority).sum()) >= minimum_cell
    if rows < 2 * minimum_cell - 1:
        return SUPPRESSED
    if large:
        return Measurement(reason="suppressed", low=(100 * (rows - minimum_cell + 1) // rows) / 100)
    return Measurement(reason="suppressed", high=-(-100 * (minimum_cell - 1) // rows) / 100)


READING = Reading(
    checked=checked,
    withheld=withheld,
    counts=lambda p, y: class_counts(y),
    squared_error=lambda p, y: (p - y) ** 2,
    right=right,
    bound=_bound,
)
compare = partial(compare_classes, reading=READING)


def _curves(prediction: Any, labels: Any, minimum_cell: int, horizon: float | None = None) -> Curves:
    """Receiver operating characteristic and calibration."""
    return Curves(
        roc=roc_curve(prediction, labels, minimum_cell=minimum_cell),
        calibration=calibration_curve(prediction, labels, minimum_cell=minimum_cell),
    )


def as_it_is(prediction: Any, on_training: Callable[[], Any], labels: Any, horizon: float | None) -> Array:
    """Probabilities need nothing of the hospital's own training rows."""
    return np.asarray(prediction, dtype=np.float64)


def majority(labels: Any, rows: int, horizon: float | None) -> int:
    """The class of most training rows; of equals the last."""
    held = np.bincount(np.asarray(labels).astype(np.int64))
    return int(held.size - 1 - held[::-1].argmax())


BINARY = Kind(
    needs=("column", "positive"),
    may=("prevalence",),
    check=_check,
    columns=(TARGET,),
    meanings=lambda target: {0: "", 1: target.name},
    label=_label,
    required=lambda target: (0, 1),
    numbers=lambda target: (),
    forms=(),
    outputs=lambda target, form: 1,
    losses=lambda form: ("log_loss", "focal"),
    shifts=lambda form: True,
    says=_says,
    answers=lambda target, form: ["probability"],
    answer=lambda prediction, form: prediction,
    decided=_decided,
    names=lambda classes: NAMES,
    validated=_VALIDATED,
    headline=("accuracy", "auroc", "auprc", "brier"),
    drawn=("accuracy", "brier"),
    told_curves=("roc", "calibration"),
    withheld=_withheld,
    values=_values,
    measure=measure,
    compare=compare,
    curves=_curves,
    complete=as_it_is,
    reference=majority,
    trainable=lambda labels: np.unique(labels).size > 1,
    classes=lambda labels, classes, horizon: class_counts(labels),
    predicts="the probability of",
    explained=lambda target: f"{target.name}, that is {target.column} {target.positive}",
)

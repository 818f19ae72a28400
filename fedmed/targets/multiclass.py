"""Several classes, by the codes that a declaration numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fedmed.evaluation.comparison import Reading, compare_classes
from fedmed.evaluation.curves import Curves
from fedmed.evaluation.disclosure import names_of_classes, withheld_of_classes
from fedmed.evaluation.measurement import FEWEST_PER_CLASS, RESAMPLES, SUPPRESSED, Measurement, assemble, share
from fedmed.evaluation.multiclass import checked, class_counts, right, squared_error
from fedmed.evaluation.names import figures_of, with_rule
from fedmed.privacy.cells import DEFAULT_MINIMUM
from fedmed.targets.binary import as_it_is, majority
from fedmed.targets.kind import TARGET, Form, Kind

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from fedmed.targets.target import Target

_FIGURES = figures_of("multiclass")
OVER_CLASSES = with_rule(_FIGURES, "per class")


def _label(target: Target, frame: pd.DataFrame) -> pd.DataFrame:
    number = {code: place for place, code in enumerate(target.classes or {})}
    return frame[target.column].map(lambda code: number.get(code, -1)).astype("int64").to_frame(TARGET)


def _meanings(target: Target) -> dict[int, str]:
    return dict(enumerate((target.classes or {}).values()))


def _says(logits: Tensor, form: Form) -> Tensor:
    return logits.softmax(dim=1)


def _decided(target: Target, given: NDArray[np.float64]) -> NDArray[np.object_]:
    codes = np.array(list(target.classes or {}), dtype=object)
    return np.asarray(codes[np.nan_to_num(given, nan=-1.0).argmax(axis=1)])


def _withheld(prediction: Any, labels: Any, minimum_cell: int, horizon: float | None = None) -> frozenset[str]:
    return withheld_of_classes(prediction, labels, minimum_cell, ("loss",))


def _values(prediction: Any, labels: Any, horizon: float | None = None) -> dict[str, float]:
    p, y = checked(prediction, labels)
    once = np.ones((1, len(p)))
    return {name: float(metric(p, y, once)[0]) for name, metric in _FIGURES.items()}


def _measure(
    prediction: Any,
    labels: Any,
    *,
    minimum_cell: int = DEFAULT_MINIMUM,
    resamples: int = RESAMPLES,
    generator: np.random.Generator,
    horizon: float | None = None,
) -> dict[str, Measurement]:
    """Accuracy and the recalls with Wilson's interval, the rest with that of a plain bootstrap over rows.

    With fewer than ten rows in a class, its recall is "not estimable", and so is what is averaged over the classes.
    """
    p, y = checked(prediction, labels)
    held = list(class_counts(y, p.shape[1]).values())
    hit = right(p, y)
    few = {f"recall_{place}" for place, count in enumerate(held) if count < FEWEST_PER_CLASS}
    shares: dict[str, Callable[[], Measurement]] = {"accuracy": lambda: share(hit.sum(), hit.size)}
    for place, count in enumerate(held):
        shares[f"recall_{place}"] = partial(share, hit[y == place].sum(), count)
    return assemble(
        names_of_classes(p.shape[1]),
        rows=len(p),
        shares=shares,
        statistics={name: partial(metric, p, y) for name, metric in _FIGURES.items() if name not in shares},
        hidden=withheld_of_classes(p, y, minimum_cell),
        unknown=few | OVER_CLASSES if few else few,
        resamples=resamples,
        generator=generator,
    )


READING = Reading(
    checked=checked,
    withheld=withheld_of_classes,
    counts=lambda p, y: class_counts(y, p.shape[1]),
    squared_error=squared_error,
    right=right,
    bound=lambda y, place, minimum_cell: SUPPRESSED,
)


def _curves(prediction: Any, labels: Any, minimum_cell: int, horizon: float | None = None) -> Curves:
    """None are told of several classes: a bin would have to hold enough patients of each."""
    return Curves()


def _explained(target: Target) -> str:
    classes = enumerate((target.classes or {}).items())
    return f"{target.name}, in the classes " + ", ".join(
        f"{index}: {meaning or code}" for index, (code, meaning) in classes
    )


MULTICLASS = Kind(
    needs=("column", "classes"),
    may=(),
    check=lambda target: None,
    columns=(TARGET,),
    meanings=_meanings,
    label=_label,
    required=lambda target: tuple(_meanings(target)),
    numbers=lambda target: (),
    forms=(),
    outputs=lambda target, form: len(_meanings(target)),
    losses=lambda form: ("cross_entropy", "focal"),
    shifts=lambda form: True,
    says=_says,
    answers=lambda target, form: [f"probability of {code}" for code in target.classes or {}],
    answer=lambda prediction, form: prediction,
    decided=_decided,
    names=names_of_classes,
    validated=("balanced_accuracy", "accuracy", "macro_auroc", "macro_auprc", "brier"),
    headline=("balanced_accuracy", "accuracy", "macro_auroc", "brier"),
    drawn=("balanced_accuracy", "brier"),
    told_curves=(),
    withheld=_withheld,
    values=_values,
    measure=_measure,
    compare=partial(compare_classes, reading=READING),
    curves=_curves,
    complete=as_it_is,
    reference=majority,
    trainable=lambda labels: np.unique(labels).size > 1,
    classes=lambda labels, classes, horizon: class_counts(labels, classes),
    predicts="the probabilities of each",
    explained=_explained,
)

"""Which measurements would tell how many patients are in a small class, and so stay in the hospital.

Here is found what is small in a hospital's rows; which metrics that withholds, the table in
:mod:`fedmed.evaluation.names` says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedmed.evaluation import multiclass
from fedmed.evaluation.metrics import THRESHOLD, checked
from fedmed.evaluation.names import BINARY, MULTICLASS, SURVIVAL, Small, figures_of, telling, with_rule
from fedmed.evaluation.survival import checked_labels, events_by
from fedmed.privacy.cells import DEFAULT_MINIMUM, checked_minimum, may_publish

NAMES = ("rows", *figures_of(BINARY))
SURVIVAL_NAMES = ("rows", "events", *figures_of(SURVIVAL))
PER_CLASS = with_rule(NAMES, "per class")


def names_of_classes(classes: int) -> tuple[str, ...]:
    """Every measurement of several classes: `rows`, those over all, and the recall of each class by its index."""
    return ("rows", *figures_of(MULTICLASS), *(f"recall_{place}" for place in range(classes)))


def withheld(
    probability: ArrayLike, label: ArrayLike, minimum_cell: int = DEFAULT_MINIMUM, also: tuple[str, ...] = ()
) -> frozenset[str]:
    """Names of the measurements that may not leave the hospital.

    Args:
        probability: predictions of shape `(rows,)`.
        label: 0 or 1, of shape `(rows,)`.
        minimum_cell: the fewest patients that a published cell may hold.
        also: further metrics that are told of these rows, such as the loss.

    Raises:
        ValueError: for what is no probability or label, or a minimum cell under 5.

    Guarantees:
        - Fewer rows than `minimum_cell`: everything.
        - Fewer in a class: the prevalence and every ratio over one class (AUROC, AUPRC, sensitivity, specificity,
          calibration), for both classes alike.
        - Fewer in a class, and all rows decided alike: the accuracy too, which is then the share of a class.
        - Fewer in a class, and fewer than `minimum_cell` different predictions, in hundredths: the Brier score and the
          log loss too. They are two equations for the class counts, and whoever holds the model may know the few values
          that it takes.

    Cells are classes of patients; the number of a model's errors is not treated as one. What remains hints at the size
    of a class (an accurate model with a low Brier score) without giving it, unless somebody knows the predictions of
    these very rows, and so the patients.

    >>> few_ill = [1, 1] + [0] * 35
    >>> sorted(withheld([0.1] * 37, few_ill) - PER_CLASS)
    ['accuracy', 'brier', 'log_loss', 'prevalence']
    """
    p, y = checked(probability, label)
    if p.size < checked_minimum(minimum_cell):
        return frozenset({*NAMES, *also})
    if may_publish(class_counts(y), minimum_cell):
        return frozenset()
    alike = np.unique(p >= THRESHOLD).size == 1
    return telling((*NAMES, *also), Small(True, alike, np.unique(np.round(p, 2)).size < minimum_cell))


def withheld_of_classes(
    probability: ArrayLike, label: ArrayLike, minimum_cell: int = DEFAULT_MINIMUM, also: tuple[str, ...] = ()
) -> frozenset[str]:
    """Names of the measurements of several classes that may not leave the hospital.

    Args:
        probability: predictions of shape `(rows, classes)`.
        label: the index of the class, of shape `(rows,)`.
        minimum_cell: the fewest patients that a published cell may hold.
        also: further metrics that are told of these rows, such as the loss.

    Raises:
        ValueError: for what is no probability or label, or a minimum cell under 5.

    Guarantees:
        - Fewer rows than `minimum_cell`: everything.
        - Fewer in any class, empty ones included: the recall of every class and all that is made of ratios over one
          class (balanced accuracy, AUROC, AUPRC).
        - Fewer in a class, and all rows decided alike: the accuracy too, which is then the share of a class.
        - Fewer in a class, and fewer than `minimum_cell` different predictions, in hundredths: the Brier score and the
          log loss too, as for two classes (:func:`withheld`).
    """
    p, y = multiclass.checked(probability, label)
    names = (*names_of_classes(p.shape[1]), *also)
    if len(p) < checked_minimum(minimum_cell):
        return frozenset(names)
    if may_publish(multiclass.class_counts(y, p.shape[1]), minimum_cell):
        return frozenset()
    alike = np.unique(p.argmax(axis=1)).size == 1
    return telling(names, Small(True, alike, len(np.unique(np.round(p, 2), axis=0)) < minimum_cell))


def class_counts(label: ArrayLike) -> dict[str, int]:
    """Patients of either class, for :mod:`fedmed.privacy.cells`.

    >>> class_counts([0, 1, 1])
    {'negative': 1, 'positive': 2}
    """
    y = np.asarray(label)
    positive = int(y.sum())
    return {"negative": y.size - positive, "positive": positive}


def event_counts(labels: ArrayLike, horizon: float | None = None) -> dict[str, int]:
    """Patients with and without the event by the horizon, for :mod:`fedmed.privacy.cells`.

    >>> event_counts([[1, 1], [5, 1], [9, 0]], horizon=4)
    {'without': 2, 'events': 1}
    """
    y = checked_labels(labels)
    events = int(events_by(y, horizon).sum())
    return {"without": len(y) - events, "events": events}


def withheld_of_survival(labels: ArrayLike, minimum_cell: int, horizon: float | None = None) -> frozenset[str]:
    """Names of the measurements of a survival model that may not leave the hospital, `loss` among them.

    Args:
        labels: duration and event, of shape `(rows, 2)`.
        minimum_cell: the fewest patients that a published cell may hold.
        horizon: the follow-up considered.

    Raises:
        ValueError: for what is no label, or a minimum cell under 5.

    Guarantees:
        - Fewer rows than `minimum_cell`: everything.
        - Fewer with the event, or without it: everything but the rows. Every figure, and a Cox model's loss above all,
          is a sum over the events.
    """
    counts = event_counts(labels, horizon)
    if sum(counts.values()) < checked_minimum(minimum_cell):
        return frozenset({*SURVIVAL_NAMES, "loss"})
    if may_publish(counts, minimum_cell):
        return frozenset()
    return telling((*SURVIVAL_NAMES, "loss"), Small(True))

"""Metrics of predicted probabilities of several classes.

Probabilities are of shape `(rows, classes)`, labels the index of the class, of shape `(rows,)`. The functions that end
in `_over` are metrics over many resamples at once, as in :mod:`fedmed.evaluation.metrics` for two classes: `(rows,
classes)`, `(rows,)` and `(resamples, rows)` give `(resamples,)`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fedmed.evaluation import metrics as binary
from fedmed.evaluation.metrics import CLIP, Array

_SUM_TOLERANCE = 1e-3


def checked(probability: ArrayLike, label: ArrayLike) -> tuple[Array, Array]:
    """Both as float64, of shape `(rows, classes)` and `(rows,)`.

    Raises:
        ValueError: if the shapes do not go together, a probability is not in [0, 1], those of a row do not sum to 1
            within .001, or a label is not the index of a class. The message holds no value.
    """
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(label, dtype=np.float64)
    if p.ndim != 2 or p.shape[1] < 2 or y.shape != p.shape[:1]:
        raise ValueError(f"expected probabilities (rows, classes) and labels (rows,), got {p.shape} and {y.shape}")
    if wrong := int(np.sum(~((p >= 0) & (p <= 1)).all(axis=1))):
        raise ValueError(f"expected probabilities in [0, 1]; those of {wrong} of {len(p)} rows are not")
    if wrong := int(np.sum(np.abs(p.sum(axis=1) - 1) > _SUM_TOLERANCE)):
        raise ValueError(f"expected probabilities that sum to 1; those of {wrong} of {len(p)} rows do not")
    if wrong := int(np.sum(~np.isin(y, np.arange(p.shape[1])))):
        raise ValueError(f"expected labels 0 to {p.shape[1] - 1}; {wrong} of {y.size} are not")
    return p, y


def class_counts(label: ArrayLike, classes: int) -> dict[str, int]:
    """Patients of each class, for :mod:`fedmed.privacy.cells`.

    >>> class_counts([0, 2, 2], 3)
    {'class 0': 1, 'class 1': 0, 'class 2': 2}
    """
    held = np.bincount(np.asarray(label).astype(np.int64), minlength=classes)
    return {f"class {place}": int(count) for place, count in enumerate(held)}


def right(p: Array, y: Array) -> Array:
    """1 for each row whose most probable class is its own, else 0; of equals the first class is taken.

    >>> right(np.array([[0.2, 0.8], [0.5, 0.5]]), np.array([1.0, 1.0])).tolist()
    [1.0, 0.0]
    """
    hit: Array = np.equal(p.argmax(axis=1), y).astype(np.float64)
    return hit


def squared_error(p: Array, y: Array) -> Array:
    """Σ over classes of (probability − 1 if it is the row's own)², of shape `(rows,)` and between 0 and 2.

    Brier 1950, Monthly Weather Review 78, equation 2. With two classes it is twice the score of the positive one.

    >>> squared_error(np.array([[0.5, 0.25, 0.25]]), np.array([0.0])).tolist()
    [0.375]
    """
    return np.asarray(((p - (y[:, None] == np.arange(p.shape[1]))) ** 2).sum(axis=1))


def accuracy_over(p: Array, y: Array, counts: Array) -> Array:
    """Share of rows whose most probable class is their own."""
    return np.asarray(counts @ right(p, y) / counts.sum(axis=1))


def balanced_accuracy_over(p: Array, y: Array, counts: Array) -> Array:
    """The mean recall of the classes; nan where a class has no row (Brodersen et al. 2010, ICPR)."""
    hit = right(p, y)

    def recall(place: int) -> Array:
        own = np.asarray(y == place, dtype=np.float64)
        held = counts @ own
        return np.asarray(np.divide(counts @ (hit * own), held, out=np.full(held.shape, np.nan), where=held > 0))

    return np.asarray(np.mean([recall(place) for place in range(p.shape[1])], axis=0))


def macro_auroc_over(p: Array, y: Array, counts: Array) -> Array:
    """The mean AUROC of the classes, each against all others; Hand & Till 2001 discuss this and other means."""
    return _one_versus_rest(binary.auroc_over, p, y, counts)


def macro_auprc_over(p: Array, y: Array, counts: Array) -> Array:
    """The mean average precision of the classes, each against all others."""
    return _one_versus_rest(binary.auprc_over, p, y, counts)


def _one_versus_rest(metric: binary.Over, p: Array, y: Array, counts: Array) -> Array:
    """The unweighted mean over the classes, each against all others; nan where a class has no row."""
    own = (y[:, None] == np.arange(p.shape[1])).astype(np.float64)
    return np.asarray(np.mean([metric(p[:, k], own[:, k], counts) for k in range(p.shape[1])], axis=0))


def brier_over(p: Array, y: Array, counts: Array) -> Array:
    """The mean of :func:`squared_error`."""
    return np.asarray(counts @ squared_error(p, y) / counts.sum(axis=1))


def log_loss_over(p: Array, y: Array, counts: Array) -> Array:
    """Mean negative log of the probability of a row's own class, kept 1e-7 away from 0."""
    own = np.take_along_axis(p, y.astype(np.int64)[:, None], axis=1)[:, 0]
    return np.asarray(counts @ -np.log(np.clip(own, CLIP, 1.0)) / counts.sum(axis=1))

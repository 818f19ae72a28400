"""What is measured, told, compared and shown for each kind of target: `KINDS[kind]`.

Predictions are those of :func:`fedmed.models.bundle.predictions` and labels those of `labels_of`, as numpy arrays:

    binary       probabilities (rows,)              labels (rows,), 0 or 1
    multiclass   probabilities (rows, classes)      labels (rows,), index of the class
    survival     log relative hazards (rows,),      labels (rows, 2), duration and event
                 or survival (rows, intervals)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmed.evaluation import disclosure, measurement, metrics, multiclass, survival
from fedmed.evaluation.comparison import Comparison, compare, compare_survival
from fedmed.evaluation.curves import Curves, binary_curves, no_curves, survival_curves
from fedmed.evaluation.measurement import FEWEST_PER_CLASS, RESAMPLES, Measurement, assemble, share
from fedmed.evaluation.metrics import Array
from fedmed.evaluation.survival import Forecast
from fedmed.privacy.cells import DEFAULT_MINIMUM

DECIMALS_OF_A_ROUND = 6
Prediction: TypeAlias = NDArray[np.float64] | Forecast


@dataclass(frozen=True)
class Kind:
    """The functions and names of one kind of target.

    Args:
        names: number of classes → all measurements of the test rows, `rows` first.
        validated: metrics that a round tells of the validation rows, beside the loss.
        headline: what pages and summaries show of the test rows, the foremost first.
        drawn: what is drawn of every model, beside the curves.
        withheld: prediction, labels, minimum cell, horizon → names of what may not leave, `rows` and `loss` included.
        values: prediction, labels, horizon → each validated metric; nan where it is undefined.
        measure: prediction, labels, minimum_cell, resamples, generator, horizon → measurements, `rows` first.
        compare: hospital, labels, federated, own, pooled, reference, minimum_cell, … → whether federating helped.
        curves: prediction, labels, minimum cell, horizon → the points that may leave for plots.
        complete: prediction, the same model's on the training rows (asked for only if needed), training labels, horizon
            → the prediction with what the hospital's own training rows add to it.
        reference: training labels, rows, horizon → what needs no model, as `compare` takes it.
        trainable: training labels → whether anything can be learned from them alone.
        classes: labels, number of classes, horizon → patients of each class, as small cells are counted.
    """

    names: Callable[[int], tuple[str, ...]]
    validated: tuple[str, ...]
    headline: tuple[str, ...]
    drawn: tuple[str, ...]
    withheld: Callable[[Any, Any, int, float | None], frozenset[str]]
    values: Callable[[Any, Any, float | None], dict[str, float]]
    measure: Callable[..., dict[str, Measurement]]
    compare: Callable[..., Comparison]
    curves: Callable[[Any, Any, int, float | None], Curves]
    complete: Callable[[Any, Callable[[], Any], Any, float | None], Prediction]
    reference: Callable[[Any, int, float | None], Any]
    trainable: Callable[[Any], bool]
    classes: Callable[[Any, int, float | None], dict[str, int]]

    def validate(
        self, prediction: Any, labels: Any, minimum_cell: int, horizon: float | None = None
    ) -> dict[str, float]:
        """What a round tells of the validation rows, in six decimals; a metric that may not be told is absent.

        Args:
            prediction: as the module says, of this kind.
            labels: as the module says, of this kind.
            minimum_cell: the fewest patients that a published cell may hold.
            horizon: of a survival target.
        """
        hidden = self.withheld(prediction, labels, minimum_cell, horizon)
        if set(self.validated) <= hidden:
            return {}
        values = self.values(prediction, labels, horizon)
        told = {name: values[name] for name in self.validated if name not in hidden}
        return {name: round(value, DECIMALS_OF_A_ROUND) for name, value in told.items() if math.isfinite(value)}

    def round_figures(
        self, prediction: Any, labels: Any, loss: float, minimum_cell: int, horizon: float | None = None
    ) -> RoundFigures:
        """The figures of a `RoundEvaluation`: `loss` is told only where it gives no small cell away."""
        hidden = self.withheld(prediction, labels, minimum_cell, horizon)
        return RoundFigures(
            rows=None if "rows" in hidden else len(labels),
            loss=None if "loss" in hidden or not math.isfinite(loss) else round(loss, DECIMALS_OF_A_ROUND),
            metrics=self.validate(prediction, labels, minimum_cell, horizon),
        )


class RoundFigures(NamedTuple):
    """What a round tells of one hospital's validation rows; None, or absent, where it may not be told."""

    rows: int | None
    loss: float | None
    metrics: dict[str, float]


def _of_binary(prediction: Any, labels: Any, minimum_cell: int, horizon: float | None = None) -> frozenset[str]:
    hidden = disclosure.withheld(prediction, labels, minimum_cell)
    return hidden | {"loss"} if "log_loss" in hidden else hidden


def _binary_values(prediction: Any, labels: Any, horizon: float | None = None) -> dict[str, float]:
    each = (metrics.accuracy, metrics.auroc, metrics.auprc, metrics.brier)
    return {metric.__name__: metric(prediction, labels) for metric in each}


def _measure_binary(
    prediction: Any,
    labels: Any,
    *,
    minimum_cell: int = DEFAULT_MINIMUM,
    resamples: int = RESAMPLES,
    generator: np.random.Generator,
    horizon: float | None = None,
) -> dict[str, Measurement]:
    return measurement.measure(prediction, labels, minimum_cell=minimum_cell, resamples=resamples, generator=generator)


def _of_classes(prediction: Any, labels: Any, minimum_cell: int, horizon: float | None = None) -> frozenset[str]:
    hidden = multiclass.withheld(prediction, labels, minimum_cell)
    return hidden | {"loss"} if "log_loss" in hidden else hidden


def _class_values(prediction: Any, labels: Any, horizon: float | None = None) -> dict[str, float]:
    p, y = multiclass.checked(prediction, labels)
    once = np.ones((1, len(p)))
    return {name: float(metric(p, y, once)[0]) for name, metric in multiclass.METRICS.items()}


def _measure_classes(
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
    p, y = multiclass.checked(prediction, labels)
    held = list(multiclass.class_counts(y, p.shape[1]).values())
    hit = multiclass.right(p, y)
    few = {f"recall_{place}" for place, count in enumerate(held) if count < FEWEST_PER_CLASS}
    shares: dict[str, Callable[[], Measurement]] = {"accuracy": lambda: share(hit.sum(), hit.size)}
    for place, count in enumerate(held):
        shares[f"recall_{place}"] = partial(share, hit[y == place].sum(), count)
    return assemble(
        multiclass.names_of(p.shape[1]),
        rows=len(p),
        shares=shares,
        statistics={name: partial(metric, p, y) for name, metric in multiclass.METRICS.items() if name not in shares},
        hidden=multiclass.withheld(p, y, minimum_cell),
        unknown=few | multiclass.OVER_CLASSES if few else few,
        resamples=resamples,
        generator=generator,
    )


def _of_survival(prediction: Any, labels: Any, minimum_cell: int, horizon: float | None = None) -> frozenset[str]:
    return disclosure.withheld_of_survival(labels, minimum_cell, horizon)


def _survival_values(prediction: Any, labels: Any, horizon: float | None = None) -> dict[str, float]:
    risk = survival.forecast(prediction, horizon).risk
    return {"c_index": survival.c_index(risk, labels, horizon)}


def _measure_survival(
    prediction: Any,
    labels: Any,
    *,
    minimum_cell: int = DEFAULT_MINIMUM,
    resamples: int = RESAMPLES,
    generator: np.random.Generator,
    horizon: float | None = None,
) -> dict[str, Measurement]:
    """The number of events by the horizon, and C-indices and integrated Brier score with bootstrap intervals.

    In every resample the censoring is estimated anew. With fewer than ten events the figures are "not estimable"; a
    forecast that only orders the rows has no integrated Brier score.
    """
    said, y = survival.forecast(prediction, horizon), survival.checked_labels(labels)
    counts = disclosure.event_counts(y, horizon)
    unknown = set(disclosure.SURVIVAL_NAMES[2:]) if counts["events"] < survival.FEWEST_EVENTS else set()
    if not said.times.size:
        unknown.add("integrated_brier")
    return assemble(
        disclosure.SURVIVAL_NAMES,
        rows=len(y),
        shares={"events": lambda: Measurement(value=counts["events"])},
        statistics=survival_statistics(said, y, horizon),
        hidden=disclosure.withheld_of_survival(y, minimum_cell, horizon),
        unknown=unknown,
        resamples=resamples,
        generator=generator,
    )


def survival_statistics(said: Forecast, labels: Array, horizon: float | None) -> dict[str, Callable[[Array], Array]]:
    """Each figure of a forecast as a function of how often each row counts."""
    return {
        "c_index": partial(survival.c_index_over, said.risk, labels, horizon),
        "uno_c_index": partial(survival.uno_c_index_over, said.risk, labels, horizon),
        "integrated_brier": partial(survival.integrated_brier_over, said, labels),
    }


def _as_it_is(prediction: Any, on_training: Callable[[], Any], labels: Any, horizon: float | None) -> Prediction:
    return np.asarray(prediction, dtype=np.float64)


def _with_baseline(prediction: Any, on_training: Callable[[], Any], labels: Any, horizon: float | None) -> Forecast:
    """A log relative hazard gets the baseline of the hospital's own training rows; survival curves need none."""
    if np.ndim(prediction) == 1 and horizon is not None:
        return survival.cox_forecast(prediction, on_training(), labels, survival.grid(horizon))
    return survival.forecast(prediction, horizon)


def _majority(labels: Any, rows: int, horizon: float | None) -> int:
    """The class of most training rows; of equals the last."""
    held = np.bincount(np.asarray(labels).astype(np.int64))
    return int(held.size - 1 - held[::-1].argmax())


def _one_curve(labels: Any, rows: int, horizon: float | None) -> Forecast | None:
    """The Kaplan-Meier curve of the training rows, for every row."""
    if horizon is None:
        return None
    times = survival.grid(horizon)
    return Forecast(np.zeros(rows), times, np.tile(survival.kaplan_meier(labels, times), (rows, 1)))


def _of_two(labels: Any, classes: int, horizon: float | None) -> dict[str, int]:
    return disclosure.class_counts(labels)


def _of_many(labels: Any, classes: int, horizon: float | None) -> dict[str, int]:
    return multiclass.class_counts(labels, classes)


def _of_events(labels: Any, classes: int, horizon: float | None) -> dict[str, int]:
    return disclosure.event_counts(labels, horizon)


def some_rows(prediction: Prediction, rows: NDArray[np.bool_]) -> Prediction:
    """The prediction for some of the rows; `rows` is of shape `(rows,)`."""
    return prediction.of(rows) if isinstance(prediction, Forecast) else prediction[rows]


KINDS: Mapping[str, Kind] = {
    "binary": Kind(
        names=lambda classes: disclosure.NAMES,
        validated=("accuracy", "auroc", "auprc", "brier"),
        headline=("accuracy", "auroc", "auprc", "brier"),
        drawn=("accuracy", "brier"),
        withheld=_of_binary,
        values=_binary_values,
        measure=_measure_binary,
        compare=compare,
        curves=binary_curves,
        complete=_as_it_is,
        reference=_majority,
        trainable=lambda labels: np.unique(labels).size > 1,
        classes=_of_two,
    ),
    "multiclass": Kind(
        names=multiclass.names_of,
        validated=("balanced_accuracy", "accuracy", "macro_auroc", "macro_auprc", "brier"),
        headline=("balanced_accuracy", "accuracy", "macro_auroc", "brier"),
        drawn=("balanced_accuracy", "brier"),
        withheld=_of_classes,
        values=_class_values,
        measure=_measure_classes,
        compare=compare,
        curves=no_curves,
        complete=_as_it_is,
        reference=_majority,
        trainable=lambda labels: np.unique(labels).size > 1,
        classes=_of_many,
    ),
    "survival": Kind(
        names=lambda classes: disclosure.SURVIVAL_NAMES,
        validated=("c_index",),
        headline=("c_index", "integrated_brier"),
        drawn=("c_index", "integrated_brier"),
        withheld=_of_survival,
        values=_survival_values,
        measure=_measure_survival,
        compare=compare_survival,
        curves=survival_curves,
        complete=_with_baseline,
        reference=_one_curve,
        trainable=lambda labels: bool(np.any(np.asarray(labels)[:, 1] == 1)),
        classes=_of_events,
    ),
}

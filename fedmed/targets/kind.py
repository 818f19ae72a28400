"""What there is to say of a kind of target: the declaration, the model, its answers, its figures and its words.

Predictions are those of :func:`fedmed.models.bundle.predictions` and labels those of `labels_of`, as numpy arrays:

    binary       probabilities (rows,)              labels (rows,), 0 or 1
    multiclass   probabilities (rows, classes)      labels (rows,), index of the class
    survival     log relative hazards (rows,),      labels (rows, 2), duration and event
                 or survival (rows, intervals)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fedmed.evaluation.comparison import Comparison
from fedmed.evaluation.curves import Curves
from fedmed.evaluation.measurement import Measurement
from fedmed.evaluation.survival import Forecast

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from fedmed.targets.target import Target

KindName = Literal["binary", "multiclass", "survival"]
TARGET = "target"
DURATION = "duration"
DECIMALS_OF_A_ROUND = 6
Prediction: TypeAlias = NDArray[np.float64] | Forecast


class Form(NamedTuple):
    """How a network models what is followed over time: one of `Kind.forms`, and in how many equal intervals.

    It means nothing to a kind without forms.
    """

    name: str = "cox"
    intervals: int = 20


class Number(NamedTuple):
    """A number beside the class in a label: its column, how far it is looked at, what is plausible, and its unit."""

    name: str
    looked_at: float
    longest: float
    unit: str


@dataclass(frozen=True)
class Kind:
    """All that depends on the kind of a target; an entry of :data:`fedmed.targets.table.KINDS`.

    The declaration, as :class:`~fedmed.targets.target.Target` and the contract read it:

    Args:
        needs: keys that a declaration of this kind must have.
        may: keys that it may have besides; those of other kinds are refused.
        check: raises ValueError for values of these keys that do not go together.
        columns: of the label, `target` first.
        meanings: what each value of `target` means, in order.
        label: the cleaned raw columns → the label's columns.
        required: the values of `target` of which a hospital must have some rows.
        numbers: the label's columns other than `target`.

    The model:

    Args:
        forms: the names in which a network can model it, of which the plan chooses one; none where there is one way.
        outputs: how many numbers a network gives for a row.
        losses: the names of the losses that fit, that of `auto` first.
        shifts: whether a shift of the outputs changes what is said.
        says: outputs as float64 → the prediction, see above.

    What is answered to a row that is asked about:

    Args:
        answers: the names of the numbers.
        answer: prediction → these numbers, of shape `(rows,)` or `(rows, names)`.
        decided: the numbers `(rows, names)` → what is decided for in each row, anything where the numbers are NaN; None
            if nothing is decided.

    The figures:

    Args:
        names: number of classes → all measurements of the test rows, `rows` first.
        validated: metrics that a round tells of the validation rows, beside the loss.
        headline: what pages and summaries show of the test rows, the foremost first.
        drawn: what is drawn of every model, beside the curves.
        told_curves: which of :class:`~fedmed.evaluation.curves.Curves` there can be.
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

    The words:

    Args:
        predicts: what a model gives, as in "the probability of `ill`".
        explained: a target for the registry's page.
    """

    needs: tuple[str, ...]
    may: tuple[str, ...]
    check: Callable[[Target], None]
    columns: tuple[str, ...]
    meanings: Callable[[Target], dict[int, str]]
    label: Callable[[Target, pd.DataFrame], pd.DataFrame]
    required: Callable[[Target], tuple[int, ...]]
    numbers: Callable[[Target], tuple[Number, ...]]

    forms: tuple[str, ...]
    outputs: Callable[[Target, Form], int]
    losses: Callable[[Form], tuple[str, ...]]
    shifts: Callable[[Form], bool]
    says: Callable[[Tensor, Form], Tensor]

    answers: Callable[[Target, Form], list[str]]
    answer: Callable[[NDArray[np.float64], Form], NDArray[np.float64]]
    decided: Callable[[Target, NDArray[np.float64]], NDArray[Any] | None]

    names: Callable[[int], tuple[str, ...]]
    validated: tuple[str, ...]
    headline: tuple[str, ...]
    drawn: tuple[str, ...]
    told_curves: tuple[str, ...]
    withheld: Callable[[Any, Any, int, float | None], frozenset[str]]
    values: Callable[[Any, Any, float | None], dict[str, float]]
    measure: Callable[..., dict[str, Measurement]]
    compare: Callable[..., Comparison]
    curves: Callable[[Any, Any, int, float | None], Curves]
    complete: Callable[[Any, Callable[[], Any], Any, float | None], Prediction]
    reference: Callable[[Any, int, float | None], Any]
    trainable: Callable[[Any], bool]
    classes: Callable[[Any, int, float | None], dict[str, int]]

    predicts: str
    explained: Callable[[Target], str]

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


def some_rows(prediction: Prediction, rows: NDArray[np.bool_]) -> Prediction:
    """The prediction for some of the rows; `rows` is of shape `(rows,)`."""
    return prediction.of(rows) if isinstance(prediction, Forecast) else prediction[rows]

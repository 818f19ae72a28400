"""Did federating help this hospital? The federated model against the hospital's own, on the same rows."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from fedmed.evaluation.disclosure import class_counts, withheld
from fedmed.evaluation.measurement import (
    NOT_ESTIMABLE,
    RESAMPLES,
    SUPPRESSED,
    Measurement,
    bootstrap,
    number,
    share,
)
from fedmed.evaluation.metrics import Array, checked, right
from fedmed.privacy.cells import DEFAULT_MINIMUM, may_publish
from fedmed.typed_yaml import Record

Verdict = Literal["helped", "no clear difference", "hurt", "not estimable"]
_SENTENCES: dict[Verdict, str] = {
    "helped": "Federating helped {}",
    "hurt": "Federating hurt {}",
    "no clear difference": "Federating made no clear difference to {}",
    "not estimable": "Whether federating helped {} is not estimable",
}


class Comparison(Record):
    """What federating did for one hospital, as it may leave it.

    `brier` and `accuracy` are keyed by model: federated, own, pooled if there is one and, for the accuracy, majority.
    A difference is keyed by the model that the federated one is held against: federated minus the other. For the Brier
    score, below 0 is in favour of federating; for the accuracy, above 0.
    """

    hospital: str
    verdict: Verdict
    brier: dict[str, Measurement]
    accuracy: dict[str, Measurement]
    brier_difference: dict[str, Measurement]
    accuracy_difference: dict[str, Measurement]

    @property
    def sentence(self) -> str:
        """The verdict in words, with the figures that it rests on.

        Such as "Federating helped hungarian: Brier .142 against .171 alone (difference −.029, 95 % −.051 to −.008)".
        """
        said = _SENTENCES[self.verdict].format(self.hospital)
        federated, own, difference = self.brier["federated"], self.brier["own"], self.brier_difference["own"]
        if federated.value is None or own.value is None or difference.value is None:
            suppressed = difference.reason == "suppressed"
            return f"{said}: " + ("its figures are suppressed" if suppressed else "it has no model of its own")
        ends = [end for end in (difference.low, difference.high) if end is not None]
        decimals = 4 if any(0 < abs(end) < 0.0005 for end in ends) else 3  # "to .000" would hide which side of 0
        span = f", 95 % {difference.interval_text(decimals)}" if ends else ""
        return (
            f"{said}: Brier {number(federated.value)} against {number(own.value)} alone"
            f" (difference {number(difference.value)}{span})"
        )


def compare(
    hospital: str,
    label: ArrayLike,
    *,
    federated: ArrayLike,
    own: ArrayLike | None,
    majority: int,
    pooled: ArrayLike | None = None,
    minimum_cell: int = DEFAULT_MINIMUM,
    resamples: int = RESAMPLES,
    generator: np.random.Generator,
) -> Comparison:
    """The federated model against the hospital's own, the majority class and, if given, the pooled model.

    The verdict is read off the 95 % interval of the Brier score's difference federated minus own, from a paired plain
    bootstrap over rows: each resample holds the same rows for every model (Efron 1979, Annals of Statistics 7). One
    hospital in twenty without any difference gets a verdict by chance; nothing is adjusted for the number of hospitals.

    Args:
        hospital: its name, for the sentence.
        label: 0 or 1, of shape `(rows,)`.
        federated: the federated model's predictions, of shape `(rows,)`.
        own: those of the model that the hospital trained alone; None if it could train none.
        majority: the class, 0 or 1, of most of the hospital's training rows.
        pooled: those of a model trained on all the data in one place, where that is allowed.
        minimum_cell: the fewest patients that a published cell may hold.
        resamples: how many to draw, at least 100.
        generator: the only source of randomness.

    Returns:
        Figures in four decimals; the verdict agrees with them.

    Raises:
        ValueError: for what is no probability or label, a minimum cell under 5, or fewer than 100 resamples.

    Guarantees:
        - A figure that :func:`~fedmed.evaluation.disclosure.withheld` names for a model is suppressed, and so is every
          difference that it is part of.
        - The majority's accuracy is the share of a class. Where a class is small it is suppressed, at most with the
          bound that the minimum cell implies, and so is the difference from it.
        - "helped" and "hurt" only where the interval leaves out 0. No own model, or a suppressed difference: "not
          estimable".
    """
    given = {"federated": federated, "own": own, "pooled": pooled}
    models = {name: checked(predictions, label)[0] for name, predictions in given.items() if predictions is not None}
    y = checked(models["federated"], label)[1]
    if majority not in (0, 1):
        raise ValueError(f"majority: expected the class 0 or 1, got {majority!r}")
    hidden = {name: withheld(p, y, minimum_cell) for name, p in models.items()}
    error = {name: (p - y) ** 2 for name, p in models.items() if "brier" not in hidden[name]}
    hit = {name: right(p, y) for name, p in models.items() if "accuracy" not in hidden[name]}
    if may_publish(class_counts(y), minimum_cell):
        hit["majority"] = np.asarray(y == majority, dtype=np.float64)

    of_row = {("brier", name): row for name, row in error.items()}
    of_row |= {("brier difference", name): row for name, row in _gaps(error).items()}
    of_row |= {("accuracy difference", name): row for name, row in _gaps(hit).items()}
    means = {name: partial(_mean_of, row) for name, row in of_row.items()}
    told = bootstrap(means, rows=y.size, resamples=resamples, generator=generator)
    told |= {("accuracy", name): share(row.sum(), row.size) for name, row in hit.items()}
    if ("accuracy", "majority") not in told:
        told["accuracy", "majority"] = _bound(y, majority, minimum_cell)
    if own is None:
        figures = ("brier", "brier difference", "accuracy", "accuracy difference")
        told |= {(figure, "own"): NOT_ESTIMABLE for figure in figures}

    others = ["own", "pooled"] if pooled is not None else ["own"]
    return Comparison(
        hospital=hospital,
        verdict=_verdict(told.get(("brier difference", "own"), SUPPRESSED)),
        brier=_told(told, "brier", ["federated", *others]),
        accuracy=_told(told, "accuracy", ["federated", *others, "majority"]),
        brier_difference=_told(told, "brier difference", others),
        accuracy_difference=_told(told, "accuracy difference", [*others, "majority"]),
    )


def _gaps(of_row: dict[str, Array]) -> dict[str, Array]:
    """Federated minus each other model, row by row; none if the federated model's figure is withheld."""
    if "federated" not in of_row:
        return {}
    return {name: of_row["federated"] - row for name, row in of_row.items() if name != "federated"}


def _mean_of(of_row: Array, counts: Array) -> Array:
    return np.asarray(counts @ of_row / of_row.size)  # each resample has as many rows


def _told(told: dict[tuple[str, str], Measurement], figure: str, models: list[str]) -> dict[str, Measurement]:
    return {model: told.get((figure, model), SUPPRESSED) for model in models}


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


def _verdict(difference: Measurement) -> Verdict:
    if difference.value is None:
        return "not estimable"
    if difference.low is None or difference.high is None:  # the same difference in each row: of the same model
        return "no clear difference" if difference.value == 0 else "not estimable"
    if difference.high < 0:
        return "helped"
    return "hurt" if difference.low > 0 else "no clear difference"

"""Did federating help this hospital? The federated model against the hospital's own, on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fedmed.evaluation.measurement import (
    NOT_ESTIMABLE,
    RESAMPLES,
    SUPPRESSED,
    Measurement,
    bootstrap,
    number,
    share,
)
from fedmed.evaluation.metrics import Array
from fedmed.evaluation.names import LOWER_IS_BETTER, in_words
from fedmed.privacy.cells import DEFAULT_MINIMUM, may_publish
from fedmed.typed_yaml import Record

Verdict = Literal["helped", "no clear difference", "hurt", "not estimable"]
MAJORITY = "majority"
KAPLAN_MEIER = "kaplan_meier"
REFERENCES = (MAJORITY, KAPLAN_MEIER)
_SENTENCES: dict[Verdict, str] = {
    "helped": "Federating helped {}",
    "hurt": "Federating hurt {}",
    "no clear difference": "Federating made no clear difference to {}",
    "not estimable": "Whether federating helped {} is not estimable",
}


class Comparison(Record):
    """What federating did for one hospital, as it may leave it.

    `figures` is keyed by metric and model: federated, own, pooled if there is one and, of some metric, what needs no
    model (the majority class, or the Kaplan-Meier curve). `differences` is keyed by metric and by the model that the
    federated one is held against: federated minus the other. The verdict is about `metric`.
    """

    hospital: str
    verdict: Verdict
    metric: str
    figures: dict[str, dict[str, Measurement]]
    differences: dict[str, dict[str, Measurement]]

    @property
    def sentence(self) -> str:
        """The verdict in words, with the figures that it rests on.

        Such as "Federating helped hungarian: Brier .142 against .171 alone (difference −.029, 95 % −.051 to −.008)".
        """
        said = _SENTENCES[self.verdict].format(self.hospital)
        figure, difference = self.figures[self.metric], self.differences[self.metric]["own"]
        federated, own = figure["federated"], figure["own"]
        if federated.value is None or own.value is None or difference.value is None:
            if difference.reason == "suppressed":
                return f"{said}: its figures are suppressed"
            return f"{said}: " + (
                "it has no model of its own" if federated.value is not None else "it has too few events"
            )
        ends = [end for end in (difference.low, difference.high) if end is not None]
        decimals = 4 if any(0 < abs(end) < 0.0005 for end in ends) else 3  # "to .000" would hide which side of 0
        span = f", 95 % {difference.interval_text(decimals)}" if ends else ""
        return (
            f"{said}: {in_words(self.metric)} {number(federated.value)} against {number(own.value)} alone"
            f" (difference {number(difference.value)}{span})"
        )


class Figure(NamedTuple):
    """One metric of several models on the same rows.

    `over` is keyed by model: the metric as a function of how often each row counts; a model whose figure is withheld is
    absent. `told` has what is not drawn from resamples: a share with an interval of its own, or the bound of one.
    """

    over: Mapping[str, Callable[[Array], Array]]
    told: Mapping[str, Measurement]
    reference: str = ""


class Reading(NamedTuple):
    """How probabilities of classes are read, for two classes or for several.

    Args:
        checked: probabilities and labels → both as arrays; raises ValueError for what is none.
        withheld: probabilities, labels, minimum cell → names of what may not leave.
        counts: probabilities, labels → patients of each class, in order.
        squared_error: probabilities, labels → what the Brier score is the mean of, of shape `(rows,)`.
        right: probabilities, labels → 1 for each row decided rightly, else 0.
        bound: labels, a class, minimum cell → what anybody knows of the suppressed share of that class.
    """

    checked: Callable[[ArrayLike, ArrayLike], tuple[Array, Array]]
    withheld: Callable[[Array, Array, int], frozenset[str]]
    counts: Callable[[Array, Array], Mapping[str, int]]
    squared_error: Callable[[Array, Array], Array]
    right: Callable[[Array, Array], Array]
    bound: Callable[[Array, int, int], Measurement]


def compare_classes(
    hospital: str,
    label: ArrayLike,
    *,
    reading: Reading,
    federated: ArrayLike,
    own: ArrayLike | None,
    reference: int,
    pooled: ArrayLike | None = None,
    minimum_cell: int = DEFAULT_MINIMUM,
    resamples: int = RESAMPLES,
    generator: np.random.Generator,
    horizon: float | None = None,
) -> Comparison:
    """The federated model against the hospital's own, the majority class and, if given, the pooled model.

    For two classes and for several. The verdict is read off the 95 % interval of the Brier score's difference federated
    minus own, from a paired plain bootstrap over rows: each resample holds the same rows for every model (Efron 1979,
    Annals of Statistics 7). One hospital in twenty without any difference gets a verdict by chance; nothing is adjusted
    for the number of hospitals.

    Args:
        hospital: its name, for the sentence.
        label: the class, of shape `(rows,)`.
        reading: how probabilities are read.
        federated: the federated model's probabilities, of shape `(rows,)`, or `(rows, classes)` for several classes.
        own: those of the model that the hospital trained alone; None if it could train none.
        reference: the class of most of the hospital's training rows.
        pooled: those of a model trained on all the data in one place, where that is allowed.
        minimum_cell: the fewest patients that a published cell may hold.
        resamples: how many to draw, at least 100.
        generator: the only source of randomness.
        horizon: of no meaning here.

    Returns:
        Brier score and accuracy in four decimals; the verdict agrees with them.

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
    models = {name: reading.checked(p, label)[0] for name, p in given.items() if p is not None}
    y = reading.checked(federated, label)[1]
    counts = reading.counts(models["federated"], y)
    classes = len(counts)
    if reference not in range(classes):
        raise ValueError(
            f"reference: expected the class 0 {'or' if classes == 2 else 'to'} {classes - 1}, got {reference!r}"
        )
    hidden = {name: reading.withheld(p, y, minimum_cell) for name, p in models.items()}
    error = {name: reading.squared_error(p, y) for name, p in models.items() if "brier" not in hidden[name]}
    hit = {name: reading.right(p, y) for name, p in models.items() if "accuracy" not in hidden[name]}
    if may_publish(counts, minimum_cell):
        hit[MAJORITY] = np.asarray(y == reference, dtype=np.float64)
    told = {name: share(row.sum(), row.size) for name, row in hit.items()}
    if MAJORITY not in told:
        told[MAJORITY] = reading.bound(y, reference, minimum_cell)
    figures = {
        "brier": Figure({name: partial(_mean_of, row) for name, row in error.items()}, {}),
        "accuracy": Figure({name: partial(_mean_of, row) for name, row in hit.items()}, told, MAJORITY),
    }
    return compared(hospital, "brier", figures, own, pooled, y.size, resamples, generator)


def compared(
    hospital: str,
    metric: str,
    figures: Mapping[str, Figure],
    own: object | None,
    pooled: object | None,
    rows: int,
    resamples: int,
    generator: np.random.Generator,
) -> Comparison:
    """The comparison that some figures of several models make, whatever is predicted.

    Args:
        hospital: its name, for the sentence.
        metric: the figure that the verdict is about.
        figures: metric → its figure.
        own: None if the hospital could train no model.
        pooled: None if there is no pooled model.
        rows: how many there are.
        resamples: how many to draw, at least 100.
        generator: the only source of randomness.
    """
    others = ["own", "pooled"] if pooled is not None else ["own"]
    over: dict[tuple[str, str, str], Callable[[Array], Array]] = {}
    for name, figure in figures.items():
        over |= {("value", name, model): f for model, f in figure.over.items() if model not in figure.told}
        over |= {("difference", name, model): f for model, f in _gaps(figure.over).items()}
    drawn = bootstrap(over, rows=rows, resamples=resamples, generator=generator)

    def measured(what: str, name: str, model: str) -> Measurement:
        told = figures[name].told
        if model == "own" and own is None:
            return NOT_ESTIMABLE
        if what == "value" and model in told:
            return told[model]
        unknown = NOT_ESTIMABLE in (told.get("federated"), told.get(model))
        return drawn.get((what, name, model), NOT_ESTIMABLE if unknown else SUPPRESSED)

    against = {name: [*others, *filter(None, (figure.reference,))] for name, figure in figures.items()}
    differences = {
        name: {model: measured("difference", name, model) for model in models} for name, models in against.items()
    }
    return Comparison(
        hospital=hospital,
        verdict=_verdict(differences[metric]["own"], metric),
        metric=metric,
        figures={
            name: {model: measured("value", name, model) for model in ("federated", *models)}
            for name, models in against.items()
        },
        differences=differences,
    )


def _gaps(over: Mapping[str, Callable[[Array], Array]]) -> dict[str, Callable[[Array], Array]]:
    """Federated minus each other model, resample by resample; none if the federated model's figure is withheld."""
    if "federated" not in over:
        return {}

    def gap(other: Callable[[Array], Array], counts: Array) -> Array:
        return np.asarray(over["federated"](counts) - other(counts))

    return {name: partial(gap, f) for name, f in over.items() if name != "federated"}


def _mean_of(of_row: Array, counts: Array) -> Array:
    return np.asarray(counts @ of_row / of_row.size)  # each resample has as many rows


def _verdict(difference: Measurement, metric: str) -> Verdict:
    if difference.value is None:
        return "not estimable"
    if difference.low is None or difference.high is None:  # the same difference in each row: of the same model
        return "no clear difference" if difference.value == 0 else "not estimable"
    if difference.low <= 0 <= difference.high:
        return "no clear difference"
    return "helped" if (difference.high < 0) == (metric in LOWER_IS_BETTER) else "hurt"

"""Did federating help this hospital? The federated model against the hospital's own, on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fedmed.evaluation import multiclass, survival
from fedmed.evaluation.disclosure import class_counts, event_counts, withheld, withheld_of_classes, withheld_of_survival
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
from fedmed.evaluation.names import LOWER_IS_BETTER, in_words
from fedmed.evaluation.survival import Forecast
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


def compare(
    hospital: str,
    label: ArrayLike,
    *,
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
    several = np.ndim(federated) == 2
    check, hide = (multiclass.checked, withheld_of_classes) if several else (checked, withheld)
    models = {name: check(p, label)[0] for name, p in given.items() if p is not None}
    y = check(federated, label)[1]
    classes = models["federated"].shape[1] if several else 2
    if reference not in range(classes):
        raise ValueError(
            f"reference: expected the class 0 {'or' if classes == 2 else 'to'} {classes - 1}, got {reference!r}"
        )
    counts = multiclass.class_counts(y, classes) if several else class_counts(y)
    hidden = {name: hide(p, y, minimum_cell) for name, p in models.items()}
    squared = multiclass.squared_error if several else lambda p, y: (p - y) ** 2
    hits = multiclass.right if several else right
    error = {name: squared(p, y) for name, p in models.items() if "brier" not in hidden[name]}
    hit = {name: hits(p, y) for name, p in models.items() if "accuracy" not in hidden[name]}
    if may_publish(counts, minimum_cell):
        hit[MAJORITY] = np.asarray(y == reference, dtype=np.float64)
    told = {name: share(row.sum(), row.size) for name, row in hit.items()}
    if MAJORITY not in told:
        told[MAJORITY] = SUPPRESSED if several else _bound(y, reference, minimum_cell)
    figures = {
        "brier": Figure({name: partial(_mean_of, row) for name, row in error.items()}, {}),
        "accuracy": Figure({name: partial(_mean_of, row) for name, row in hit.items()}, told, MAJORITY),
    }
    return _compared(hospital, "brier", figures, own, pooled, y.size, resamples, generator)


def compare_survival(
    hospital: str,
    labels: ArrayLike,
    *,
    federated: ArrayLike | Forecast,
    own: ArrayLike | Forecast | None,
    reference: Forecast | None = None,
    pooled: ArrayLike | Forecast | None = None,
    minimum_cell: int = DEFAULT_MINIMUM,
    resamples: int = RESAMPLES,
    generator: np.random.Generator,
    horizon: float | None = None,
) -> Comparison:
    """The federated survival model against the hospital's own and, if given, the pooled model.

    The verdict is read off the interval of the difference in C-index, from the same paired bootstrap as in
    :func:`compare`. The integrated Brier score is compared too, and with that of `reference`.

    Args:
        hospital: its name, for the sentence.
        labels: duration and event, of shape `(rows, 2)`.
        federated: the federated model's predictions.
        own: those of the model that the hospital trained alone; None if it could train none.
        reference: one survival curve for all rows, the Kaplan-Meier curve of the hospital's training rows.
        pooled: those of a model trained on all the data in one place, where that is allowed.
        minimum_cell: the fewest patients with the event, and without, of which figures may be told.
        resamples: how many to draw, at least 100.
        generator: the only source of randomness.
        horizon: the follow-up considered.

    Raises:
        ValueError: for predictions or labels that are none, a minimum cell under 5, or fewer than 100 resamples.

    Guarantees:
        - Where a class is small everything is suppressed; with fewer than ten events everything is "not estimable".
    """
    y = survival.checked_labels(labels)
    given = {"federated": federated, "own": own, "pooled": pooled, KAPLAN_MEIER: reference}
    models = {name: survival.forecast(p, horizon) for name, p in given.items() if p is not None}
    curves = {name: said for name, said in models.items() if said.times.size}
    figures = {
        "c_index": Figure(
            {
                name: partial(survival.c_index_over, said.risk, y, horizon)
                for name, said in models.items()
                if name != KAPLAN_MEIER
            },
            {},
        ),
        "integrated_brier": Figure(
            {name: partial(survival.integrated_brier_over, said, y) for name, said in curves.items()},
            {name: NOT_ESTIMABLE for name in models if name not in curves},
            KAPLAN_MEIER if reference is not None else "",
        ),
    }
    if "c_index" in withheld_of_survival(y, minimum_cell, horizon):
        figures = {name: Figure({}, {}, figure.reference) for name, figure in figures.items()}
    elif event_counts(y, horizon)["events"] < survival.FEWEST_EVENTS:
        unknown = dict.fromkeys(given, NOT_ESTIMABLE)
        figures = {name: Figure({}, unknown, figure.reference) for name, figure in figures.items()}
    return _compared(hospital, "c_index", figures, own, pooled, len(y), resamples, generator)


def _compared(
    hospital: str,
    metric: str,
    figures: Mapping[str, Figure],
    own: object | None,
    pooled: object | None,
    rows: int,
    resamples: int,
    generator: np.random.Generator,
) -> Comparison:
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


def _verdict(difference: Measurement, metric: str) -> Verdict:
    if difference.value is None:
        return "not estimable"
    if difference.low is None or difference.high is None:  # the same difference in each row: of the same model
        return "no clear difference" if difference.value == 0 else "not estimable"
    if difference.low <= 0 <= difference.high:
        return "no clear difference"
    return "helped" if (difference.high < 0) == (metric in LOWER_IS_BETTER) else "hurt"

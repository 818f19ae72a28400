"""Survival: how long a patient was followed, and whether that ended with the event."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from fedmed.evaluation import survival
from fedmed.evaluation.comparison import KAPLAN_MEIER, Comparison, Figure, compared
from fedmed.evaluation.curves import Curves, risk_groups
from fedmed.evaluation.disclosure import SURVIVAL_NAMES, event_counts, withheld_of_survival
from fedmed.evaluation.measurement import NOT_ESTIMABLE, RESAMPLES, Measurement, assemble
from fedmed.evaluation.names import figures_of
from fedmed.evaluation.survival import Forecast
from fedmed.privacy.cells import DEFAULT_MINIMUM
from fedmed.targets.kind import DURATION, TARGET, Form, Kind, Number

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from fedmed.targets.target import Target

_FIGURES = figures_of("survival")
_MANY_HORIZONS = 20


def _check(target: Target) -> None:
    if target.longest is not None and target.horizon is not None and target.longest < target.horizon:
        raise ValueError("`longest` must be at least the `horizon`")


def _label(target: Target, frame: pd.DataFrame) -> pd.DataFrame:
    event = frame[target.event].where(frame[target.event].isin([0, 1]), -1)
    return event.astype("int64").to_frame(TARGET).assign(**{DURATION: frame[target.time].astype("float64")})


def _numbers(target: Target) -> tuple[Number, ...]:
    """The follow-up: looked at up to the horizon, and plausible up to `longest`, or twenty horizons."""
    longest = target.longest or _MANY_HORIZONS * (target.horizon or 0.0)
    return (Number(DURATION, float(target.horizon or 1.0), longest, target.unit or ""),)


def _losses(form: Form) -> tuple[str, ...]:
    return ("cox",) if form.name == "cox" else ("discrete_hazard",)


def _says(logits: Tensor, form: Form) -> Tensor:
    if form.name == "cox":
        return logits.squeeze(1)
    from fedmed.targets.intervals import survival_curve  # here: a declaration is read without torch

    return survival_curve(logits)


def _answers(target: Target, form: Form) -> list[str]:
    return ["log relative hazard" if form.name == "cox" else "probability by the horizon"]


def _withheld(prediction: Any, labels: Any, minimum_cell: int, horizon: float | None = None) -> frozenset[str]:
    return withheld_of_survival(labels, minimum_cell, horizon)


def _values(prediction: Any, labels: Any, horizon: float | None = None) -> dict[str, float]:
    risk = survival.forecast(prediction, horizon).risk
    return {"c_index": survival.c_index(risk, labels, horizon)}


def _measure(
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
    counts = event_counts(y, horizon)
    unknown = set(_FIGURES) if counts["events"] < survival.FEWEST_EVENTS else set()
    if not said.times.size:
        unknown.add("integrated_brier")
    return assemble(
        SURVIVAL_NAMES,
        rows=len(y),
        shares={"events": lambda: Measurement(value=counts["events"])},
        statistics={name: partial(metric, said, y, horizon) for name, metric in _FIGURES.items()},
        hidden=withheld_of_survival(y, minimum_cell, horizon),
        unknown=unknown,
        resamples=resamples,
        generator=generator,
    )


def compare(
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
    :func:`~fedmed.evaluation.comparison.compare_classes`. The integrated Brier score is compared too, and with that of
    `reference`.

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
    return compared(hospital, "c_index", figures, own, pooled, len(y), resamples, generator)


def _curves(prediction: Any, labels: Any, minimum_cell: int, horizon: float | None = None) -> Curves:
    """The survival of the risk groups."""
    return Curves(risk_groups=risk_groups(prediction, labels, minimum_cell=minimum_cell, horizon=horizon))


def _with_baseline(prediction: Any, on_training: Callable[[], Any], labels: Any, horizon: float | None) -> Forecast:
    """A log relative hazard gets the baseline of the hospital's own training rows; survival curves need none."""
    if np.ndim(prediction) == 1 and horizon is not None:
        return survival.cox_forecast(prediction, on_training(), labels, survival.grid(horizon))
    return survival.forecast(prediction, horizon)


def _one_curve(labels: Any, rows: int, horizon: float | None) -> Forecast | None:
    """The Kaplan-Meier curve of the training rows, for every row."""
    if horizon is None:
        return None
    times = survival.grid(horizon)
    return Forecast(np.zeros(rows), times, np.tile(survival.kaplan_meier(labels, times), (rows, 1)))


SURVIVAL = Kind(
    needs=("time", "event", "unit", "horizon"),
    may=("longest", "prevalence"),
    check=_check,
    columns=(TARGET, DURATION),
    meanings=lambda target: {0: "censored", 1: target.name},
    label=_label,
    # A hospital where nobody was lost before the event may take part; one without events has nothing to tell.
    required=lambda target: (1,),
    numbers=_numbers,
    forms=("cox", "discrete"),
    outputs=lambda target, form: 1 if form.name == "cox" else form.intervals,
    losses=_losses,
    shifts=lambda form: form.name != "cox",  # a constant cancels out of a relative hazard
    says=_says,
    answers=_answers,
    answer=lambda prediction, form: prediction if form.name == "cox" else 1 - prediction[:, -1],
    decided=lambda target, given: None,
    names=lambda classes: SURVIVAL_NAMES,
    validated=("c_index",),
    headline=("c_index", "integrated_brier"),
    drawn=("c_index", "integrated_brier"),
    told_curves=("risk_groups",),
    withheld=_withheld,
    values=_values,
    measure=_measure,
    compare=compare,
    curves=_curves,
    complete=_with_baseline,
    reference=_one_curve,
    trainable=lambda labels: bool(np.any(np.asarray(labels)[:, 1] == 1)),
    classes=lambda labels, classes, horizon: event_counts(labels, horizon),
    predicts="the risk of",
    explained=lambda target: f"{target.name}, within {target.horizon:g} {target.unit}",
)

"""The final test at a hospital: every model on the same rows, beside what the hospital could do alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fedmed.aggregation.statistics import column_sums, pool_statistics
from fedmed.errors import MessageRefused
from fedmed.evaluation.fairness import of_subgroups
from fedmed.evaluation.measurement import Measurement
from fedmed.models.bundle import outputs, predictions
from fedmed.models.networks import initial_weights
from fedmed.seeds import numpy_generator, torch_generator
from fedmed.site.desk import Desk, Examples, SiteSession
from fedmed.site.personal import keep_own
from fedmed.site.request import Request, Told
from fedmed.targets.kind import Prediction, some_rows
from fedmed.targets.table import KINDS
from fedmed.training.alone import train_alone
from fedmed.weights import Weights
from fedmed.wire.messages import SiteEvaluation


def evaluate(request: Request) -> Told:
    """Measure every model on the hospital's test rows.

    `federated` is the model as this hospital uses it, with its own shift of the intercept, and `global` the same
    weights without; small cells are suppressed.

    Raises:
        MessageRefused: if the federated model is not among those to be measured.
    """
    question, desk = request.question, request.desk
    if "federated" not in question.models:
        raise MessageRefused(f"{request.home.name}: expected the federated model among those to evaluate")
    home, session = request.home, request.session
    plan, target = desk.plan, desk.plan.cohort.target
    kind = KINDS[target.kind]
    labels = desk.examples["test"].labels.numpy()
    models, kept = {name: request.weights(name) for name in question.models}, request.kept().personal
    says = {name: _forecast(desk, weights, desk.examples) for name, weights in models.items()}
    shared = models["federated"]
    own_part = desk.own(shared, kept)
    keep_own(home, question.models["federated"].sha256, shared, own_part)
    if own_part.shift or any(own_part.state[name] is not shared[name] for name in shared):
        says["global"] = says["federated"]
        says["federated"] = _forecast(desk, own_part.state, desk.examples, own_part.shift)
    own = train_own(session, desk) if question.own else None
    if own is not None:
        says["own"] = own
    options = {"minimum_cell": request.minimum_cell, "resamples": question.resamples, "horizon": target.horizon}
    measured = {
        name: kind.measure(
            said, labels, **options, generator=numpy_generator(plan.training.seed, home.name, "bootstrap")
        )
        for name, said in says.items()
    }
    if "calibration_intercept" in measured.get("global", {}):
        # With the slope fixed at 1, the two models' calibration intercepts differ by the shift, which stays here.
        measured["global"]["calibration_intercept"] = Measurement(reason="suppressed")
    comparison = kind.compare(
        home.name,
        labels,
        federated=says["federated"],
        own=own,
        reference=kind.reference(desk.examples["train"].labels.numpy(), len(labels), target.horizon),
        pooled=says.get("pooled"),
        **options,
        generator=numpy_generator(plan.training.seed, home.name, "comparison"),
    )
    return Told(
        request.reply(
            SiteEvaluation,
            models={name: payload.sha256 for name, payload in question.models.items()},
            measurements=measured,
            comparison=comparison,
            curves=kind.curves(says["federated"], labels, request.minimum_cell, target.horizon),
            subgroups=_subgroups(request, says["federated"], tuple(measured["federated"])),
        )
    )


def train_own(session: SiteSession, desk: Desk) -> Prediction | None:
    """What the hospital's own model says of its test rows.

    None at a hospital whose training rows alone teach nothing: all of one class, or without an event.
    """
    plan, kind = desk.plan, KINDS[desk.plan.cohort.target.kind]
    if not kind.trainable(desk.examples["train"].labels.numpy()):
        return None
    sums = column_sums(session.tables["train"], session.manifest.cohort, minimum_cell=1)
    examples = session.encode(pool_statistics([sums], session.manifest.cohort))
    start = initial_weights(desk.network, torch_generator(plan.training.seed, "start"))
    features, labels = examples["train"]
    problem = desk.problem()._replace(features=features, labels=labels)
    generator = torch_generator(plan.training.seed, session.home.name, "alone")
    best = train_alone(problem, examples["validation"], start, generator)
    return _forecast(desk, best.state, examples)


def _forecast(
    desk: Desk, state: Weights, examples: Mapping[str, Examples], shift: tuple[float, ...] = ()
) -> Prediction:
    """What a model says of the test rows, with what the hospital's training rows add to it (a Cox model's baseline)."""
    plan, target = desk.plan, desk.plan.cohort.target

    def of(split: str) -> np.ndarray:
        told = outputs(desk.network, state, examples[split].features)
        return predictions(told, target, plan.network, shift or 0.0)

    train = examples["train"].labels.numpy()
    return KINDS[target.kind].complete(of("test"), lambda: of("train"), train, target.horizon)


def _subgroups(
    request: Request, said: Prediction, names: tuple[str, ...]
) -> dict[str, dict[str, dict[str, Measurement]]]:
    """Declared column → category → the federated model's measurements on the test rows of that category."""
    session, desk = request.session, request.desk
    plan, target = desk.plan, desk.plan.cohort.target
    kind, labels = KINDS[target.kind], desk.examples["test"].labels.numpy()

    def measure(column: str, rows: NDArray[np.bool_]) -> dict[str, Measurement]:
        return kind.measure(
            some_rows(said, rows),
            labels[rows],
            minimum_cell=request.minimum_cell,
            resamples=request.question.resamples,
            horizon=target.horizon,
            generator=numpy_generator(plan.training.seed, session.home.name, "subgroups", column),
        )

    return {
        column: of_subgroups(
            list(session.tables["test"][column]),
            list(plan.cohort.columns[column].categories or ()),
            classes=lambda rows: kind.classes(labels[rows], target.classes_count, target.horizon),
            measure=partial(measure, column),
            names=names,
            minimum_cell=request.minimum_cell,
        )
        for column in plan.cohort.subgroups
    }

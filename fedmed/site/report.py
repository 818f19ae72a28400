"""The final test at a hospital: every model on the same rows, beside what the hospital could do alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedmed.aggregation.statistics import column_sums, pool_statistics
from fedmed.evaluation.fairness import of_subgroups
from fedmed.evaluation.kinds import KINDS, Prediction, some_rows
from fedmed.evaluation.measurement import Measurement
from fedmed.models.bundle import outputs, predictions
from fedmed.models.networks import initial_weights
from fedmed.seeds import numpy_generator, torch_generator
from fedmed.site.home import SiteHome
from fedmed.site.personal import keep_own
from fedmed.site.session import Desk, Examples, SiteSession, open_session
from fedmed.training.alone import train_alone
from fedmed.weights import Weights
from fedmed.wire.messages import Invitation, TestReport


def report(
    home: SiteHome,
    invitation: Invitation,
    desk: Desk,
    models: Mapping[str, Mapping[str, Tensor]],
    kept: Mapping[str, Tensor],
) -> TestReport:
    """Measure every model on the hospital's test rows.

    Args:
        home: the hospital.
        invitation: names the models, the minimum cell, the number of resamples, and whether the hospital's own model
            is trained.
        desk: the session under the run's plan.
        models: name → weights; `federated`, and `pooled` where there is one.
        kept: the tensors that the hospital has of its own.

    Returns:
        The report, in which small cells are suppressed. `federated` is the model as this hospital uses it, with its
        own shift of the intercept, and `global` the same weights without.
    """
    plan, target = desk.plan, desk.plan.cohort.target
    session, kind = open_session(home), KINDS[target.kind]
    labels = desk.examples["test"].labels.numpy()
    says = {name: _forecast(desk, weights, desk.examples) for name, weights in models.items()}
    shared = models["federated"]
    own_part = desk.own(shared, kept)
    keep_own(home, invitation.models["federated"].sha256, shared, own_part)
    if own_part.shift or any(own_part.state[name] is not shared[name] for name in shared):
        says["global"] = says["federated"]
        says["federated"] = _forecast(desk, own_part.state, desk.examples, own_part.shift)
    own = train_own(session, desk) if invitation.own else None
    if own is not None:
        says["own"] = own
    options = {"minimum_cell": invitation.minimum_cell, "resamples": invitation.resamples, "horizon": target.horizon}
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
    return TestReport(
        run=invitation.run,
        round=invitation.round,
        sender=home.name,
        models={name: payload.sha256 for name, payload in invitation.models.items()},
        measurements=measured,
        comparison=comparison,
        curves=kind.curves(says["federated"], labels, invitation.minimum_cell, target.horizon),
        subgroups=_subgroups(session, desk, says["federated"], invitation, tuple(measured["federated"])),
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
    session: SiteSession, desk: Desk, said: Prediction, invitation: Invitation, names: tuple[str, ...]
) -> dict[str, dict[str, dict[str, Measurement]]]:
    """Declared column → category → the federated model's measurements on the test rows of that category."""
    plan, target = desk.plan, desk.plan.cohort.target
    kind, labels = KINDS[target.kind], desk.examples["test"].labels.numpy()

    def measure(column: str, rows: NDArray[np.bool_]) -> dict[str, Measurement]:
        return kind.measure(
            some_rows(said, rows),
            labels[rows],
            minimum_cell=invitation.minimum_cell,
            resamples=invitation.resamples,
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
            minimum_cell=invitation.minimum_cell,
        )
        for column in plan.cohort.subgroups
    }

"""The final test at a hospital: every model on the same rows, beside what the hospital could do alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fedmed.aggregation.statistics import column_sums, pool_statistics
from fedmed.data.cohort import TARGET
from fedmed.evaluation.comparison import compare
from fedmed.evaluation.curves import calibration_curve, roc_curve
from fedmed.evaluation.measurement import Measurement, measure
from fedmed.exchange.messages import Invitation, TestReport
from fedmed.models.bundle import outputs, predictions
from fedmed.models.networks import initial_weights
from fedmed.seeds import numpy_generator, torch_generator
from fedmed.site.home import SiteHome
from fedmed.site.memory import last_turn
from fedmed.site.personal import keep_own
from fedmed.site.session import Desk, SiteSession, open_session
from fedmed.training.alone import train_alone
from fedmed.weights import Weights


def report(
    home: SiteHome, invitation: Invitation, desk: Desk, models: Mapping[str, Mapping[str, Tensor]]
) -> TestReport:
    """Measure every model on the hospital's test rows.

    Args:
        home: the hospital.
        invitation: names the models, the minimum cell and the number of resamples.
        desk: the session under the run's plan.
        models: name → weights; `federated`, and `pooled` where there is one.

    Returns:
        The report, in which small cells are suppressed. `federated` is the model as this hospital uses it, with its
        own shift of the intercept, and `global` the same weights without.
    """
    session = open_session(home)
    label = session.tables["test"][TARGET].to_numpy()
    features = desk.examples["test"].features
    says = {name: _predict(desk, weights, features) for name, weights in models.items()}
    shared = models["federated"]
    own_part = desk.own(shared, last_turn(home, desk.plan.run, invitation.round).personal)
    keep_own(home, invitation.models["federated"].sha256, shared, own_part)
    if own_part.shift or any(own_part.state[name] is not shared[name] for name in shared):
        says["global"] = says["federated"]
        says["federated"] = _predict(desk, own_part.state, features, own_part.shift)
    own, majority = train_own(session, desk)
    if own is not None:
        says["own"] = own
    seed = desk.plan.training.seed
    options = {"minimum_cell": invitation.minimum_cell, "resamples": invitation.resamples}
    measured = {
        name: measure(prediction, label, **options, generator=numpy_generator(seed, home.name, "bootstrap"))
        for name, prediction in says.items()
    }
    if "global" in measured:
        # With the slope fixed at 1, the two models' calibration intercepts differ by the shift, which stays here.
        measured["global"]["calibration_intercept"] = Measurement(reason="suppressed")
    comparison = compare(
        home.name,
        label,
        federated=says["federated"],
        own=own,
        majority=majority,
        pooled=says.get("pooled"),
        **options,
        generator=numpy_generator(seed, home.name, "comparison"),
    )
    roc = roc_curve(says["federated"], label, minimum_cell=invitation.minimum_cell)
    calibration = calibration_curve(says["federated"], label, minimum_cell=invitation.minimum_cell)
    return TestReport(
        run=invitation.run,
        round=invitation.round,
        sender=home.name,
        models={name: payload.sha256 for name, payload in invitation.models.items()},
        measurements=measured,
        comparison=comparison,
        roc=roc,
        calibration=calibration,
    )


def train_own(session: SiteSession, desk: Desk) -> tuple[np.ndarray | None, int]:
    """The hospital's own model's probabilities on its test rows, and its majority class in training.

    A hospital whose training rows are of one class can train no model of its own.
    """
    training_labels = session.tables["train"][TARGET]
    majority = int(training_labels.mean() >= 0.5)
    if training_labels.nunique() < 2:
        return None, majority
    plan = desk.plan
    sums = column_sums(session.tables["train"], session.manifest.cohort, minimum_cell=1)
    examples = session.encode(pool_statistics([sums], session.manifest.cohort))
    start = initial_weights(desk.network, torch_generator(plan.training.seed, "start"))
    features, labels = examples["train"]
    problem = desk.problem()._replace(features=features, labels=labels)
    generator = torch_generator(plan.training.seed, session.home.name, "alone")
    best = train_alone(problem, examples["validation"], start, generator)
    return _predict(desk, best.state, examples["test"].features), majority


def _predict(desk: Desk, state: Weights, features: Tensor, shift: tuple[float, ...] = ()) -> np.ndarray:
    plan = desk.plan
    return predictions(outputs(desk.network, state, features), plan.cohort.target, plan.network, shift or 0.0)

"""How a hospital answers: one function a purpose, as :mod:`fedmed.wire.purposes` names them."""

from __future__ import annotations

import time

import torch

from fedmed.aggregation.statistics import column_sums
from fedmed.errors import MessageRefused, VaultError
from fedmed.models.bundle import outputs, predictions
from fedmed.site.admission import examine_partition
from fedmed.site.request import Request, Told, to_keep
from fedmed.strategies.client import Given, sent_vector, take_turn
from fedmed.targets.table import KINDS
from fedmed.weights import to_bytes
from fedmed.wire.messages import Admission, Score, StageAnswer, Statistics, Update
from fedmed.wire.post import reference

DAY = 86_400


def validate(request: Request) -> Told:
    """Hold the partition against the contract. What does not open takes no part; the hospital's log says why.

    A validation is where hospitals come by regularly: bodies that were kept for as long as declared go here.
    """
    request.outbox.drop_bodies(time.time() - DAY * request.options.keep_bodies)
    try:
        verdict, fingerprint, rows = examine_partition(request.home, request.minimum_cell)
    except VaultError:
        return _quarantined(request, "partition: opens under the hospital's key", None)
    if fingerprint != request.question.fingerprint:
        return _quarantined(request, "partition: the one that its receipt names", fingerprint)
    return Told(
        request.reply(
            Admission,
            admitted=verdict.admitted,
            failed=verdict.failed,
            expectations=verdict.expectations,
            fingerprint=fingerprint,
            rows=rows,
        )
    )


def _quarantined(request: Request, failed: str, fingerprint: str | None) -> Told:
    return Told(
        request.reply(Admission, admitted=False, failed=(failed,), expectations=0, fingerprint=fingerprint, rows={})
    )


def statistics(request: Request) -> Told:
    """The sums from which means and deviations over all hospitals follow."""
    session = request.session
    payload = to_bytes({"sums": column_sums(session.tables["train"], session.manifest.cohort, request.minimum_cell)})
    return Told(request.reply(Statistics, payload=reference(payload)), payload)


def train(request: Request) -> Told:
    """Train on the hospital's own rows, and send what the plan's stages make of the change."""
    desk, site = request.desk, request.home.name
    _expect_models(request, {"federated", "memory"} if desk.how.strategy.shares_memory else {"federated"})
    rows = len(desk.examples["train"].labels)
    if rows < request.minimum_cell:
        raise MessageRefused(f"{site}: fewer training rows than the minimum cell; it may not tell how many")
    if rows != desk.plan.rows[site]:
        raise MessageRefused(f"{site}: by the plan it has {desk.plan.rows[site]} training rows, which it has not")
    weight = desk.plan.weights[site]
    if weight > desk.how.strategy.weigh(rows):
        raise MessageRefused(f"{site}: by the plan it weighs {weight}, more than its rows give it")
    base = request.weights("federated")
    given = Given(request.question.round, base, request.shared_memory(base), request.kept())
    sent, kept = take_turn(desk.how, desk.problem(), site, given)
    payload = to_bytes({"update": sent_vector(desk.how, sent, base, request.context())})
    message = request.reply(
        Update,
        plan=desk.plan.digest,
        base=request.question.models["federated"].sha256,
        weight=weight,
        payload=reference(payload),
    )
    return Told(message, payload, to_keep(kept))


def stage(request: Request) -> Told:
    """Answer a question of a stage of the plan, and keep what only this hospital may know of it."""
    how, about = request.desk.how, request.question.about
    asks = dict([*how.asks("before"), *how.asks("after")])
    if about not in asks:
        raise MessageRefused(f"{request.home.name}: the plan has no stage with the question {about!r}")
    reply = asks[about].answer(request.context())
    return Told(request.reply(StageAnswer, payload=reference(reply.told)), reply.told, reply.kept)


def score(request: Request) -> Told:
    """Measure the round's model on the validation rows, as the hospital would use it."""
    desk, target = request.desk, request.plan.cohort.target
    _expect_models(request, {"federated"})
    examples = desk.examples["validation"]
    own = desk.own(request.weights("federated"), request.kept().personal)
    told = outputs(desk.network, own.state, examples.features).double() + torch.tensor(
        own.shift or (0.0,), dtype=torch.float64
    )
    figures = KINDS[target.kind].round_figures(
        predictions(told, target, request.plan.network),
        examples.labels.numpy(),
        desk.likelihood(told, examples.labels.double()).item(),
        request.minimum_cell,
        target.horizon,
    )
    return Told(request.reply(Score, model=request.question.models["federated"].sha256, **figures._asdict()))


def _expect_models(request: Request, expected: set[str]) -> None:
    if set(request.question.models) != expected:
        raise MessageRefused(f"{request.home.name}: expected {sorted(expected)}, got {sorted(request.question.models)}")

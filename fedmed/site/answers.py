"""How a hospital answers each purpose of an invitation: one function a purpose, one door through which all leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from fedmed.aggregation.statistics import column_sums
from fedmed.aggregation.strategies import STRATEGIES, encode_update
from fedmed.errors import MessageRefused, VaultError
from fedmed.evaluation.disclosure import withheld
from fedmed.evaluation.metrics import accuracy, auroc, brier, log_loss
from fedmed.exchange.base import Exchange, fetch, reference
from fedmed.exchange.messages import (
    COORDINATOR,
    EVERYONE,
    Address,
    Admission,
    Invitation,
    Message,
    Payload,
    Plan,
    Purpose,
    Receipt,
    RoundEvaluation,
    Statistics,
    Update,
    encode,
)
from fedmed.models.bundle import probabilities
from fedmed.seeds import torch_generator
from fedmed.site.admission import examine_partition
from fedmed.site.home import SiteHome
from fedmed.site.report import report
from fedmed.site.session import Desk, open_session
from fedmed.training.local import train_locally
from fedmed.weights import from_bytes, layout_of, sha256, to_bytes


class Answer(NamedTuple):
    """A message and the payload that it names."""

    message: Message
    payload: bytes | None = None


def answer(home: SiteHome, invitation: Invitation, exchange: Exchange) -> Receipt:
    """Do what an invitation asks and post the answer: the one way by which a message leaves a hospital.

    Args:
        home: the hospital's folder.
        invitation: addressed to this hospital.
        exchange: where models are fetched and the answer is posted.

    Returns:
        A receipt without data.

    Raises:
        MessageRefused: if the invitation is for another hospital, plan, model or declaration.
        VaultError: if the hospital's data do not open.

    Guarantees:
        Idempotent: an answer that was posted before is not computed again; nothing differs for whoever reads it.
    """
    if invitation.recipient != home.name:
        raise MessageRefused(f"{home.name}: the invitation is addressed to {invitation.recipient}")
    # The hospital's own floor counts, if it is higher than what the coordinator asks for.
    cell = max(invitation.minimum_cell, home.options().minimum_cell)
    invitation = invitation.model_copy(update={"minimum_cell": cell})
    started = time.perf_counter()
    topic = ANSWER_TOPICS[invitation.purpose]
    earlier = exchange.find(Address(invitation.run, invitation.round, topic, home.name, COORDINATOR))
    if earlier is not None:
        _same_question(earlier, invitation, home)
        message: Message = earlier
    else:
        if invitation.purpose != "validate" and open_session(home).manifest.fingerprint != invitation.fingerprint:
            raise MessageRefused(
                f"{home.name}: the partition is not the one with which it was admitted; validate it again"
            )
        message, payload = ANSWERS[invitation.purpose](home, invitation, exchange)
        exchange.post(message, payload)
    data = encode(message)
    return Receipt(
        site=home.name,
        round=invitation.round,
        topic=topic,
        rows=getattr(message, "rows", None) if topic != "admission" else None,
        loss=getattr(message, "loss", getattr(message, "log_loss", None)),
        seconds=round(time.perf_counter() - started, 4),
        size=len(data) + (message.payload.size if message.payload else 0),
        sha256=message.payload.sha256 if message.payload else sha256(data),
        reused=earlier is not None,
    )


def _validate(home: SiteHome, invitation: Invitation, exchange: Exchange) -> Answer:
    try:
        verdict, fingerprint, rows = examine_partition(home, invitation.minimum_cell)
    except VaultError:
        # Fails closed: what does not open takes no part. The hospital's own log has the reason in full.
        failed: tuple[str, ...] = ("partition: opens under the hospital's key",)
        return Answer(
            _admission(home, invitation, admitted=False, failed=failed, expectations=0, fingerprint=None, rows={})
        )
    if fingerprint != invitation.fingerprint:
        failed = ("partition: the one that its receipt names",)
        return Answer(
            _admission(
                home, invitation, admitted=False, failed=failed, expectations=0, fingerprint=fingerprint, rows={}
            )
        )
    return Answer(
        _admission(
            home,
            invitation,
            admitted=verdict.admitted,
            failed=verdict.failed,
            expectations=verdict.expectations,
            fingerprint=fingerprint,
            rows=rows,
        )
    )


def _admission(home: SiteHome, invitation: Invitation, **content: Any) -> Admission:
    return Admission(run=invitation.run, round=invitation.round, sender=home.name, **content)


def _statistics(home: SiteHome, invitation: Invitation, exchange: Exchange) -> Answer:
    session = open_session(home)
    sums = column_sums(session.tables["train"], session.manifest.cohort, invitation.minimum_cell)
    payload = to_bytes({"sums": sums})
    message = Statistics(run=invitation.run, round=invitation.round, sender=home.name, payload=reference(payload))
    return Answer(message, payload)


def _train(home: SiteHome, invitation: Invitation, exchange: Exchange) -> Answer:
    desk, base, base_digest = _start(home, invitation, exchange)
    plan = desk.plan
    examples = desk.examples["train"]
    generator = torch_generator(plan.training.seed, invitation.round, home.name, "batches")
    result = train_locally(desk.network, base, examples.features, examples.labels, plan.training, generator)
    rows = len(examples.labels)
    if rows < invitation.minimum_cell:
        raise MessageRefused(f"{home.name}: fewer training rows than the minimum cell; it may not tell how many")
    weight = STRATEGIES[plan.aggregation.strategy](rows)
    payload = to_bytes({"update": encode_update(result.weights, base, weight, plan.grid)})
    message = Update(
        run=invitation.run,
        round=invitation.round,
        sender=home.name,
        plan=plan.digest,
        base=base_digest,
        weight=weight,
        rows=rows,
        loss=result.loss,
        payload=reference(payload),
    )
    return Answer(message, payload)


def _evaluate(home: SiteHome, invitation: Invitation, exchange: Exchange) -> Answer:
    desk, weights, digest = _start(home, invitation, exchange)
    examples = desk.examples["validation"]
    label = examples.labels.numpy()
    probability = probabilities(desk.network, weights, examples.features, desk.shift(weights))
    hidden = withheld(probability, label, invitation.minimum_cell)
    told = {
        metric.__name__: None if metric.__name__ in hidden else round(metric(probability, label), 6)
        for metric in (log_loss, accuracy, auroc, brier)
    }
    message = RoundEvaluation(
        run=invitation.run,
        round=invitation.round,
        sender=home.name,
        model=digest,
        rows=None if "rows" in hidden else len(label),
        **told,
    )
    return Answer(message)


def _test(home: SiteHome, invitation: Invitation, exchange: Exchange) -> Answer:
    desk = _desk(home, invitation, exchange)
    if "federated" not in invitation.models:
        raise MessageRefused(f"{home.name}: expected the federated model among those to test")
    models = {name: _weights(desk, payload, exchange) for name, payload in invitation.models.items()}
    return Answer(report(home, invitation, desk, models))


def _start(home: SiteHome, invitation: Invitation, exchange: Exchange) -> tuple[Desk, dict[str, Tensor], str]:
    desk = _desk(home, invitation, exchange)
    if set(invitation.models) != {"federated"}:
        raise MessageRefused(f"{home.name}: expected one model, the federated one, got {sorted(invitation.models)}")
    model = invitation.models["federated"]
    return desk, _weights(desk, model, exchange), model.sha256


def _desk(home: SiteHome, invitation: Invitation, exchange: Exchange) -> Desk:
    plan = fetch(exchange, Address(invitation.run, 0, "plan", COORDINATOR, EVERYONE), Plan)
    if plan.digest != invitation.plan:
        raise MessageRefused(
            f"{home.name}: the invitation names another plan than the one posted for run {invitation.run}"
        )
    return open_session(home).desk(plan)


def _weights(desk: Desk, payload: Payload, exchange: Exchange) -> dict[str, Tensor]:
    return from_bytes(exchange.payload(payload), layout_of(dict(desk.network.named_parameters())))


def _same_question(earlier: Message, invitation: Invitation, home: SiteHome) -> None:
    asked = {model.sha256 for model in invitation.models.values()}
    if isinstance(earlier, Update):
        answered: set[str] = {earlier.base}
    elif isinstance(earlier, RoundEvaluation):
        answered = {earlier.model}
    else:
        return
    if answered != asked:
        raise MessageRefused(f"{home.name}: round {invitation.round} was answered for another model already")


ANSWERS: dict[Purpose, Callable[[SiteHome, Invitation, Exchange], Answer]] = {
    "validate": _validate,
    "statistics": _statistics,
    "train": _train,
    "evaluate": _evaluate,
    "test": _test,
}
ANSWER_TOPICS: dict[Purpose, str] = {
    "validate": "admission",
    "statistics": "statistics",
    "train": "update",
    "evaluate": "evaluation",
    "test": "report",
}

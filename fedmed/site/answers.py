"""How a hospital answers each purpose of an invitation: one function a purpose, one door through which all leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedmed.aggregation.codec import encode_update, travelling
from fedmed.aggregation.statistics import column_sums
from fedmed.errors import MessageRefused, VaultError
from fedmed.evaluation.kinds import KINDS
from fedmed.exchange.base import Exchange, fetch, reference
from fedmed.models.bundle import outputs, predictions
from fedmed.models.networks import state_of
from fedmed.site.admission import examine_partition
from fedmed.site.description import describe
from fedmed.site.home import SiteHome
from fedmed.site.memory import forget_old_runs, keep_turn, last_turn
from fedmed.site.report import report
from fedmed.site.session import Desk, open_session
from fedmed.strategies.base import Memory
from fedmed.strategies.client import take_turn
from fedmed.weights import Weights, from_bytes, layout_of, sha256, to_bytes
from fedmed.wire.messages import (
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
        loss=getattr(message, "loss", None),
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


def _describe(home: SiteHome, invitation: Invitation, exchange: Exchange) -> Answer:
    return Answer(*describe(home, invitation))


def _statistics(home: SiteHome, invitation: Invitation, exchange: Exchange) -> Answer:
    session = open_session(home)
    forget_old_runs(home, invitation.run)
    sums = column_sums(session.tables["train"], session.manifest.cohort, invitation.minimum_cell)
    payload = to_bytes({"sums": sums})
    message = Statistics(run=invitation.run, round=invitation.round, sender=home.name, payload=reference(payload))
    return Answer(message, payload)


def _train(home: SiteHome, invitation: Invitation, exchange: Exchange) -> Answer:
    desk, base, base_digest = _start(home, invitation, exchange)
    plan, strategy = desk.plan, desk.strategy
    rows = len(desk.examples["train"].labels)
    if rows < invitation.minimum_cell:
        raise MessageRefused(f"{home.name}: fewer training rows than the minimum cell; it may not tell how many")
    weight = plan.weights[home.name]
    if weight > strategy.weigh(rows):
        raise MessageRefused(f"{home.name}: by the plan it weighs {weight}, more than its rows give it")
    sent, kept = take_turn(
        strategy,
        plan.aggregation,
        desk.problem(),
        home.name,
        invitation.round,
        base,
        _shared(desk, invitation, base, exchange),
        last_turn(home, exchange, plan.run, invitation.round - 1),
        desk.parts,
    )
    update = encode_update(sent, *travelling(base, desk.parts), strategy, weight, plan.grid)
    payload = to_bytes({"update": update})
    message = Update(
        run=invitation.run,
        round=invitation.round,
        sender=home.name,
        plan=plan.digest,
        base=base_digest,
        weight=weight,
        rows=rows,
        loss=sent.fitted.loss,
        payload=reference(payload),
    )
    # First: what was posted is not computed again.
    keep_turn(home, plan.run, invitation.round, message.payload.sha256, kept)
    return Answer(message, payload)


def _evaluate(home: SiteHome, invitation: Invitation, exchange: Exchange) -> Answer:
    desk, weights, digest = _start(home, invitation, exchange)
    examples = desk.examples["validation"]
    target = desk.plan.cohort.target
    own = desk.own(weights, last_turn(home, exchange, desk.plan.run, invitation.round).personal)
    told = outputs(desk.network, own.state, examples.features).double() + torch.tensor(
        own.shift or (0.0,), dtype=torch.float64
    )
    figures = KINDS[target.kind].round_figures(
        predictions(told, target, desk.plan.network),
        examples.labels.numpy(),
        desk.likelihood(told, examples.labels.double()).item(),
        invitation.minimum_cell,
        target.horizon,
    )
    message = RoundEvaluation(
        run=invitation.run, round=invitation.round, sender=home.name, model=digest, **figures._asdict()
    )
    return Answer(message)


def _test(home: SiteHome, invitation: Invitation, exchange: Exchange) -> Answer:
    desk = _desk(home, invitation, exchange)
    if "federated" not in invitation.models:
        raise MessageRefused(f"{home.name}: expected the federated model among those to test")
    models = {name: _weights(desk, payload, exchange) for name, payload in invitation.models.items()}
    kept = last_turn(home, exchange, invitation.run, invitation.round).personal
    return Answer(report(home, invitation, desk, models, kept))


def _start(home: SiteHome, invitation: Invitation, exchange: Exchange) -> tuple[Desk, dict[str, Tensor], str]:
    desk = _desk(home, invitation, exchange)
    expected = {"federated", "memory"} if _wants_memory(desk, invitation) else {"federated"}
    if set(invitation.models) != expected:
        raise MessageRefused(f"{home.name}: expected {sorted(expected)}, got {sorted(invitation.models)}")
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
    return from_bytes(exchange.payload(payload), layout_of(state_of(desk.network)))


def _wants_memory(desk: Desk, invitation: Invitation) -> bool:
    return desk.strategy.shares_memory and invitation.purpose == "train"


def _shared(desk: Desk, invitation: Invitation, base: Weights, exchange: Exchange) -> Memory:
    """The server's memory, where the strategy shares it; what the strategy begins with tells how it must look."""
    if not _wants_memory(desk, invitation):
        return {}
    layout = layout_of(desk.strategy.init(travelling(base, desk.parts)[0], desk.plan.aggregation))
    return from_bytes(exchange.payload(invitation.models["memory"]), layout)


def _same_question(earlier: Message, invitation: Invitation, home: SiteHome) -> None:
    asked = {model.sha256 for model in invitation.models.values()}
    if isinstance(earlier, Update):
        answered: set[str] = {earlier.base}
    elif isinstance(earlier, RoundEvaluation):
        answered = {earlier.model}
    else:
        return
    if not answered <= asked:
        raise MessageRefused(f"{home.name}: round {invitation.round} was answered for another model already")


ANSWERS: dict[Purpose, Callable[[SiteHome, Invitation, Exchange], Answer]] = {
    "validate": _validate,
    "describe": _describe,
    "statistics": _statistics,
    "train": _train,
    "evaluate": _evaluate,
    "test": _test,
}
ANSWER_TOPICS: dict[Purpose, str] = {
    "validate": "admission",
    "describe": "description",
    "statistics": "statistics",
    "train": "update",
    "evaluate": "evaluation",
    "test": "report",
}

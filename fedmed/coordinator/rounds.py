"""One round as the coordinator sees it: invite, check and aggregate the updates, gather the evaluations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor

from fedmed.aggregation.strategies import STRATEGIES, aggregate
from fedmed.errors import ExchangeError, FedMedError, MessageRefused
from fedmed.exchange.base import Exchange, M, fetch, reference
from fedmed.exchange.messages import (
    COORDINATOR,
    EVERYONE,
    Address,
    GlobalModel,
    Invitation,
    Payload,
    Plan,
    Purpose,
    RoundEvaluation,
    Update,
)
from fedmed.models.networks import network_for, state_of
from fedmed.typed_yaml import Record
from fedmed.weights import Layout, Weights, from_bytes, layout_of, to_bytes


class SiteRound(Record):
    """One hospital in one round."""

    train_loss: float | None = None
    rows: int | None = None
    validation_loss: float | None = None
    validation_rows: int | None = None
    validation_accuracy: float | None = None
    validation_auroc: float | None = None
    validation_brier: float | None = None
    refused: str = ""


class RoundRecord(Record):
    """One round: its model, who took part, and what the hospitals said of it."""

    round: int
    model: Payload
    participants: tuple[str, ...]
    train_loss: float
    validation_loss: float | None
    sites: dict[str, SiteRound]


def model_of(run: str, number: int, exchange: Exchange) -> GlobalModel:
    """The global model after round `number`; 0 is the start."""
    return fetch(exchange, Address(run, number, "model", COORDINATOR, EVERYONE), GlobalModel)


def weights_of(plan: Plan, payload: Payload, exchange: Exchange) -> Weights:
    """A model's weights, fetched and checked."""
    return from_bytes(exchange.payload(payload), _layout(plan))


def invite(
    plan: Plan, number: int, purpose: Purpose, models: dict[str, Payload], minimum_cell: int, resamples: int = 0
) -> list[Invitation]:
    """One invitation a participant, in site order."""
    return [
        Invitation(
            run=plan.run,
            round=number,
            recipient=site,
            purpose=purpose,
            minimum_cell=minimum_cell,
            fingerprint=plan.fingerprints[site],
            plan=plan.digest,
            models=models,
            resamples=resamples,
        )
        for site in plan.participants
    ]


def aggregate_round(
    plan: Plan, number: int, answered: Iterable[str], exchange: Exchange
) -> tuple[GlobalModel, dict[str, str]]:
    """The next global model from the updates of those who answered.

    Args:
        plan: the run's plan.
        number: the round, from 1.
        answered: the sites whose update was posted.
        exchange: where the updates are, and where the model goes.

    Returns:
        The model's message, and site → reason for every update that was refused. If the round was aggregated before
        the run was cut short, it stays as it was: a hospital that has answered since took no part.

    Raises:
        MessageRefused: if no update could be used.

    Guarantees:
        An update is used only if it is on this round's model, under this plan, of the declared weight, shape and type.
    """
    earlier = _at(exchange, Address(plan.run, number, "model", COORDINATOR, EVERYONE), GlobalModel)
    late = {
        site: "answered after the round was aggregated"
        for site in answered
        if earlier and site not in earlier.participants
    }
    if earlier is not None:
        answered = earlier.participants
    base = model_of(plan.run, number - 1, exchange)
    updates, weights, refused = {}, {}, {}
    for site in sorted(answered):
        try:
            message = fetch(exchange, Address(plan.run, number, "update", site, COORDINATOR), Update)
            updates[site] = _checked_update(message, plan, base, exchange)
            weights[site] = message.weight
        except FedMedError as problem:
            refused[site] = str(problem)
            updates.pop(site, None)
    if not updates:
        raise MessageRefused(f"round {number}: no update could be used. " + "; ".join(refused.values()))
    start = weights_of(plan, base.payload, exchange)
    payload = to_bytes(aggregate(start, updates, weights, plan.grid))
    model = GlobalModel(run=plan.run, round=number, payload=reference(payload), participants=tuple(sorted(updates)))
    if earlier is not None and earlier != model:
        raise MessageRefused(
            f"round {number}: the model in the exchange is not the sum of its updates; start over with"
            " `fedmed run --force`"
        )
    exchange.post(model, payload)
    return model, {**refused, **late}


def record_round(plan: Plan, number: int, refused: dict[str, str], exchange: Exchange) -> RoundRecord:
    """What is known of a round after its evaluation."""
    model = model_of(plan.run, number, exchange)
    sites = {site: SiteRound(refused=reason) for site, reason in refused.items()}
    for site in plan.participants:
        took_part = site in model.participants
        update = _at(exchange, Address(plan.run, number, "update", site, COORDINATOR), Update) if took_part else None
        evaluation = _at(exchange, Address(plan.run, number, "evaluation", site, COORDINATOR), RoundEvaluation)
        if evaluation is not None and evaluation.model != model.payload.sha256:
            evaluation = None
        if site in refused or (update is None and evaluation is None):
            continue
        sites[site] = SiteRound(
            train_loss=update.loss if update else None,
            rows=update.rows if update else None,
            validation_loss=evaluation.log_loss if evaluation else None,
            validation_rows=evaluation.rows if evaluation else None,
            validation_accuracy=evaluation.accuracy if evaluation else None,
            validation_auroc=evaluation.auroc if evaluation else None,
            validation_brier=evaluation.brier if evaluation else None,
        )
    return RoundRecord(
        round=number,
        model=model.payload,
        participants=model.participants,
        train_loss=_mean([(s.train_loss, s.rows) for s in sites.values()]) or 0.0,
        validation_loss=_mean([(s.validation_loss, s.validation_rows) for s in sites.values()]),
        sites=dict(sorted(sites.items())),
    )


def choose_round(rounds: Sequence[RoundRecord]) -> RoundRecord:
    """The round with the least validation loss over all hospitals' validation rows; the earliest of equals.

    Where no hospital may tell its validation loss, the last round is chosen.

    Raises:
        ValueError: if there are no rounds.
    """
    if not rounds:
        raise ValueError("expected at least one round, got none")
    told = [(record.validation_loss, record.round, record) for record in rounds if record.validation_loss is not None]
    return min(told, key=lambda entry: entry[:2])[2] if told else rounds[-1]


def _at(exchange: Exchange, address: Address, kind: type[M]) -> M | None:
    """The message at an address, or None if there is none or it is not what it should be."""
    try:
        return fetch(exchange, address, kind)
    except ExchangeError:
        return None


def _checked_update(message: Update, plan: Plan, base: GlobalModel, exchange: Exchange) -> Tensor:
    where = f"{message.sender}, round {message.round}"
    if message.sender not in plan.participants:
        raise MessageRefused(f"{where}: no participant of run {plan.run}")
    if message.plan != plan.digest:
        raise MessageRefused(f"{where}: the update was made under another plan")
    if message.base != base.payload.sha256:
        raise MessageRefused(f"{where}: the update is on another model than the one that was sent")
    if message.weight != (agreed := plan.weights[message.sender]):
        raise MessageRefused(
            f"{where}: it weighs {message.weight}; by the rows it was admitted with it weighs {agreed}"
        )
    if message.weight != STRATEGIES[plan.aggregation.strategy](message.rows):
        raise MessageRefused(
            f"{where}: weight {message.weight} is not what {plan.aggregation.strategy} gives for its rows"
        )
    kind = "I32" if plan.grid.bits == 32 else "I64"
    values = sum(math.prod(layout.shape) for layout in _layout(plan).values())
    expected = {"update": Layout(kind, (values,))}
    update = from_bytes(exchange.payload(message.payload), expected)["update"]
    bound = plan.grid.limit * message.weight * 2.0**plan.grid.exponent + 0.5
    if float(update.double().abs().max()) > bound:
        raise MessageRefused(f"{where}: the update is larger than ±{plan.grid.limit:g} times its weight")
    return update


def _layout(plan: Plan) -> dict[str, Layout]:
    return layout_of(state_of(network_for(plan.cohort, plan.network)))


def _mean(parts: Sequence[tuple[float | None, int | None]]) -> float | None:
    told = [(value, rows) for value, rows in parts if value is not None and rows]
    return sum(value * rows for value, rows in told) / sum(rows for _, rows in told) if told else None

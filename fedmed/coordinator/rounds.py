"""One round as the coordinator sees it: invite, check and aggregate the updates, gather the evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

from torch import Tensor

from fedmed.aggregation.codec import SMALLER, blocks, travelling
from fedmed.coordinator.plan import post_memory
from fedmed.errors import ExchangeError, FedMedError, MessageRefused, SettingsError
from fedmed.evaluation.kinds import KINDS
from fedmed.exchange.base import Exchange, M, fetch, reference
from fedmed.models.networks import network_for, state_of
from fedmed.models.parts import Parts, parts_of
from fedmed.strategies.base import Memory, Strategy, Turn
from fedmed.strategies.fednova import accumulated
from fedmed.strategies.server import aggregate, server_rate
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import TrainingOptions
from fedmed.typed_yaml import Record
from fedmed.weights import Layout, Weights, from_bytes, layout_of, to_bytes
from fedmed.wire.messages import (
    COORDINATOR,
    EVERYONE,
    Address,
    GlobalModel,
    Invitation,
    Payload,
    Plan,
    Purpose,
    RoundEvaluation,
    ServerMemory,
    Update,
)


class SiteRound(Record):
    """One hospital in one round; `metrics` are of its validation rows, those that it may tell."""

    train_loss: float | None = None
    rows: int | None = None
    validation_loss: float | None = None
    validation_rows: int | None = None
    metrics: dict[str, float] = {}
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
    plan: Plan,
    number: int,
    purpose: Purpose,
    models: dict[str, Payload],
    minimum_cell: int,
    resamples: int = 0,
    sites: Sequence[str] | None = None,
    *,
    own: bool = True,
) -> list[Invitation]:
    """One invitation a participant, or one for each of `sites`, in their order."""
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
            own=own,
        )
        for site in (plan.participants if sites is None else sites)
    ]


def rounds_of(plan: Plan) -> int:
    """How many rounds the run has at most."""
    return STRATEGIES[plan.aggregation.strategy].rounds(plan.training.rounds)


def turns_of(plan: Plan, number: int) -> tuple[Turn, ...]:
    """Who trains in round `number`, and on the model of which round.

    Raises:
        SettingsError: if the recorded order of arrival does not reach so far.
    """
    options = plan.aggregation
    try:
        return STRATEGIES[options.strategy].schedule(plan.participants, number, plan.training.seed, options)
    except ValueError as problem:
        raise SettingsError(f"parameters: {problem}") from None


def invite_to_train(plan: Plan, number: int, minimum_cell: int, exchange: Exchange) -> list[Invitation]:
    """One invitation for everyone whose turn it is, in site order: the model to train on, and the shared memory."""
    invitations = []
    for turn in turns_of(plan, number):
        models = {"federated": model_of(plan.run, turn.base, exchange).payload}
        if STRATEGIES[plan.aggregation.strategy].shares_memory:
            address = Address(plan.run, turn.base, "memory", COORDINATOR, EVERYONE)
            models["memory"] = fetch(exchange, address, ServerMemory).payload
        invitations += invite(plan, number, "train", models, minimum_cell, sites=(turn.site,))
    return invitations


def stalled(losses: Sequence[float | None], patience: int) -> bool:
    """Whether the validation loss has not fallen for `patience` rounds; never where patience is 0 or no loss is told.

    >>> stalled([3.0, 1.0, 2.0, 1.5], 2), stalled([3.0, 1.0, 2.0], 2), stalled([1.0, 1.0], 0)
    (True, False, False)
    """
    told = [(loss, number) for number, loss in enumerate(losses, 1) if loss is not None]
    return bool(patience and told) and len(losses) - min(told)[1] >= patience


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
    desk = _Desk.of(plan)
    earlier = _at(exchange, Address(plan.run, number, "model", COORDINATOR, EVERYONE), GlobalModel)
    begun = earlier or _at(exchange, desk.memory_at(plan, number), ServerMemory)
    late = {
        site: "answered after the round was aggregated" for site in answered if begun and site not in begun.participants
    }
    if begun is not None:
        answered = begun.participants
    turns = {turn.site: turn for turn in turns_of(plan, number)}
    base = weights_of(plan, model_of(plan.run, number - 1, exchange).payload, exchange)
    updates, weights, refused = {}, {}, {}
    for site in sorted(answered):
        try:
            message = fetch(exchange, Address(plan.run, number, "update", site, COORDINATOR), Update)
            updates[site] = _checked_update(message, plan, turns, desk.size(base), exchange)
            weights[site] = message.weight
        except FedMedError as problem:
            refused[site] = str(problem)
            updates.pop(site, None)
    if not updates:
        raise MessageRefused(f"round {number}: no update could be used. " + "; ".join(refused.values()))
    options = plan.aggregation
    state, memory = aggregate(
        desk.strategy,
        options,
        base,
        _memory(plan, number - 1, desk, base, exchange),
        updates,
        weights,
        plan.grid,
        desk.parts,
        sites=len(plan.participants),
        rate=server_rate(desk.strategy, options, number, rounds_of(plan)),
        staleness={site: number - 1 - turns[site].base for site in updates},
        started={
            site: weights_of(plan, model_of(plan.run, turns[site].base, exchange).payload, exchange)
            for site in updates
            if turns[site].base != number - 1
        },
    )
    payload = to_bytes(state)
    participants = tuple(sorted(updates))
    model = GlobalModel(run=plan.run, round=number, payload=reference(payload), participants=participants)
    if earlier is not None and earlier != model:
        raise MessageRefused(
            f"round {number}: the model in the exchange is not the sum of its updates; start over with"
            " `fedmed run --force`"
        )
    # First: where there is a model, there is its memory.
    post_memory(plan.run, number, memory, desk.strategy, exchange, participants)
    exchange.post(model, payload)
    return model, {**refused, **late}


def record_round(plan: Plan, number: int, refused: dict[str, str], exchange: Exchange) -> RoundRecord:
    """What is known of a round after its evaluation."""
    model = model_of(plan.run, number, exchange)
    known = set(KINDS[plan.cohort.target.kind].validated)
    sites = {site: SiteRound(refused=reason) for site, reason in refused.items()}
    for site in plan.participants:
        took_part = site in model.participants
        update = _at(exchange, Address(plan.run, number, "update", site, COORDINATOR), Update) if took_part else None
        evaluation = _at(exchange, Address(plan.run, number, "evaluation", site, COORDINATOR), RoundEvaluation)
        if evaluation is not None and (
            evaluation.model != model.payload.sha256
            or evaluation.metrics.keys() - known
            or evaluation.rows not in (None, plan.validation_rows.get(site, evaluation.rows))
        ):
            evaluation = None  # of another model, with figures that nobody asked for, or on more rows than it has
        if site in refused or (update is None and evaluation is None):
            continue
        sites[site] = SiteRound(
            train_loss=update.loss if update else None,
            rows=update.rows if update else None,
            validation_loss=evaluation.loss if evaluation else None,
            validation_rows=evaluation.rows if evaluation else None,
            metrics=evaluation.metrics if evaluation else {},
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
    """The round with the least validation loss, see :func:`comparable_losses`; the earliest of equals.

    Where no hospital may tell its validation loss, the last round is chosen.

    Raises:
        ValueError: if there are no rounds.
    """
    if not rounds:
        raise ValueError("expected at least one round, got none")
    losses = comparable_losses(rounds)
    told = [(loss, record.round, record) for loss, record in zip(losses, rounds, strict=True) if loss is not None]
    return min(told, key=lambda entry: entry[:2])[2] if told else rounds[-1]


def comparable_losses(rounds: Sequence[RoundRecord]) -> list[float | None]:
    """Each round's mean validation loss over the rows of the hospitals that tell theirs in every round.

    A small hospital may tell its loss in one round and not in the next, as disclosure rules go by the predictions; the
    mean over whoever tells would then move although no model did. Where no hospital tells in every round, the mean is
    over whoever tells in each.
    """
    always = [
        site
        for site in (rounds[0].sites if rounds else ())
        if all((entry := record.sites.get(site)) and entry.validation_loss is not None for record in rounds)
    ]
    if not always:
        return [record.validation_loss for record in rounds]
    entries = [[record.sites[site] for site in always] for record in rounds]
    return [_mean([(entry.validation_loss, entry.validation_rows) for entry in round_]) for round_ in entries]


def _at(exchange: Exchange, address: Address, kind: type[M]) -> M | None:
    """The message at an address, or None if there is none or it is not what it should be."""
    try:
        return fetch(exchange, address, kind)
    except ExchangeError:
        return None


class _Desk(NamedTuple):
    """What of a plan a round needs: its strategy, and which tensors of the network travel."""

    strategy: Strategy
    parts: Parts

    @classmethod
    def of(cls, plan: Plan) -> Self:
        strategy = STRATEGIES[plan.aggregation.strategy]
        parts = parts_of(
            network_for(plan.cohort, plan.network),
            personal=plan.personal.layers,
            frozen=plan.training.frozen,
            keep_normalisation=strategy.keeps_normalisation,
        )
        return cls(strategy, parts)

    def memory_at(self, plan: Plan, number: int) -> Address:
        """Where the strategy's memory after round `number` stands, if it has one."""
        recipient = EVERYONE if self.strategy.shares_memory else COORDINATOR
        return Address(plan.run, number, "memory", COORDINATOR, recipient)

    def size(self, base: Weights) -> int:
        """How many integers an update has."""
        return sum(blocks(*travelling(base, self.parts), self.strategy))


def _memory(plan: Plan, number: int, desk: _Desk, base: Weights, exchange: Exchange) -> Memory:
    """What the strategy kept after round `number`."""
    layout = layout_of(desk.strategy.init(travelling(base, desk.parts)[0], plan.aggregation))
    if not layout:
        return {}
    message = fetch(exchange, desk.memory_at(plan, number), ServerMemory)
    return from_bytes(exchange.payload(message.payload), layout)


def _checked_update(message: Update, plan: Plan, turns: Mapping[str, Turn], values: int, exchange: Exchange) -> Tensor:
    where = f"{message.sender}, round {message.round}"
    if message.sender not in plan.participants:
        raise MessageRefused(f"{where}: no participant of run {plan.run}")
    if message.sender not in turns:
        raise MessageRefused(f"{where}: it was not invited to this round")
    base = model_of(plan.run, turns[message.sender].base, exchange)
    if message.plan != plan.digest:
        raise MessageRefused(f"{where}: the update was made under another plan")
    if message.base != base.payload.sha256:
        raise MessageRefused(f"{where}: the update is on another model than the one that was sent")
    if message.weight != (agreed := plan.weights[message.sender]):
        raise MessageRefused(
            f"{where}: it weighs {message.weight}; by the rows it was admitted with it weighs {agreed}"
        )
    if message.weight > STRATEGIES[plan.aggregation.strategy].weigh(message.rows):
        raise MessageRefused(
            f"{where}: weight {message.weight} is more than {plan.aggregation.strategy} gives for its rows"
        )
    kind = "I32" if plan.grid.bits == 32 else "I64"
    expected = {"update": Layout(kind, (values,))}
    update = from_bytes(exchange.payload(message.payload), expected)["update"]
    bound = plan.grid.limit * message.weight * 2.0**plan.grid.exponent + 0.5
    if float(update.double().abs().max()) > bound:
        raise MessageRefused(f"{where}: the update is larger than ±{plan.grid.limit:g} times its weight")
    largest = _largest_normaliser(plan.training, message.rows)
    if not 0 < int(update[-1]) <= largest * SMALLER * message.weight * 2.0**plan.grid.exponent + 0.5:
        raise MessageRefused(
            f"{where}: its normaliser, the last number of an update, is not positive or over {largest:g}, more than its"
            " rows give steps for"
        )
    return update


def _largest_normaliser(training: TrainingOptions, rows: int) -> float:
    """What the local steps of a hospital with so many rows add up to at most."""
    steps = training.local_updates or training.local_epochs * -(-rows // training.batch_size)
    return accumulated(steps, training.momentum)


def _layout(plan: Plan) -> dict[str, Layout]:
    return layout_of(state_of(network_for(plan.cohort, plan.network)))


def _mean(parts: Sequence[tuple[float | None, int | None]]) -> float | None:
    told = [(value, rows) for value, rows in parts if value is not None and rows]
    return sum(value * rows for value, rows in told) / sum(rows for _, rows in told) if told else None

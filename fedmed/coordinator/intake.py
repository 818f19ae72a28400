"""Which updates and scores count: gates on the envelope, and on the content only where each may be looked at."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from fedmed.aggregation.codec import SMALLER
from fedmed.errors import MessageRefused
from fedmed.exchange.base import Exchange
from fedmed.gates import PASSES, Gate, Verdict, fails_if, need
from fedmed.strategies.fednova import accumulated
from fedmed.targets.table import KINDS
from fedmed.training.local import TrainingOptions
from fedmed.weights import Layout, from_bytes
from fedmed.wire.messages import Plan, Score, Update
from fedmed.wire.post import payload_of


class Envelope(NamedTuple):
    """An update as it came: what it says of itself, the plan, and the SHA-256 of the model that was sent."""

    update: Update
    plan: Plan
    base: str


class Content(NamedTuple):
    """The integers of an update that may be looked at, of shape `(size,)`."""

    vector: Tensor
    envelope: Envelope

    @property
    def unit(self) -> float:
        """What 1 is in the vector."""
        return float(self.envelope.update.weight * 2.0**self.envelope.plan.grid.exponent)


class Scored(NamedTuple):
    """A score as it came, and the SHA-256 of the model that was sent."""

    score: Score
    plan: Plan
    model: str


def _plan(that: Envelope) -> Verdict:
    return fails_if(that.update.plan != that.plan.digest, "the update was made under another plan")


def _base(that: Envelope) -> Verdict:
    return fails_if(that.update.base != that.base, "the update is on another model than the one that was sent")


def _weight(that: Envelope) -> Verdict:
    agreed = that.plan.weights[that.update.sender]
    return fails_if(
        that.update.weight != agreed,
        f"it weighs {that.update.weight}; by the rows it was admitted with it weighs {agreed}",
    )


def _range(that: Content) -> Verdict:
    grid = that.envelope.plan.grid
    too_large = float(that.vector.double().abs().max()) > grid.limit * that.unit + 0.5
    return fails_if(too_large, f"the update is larger than ±{grid.limit:g} times its weight")


def _normaliser(that: Content) -> Verdict:
    plan = that.envelope.plan
    largest = largest_normaliser(plan.training, plan.rows[that.envelope.update.sender])
    place = plan.algorithm.form.size - (3 if plan.algorithm.form.unit else 1)
    possible = 0 < int(that.vector[place]) <= largest * SMALLER * that.unit + 0.5
    return fails_if(
        not possible,
        f"its normaliser is not positive or over {largest:g}, more than its rows give steps for",
    )


def _loss(that: Content) -> Verdict:
    form, plan = that.envelope.plan.algorithm.form, that.envelope.plan
    if not form.unit:
        return PASSES
    rows = plan.rows[that.envelope.update.sender]
    loss, counted = that.vector[-2:].tolist()
    expected = rows / that.envelope.update.weight * form.unit * that.unit
    return fails_if(
        abs(counted - expected) > 0.5 or not 0 <= loss <= counted,
        f"its training loss is not that of the {rows} rows with which it was admitted",
    )


ENVELOPE: dict[str, Gate[Envelope]] = {"plan": _plan, "base": _base, "weight": _weight}
CONTENT: dict[str, Gate[Content]] = {"range": _range, "normaliser": _normaliser, "loss": _loss}
SCORE: dict[str, Gate[Scored]] = {
    "model": lambda that: fails_if(that.score.model != that.model, "it scored another model"),
    "metrics": lambda that: fails_if(
        that.score.metrics.keys() - set(KINDS[that.plan.cohort.target.kind].validated),
        "it tells figures that nobody asked for",
    ),
    "rows": lambda that: fails_if(
        that.score.rows not in (None, that.plan.validation_rows.get(that.score.sender, that.score.rows)),
        "it scored on other rows than it was admitted with",
    ),
}


def take_update(envelope: Envelope, exchange: Exchange) -> Tensor:
    """The integers of an update that counts, of shape `(size,)`.

    Raises:
        ExchangeError: if it does not count, saying everything that speaks against it.

    Guarantees:
        An update counts only if it is on this round's model, under this plan, of the declared weight, shape and type.
    """
    update, plan = envelope.update, envelope.plan
    where = f"{update.sender}, round {update.round}"
    need(ENVELOPE, envelope, lambda reasons: MessageRefused(f"{where}: {reasons}"))
    kind = "I32" if plan.grid.bits == 32 else "I64"
    expected = {"update": Layout(kind, (plan.algorithm.form.size,))}
    vector = from_bytes(payload_of(exchange, update.payload), expected)["update"]
    if plan.algorithm.sees_each and all(stage.exact for stage in plan.algorithm.stages):
        need(CONTENT, Content(vector, envelope), lambda reasons: MessageRefused(f"{where}: {reasons}"))
    return vector


def take_score(scored: Scored) -> Score:
    """A score that counts.

    Raises:
        MessageRefused: if it does not.
    """
    where = f"{scored.score.sender}, round {scored.score.round}"
    need(SCORE, scored, lambda reasons: MessageRefused(f"{where}: {reasons}"))
    return scored.score


def largest_normaliser(training: TrainingOptions, rows: int) -> float:
    """What the local steps of a hospital with so many rows add up to at most."""
    steps = training.local_updates or training.local_epochs * -(-rows // training.batch_size)
    return accumulated(steps, training.momentum)

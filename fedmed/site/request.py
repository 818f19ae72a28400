"""One question as a hospital works on it: with its folder, its outbox, and what the question names in the exchange."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from fedmed.aggregation.stage import Context
from fedmed.errors import ExchangeError, OutboxDamaged
from fedmed.exchange.base import Exchange
from fedmed.models.networks import state_of
from fedmed.site.desk import Desk, SiteSession, open_session
from fedmed.site.home import SiteHome, SiteOptions
from fedmed.site.outbox import Outbox
from fedmed.strategies.base import Memory, pack, unpack
from fedmed.strategies.client import Kept
from fedmed.weights import Weights, from_bytes, layout_of, layouts_in, sha256, to_bytes
from fedmed.wire.messages import COORDINATOR, Address, Plan, Question, Response, decode_plan, encode
from fedmed.wire.post import payload_of, unbundle

R = TypeVar("R", bound=Response)


class Told(NamedTuple):
    """What a hospital says to a question: the message, its payload, and what the hospital keeps of it for itself."""

    response: Response
    payload: bytes | None = None
    kept: bytes = b""


class Request:
    """A question at a hospital. What it names is fetched when it is asked for, and once."""

    def __init__(self, home: SiteHome, question: Question, exchange: Exchange) -> None:
        self.home, self.question, self.exchange = home, question, exchange
        self.digest = sha256(encode(question))

    @cached_property
    def options(self) -> SiteOptions:
        """The hospital's own options."""
        return self.home.options()

    @property
    def minimum_cell(self) -> int:
        """The smallest count that is told: the hospital's own floor counts, if it is higher than what is asked for."""
        return max(self.question.minimum_cell, self.options.minimum_cell)

    @cached_property
    def session(self) -> SiteSession:
        """The hospital's partition, open.

        Raises:
            VaultError: if it does not open.
        """
        return open_session(self.home)

    @property
    def outbox(self) -> Outbox:
        """What the hospital has said."""
        return self.home.outbox

    @cached_property
    def named_plan(self) -> Plan | str:
        """The plan that the question names, or why there is none to be had."""
        if self.question.plan is None:
            return "the question names no plan"
        try:
            return _plan(payload_of(self.exchange, self.question.plan))
        except ExchangeError as problem:
            return f"the plan that the question names: {problem}"

    @property
    def plan(self) -> Plan:
        """The plan that the question names, which the hospital's policy has let through."""
        if isinstance(self.named_plan, str):
            raise TypeError(self.named_plan)
        return self.named_plan

    @cached_property
    def desk(self) -> Desk:
        """The partition at work under the plan."""
        return self.session.desk(self.plan)

    def weights(self, name: str) -> Weights:
        """The model that the question names so.

        Raises:
            ExchangeError: if it is not there, or not one of the plan's network.
        """
        return from_bytes(payload_of(self.exchange, self.question.models[name]), layout_of(state_of(self.desk.network)))

    def shared_memory(self, base: Weights) -> Memory:
        """The server's memory, where the strategy shares it; what the strategy begins with tells how it must look."""
        if not self.desk.how.strategy.shares_memory:
            return {}
        data = payload_of(self.exchange, self.question.models["memory"])
        return from_bytes(data, self.desk.how.memory_layout(base))

    def kept(self) -> Kept:
        """What the hospital had after the last of its updates that counted; nothing if none has.

        Raises:
            OutboxDamaged: if that update is not in the outbox, or its bodies are gone.

        Guarantees:
            A turn whose update never left, was refused or came too late has left nothing: what SCAFFOLD and FedDyn keep
            at the hospitals adds up to what the server keeps, and neither side may be ahead of the other.
        """
        if not self.question.counted:
            return Kept()
        for entry in reversed(self.outbox.of_run(self.question.run)):
            if entry.payload == self.question.counted:
                data = self.outbox.said(entry).kept
                content = from_bytes(data, layouts_in(data))
                return Kept(unpack(content, "memory"), unpack(content, "personal"))
        raise OutboxDamaged(
            f"{self.home.name}: the outbox does not hold the update {self.question.counted[:12]}… that counted last;"
            " start the run over with `fedmed run --force`"
        )

    def context(self) -> Context:
        """What the plan's stages may know here."""
        question, how = self.question, self.desk.how
        kept: dict[str, bytes] = {}
        for about, _ in [*how.asks("before"), *how.asks("after")]:
            address = question.answer_address._replace(topic=f"stage.{about}")
            if (entry := self.outbox.answer_at(address.name)) is not None:
                kept[about] = self.outbox.said(entry).kept
        return Context(
            run=question.run,
            attempt=question.attempt,
            round=question.round,
            site=self.home.name,
            sites=question.sites,
            weight=self.plan.weights[self.home.name],
            seed=self.plan.training.seed,
            told=self._told(),
            kept=kept,
        )

    def _told(self) -> Mapping[str, Mapping[str, bytes]]:
        return {about: unbundle(payload_of(self.exchange, told)) for about, told in self.question.told.items()}

    def reply(self, kind: type[R], **content: Any) -> R:
        """A message of one kind that answers the question."""
        address: Address = self.question.address
        return kind(
            run=address.run,
            attempt=address.attempt,
            round=address.round,
            sender=self.home.name,
            recipient=COORDINATOR,
            purpose=self.question.purpose,
            about=self.question.about,
            question=self.digest,
            **content,
        )


def to_keep(kept: Kept) -> bytes:
    """What a hospital keeps of its turn, as bytes; see :meth:`Request.kept`."""
    return to_bytes(pack(memory=kept.memory, personal=kept.personal))


_plans: dict[str, Plan] = {}


def _plan(data: bytes) -> Plan:
    """The plan in some bytes; the last few are kept, as every question of a run names the same."""
    digest = sha256(data)
    if digest not in _plans:
        while len(_plans) >= 8:
            _plans.pop(next(iter(_plans)), None)
        _plans[digest] = decode_plan(data)
    return _plans[digest]

"""What a run costs in bytes: the payloads that hospitals are asked to fetch, and those that they send."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from pydantic import Field

from fedmed.exchange.base import Exchange
from fedmed.typed_yaml import Record
from fedmed.wire.messages import COORDINATOR, Message, Plan, Question, StageAnswer, Update, read_name
from fedmed.wire.post import find, inbox
from fedmed.wire.purposes import PURPOSES


class Traffic(Record):
    """Bytes of payloads: `down` to the hospitals (models, and the memory of a strategy that shares it), `up` from them.

    The JSON around the payloads is not counted: it is some hundred bytes a message, whatever the model.

    >>> Traffic(down=4, up=1) + Traffic(down=6, up=2)
    Traffic(down=10, up=3)
    """

    down: int = Field(0, ge=0)
    up: int = Field(0, ge=0)

    def __add__(self, other: Self) -> Self:
        return self.model_copy(update={"down": self.down + other.down, "up": self.up + other.up})

    @property
    def both(self) -> int:
        """Down and up together."""
        return self.down + self.up


def traffic(messages: Iterable[Message]) -> dict[int, Traffic]:
    """Round → what its messages move.

    Args:
        messages: of a run, in any order. Questions of the rounds count what they name, once for each
            hospital that is asked: one that has a model already is not told from one that has to fetch it. Updates
            count what they carry, those that were refused too. Other messages count nothing.

    Returns:
        The rounds that have such messages, in order.
    """
    rounds: dict[int, Traffic] = {}
    for message in messages:
        match message:
            case Question(purpose=purpose) if PURPOSES[purpose].rounds:
                moved = Traffic(down=sum(model.size for model in [*message.models.values(), *message.told.values()]))
            case Update() | StageAnswer():
                moved = Traffic(up=message.payload.size)
            case _:
                continue
        rounds[message.round] = rounds.get(message.round, Traffic()) + moved
    return dict(sorted(rounds.items()))


def messages_of(plan: Plan, exchange: Exchange) -> list[Message]:
    """The questions and answers of a run since it was begun, as they stand in an exchange."""
    names = [name for party in (COORDINATOR, *plan.participants) for name in inbox(exchange, party, plan.run)]
    since = [name for name in names if read_name(name).attempt >= plan.attempt]
    return [message for name in since if (message := find(exchange, name)) is not None]

"""What a run costs in bytes: the payloads that hospitals are asked to fetch, and those that they send."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from pydantic import Field

from fedmed.exchange.base import Exchange
from fedmed.typed_yaml import Record
from fedmed.wire.messages import COORDINATOR, Address, Invitation, Message, Plan, Update

INVITED = ("train", "evaluate")


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
        messages: of a run, in any order. Invitations to train and to evaluate count what they name, once for each
            hospital that is invited: one that has a model already is not told from one that has to fetch it. Updates
            count what they carry, those that were refused too. Other messages count nothing.

    Returns:
        The rounds that have such messages, in order.
    """
    rounds: dict[int, Traffic] = {}
    for message in messages:
        match message:
            case Invitation(purpose=purpose) if purpose in INVITED:
                moved = Traffic(down=sum(model.size for model in message.models.values()))
            case Update():
                moved = Traffic(up=message.payload.size)
            case _:
                continue
        rounds[message.round] = rounds.get(message.round, Traffic()) + moved
    return dict(sorted(rounds.items()))


def messages_of(plan: Plan, rounds: int, exchange: Exchange) -> list[Message]:
    """The invitations and updates of a run's rounds, as they stand in an exchange."""
    sent = [(f"invite-{purpose}", True) for purpose in INVITED] + [("update", False)]
    addresses = [
        Address(plan.run, number, topic, *((COORDINATOR, site) if invited else (site, COORDINATOR)))
        for number in range(1, rounds + 1)
        for site in plan.participants
        for topic, invited in sent
    ]
    return [message for address in addresses if (message := exchange.find(address)) is not None]

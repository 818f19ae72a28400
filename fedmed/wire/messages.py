"""Every message that passes between coordinator and hospitals: typed, frozen, JSON, with payloads by their SHA-256."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from fedmed.aggregation.grid import FixedPoint
from fedmed.data.cohort import Cohort
from fedmed.errors import MessageRefused
from fedmed.evaluation.comparison import Comparison
from fedmed.evaluation.curves import Curves
from fedmed.evaluation.measurement import Measurement
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import NetworkOptions
from fedmed.strategies.options import AggregationOptions
from fedmed.training.local import TrainingOptions
from fedmed.training.personal import PersonalOptions
from fedmed.typed_yaml import Record

COORDINATOR = "coordinator"
EVERYONE = "everyone"
LARGEST_MESSAGE = 1 << 20
MOST_METRICS = 32

Party = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Metric = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Purpose = Literal["validate", "describe", "statistics", "train", "evaluate", "test"]


class Payload(Record):
    """Bytes that travel beside a message, named by what they are."""

    sha256: Digest
    size: int = Field(ge=0)


class Address(NamedTuple):
    """Where a message stands. It follows from what the message is, so it can be written only once."""

    run: str
    round: int
    topic: str
    sender: str
    recipient: str


class Message(Record):
    """What every message carries."""

    kind: str
    run: Party
    round: int = Field(0, ge=0)
    sender: Party
    recipient: Party
    payload: Payload | None = None

    @property
    def topic(self) -> str:
        """The last part of the address that is not a party."""
        return self.kind

    @property
    def address(self) -> Address:
        """Where the message stands in an exchange."""
        return Address(self.run, self.round, self.topic, self.sender, self.recipient)


class Invitation(Message):
    """Coordinator to site: what to do, on which partition and model, under which plan.

    `own` is for a test: whether the hospital also trains what it could do alone.
    """

    kind: Literal["invitation"] = "invitation"
    sender: Party = COORDINATOR
    purpose: Purpose
    minimum_cell: int = Field(ge=5)
    fingerprint: Digest
    plan: Digest | None = None
    models: dict[str, Payload] = {}
    resamples: int = Field(0, ge=0)
    own: bool = True

    @property
    def topic(self) -> str:
        """One topic a purpose."""
        return f"invite-{self.purpose}"


class Plan(Message):
    """Coordinator to everyone, once a run: all that decides how hospitals train. It never changes within a run."""

    kind: Literal["plan"] = "plan"
    sender: Party = COORDINATOR
    recipient: Party = EVERYONE
    participants: tuple[Party, ...]
    weights: dict[Party, int]
    fingerprints: dict[Party, Digest]
    cohort: Cohort
    statistics: InputStatistics
    network: NetworkOptions
    training: TrainingOptions
    aggregation: AggregationOptions
    personal: PersonalOptions
    grid: FixedPoint
    start: Digest
    validation_rows: dict[Party, int] = Field({}, description="as told at admission; a hospital that may not is absent")

    @property
    def digest(self) -> str:
        """SHA-256 of the plan: every invitation of the run names it."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class GlobalModel(Message):
    """Coordinator to everyone: the weights after a round (round 0: the start), and who took part in them."""

    kind: Literal["model"] = "model"
    sender: Party = COORDINATOR
    recipient: Party = EVERYONE
    participants: tuple[Party, ...] = ()
    payload: Payload


class ServerMemory(Message):
    """Coordinator: what its strategy keeps after a round; addressed to everyone only if the strategy shares it.

    It is posted before the round's model, and names the same participants: a round that was cut short between the two
    is gone on with by them.
    """

    kind: Literal["memory"] = "memory"
    sender: Party = COORDINATOR
    participants: tuple[Party, ...] = ()
    payload: Payload


class Admission(Message):
    """Site to coordinator: whether its data keep the contract. A count that is too small is absent, not zero."""

    kind: Literal["admission"] = "admission"
    recipient: Party = COORDINATOR
    admitted: bool
    failed: tuple[str, ...]
    expectations: int
    fingerprint: Digest | None
    rows: dict[str, Annotated[int, Field(ge=0, le=10**9)] | None]


class Statistics(Message):
    """Site to coordinator: sums of its number columns, in the payload."""

    kind: Literal["statistics"] = "statistics"
    recipient: Party = COORDINATOR
    payload: Payload


class Description(Message):
    """Site to coordinator: counts and sums of its training rows, in the payload, small ones withheld."""

    kind: Literal["description"] = "description"
    recipient: Party = COORDINATOR
    rows: int = Field(ge=5, le=10**9)
    minimum_cell: int = Field(ge=5)
    payload: Payload


class Update(Message):
    """Site to coordinator: its weighted change of the base model, in the payload, and its training loss."""

    kind: Literal["update"] = "update"
    recipient: Party = COORDINATOR
    plan: Digest
    base: Digest
    weight: int = Field(ge=1)
    rows: int = Field(ge=1, le=10**9)
    loss: float = Field(ge=0, le=10**9)
    payload: Payload


class RoundEvaluation(Message):
    """Site to coordinator: how the round's model does on its validation rows, shifted as the hospital would use it.

    `loss` is the mean of the kind's own loss, as :mod:`fedmed.training.losses` names it: log loss, cross entropy, Cox's
    partial likelihood or that of hazards in intervals; `metrics` are those of `fedmed.evaluation.kinds`. A figure is
    absent where cells are small. The shift itself stays at the hospital.
    """

    kind: Literal["evaluation"] = "evaluation"
    recipient: Party = COORDINATOR
    model: Digest
    rows: int | None = Field(ge=1, le=10**9)
    loss: float | None = Field(ge=0, le=10**9)
    metrics: dict[Metric, Annotated[float, Field(ge=0, le=2)]] = Field({}, max_length=MOST_METRICS)


class TestReport(Message):
    """Site to coordinator: every model's measurements on its test rows, curves, and whether federating helped it.

    `measurements` is keyed by model and metric, `subgroups` by column, category and metric, of the federated model.
    """

    __test__ = False  # not a test case, whatever its name begins with

    kind: Literal["report"] = "report"
    recipient: Party = COORDINATOR
    models: dict[str, Digest]
    measurements: dict[str, dict[str, Measurement]]
    comparison: Comparison
    curves: Curves
    subgroups: dict[str, dict[str, dict[str, Measurement]]] = {}


AnyMessage = Annotated[
    Invitation
    | Plan
    | GlobalModel
    | ServerMemory
    | Admission
    | Description
    | Statistics
    | Update
    | RoundEvaluation
    | TestReport,
    Field(discriminator="kind"),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyMessage)


def encode(message: Message) -> bytes:
    """The message as JSON; equal messages give equal bytes."""
    return message.model_dump_json().encode()


def decode(data: bytes) -> Any:
    """The message in `data`.

    Raises:
        MessageRefused: if it is oversized, malformed, or of no known kind.
    """
    if len(data) > LARGEST_MESSAGE:
        raise MessageRefused(f"message: expected at most {LARGEST_MESSAGE} bytes, got {len(data)}")
    try:
        return _ADAPTER.validate_json(data)
    except ValidationError as problem:
        where = "; ".join(".".join(map(str, entry["loc"])) + ": " + entry["type"] for entry in problem.errors()[:5])
        raise MessageRefused(f"message: not what its kind asks for ({where})") from None


class Receipt(Record):
    """What a task returns in place of data: who, when, how much, how long, and the digest of what was posted."""

    site: str
    round: int
    topic: str
    rows: int | None = None
    loss: float | None = None
    seconds: float
    size: int
    sha256: str
    reused: bool = False

"""Every message that passes between coordinator and hospitals: typed, frozen, JSON, with payloads by their SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from fedmed.aggregation.grid import FixedPoint
from fedmed.data.cohort import Cohort
from fedmed.errors import MessageRefused
from fedmed.evaluation.comparison import Comparison
from fedmed.evaluation.curves import Curves
from fedmed.evaluation.measurement import Measurement
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import NetworkOptions, network_for
from fedmed.strategies.algorithm import Algorithm, algorithm
from fedmed.strategies.options import AggregationOptions
from fedmed.training.local import TrainingOptions
from fedmed.training.personal import PersonalOptions
from fedmed.typed_yaml import Record

COORDINATOR = "coordinator"
LARGEST_MESSAGE = 1 << 20
MOST_METRICS = 32

Party = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Metric = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
PurposeName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9]{0,30}$")]
About = Annotated[str, StringConstraints(pattern=r"^([a-z0-9_]{1,40}\.[a-z0-9_]{1,40})?$")]
Count = Annotated[int, Field(ge=0, le=10**9)]


class Payload(Record):
    """Bytes that travel beside a message, named by what they are."""

    sha256: Digest
    size: int = Field(ge=0)


class Address(NamedTuple):
    """Where a message stands. It follows from what the message is, so it can be written only once."""

    recipient: str
    run: str
    attempt: int
    round: int
    topic: str
    sender: str

    @property
    def name(self) -> str:
        """The address as a name in an exchange: below the recipient's inbox."""
        return f"{inbox_of(self.recipient, self.run)}{self.attempt:03d}.{self.round:05d}.{self.topic}.{self.sender}"


def read_name(name: str) -> Address:
    """The address that a name in an exchange stands for.

    Raises:
        MessageRefused: if it stands for none.

    >>> read_name("to/va/3f2a91c0d1e2/001.00003.train.coordinator").round
    3
    """
    address: Address | None
    try:
        _, recipient, run, last = name.split("/")
        attempt, round_, *topic, sender = last.split(".")
        address = Address(recipient, run, int(attempt), int(round_), ".".join(topic), sender)
    except ValueError:
        address = None
    if address is None or address.name != name or min(address.attempt, address.round) < 0:
        raise MessageRefused(f"{name[:80]!r}: expected the name of a message's address")
    return address


def inbox_of(party: str, run: str = "") -> str:
    """The prefix of all that is for a party, of one run or of all."""
    return f"to/{party}/{run}/" if run else f"to/{party}/"


class Message(Record):
    """What every message carries. `attempt` counts how often a run was begun anew, or gone on with after a failure."""

    kind: str
    run: Party
    attempt: int = Field(1, ge=1, le=999)
    round: int = Field(0, ge=0, le=99_999)
    sender: Party
    recipient: Party
    purpose: PurposeName
    about: About = ""
    payload: Payload | None = None

    @property
    def address(self) -> Address:
        """Where the message stands in an exchange."""
        topic = f"{self.purpose}.{self.about}" if self.about else self.purpose
        return Address(self.recipient, self.run, self.attempt, self.round, topic, self.sender)


class Question(Message):
    """Coordinator to site: what is asked, of which partition and models, under which plan.

    Args:
        minimum_cell: the smallest count that the coordinator wants to be told.
        fingerprint: of the partition that is meant.
        plan: the plan of the run, where there is one.
        models: what the answer is about, by name.
        sites: all hospitals that are asked this together.
        counted: SHA-256 of the last update of this hospital's that counted; empty if none has.
        told: the stages' questions so far → the bundle of what the hospitals told.
        resamples: for `evaluate`: how many of the bootstrap.
        own: for `evaluate`: whether the hospital also trains what it could do alone.
    """

    kind: Literal["question"] = "question"
    sender: Party = COORDINATOR
    minimum_cell: int = Field(ge=5)
    fingerprint: Digest
    plan: Payload | None = None
    models: dict[str, Payload] = {}
    sites: tuple[Party, ...] = ()
    counted: Digest | Literal[""] = ""
    told: dict[str, Payload] = {}
    resamples: int = Field(0, ge=0)
    own: bool = True

    @property
    def answer_address(self) -> Address:
        """Where the answer stands, whatever it is."""
        return self.address._replace(recipient=self.sender, sender=self.recipient)


class Plan(Record):
    """All that decides how hospitals train, agreed once a run: questions name it by the SHA-256 of its bytes.

    Args:
        run: the run's name.
        attempt: that in which the run was begun from nothing.
        participants: the hospitals, sorted.
        rows: hospital → its training rows, as told at admission: numbers of rows are public within the consortium.
        weights: hospital → what its update weighs.
        fingerprints: hospital → the partition with which it was admitted.
        cohort: the declaration.
        statistics: means and deviations over all hospitals.
        network: what is trained.
        training: how.
        aggregation: strategy, rule and stages.
        personal: what each hospital has of its own.
        grid: the integers that updates travel as.
        start: SHA-256 of the weights before the first round.
        validation_rows: as told at admission; a hospital that may not is absent.
    """

    run: Party
    attempt: int = Field(1, ge=1, le=999)
    participants: tuple[Party, ...]
    rows: dict[Party, int]
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
    validation_rows: dict[Party, int] = {}

    def encoded(self) -> bytes:
        """The plan as JSON; equal plans give equal bytes."""
        return self.model_dump_json().encode()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the plan's bytes."""
        return hashlib.sha256(self.encoded()).hexdigest()

    def __eq__(self, other: object) -> bool:
        """By the bytes: what was derived from the fields is no part of it, and tensors cannot be compared like them."""
        return isinstance(other, Plan) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Plan:
        """A plan with other fields; what was derived from the old ones is left behind."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("digest", "algorithm"):
            copied.__dict__.pop(name, None)
        return copied

    @cached_property
    def content(self) -> str:
        """SHA-256 of what was agreed, whichever attempt it was: the same agreed again is the same."""
        return self.model_copy(update={"attempt": 1}).digest

    @cached_property
    def algorithm(self) -> Algorithm:
        """What the plan means in code."""
        return algorithm(
            network_for(self.cohort, self.network),
            self.training,
            self.aggregation,
            self.rows,
            weights=self.weights,
            grid=self.grid,
            personal=self.personal.layers,
        )


class Response(Message):
    """Site to coordinator: what a hospital says to one question, named by the SHA-256 of the question's bytes."""

    recipient: Party = COORDINATOR
    question: Digest


R = TypeVar("R", bound=Response)


def bare(response: R) -> R:
    """A response as it is kept: without attempt and question, so that the same said again is the same.

    What is written of it is an output of the pipeline, which is due again where an output has changed.
    """
    return response.model_copy(update={"attempt": 1, "question": "0" * 64})


class Refusal(Response):
    """That it does not answer, and why; a reason never holds a cell of a record."""

    kind: Literal["refusal"] = "refusal"
    reason: str = Field(max_length=4000)


class Admission(Response):
    """Whether its data keep the contract. A count that is too small is absent, not zero."""

    kind: Literal["admission"] = "admission"
    admitted: bool
    failed: tuple[str, ...]
    expectations: int
    fingerprint: Digest | None
    rows: dict[str, Count | None]


class Statistics(Response):
    """Sums of its number columns, in the payload."""

    kind: Literal["statistics"] = "statistics"
    payload: Payload


class Description(Response):
    """Counts and sums of its training rows, in the payload, small ones withheld."""

    kind: Literal["description"] = "description"
    rows: int = Field(ge=5, le=10**9)
    minimum_cell: int = Field(ge=5)
    payload: Payload


class Update(Response):
    """Its weighted change of the base model, and its training loss, as one vector of integers in the payload."""

    kind: Literal["update"] = "update"
    plan: Digest
    base: Digest
    weight: int = Field(ge=1)
    payload: Payload


class StageAnswer(Response):
    """What it answers to a question of a stage, in the payload."""

    kind: Literal["stage"] = "stage"
    payload: Payload


class Score(Response):
    """How the round's model does on its validation rows, shifted as the hospital would use it.

    `loss` is the mean of the kind's own loss, as :mod:`fedmed.training.losses` names it: log loss, cross entropy, Cox's
    partial likelihood or that of hazards in intervals; `metrics` are those of the target's kind. A figure is absent
    where cells are small. The shift itself stays at the hospital.
    """

    kind: Literal["score"] = "score"
    model: Digest
    rows: int | None = Field(ge=1, le=10**9)
    loss: float | None = Field(ge=0, le=10**9)
    metrics: dict[Metric, Annotated[float, Field(ge=0, le=2)]] = Field({}, max_length=MOST_METRICS)


class SiteEvaluation(Response):
    """Every model's measurements on its test rows, curves, and whether federating helped it.

    `measurements` is keyed by model and metric, `subgroups` by column, category and metric, of the federated model.
    """

    kind: Literal["evaluation"] = "evaluation"
    models: dict[str, Digest]
    measurements: dict[str, dict[str, Measurement]]
    comparison: Comparison
    curves: Curves
    subgroups: dict[str, dict[str, dict[str, Measurement]]] = {}


AnyMessage = Annotated[
    Question | Refusal | Admission | Description | Statistics | Update | StageAnswer | Score | SiteEvaluation,
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
        raise MessageRefused(f"message: not what its kind asks for ({_where(problem)})") from None


def decode_plan(data: bytes) -> Plan:
    """The plan in `data`.

    Raises:
        MessageRefused: if it is none.
    """
    try:
        return Plan.model_validate_json(data)
    except ValidationError as problem:
        raise MessageRefused(f"plan: not what a plan asks for ({_where(problem)})") from None


def _where(problem: ValidationError) -> str:
    return "; ".join(".".join(map(str, entry["loc"])) + ": " + entry["type"] for entry in problem.errors()[:5])

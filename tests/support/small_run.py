"""A run of three hospitals on a model of three parameters, in which everything that a hospital says is written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedmed.aggregation.codec import Moved, to_vector
from fedmed.aggregation.grid import FixedPoint
from fedmed.coordinator.asking import Called, Posted
from fedmed.coordinator.history import RoundRecord
from fedmed.coordinator.home import CoordinatorHome
from fedmed.coordinator.training import Run, keep_plan, kept_run, rounds_of
from fedmed.data.cohort import Cohort
from fedmed.exchange.base import Exchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import NetworkOptions
from fedmed.strategies.options import AggregationOptions
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import TrainingOptions
from fedmed.training.personal import PersonalOptions
from fedmed.weights import sha256, to_bytes
from fedmed.wire.messages import Payload, Plan, Question, Refusal, Response, Score, Update, encode
from fedmed.wire.post import find, post, put_payload

RAW: dict[str, Any] = {
    "name": "small",
    "target": {"name": "ill", "column": "outcome", "positive": "> 0"},
    "columns": {"age": {"type": "integer", "range": [0, 100]}, "weight": {"type": "number", "range": [0, 300]}},
}
SMALL = Cohort.model_validate(RAW)
START = {"bias": torch.tensor([1.0]), "weight": torch.tensor([[1.0, 1.0]])}
SITES = ("north", "south", "west")
ROWS = {"north": 30, "south": 10, "west": 20}
CHANGES = {"north": 0.0, "south": 2.0, "west": -1.0}

Say = Callable[[Question], Response]


def called(posted: Sequence[Posted]) -> Iterator[Called]:
    """A call that waits for nobody: whoever has answered has."""
    return map(Called, posted)


def plan_of(strategy: str = "fedavg", rounds: int = 3, **aggregation: Any) -> Plan:
    """The plan of such a run."""
    weights = {site: STRATEGIES[strategy].weigh(rows) for site, rows in ROWS.items()}
    return Plan(
        run="run-1",
        participants=SITES,
        rows=ROWS,
        weights=weights,
        fingerprints=dict.fromkeys(SITES, "a" * 64),
        cohort=SMALL,
        statistics=InputStatistics(mean={"age": 50, "weight": 70}, deviation={"age": 10, "weight": 9}),
        network=NetworkOptions(),
        training=TrainingOptions(rounds=rounds),
        aggregation=AggregationOptions.model_validate({"strategy": strategy, **aggregation}),
        personal=PersonalOptions(),
        grid=FixedPoint(bits=32, limit=16.0, weight=sum(weights.values())),
        start=sha256(to_bytes(START)),
    )


def head_of(question: Question) -> dict[str, Any]:
    """What every answer to a question has."""
    return {
        "run": question.run,
        "attempt": question.attempt,
        "round": question.round,
        "sender": question.recipient,
        "purpose": question.purpose,
        "about": question.about,
        "question": sha256(encode(question)),
    }


class SmallRun:
    """The run, its exchange and its coordinator's home; who has been given nothing to say does not answer.

    Args:
        folder: the coordinator's home.
        plan: what was agreed.
        exchange: where both sides meet; in memory if left out.
    """

    def __init__(self, folder: Path, plan: Plan | None = None, exchange: Exchange | None = None) -> None:
        self.plan = plan or plan_of()
        self.exchange: Exchange = exchange or MemoryExchange()
        self.home = CoordinatorHome(folder)
        self.home.begin_training(self.plan.run)
        self.run = keep_plan(self.home, self.plan, START, 11)
        self.order: tuple[str, ...] = SITES
        self.asked: list[Question] = []
        self._says: dict[tuple[str, str, int], Say] = {}

    def says(self, site: str, purpose: str, say: Say, number: int = 0) -> None:
        """Give a hospital its answer to a purpose, in one round or (0) in all of them."""
        self._says[site, purpose, number] = say

    def says_nothing(self, site: str, purpose: str, number: int = 0) -> None:
        """Take from a hospital what it was given to say."""
        del self._says[site, purpose, number]

    def said(self, question: Question) -> Response:
        """What a hospital says to a question."""
        site, purpose = question.recipient, question.purpose
        of_all = self._says.get((site, purpose, 0))
        say = self._says.get((site, purpose, question.round), of_all)
        assert say is not None
        return say(question)

    def refuses(self, site: str, purpose: str, reason: str, number: int = 0) -> None:
        """A hospital that does not answer, and says why."""
        self.says(site, purpose, lambda question: Refusal(**head_of(question), reason=reason), number)

    def vector(self, site: str, by: float | None = None, *, loss: float = 0.5, normaliser: float = 1.0) -> Tensor:
        """The integers of a hospital in which every parameter has moved by as much."""
        by = CHANGES.get(site, 0.0) if by is None else by
        form, weight = self.plan.algorithm.form, self.plan.weights.get(site, 1)
        change = {name: torch.full_like(tensor, by) for name, tensor in START.items()}
        extra = {name: {key: torch.zeros_like(tensor) for key, tensor in START.items()} for name in form.extra}
        moved = Moved(change, {}, extra, normaliser, loss, self.plan.rows.get(site, 5))
        return self.plan.grid.encode(to_vector(moved, {}, form, weight), weight)

    def update(
        self,
        site: str,
        payload: bytes | None = None,
        *,
        by: float | None = None,
        loss: float = 0.5,
        number: int = 0,
        payload_named: Payload | None = None,
        **changes: Any,
    ) -> None:
        """A hospital trains: every parameter moved by its change, unless said otherwise."""
        data = to_bytes({"update": self.vector(site, by, loss=loss)}) if payload is None else payload

        def say(question: Question) -> Update:
            content = {
                **head_of(question),
                "plan": self.plan.digest,
                "base": question.models["federated"].sha256,
                "weight": self.plan.weights.get(site, 1),
                "payload": payload_named or put_payload(self.exchange, data),
                **changes,
            }
            return Update.model_validate(content)

        self.says(site, "train", say, number)

    def score(self, site: str, loss: float | None, rows: int | None, number: int = 0, **changes: Any) -> None:
        """A hospital scores the round's model."""

        def say(question: Question) -> Score:
            figures = {"model": question.models["federated"].sha256, "rows": rows, "loss": loss}
            metrics = {"auroc": 0.5} if loss else {}
            return Score.model_validate({**head_of(question), **figures, "metrics": metrics, **changes})

        self.says(site, "score", say, number)

    def everybody(self) -> SmallRun:
        """All three train, and score as well as they may: without a figure."""
        for site in SITES:
            self.update(site)
            self.score(site, None, None)
        return self

    def call(self, posted: Sequence[Posted]) -> Iterator[Called]:
        """How hospitals come to answer: each says what it was given, in their order."""
        for each in sorted(posted, key=lambda each: self.order.index(each.site)):
            question = find(self.exchange, each.name)
            self.asked.append(question)
            if {(each.site, each.purpose, number) for number in (each.round, 0)} & self._says.keys():
                post(self.exchange, self.said(question))
            yield Called(each)

    def rounds(self, quorum: int = 1) -> Iterator[RoundRecord]:
        """The rounds that are still to be done."""
        return rounds_of(self.run, self.exchange, self.call, quorum=quorum)

    def round(self, quorum: int = 1) -> RoundRecord:
        """The next round, in which whoever was given no score says nothing of the model but that there is one."""
        for site in SITES:
            if not {(site, "score", number) for number in (0, len(self.run.records) + 1)} & self._says.keys():
                self.score(site, None, None)
        return next(self.rounds(quorum))

    def values(self, number: int = 1) -> list[float]:
        """The model's parameters after a round."""
        weights = self.run.states[number].weights
        assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {"bias": (1,), "weight": (1, 2)}
        return [*weights["bias"].tolist(), *weights["weight"][0].tolist()]

    def refused(self, number: int = 1) -> dict[str, str]:
        """Hospital → why its update of a round does not count."""
        return dict(self.run.states.record(number).refused)

    def reopened(self) -> Run:
        """The run as another process finds it, under the attempt that is due."""
        attempt, _ = self.home.begin_training(self.plan.run)
        found = kept_run(self.home, self.plan.run, attempt, 11)
        assert found is not None
        self.run = found
        return found

"""A coordinator that fits on a page: it makes a plan and a model, posts questions, and looks at what one hospital says."""

from __future__ import annotations

import json
import threading
from itertools import count
from pathlib import Path
from typing import Any

import torch

from fedmed.aggregation.grid import FixedPoint
from fedmed.data.cohort import read_cohort
from fedmed.exchange.base import Exchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.models.encoding import InputStatistics, feature_names
from fedmed.models.networks import NetworkOptions
from fedmed.site.agent import Receipt, step
from fedmed.site.desk import open_session
from fedmed.site.home import SiteHome
from fedmed.strategies.options import AggregationOptions
from fedmed.training.local import TrainingOptions
from fedmed.training.personal import PersonalOptions
from fedmed.weights import Weights, sha256, to_bytes
from fedmed.wire.messages import Payload, Plan, Question, Refusal
from fedmed.wire.post import find, post, put_payload

HEART = read_cohort(Path(__file__).parents[2] / "cohorts" / "heart_disease.yaml")
NUMBERS = {name: HEART.columns[name].range or (0.0, 1.0) for name in HEART.numbers()}
STATISTICS = InputStatistics(
    mean={name: (low + high) / 2 for name, (low, high) in NUMBERS.items()},
    deviation={name: (high - low) / 4 for name, (low, high) in NUMBERS.items()},
)
FEATURES = len(feature_names(HEART))
ZERO: Weights = {"weight": torch.zeros(1, FEATURES), "bias": torch.zeros(1)}
ABSENT = Payload(sha256="0" * 64, size=3)
NAMES = (f"run-{number}" for number in count(1))
"""A name for every run: what a hospital said in one test is none of the business of another."""


def fingerprint_of(home: SiteHome) -> str:
    """The partition with which a hospital would be admitted, also where it does not open."""
    return str(json.loads((home.partition / "manifest.json").read_bytes())["manifest"]["fingerprint"])


def rows_of(home: SiteHome) -> int:
    """A hospital's training rows."""
    return len(open_session(home).tables["train"])


class Run:
    """A run as its coordinator asks for it.

    Args:
        home: the hospital that is asked.
        others: who takes part beside it, with 100 rows each.
        exchange: where both sides meet; one in memory if left out.
        run: its name; one that nobody has had if left out.
        without: whether the plan leaves the hospital out.
        weight: the hospital's in the plan; its rows if left out.
        plan: what is changed of the plan.
    """

    def __init__(
        self,
        home: SiteHome,
        *others: str,
        exchange: Exchange | None = None,
        run: str = "",
        without: bool = False,
        rows: int | None = None,
        weight: int | None = None,
        **plan: Any,
    ) -> None:
        self.home, self.name = home, run or next(NAMES)
        self.fingerprint = fingerprint_of(home)
        self.exchange: Exchange = MemoryExchange() if exchange is None else exchange
        own = {} if without else {home.name: rows_of(home) if rows is None else rows}
        rows_in_plan = dict(sorted({**dict.fromkeys(others, 100), **own}.items()))
        weights = {site: weight if weight and site == home.name else count for site, count in rows_in_plan.items()}
        content: dict[str, Any] = {
            "run": self.name,
            "participants": tuple(rows_in_plan),
            "rows": rows_in_plan,
            "weights": weights,
            "fingerprints": dict.fromkeys(rows_in_plan, "f" * 64),
            "cohort": HEART,
            "statistics": STATISTICS,
            "network": NetworkOptions(),
            "training": TrainingOptions(),
            "aggregation": AggregationOptions(),
            "personal": PersonalOptions(),
            "grid": FixedPoint(bits=32, limit=16.0, weight=1000),
            "start": sha256(to_bytes(ZERO)),
        }
        self.plan = Plan(**{**content, **plan})
        self.agreed = put_payload(self.exchange, self.plan.encoded())
        self.model = self.put(ZERO)

    def put(self, weights: Weights) -> Payload:
        """Post a model."""
        return put_payload(self.exchange, to_bytes(weights))

    def question(self, purpose: str, **changes: Any) -> Question:
        """A question to the hospital about round 1, with what is changed of it."""
        planned = purpose in {"train", "stage", "score", "evaluate"}
        content: dict[str, Any] = {
            "run": self.name,
            "round": 1,
            "recipient": self.home.name,
            "purpose": purpose,
            "minimum_cell": 11,
            "fingerprint": self.fingerprint,
            "plan": self.agreed if planned else None,
            "models": {"federated": self.model} if planned and purpose != "stage" else {},
            "sites": self.plan.participants,
            "resamples": 100 if purpose == "evaluate" else 0,
        }
        return Question(**{**content, **changes})

    def ask(self, purpose: str, *, last: bool = True, at: SiteHome | None = None, **changes: Any) -> Receipt:
        """Post a question and let the hospital's agent make a step."""
        name = post(self.exchange, self.question(purpose, **changes))
        return step(at or self.home, self.exchange, self.name, name, last=last)

    def answer(self, purpose: str, **changes: Any) -> Any:
        """What stands where the answer to a question belongs."""
        return find(self.exchange, self.question(purpose, **changes).answer_address)

    def told(self, purpose: str, **changes: Any) -> Any:
        """Ask, and fetch the answer; it is no refusal."""
        receipt = self.ask(purpose, **changes)
        message = find(self.exchange, receipt.name)
        assert not receipt.refused, message
        return message

    def refused(self, purpose: str, **changes: Any) -> str:
        """Ask, and fetch the reason of the refusal; nothing else was posted."""
        name = post(self.exchange, self.question(purpose, **changes))
        before = self.standing()
        receipt = step(self.home, self.exchange, self.name, name)
        message = find(self.exchange, receipt.name)
        assert receipt.refused
        assert isinstance(message, Refusal)
        assert self.standing() - before == {receipt.name}
        return message.reason

    def standing(self) -> set[str]:
        """Names of all payloads, and of all messages to the coordinator."""
        return {*self.exchange.names("payloads/"), *self.exchange.names("to/coordinator/")}


def restarted(monkeypatch: Any) -> None:
    """Forget what the process holds of any hospital, as a restart does; what was kept on the disk is all there is."""
    for module, name in (("outbox", "_outboxes"), ("desk", "_sessions")):
        monkeypatch.setattr(f"fedmed.site.{module}.{name}", {})
        monkeypatch.setattr(f"fedmed.site.{module}.{name}_lock", threading.Lock())

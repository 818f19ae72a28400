"""A run as its coordinator sees it: which updates count, which round is chosen, and when it is another run."""

from __future__ import annotations

import itertools
import json
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from fedmed.coordinator.rounds import (
    RoundRecord,
    SiteRound,
    aggregate_round,
    choose_round,
    comparable_losses,
    invite,
    invite_to_train,
    model_of,
    record_round,
    stalled,
    turns_of,
    weights_of,
)

from fedmed.aggregation.codec import encode_update
from fedmed.aggregation.grid import FixedPoint
from fedmed.aggregation.statistics import column_sums
from fedmed.coordinator.admission import Admissions
from fedmed.coordinator.plan import invite_to_statistics, make_plan, post_memory, run_id
from fedmed.coordinator.start import check_start
from fedmed.data.cohort import Cohort, read_cohort
from fedmed.data.partition import read_manifest, read_partition
from fedmed.data.split import SplitOptions
from fedmed.errors import MessageRefused, QuorumNotMet, SettingsError, WorkspaceError
from fedmed.exchange.base import Exchange, fetch, reference
from fedmed.exchange.folder import FolderExchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.models.bundle import ModelBundle, ModelDescription
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import NetworkOptions
from fedmed.settings import Settings
from fedmed.site import session
from fedmed.site.answers import answer
from fedmed.site.home import SiteHome, partition_records
from fedmed.strategies.base import Fitted, Sent
from fedmed.strategies.options import AggregationOptions, StrategyName
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import TrainingOptions
from fedmed.training.personal import PersonalOptions
from fedmed.weights import Weights, sha256, to_bytes
from fedmed.wire.messages import (
    COORDINATOR,
    Address,
    Admission,
    GlobalModel,
    Message,
    Payload,
    Plan,
    RoundEvaluation,
    Statistics,
    Update,
)

HEART = read_cohort(Path(__file__).parents[2] / "cohorts" / "heart_disease.yaml")
RAW = {
    "name": "small",
    "target": {"name": "ill", "column": "outcome", "positive": "> 0"},
    "columns": {"age": {"type": "integer", "range": [0, 100]}, "weight": {"type": "number", "range": [0, 300]}},
}
SMALL = Cohort.model_validate(RAW)
START = {"bias": torch.tensor([1.0]), "weight": torch.tensor([[1.0, 1.0]])}
SITES = ("north", "south", "west")
ROWS = {"north": 30, "south": 10, "west": 20}
CHANGES = {"north": 0.0, "south": 2.0, "west": -1.0}


class Round:
    """The first round of a run of three sites on a model of three parameters, in memory."""

    def __init__(self, strategy: str = "fedavg", **aggregation: Any) -> None:
        self.exchange: Exchange = MemoryExchange()
        self.plan = Plan(
            run="run-1",
            participants=SITES,
            fingerprints=dict.fromkeys(SITES, "a" * 64),
            weights=ROWS if strategy == "fedavg" else dict.fromkeys(SITES, 1),
            cohort=SMALL,
            statistics=InputStatistics(mean={"age": 50, "weight": 70}, deviation={"age": 10, "weight": 9}),
            network=NetworkOptions(),
            training=TrainingOptions(),
            aggregation=AggregationOptions.model_validate({"strategy": strategy, **aggregation}),
            personal=PersonalOptions(),
            grid=FixedPoint(bits=32, limit=16.0, weight=60 if strategy == "fedavg" else 3),
            start=sha256(to_bytes(START)),
        )
        data = to_bytes(START)
        self.base = GlobalModel(run="run-1", payload=reference(data), participants=SITES)
        self.exchange.post(self.plan)
        self.exchange.post(self.base, data)

    def update(
        self,
        site: str,
        payload: bytes | None = None,
        *,
        by: float | None = None,
        rows: int | None = None,
        **changes: Any,
    ) -> None:
        """Post a site's update: every parameter moved by its change, unless said otherwise."""
        rows = ROWS.get(site, 5) if rows is None else rows
        weight = rows if self.plan.aggregation.strategy == "fedavg" else 1
        by = CHANGES.get(site, 0.0) if by is None else by
        sent = Sent({name: torch.full_like(tensor, by) for name, tensor in START.items()}, Fitted(START, {}, 0.5, 1))
        if payload is None:
            strategy = STRATEGIES[self.plan.aggregation.strategy]
            payload = to_bytes({"update": encode_update(sent, START, {}, strategy, weight, self.plan.grid)})
        content = {
            "run": "run-1",
            "round": 1,
            "sender": site,
            "plan": self.plan.digest,
            "base": self.base.payload.sha256,
            "weight": weight,
            "rows": rows,
            "loss": 0.5,
            "payload": reference(payload).model_dump(),
        }
        self.exchange.post(Update.model_validate({**content, **changes}), payload)

    def aggregate(self, *answered: str) -> tuple[list[float], dict[str, str]]:
        """The new model's parameters, and who was refused."""
        model, refused = aggregate_round(self.plan, 1, answered or SITES, self.exchange)
        weights = weights_of(self.plan, model.payload, self.exchange)
        assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {"bias": (1,), "weight": (1, 2)}
        assert sorted([*model.participants, *refused]) == sorted(answered or SITES)
        return [*weights["bias"].tolist(), *weights["weight"][0].tolist()], refused


@pytest.mark.parametrize(("strategy", "expected"), [("fedavg", 1.0), ("mean", 4 / 3)])
def test_a_round_of_three_sites_by_hand(strategy: str, expected: float) -> None:
    # fedavg: 1 + (30 · 0 + 10 · 2 - 20 · 1) / 60 = 1; mean: 1 + (0 + 2 - 1) / 3
    this = Round(strategy)
    for site in SITES:
        this.update(site)
    values, refused = this.aggregate()
    assert values == pytest.approx([expected] * 3, abs=1e-6)
    assert refused == {}


def test_a_site_that_did_not_answer_is_left_out_of_the_mean() -> None:
    this = Round()
    this.update("north")
    this.update("south")
    values, _ = this.aggregate("north", "south")
    assert values == [1.5] * 3  # 1 + (30 · 0 + 10 · 2) / 40


@pytest.mark.parametrize("posting", list(itertools.permutations(SITES)))
def test_the_order_in_which_sites_answer_changes_no_bit(posting: tuple[str, ...]) -> None:
    digests = set()
    for order in (posting, SITES):
        this = Round()
        for site in order:
            this.update(site, by=CHANGES[site] / 3)
        digests.add(aggregate_round(this.plan, 1, order, this.exchange)[0].payload.sha256)
    assert len(digests) == 1


def tensor(*values: float, dtype: torch.dtype = torch.int32, name: str = "update") -> bytes:
    return to_bytes({name: torch.tensor(values, dtype=dtype)})


def by_hand(header: object, body: bytes = bytes(16)) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


HOSTILE: dict[str, tuple[bytes | None, dict[str, Any], str]] = {
    "is on another model": (None, {"base": "0" * 64}, "on another model than the one that was sent"),
    "was made under another plan": (None, {"plan": "0" * 64}, "under another plan"),
    "claims a weight that its rows do not give": (
        None,
        {"weight": 11},
        "it weighs 11; by the rows it was admitted with it weighs",
    ),
    "claims more rows than it was admitted with": (
        None,
        {"weight": 1000},
        "it weighs 1000; by the rows it was admitted with it weighs",
    ),
    "claims a tenth of its weight": (None, {"weight": 1}, "it weighs 1; by the rows it was admitted with it weighs"),
    "is too short": (tensor(1, 2, 3), {}, "expected I32"),
    "is too long": (tensor(1, 2, 3, 4, 5), {}, "expected I32"),
    "has another shape": (to_bytes({"update": torch.zeros(4, 1, dtype=torch.int32)}), {}, "expected I32"),
    "has wider integers": (tensor(1, 2, 3, 4, dtype=torch.int64), {}, "expected I32"),
    "is floating point": (tensor(1, 2, 3, 4, dtype=torch.float32), {}, "expected I32"),
    "is NaN": (tensor(1, float("nan"), 3, 4, dtype=torch.float32), {}, "expected I32"),
    "has another name": (tensor(1, 2, 3, 4, name="weights"), {}, "payload tensors"),
    "is truncated": (tensor(1, 2, 3, 4)[:-1], {}, "payload"),
    "is empty": (b"", {}, "payload"),
    "is a pickle": (pickle.dumps([1, 2, 3]), {}, "payload"),
    "has a header that safetensors cannot read": (
        by_hand({"update": {"dtype": "I32", "shape": ["4"], "data_offsets": [0, 16]}}),
        {},
        "payload",
    ),
    "has a shape of text without end": (
        by_hand({"update": {"dtype": "I32", "shape": [float("inf")], "data_offsets": [0, 16]}}),
        {},
        "payload",
    ),
    "is larger than the agreed range": (tensor(2**31 - 1, 0, 0, 0), {}, "larger than ±16 times its weight"),
    "is smaller than the agreed range": (tensor(0, -(2**31), 0, 0), {}, "larger than ±16 times its weight"),
    "would turn the others' steps round": (tensor(1, 2, 3, -4), {}, "normaliser"),
    "would make the others' steps longer": (tensor(1, 2, 3, 10**6), {}, "more than its rows give steps for"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_the_round_goes_on_without_an_update_that(fault: str) -> None:
    payload, changes, reason = HOSTILE[fault]
    this = Round()
    this.update("north")
    this.update("west")
    this.update("south", payload, **changes)
    values, refused = this.aggregate()
    assert list(refused) == ["south"]
    assert reason in refused["south"]
    assert values == pytest.approx([1 - 20 / 50] * 3, abs=1e-6)  # north and west alone


def test_a_round_cut_short_between_memory_and_model_is_gone_on_with_by_those_who_took_part() -> None:
    def fresh() -> Round:
        this = Round("fedadam")
        strategy = STRATEGIES["fedadam"]
        post_memory("run-1", 0, strategy.init(START, this.plan.aggregation), strategy, this.exchange)
        for site in SITES:
            this.update(site, weight=1)
        return this

    whole, cut = fresh(), fresh()
    expected, _ = whole.aggregate("north", "west")
    memory = whole.exchange.find(Address("run-1", 1, "memory", COORDINATOR, COORDINATOR))
    cut.exchange.post(memory, whole.exchange.payload(memory.payload))  # and then the coordinator was killed
    model, refused = aggregate_round(cut.plan, 1, SITES, cut.exchange)
    assert refused == {"south": "answered after the round was aggregated"}
    assert model == model_of("run-1", 1, whole.exchange)
    assert expected != START["weight"].tolist()


def test_an_update_at_the_edge_of_the_range_is_taken() -> None:
    this = Round()
    for site in SITES:
        this.update(site, by=-16.0)
    assert this.aggregate() == ([-15.0] * 3, {})


def test_the_round_goes_on_without_a_site_that_posted_nothing_or_no_payload_or_is_no_participant() -> None:
    this = Round()
    this.update("north")
    this.update("east")
    message = Update(
        run="run-1",
        round=1,
        sender="west",
        plan=this.plan.digest,
        base=this.base.payload.sha256,
        weight=20,
        rows=20,
        loss=0.5,
        payload=Payload(sha256="0" * 64, size=9),
    )
    this.exchange.post(message)
    values, refused = this.aggregate(*SITES, "east")
    assert values == [1.0] * 3
    assert "nothing was posted" in refused["south"]
    assert "was not posted" in refused["west"]
    assert "no participant" in refused["east"]


def test_a_torn_update_in_a_folder_is_refused(tmp_path: Path) -> None:
    this = Round()
    folder = FolderExchange(tmp_path)
    data = to_bytes(START)
    folder.post(this.plan)
    folder.post(this.base, data)
    this.exchange = folder
    for site in SITES:
        this.update(site)
    (path,) = tmp_path.glob("messages/run-1/0001/update/south--*.json")
    path.write_bytes(path.read_bytes()[:50])
    assert list(this.aggregate()[1]) == ["south"]


def test_a_round_without_a_usable_update_stops_and_names_why() -> None:
    this = Round()
    for site in SITES:
        this.update(site, base="0" * 64)
    with pytest.raises(MessageRefused, match=r"round 1: no update could be used. north.*south.*west"):
        this.aggregate()
    assert this.exchange.find(Address("run-1", 1, "model", COORDINATOR, "everyone")) is None


def test_a_round_that_was_aggregated_before_stays_as_it_was_whoever_has_answered_since() -> None:
    this = Round()
    this.update("north")
    this.update("south")
    first, _ = aggregate_round(this.plan, 1, ["north", "south"], this.exchange)
    this.update("west")
    again, refused = aggregate_round(this.plan, 1, SITES, this.exchange)
    assert again == first == model_of("run-1", 1, this.exchange)
    assert refused == {"west": "answered after the round was aggregated"}


def test_every_participant_is_invited_to_the_same_model_under_the_plan() -> None:
    this = Round()
    invitations = invite(this.plan, 4, "train", {"federated": this.base.payload}, 11)
    assert [invitation.recipient for invitation in invitations] == list(SITES)
    assert {(i.round, i.plan, i.minimum_cell, i.models["federated"]) for i in invitations} == {
        (4, this.plan.digest, 11, this.base.payload)
    }


def evaluate(this: Round, site: str, model: str, loss: float | None, rows: int | None) -> None:
    told = RoundEvaluation(
        run="run-1", round=1, sender=site, model=model, rows=rows, loss=loss, metrics={"auroc": 0.5} if loss else {}
    )
    this.exchange.post(told)


@pytest.mark.parametrize("name", ["loss", "rows", "luck"])
def test_an_evaluation_with_a_figure_that_nobody_asked_for_is_left_out(name: str) -> None:
    this = Round()
    for site in SITES:
        this.update(site)
    model, _ = aggregate_round(this.plan, 1, SITES, this.exchange)
    evaluate(this, "north", model.payload.sha256, 0.5, 40)
    told = RoundEvaluation(
        run="run-1", round=1, sender="south", model=model.payload.sha256, rows=40, loss=0.9, metrics={name: 0.001}
    )
    this.exchange.post(told)
    record = record_round(this.plan, 1, {}, this.exchange)
    assert record.validation_loss == 0.5
    assert record.sites["south"].metrics == {}


def test_a_rounds_losses_are_weighed_by_rows_and_leave_out_what_is_suppressed() -> None:
    this = Round()
    this.update("north", loss=0.2)
    this.update("south", loss=0.6)
    this.update("west", base="0" * 64)
    model, refused = aggregate_round(this.plan, 1, SITES, this.exchange)
    evaluate(this, "north", model.payload.sha256, 0.5, 40)
    evaluate(this, "south", model.payload.sha256, None, None)
    evaluate(this, "west", model.payload.sha256, 0.9, 40)
    record = record_round(this.plan, 1, refused, this.exchange)
    assert record.train_loss == pytest.approx((0.2 * 30 + 0.6 * 10) / 40)
    assert record.validation_loss == 0.5
    assert record.participants == ("north", "south")
    assert list(record.sites) == list(SITES)
    assert "another model" in record.sites["west"].refused
    assert record.sites["north"] == SiteRound(
        train_loss=0.2, rows=30, validation_loss=0.5, validation_rows=40, metrics={"auroc": 0.5}
    )


def test_a_hospital_that_claims_more_validation_rows_than_it_was_admitted_with_does_not_choose_the_round() -> None:
    this = Round()
    for site in SITES:
        this.update(site)
    model, _ = aggregate_round(this.plan, 1, SITES, this.exchange)
    evaluate(this, "north", model.payload.sha256, 0.001, 10**9)
    evaluate(this, "south", model.payload.sha256, 0.5, 40)
    admitted = this.plan.model_copy(update={"validation_rows": {"north": 12, "south": 40}})
    assert record_round(admitted, 1, {}, this.exchange).validation_loss == 0.5


def test_an_evaluation_of_another_model_is_left_out() -> None:
    this = Round()
    for site in SITES:
        this.update(site)
    model, _ = aggregate_round(this.plan, 1, SITES, this.exchange)
    evaluate(this, "north", "0" * 64, 0.001, 1000)
    evaluate(this, "south", model.payload.sha256, 0.5, 40)
    assert record_round(this.plan, 1, {}, this.exchange).validation_loss == 0.5


def rounds(*losses: float | None) -> list[RoundRecord]:
    model = Payload(sha256="0" * 64, size=1)
    return [
        RoundRecord(round=i, model=model, participants=(), train_loss=1.0 / i, validation_loss=loss, sites={})
        for i, loss in enumerate(losses, 1)
    ]


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ([0.5], 1),
        ([0.5, 0.4, 0.6], 2),
        ([0.5, 0.4, 0.4], 2),
        ([0.4, 0.4, 0.4], 1),
        ([None, 0.9, None], 2),
        ([None, None, None], 3),
        ([0.0, None, 0.1], 1),
    ],
)
def test_the_round_with_the_least_validation_loss_is_chosen_the_earliest_of_equals(
    losses: list[float | None], chosen: int
) -> None:
    assert choose_round(rounds(*losses)).round == chosen
    if any(loss is not None for loss in losses):
        assert choose_round(rounds(*losses)[::-1]).round == chosen


def test_a_hospital_that_falls_silent_moves_no_choice() -> None:
    model = Payload(sha256="a" * 64, size=1)

    def record(number: int, **losses: float | None) -> RoundRecord:
        sites = {site: SiteRound(validation_loss=loss, validation_rows=10) for site, loss in losses.items()}
        told = [loss for loss in losses.values() if loss is not None]
        mean = sum(told) / len(told)
        return RoundRecord(
            round=number, model=model, participants=(), train_loss=1.0, validation_loss=mean, sites=sites
        )

    # In round 2 the hospital with the high loss may not tell it: the mean falls, but no model became better.
    records = [record(1, north=0.4, south=0.9), record(2, north=0.5, south=None), record(3, north=0.3, south=0.9)]
    assert [entry.validation_loss for entry in records] == pytest.approx([0.65, 0.5, 0.6])
    assert comparable_losses(records) == pytest.approx([0.4, 0.5, 0.3])
    assert choose_round(records).round == 3
    nobody = [record(1, north=0.4, south=None), record(2, north=None, south=0.2)]
    assert comparable_losses(nobody) == pytest.approx([0.4, 0.2])


def test_without_a_round_nothing_is_chosen() -> None:
    with pytest.raises(ValueError, match="at least one round"):
        choose_round([])


# Which run it is, and its plan.

PARAMETERS: dict[str, Any] = {"cohort": "c.yaml", "federation": {"sites": ["north", "south", "west"], "quorum": 2}}


def settings(**changes: Any) -> Settings:
    return Settings.model_validate({**PARAMETERS, **changes})


def admissions(fingerprints: dict[str, str] | None = None, rows: int | None = 60, **changes: Any) -> Admissions:
    prints = fingerprints or dict.fromkeys(SITES, "a" * 64)
    sites = {
        site: Admission(
            run="validation-1",
            sender=site,
            admitted=not changes.get(site),
            failed=(),
            expectations=9,
            fingerprint=prints[site],
            rows={"train": rows},
        )
        for site in prints
    }
    return Admissions(validation="validation-1", sites=sites)


def test_the_same_inputs_are_the_same_run_whatever_the_order_of_sites() -> None:
    backwards = Admissions(validation="validation-2", sites=dict(reversed(admissions().sites.items())))
    assert run_id(settings(), SMALL, admissions()) == run_id(settings(), SMALL, backwards)
    assert run_id(settings(), SMALL, admissions()) == run_id(
        settings(evaluation={"resamples": 200}), SMALL, admissions()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"split": {"seed": 1}},
        {"split": {"train": 0.5}},
        {"privacy": {"minimum_cell": 12}},
        {"network": {"name": "mlp"}},
        {"training": {"learning_rate": 0.05}},
        {"training": {"rounds": 41}},
        {"training": {"seed": 1}},
        {"aggregation": {"strategy": "mean"}},
        {"aggregation": {"limit": 8.0}},
        {"personal": {"intercept": False}},
    ],
    ids=str,
)
def test_another_parameter_is_another_run(changes: dict[str, Any]) -> None:
    assert run_id(settings(**changes), SMALL, admissions()) != run_id(settings(), SMALL, admissions())


def test_another_partition_or_another_admission_is_another_run() -> None:
    changed = {**dict.fromkeys(SITES, "a" * 64), "west": "b" * 64}
    swapped = {**dict.fromkeys(SITES, "a" * 64), "north": "b" * 64}
    ids = {
        run_id(settings(), SMALL, who)
        for who in (admissions(), admissions(changed), admissions(swapped), admissions(west=True))
    }
    assert len(ids) == 4


def test_another_declaration_is_another_run_but_another_title_is_not() -> None:
    other = Cohort.model_validate({**RAW, "minimum": {"rows": 51}})
    titled = Cohort.model_validate({**RAW, "title": "Another title"})
    first = run_id(settings(), SMALL, admissions())
    assert run_id(settings(), other, admissions()) != first
    assert run_id(settings(), titled, admissions()) == first


def post_sums(exchange: Exchange, site: str, payload: bytes) -> None:
    exchange.post(Statistics(run="run-1", sender=site, payload=reference(payload)), payload)


def sums(age: float) -> bytes:
    import pandas as pd

    return to_bytes({"sums": column_sums(pd.DataFrame({"age": [age] * 20, "weight": [70.0] * 20}), SMALL, 11)})


def test_a_plan_pools_statistics_and_its_grid_holds_the_sum_of_all_weights() -> None:
    exchange = MemoryExchange()
    for site, age in zip(SITES, (40.0, 50.0, 60.0), strict=True):
        post_sums(exchange, site, sums(age))
    plan = make_plan("run-1", settings(), SMALL, admissions(rows=20), SITES[::-1], exchange)
    assert plan.participants == SITES
    assert plan.grid.weight == 60
    assert plan.statistics.mean["age"] == pytest.approx(50.0)
    assert plan.statistics.deviation["age"] == pytest.approx((200 / 3) ** 0.5)
    start = weights_of(plan, model_of("run-1", 0, exchange).payload, exchange)
    assert start["weight"].tolist() == [[0.0, 0.0]]
    equal = make_plan("run-1", settings(), SMALL, admissions(rows=20), SITES, exchange)
    assert equal.digest == plan.digest
    with pytest.raises(MessageRefused, match="start over"):  # nothing of a run changes once it is agreed
        make_plan("run-1", settings(training={"l2": 0.5}), SMALL, admissions(rows=20), SITES, exchange)


@pytest.mark.parametrize(
    "payload", [b"", to_bytes({"sums": torch.zeros(6)}), to_bytes({"sums": torch.zeros(5).long()})]
)
def test_statistics_of_another_form_make_no_plan(payload: bytes) -> None:
    exchange = MemoryExchange()
    post_sums(exchange, "north", payload)
    with pytest.raises(QuorumNotMet, match="north: its statistics could not be used"):
        make_plan("run-1", settings(), SMALL, admissions(), ["north"], exchange)
    assert exchange.find(Address("run-1", 0, "plan", COORDINATOR, "everyone")) is None


def test_a_site_that_may_not_tell_its_rows_cannot_be_weighed() -> None:
    exchange = MemoryExchange()
    for site in ("north", "south"):
        post_sums(exchange, site, sums(40.0))
    with pytest.raises(QuorumNotMet, match="north: too few training rows"):
        make_plan("run-1", settings(), SMALL, admissions(rows=None), ["north", "south"], exchange)


# Two rounds of three real hospitals.

HOSPITALS = ("cleveland", "hungarian", "va")


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteHome]:
    root = tmp_path_factory.mktemp("sites")
    found = {name: SiteHome(root / name) for name in HOSPITALS}
    for home in found.values():
        partition_records(home, HEART, SplitOptions())
    return found


def play(
    homes: dict[str, SiteHome],
    exchange: Exchange,
    *,
    order: tuple[str, ...] = HOSPITALS,
    workers: int = 1,
    rounds: int = 2,
    late: tuple[str, int] = ("", 0),
    absent: tuple[str, int] = ("", 0),
    **parameters: Any,
) -> list[str]:
    """The digests of plan, updates, models and losses of a run in which the hospitals answer in this order.

    A hospital may come late in a round, after it was aggregated, or not at all; its update is then not among those.
    """
    chosen = Settings.model_validate({"cohort": "c.yaml", "federation": {"sites": HOSPITALS}, **parameters})
    told = {
        name: Admission(
            run="v",
            sender=name,
            admitted=True,
            failed=(),
            expectations=9,
            fingerprint=read_manifest(home.partition, home.vault()).fingerprint,
            rows={"train": len(read_partition(home.partition, home.vault())["train"])},
        )
        for name, home in homes.items()
    }

    def ask(invitations: list[Any]) -> list[str]:
        by_site = {invitation.recipient: invitation for invitation in invitations}
        asked = [site for site in order if site in by_site]
        with ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(answer, homes[site], by_site[site], exchange) for site in asked]:
                done.result()
        return asked

    admitted = Admissions(validation="v", sites=told)
    ask(invite_to_statistics("run-1", admitted, chosen))
    plan = make_plan("run-1", chosen, HEART, admitted, order, exchange)
    digests = [plan.digest]
    for number in range(1, rounds + 1):
        invitations = invite_to_train(plan, number, 11, exchange)
        missing = {site for site, when in (late, absent) if when == number}
        asked = ask([invitation for invitation in invitations if invitation.recipient not in missing])
        model, refused = aggregate_round(plan, number, asked, exchange)
        assert refused == {}
        ask([invitation for invitation in invitations if (invitation.recipient, number) == late])
        ask(invite(plan, number, "evaluate", {"federated": model.payload}, 11))
        record = record_round(plan, number, refused, exchange)
        updates = [
            fetch(exchange, Address("run-1", number, "update", site, COORDINATOR), Update) for site in sorted(asked)
        ]
        digests += [*(update.payload.sha256 for update in updates), model.payload.sha256, repr(record.validation_loss)]
    return digests


def test_the_same_inputs_give_the_same_weights_whoever_answers_first(
    homes: dict[str, SiteHome], tmp_path: Path
) -> None:
    first = play(homes, MemoryExchange())
    assert len(set(first)) == 11  # a plan, and for each round three updates, a model and a loss: all of them different
    for order in (HOSPITALS[::-1], ("hungarian", "va", "cleveland")):
        assert play(homes, MemoryExchange(), order=order) == first
    assert play(homes, FolderExchange(tmp_path), workers=3) == first


# A run that was cut short goes on as if it had not been.

RESUMED: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "scaffold": {},
    "ditto": {},
    "feddyn": {},
    "fedadam": {"learning_rate": 0.01},
    "fedbuff": {"buffer": 2},
    "cyclic": {},
    "fedavg with personal layers": {},
}


def parameters_of(case: str) -> dict[str, Any]:
    strategy, _, personal = case.partition(" with ")
    model = {"name": "mlp", "hidden": [4]} if personal else {"name": "logistic"}
    return {
        "aggregation": {"strategy": strategy, **RESUMED[case]},
        "model": model,
        "personal": {"layers": ["head.*"]} if personal else {},
        "training": {"rounds": 4, "learning_rate": 0.1, "local_epochs": 1},
    }


def without(exchange: MemoryExchange, lost: Callable[[Address], bool]) -> MemoryExchange:
    """A copy in which some messages are missing."""
    left = MemoryExchange()
    left._messages = {address: data for address, data in exchange._messages.items() if not lost(address)}
    left._payloads = dict(exchange._payloads)
    return left


@pytest.mark.parametrize("case", RESUMED)
def test_a_run_that_is_resumed_in_the_middle_gives_the_same_bytes(case: str, homes: dict[str, SiteHome]) -> None:
    whole = MemoryExchange()
    expected = play(homes, whole, rounds=4, **parameters_of(case))
    losses: dict[str, Callable[[Address], bool]] = {
        "all after round 2": lambda a: a.round > 2,
        "the last model and an update of it": lambda a: a.round == 4 and (a.topic == "model" or a.sender == "va"),
        "an update of an earlier round alone": lambda a: (a.round, a.topic, a.sender) == (2, "update", "cleveland"),
        "what the server kept": lambda a: a.round == 4 and a.topic in {"memory", "model", "evaluation"},
        "everything but the plan's": lambda a: a.round > 0,
    }
    for lost, of in losses.items():
        left = without(whole, of)
        assert play(homes, left, rounds=4, **parameters_of(case)) == expected, lost
        assert left._messages == whole._messages, lost


class CrashesOnce(MemoryExchange):
    """The first time that a hospital posts its update of a round, the hospital dies before it is there."""

    def __init__(self, site: str, number: int) -> None:
        super().__init__()
        self.due = {(site, number)}

    def post(self, message: Message, payload: bytes | None = None) -> None:
        if isinstance(message, Update) and (message.sender, message.round) in self.due:
            self.due.clear()
            raise ConnectionError
        super().post(message, payload)


@pytest.mark.parametrize("case", RESUMED)
def test_a_hospital_that_dies_between_keeping_its_turn_and_posting_it_sends_the_same_update_again(
    case: str, homes: dict[str, SiteHome], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = play(homes, MemoryExchange(), rounds=3, **parameters_of(case))
    for home in homes.values():
        shutil.rmtree(home.rounds)
    crashing, crashes = CrashesOnce("hungarian", 2), 0
    for _ in range(2):
        monkeypatch.setattr(session, "_sessions", {})  # a new process
        try:
            again = play(homes, crashing, rounds=3, **parameters_of(case))
        except ConnectionError:
            crashes += 1
            assert list((homes["hungarian"].rounds / "run-1").glob("2-*.safetensors"))
    assert again == expected
    assert crashes == 1 or case in {"cyclic", "fedbuff"}  # it had no turn in that round


def test_a_hospital_that_lost_what_it_kept_stops_and_does_not_go_on_as_if_it_were_new(
    homes: dict[str, SiteHome],
) -> None:
    exchange = MemoryExchange()
    play(homes, exchange, rounds=2, **parameters_of("scaffold"))
    (kept,) = (homes["va"].rounds / "run-1").glob("2-*.safetensors")
    data = kept.read_bytes()
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.unlink()
    with pytest.raises(WorkspaceError, match=r"2-.*: gone.*fedmed run --force"):
        play(homes, exchange, rounds=3, **parameters_of("scaffold"))
    kept.write_bytes(data[:-3])
    with pytest.raises(WorkspaceError, match=r"2-.*: damaged"):
        play(homes, exchange, rounds=3, **parameters_of("scaffold"))


@pytest.mark.parametrize("case", RESUMED)
def test_a_hospital_whose_update_came_too_late_keeps_nothing_of_it(case: str, homes: dict[str, SiteHome]) -> None:
    whole = MemoryExchange()
    late = play(homes, whole, rounds=4, late=("va", 2), **parameters_of(case))
    absent = play(homes, MemoryExchange(), rounds=4, absent=("va", 2), **parameters_of(case))
    assert late == absent


def test_a_run_that_is_started_over_has_nothing_of_the_attempt_before_it(homes: dict[str, SiteHome]) -> None:
    expected = play(homes, MemoryExchange(), rounds=2, **parameters_of("scaffold"))
    other = parameters_of("scaffold")
    other["training"]["learning_rate"] = 0.3
    play(homes, MemoryExchange(), rounds=3, **other)  # under the same name, and one round longer
    assert play(homes, MemoryExchange(), rounds=2, **parameters_of("scaffold")) == expected


@pytest.mark.parametrize("case", ["scaffold", "fedadam"])
def test_the_servers_memory_goes_to_hospitals_only_where_the_strategy_shares_it(
    case: str, homes: dict[str, SiteHome]
) -> None:
    exchange = MemoryExchange()
    play(homes, exchange, rounds=1, **parameters_of(case))
    kept = [address for address in exchange._messages if address.topic == "memory"]
    assert [address.round for address in sorted(kept)] == [0, 1]
    assert {address.recipient for address in kept} == {"everyone" if case == "scaffold" else "coordinator"}


# Whose turn it is.


def test_an_update_of_a_hospital_that_was_not_invited_is_refused() -> None:
    this = Round("cyclic")
    (turn,) = turns_of(this.plan, 1)
    for site in SITES:
        this.update(site)
    values, refused = this.aggregate()
    assert set(refused) == set(SITES) - {turn.site}
    assert all("it was not invited to this round" in reason for reason in refused.values())
    assert values == pytest.approx([1 + CHANGES[turn.site]] * 3, abs=1e-6)


def test_a_stale_update_counts_less_and_only_on_the_model_that_was_sent() -> None:
    this = Round("fedbuff", buffer=1, arrivals=("north", "south"))
    this.update("north", by=1.0)
    first, _ = aggregate_round(this.plan, 1, ["north"], this.exchange)
    assert [invitation.recipient for invitation in invite_to_train(this.plan, 2, 11, this.exchange)] == ["south"]
    (invitation,) = invite_to_train(this.plan, 2, 11, this.exchange)
    assert invitation.models["federated"] == this.base.payload  # South is still at the start
    this.update("south", by=1.0, round=2)
    model, refused = aggregate_round(this.plan, 2, ["south"], this.exchange)
    assert refused == {}
    values = weights_of(this.plan, model.payload, this.exchange)["bias"].tolist()
    assert values == pytest.approx([1 + 1 + 2**-0.5], abs=1e-5)
    newest = Round("fedbuff", buffer=1, arrivals=("north", "south"))
    newest.update("north", by=1.0)
    aggregate_round(newest.plan, 1, ["north"], newest.exchange)
    newest.update("south", by=1.0, round=2, base=first.payload.sha256)
    with pytest.raises(MessageRefused, match="on another model than the one that was sent"):
        aggregate_round(newest.plan, 2, ["south"], newest.exchange)


@pytest.mark.parametrize(
    ("arrivals", "reason"),
    [
        (("north",), "arrivals ends before round 2; it needs 2 entries"),
        (("north", "east"), "entry 2: expected a hospital of the run"),
    ],
)
def test_a_recorded_order_of_arrival_that_cannot_be_is_an_error(arrivals: tuple[str, ...], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        turns_of(Round("fedbuff", buffer=1, arrivals=arrivals).plan, 2)


def test_a_median_shrugs_off_a_hospital_that_takes_the_mean_along() -> None:
    moved = {}
    for rule in ("mean", "median"):
        this = Round("mean", combine=rule)
        for site, by in (("north", 0.1), ("south", 0.2), ("west", -15.0)):
            this.update(site, by=by)
        moved[rule] = this.aggregate()[0][0] - 1
    assert moved["mean"] == pytest.approx(-4.9, abs=1e-5)
    assert moved["median"] == pytest.approx(0.1, abs=1e-5)


# When a run ends, and where it starts.


@pytest.mark.parametrize(
    ("losses", "patience", "ends"),
    [
        ([0.5, 0.4, 0.4, 0.4], 2, True),  # the earliest of equals is the best
        ([0.5, 0.4, 0.41, 0.39], 2, False),
        ([0.5, 0.6], 2, False),
        ([0.5, 0.6, 0.7], 2, True),
        ([0.5, None, None], 2, True),  # two rounds without a lower loss, told or not
        ([None, None, None], 2, False),
        ([], 1, False),
        ([0.1, 0.2, 0.3, 0.4], 0, False),
        ([0.5, 0.5], 1, True),
    ],
)
def test_a_run_ends_after_so_many_rounds_without_a_lower_loss(
    losses: list[float | None], patience: int, ends: bool
) -> None:
    assert stalled(losses, patience) is ends


def bundle(**changes: Any) -> ModelBundle:
    description = {
        "cohort": SMALL,
        "network": NetworkOptions(),
        "statistics": InputStatistics(mean={"age": 41.0, "weight": 71.0}, deviation={"age": 9.0, "weight": 8.0}),
        "run": "earlier",
        "round": 3,
        "weights": sha256(to_bytes(START)),
    }
    return ModelBundle(ModelDescription.model_validate({**description, **changes}), START)


def test_a_run_that_goes_on_from_a_model_starts_at_its_weights_with_its_statistics() -> None:
    exchange = MemoryExchange()
    for site in SITES:
        post_sums(exchange, site, sums(40.0))
    plan = make_plan("run-1", settings(), SMALL, admissions(rows=20), SITES, exchange, bundle())
    start: Weights = weights_of(plan, model_of("run-1", 0, exchange).payload, exchange)
    assert all(torch.equal(start[name], START[name]) for name in START)
    assert plan.statistics == bundle().description.statistics
    assert plan.start == sha256(to_bytes(START)) == model_of("run-1", 0, exchange).payload.sha256
    assert run_id(settings(), SMALL, admissions(), bundle()) != run_id(settings(), SMALL, admissions())
    assert run_id(settings(), SMALL, admissions(), bundle()) == run_id(settings(), SMALL, admissions(), bundle(round=4))


def test_a_model_of_other_inputs_or_another_network_is_no_start() -> None:
    wanted = settings(training={"start": "small/champion"})
    check_start(bundle(), wanted, SMALL)
    other = Cohort.model_validate({**RAW, "minimum": {"rows": 51}})
    with pytest.raises(SettingsError, match=r"training.start: small/champion was trained under another declaration"):
        check_start(bundle(), wanted, other)
    with pytest.raises(SettingsError, match=r"small/champion is a mlp .* make `model` as it was"):
        check_start(bundle(network=NetworkOptions(name="mlp")), wanted, SMALL)


def test_a_plan_caps_weights_and_says_where_no_cap_can_be() -> None:
    exchange = MemoryExchange()
    for site in SITES:
        post_sums(exchange, site, sums(40.0))
    told = admissions(rows=20)
    sites = {**told.sites, "north": told.sites["north"].model_copy(update={"rows": {"train": 400}})}
    uneven = Admissions(validation="validation-1", sites=sites)
    capped = settings(aggregation={"largest_share": 0.5})
    assert make_plan("run-1", capped, SMALL, uneven, SITES, exchange).weights == {"north": 40, "south": 20, "west": 20}
    with pytest.raises(SettingsError, match="of 3 hospitals one has at least"):
        make_plan("run-2", settings(aggregation={"largest_share": 0.3}), SMALL, uneven, SITES, copied(exchange))


def copied(exchange: MemoryExchange) -> MemoryExchange:
    found = MemoryExchange()
    for site in SITES:
        message = fetch(exchange, Address("run-1", 0, "statistics", site, COORDINATOR), Statistics)
        found.post(message.model_copy(update={"run": "run-2"}), exchange.payload(message.payload))
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_plan_of_every_strategy_posts_what_its_server_begins_with(strategy: StrategyName) -> None:
    exchange = MemoryExchange()
    for site in SITES:
        post_sums(exchange, site, sums(40.0))
    chosen = settings(aggregation={"strategy": strategy})
    plan = make_plan("run-1", chosen, SMALL, admissions(rows=20), SITES, exchange)
    begin = STRATEGIES[strategy].init(START, plan.aggregation)
    assert any(address.topic == "memory" for address in exchange._messages) == bool(begin)
    assert set(plan.weights.values()) == {STRATEGIES[strategy].weigh(20)}
    assert len(invite_to_train(plan, 1, 11, exchange)) in {1, 2, 3}


@pytest.mark.parametrize(
    ("section", "chosen", "reason"),
    [
        ("training", {"loss": {"name": "cox"}}, "cox wants a survival target"),
        ("training", {"loss": {"class_weights": (1.0, 2.0, 3.0)}}, "expected one for each of the 2 classes"),
        ("personal", {"fine_tune": ("head.*",)}, "personal.fine_tune: head.* fits no parameter"),
    ],
)
def test_what_hospitals_would_stumble_over_in_training_is_said_before_it(
    section: str, chosen: dict[str, Any], reason: str
) -> None:
    exchange = MemoryExchange()
    for site in SITES:
        post_sums(exchange, site, sums(40.0))
    with pytest.raises(SettingsError, match=reason):
        make_plan("run-1", settings(**{section: chosen}), SMALL, admissions(rows=20), SITES, exchange)

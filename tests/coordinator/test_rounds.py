"""A run as its coordinator sees it: which updates count, which round is chosen, and when it is another run."""

from __future__ import annotations

import itertools
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from fedmed.aggregation.fixed_point import FixedPoint
from fedmed.aggregation.statistics import column_sums
from fedmed.aggregation.strategies import AggregationOptions, encode_update
from fedmed.coordinator.admission import Admissions
from fedmed.coordinator.plan import invite_to_statistics, make_plan, run_id
from fedmed.coordinator.rounds import (
    RoundRecord,
    SiteRound,
    aggregate_round,
    choose_round,
    invite,
    model_of,
    record_round,
    weights_of,
)
from fedmed.data.cohort import Cohort, read_cohort
from fedmed.data.partition import read_manifest, read_partition
from fedmed.data.split import SplitOptions
from fedmed.errors import MessageRefused, QuorumNotMet
from fedmed.exchange.base import Exchange, fetch, reference
from fedmed.exchange.folder import FolderExchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.exchange.messages import (
    COORDINATOR,
    Address,
    Admission,
    GlobalModel,
    Payload,
    Plan,
    RoundEvaluation,
    Statistics,
    Update,
)
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import ModelOptions
from fedmed.settings import Settings
from fedmed.site.answers import answer
from fedmed.site.home import SiteHome, partition_records
from fedmed.training.local import TrainingOptions
from fedmed.training.recalibration import PersonalOptions
from fedmed.weights import to_bytes

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

    def __init__(self, strategy: str = "fedavg") -> None:
        self.exchange: Exchange = MemoryExchange()
        self.plan = Plan(
            run="run-1",
            participants=SITES,
            fingerprints=dict.fromkeys(SITES, "a" * 64),
            weights=ROWS if strategy == "fedavg" else dict.fromkeys(SITES, 1),
            cohort=SMALL,
            statistics=InputStatistics(mean={"age": 50, "weight": 70}, deviation={"age": 10, "weight": 9}),
            network=ModelOptions(),
            training=TrainingOptions(),
            aggregation=AggregationOptions.model_validate({"strategy": strategy}),
            personal=PersonalOptions(),
            grid=FixedPoint(bits=32, limit=16.0, weight=60 if strategy == "fedavg" else 3),
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
        moved = {name: tensor + by for name, tensor in START.items()}
        if payload is None:
            payload = to_bytes({"update": encode_update(moved, START, weight, self.plan.grid)})
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


def by_hand(header: object, body: bytes = bytes(12)) -> bytes:
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
    "is too short": (tensor(1, 2), {}, "expected I32"),
    "is too long": (tensor(1, 2, 3, 4), {}, "expected I32"),
    "has another shape": (to_bytes({"update": torch.zeros(3, 1, dtype=torch.int32)}), {}, "expected I32"),
    "has wider integers": (tensor(1, 2, 3, dtype=torch.int64), {}, "expected I32"),
    "is floating point": (tensor(1, 2, 3, dtype=torch.float32), {}, "expected I32"),
    "is NaN": (tensor(1, float("nan"), 3, dtype=torch.float32), {}, "expected I32"),
    "has another name": (tensor(1, 2, 3, name="weights"), {}, "payload tensors"),
    "is truncated": (tensor(1, 2, 3)[:-1], {}, "payload"),
    "is empty": (b"", {}, "payload"),
    "is a pickle": (pickle.dumps([1, 2, 3]), {}, "payload"),
    "has a header that safetensors cannot read": (
        by_hand({"update": {"dtype": "I32", "shape": ["3"], "data_offsets": [0, 12]}}),
        {},
        "payload",
    ),
    "has a shape of text without end": (
        by_hand({"update": {"dtype": "I32", "shape": [float("inf")], "data_offsets": [0, 12]}}),
        {},
        "payload",
    ),
    "is larger than the agreed range": (tensor(2**31 - 1, 0, 0), {}, "larger than ±16 times its weight"),
    "is smaller than the agreed range": (tensor(0, -(2**31), 0), {}, "larger than ±16 times its weight"),
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
    assert record.sites["north"] == SiteRound(train_loss=0.2, rows=30, validation_loss=0.5, validation_rows=40)


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
        {"model": {"name": "mlp"}},
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


def two_rounds(homes: dict[str, SiteHome], order: tuple[str, ...], workers: int, exchange: Exchange) -> list[str]:
    """The digests of plan, updates and models of a run in which the hospitals answer in this order."""
    chosen = Settings.model_validate({"cohort": "c.yaml", "federation": {"sites": HOSPITALS}})
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

    def ask(invitations: list[Any]) -> None:
        by_site = {invitation.recipient: invitation for invitation in invitations}
        with ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(answer, homes[site], by_site[site], exchange) for site in order]:
                done.result()

    admitted = Admissions(validation="v", sites=told)
    ask(invite_to_statistics("run-1", admitted, chosen))
    plan = make_plan("run-1", chosen, HEART, admitted, order, exchange)
    digests = [plan.digest]
    for number in (1, 2):
        base = model_of("run-1", number - 1, exchange)
        ask(invite(plan, number, "train", {"federated": base.payload}, 11))
        model, refused = aggregate_round(plan, number, order, exchange)
        assert refused == {}
        ask(invite(plan, number, "evaluate", {"federated": model.payload}, 11))
        record = record_round(plan, number, refused, exchange)
        updates = [fetch(exchange, Address("run-1", number, "update", site, COORDINATOR), Update) for site in HOSPITALS]
        digests += [*(update.payload.sha256 for update in updates), model.payload.sha256, repr(record.validation_loss)]
    return digests


def test_the_same_inputs_give_the_same_weights_whoever_answers_first(
    homes: dict[str, SiteHome], tmp_path: Path
) -> None:
    first = two_rounds(homes, HOSPITALS, 1, MemoryExchange())
    assert len(set(first)) == 11  # a plan, and for each round three updates, a model and a loss: all of them different
    for order in (HOSPITALS[::-1], ("hungarian", "va", "cleveland")):
        assert two_rounds(homes, order, 1, MemoryExchange()) == first
    assert two_rounds(homes, HOSPITALS, 3, FolderExchange(tmp_path)) == first

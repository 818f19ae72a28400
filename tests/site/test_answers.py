"""What a hospital answers, whom it refuses, and that no row leaves it: real partitions, encrypted, in a folder."""

from __future__ import annotations

import shutil
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fedmed.aggregation.codec import encode_update
from fedmed.aggregation.grid import FixedPoint
from fedmed.data.cohort import Cohort, read_cohort
from fedmed.data.partition import read_manifest, read_partition
from fedmed.data.split import SplitOptions
from fedmed.errors import MessageMissing, MessageRefused, PartitionDamaged, SiteFailed
from fedmed.exchange.base import fetch, reference
from fedmed.exchange.memory import MemoryExchange
from fedmed.models.encoding import InputStatistics, feature_names
from fedmed.models.networks import NetworkOptions
from fedmed.site import session
from fedmed.site.answers import ANSWER_TOPICS, answer
from fedmed.site.home import SiteHome, add_records, partition_records
from fedmed.site.log import kept_at_home
from fedmed.sources.reading import read_embedded
from fedmed.strategies.base import Fitted, Sent
from fedmed.strategies.client import order_of
from fedmed.strategies.options import AggregationOptions
from fedmed.training.local import TrainingOptions, batches_of_round, train
from fedmed.training.personal import PersonalOptions
from fedmed.weights import Layout, from_bytes, sha256, subtract, to_bytes
from fedmed.wire.messages import (
    COORDINATOR,
    Address,
    Admission,
    GlobalModel,
    Invitation,
    Payload,
    Plan,
    Receipt,
    RoundEvaluation,
    Update,
    encode,
)

HEART = read_cohort(Path(__file__).parents[2] / "cohorts" / "heart_disease.yaml")
NUMBERS = {name: HEART.columns[name].range or (0.0, 1.0) for name in HEART.numbers()}
STATISTICS = InputStatistics(
    mean={name: (low + high) / 2 for name, (low, high) in NUMBERS.items()},
    deviation={name: (high - low) / 4 for name, (low, high) in NUMBERS.items()},
)
FEATURES = len(feature_names(HEART))
ZERO = {"weight": torch.zeros(1, FEATURES), "bias": torch.zeros(1)}


def fingerprint_of(home: SiteHome) -> str:
    return read_manifest(home.partition, home.vault()).fingerprint


PRINTS: dict[str, str] = {}
"""Hospital → the fingerprint of its partition, with which it would have been admitted."""
WEIGHTS: dict[str, int] = {}
"""Hospital → its training rows, which are its weight."""


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteHome]:
    """Two of the embedded hospitals, partitioned; tests leave them as they are."""
    root = tmp_path_factory.mktemp("sites")
    homes = {name: SiteHome(root / name) for name in ("cleveland", "hungarian")}
    for home in homes.values():
        PRINTS[home.name] = partition_records(home, HEART, SplitOptions())[0].fingerprint
        WEIGHTS[home.name] = len(read_partition(home.partition, home.vault())["train"])
    return homes


@pytest.fixture
def home(hospitals: dict[str, SiteHome]) -> SiteHome:
    return hospitals["cleveland"]


class Run:
    """A run as its coordinator posts it: a plan and a model."""

    def __init__(
        self, *participants: str, cohort: Cohort = HEART, run: str = "run-1", weight: int | None = None
    ) -> None:
        self.exchange = MemoryExchange()
        self.plan = Plan(
            run=run,
            participants=participants or ("cleveland", "hungarian"),
            fingerprints=dict.fromkeys(participants or ("cleveland", "hungarian"), "f" * 64),
            weights={site: weight or WEIGHTS.get(site, 100) for site in participants or ("cleveland", "hungarian")},
            cohort=cohort,
            statistics=STATISTICS,
            network=NetworkOptions(),
            training=TrainingOptions(),
            aggregation=AggregationOptions(),
            personal=PersonalOptions(),
            grid=FixedPoint(bits=32, limit=16.0, weight=1000),
            start=sha256(to_bytes(ZERO)),
        )
        self.exchange.post(self.plan)
        self.model = self.post(ZERO)

    def post(self, weights: dict[str, torch.Tensor], recipient: str = "everyone", number: int = 0) -> Payload:
        data = to_bytes(weights)
        message = GlobalModel(run=self.plan.run, recipient=recipient, round=number, payload=reference(data))
        self.exchange.post(message, data)
        return message.payload

    def invite(self, purpose: str, **changes: object) -> Invitation:
        content: dict[str, object] = {
            "run": self.plan.run,
            "round": 1,
            "recipient": "cleveland",
            "purpose": purpose,
            "minimum_cell": 11,
            "fingerprint": PRINTS.get(str(changes.get("recipient", "cleveland")), "f" * 64),
            "plan": self.plan.digest,
            "models": {"federated": self.model.model_dump()},
            "resamples": 100,
        }
        return Invitation.model_validate({**content, **changes})

    def address(self, topic: str, site: str = "cleveland", number: int = 1) -> Address:
        return Address(self.plan.run, number, topic, site, COORDINATOR)

    def silent(self, site: str = "cleveland") -> bool:
        """Whether the hospital has posted nothing."""
        return all(self.exchange.find(self.address(topic, site)) is None for topic in ANSWER_TOPICS.values())


def test_an_update_is_one_local_training_weighed_and_on_the_grid(home: SiteHome) -> None:
    run = Run()
    receipt = answer(home, run.invite("train"), run.exchange)
    update = fetch(run.exchange, run.address("update"), Update)
    rows = len(read_partition(home.partition, home.vault())["train"])
    assert (update.rows, update.weight, update.base, update.plan) == (rows, rows, run.model.sha256, run.plan.digest)
    desk = session.open_session(home).desk(run.plan)
    batches = batches_of_round(rows, TrainingOptions(), 1, order_of(2026, "cleveland", rows))
    trained = train(desk.problem(), ZERO, batches, rate=TrainingOptions().learning_rate)
    # The change of every weight, and the normaliser.
    sent = from_bytes(run.exchange.payload(update.payload), {"update": Layout("I32", (FEATURES + 2,))})["update"]
    alone = Sent(subtract(trained.state, ZERO), Fitted(trained.state, {}, trained.loss, trained.steps))
    assert torch.equal(sent, encode_update(alone, ZERO, {}, desk.strategy, rows, run.plan.grid))
    assert int((sent != 0).sum()) > FEATURES / 2
    assert update.loss == receipt.loss == trained.loss
    assert (receipt.site, receipt.round, receipt.topic, receipt.rows) == ("cleveland", 1, "update", rows)
    assert receipt.sha256 == update.payload.sha256
    assert receipt.size == len(encode(update)) + update.payload.size
    assert not receipt.reused


def test_a_hospital_weighs_what_the_plan_says_but_never_more_than_its_rows(home: SiteHome) -> None:
    run = Run(weight=40)  # capped, so that no hospital has too large a share
    answer(home, run.invite("train"), run.exchange)
    update = fetch(run.exchange, run.address("update"), Update)
    assert (update.weight, update.rows) == (40, WEIGHTS["cleveland"])
    more = Run(weight=WEIGHTS["cleveland"] + 1)
    with pytest.raises(MessageRefused, match="more than its rows give it"):
        answer(home, more.invite("train"), more.exchange)
    assert more.silent()


def test_an_evaluation_of_a_model_that_knows_nothing(home: SiteHome) -> None:
    run = Run()
    answer(home, run.invite("evaluate"), run.exchange)
    told = fetch(run.exchange, run.address("evaluation"), RoundEvaluation)
    tables = read_partition(home.partition, home.vault())
    label = tables["validation"]["target"]
    assert told.model == run.model.sha256
    assert told.rows == len(label)
    # A constant: every pair is a tie. Its intercept is fitted to training, where 45 % are ill: nobody is called ill.
    assert tables["train"]["target"].mean() < 0.5
    assert told.metrics["auroc"] == 0.5
    assert told.metrics["accuracy"] == pytest.approx((label == 0).mean(), abs=1e-6)


def test_an_invitation_to_another_hospital_is_refused(hospitals: dict[str, SiteHome]) -> None:
    run = Run()
    with pytest.raises(MessageRefused, match="hungarian: the invitation is addressed to cleveland"):
        answer(hospitals["hungarian"], run.invite("train"), run.exchange)
    assert run.silent()
    assert run.silent("hungarian")


def wider() -> Cohort:
    raw = HEART.model_dump()
    raw["columns"]["age"]["range"] = (0, 100)
    return Cohort.model_validate(raw)


RELEVANT = pytest.mark.parametrize("purpose", ["train", "evaluate", "test"])


@RELEVANT
def test_a_plan_for_another_declaration_is_refused(purpose: str, home: SiteHome) -> None:
    run = Run(cohort=wider())
    with pytest.raises(MessageRefused, match="another declaration of heart_disease"):
        answer(home, run.invite(purpose), run.exchange)
    assert run.silent()


@RELEVANT
def test_a_plan_that_does_not_name_the_hospital_is_refused(purpose: str, home: SiteHome) -> None:
    run = Run("hungarian", "va")
    with pytest.raises(MessageRefused, match="does not name this hospital"):
        answer(home, run.invite(purpose), run.exchange)
    assert run.silent()


@RELEVANT
@pytest.mark.parametrize("digest", ["0" * 64, None])
def test_an_invitation_under_another_plan_than_the_posted_is_refused(
    purpose: str, digest: str | None, home: SiteHome
) -> None:
    run = Run()
    with pytest.raises(MessageRefused, match="names another plan"):
        answer(home, run.invite(purpose, plan=digest), run.exchange)
    assert run.silent()


def test_parameters_changed_within_a_run_are_refused(home: SiteHome) -> None:
    run = Run()
    answer(home, run.invite("train"), run.exchange)
    changed = run.plan.model_copy(update={"training": TrainingOptions(learning_rate=3.0)})
    with pytest.raises(MessageRefused, match="names another plan"):
        answer(home, run.invite("train", round=2, plan=changed.digest), run.exchange)
    assert run.exchange.find(run.address("update", number=2)) is None


def test_a_run_without_a_plan_and_a_model_that_was_not_posted_are_missed(home: SiteHome) -> None:
    run = Run()
    with pytest.raises(MessageMissing, match="run-2/0/plan"):
        answer(home, run.invite("train", run="run-2"), run.exchange)
    absent = {"federated": {"sha256": "0" * 64, "size": 3}}
    with pytest.raises(MessageMissing, match="was not posted"):
        answer(home, run.invite("train", models=absent), run.exchange)
    assert run.silent()


MODELS: dict[str, dict[str, torch.Tensor]] = {
    "NaN": {**ZERO, "bias": torch.tensor([float("nan")])},
    "another shape": {**ZERO, "weight": torch.zeros(1, FEATURES + 1)},
    "another type": {**ZERO, "bias": torch.zeros(1, dtype=torch.float64)},
    "a name too many": {**ZERO, "backdoor": torch.zeros(1)},
}


@pytest.mark.parametrize("fault", MODELS)
@RELEVANT
def test_a_model_is_refused_with(purpose: str, fault: str, home: SiteHome) -> None:
    run = Run()
    bad = run.post(MODELS[fault], recipient="cleveland")
    with pytest.raises(MessageRefused, match=r"payload tensors|tensor "):
        answer(home, run.invite(purpose, models={"federated": bad.model_dump()}), run.exchange)
    assert run.silent()


@pytest.mark.parametrize("names", [(), ("pooled",), ("federated", "pooled")])
@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_a_round_is_on_the_federated_model_alone(purpose: str, names: tuple[str, ...], home: SiteHome) -> None:
    run = Run()
    models = {name: run.model.model_dump() for name in names}
    with pytest.raises(MessageRefused, match=r"expected \['federated'\], got"):
        answer(home, run.invite(purpose, models=models), run.exchange)
    assert run.silent()


def test_a_test_without_the_federated_model_is_refused(home: SiteHome) -> None:
    run = Run()
    with pytest.raises(MessageRefused, match="expected the federated model"):
        answer(home, run.invite("test", models={"pooled": run.model.model_dump()}), run.exchange)


@pytest.mark.parametrize("purpose", ["train", "evaluate"])
def test_a_round_that_was_answered_for_one_model_is_not_answered_for_another(purpose: str, home: SiteHome) -> None:
    run = Run()
    answer(home, run.invite(purpose), run.exchange)
    first = run.exchange.find(run.address(ANSWER_TOPICS[purpose]))  # type: ignore[index]  # a purpose
    other = run.post({**ZERO, "bias": torch.ones(1)}, recipient="cleveland").model_dump()
    with pytest.raises(MessageRefused, match="round 1 was answered for another model already"):
        answer(home, run.invite(purpose, models={"federated": other}), run.exchange)
    assert run.exchange.find(run.address(ANSWER_TOPICS[purpose])) == first  # type: ignore[index]


def same(first: Receipt, second: Receipt) -> bool:
    ignored = {"seconds", "reused"}
    return first.model_dump(exclude=ignored) == second.model_dump(exclude=ignored)


@pytest.mark.parametrize("purpose", ["statistics", "train", "evaluate"])
def test_an_answer_that_was_posted_is_not_computed_again(purpose: str, home: SiteHome, tmp_path: Path) -> None:
    run = Run()
    first = answer(home, run.invite(purpose), run.exchange)
    # A hospital with the same name and no data at all could not compute one.
    second = answer(SiteHome(tmp_path / "cleveland"), run.invite(purpose), run.exchange)
    assert (first.reused, second.reused) == (False, True)
    assert same(first, second)


@pytest.mark.parametrize("purpose", ["statistics", "train", "evaluate"])
def test_a_hospital_that_was_restarted_gives_the_same_bytes(
    purpose: str, home: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = answer(home, (run := Run()).invite(purpose), run.exchange)
    monkeypatch.setattr(session, "_sessions", {})
    second = answer(home, (run := Run()).invite(purpose), run.exchange)
    assert not second.reused
    assert same(first, second)


def test_another_round_draws_other_batches(home: SiteHome) -> None:
    run = Run()
    digests = {answer(home, run.invite("train", round=number), run.exchange).sha256 for number in (1, 2, 3)}
    assert len(digests) == 3


def test_a_partition_that_does_not_open_fails_closed(home: SiteHome, tmp_path: Path) -> None:
    damaged = SiteHome(tmp_path / "cleveland")
    shutil.copytree(home.path, damaged.path)
    path = damaged.partition / "train.parquet"
    raw = path.read_bytes()
    path.write_bytes(raw[:200] + bytes([raw[200] ^ 1]) + raw[201:])
    run = Run()
    answer(damaged, run.invite("validate"), run.exchange)
    told = fetch(run.exchange, run.address("admission"), Admission)
    assert not told.admitted
    assert told.failed == ("partition: opens under the hospital's key",)
    assert (told.rows, told.fingerprint) == ({}, None)
    for purpose in ("statistics", "train", "evaluate"):
        with pytest.raises(PartitionDamaged):
            answer(damaged, run.invite(purpose), run.exchange)
        assert run.exchange.find(run.address(ANSWER_TOPICS[purpose])) is None  # type: ignore[index]


# Nothing of a row leaves.

PLANTED = {"age": 97.0, "trestbps": 123.4567, "chol": 234.5678, "thalach": 178.9012, "oldpeak": 3.4567, "ca": 2.3456}


def with_a_planted_patient(root: Path, keep: int) -> SiteHome:
    """A hospital with the first rows of Cleveland's and one patient whose values can be recognised."""
    home = SiteHome(root / "cleveland")
    rows = read_embedded(HEART, "cleveland").drop(columns="patient").head(keep)
    rows.loc[0, list(PLANTED)] = list(PLANTED.values())
    root.mkdir(exist_ok=True)
    rows.to_csv(root / "rows.csv", index=False)
    add_records(home, [root / "rows.csv"], HEART)
    (root / "rows.csv").unlink()
    partition_records(home, HEART, SplitOptions())
    return home


def test_no_answer_holds_a_value_a_row_or_a_patient(tmp_path: Path) -> None:
    home = with_a_planted_patient(tmp_path, keep=150)
    run = Run(weight=90)
    for purpose in ANSWER_TOPICS:
        with kept_at_home(home):
            answer(home, run.invite(purpose, fingerprint=fingerprint_of(home)), run.exchange)
    left = b""
    for topic in ANSWER_TOPICS.values():
        message = run.exchange.find(run.address(topic))
        left += encode(message) + (run.exchange.payload(message.payload) if message.payload else b"")
    assert b'"admitted":true' in left  # it has really answered
    tables = read_partition(home.partition, home.vault())
    rows = pd.concat(tables.values())
    assert len(rows) == 150
    assert (rows["chol"] == PLANTED["chol"]).sum() == 1
    for patient in rows["patient"]:
        assert patient.encode() not in left
    for name, value in PLANTED.items():
        if value == int(value):
            continue  # 97.0 may be a figure of another meaning
        low, high = NUMBERS[name]
        for form in (value, (value - low) / (high - low), (value - STATISTICS.mean[name]) / STATISTICS.deviation[name]):
            assert f"{form:.4f}".encode() not in left
            assert struct.pack("<d", form) not in left
            assert np.float32(form).tobytes() not in left
    assert str(tmp_path).encode() not in left


def test_a_hospital_with_few_validation_rows_tells_none_of_its_figures(tmp_path: Path) -> None:
    home = with_a_planted_patient(tmp_path, keep=60)  # 15 % of 60 rows: about nine
    assert len(read_partition(home.partition, home.vault())["validation"]) < 11
    run = Run()
    receipt = answer(home, run.invite("evaluate", fingerprint=fingerprint_of(home)), run.exchange)
    told = fetch(run.exchange, run.address("evaluation"), RoundEvaluation)
    assert (told.rows, told.loss, told.metrics) == (None, None, {})
    assert (receipt.rows, receipt.loss) == (None, None)


def test_a_partition_that_was_changed_after_its_admission_is_not_trained_on(tmp_path: Path) -> None:
    home = with_a_planted_patient(tmp_path, keep=150)
    run = Run()
    with pytest.raises(MessageRefused, match="not the one with which it was admitted"):
        answer(home, run.invite("train"), run.exchange)
    assert run.silent()
    answer(home, run.invite("validate"), run.exchange)
    admission = run.exchange.find(run.address("admission"))
    assert (admission.admitted, admission.failed) == (False, ("partition: the one that its receipt names",))


# What goes wrong at a hospital is told there.


def unforeseen() -> None:
    int("Sokolowska, chol 234.5678")


def foreseen() -> None:
    raise MessageRefused("round 1: another model")


def failing_in_pandas() -> None:
    pd.to_numeric(pd.Series(["98765.4321 Sokolowska"]))


@pytest.mark.parametrize("failure", [unforeseen, failing_in_pandas])
def test_the_text_of_an_unforeseen_error_stays_in_the_hospitals_log(
    failure: Callable[[], None], tmp_path: Path
) -> None:
    home = SiteHome(tmp_path / "north")
    with pytest.raises(SiteFailed, match=r"north: ValueError; the hospital's log") as caught, kept_at_home(home):
        failure()
    assert "Sokolowska" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    log = home.path / "logs" / "site.log"
    assert "Sokolowska" in log.read_text(encoding="utf-8")
    assert failure.__name__ in log.read_text(encoding="utf-8")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_an_error_of_fedmeds_own_passes_and_is_logged(tmp_path: Path) -> None:
    home = SiteHome(tmp_path / "north")
    for _ in range(2):
        with pytest.raises(MessageRefused, match="round 1: another model"), kept_at_home(home):
            foreseen()
    log = (home.path / "logs" / "site.log").read_text(encoding="utf-8")
    assert log.count("MessageRefused: round 1: another model") == 2


def test_where_nothing_fails_there_is_no_log(tmp_path: Path) -> None:
    with kept_at_home(SiteHome(tmp_path / "north")):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_unforeseen_error_while_answering_posts_nothing(home: SiteHome, tmp_path: Path) -> None:
    broken = SiteHome(tmp_path / "cleveland")
    shutil.copytree(home.path, broken.path)
    (broken.partition / "test.parquet").unlink()
    (broken.partition / "test.parquet").mkdir()  # a folder where a file should be: an OSError that nobody foresaw
    run = Run()
    with pytest.raises(SiteFailed, match="cleveland: IsADirectoryError"), kept_at_home(broken):
        answer(broken, run.invite("train"), run.exchange)
    assert run.silent()

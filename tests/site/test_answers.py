"""What a hospital answers, what it refuses, and that no row leaves it: real partitions, encrypted, in a folder."""

from __future__ import annotations

import shutil
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from one_hospital import ABSENT, FEATURES, HEART, NUMBERS, STATISTICS, ZERO, Run, restarted, rows_of

from fedmed.aggregation.codec import Moved, loss_in, to_vector
from fedmed.aggregation.stage import STAGES, Ask, Context, Reply, Stage, on_grid
from fedmed.data.partition import read_partition
from fedmed.data.split import SplitOptions
from fedmed.errors import MessageRefused, SiteFailed
from fedmed.site.desk import open_session
from fedmed.site.home import SiteHome, add_records, partition_records
from fedmed.site.log import kept_at_home
from fedmed.sources.reading import read_embedded
from fedmed.strategies.client import order_of
from fedmed.strategies.options import AggregationOptions
from fedmed.training.local import TrainingOptions, batches_of_round, train
from fedmed.weights import Layout, Weights, from_bytes, subtract
from fedmed.wire.messages import Admission, encode
from fedmed.wire.post import fetch, payload_of
from fedmed.wire.purposes import PURPOSES

ROUNDS = pytest.mark.parametrize("purpose", ["train", "score"])
PLANNED = pytest.mark.parametrize("purpose", ["train", "score", "evaluate"])


def test_an_update_is_one_local_training_weighed_and_on_the_grid(home: SiteHome) -> None:
    run = Run(home, "hungarian")
    receipt = run.ask("train")
    update, rows = run.answer("train"), rows_of(home)
    assert (update.weight, update.base, update.plan) == (rows, run.model.sha256, run.plan.digest)
    desk = open_session(home).desk(run.plan)
    batches = batches_of_round(rows, TrainingOptions(), 1, order_of(2026, "cleveland", rows))
    trained = train(desk.problem(), ZERO, batches, rate=TrainingOptions().learning_rate)
    # The change of every weight, the normaliser, and at the end the loss and the rows that it is of.
    size = FEATURES + 1 + 1 + 2
    sent = from_bytes(payload_of(run.exchange, update.payload), {"update": Layout("I32", (size,))})["update"]
    alone = Moved(subtract(trained.state, ZERO), {}, {}, 1.0, trained.loss, rows)
    assert torch.equal(sent, run.plan.grid.encode(to_vector(alone, {}, desk.how.form, rows), rows))
    assert int((sent != 0).sum()) > FEATURES / 2
    assert loss_in(sent) == pytest.approx(trained.loss, rel=1e-2)  # on the grid, whose steps are all alike
    assert (receipt.site, receipt.purpose, receipt.reused, receipt.refused) == ("cleveland", "train", False, False)
    assert receipt.name == f"to/coordinator/{run.name}/001.00001.train.cleveland"


def test_a_hospital_weighs_what_the_plan_says_but_never_more_than_its_rows(home: SiteHome) -> None:
    capped = Run(home, "hungarian", weight=40)  # so that no hospital has too large a share
    assert capped.told("train").weight == 40
    more = Run(home, "hungarian", weight=rows_of(home) + 1)
    assert "more than its rows give it" in more.refused("train")


@pytest.mark.parametrize("more", [-1, 1])
def test_a_plan_that_gives_the_hospital_other_rows_than_it_has_is_refused(more: int, home: SiteHome) -> None:
    run = Run(home, "hungarian", rows=rows_of(home) + more, weight=40)
    assert f"by the plan it has {rows_of(home) + more} training rows, which it has not" in run.refused("train")


def test_a_score_of_a_model_that_knows_nothing(home: SiteHome) -> None:
    run = Run(home, "hungarian")
    told = run.told("score")
    tables = read_partition(home.partition, home.vault())
    label = tables["validation"]["target"]
    assert told.model == run.model.sha256
    assert told.rows == len(label)
    # A constant: every pair is a tie. Its intercept is fitted to training, where 45 % are ill: nobody is called ill.
    assert tables["train"]["target"].mean() < 0.5
    assert told.metrics["auroc"] == 0.5
    assert told.metrics["accuracy"] == pytest.approx((label == 0).mean(), abs=1e-6)


def test_a_model_that_was_not_posted_is_missed(home: SiteHome) -> None:
    reason = Run(home, "hungarian").refused("train", models={"federated": ABSENT})
    assert "was not posted" in reason


MODELS: dict[str, Weights] = {
    "NaN": {**ZERO, "bias": torch.tensor([float("nan")])},
    "another shape": {**ZERO, "weight": torch.zeros(1, FEATURES + 1)},
    "another type": {**ZERO, "bias": torch.zeros(1, dtype=torch.float64)},
    "a name too many": {**ZERO, "backdoor": torch.zeros(1)},
}


@pytest.mark.parametrize("fault", MODELS)
@PLANNED
def test_a_model_is_refused_with(purpose: str, fault: str, home: SiteHome) -> None:
    run = Run(home, "hungarian")
    reason = run.refused(purpose, models={"federated": run.put(MODELS[fault])})
    assert "payload tensors" in reason or "tensor " in reason


@pytest.mark.parametrize("names", [(), ("pooled",), ("federated", "pooled"), ("federated", "memory")])
@ROUNDS
def test_a_round_is_on_the_federated_model_alone(purpose: str, names: tuple[str, ...], home: SiteHome) -> None:
    run = Run(home, "hungarian")
    reason = run.refused(purpose, models=dict.fromkeys(names, run.model))
    assert f"expected ['federated'], got {sorted(names)}" in reason


def test_a_strategy_that_shares_a_memory_is_not_answered_without_it(home: SiteHome) -> None:
    run = Run(home, "hungarian", aggregation=AggregationOptions(strategy="scaffold"))
    assert "expected ['federated', 'memory'], got ['federated']" in run.refused("train")


def test_an_evaluation_without_the_federated_model_is_refused(home: SiteHome) -> None:
    run = Run(home, "hungarian")
    assert "expected the federated model" in run.refused("evaluate", models={"pooled": run.model})


@ROUNDS
def test_a_round_that_was_answered_for_one_model_is_not_answered_for_another(purpose: str, home: SiteHome) -> None:
    run = Run(home, "hungarian")
    first = run.told(purpose)
    elsewhere = Run(home, "hungarian", run=run.name)  # where the first question and its answer do not stand
    other = elsewhere.put({**ZERO, "bias": torch.ones(1)})
    before = elsewhere.standing()
    with pytest.raises(MessageRefused, match="round 1 was answered for another question already"):
        elsewhere.ask(purpose, models={"federated": other})
    assert elsewhere.standing() == before
    assert run.answer(purpose) == first


@pytest.mark.parametrize("purpose", ["validate", "describe", "statistics", "train", "score"])
def test_an_answer_that_was_given_is_not_computed_again(
    purpose: str, small: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(small)
    first = run.ask(purpose)
    said = small.outbox.said(small.outbox.entries()[-1])
    shutil.rmtree(small.partition)  # a hospital with no data at all could not compute one
    restarted(monkeypatch)
    second = run.ask(purpose)
    assert (first.reused, second.reused) == (False, True)
    assert second == first._replace(reused=True)
    assert small.outbox.said(small.outbox.entries()[-1]) == said


@pytest.mark.parametrize("purpose", ["validate", "describe", "statistics", "train", "score"])
def test_a_hospital_whose_outbox_is_gone_gives_the_same_bytes(
    purpose: str, small: SiteHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(small)
    run.ask(purpose)
    first = small.outbox.said(small.outbox.entries()[-1])
    shutil.rmtree(small.outbox.folder)
    restarted(monkeypatch)
    receipt = run.ask(purpose)  # other bytes would be a conflict
    second = small.outbox.said(small.outbox.entries()[-1])
    assert not receipt.reused
    assert (second.message, second.payload, second.kept) == (first.message, first.payload, first.kept)


def test_another_round_draws_other_batches(home: SiteHome) -> None:
    run = Run(home, "hungarian")
    assert len({run.told("train", round=number).payload.sha256 for number in (1, 2, 3)}) == 3


def test_a_partition_that_does_not_open_fails_closed(small: SiteHome) -> None:
    run = Run(small)
    path = small.partition / "train.parquet"
    raw = path.read_bytes()
    path.write_bytes(raw[:200] + bytes([raw[200] ^ 1]) + raw[201:])
    with pytest.MonkeyPatch.context() as patch:
        restarted(patch)
        told = run.told("validate")
        assert not told.admitted
        assert told.failed == ("partition: opens under the hospital's key",)
        assert (told.rows, told.fingerprint) == ({}, None)
        for purpose in ("statistics", "describe", "train", "score", "evaluate"):
            assert "train.parquet" in run.refused(purpose)


# A stage's question.


def drawn_in_secret(context: Context) -> Reply:
    secret = context.secret(16)
    return Reply(secret[:8], secret)


def shifted(grid: Any) -> Stage:
    """As the grid alone, with a number from the hospital's secret on top: what is kept must come back."""
    plain = on_grid(grid)
    return plain._replace(
        send=lambda vector, context: plain.send(vector, context) + context.kept["grid.draw"][15],
        asks=(Ask("draw", "before", drawn_in_secret, "eight bytes that mean nothing"),),
    )


def test_what_a_stage_draws_is_kept_and_is_drawn_once(small: SiteHome, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Run(small)
    plain = alone.told("train")
    monkeypatch.setitem(STAGES, "grid", shifted)
    run = Run(small)
    told = run.told("stage", about="grid.draw")
    kept = small.outbox.said(small.outbox.entries()[-1]).kept
    assert len(kept) == 16
    assert payload_of(run.exchange, told.payload) == kept[:8]  # the other half never leaves
    restarted(monkeypatch)
    assert run.ask("stage", about="grid.draw").reused
    layout = {"update": Layout("I32", (FEATURES + 4,))}
    before, after = (
        from_bytes(payload_of(each.exchange, update.payload), layout)["update"]
        for each, update in ((alone, plain), (run, run.told("train")))
    )
    assert torch.equal(after, before + kept[15])


def test_a_question_that_no_stage_of_the_plan_has_is_refused(home: SiteHome) -> None:
    reason = Run(home, "hungarian").refused("stage", about="mask.key")
    assert "the plan has no stage with the question 'mask.key'" in reason


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
    run = Run(home, weight=90)
    left = b""
    for purpose in PURPOSES:
        message = run.refused(purpose) if purpose == "stage" else run.told(purpose)
        if purpose != "stage":
            left += encode(message) + (payload_of(run.exchange, message.payload) if message.payload else b"")
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


def test_a_hospital_with_few_validation_rows_tells_none_of_its_figures(small: SiteHome) -> None:
    assert len(read_partition(small.partition, small.vault())["validation"]) < 11  # 15 % of 60 rows: about nine
    told = Run(small).told("score")
    assert (told.rows, told.loss, told.metrics) == (None, None, {})


def test_a_hospital_with_fewer_training_rows_than_the_minimum_cell_does_not_train(small: SiteHome) -> None:
    (small.path / "site.yaml").write_text("minimum_cell: 50\n")
    assert "fewer training rows than the minimum cell; it may not tell how many" in Run(small).refused("train")


def test_a_partition_that_was_changed_after_its_admission_is_not_trained_on(small: SiteHome) -> None:
    run = Run(small)
    for purpose in ("describe", "statistics", "train", "score", "evaluate"):
        assert "not the one with which it was admitted" in run.refused(purpose, fingerprint="f" * 64)
    receipt = run.ask("validate", fingerprint="f" * 64)
    admission = fetch(run.exchange, run.question("validate").answer_address, Admission)
    assert receipt.name == admission.address.name
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


def test_an_unforeseen_error_while_answering_is_refused_by_its_type_alone(small: SiteHome) -> None:
    (small.partition / "test.parquet").unlink()
    (small.partition / "test.parquet").mkdir()  # a folder where a file should be: an OSError that nobody foresaw
    run = Run(small, rows=40)
    with pytest.raises(SiteFailed, match="cleveland: IsADirectoryError"):
        run.ask("train", last=False)
    assert run.exchange.names("to/coordinator/") == small.outbox.entries() == []
    reason = run.refused("train")
    assert reason == "cleveland: IsADirectoryError; the hospital's log (logs/site.log) has the details"
    assert (small.path / "logs" / "site.log").read_text(encoding="utf-8").count("test.parquet") >= 2

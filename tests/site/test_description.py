"""Four hospitals describe their training rows, through the real exchange, and none tells a small count."""

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
from one_hospital import HEART, fingerprint_of
from plain import agents

from fedmed.aggregation.description import description_layout
from fedmed.aggregation.summaries import NumberSummary
from fedmed.coordinator.admission import Admissions
from fedmed.coordinator.asking import Asked, ask_all
from fedmed.coordinator.description import (
    FederatedDescription,
    ask_to_describe,
    gather_descriptions,
    read_description,
    write_description,
)
from fedmed.data.partition import read_partition
from fedmed.data.split import SplitOptions
from fedmed.errors import QuorumNotMet, WorkspaceError
from fedmed.exchange.base import Exchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.settings import Settings
from fedmed.site.agent import step
from fedmed.site.home import SiteHome, partition_records
from fedmed.weights import from_bytes, to_bytes
from fedmed.wire.messages import Admission, Description, Question, Refusal
from fedmed.wire.post import fetch, find, payload_of, post, reference

SITES = ("cleveland", "hungarian", "switzerland", "va")
SETTINGS = Settings.model_validate({"cohort": "heart.yaml", "federation": {"sites": SITES}})


@pytest.fixture(scope="module")
def partitioned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteHome]:
    """The embedded hospitals, partitioned; tests work on copies."""
    root = tmp_path_factory.mktemp("sites")
    homes = {name: SiteHome(root / name) for name in SITES}
    for home in homes.values():
        partition_records(home, HEART, SplitOptions())
    return homes


@pytest.fixture
def homes(partitioned: dict[str, SiteHome], tmp_path: Path) -> dict[str, SiteHome]:
    for name, home in partitioned.items():
        shutil.copytree(home.path, tmp_path / name)
    return {name: SiteHome(tmp_path / name) for name in partitioned}


def admitted(homes: dict[str, SiteHome]) -> Admissions:
    return Admissions(
        validation="v",
        sites={
            name: Admission(
                run="v",
                sender=name,
                purpose="validate",
                question="0" * 64,
                admitted=True,
                failed=(),
                expectations=1,
                fingerprint=fingerprint_of(home),
                rows={},
            )
            for name, home in homes.items()
        },
    )


def questions(homes: dict[str, SiteHome], settings: Settings = SETTINGS, attempt: int = 1) -> list[Question]:
    return ask_to_describe(settings, HEART, admitted(homes), attempt)


def describe(homes: dict[str, SiteHome]) -> tuple[FederatedDescription, Exchange]:
    exchange, asked = MemoryExchange(), questions(homes)
    came = ask_all(exchange, agents(homes, exchange), asked, Description)
    return gather_descriptions(asked[0].run, SETTINGS, HEART, came, exchange), exchange


def description_of(site: str, homes: dict[str, SiteHome], exchange: Exchange) -> Description:
    asked = {question.recipient: question for question in questions(homes)}
    return fetch(exchange, asked[site].answer_address, Description)


def said(home: SiteHome, question: Question) -> Description | Refusal:
    """What a hospital says in an exchange of its own."""
    exchange = MemoryExchange()
    receipt = step(home, exchange, question.run, post(exchange, question))
    message: Description | Refusal = find(exchange, receipt.name)
    return message


def refused(home: SiteHome, question: Question) -> str:
    message = said(home, question)
    assert isinstance(message, Refusal)
    return message.reason


def training_rows(homes: dict[str, SiteHome]) -> dict[str, pd.DataFrame]:
    return {name: read_partition(home.partition, home.vault())["train"] for name, home in homes.items()}


def test_the_training_rows_of_four_hospitals_are_described_within_the_bounds(homes: dict[str, SiteHome]) -> None:
    description, _ = describe(homes)
    tables = training_rows(homes)
    together = pd.concat(tables.values())
    assert description.overall.rows == len(together)
    assert {site: part.rows for site, part in description.hospitals.items()} == {s: len(t) for s, t in tables.items()}
    for part, rows in [(description.overall, together), *((description.hospitals[s], tables[s]) for s in SITES)]:
        assert set(part.columns) == {"target", *HEART.columns}
        for name, summary in part.columns.items():
            column = rows[name]
            assert summary.missing.at_least <= column.isna().sum() <= summary.missing.at_most
            if isinstance(summary, NumberSummary):
                if summary.hospitals == len(SITES) or (part is not description.overall and summary.hospitals):
                    for share, quantile in summary.quantiles.items():
                        true = np.quantile(column.dropna(), float(share[:-2]) / 100, method="inverted_cdf")
                        assert quantile.at_least <= true <= quantile.at_most
                    assert summary.mean == pytest.approx(column.mean(), abs=0.05 * column.std())
            else:
                for code, count in summary.counts.items():
                    assert count.at_least <= (column.astype(str) == code).sum() <= count.at_most
    age = description.overall.columns["age"]
    assert isinstance(age, NumberSummary)
    assert age.mean == pytest.approx(together["age"].mean(), abs=1e-6)
    assert age.variance == pytest.approx(together["age"].var(ddof=0), rel=1e-6)
    median = age.quantiles["50 %"]
    assert median.at_most - median.at_least == 2.0  # one bin of two years


def test_no_count_under_the_minimum_leaves(homes: dict[str, SiteHome]) -> None:
    description, exchange = describe(homes)
    tables = training_rows(homes)
    assert (tables["switzerland"]["target"] == 0).sum() < 11
    assert str(description.hospitals["switzerland"].columns["target"].counts["0"]).startswith("at most")  # type: ignore[union-attr]
    for site in SITES:
        message = description_of(site, homes, exchange)
        counts = from_bytes(payload_of(exchange, message.payload), description_layout(HEART))["counts"]
        assert not ((counts >= 0) & (counts < 11)).any()


def test_no_patient_and_no_value_leaves(homes: dict[str, SiteHome]) -> None:
    description, exchange = describe(homes)
    left = description.model_dump_json().encode()
    for site in SITES:
        message = description_of(site, homes, exchange)
        left += message.model_dump_json().encode() + payload_of(exchange, message.payload)
    for rows in training_rows(homes).values():
        assert not [patient for patient in rows["patient"] if patient.encode() in left]
        present = {float(v) for name in ("trestbps", "chol", "thalach") for v in rows[name].dropna() if v > 1}
        assert not [value for value in present if struct.pack("<d", value) in left]


def test_a_hospitals_own_minimum_holds_if_it_is_higher(homes: dict[str, SiteHome]) -> None:
    (homes["cleveland"].path / "site.yaml").write_text("minimum_cell: 30\n")
    description, exchange = describe(homes)
    assert description.hospitals["cleveland"].minimum_cell == description.overall.minimum_cell == 30
    assert description.hospitals["va"].minimum_cell == 11
    message = description_of("cleveland", homes, exchange)
    counts = from_bytes(payload_of(exchange, message.payload), description_layout(HEART))["counts"]
    assert int(counts[counts >= 0].min()) >= 30


def test_a_partition_is_not_described_under_a_second_minimum(homes: dict[str, SiteHome]) -> None:
    describe(homes)
    other = SETTINGS.model_copy(update={"privacy": SETTINGS.privacy.model_copy(update={"minimum_cell": 12})})
    attempts = [questions(homes, other, attempt)[0] for attempt in (1, 2, 3)]
    reason = refused(homes["cleveland"], attempts[0])
    assert "cleveland: this partition was described under a minimum cell of 11" in reason
    kept = homes["cleveland"].path / "described.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    kept.write_text("{")
    assert "cannot be read" in refused(homes["cleveland"], attempts[1])
    kept.unlink()
    # What was refused stays refused: who asks again asks in a new attempt.
    assert refused(homes["cleveland"], attempts[0]) == reason
    assert isinstance(said(homes["cleveland"], attempts[2]), Description)


def test_the_same_question_again_gives_the_same_bytes(homes: dict[str, SiteHome]) -> None:
    (first, *_) = questions(homes)
    messages = [said(homes["cleveland"], first) for _ in range(2)]
    assert messages[0] == messages[1]
    # In another attempt it is worked on anew, and the tables are the same.
    again = said(homes["cleveland"], questions(homes, attempt=2)[0])
    assert again != messages[0]
    assert again.payload == messages[0].payload


def test_a_hospital_with_few_training_rows_is_not_described(homes: dict[str, SiteHome]) -> None:
    (homes["switzerland"].path / "site.yaml").write_text("minimum_cell: 50\n")
    asked = {question.recipient: question for question in questions(homes)}
    reason = refused(homes["switzerland"], asked["switzerland"])
    assert "fewer training rows than twice the minimum cell" in reason


def told(homes: dict[str, SiteHome], alter: Callable[[Description, bytes], tuple[Description, bytes]]) -> Any:
    """What came of asking all, Cleveland having told something else than it should, and the exchange."""
    exchange, honest = MemoryExchange(), MemoryExchange()
    asked = {question.recipient: question for question in questions(homes)}
    step(homes["cleveland"], honest, asked["cleveland"].run, post(honest, asked["cleveland"]))
    message = description_of("cleveland", homes, honest)
    post(exchange, *alter(message, payload_of(honest, message.payload)))
    return ask_all(exchange, agents(homes, exchange), list(asked.values()), Description), exchange


def with_small_minimum(message: Description, payload: bytes) -> tuple[Description, bytes]:
    return message.model_copy(update={"minimum_cell": 5}), payload


def with_more_rows(message: Description, payload: bytes) -> tuple[Description, bytes]:
    return message.model_copy(update={"rows": message.rows + 1}), payload


def with_another_shape(message: Description, payload: bytes) -> tuple[Description, bytes]:
    tables = from_bytes(payload, description_layout(HEART))
    data = to_bytes({**tables, "counts": tables["counts"][1:]})
    return message.model_copy(update={"payload": reference(data)}), data


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (with_small_minimum, "its minimum cell is under the 11 that were asked for"),
        (with_more_rows, "target: expected counts of"),
        (with_another_shape, "tensor 'counts': expected I64"),
    ],
)
def test_a_description_that_breaks_the_rules_is_left_out(
    homes: dict[str, SiteHome],
    alter: Callable[[Description, bytes], tuple[Description, bytes]],
    reason: str,
) -> None:
    came, exchange = told(homes, alter)
    description = gather_descriptions(questions(homes)[0].run, SETTINGS, HEART, came, exchange)
    assert list(description.hospitals) == ["hungarian", "switzerland", "va"]
    assert reason in description.failed["cleveland"]


def test_too_few_descriptions_are_none(homes: dict[str, SiteHome]) -> None:
    exchange, (first, *_) = MemoryExchange(), questions(homes)
    came = ask_all(exchange, agents(homes, exchange), [first], Description)
    with pytest.raises(QuorumNotMet, match="there are descriptions of 1 of 2 hospitals"):
        gather_descriptions(first.run, SETTINGS, HEART, Asked(came.answers, {"va": "SiteFailed"}), exchange)
    with pytest.raises(QuorumNotMet, match="no hospital is admitted"):
        ask_to_describe(SETTINGS, HEART, Admissions(validation="v", sites={}))


def test_a_written_description_is_read_again(homes: dict[str, SiteHome], tmp_path: Path) -> None:
    description, _ = describe(homes)
    path = tmp_path / "description.json"
    with pytest.raises(WorkspaceError, match="fedmed data describe"):
        read_description(path)
    write_description(path, description)
    assert read_description(path) == description
    path.write_text("{}")
    with pytest.raises(WorkspaceError, match="not a description"):
        read_description(path)

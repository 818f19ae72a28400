"""Four hospitals describe their training rows, through the real exchange, and none tells a small count."""

from __future__ import annotations

import json
import shutil
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedmed.aggregation.description import description_layout
from fedmed.aggregation.summaries import NumberSummary
from fedmed.coordinator.admission import Admissions
from fedmed.coordinator.description import (
    FederatedDescription,
    gather_descriptions,
    invite_to_describe,
    read_description,
    write_description,
)
from fedmed.data.cohort import read_cohort
from fedmed.data.partition import read_partition
from fedmed.data.split import SplitOptions
from fedmed.errors import MessageRefused, QuorumNotMet, WorkspaceError
from fedmed.exchange.base import Exchange, fetch, reference
from fedmed.exchange.memory import MemoryExchange
from fedmed.settings import Settings
from fedmed.site.answers import answer
from fedmed.site.home import SiteHome, partition_records
from fedmed.weights import from_bytes, to_bytes
from fedmed.wire.messages import COORDINATOR, Address, Admission, Description, Invitation

HEART = read_cohort(Path(__file__).parents[2] / "cohorts" / "heart_disease.yaml")
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


def fingerprint_of(home: SiteHome) -> str:
    return str(json.loads((home.partition / "manifest.json").read_bytes())["manifest"]["fingerprint"])


def admitted(homes: dict[str, SiteHome]) -> Admissions:
    return Admissions(
        validation="v",
        sites={
            name: Admission(
                run="v",
                sender=name,
                admitted=True,
                failed=(),
                expectations=1,
                fingerprint=fingerprint_of(home),
                rows={},
            )
            for name, home in homes.items()
        },
    )


def invitations(homes: dict[str, SiteHome], settings: Settings = SETTINGS) -> list[Invitation]:
    return invite_to_describe(settings, HEART, admitted(homes))


def describe(homes: dict[str, SiteHome]) -> tuple[FederatedDescription, Exchange]:
    exchange, asked = MemoryExchange(), invitations(homes)
    for invitation in asked:
        answer(homes[invitation.recipient], invitation, exchange)
    return gather_descriptions(asked[0].run, SETTINGS, HEART, SITES, {}, exchange), exchange


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
        message = fetch(exchange, Address(description.run, 0, "description", site, COORDINATOR), Description)
        counts = from_bytes(exchange.payload(message.payload), description_layout(HEART))["counts"]
        assert not ((counts >= 0) & (counts < 11)).any()


def test_no_patient_and_no_value_leaves(homes: dict[str, SiteHome]) -> None:
    description, exchange = describe(homes)
    left = description.model_dump_json().encode()
    for site in SITES:
        message = fetch(exchange, Address(description.run, 0, "description", site, COORDINATOR), Description)
        left += message.model_dump_json().encode() + exchange.payload(message.payload)
    for rows in training_rows(homes).values():
        assert not [patient for patient in rows["patient"] if patient.encode() in left]
        present = {float(v) for name in ("trestbps", "chol", "thalach") for v in rows[name].dropna() if v > 1}
        assert not [value for value in present if struct.pack("<d", value) in left]


def test_a_hospitals_own_minimum_holds_if_it_is_higher(homes: dict[str, SiteHome]) -> None:
    (homes["cleveland"].path / "site.yaml").write_text("minimum_cell: 30\n")
    description, exchange = describe(homes)
    assert description.hospitals["cleveland"].minimum_cell == description.overall.minimum_cell == 30
    assert description.hospitals["va"].minimum_cell == 11
    message = fetch(exchange, Address(description.run, 0, "description", "cleveland", COORDINATOR), Description)
    counts = from_bytes(exchange.payload(message.payload), description_layout(HEART))["counts"]
    assert int(counts[counts >= 0].min()) >= 30


def test_a_partition_is_not_described_under_a_second_minimum(homes: dict[str, SiteHome]) -> None:
    describe(homes)
    other = SETTINGS.model_copy(update={"privacy": SETTINGS.privacy.model_copy(update={"minimum_cell": 12})})
    (first, *_) = invitations(homes, other)
    with pytest.raises(MessageRefused, match="cleveland: this partition was described under a minimum cell of 11"):
        answer(homes["cleveland"], first, MemoryExchange())
    kept = homes["cleveland"].path / "described.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    kept.write_text("{")
    with pytest.raises(MessageRefused, match="cannot be read"):
        answer(homes["cleveland"], first, MemoryExchange())
    kept.unlink()
    answer(homes["cleveland"], first, MemoryExchange())


def test_the_same_question_again_gives_the_same_bytes(homes: dict[str, SiteHome]) -> None:
    (first, *_) = invitations(homes)
    digests = {answer(homes["cleveland"], first, MemoryExchange()).sha256 for _ in range(2)}
    assert len(digests) == 1


def test_a_hospital_with_few_training_rows_is_not_described(homes: dict[str, SiteHome]) -> None:
    (homes["switzerland"].path / "site.yaml").write_text("minimum_cell: 50\n")
    asked = {invitation.recipient: invitation for invitation in invitations(homes)}
    with pytest.raises(MessageRefused, match="fewer training rows than twice the minimum cell"):
        answer(homes["switzerland"], asked["switzerland"], MemoryExchange())


def posted(homes: dict[str, SiteHome], alter: Callable[[Description, bytes], tuple[Description, bytes]]) -> Exchange:
    """The exchange after all described themselves, and Cleveland in another way than it should."""
    exchange, honest = MemoryExchange(), MemoryExchange()
    for invitation in invitations(homes):
        place = honest if invitation.recipient == "cleveland" else exchange
        answer(homes[invitation.recipient], invitation, place)
    run = invitations(homes)[0].run
    message = fetch(honest, Address(run, 0, "description", "cleveland", COORDINATOR), Description)
    exchange.post(*alter(message, honest.payload(message.payload)))
    return exchange


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
    exchange = posted(homes, alter)
    description = gather_descriptions(invitations(homes)[0].run, SETTINGS, HEART, SITES, {}, exchange)
    assert list(description.hospitals) == ["hungarian", "switzerland", "va"]
    assert reason in description.failed["cleveland"]


def test_too_few_descriptions_are_none(homes: dict[str, SiteHome]) -> None:
    exchange, (first, *_) = MemoryExchange(), invitations(homes)
    answer(homes["cleveland"], first, exchange)
    with pytest.raises(QuorumNotMet, match="there are descriptions of 1 of 2 hospitals"):
        gather_descriptions(first.run, SETTINGS, HEART, ["cleveland"], {"va": "SiteFailed"}, exchange)
    with pytest.raises(QuorumNotMet, match="no hospital is admitted"):
        invite_to_describe(SETTINGS, HEART, Admissions(validation="v", sites={}))


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

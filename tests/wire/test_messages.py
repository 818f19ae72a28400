"""Every message comes back from its bytes as it was, and nothing else is taken for one."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.aggregation.grid import FixedPoint
from fedmed.data.cohort import read_cohort
from fedmed.errors import MessageRefused
from fedmed.evaluation.comparison import compare
from fedmed.evaluation.curves import CalibrationBin, Curves, RiskGroup, RocCurve
from fedmed.evaluation.measurement import Measurement
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import NetworkOptions
from fedmed.strategies.options import AggregationOptions
from fedmed.training.local import TrainingOptions
from fedmed.training.personal import PersonalOptions
from fedmed.wire.messages import (
    LARGEST_MESSAGE,
    Admission,
    AnyMessage,
    Description,
    GlobalModel,
    Invitation,
    Message,
    Payload,
    Plan,
    RoundEvaluation,
    ServerMemory,
    Statistics,
    TestReport,
    Update,
    decode,
    encode,
)

HEART = read_cohort(Path(__file__).parents[2] / "cohorts" / "heart_disease.yaml")
FILE = Payload(sha256="a" * 64, size=5)
COMPARISON = compare(
    "north",
    [0, 1] * 30,
    federated=[0.2, 0.8] * 30,
    own=None,
    reference=0,
    resamples=100,
    generator=np.random.default_rng(1),
)
MESSAGES: dict[str, Message] = {
    "invitation": Invitation(
        run="r",
        round=2,
        recipient="north",
        purpose="train",
        minimum_cell=11,
        fingerprint="f" * 64,
        plan="b" * 64,
        models={"federated": FILE},
    ),
    "plan": Plan(
        run="r",
        participants=("north", "south"),
        weights={"north": 300, "south": 252},
        fingerprints={"north": "f" * 64, "south": "e" * 64},
        cohort=HEART,
        statistics=InputStatistics(mean={"age": 53.510869565217391}, deviation={"age": 0.1}),
        network=NetworkOptions(),
        training=TrainingOptions(),
        aggregation=AggregationOptions(),
        personal=PersonalOptions(),
        grid=FixedPoint(bits=32, limit=16.0, weight=552),
        start="d" * 64,
    ),
    "model": GlobalModel(run="r", round=1, payload=FILE, participants=("north",)),
    "memory": ServerMemory(run="r", round=1, recipient="coordinator", payload=FILE),
    "description": Description(run="r", sender="north", rows=60, minimum_cell=11, payload=FILE),
    "admission": Admission(
        run="r",
        sender="north",
        admitted=False,
        failed=("age: range",),
        expectations=56,
        fingerprint=None,
        rows={"train": 60, "test": None},
    ),
    "statistics": Statistics(run="r", sender="north", payload=FILE),
    "update": Update(
        run="r", round=1, sender="north", plan="b" * 64, base="c" * 64, weight=3, rows=3, loss=0.7, payload=FILE
    ),
    "evaluation": RoundEvaluation(
        run="r", round=1, sender="north", model="c" * 64, rows=None, loss=None, metrics={"accuracy": 0.5, "brier": 0.2}
    ),
    "report": TestReport(
        run="r",
        round=1,
        sender="north",
        models={"federated": "c" * 64},
        measurements={"federated": {"auroc": Measurement(value=0.81)}},
        comparison=COMPARISON,
        curves=Curves(),
        subgroups={"sex": {"0": {"auroc": Measurement(reason="suppressed")}}},
    ),
}
every_message = pytest.mark.parametrize("kind", MESSAGES)


def test_every_kind_of_message_is_tried_here() -> None:
    union = get_args(get_args(AnyMessage)[0])
    assert {type(message) for message in MESSAGES.values()} == set(union)
    assert {message.kind for message in MESSAGES.values()} == set(MESSAGES)


@every_message
def test_a_message_comes_back_as_it_was_and_its_bytes_are_the_same_again(kind: str) -> None:
    data = encode(MESSAGES[kind])
    found = decode(data)
    assert found == MESSAGES[kind]
    assert type(found) is type(MESSAGES[kind])
    assert encode(found) == data
    assert found.address == MESSAGES[kind].address


@every_message
def test_a_message_is_json_without_a_number_that_json_has_not(kind: str) -> None:
    json.loads(encode(MESSAGES[kind]), parse_constant=pytest.fail)


def altered(kind: str, /, **changes: Any) -> bytes:
    return json.dumps({**json.loads(encode(MESSAGES[kind])), **changes}).encode()


@every_message
@pytest.mark.parametrize(
    "changes",
    [
        {"note": "x"},
        {"kind": "letter"},
        {"kind": None},
        {"run": "../r"},
        {"round": -1},
        {"round": 1.5},
        {"sender": "NORTH"},
        {"recipient": "a/b"},
        {"payload": {"sha256": "a" * 64, "size": -1}},
        {"payload": {"sha256": "a" * 63, "size": 1}},
        {"payload": {"sha256": "a" * 64, "size": 1, "url": "file:///etc/passwd"}},
        {"payload": "bytes"},
    ],
    ids=str,
)
def test_a_message_is_refused_with(kind: str, changes: dict[str, Any]) -> None:
    with pytest.raises(MessageRefused):
        decode(altered(kind, **changes))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("invitation", {"purpose": "dump"}),
        ("invitation", {"minimum_cell": 4}),
        ("invitation", {"plan": "b"}),
        ("update", {"weight": 0}),
        ("update", {"rows": 0}),
        ("update", {"weight": 2.5}),
        ("update", {"payload": None}),
        ("update", {"base": "latest"}),
        ("statistics", {"payload": None}),
        ("admission", {"fingerprint": "x"}),
        ("plan", {"participants": ["../north"]}),
        ("plan", {"grid": {"bits": 8, "limit": 16, "weight": 1}}),
    ],
)
def test_a_value_that_its_kind_does_not_allow_is_refused(kind: str, changes: dict[str, Any]) -> None:
    with pytest.raises(MessageRefused, match=kind):
        decode(altered(kind, **changes))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_loss_that_is_not_finite_is_refused(number: str) -> None:
    with pytest.raises(MessageRefused, match="loss"):
        decode(encode(MESSAGES["update"]).replace(b'"loss":0.7', b'"loss":' + number.encode()))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"{",
        b"\x00",
        b"\xff\xfe{}",
        b'"update"',
        b"[" * 100_000,
        pickle.dumps({"kind": "update"}),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(MessageRefused):
        decode(data)


def test_an_oversized_message_is_refused() -> None:
    data = encode(MESSAGES["update"])
    assert decode(data + b" " * (LARGEST_MESSAGE - len(data))) == MESSAGES["update"]
    with pytest.raises(MessageRefused, match=f"at most {LARGEST_MESSAGE} bytes, got {LARGEST_MESSAGE + 1}"):
        decode(data + b" " * (LARGEST_MESSAGE - len(data) + 1))


def test_a_refusal_quotes_no_value() -> None:
    with pytest.raises(MessageRefused) as caught:
        decode(altered("update", loss="98765.4321 Sokolowska", plan="98765.4321"))
    assert "98765" not in str(caught.value)
    assert "Sokolowska" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_message_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        MESSAGES["update"].round = 2


parties = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
payloads = st.builds(Payload, sha256=digests, size=st.integers(0, 2**40))
losses = st.floats(0, 1e9)
counts = st.none() | st.integers(1, 10**9)
shared = {"run": parties, "round": st.integers(0, 10**6), "sender": parties, "recipient": parties}
figures = st.builds(Measurement, value=st.floats(-1e6, 1e6)) | st.just(Measurement(reason="suppressed", low=0.65))
tables = st.dictionaries(st.text(max_size=5), figures, max_size=3)
any_message = st.one_of(
    st.builds(
        Update,
        **shared,
        plan=digests,
        base=digests,
        weight=st.integers(1),
        rows=st.integers(1, 10**9),
        loss=losses,
        payload=payloads,
    ),
    st.builds(
        RoundEvaluation,
        **shared,
        model=digests,
        rows=counts,
        loss=st.none() | losses,
        metrics=st.dictionaries(st.sampled_from(["accuracy", "c_index", "recall_2"]), st.floats(0, 1), max_size=3),
    ),
    st.builds(Statistics, **shared, payload=payloads),
    st.builds(GlobalModel, **shared, payload=payloads, participants=st.lists(parties, max_size=3).map(tuple)),
    st.builds(
        Admission,
        **shared,
        admitted=st.booleans(),
        failed=st.lists(st.text(max_size=9), max_size=3).map(tuple),
        expectations=st.integers(0, 99),
        fingerprint=st.none() | digests,
        rows=st.dictionaries(st.text(max_size=5), counts, max_size=3),
    ),
    st.builds(
        TestReport,
        **shared,
        models=st.dictionaries(parties, digests, max_size=2),
        measurements=st.dictionaries(parties, tables, max_size=2),
        comparison=st.just(COMPARISON),
        curves=st.builds(
            Curves,
            roc=st.none() | st.just(RocCurve(true_positive_rate=(0.0, 0.5, 1.0))),
            calibration=st.none() | st.just((CalibrationBin(mean_prediction=0.2, observed_share=0.25, rows=40),)),
            risk_groups=st.none() | st.just((RiskGroup(rows=30, times=(0.0, 1.0), survival=(1.0, 0.5)),)),
        ),
        subgroups=st.dictionaries(parties, st.dictionaries(parties, tables, max_size=2), max_size=2),
    ),
    st.builds(
        Invitation,
        **shared,
        purpose=st.sampled_from(["validate", "statistics", "train", "evaluate", "test"]),
        minimum_cell=st.integers(5, 100),
        fingerprint=digests,
        plan=st.none() | digests,
        models=st.dictionaries(parties, payloads, max_size=2),
        resamples=st.integers(0, 10**5),
    ),
)


@given(any_message)
def test_any_message_survives_its_bytes(message: Message) -> None:
    data = encode(message)
    assert decode(data) == message
    assert encode(decode(data)) == data


@given(parties, parties, st.integers(0, 99), st.integers(0, 99))
def test_two_messages_share_an_address_only_if_they_are_the_same_question(a: str, b: str, m: int, n: int) -> None:
    one, other = (Statistics(run="r", round=number, sender=sender, payload=FILE) for sender, number in ((a, m), (b, n)))
    assert (one.address == other.address) == ((a, m) == (b, n))


def test_a_plan_of_other_parameters_has_another_digest() -> None:
    plan = MESSAGES["plan"]
    assert isinstance(plan, Plan)
    same = plan.model_copy(update={"training": TrainingOptions()})
    other = plan.model_copy(update={"training": TrainingOptions(l2=0.002)})
    fewer = plan.model_copy(update={"participants": ("north",)})
    assert plan.digest == same.digest == decode(encode(plan)).digest
    assert len({plan.digest, other.digest, fewer.digest}) == 3

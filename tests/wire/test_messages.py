"""Every message comes back from its bytes as it was, and nothing else is taken for one."""

from __future__ import annotations

import hashlib
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
from fedmed.evaluation.curves import CalibrationBin, Curves, RiskGroup, RocCurve
from fedmed.evaluation.measurement import Measurement
from fedmed.exchange.base import is_name
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import NetworkOptions
from fedmed.strategies.options import AggregationOptions
from fedmed.targets.binary import compare
from fedmed.training.local import TrainingOptions
from fedmed.training.personal import PersonalOptions
from fedmed.wire.messages import (
    LARGEST_MESSAGE,
    Admission,
    AnyMessage,
    Description,
    Message,
    Payload,
    Plan,
    Question,
    Refusal,
    Score,
    SiteEvaluation,
    StageAnswer,
    Statistics,
    Update,
    decode,
    decode_plan,
    encode,
    read_name,
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
PLAN = Plan(
    run="r",
    participants=("north", "south"),
    rows={"north": 300, "south": 252},
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
    validation_rows={"north": 40},
)
ANSWER: dict[str, Any] = {"run": "r", "sender": "north", "question": "9" * 64}
MESSAGES: dict[str, Message] = {
    "question": Question(
        run="r",
        attempt=3,
        round=2,
        recipient="north",
        purpose="train",
        minimum_cell=11,
        fingerprint="f" * 64,
        plan=FILE,
        models={"federated": FILE},
        sites=("north", "south"),
        counted="8" * 64,
        told={"mask.keys": FILE},
    ),
    "refusal": Refusal(**ANSWER, round=1, purpose="train", reason="it was answered for another question already"),
    "description": Description(**ANSWER, purpose="describe", rows=60, minimum_cell=11, payload=FILE),
    "admission": Admission(
        **ANSWER,
        purpose="validate",
        admitted=False,
        failed=("age: range",),
        expectations=56,
        fingerprint=None,
        rows={"train": 60, "test": None},
    ),
    "statistics": Statistics(**ANSWER, purpose="statistics", payload=FILE),
    "update": Update(**ANSWER, round=1, purpose="train", plan="b" * 64, base="c" * 64, weight=3, payload=FILE),
    "stage": StageAnswer(**ANSWER, round=1, purpose="stage", about="mask.keys", payload=FILE),
    "score": Score(
        **ANSWER,
        round=1,
        purpose="score",
        model="c" * 64,
        rows=20,
        loss=0.7,
        metrics={"accuracy": 0.5, "brier": 0.2},
    ),
    "evaluation": SiteEvaluation(
        **ANSWER,
        round=1,
        purpose="evaluate",
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
        {"round": 100_000},
        {"attempt": 0},
        {"attempt": 1000},
        {"purpose": "../train"},
        {"purpose": "Train"},
        {"purpose": ""},
        {"about": "keys"},
        {"about": "mask/keys"},
        {"about": "mask.keys.again"},
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
        ("question", {"minimum_cell": 4}),
        ("question", {"plan": "b"}),
        ("question", {"fingerprint": "f"}),
        ("question", {"counted": "latest"}),
        ("question", {"sites": ["../north"]}),
        ("question", {"resamples": -1}),
        ("refusal", {"reason": "x" * 4001}),
        ("refusal", {"question": ""}),
        ("update", {"weight": 0}),
        ("update", {"weight": 2.5}),
        ("update", {"payload": None}),
        ("update", {"base": "latest"}),
        ("update", {"question": "9"}),
        ("update", {"loss": 0.5}),  # it is inside the vector, and nowhere else
        ("update", {"rows": 3}),
        ("stage", {"payload": None}),
        ("statistics", {"payload": None}),
        ("description", {"rows": 4}),
        ("admission", {"fingerprint": "x"}),
        ("score", {"rows": 0}),
        ("score", {"metrics": {"../x": 0.5}}),
        ("score", {"metrics": {"auroc": 3}}),
        ("score", {"metrics": {f"m{n}": 0.5 for n in range(33)}}),
    ],
)
def test_a_value_that_its_kind_does_not_allow_is_refused(kind: str, changes: dict[str, Any]) -> None:
    (field,) = changes
    with pytest.raises(MessageRefused, match=rf"message: not what its kind asks for \({kind}\.{field}"):
        decode(altered(kind, **changes))


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"participants": ["../north"]}, "participants.0"),
        ({"grid": {"bits": 8, "limit": 16, "weight": 1}}, "grid.bits"),
        ({"attempt": 0}, "attempt"),
        ({"start": "d"}, "start"),
        ({"note": "x"}, "note"),
        ({"fingerprints": {"north": "f"}}, "fingerprints.north"),
    ],
    ids=str,
)
def test_a_plan_is_refused_with(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(MessageRefused, match=rf"plan: not what a plan asks for \({where}"):
        decode_plan(json.dumps({**json.loads(PLAN.encoded()), **changes}).encode())


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, encode(MESSAGES["update"])], ids=len)
def test_bytes_that_are_no_plan_are_refused(data: bytes) -> None:
    with pytest.raises(MessageRefused, match="plan: not what a plan asks for"):
        decode_plan(data)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_loss_that_is_not_finite_is_refused(number: str) -> None:
    with pytest.raises(MessageRefused, match="loss"):
        decode(encode(MESSAGES["score"]).replace(b'"loss":0.7', b'"loss":' + number.encode()))


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
        decode(altered("update", weight="98765.4321 Sokolowska", plan="98765.4321"))
    assert "98765" not in str(caught.value)
    assert "Sokolowska" not in str(caught.value)
    assert caught.value.__suppress_context__
    with pytest.raises(MessageRefused) as caught:
        decode_plan(PLAN.encoded().replace(b'"weight":552', b'"weight":"Sokolowska"'))
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
purposes = st.from_regex(r"[a-z][a-z0-9]{0,9}", fullmatch=True)
abouts = st.just("") | st.from_regex(r"[a-z0-9_]{1,9}\.[a-z0-9_]{1,9}", fullmatch=True)
place = {
    "run": parties,
    "attempt": st.integers(1, 999),
    "round": st.integers(0, 99_999),
    "sender": parties,
    "recipient": parties,
    "purpose": purposes,
    "about": abouts,
}
shared = {**place, "question": digests}
figures = st.builds(Measurement, value=st.floats(-1e6, 1e6)) | st.just(Measurement(reason="suppressed", low=0.65))
tables = st.dictionaries(st.text(max_size=5), figures, max_size=3)
any_message = st.one_of(
    st.builds(
        Update,
        **shared,
        plan=digests,
        base=digests,
        weight=st.integers(1),
        payload=payloads,
    ),
    st.builds(
        Score,
        **shared,
        model=digests,
        rows=counts,
        loss=st.none() | losses,
        metrics=st.dictionaries(st.sampled_from(["accuracy", "c_index", "recall_2"]), st.floats(0, 1), max_size=3),
    ),
    st.builds(Statistics, **shared, payload=payloads),
    st.builds(StageAnswer, **shared, payload=payloads),
    st.builds(Refusal, **shared, reason=st.text(max_size=40)),
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
        SiteEvaluation,
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
        Question,
        **place,
        minimum_cell=st.integers(5, 100),
        fingerprint=digests,
        plan=st.none() | payloads,
        models=st.dictionaries(parties, payloads, max_size=2),
        sites=st.lists(parties, max_size=3).map(tuple),
        counted=st.just("") | digests,
        told=st.dictionaries(parties, payloads, max_size=2),
        resamples=st.integers(0, 10**5),
        own=st.booleans(),
    ),
)


@given(any_message)
def test_any_message_survives_its_bytes(message: Message) -> None:
    data = encode(message)
    assert decode(data) == message
    assert encode(decode(data)) == data


# Addresses.


@given(any_message)
def test_the_address_of_any_message_is_a_name_that_leads_back_to_it(message: Message) -> None:
    name = message.address.name
    assert is_name(name)
    assert read_name(name) == message.address
    assert name.startswith(f"to/{message.recipient}/{message.run}/")


def test_a_message_goes_where_it_says_it_belongs() -> None:
    question, answer = MESSAGES["question"], MESSAGES["stage"]
    assert isinstance(question, Question)
    assert question.address.name == "to/north/r/003.00002.train.coordinator"
    assert question.answer_address.name == "to/coordinator/r/003.00002.train.north"
    assert answer.address.name == "to/coordinator/r/001.00001.stage.mask.keys.north"
    assert answer.address == ("coordinator", "r", 1, 1, "stage.mask.keys", "north")


def test_names_of_a_run_sort_by_attempt_and_then_by_round() -> None:
    question = MESSAGES["question"]
    places = [(attempt, number) for attempt in (1, 2, 10, 100) for number in (0, 1, 9, 10, 99_999)]
    named = [question.model_copy(update={"attempt": a, "round": n}).address.name for a, n in places]
    assert sorted(named) == named


@given(parties, parties, st.integers(0, 99), st.integers(0, 99), st.integers(1, 9), st.integers(1, 9))
def test_two_messages_share_an_address_only_if_they_are_the_same_question(
    a: str, b: str, m: int, n: int, i: int, j: int
) -> None:
    one, other = (
        Statistics(
            run="r", attempt=k, round=number, sender=sender, purpose="statistics", question="0" * 64, payload=FILE
        )
        for sender, number, k in ((a, m, i), (b, n, j))
    )
    assert (one.address == other.address) == ((a, m, i) == (b, n, j))
    assert (one.address.name == other.address.name) == (one.address == other.address)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "to/va",
        "to/va/run",
        "to/va/run/x",
        "to/va/run/001.00003.coordinator",
        "to/va/run/001.x.train.coordinator",
        "to/va/run/1.3.train.coordinator",
        "to/va/run/0_1.00003.train.coordinator",
        "to/va/run/+01.00003.train.coordinator",
        "to/va/run/٠٠١.00003.train.coordinator",
        "to/va/run/-01.00003.train.coordinator",
        "to/va/run/001.-0003.train.coordinator",
        "to/va/run/001.00003.train.coordinator/x",
        "from/va/run/001.00003.train.coordinator",
        "payloads/aa/" + "a" * 64,
    ],
)
def test_a_name_that_is_no_address_is_refused(name: str) -> None:
    with pytest.raises(MessageRefused, match="expected the name of a message's address"):
        read_name(name)


HOSTILE = ["..", "../x", "a/b", "/etc", "A", "a.b", "", "-a", "a\n", "a\0", "é", "a" * 64, "."]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
@pytest.mark.parametrize("part", ["run", "sender", "recipient"])
def test_a_name_that_could_be_a_path_makes_no_message(part: str, name: str) -> None:
    good = {**ANSWER, "purpose": "statistics", "recipient": "coordinator", "payload": FILE}
    Statistics.model_validate(good)
    with pytest.raises(ValueError, match=part):
        Statistics.model_validate({**good, part: name})


@pytest.mark.parametrize("digest", ["../" + "0" * 61, "0" * 63, "0" * 65, "A" * 64, "g" * 64, "0" * 64 + "\n", ""])
def test_a_digest_that_could_be_a_path_names_no_payload(digest: str) -> None:
    with pytest.raises(ValueError, match="sha256"):
        Payload(sha256=digest, size=1)


# Plans.


def test_a_plan_comes_back_as_it_was_and_its_bytes_are_the_same_again() -> None:
    data = PLAN.encoded()
    found = decode_plan(data)
    assert found.encoded() == data
    assert found == PLAN
    assert found.digest == PLAN.digest == hashlib.sha256(data).hexdigest()
    json.loads(data, parse_constant=pytest.fail)


def test_a_plan_of_other_parameters_has_another_digest_whatever_was_asked_of_it_before() -> None:
    assert PLAN.digest
    assert PLAN.algorithm.training.l2 != 0.002
    same = PLAN.model_copy(update={"training": TrainingOptions()})
    other = PLAN.model_copy(update={"training": TrainingOptions(l2=0.002)})
    fewer = PLAN.model_copy(update={"participants": ("north",)})
    anew = PLAN.model_copy(update={"attempt": 2})
    assert PLAN.digest == same.digest == decode_plan(PLAN.encoded()).digest
    assert len({PLAN.digest, other.digest, fewer.digest, anew.digest}) == 4
    assert other.algorithm.training.l2 == 0.002


def test_plans_are_equal_that_have_the_same_bytes_whatever_was_asked_of_them_before() -> None:
    one, other = decode_plan(PLAN.encoded()), decode_plan(PLAN.encoded())
    assert one.algorithm.sites == other.algorithm.sites == ("north", "south")  # both hold tensors now
    assert one == other
    assert hash(one) == hash(other)
    assert one != other.model_copy(update={"attempt": 2})
    assert one != "a plan"


def test_a_plan_means_the_algorithm_of_its_options() -> None:
    how = PLAN.algorithm
    assert (how.options, how.training, how.weights, how.rows) == (
        PLAN.aggregation,
        PLAN.training,
        PLAN.weights,
        PLAN.rows,
    )
    assert how.grid == PLAN.grid

"""Answers to a validation: what one hospital sends cannot end the run of the others."""

from __future__ import annotations

from typing import Any

import pytest
from small_run import called

from fedmed.coordinator.admission import Admissions, ask_to_validate, read_receipts, validation_id
from fedmed.coordinator.asking import ask_all
from fedmed.coordinator.home import CoordinatorHome
from fedmed.coordinator.runs import keep_admissions, read_admissions
from fedmed.data.partition import PartitionReceipt
from fedmed.errors import WorkspaceError
from fedmed.exchange.base import Exchange
from fedmed.exchange.folder import FolderExchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.settings import Settings
from fedmed.weights import sha256
from fedmed.wire.messages import Admission, Question, Refusal, Response, encode
from fedmed.wire.post import find, post

ROWS = {"train": 60, "validation": 20, "test": None}
SITES = ("north", "south", "west")
SETTINGS = Settings.model_validate({"cohort": "c.yaml", "federation": {"sites": list(SITES)}})


def receipts(**fingerprints: str) -> dict[str, PartitionReceipt]:
    """What every hospital says of its partition."""
    return {
        site: PartitionReceipt(
            site=site, cohort="small", cohort_digest="d" * 64, fingerprint=fingerprints.get(site, "a" * 64)
        )
        for site in SITES
    }


QUESTIONS = ask_to_validate(SETTINGS, receipts())


def answer_of(question: Question, **changes: Any) -> Admission:
    """The answer of a hospital whose data keep the contract, unless said otherwise."""
    content = {"admitted": True, "failed": (), "expectations": 9, "fingerprint": "a" * 64, "rows": ROWS, **changes}
    head = {"run": question.run, "sender": question.recipient, "purpose": "validate"}
    return Admission.model_validate({**head, "question": sha256(encode(question)), **content})


def gathered(exchange: Exchange, *answers: Response) -> Admissions:
    """What comes of a validation in which these answers are given, and no others."""
    for answer in answers:
        post(exchange, answer)
    return Admissions.gather(QUESTIONS, ask_all(exchange, called, QUESTIONS, Admission))


@pytest.mark.parametrize(
    "lie", [{"fingerprint": None}, {"rows": {}}, {"rows": {**ROWS, "train": None}}, {"rows": {**ROWS, "train": 0}}]
)
def test_who_is_admitted_without_saying_with_what_is_quarantined(lie: dict[str, Any]) -> None:
    north, south, _ = QUESTIONS
    admissions = gathered(MemoryExchange(), answer_of(north), answer_of(south, **lie))
    assert admissions.admitted == ["north"]
    (reason,) = admissions.quarantined["south"]
    assert reason == "validation: south: expected the fingerprint and training rows of an admitted partition"
    assert admissions.quarantined["west"] == ("validation: did not answer by the deadline",)


def test_who_keeps_the_contract_not_may_say_nothing_of_its_partition() -> None:
    north, south, west = QUESTIONS
    told = answer_of(south, admitted=False, failed=("age: range",), fingerprint=None, rows={})
    admissions = gathered(MemoryExchange(), answer_of(north), told, answer_of(west))
    assert admissions.admitted == ["north", "west"]
    assert admissions.quarantined == {"south": ("age: range",)}
    assert admissions.fingerprints == {"north": "a" * 64, "west": "a" * 64}


def test_who_refuses_to_answer_is_quarantined_with_its_reason() -> None:
    north, south, west = QUESTIONS
    refusal = Refusal(
        run=south.run, sender="south", purpose="validate", question=sha256(encode(south)), reason="asked too often"
    )
    admissions = gathered(MemoryExchange(), answer_of(north), refusal, answer_of(west))
    assert admissions.quarantined == {"south": ("validation: asked too often",)}


@pytest.mark.parametrize("rows", [-1, 10**9 + 1])
def test_an_answer_that_is_no_admission_is_that_hospitals_own_matter(rows: int) -> None:
    north, south, _ = QUESTIONS
    exchange = MemoryExchange()
    told = answer_of(south)
    exchange.put(told.address.name, encode(told).replace(b'"train":60', f'"train":{rows}'.encode()))
    admissions = gathered(exchange, answer_of(north))
    assert admissions.admitted == ["north"]
    assert admissions.quarantined["west"] == ("validation: did not answer by the deadline",)
    assert "not what its kind asks for" in admissions.quarantined["south"][0]


def test_an_answer_to_an_earlier_validation_is_no_answer_to_this_one() -> None:
    # The partition has changed since, and with it the name of the validation: the earlier answer is not even looked at.
    exchange = MemoryExchange()
    later = ask_to_validate(SETTINGS, receipts(south="b" * 64))
    post(exchange, answer_of(QUESTIONS[1]))
    admissions = Admissions.gather(later, ask_all(exchange, called, later, Admission))
    assert later[0].run != QUESTIONS[0].run
    assert admissions.admitted == []


def test_a_validation_asks_each_hospital_about_its_own_partition_and_has_a_name_of_its_own() -> None:
    questions = ask_to_validate(SETTINGS, receipts(south="b" * 64), attempt=2)
    assert [(q.recipient, q.fingerprint[0], q.attempt, q.minimum_cell) for q in questions] == [
        ("north", "a", 2, 11),
        ("south", "b", 2, 11),
        ("west", "a", 2, 11),
    ]
    assert {q.run for q in questions} == {validation_id(SETTINGS, receipts(south="b" * 64))}
    assert {q.sites for q in questions} == {SITES}
    stricter = SETTINGS.model_copy(update={"privacy": SETTINGS.privacy.model_copy(update={"minimum_cell": 12})})
    names = {
        validation_id(SETTINGS, receipts()),
        validation_id(SETTINGS, receipts(west="b" * 64)),
        validation_id(stricter, receipts()),
    }
    assert len(names) == 3


def test_a_torn_answer_in_a_folder_is_none(tmp_path: Any) -> None:
    north, south, west = QUESTIONS
    exchange = FolderExchange(tmp_path)
    for question in (north, south, west):
        post(exchange, answer_of(question))
    answer = tmp_path / answer_of(south).address.name
    answer.write_bytes(answer.read_bytes()[:-5])
    admissions = gathered(exchange)
    assert admissions.admitted == ["north", "west"]
    assert admissions.quarantined == {"south": ("validation: did not answer by the deadline",)}
    post(exchange, answer_of(south))  # the hospital puts it there again
    assert gathered(exchange).admitted == list(SITES)
    assert find(exchange, answer_of(south).address) == answer_of(south)


def test_admissions_are_remembered_and_what_is_none_is_said(tmp_path: Any) -> None:
    home = CoordinatorHome(tmp_path)
    with pytest.raises(WorkspaceError, match="no hospital has been validated yet; run `fedmed validate`"):
        read_admissions(home)
    admissions = gathered(MemoryExchange(), answer_of(QUESTIONS[0]))
    keep_admissions(home, admissions)
    assert read_admissions(home) == admissions
    home.admission_file.write_text("{}")
    with pytest.raises(WorkspaceError, match=r"admission.json: not an admission"):
        read_admissions(home)


def test_a_hospital_without_a_partition_is_named(tmp_path: Any) -> None:
    home = CoordinatorHome(tmp_path)
    for site in ("north", "south"):
        home.keep_receipt(receipts()[site])
    with pytest.raises(
        WorkspaceError, match="west has not partitioned its data; run `fedmed data partition --site west`"
    ):
        read_receipts(home.receipts, SETTINGS)
    home.keep_receipt(receipts()["west"])
    assert read_receipts(home.receipts, SETTINGS) == receipts()

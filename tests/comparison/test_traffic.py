"""Bytes of a run, from messages whose payloads are counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_run import SITES, SmallRun, plan_of

from fedmed.comparison.traffic import Traffic, messages_of, traffic
from fedmed.exchange.memory import MemoryExchange
from fedmed.weights import to_bytes
from fedmed.wire.messages import Message, Payload, Question, Refusal, Score, StageAnswer, Update
from fedmed.wire.post import post

DIGEST = "a" * 64
MODEL, MEMORY, UPDATE, KEYS = 120, 80, 50, 32


def payload(size: int) -> Payload:
    return Payload(sha256=DIGEST, size=size)


def question(site: str, number: int, purpose: str, told: int = 0, **models: int) -> Question:
    return Question(
        run="r",
        round=number,
        recipient=site,
        purpose=purpose,
        minimum_cell=11,
        fingerprint=DIGEST,
        plan=payload(5000),
        models={name: payload(size) for name, size in models.items()},
        told={"mask.keys": payload(told)} if told else {},
    )


def answer(site: str, number: int, purpose: str) -> dict[str, Any]:
    return {"run": "r", "round": number, "sender": site, "purpose": purpose, "question": DIGEST}


def update(site: str, number: int) -> Update:
    return Update(**answer(site, number, "train"), plan=DIGEST, base=DIGEST, weight=1, payload=payload(UPDATE))


def test_a_round_counts_what_every_hospital_that_is_asked_fetches_and_sends() -> None:
    # Two hospitals train on model and memory, and score the new model: 2 · (120 + 80) + 2 · 120 = 640 down.
    messages: list[Message] = []
    for site in ("north", "south"):
        messages += [
            question(site, 1, "train", federated=MODEL, memory=MEMORY),
            question(site, 1, "score", federated=MODEL),
            update(site, 1),
        ]
    assert traffic(messages) == {1: Traffic(down=640, up=100)}


def test_a_hospital_that_only_scores_sends_nothing() -> None:
    messages = [
        question("north", 1, "train", federated=MODEL),
        question("north", 1, "score", federated=MODEL),
        question("south", 1, "score", federated=MODEL),
        update("north", 1),
    ]
    assert traffic(messages) == {1: Traffic(down=360, up=50)}


def test_the_questions_of_stages_count_what_they_tell_and_what_is_answered() -> None:
    # North says 32 bytes; both are told the bundle of 64 with the question to train: 2 · (120 + 64) down, 32 + 50 up.
    messages: list[Message] = [
        question("north", 1, "stage"),
        StageAnswer(**answer("north", 1, "stage"), about="mask.keys", payload=payload(KEYS)),
        question("north", 1, "train", told=64, federated=MODEL),
        question("south", 1, "train", told=64, federated=MODEL),
        update("north", 1),
    ]
    assert traffic(messages) == {1: Traffic(down=368, up=82)}


def test_rounds_are_told_apart_and_stand_in_order() -> None:
    messages = [update("north", 2), question("north", 2, "train", federated=7), update("north", 1)]
    assert list(traffic(messages).items()) == [(1, Traffic(up=50)), (2, Traffic(down=7, up=50))]


def test_statistics_evaluations_scores_and_refusals_are_not_counted() -> None:
    messages: list[Message] = [
        question("north", 0, "statistics"),
        question("north", 1, "evaluate", federated=MODEL),
        Score(**answer("north", 1, "score"), model=DIGEST, rows=20, loss=0.5),
        Refusal(**answer("south", 1, "train"), reason="no time"),
    ]
    assert traffic(messages) == {}


def test_the_messages_of_a_run_are_counted_as_they_lie_in_the_exchange(tmp_path: Path) -> None:
    this = SmallRun(tmp_path, plan_of(rounds=2)).everybody()
    this.refuses("west", "train", "no time", number=2)
    list(this.rounds())
    model, sent = this.run.model_of(0).size, len(to_bytes({"update": this.vector("north")}))
    messages = messages_of(this.plan, this.exchange)
    assert len(messages) == 2 * 2 * 6  # in each of two rounds three are asked to train and to score, and answer
    assert traffic(messages) == {1: Traffic(down=6 * model, up=3 * sent), 2: Traffic(down=6 * model, up=2 * sent)}


def test_what_was_said_before_a_run_was_begun_anew_is_not_counted(tmp_path: Path) -> None:
    before = SmallRun(tmp_path / "before", plan_of(rounds=1)).everybody()
    list(before.rounds())
    anew = plan_of(rounds=1).model_copy(update={"attempt": 2})
    assert len(messages_of(before.plan, before.exchange)) == 12
    assert messages_of(anew, before.exchange) == []
    failed = SmallRun(tmp_path / "failed", plan_of(rounds=1)).everybody()
    failed.home.close_attempt("run-1", "train")
    failed.reopened()  # gone on with under attempt 2: what it was begun with counts, and so does what came since
    list(failed.rounds())
    assert {message.attempt for message in messages_of(failed.plan, failed.exchange)} == {2}
    assert len(messages_of(failed.plan, failed.exchange)) == 12


def test_messages_of_other_runs_and_of_strangers_are_not_counted() -> None:
    exchange, plan = MemoryExchange(), plan_of()
    for site in (*SITES, "east"):
        post(exchange, question(site, 1, "train", federated=MODEL))
    assert messages_of(plan, exchange) == []
    post(exchange, question("east", 1, "train").model_copy(update={"run": "run-1"}))
    assert messages_of(plan, exchange) == []

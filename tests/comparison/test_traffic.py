"""Bytes of a run, from messages whose payloads are counted by hand."""

from __future__ import annotations

from typing import Any

from fedmed.comparison.traffic import Traffic, traffic
from fedmed.wire.messages import Invitation, Message, Payload, RoundEvaluation, Update

DIGEST = "a" * 64
MODEL, MEMORY, UPDATE = 120, 80, 50


def payload(size: int) -> Payload:
    return Payload(sha256=DIGEST, size=size)


def invitation(site: str, number: int, purpose: Any, **models: int) -> Invitation:
    return Invitation(
        run="r",
        round=number,
        recipient=site,
        purpose=purpose,
        minimum_cell=11,
        fingerprint=DIGEST,
        models={name: payload(size) for name, size in models.items()},
    )


def update(site: str, number: int) -> Update:
    return Update(
        run="r",
        round=number,
        sender=site,
        plan=DIGEST,
        base=DIGEST,
        weight=1,
        rows=1,
        loss=1.0,
        payload=payload(UPDATE),
    )


def test_a_round_counts_what_every_invited_hospital_fetches_and_sends() -> None:
    # Two hospitals train on model and memory, and evaluate the new model: 2 · (120 + 80) + 2 · 120 = 640 down.
    messages: list[Message] = []
    for site in ("north", "south"):
        messages += [
            invitation(site, 1, "train", federated=MODEL, memory=MEMORY),
            invitation(site, 1, "evaluate", federated=MODEL),
            update(site, 1),
        ]
    assert traffic(messages) == {1: Traffic(down=640, up=100)}


def test_a_hospital_that_only_evaluates_sends_nothing() -> None:
    messages = [
        invitation("north", 1, "train", federated=MODEL),
        invitation("north", 1, "evaluate", federated=MODEL),
        invitation("south", 1, "evaluate", federated=MODEL),
        update("north", 1),
    ]
    assert traffic(messages) == {1: Traffic(down=360, up=50)}


def test_rounds_are_told_apart_and_stand_in_order() -> None:
    messages = [update("north", 2), invitation("north", 2, "train", federated=7), update("north", 1)]
    assert list(traffic(messages).items()) == [(1, Traffic(up=50)), (2, Traffic(down=7, up=50))]


def test_statistics_tests_and_evaluations_are_not_counted() -> None:
    messages: list[Message] = [
        invitation("north", 0, "statistics"),
        invitation("north", 1, "test", federated=MODEL),
        RoundEvaluation(run="r", round=1, sender="north", model=DIGEST, rows=20, loss=0.5),
    ]
    assert traffic(messages) == {}

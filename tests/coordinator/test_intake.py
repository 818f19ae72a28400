"""Which updates and scores count: what came, held against what was asked."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import ROWS, SITES, SmallRun, plan_of

from fedmed.aggregation import stage
from fedmed.aggregation.grid import FixedPoint
from fedmed.coordinator.intake import (
    CONTENT,
    ENVELOPE,
    SCORE,
    Content,
    Envelope,
    Scored,
    largest_normaliser,
    take_score,
    take_update,
)
from fedmed.errors import MessageMissing, MessageRefused
from fedmed.exchange.memory import MemoryExchange
from fedmed.gates import judge
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import TrainingOptions
from fedmed.weights import to_bytes
from fedmed.wire.messages import Payload, Plan, Score, Update
from fedmed.wire.post import put_payload, reference

MODEL = "c" * 64
SIZE = 6  # three parameters, the normaliser, loss and rows


def tensor(*values: float, dtype: torch.dtype = torch.int32, name: str = "update") -> bytes:
    return to_bytes({name: torch.tensor(values, dtype=dtype)})


def by_hand(header: object, body: bytes = bytes(4 * SIZE)) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


MALFORMED: dict[str, tuple[bytes, str]] = {
    "is too short": (tensor(*range(1, 6)), r"expected I32 \(6,\), got I32 \(5,\)"),
    "is too long": (tensor(*range(1, 8)), r"expected I32 \(6,\), got I32 \(7,\)"),
    "has another shape": (to_bytes({"update": torch.zeros(6, 1, dtype=torch.int32)}), r"got I32 \(6, 1\)"),
    "has wider integers": (tensor(*range(6), dtype=torch.int64), r"expected I32 \(6,\), got I64"),
    "is floating point": (tensor(*range(6), dtype=torch.float32), r"expected I32 \(6,\), got F32"),
    "is NaN": (tensor(1, float("nan"), 3, 4, 5, 6, dtype=torch.float32), "expected I32"),
    "has another name": (tensor(*range(6), name="weights"), "payload tensors"),
    "is truncated": (tensor(*range(6))[:-1], "payload"),
    "is empty": (b"", "payload"),
    "is a pickle": (pickle.dumps([1, 2, 3]), "payload"),
    "has a header that safetensors cannot read": (
        by_hand({"update": {"dtype": "I32", "shape": ["6"], "data_offsets": [0, 24]}}),
        "payload",
    ),
    "has a shape of text without end": (
        by_hand({"update": {"dtype": "I32", "shape": [float("inf")], "data_offsets": [0, 24]}}),
        "payload",
    ),
}
CLAIMS: dict[str, tuple[dict[str, Any], str]] = {
    "is on another model": ({"base": "0" * 64}, "the update is on another model than the one that was sent"),
    "was made under another plan": ({"plan": "0" * 64}, "the update was made under another plan"),
    "claims a weight that its rows do not give": (
        {"weight": 11},
        "it weighs 11; by the rows it was admitted with it weighs 10",
    ),
    "claims more rows than it was admitted with": (
        {"weight": 1000},
        "it weighs 1000; by the rows it was admitted with it weighs 10",
    ),
    "claims a tenth of its weight": ({"weight": 1}, "it weighs 1; by the rows it was admitted with it weighs 10"),
}
NORMALISER, LOSS, COUNTED = 3, 4, 5
NOT_POSITIVE = "its normaliser is not positive or over 1, more than its rows give steps for"
NOT_ITS_LOSS = "its training loss is not that of the 10 rows with which it was admitted"
CONTENTS: dict[str, tuple[int, int, str]] = {
    "is larger than the agreed range": (0, 2**31 - 1, "the update is larger than ±16 times its weight"),
    "is smaller than the agreed range": (1, -(2**31), "the update is larger than ±16 times its weight"),
    "would turn the others' steps round": (NORMALISER, -4, NOT_POSITIVE),
    "would make no step of the others'": (NORMALISER, 0, NOT_POSITIVE),
    "would make the others' steps longer": (NORMALISER, 10**6, NOT_POSITIVE),
    "tells a loss below nothing": (LOSS, -1, NOT_ITS_LOSS),
    "tells a loss beyond its range": (LOSS, 10**9, NOT_ITS_LOSS),
    "tells the loss of more rows than it has": (COUNTED, 10**9, NOT_ITS_LOSS),
    "tells the loss of no rows": (COUNTED, 0, NOT_ITS_LOSS),
}


def refused_alone(this: SmallRun) -> str:
    """The reason why south is refused, in a round that goes on with north and west."""
    record = this.round()
    assert record.participants == ("north", "west")
    assert this.values() == pytest.approx([1 - 20 / 50] * 3, abs=1e-6)
    assert record.sites["south"].refused == this.refused()["south"]
    return this.refused()["south"]


@pytest.fixture
def this(tmp_path: Path) -> SmallRun:
    made = SmallRun(tmp_path)
    made.update("north")
    made.update("west")
    return made


@pytest.mark.parametrize("fault", MALFORMED)
def test_the_round_goes_on_without_an_update_that(fault: str, this: SmallRun) -> None:
    payload, reason = MALFORMED[fault]
    this.update("south", payload)
    with pytest.raises(MessageRefused, match=reason):
        raise MessageRefused(refused_alone(this))


@pytest.mark.parametrize("fault", CLAIMS)
def test_the_round_goes_on_without_an_update_whose_envelope(fault: str, this: SmallRun) -> None:
    changes, reason = CLAIMS[fault]
    this.update("south", **changes)
    assert refused_alone(this) == f"south, round 1: {reason}"


@pytest.mark.parametrize("fault", CONTENTS)
def test_the_round_goes_on_without_an_update_whose_content(fault: str, this: SmallRun) -> None:
    place, value, reason = CONTENTS[fault]
    vector = this.vector("south")
    vector[place] = value
    this.update("south", to_bytes({"update": vector}))
    reasons = refused_alone(this).removeprefix("south, round 1: ").split("; ")
    # Whatever is too large for the range is so wherever it stands: that is said beside what is wrong in this place.
    too_large = abs(value) > 16 * 10 * 2**this.plan.grid.exponent
    assert reasons == list(dict.fromkeys([CONTENTS["is larger than the agreed range"][2], reason][not too_large :]))


def test_all_that_speaks_against_an_update_is_told_at_once(this: SmallRun) -> None:
    this.update("south", base="0" * 64, plan="0" * 64, weight=9)
    reasons = [CLAIMS[fault][1] for fault in ("was made under another plan", "is on another model")]
    assert refused_alone(this) == "south, round 1: " + "; ".join(
        [*reasons, "it weighs 9; by the rows it was admitted with it weighs 10"]
    )


def test_all_that_speaks_against_a_content_is_told_at_once(this: SmallRun) -> None:
    this.update("south", tensor(-(2**31), 0, 0, 0, -1, 0))
    reasons = [CONTENTS["is smaller than the agreed range"][2], NOT_POSITIVE, NOT_ITS_LOSS]
    assert refused_alone(this) == "south, round 1: " + "; ".join(reasons)


def test_every_gate_on_an_update_is_asked_even_after_one_has_failed() -> None:
    plan = plan_of()
    update = update_of(plan, "south", plan="0" * 64)
    verdicts = judge(ENVELOPE, Envelope(update, plan, MODEL))
    assert {name: verdict.passed for name, verdict in verdicts.items()} == {"plan": False, "base": True, "weight": True}
    content = Content(torch.tensor([2**31 - 1, 0, 0, -1, 0, 0]), Envelope(update, plan, MODEL))
    assert [verdict.passed for verdict in judge(CONTENT, content).values()] == [False, False, False]


def update_of(under: Plan, site: str, data: bytes = b"", **changes: Any) -> Update:
    head = {"run": "run-1", "round": 1, "sender": site, "purpose": "train", "question": "0" * 64}
    said = {"plan": under.digest, "base": MODEL, "weight": under.weights[site], "payload": reference(data)}
    return Update.model_validate({**head, **said, **changes})


def test_an_update_at_the_edge_of_the_range_is_taken(tmp_path: Path) -> None:
    this = SmallRun(tmp_path)
    for site in SITES:
        this.update(site, by=-16.0)
    this.round()
    assert this.values() == [-15.0] * 3
    assert this.refused() == {}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_honest_update_of_every_strategy_is_taken_as_it_is(strategy: str, tmp_path: Path) -> None:
    this, exchange = SmallRun(tmp_path, plan_of(strategy)), MemoryExchange()
    for site in SITES:
        vector = this.vector(site, loss=0.25)
        payload = to_bytes({"update": vector})
        put_payload(exchange, payload)
        taken = take_update(Envelope(update_of(this.plan, site, payload), this.plan, MODEL), exchange)
        assert torch.equal(taken, vector)


def test_where_the_plan_leaves_the_training_loss_out_none_is_asked_for(tmp_path: Path) -> None:
    this = SmallRun(tmp_path, plan_of(training_loss=False))
    assert this.plan.algorithm.form.size == SIZE - 2
    for site in SITES:
        this.update(site)
    record = this.round()
    assert (record.participants, record.train_loss) == (SITES, None)
    assert this.values() == pytest.approx([1.0] * 3, abs=1e-6)
    vector = this.vector("south")
    vector[-1] = -1  # the normaliser is the last number now
    content = Content(vector, Envelope(update_of(this.plan, "south"), this.plan, MODEL))
    assert [name for name, verdict in judge(CONTENT, content).items() if not verdict.passed] == ["normaliser"]


def test_content_is_looked_at_only_where_each_hospitals_may_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    # A stage of which the coordinator sees the sum alone, as under a mask: any integers may stand there.
    def masked(grid: FixedPoint) -> stage.Stage:
        return stage.Stage(lambda v, c: v, lambda t, s: t, "sum", "nothing of a single hospital")

    monkeypatch.setitem(stage.STAGES, "masked", masked)
    exchange, payload = MemoryExchange(), tensor(-(2**31), 2**31 - 1, 0, -4, 10**9, 0)
    put_payload(exchange, payload)
    hidden = plan_of(stages=("grid", "masked"))
    assert not hidden.algorithm.sees_each
    vector = take_update(Envelope(update_of(hidden, "south", payload), hidden, MODEL), exchange)
    assert vector.tolist() == [-(2**31), 2**31 - 1, 0, -4, 10**9, 0]
    seen = plan_of()
    with pytest.raises(MessageRefused, match=r"larger than.*normaliser.*training loss"):
        take_update(Envelope(update_of(seen, "south", payload), seen, MODEL), exchange)
    for changes in ({"plan": "0" * 64}, {"base": "0" * 64}, {"weight": 9}):  # the envelope may be judged all the same
        with pytest.raises(MessageRefused):
            take_update(Envelope(update_of(hidden, "south", payload, **changes), hidden, MODEL), exchange)
    short = tensor(1, 2, 3)
    put_payload(exchange, short)
    with pytest.raises(MessageRefused, match="expected I32"):  # and so may length and type
        take_update(Envelope(update_of(hidden, "south", short), hidden, MODEL), exchange)


def test_the_envelope_is_judged_before_the_payload_is_fetched() -> None:
    plan = plan_of()
    nowhere = Payload(sha256="0" * 64, size=9)
    with pytest.raises(MessageRefused, match="under another plan"):
        take_update(Envelope(update_of(plan, "south", plan="1" * 64, payload=nowhere), plan, MODEL), MemoryExchange())
    with pytest.raises(MessageMissing, match="was not posted"):
        take_update(Envelope(update_of(plan, "south", payload=nowhere), plan, MODEL), MemoryExchange())


@pytest.mark.parametrize(
    ("options", "rows", "most"),
    [
        ({"local_epochs": 2, "batch_size": 32}, 33, 4.0),  # two batches in each of two passes
        ({"local_updates": 3}, 1000, 3.0),
        ({"local_updates": 2, "momentum": 0.5}, 10, 2.5),
    ],
)
def test_a_normaliser_is_at_most_what_the_local_steps_add_up_to(
    options: dict[str, Any], rows: int, most: float
) -> None:
    assert largest_normaliser(TrainingOptions.model_validate(options), rows) == most


# Scores.


def score_of(site: str = "north", **changes: Any) -> Score:
    head = {"run": "run-1", "round": 1, "sender": site, "purpose": "score", "question": "0" * 64}
    return Score.model_validate({**head, "model": MODEL, "rows": 12, "loss": 0.5, "metrics": {"auroc": 0.5}, **changes})


ADMITTED = plan_of().model_copy(update={"validation_rows": {"north": 12}})
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "is of another model": ({"model": "0" * 64}, "it scored another model"),
    "tells what nobody asked for": ({"metrics": {"luck": 0.1}}, "it tells figures that nobody asked for"),
    "calls a metric loss": ({"metrics": {"loss": 0.001}}, "it tells figures that nobody asked for"),
    "calls a metric rows": ({"metrics": {"rows": 0.001}}, "it tells figures that nobody asked for"),
    "claims more rows": ({"rows": 10**9}, "it scored on other rows than it was admitted with"),
    "claims fewer rows": ({"rows": 11}, "it scored on other rows than it was admitted with"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_score_does_not_count_that(fault: str) -> None:
    changes, reason = REFUSED[fault]
    with pytest.raises(MessageRefused) as refused:
        take_score(Scored(score_of(**changes), ADMITTED, MODEL))
    assert str(refused.value) == f"north, round 1: {reason}"


def test_all_that_speaks_against_a_score_is_told_at_once() -> None:
    lie = Scored(score_of(model="0" * 64, metrics={"luck": 0.1}, rows=13), ADMITTED, MODEL)
    assert [verdict.passed for verdict in judge(SCORE, lie).values()] == [False, False, False]
    with pytest.raises(MessageRefused, match=r"another model; it tells figures .*; it scored on other rows"):
        take_score(lie)


@pytest.mark.parametrize(
    "score",
    [score_of(), score_of(rows=None, loss=None, metrics={}), score_of("south", rows=40)],
    ids=["whole", "suppressed", "not told at admission"],
)
def test_a_score_counts_with_the_rows_of_admission_or_with_those_that_were_not_told_there(score: Score) -> None:
    assert take_score(Scored(score, ADMITTED, MODEL)) == score
    assert ROWS.keys() - ADMITTED.validation_rows.keys() == {"south", "west"}

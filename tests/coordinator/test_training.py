"""Rounds as their coordinator sees them: what is asked, what is made of the answers, and what is known of a round."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_run import CHANGES, SITES, SmallRun, head_of, plan_of

from fedmed.coordinator.asking import SILENT
from fedmed.coordinator.history import SiteRound
from fedmed.coordinator.training import kept_run
from fedmed.errors import QuorumNotMet, WorkspaceError
from fedmed.exchange.folder import FolderExchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.weights import sha256
from fedmed.wire.messages import Payload, StageAnswer, Update, decode_plan
from fedmed.wire.post import find, inbox, payload_name, payload_of, post, put_payload, reference

Make = Callable[..., SmallRun]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes runs, each with a folder of its own."""
    numbers = itertools.count()

    def made(strategy: str = "fedavg", **aggregation: Any) -> SmallRun:
        return SmallRun(tmp_path / str(next(numbers)), plan_of(strategy, **aggregation))

    return made


@pytest.mark.parametrize(("strategy", "expected"), [("fedavg", 1.0), ("mean", 4 / 3)])
def test_a_round_of_three_sites_by_hand(strategy: str, expected: float, make: Make) -> None:
    # fedavg: 1 + (30 · 0 + 10 · 2 - 20 · 1) / 60 = 1; mean: 1 + (0 + 2 - 1) / 3
    this = make(strategy).everybody()
    assert this.round().participants == SITES
    assert this.values() == pytest.approx([expected] * 3, abs=1e-6)
    assert this.refused() == {}


def test_a_site_that_did_not_answer_is_left_out_of_the_mean(make: Make) -> None:
    this = make()
    this.update("north")
    this.update("south")
    assert this.round().participants == ("north", "south")
    assert this.values() == [1.5] * 3  # 1 + (30 · 0 + 10 · 2) / 40
    assert this.refused() == {"west": SILENT}


@pytest.mark.parametrize("order", list(itertools.permutations(SITES)))
def test_the_order_in_which_sites_answer_changes_no_bit(order: tuple[str, ...], make: Make) -> None:
    digests = set()
    for each in (order, SITES):
        this = make()
        this.order = each
        for site in SITES:
            this.update(site, by=CHANGES[site] / 3)
        digests.add(this.round().model.sha256)
        assert [question.recipient for question in this.asked[:3]] == list(each)
    assert len(digests) == 1


def test_the_round_goes_on_without_a_site_that_posted_nothing_or_no_payload_or_is_no_participant(make: Make) -> None:
    this = make()
    this.update("north")
    this.update("west", payload_named=Payload(sha256="0" * 64, size=9))
    this.update("east", b"whatever it sends")
    record = this.round()
    assert this.values() == [1.0] * 3
    assert this.refused().keys() == {"south", "west"}
    assert this.refused()["south"] == SILENT
    assert "was not posted" in this.refused()["west"]
    assert record.participants == ("north",)
    assert [question.recipient for question in this.asked] == [*SITES, *SITES]  # east is not even asked


def test_a_site_that_says_no_is_told_with_its_reason(make: Make) -> None:
    this = make()
    this.update("north")
    this.update("west")
    this.refuses("south", "train", "south: does not admit the network")
    assert this.round().sites["south"] == SiteRound(refused="south: does not admit the network")
    assert this.values() == pytest.approx([0.6] * 3, abs=1e-6)


def test_an_answer_of_another_kind_is_no_update(make: Make) -> None:
    this = make()
    this.update("north")
    this.says("south", "train", lambda question: StageAnswer(**head_of(question), payload=reference(b"")))
    this.round()
    assert this.refused()["south"] == "south: expected an answer to train, got another message"


def test_a_torn_update_in_a_folder_counts_as_none_until_it_is_put_there_again(tmp_path: Path) -> None:
    folder = FolderExchange(tmp_path / "exchange")
    this = SmallRun(tmp_path / "home", plan_of(), folder).everybody()

    class Torn(FolderExchange):
        """Writes half of what south says."""

        def put(self, name: str, data: bytes) -> None:
            super().put(name, data)
            if name.endswith("train.south"):
                path = self.root / name
                path.write_bytes(path.read_bytes()[:50])

    this.exchange = Torn(folder.root)
    this.round()
    assert this.refused() == {"south": SILENT}
    this.exchange = folder
    this.round()
    train = next(question for question in this.asked if (question.recipient, question.purpose) == ("south", "train"))
    post(folder, this.said(train))  # it heals what was torn
    assert find(folder, train.answer_address) == this.said(train)
    assert this.run.records[1].participants == SITES
    assert this.run.records[0].participants == ("north", "west")  # what was aggregated before stays as it was


def test_a_round_without_a_usable_update_stops_and_names_why(make: Make) -> None:
    this = make()
    for site in SITES:
        this.update(site, base="0" * 64)
    with pytest.raises(QuorumNotMet, match=r"round 1 could use 0 of 3 hospitals.*north.*another model.*south.*west"):
        this.round()
    assert 1 not in this.run.states
    assert this.run.records == []


def test_a_round_with_fewer_than_the_quorum_stops_and_names_why(make: Make) -> None:
    this = make().everybody()
    this.refuses("south", "train", "no time today")
    this.refuses("west", "train", "nor here")
    with pytest.raises(QuorumNotMet) as stopped:
        this.round(quorum=2)
    assert str(stopped.value) == (
        "round 1 could use 1 of 3 hospitals, but the quorum (federation.quorum) is 2."
        " south: no time today; west: nor here"
    )
    assert 1 not in this.run.states


def test_a_round_that_only_few_score_stops_but_its_state_is_kept(make: Make) -> None:
    this = make().everybody()
    for site in ("south", "west"):
        this.refuses(site, "score", "no validation rows")
    with pytest.raises(QuorumNotMet, match=r"score of round 1 was answered by 1 of 3 .* south: no validation rows"):
        this.round(quorum=2)
    assert list(this.run.states) == [0, 1]
    assert this.run.records == []


def test_every_participant_is_asked_about_the_same_model_under_the_plan(make: Make) -> None:
    this = make().everybody()
    this.round()
    train, score = this.asked[:3], this.asked[3:]
    assert [question.recipient for question in train] == [question.recipient for question in score] == list(SITES)
    assert {(q.round, q.purpose, q.minimum_cell, q.fingerprint, q.sites) for q in train} == {
        (1, "train", 11, "a" * 64, SITES)
    }
    assert {q.models["federated"] for q in train} == {this.run.model_of(0)}
    assert {q.models["federated"] for q in score} == {this.run.model_of(1)}
    assert {(q.plan.sha256 if q.plan else "") for q in this.asked} == {this.plan.digest}
    named = this.asked[0].plan
    assert named is not None
    assert decode_plan(payload_of(this.exchange, named)) == this.plan
    assert sha256(payload_of(this.exchange, this.run.model_of(1))) == this.run.model_of(1).sha256


def test_a_hospital_is_told_which_of_its_updates_counted_last(make: Make) -> None:
    this = make().everybody()
    this.refuses("south", "train", "not now", number=2)
    for _ in range(3):
        this.round()
    counted = {(q.recipient, q.purpose, q.round): q.counted for q in this.asked}
    first, third = (this.run.states.record(number).took_part for number in (1, 3))
    assert {counted[site, "train", 1] for site in SITES} == {""}  # nothing has counted before the first round
    assert counted["south", "score", 1] == first["south"]
    assert counted["south", "train", 2] == counted["south", "score", 2] == counted["south", "train", 3]
    assert counted["south", "train", 3] == first["south"]
    assert counted["south", "score", 3] == third["south"]
    assert this.refused(2) == {"south": "not now"}


# What is known of a round.


def test_a_rounds_losses_are_weighed_by_rows_and_leave_out_what_is_suppressed(make: Make) -> None:
    this = make()
    this.update("north", loss=0.2)
    this.update("south", loss=0.6)
    this.update("west", base="0" * 64)
    this.score("north", 0.5, 40)
    this.score("south", None, None)
    this.score("west", 0.9, 40)
    record = this.round()
    assert record.train_loss == pytest.approx((0.2 * 30 + 0.6 * 10) / 40, abs=1e-5)
    assert record.validation_loss == 0.5
    assert record.participants == ("north", "south")
    assert list(record.sites) == list(SITES)
    assert "another model" in record.sites["west"].refused
    assert record.sites["north"].train_loss == pytest.approx(0.2, abs=1e-5)
    assert record.sites["north"].model_copy(update={"train_loss": None}) == SiteRound(
        rows=30, validation_loss=0.5, validation_rows=40, metrics={"auroc": 0.5}
    )


def test_under_equal_weights_the_training_loss_is_still_the_mean_over_rows(make: Make) -> None:
    this = make("mean")
    for site, loss in (("north", 0.2), ("south", 0.6), ("west", 0.5)):
        this.update(site, loss=loss)
    assert this.round().train_loss == pytest.approx((0.2 * 30 + 0.6 * 10 + 0.5 * 20) / 60, abs=1e-4)


@pytest.mark.parametrize("name", ["loss", "rows", "luck"])
def test_a_score_with_a_figure_that_nobody_asked_for_is_left_out_and_says_so(name: str, make: Make) -> None:
    this = make().everybody()
    this.score("north", 0.5, 40)
    this.score("south", 0.9, 40, metrics={name: 0.001})
    record = this.round()
    assert record.validation_loss == 0.5
    assert record.sites["south"].metrics == {}
    assert record.sites["south"].silent == "south, round 1: it tells figures that nobody asked for"


def test_a_hospital_that_claims_more_validation_rows_than_it_was_admitted_with_does_not_choose_the_round(
    tmp_path: Path,
) -> None:
    admitted = plan_of().model_copy(update={"validation_rows": {"north": 12, "south": 40}})
    this = SmallRun(tmp_path, admitted).everybody()
    this.score("north", 0.001, 10**9)
    this.score("south", 0.5, 40)
    assert this.round().validation_loss == 0.5


def test_a_score_of_another_model_is_left_out(make: Make) -> None:
    this = make().everybody()
    this.score("north", 0.001, 1000, model="0" * 64)
    this.score("south", 0.5, 40)
    record = this.round()
    assert record.validation_loss == 0.5
    assert record.sites["north"].silent == "north, round 1: it scored another model"
    assert record.sites["north"].rows == 30  # its update counts all the same


def test_why_a_hospital_says_nothing_of_the_model_is_told_also_where_it_had_no_turn(make: Make) -> None:
    this = make("cyclic").everybody()
    (turn,) = this.plan.algorithm.turns(1)
    idle, refusing = (site for site in SITES if site != turn.site)
    this.refuses(idle, "score", "the validation rows are being moved")
    this.refuses(turn.site, "score", "not today")
    this.score(refusing, 0.5, 40)
    record = this.round()
    assert record.participants == (turn.site,)
    assert record.sites[idle] == SiteRound(silent="the validation rows are being moved")
    assert record.sites[turn.site].silent == "not today"
    assert record.validation_loss == 0.5


# Whose turn it is.


def test_an_update_of_a_hospital_that_was_not_asked_is_not_looked_at(make: Make) -> None:
    this = make("cyclic").everybody()
    (turn,) = this.plan.algorithm.turns(1)
    for site in set(SITES) - {turn.site}:
        data = b"not even safetensors"
        update = Update(
            run="run-1",
            round=1,
            sender=site,
            purpose="train",
            question="0" * 64,
            plan=this.plan.digest,
            base=this.run.model_of(0).sha256,
            weight=1,
            payload=reference(data),
        )
        post(this.exchange, update, data)
    record = this.round()
    assert [q.recipient for q in this.asked if q.purpose == "train"] == [turn.site]
    assert record.participants == (turn.site,)
    assert this.refused() == {}
    assert this.values() == pytest.approx([1 + CHANGES[turn.site]] * 3, abs=1e-6)


def test_a_stale_update_counts_less_and_only_on_the_model_that_was_sent(make: Make) -> None:
    this = make("fedbuff", buffer=1, arrivals=("north", "south"), rounds=2)
    this.update("north", by=1.0)
    this.update("south", by=1.0)
    this.round()
    assert this.values() == pytest.approx([2.0] * 3, abs=1e-6)
    this.round()
    second = [q for q in this.asked if (q.purpose, q.round) == ("train", 2)]
    assert [question.recipient for question in second] == ["south"]
    assert second[0].models["federated"] == this.run.model_of(0)  # South is still at the start
    assert this.refused(2) == {}
    assert this.values(2) == pytest.approx([1 + 1 + 2**-0.5] * 3, abs=1e-5)
    newest = make("fedbuff", buffer=1, arrivals=("north", "south"), rounds=2)
    newest.update("north", by=1.0)
    newest.round()
    newest.update("south", by=1.0, base=newest.run.model_of(1).sha256)
    with pytest.raises(QuorumNotMet, match="on another model than the one that was sent"):
        newest.round()


def test_a_median_shrugs_off_a_hospital_that_takes_the_mean_along(make: Make) -> None:
    moved = {}
    for rule in ("mean", "median"):
        this = make("mean", combine=rule)
        for site, by in (("north", 0.1), ("south", 0.2), ("west", -15.0)):
            this.update(site, by=by)
        this.round()
        moved[rule] = this.values()[0] - 1
    assert moved["mean"] == pytest.approx(-4.9, abs=1e-4)
    assert moved["median"] == pytest.approx(0.1, abs=1e-4)


# A run that is gone on with.


def test_a_round_that_was_aggregated_before_stays_as_it_was_whoever_has_answered_since(make: Make) -> None:
    this = make()
    this.update("north")
    this.update("south")
    this.round()
    before = this.run.states.record(1)
    (this.run.folder / "rounds" / "00001.json").unlink()  # killed before the round was scored
    this.update("west")
    this.asked.clear()
    this.reopened()
    record = this.round()
    assert record.round == 1
    assert this.run.states.record(1) == before
    assert record.participants == ("north", "south")
    assert record.sites["west"].refused == SILENT
    assert {question.purpose for question in this.asked} == {"score"}  # nobody is asked to train once more


def test_a_round_cut_short_between_memory_and_record_is_done_again_from_the_same_answers(make: Make) -> None:
    whole = make("fedadam").everybody()
    for site in SITES:
        whole.update(site, by=1.0)
    whole.round()
    cut = make("fedadam").everybody()
    for site in SITES:
        cut.update(site, by=1.0)
    cut.round()
    for ending in ("states/00001.json", "rounds/00001.json"):
        (cut.run.folder / ending).unlink()  # tensors of the state stand there, its record does not: it never was
    (cut.run.folder / "states" / "00001.model.safetensors").write_bytes(b"half")
    cut.reopened()
    assert 1 not in cut.run.states
    answers = {name: cut.exchange.get(name) for name in inbox(cut.exchange, "coordinator")}
    cut.round()
    assert {name: cut.exchange.get(name) for name in inbox(cut.exchange, "coordinator")} == answers
    assert cut.run.states.record(1) == whole.run.states.record(1)
    assert cut.run.states.bytes_of(1, "memory") == whole.run.states.bytes_of(1, "memory")
    assert cut.values() == whole.values()
    assert cut.values()[0] > 1.0


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_resumed_run_asks_nobody_about_rounds_that_are_done_and_ends_in_the_same_states(
    after: int, make: Make
) -> None:
    whole = make("fedavgm").everybody()
    assert len(list(whole.rounds())) == 3
    cut = make("fedavgm").everybody()
    rounds = cut.rounds()
    for _ in range(after):
        next(rounds)
    cut.exchange, before = MemoryExchange(), cut.asked[:]  # and of the exchange nothing is left
    cut.asked.clear()
    cut.reopened()
    assert [record.round for record in cut.rounds()] == list(range(after + 1, 4))
    assert len(before) == 6 * after
    assert [question.round for question in cut.asked] == [n for n in range(after + 1, 4) for _ in range(6)]
    posted = [name for site in SITES for name in inbox(cut.exchange, site)]
    assert len(posted) == 6 * (3 - after)
    assert cut.asked == [question for question in whole.asked if question.round > after]
    assert cut.run.records == whole.run.records
    for number in range(4):
        assert cut.run.states.record(number) == whole.run.states.record(number)
        assert cut.run.states.bytes_of(number, "model") == whole.run.states.bytes_of(number, "model")


def test_who_refused_is_asked_again_when_a_run_without_a_quorum_is_gone_on_with(make: Make) -> None:
    whole = make().everybody()
    list(whole.rounds(quorum=2))
    this = make().everybody()
    for site in ("south", "west"):
        this.refuses(site, "train", "the key is not at hand", number=2)
    with pytest.raises(QuorumNotMet, match=r"round 2 could use 1 of 3 .* south: the key is not at hand; west: the key"):
        list(this.rounds(quorum=2))
    this.home.close_attempt("run-1", "train")
    for site in ("south", "west"):
        this.update(site, number=2)
    this.asked.clear()
    assert this.reopened().attempt == 2
    assert [record.round for record in this.rounds(quorum=2)] == [2, 3]
    assert {(question.attempt, question.round) for question in this.asked} == {(2, 2), (2, 3)}
    assert [q.recipient for q in this.asked if (q.purpose, q.round) == ("train", 2)] == list(SITES)
    assert this.refused(2) == {}
    assert [this.run.model_of(n).sha256 for n in range(4)] == [whole.run.model_of(n).sha256 for n in range(4)]


def test_a_run_that_was_killed_does_not_ask_who_refused_again(make: Make) -> None:
    this = make().everybody()
    this.refuses("west", "train", "the key is not at hand")
    assert this.round().sites["west"].refused == "the key is not at hand"
    for ending in ("states/00001.json", "rounds/00001.json"):
        (this.run.folder / ending).unlink()
    this.says_nothing("west", "train")
    assert this.reopened().attempt == 1
    assert this.round().sites["west"].refused == "the key is not at hand"


def test_a_plan_that_is_damaged_is_said_and_one_that_never_was_is_none(make: Make) -> None:
    this = make()
    assert kept_run(this.home, "run-2", 1, 11) is None
    again = kept_run(this.home, "run-1", 1, 11)
    assert again is not None
    assert again.plan == this.plan
    (this.run.folder / "plan.json").write_bytes(b"{")
    with pytest.raises(WorkspaceError, match=r"plan.json: damaged; start over with `fedmed run --force`"):
        kept_run(this.home, "run-1", 1, 11)


def test_a_record_that_is_damaged_is_said(make: Make) -> None:
    this = make().everybody()
    this.round()
    (this.run.folder / "rounds" / "00001.json").write_bytes(b"{}")
    with pytest.raises(WorkspaceError, match=r"00001.json: damaged; start the run over with `fedmed run --force`"):
        list(this.rounds())


# What goes to hospitals.


@pytest.mark.parametrize("strategy", ["scaffold", "fedadam", "fedavg"])
def test_the_servers_memory_goes_to_hospitals_only_where_the_strategy_shares_it(strategy: str, make: Make) -> None:
    this = make(strategy).everybody()
    for _ in range(2):
        this.round()
    shared = strategy == "scaffold"
    train = [question for question in this.asked if question.purpose == "train"]
    assert {tuple(question.models) for question in train} == {("federated", "memory") if shared else ("federated",)}
    assert {tuple(question.models) for question in this.asked if question.purpose == "score"} == {("federated",)}
    memories = [this.run.states.record(number).memory for number in (0, 1, 2)]
    assert all((memory is None) == (strategy == "fedavg") for memory in memories)
    there = [memory for memory in memories[:2] if memory and this.exchange.get(payload_name(memory)) is not None]
    assert there == (memories[:2] if shared else [])


def test_models_are_put_into_an_exchange_that_has_lost_them(make: Make) -> None:
    this = make().everybody()
    this.round()
    this.exchange = MemoryExchange()
    this.round()
    question = next(q for q in this.asked if (q.purpose, q.round) == ("train", 2))
    assert payload_of(this.exchange, question.models["federated"]) == this.run.states.bytes_of(1, "model")
    assert put_payload(this.exchange, this.plan.encoded()) == question.plan

"""Hospitals in processes: what happens if one dies, hangs or cannot begin, and what passes between them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from federation import how_of
from odd import PROBLEMS, algorithm, make, make_wide, unmade, wide_problems

from fedmed.engine.loop import Round, federate
from fedmed.engine.processes import HELD, Processes, Workers
from fedmed.errors import QuorumNotMet
from fedmed.strategies.algorithm import State
from fedmed.strategies.options import AggregationOptions
from fedmed.strategies.table import STRATEGIES
from fedmed.weights import to_bytes


def run(workers: Workers, odd: str = "", at: tuple[str, int] = ("", 0), quorum: int = 1) -> Iterator[Round]:
    how = algorithm()
    states: dict[int, State] = {0: how.start({"w": torch.zeros(2)})}
    return federate(how, states, Processes(workers, partial(make, odd, at), sorted(PROBLEMS), states), quorum)


@pytest.fixture(scope="module")
def pair() -> Iterator[Workers]:
    with Workers(2, deadline=60) as started:
        yield started


def test_each_hospital_lives_in_one_process_of_one_thread_for_the_whole_run(pair: Workers) -> None:
    rounds = list(run(pair))
    assert len(rounds) == 8
    assert {entry[0] for round_ in rounds for entry in round_.scores.values()} == {1.0}
    for site in PROBLEMS:
        assert len({round_.scores[site][1] for round_ in rounds}) == 1
    assert rounds[0].scores["north"][1] != rounds[0].scores["south"][1] != os.getpid()
    assert rounds[0].scores["north"][2] == pytest.approx(4.5 - 1.5)


def test_how_many_processes_there_are_changes_no_bit(pair: Workers) -> None:
    *_, two = run(pair)
    with Workers(1, deadline=60) as started:  # more hospitals than processes
        *_, one = run(started)
    assert to_bytes(one.state.weights) == to_bytes(two.state.weights)
    with Workers(3, deadline=60) as started:  # fewer
        assert to_bytes(next(run(started)).state.weights) == to_bytes(next(run(pair)).state.weights)


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ("dies", "its process has ended"),
        ("hangs", "its process did not answer within 4 s and was ended"),
        ("stops", "its process did not answer within 4 s and was ended"),
    ],
)
def test_a_process_that_is_lost_is_the_refusal_of_its_hospitals_from_then_on(
    pair: Workers, odd: str, says: str
) -> None:
    next(run(pair))  # both are at work before the short deadline counts
    pair.deadline = 4
    try:
        rounds = list(run(pair, odd, ("south", 2)))
    finally:
        pair.deadline = 60
    assert [sorted(round_.state.took_part) for round_ in rounds] == [["north", "south"], *[["north"]] * 7]
    assert {round_.state.refused.get("south") for round_ in rounds[1:]} == {says}
    assert rounds[1].silent == {"south": says}  # nor does it say what it makes of the model
    # The next run has a new process in its place.
    assert [sorted(round_.state.took_part) for round_ in run(pair)] == [["north", "south"]] * 8


def test_a_lost_process_counts_against_the_quorum(pair: Workers) -> None:
    rounds = run(pair, "dies", ("south", 2), quorum=2)
    next(rounds)
    with pytest.raises(QuorumNotMet, match=r"round 2 could use 1 of 2 hospitals.* south: its process has ended"):
        next(rounds)


def test_a_hospital_that_fails_or_stumbles_in_a_round_is_out_of_that_round_only(
    pair: Workers, capfd: pytest.CaptureFixture[str]
) -> None:
    for odd, says in (("fails", "an update reaches 1e9"), ("stumbles", "ZeroDivisionError in its process")):
        rounds = list(run(pair, odd, ("south", 2)))
        assert says in rounds[1].state.refused["south"]
        assert "patients" not in rounds[1].state.refused["south"]  # what an unforeseen error says stays there
        assert [sorted(rounds[number].state.took_part) for number in (0, 2)] == [["north", "south"]] * 2
    assert "12 patients / 0" in capfd.readouterr().err


def test_hospitals_that_cannot_be_made_refuse_and_what_cannot_be_sent_is_said_at_once(pair: Workers) -> None:
    how = algorithm()
    states: dict[int, State] = {0: how.start({"w": torch.zeros(2)})}
    unready = Processes(pair, unmade, sorted(PROBLEMS), states)
    with pytest.raises(QuorumNotMet, match="north: its process could not make its hospitals: ZeroDivisionError"):
        next(federate(how, states, unready))
    with pytest.raises(Exception, match="lambda"):
        Processes(pair, lambda sites: unmade(sites), sorted(PROBLEMS), states)
    assert len(list(run(pair))) == 8


def test_a_state_goes_to_each_process_once_and_old_ones_are_forgotten(
    pair: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, int]] = []
    plain = Processes._body

    def counted(self: Processes, number: int, what: str) -> bytes:
        sent.append((what, number))
        return plain(self, number, what)

    monkeypatch.setattr(Processes, "_body", counted)
    list(run(pair))
    # The model that a process scored is the one that it trains on next.
    assert sorted(sent) == sorted([(what, number) for what in ("model", "memory") for number in range(9)] * 2)
    assert all(len(worker.held) <= HELD for worker in pair.workers)


def test_a_state_made_of_large_tensors_does_not_block_the_way() -> None:
    """More than a pipe holds, in both directions, with several questions for each process."""
    wide = wide_problems()
    how = how_of(STRATEGIES["fedavg"], AggregationOptions(), wide)
    states: dict[int, State] = {0: how.start({"w": torch.zeros(200_000)})}
    with Workers(2, deadline=60) as started:
        rounds = list(federate(how, states, Processes(started, make_wide, sorted(wide), states), 4))
    assert len(rounds) == 8


def test_processes_end_with_their_context() -> None:
    with Workers(2, deadline=60) as started:
        next(run(started))
        ids = [worker.process.pid for worker in started.workers]
    for each in ids:
        assert each is not None
        with pytest.raises(ProcessLookupError):
            os.kill(each, 0)

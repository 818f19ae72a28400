"""What a run leaves behind: which round is chosen, when it ends, and what is read back of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from small_run import SITES, START, SmallRun, plan_of

from fedmed.coordinator.history import (
    RoundRecord,
    SiteRound,
    choose_round,
    comparable_losses,
    mean_of,
    read_history,
    stalled,
    write_history,
)
from fedmed.errors import WorkspaceError
from fedmed.weights import sha256, to_bytes
from fedmed.wire.messages import Payload


def rounds(*losses: float | None) -> list[RoundRecord]:
    model = Payload(sha256="0" * 64, size=1)
    return [
        RoundRecord(round=i, model=model, participants=(), train_loss=1.0 / i, validation_loss=loss, sites={})
        for i, loss in enumerate(losses, 1)
    ]


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ([0.5], 1),
        ([0.5, 0.4, 0.6], 2),
        ([0.5, 0.4, 0.4], 2),
        ([0.4, 0.4, 0.4], 1),
        ([None, 0.9, None], 2),
        ([None, None, None], 3),
        ([0.0, None, 0.1], 1),
    ],
)
def test_the_round_with_the_least_validation_loss_is_chosen_the_earliest_of_equals(
    losses: list[float | None], chosen: int
) -> None:
    assert choose_round(rounds(*losses)).round == chosen
    if any(loss is not None for loss in losses):
        assert choose_round(rounds(*losses)[::-1]).round == chosen


def test_a_hospital_that_falls_silent_moves_no_choice() -> None:
    model = Payload(sha256="a" * 64, size=1)

    def record(number: int, **losses: float | None) -> RoundRecord:
        sites = {site: SiteRound(validation_loss=loss, validation_rows=10) for site, loss in losses.items()}
        told = [loss for loss in losses.values() if loss is not None]
        mean = sum(told) / len(told)
        return RoundRecord(
            round=number, model=model, participants=(), train_loss=1.0, validation_loss=mean, sites=sites
        )

    # In round 2 the hospital with the high loss may not tell it: the mean falls, but no model became better.
    records = [record(1, north=0.4, south=0.9), record(2, north=0.5, south=None), record(3, north=0.3, south=0.9)]
    assert [entry.validation_loss for entry in records] == pytest.approx([0.65, 0.5, 0.6])
    assert comparable_losses(records) == pytest.approx([0.4, 0.5, 0.3])
    assert choose_round(records).round == 3
    nobody = [record(1, north=0.4, south=None), record(2, north=None, south=0.2)]
    assert comparable_losses(nobody) == pytest.approx([0.4, 0.2])


def test_without_a_round_nothing_is_chosen() -> None:
    with pytest.raises(ValueError, match="at least one round"):
        choose_round([])


# When a run ends.


@pytest.mark.parametrize(
    ("losses", "patience", "ends"),
    [
        ([0.5, 0.4, 0.4, 0.4], 2, True),  # the earliest of equals is the best
        ([0.5, 0.4, 0.41, 0.39], 2, False),
        ([0.5, 0.6], 2, False),
        ([0.5, 0.6, 0.7], 2, True),
        ([0.5, None, None], 2, True),  # two rounds without a lower loss, told or not
        ([None, None, None], 2, False),
        ([], 1, False),
        ([0.1, 0.2, 0.3, 0.4], 0, False),
        ([0.5, 0.5], 1, True),
    ],
)
def test_a_run_ends_after_so_many_rounds_without_a_lower_loss(
    losses: list[float | None], patience: int, ends: bool
) -> None:
    assert stalled(losses, patience) is ends


@pytest.mark.parametrize(
    ("parts", "mean"),
    [([(0.5, 10), (0.2, 30)], 0.275), ([(0.5, 10), (None, 30)], 0.5), ([(0.5, 0), (0.2, None)], None), ([], None)],
)
def test_a_mean_over_rows_leaves_out_what_is_not_told(
    parts: list[tuple[float | None, int | None]], mean: float | None
) -> None:
    assert mean_of(parts) == pytest.approx(mean)


# What is written of it.


def test_a_history_is_read_back_with_the_chosen_model_and_curves_name_who_was_silent(tmp_path: Path) -> None:
    this = SmallRun(tmp_path / "home", plan_of(rounds=2)).everybody()
    this.score("north", 0.5, 40, number=1)
    this.score("north", 0.25, 40, number=2)
    this.refuses("west", "train", "no time", number=2)
    records = list(this.rounds())
    chosen = choose_round(records)
    written = write_history(tmp_path, this.plan, records, chosen, this.run.states[chosen.round].weights)
    history, bundle = read_history(tmp_path)
    assert history == written
    assert (history.chosen, history.participants, history.plan) == (2, SITES, this.plan.digest)
    assert history.rounds[1].sites["west"].refused == "no time"
    assert bundle.description.weights == chosen.model.sha256 == sha256(to_bytes(bundle.weights))
    assert (bundle.description.run, bundle.description.round) == ("run-1", 2)
    told = json.loads((tmp_path / "metrics.json").read_text())
    assert (told["rounds"], told["chosen_round"], told["validation_loss"]) == (2, 2, 0.25)
    with (tmp_path / "curves" / "sites.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["round"], row["site"], row["validation_loss"], row["validation_auroc"]) for row in rows] == [
        ("1", "north", "0.5", "0.5"),
        ("1", "south", "", ""),
        ("1", "west", "", ""),
        ("2", "north", "0.25", "0.5"),
        ("2", "south", "", ""),
        ("2", "west", "", ""),
    ]
    assert not torch.equal(bundle.weights["bias"], START["bias"])


def test_without_a_history_or_with_a_damaged_one_it_is_said_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="no model has been trained here yet; `fedmed run` trains one"):
        read_history(tmp_path)
    (tmp_path / "rounds.json").write_text("{}")
    with pytest.raises(WorkspaceError, match=r"rounds.json: not the history of a run; `fedmed run --force`"):
        read_history(tmp_path)

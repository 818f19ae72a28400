"""How often a run was begun and gone on with: the numbers under which hospitals are asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_run import START, plan_of

from fedmed.coordinator.home import Attempts, CoordinatorHome
from fedmed.coordinator.training import keep_plan
from fedmed.errors import WorkspaceError

RUN = "run-1"


@pytest.fixture
def home(tmp_path: Path) -> CoordinatorHome:
    return CoordinatorHome(tmp_path)


def agree(home: CoordinatorHome, attempt: int = 1) -> None:
    """Keep a plan that was agreed on in an attempt."""
    keep_plan(home, plan_of().model_copy(update={"attempt": attempt}), START, 11)


def test_a_run_that_was_never_begun_begins_from_nothing(home: CoordinatorHome) -> None:
    assert home.attempts(RUN) == Attempts()
    assert home.begin_training(RUN) == (1, 1)
    assert home.attempts(RUN) == Attempts(last=1, begun=1, open={"train": 1})


def test_a_run_that_was_killed_goes_on_under_the_same_number(home: CoordinatorHome) -> None:
    home.begin_training(RUN)
    agree(home)
    assert home.begin_training(RUN) == (1, 1)
    assert CoordinatorHome(home.path).begin_training(RUN) == (1, 1)


def test_a_run_that_failed_goes_on_under_the_next_number_with_what_was_agreed(home: CoordinatorHome) -> None:
    home.begin_training(RUN)
    agree(home)
    home.close_attempt(RUN, "train")
    assert home.begin_training(RUN) == (2, 1)
    assert home.begin_training(RUN) == (2, 1)  # and killed in it, under that
    home.close_attempt(RUN, "train")
    assert home.begin_training(RUN) == (3, 1)


def test_a_run_that_failed_before_it_was_agreed_on_begins_anew(home: CoordinatorHome) -> None:
    home.begin_training(RUN)
    home.close_attempt(RUN, "train")
    assert home.begin_training(RUN) == (2, 2)


def test_a_run_that_was_killed_before_it_was_agreed_on_begins_again_under_its_number(home: CoordinatorHome) -> None:
    home.begin_training(RUN)
    assert home.begin_training(RUN) == (1, 1)  # who has answered for statistics is not asked anew


def test_a_run_that_was_finished_begins_anew(home: CoordinatorHome) -> None:
    home.begin_training(RUN)
    agree(home)
    home.finish_training(RUN)
    assert home.attempts(RUN) == Attempts(last=1, begun=1, finished=True)
    assert home.begin_training(RUN) == (2, 2)
    assert not home.attempts(RUN).finished
    agree(home, 2)
    assert home.begin_training(RUN) == (2, 2)


@pytest.mark.parametrize("ended", ["killed", "failed", "finished"])
def test_a_run_that_is_forced_begins_anew_however_it_ended(home: CoordinatorHome, ended: str) -> None:
    home.begin_training(RUN)
    agree(home)
    if ended == "failed":
        home.close_attempt(RUN, "train")
    if ended == "finished":
        home.finish_training(RUN)
    assert home.begin_training(RUN, force=True) == (2, 2)
    assert not (home.run_folder(RUN, 2) / "plan.json").exists()
    assert (home.run_folder(RUN, 1) / "plan.json").exists()  # what was before is not thrown away


def test_what_a_crash_cut_short_is_asked_under_the_same_number_and_what_ended_under_the_next(
    home: CoordinatorHome,
) -> None:
    assert home.open_attempt("validation-1", "validate") == 1
    assert home.open_attempt("validation-1", "validate") == 1
    home.close_attempt("validation-1", "validate")
    assert home.open_attempt("validation-1", "validate") == 2
    assert home.open_attempt("validation-1", "validate", anew=True) == 3
    assert home.open_attempt("validation-2", "validate") == 1  # every run counts for itself


def test_an_evaluation_has_a_number_of_its_own_and_none_below_the_plans(home: CoordinatorHome) -> None:
    home.begin_training(RUN)
    agree(home)
    home.finish_training(RUN)
    assert home.open_attempt(RUN, "evaluate") == 2  # and killed
    assert home.open_attempt(RUN, "evaluate") == 2
    assert home.begin_training(RUN, force=True) == (3, 3)
    agree(home, 3)
    home.finish_training(RUN)
    assert home.open_attempt(RUN, "evaluate") == 4  # under 2, no hospital would know the plan of attempt 3
    home.close_attempt(RUN, "evaluate")
    assert home.open_attempt(RUN, "evaluate") == 5
    assert home.attempts(RUN).begun == 3


def test_an_evaluation_that_is_open_does_not_change_how_training_goes_on(home: CoordinatorHome) -> None:
    home.begin_training(RUN)
    agree(home)
    home.open_attempt(RUN, "evaluate")
    assert home.begin_training(RUN) == (1, 1)
    home.close_attempt(RUN, "train")
    assert home.attempts(RUN).open == {"evaluate": 2}
    assert home.begin_training(RUN) == (3, 1)


def test_of_a_run_that_is_forgotten_only_its_numbers_are_kept(home: CoordinatorHome) -> None:
    home.begin_training(RUN)
    agree(home)
    home.open_attempt(RUN, "evaluate")
    home.forget_run(RUN)
    assert home.attempts(RUN) == Attempts(last=2)
    assert [path.name for path in (home.runs / RUN).iterdir()] == ["attempts.json"]
    assert home.begin_training(RUN) == (3, 3)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"last": "many"}', b'{"unknown": 1}'], ids=repr)
def test_attempts_that_are_damaged_are_said_with_what_to_do(home: CoordinatorHome, content: bytes) -> None:
    home.begin_training(RUN)
    path = home.runs / RUN / "attempts.json"
    path.write_bytes(content)
    with pytest.raises(WorkspaceError, match=r"attempts.json: not the attempts of a run; delete it"):
        home.begin_training(RUN)
    path.unlink()
    assert home.begin_training(RUN) == (1, 1)

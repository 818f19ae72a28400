"""What a hospital keeps of its runs, and for how many of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fedmed.site.memory import forget_old_runs

from fedmed.site.home import SiteHome


@pytest.fixture
def home(tmp_path: Path) -> SiteHome:
    """A hospital that has taken part in four runs, the last of them in "d"."""
    made = SiteHome(tmp_path / "va")
    for moment, run in enumerate("abcd"):
        (made.rounds / run).mkdir(parents=True)
        os.utime(made.rounds / run, (moment, moment))
    return made


def runs(home: SiteHome) -> set[str]:
    return {folder.name for folder in home.rounds.iterdir()}


def test_the_last_runs_are_kept_and_older_ones_forgotten(home: SiteHome) -> None:
    forget_old_runs(home, "new", most=3)
    assert runs(home) == {"c", "d"}  # and "new", once it has a turn


def test_the_present_run_is_kept_however_old_it_is(home: SiteHome) -> None:
    forget_old_runs(home, "a", most=2)
    assert runs(home) == {"a", "d"}


def test_a_comparison_may_train_many_runs_beside_the_workspaces_own(home: SiteHome) -> None:
    forget_old_runs(home, "new")
    assert runs(home) == set("abcd")


def test_a_hospital_that_never_took_part_has_nothing_to_forget(tmp_path: Path) -> None:
    forget_old_runs(SiteHome(tmp_path / "va"), "new")
    assert not (tmp_path / "va").exists()

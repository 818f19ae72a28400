"""Hospitals in processes of which one does something odd. Here, as a process that a test starts can import no test."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import torch
from federation import half_squares, how_of, pulled_to

from fedmed.engine.members import Members
from fedmed.engine.runner import Answer, Question, Refusal
from fedmed.errors import RangeExceeded
from fedmed.strategies.algorithm import Algorithm
from fedmed.strategies.options import AggregationOptions
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import Problem, TrainingOptions
from fedmed.weights import Weights

LOCAL = TrainingOptions(learning_rate=0.5, local_epochs=2, batch_size=3, rounds=8)
PROBLEMS = {"north": pulled_to(12, 0, 1, LOCAL), "south": pulled_to(0, -4, 3, LOCAL)}
"""As in tests/strategies/test_by_hand.py: after a round of SCAFFOLD, w = (4.5, -1.5)."""
ANSWERS = AggregationOptions(strategy="scaffold")


def algorithm() -> Algorithm:
    return how_of(STRATEGIES["scaffold"], ANSWERS, PROBLEMS)


class Odd(Members):
    """Hospitals of which one does something odd in a round."""

    def __init__(self, sites: Sequence[str], odd: str, at: tuple[str, int]) -> None:
        super().__init__(algorithm(), {site: PROBLEMS[site] for site in sites}, {}, self._told)
        self._odd, self._at = odd, at

    def _told(self, site: str, state: Weights) -> list[float]:
        return [float(torch.get_num_threads()), os.getpid(), float(state["w"].sum())]

    def __call__(self, question: Question) -> Answer | Refusal:
        if (question.site, question.round) == self._at and question.purpose == "train":
            if self._odd == "dies":
                os._exit(3)
            if self._odd == "hangs":
                time.sleep(3600)
            if self._odd == "stops":
                os.kill(os.getpid(), signal.SIGSTOP)
            if self._odd == "stumbles":
                raise ZeroDivisionError("12 patients / 0")
            if self._odd == "fails":
                raise RangeExceeded("an update reaches 1e9 in a coordinate")
        return super().__call__(question)


def make(odd: str, at: tuple[str, int], sites: Sequence[str]) -> Members:
    return Odd(sites, odd, at)


def unmade(sites: Sequence[str]) -> Members:
    raise ZeroDivisionError("no hospitals")


class Wide(torch.nn.Module):
    """As many parameters as a small network of images has."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(200_000))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """`(rows, 1)` → `(rows, 1)`."""
        return rows - self.w.mean()


def wide_problems() -> dict[str, Problem]:
    return {site: Problem(Wide(), half_squares, torch.ones(2, 1), torch.zeros(2), LOCAL) for site in "abcd"}


def make_wide(sites: Sequence[str]) -> Members:
    wide = wide_problems()
    how = how_of(STRATEGIES["fedavg"], AggregationOptions(), wide)
    return Members(how, {site: wide[site] for site in sites}, {})

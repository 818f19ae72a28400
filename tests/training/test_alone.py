"""The model that a hospital could train without the others: as well as its rows allow, chosen by validation."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from fedmed.seeds import torch_generator
from fedmed.training.alone import MOST_EPOCHS, PATIENCE, PENALTIES, AloneResult, log_loss, train_alone
from fedmed.training.local import TrainingOptions, train_locally

NETWORK = nn.Linear(2, 1)
START = {"weight": torch.zeros(1, 2), "bias": torch.zeros(1)}
OPTIONS = TrainingOptions(learning_rate=2.0, batch_size=100)


def rows(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch_generator(seed, "rows")
    x = torch.randn(n, 2, generator=generator)
    return x, (torch.sigmoid(2 * x[:, 0]) > torch.rand(n, generator=generator)).float()


def alone(training: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], seed: int = 0) -> AloneResult:
    return train_alone(NETWORK, START, training, validation, OPTIONS, torch_generator(seed))


@cache
def fitted() -> AloneResult:
    return alone(rows(100, 1), rows(100, 2))


def test_the_log_loss_by_hand() -> None:
    weights = {"weight": torch.tensor([[math.log(3.0), 0.0]]), "bias": torch.zeros(1)}
    x = torch.tensor([[1.0, 9.0], [0.0, 9.0]])
    # σ(ln 3) = ¾ of a positive, σ(0) = ½ of a negative
    expected = -(math.log(0.75) + math.log(0.5)) / 2
    assert log_loss(NETWORK, weights, x, torch.tensor([1.0, 0.0])) == pytest.approx(expected)
    assert log_loss(NETWORK, weights, x[:0], torch.zeros(0)) == math.inf


def test_it_is_no_worse_on_validation_than_the_start_or_one_epoch_of_any_penalty() -> None:
    training, validation = rows(100, 1), rows(100, 2)
    best = fitted()
    reached = log_loss(NETWORK, best.weights, *validation)
    assert reached < log_loss(NETWORK, START, *validation)
    first = train_locally(
        NETWORK, START, *training, OPTIONS.model_copy(update={"l2": PENALTIES[0]}), torch_generator(0)
    )
    assert reached <= log_loss(NETWORK, first.weights, *validation)
    assert best.penalty in PENALTIES
    assert 1 <= best.epochs <= MOST_EPOCHS


def test_it_finds_the_input_that_matters() -> None:
    best = fitted()
    weight = best.weights["weight"][0].tolist()
    assert weight[0] > 1.0
    assert abs(weight[1]) < weight[0] / 3


def test_the_same_generator_gives_the_same_model_and_the_start_is_left_alone() -> None:
    x, y = rows(40, 1)
    steps = OPTIONS.model_copy(update={"batch_size": 10})
    first, second = (train_alone(NETWORK, START, (x, y), (x, 1 - y), steps, torch_generator(0)) for _ in range(2))
    assert torch.equal(first.weights["weight"], second.weights["weight"])
    assert first[1:] == second[1:]
    assert START["weight"].tolist() == [[0.0, 0.0]]


def test_where_training_only_harms_it_stops_early_with_the_first_epoch() -> None:
    x, y = rows(40, 1)
    gentle = OPTIONS.model_copy(update={"learning_rate": 0.5})
    best = train_alone(NETWORK, START, (x, y), (x, 1 - y), gentle, torch_generator(0))  # validation says the opposite
    assert best.epochs == 1
    assert best.penalty == 0.0  # a penalty does nothing to a first step from zero: the least of equals


def test_without_validation_rows_nothing_is_chosen_and_the_start_stays() -> None:
    best = alone(rows(20, 1), (torch.zeros(0, 2), torch.zeros(0)))
    assert best == AloneResult(START, 0.0, 0)


def test_patience_is_shorter_than_the_longest_training() -> None:
    assert 0 < PATIENCE < MOST_EPOCHS
    assert PENALTIES[0] == 0.0
    assert list(PENALTIES) == sorted(PENALTIES)

"""The model that a hospital could train without the others: as well as its rows allow, chosen by validation."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from fedmed.seeds import torch_generator
from fedmed.training.alone import (
    MOST_EPOCHS,
    PATIENCE,
    PATIENCE_OF_LARGE,
    PENALTIES,
    SMALL,
    AloneResult,
    train_alone,
)
from fedmed.training.local import Problem, TrainingOptions, loss_of, train
from fedmed.training.losses import log_loss

NETWORK = nn.Linear(2, 1)
START = {"weight": torch.zeros(1, 2), "bias": torch.zeros(1)}
OPTIONS = TrainingOptions(learning_rate=2.0, batch_size=100)


def rows(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch_generator(seed, "rows")
    x = torch.randn(n, 2, generator=generator)
    return x, (torch.sigmoid(2 * x[:, 0]) > torch.rand(n, generator=generator)).float()


def alone(training: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], seed: int = 0) -> AloneResult:
    return train_alone(on(training), validation, START, torch_generator(seed))


def on(rows: tuple[Tensor, Tensor], options: TrainingOptions = OPTIONS) -> Problem:
    return Problem(NETWORK, log_loss, *rows, options)


@cache
def fitted() -> AloneResult:
    return alone(rows(100, 1), rows(100, 2))


def test_it_is_no_worse_on_validation_than_the_start_or_one_epoch_of_any_penalty() -> None:
    training, validation = rows(100, 1), rows(100, 2)
    best = fitted()
    held = on(validation)
    reached = loss_of(held, best.state)
    assert reached < loss_of(held, START)
    for penalty in PENALTIES:
        problem = on(training, OPTIONS.model_copy(update={"l2": penalty}))
        first = train(problem, START, [torch.arange(100)], rate=OPTIONS.learning_rate)
        assert reached <= loss_of(held, first.state)
    assert best.penalty in PENALTIES
    assert 1 <= best.epochs <= MOST_EPOCHS


def test_it_finds_the_input_that_matters() -> None:
    best = fitted()
    weight = best.state["weight"][0].tolist()
    assert weight[0] > 1.0
    assert abs(weight[1]) < weight[0] / 3


def test_the_same_generator_gives_the_same_model_and_the_start_is_left_alone() -> None:
    x, y = rows(40, 1)
    steps = OPTIONS.model_copy(update={"batch_size": 10})
    first, second = (train_alone(on((x, y), steps), (x, 1 - y), START, torch_generator(0)) for _ in range(2))
    assert torch.equal(first.state["weight"], second.state["weight"])
    assert first[1:] == second[1:]
    assert START["weight"].tolist() == [[0.0, 0.0]]


def test_where_training_only_harms_it_stops_early_with_the_first_epoch() -> None:
    x, y = rows(40, 1)
    gentle = OPTIONS.model_copy(update={"learning_rate": 0.5})
    best = train_alone(on((x, y), gentle), (x, 1 - y), START, torch_generator(0))  # validation says the opposite
    assert best.epochs == 1
    assert best.penalty == 0.0  # a penalty does nothing to a first step from zero: the least of equals


def test_without_validation_rows_nothing_is_chosen_and_the_start_stays() -> None:
    best = alone(rows(20, 1), (torch.zeros(0, 2), torch.zeros(0)))
    assert best == AloneResult(START, 0.0, 0)


def test_patience_is_shorter_than_the_longest_training() -> None:
    assert 0 < PATIENCE < MOST_EPOCHS
    assert PENALTIES[0] == 0.0
    assert list(PENALTIES) == sorted(PENALTIES)
    assert 0 < PATIENCE_OF_LARGE <= PATIENCE


def test_a_large_network_is_trained_once_with_the_penalty_of_the_run() -> None:
    wide = nn.Linear(SMALL + 1, 1)
    x = torch.randn(30, SMALL + 1, generator=torch_generator(1))
    options = OPTIONS.model_copy(update={"l2": 0.07, "learning_rate": 0.01})
    start = {"weight": torch.zeros(1, SMALL + 1), "bias": torch.zeros(1)}
    problem = Problem(wide, log_loss, x, (x[:, 0] > 0).float(), options)
    best = train_alone(problem, (x, (x[:, 0] > 0).float()), start, torch_generator(0))
    assert best.penalty == 0.07
    assert best.epochs >= 1

"""A step of local training worked out by hand, and what it may depend on and touch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedmed.models.networks import NetworkOptions, build_network, initial_weights
from fedmed.seeds import torch_generator
from fedmed.training import local
from fedmed.training.local import (
    Problem,
    Trained,
    TrainingOptions,
    batches_of_round,
    factor,
    fewest_in_batch,
    gradient,
    loss_of,
)
from fedmed.training.losses import log_loss

NETWORK = nn.Linear(1, 1)


def start(weight: float, bias: float) -> dict[str, Tensor]:
    return {"weight": torch.tensor([[weight]]), "bias": torch.tensor([bias])}


def data(n: int = 20, features: int = 3) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, features, generator=torch_generator(1, "x"))
    return x, (x[:, 0] > 0).float()


def train_round(
    network: nn.Module, weights: dict[str, Tensor], x: Tensor, y: Tensor, options: TrainingOptions, seed: int
) -> Trained:
    """The first round of a hospital whose rows come in an order of this seed."""
    generator = torch_generator(seed)
    batches = batches_of_round(len(x), options, 1, lambda epoch: torch.randperm(len(x), generator=generator))
    return local.train(Problem(network, log_loss, x, y, options), weights, batches, rate=options.learning_rate)


def train(weights: dict[str, Tensor], x: Tensor, y: Tensor, seed: int = 0, **options: float) -> dict[str, Tensor]:
    network = nn.Linear(x.shape[1], 1)
    return train_round(network, weights, x, y, TrainingOptions.model_validate(options), seed).state


def test_a_step_without_a_penalty_by_hand() -> None:
    # logit 0 → σ = ½; gradients for y = 1, x = 2: (½ - 1) · 2 = -1 and -½; step .1: +.1 and +.05
    after = train(start(0.0, 0.0), torch.tensor([[2.0]]), torch.tensor([1.0]), learning_rate=0.1, l2=0.0)
    assert after["weight"].item() == pytest.approx(0.1)
    assert after["bias"].item() == pytest.approx(0.05)


def test_a_step_with_a_penalty_on_the_weight_but_not_on_the_intercept_by_hand() -> None:
    # logit 3 · 1 - 3 = 0: log-loss gradients -½ and -½ for y = 1; penalty 2 · .25 · 3 = 1.5 on the weight alone.
    after = train(start(3.0, -3.0), torch.tensor([[1.0]]), torch.tensor([1.0]), learning_rate=0.1, l2=0.25)
    assert after["weight"].item() == pytest.approx(3.0 - 0.1 * (-0.5 + 1.5))
    assert after["bias"].item() == pytest.approx(-3.0 + 0.1 * 0.5)


def test_a_batch_takes_the_mean_of_its_gradients() -> None:
    # y = 1 at x = 2 and y = 0 at x = 4, both at σ = ½: mean of -1 and 2 is ½ for the weight, of -½ and ½ is 0.
    x, y = torch.tensor([[2.0], [4.0]]), torch.tensor([1.0, 0.0])
    after = train(start(0.0, 0.0), x, y, learning_rate=1.0, l2=0.0, batch_size=2)
    assert after["weight"].item() == pytest.approx(-0.5)
    assert after["bias"].item() == pytest.approx(0.0)


def test_the_loss_is_the_mean_over_rows_before_each_step_and_without_the_penalty() -> None:
    x, y = torch.zeros(5, 1), torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    options = TrainingOptions(learning_rate=1e-9, l2=100.0, batch_size=2)
    result = train_round(NETWORK, start(0.0, 0.0), x, y, options, 0)
    assert result.loss == pytest.approx(math.log(2))
    # The last batch has one row: rows count equally, not batches.
    options = TrainingOptions(learning_rate=1e-9, l2=0.0, batch_size=2)
    uneven = torch.tensor([[math.log(3)]] * 2 + [[0.0]])
    result = train_round(NETWORK, start(1.0, 0.0), uneven, torch.ones(3), options, 0)
    assert result.loss == pytest.approx((2 * math.log(4 / 3) + math.log(2)) / 3)


def test_the_penalty_alone_shrinks_every_step_by_the_same_share() -> None:
    # x = 0: the log loss does not see the weight; 3 rows in batches of 1: three steps of 1 - 2 · .1 · .5 = .9
    after = train(start(1.0, 0.0), torch.zeros(3, 1), torch.ones(3), learning_rate=0.1, l2=0.5, batch_size=1)
    assert after["weight"].item() == pytest.approx(0.9**3)


def test_epochs_and_batches_are_as_many_as_the_options_say() -> None:
    x, y = torch.zeros(5, 1), torch.ones(5)
    shrink = {"learning_rate": 0.1, "l2": 0.5}
    for epochs, batch, steps in ((1, 5, 1), (1, 2, 3), (2, 2, 6), (3, 100, 3)):
        after = train(start(1.0, 0.0), x, y, local_epochs=epochs, batch_size=batch, **shrink)
        assert after["weight"].item() == pytest.approx(0.9**steps, rel=1e-5)


def test_the_result_depends_on_the_generator_and_on_nothing_else() -> None:
    x, y = data()
    before = {"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}
    torch.manual_seed(1)
    first = train(before, x, y, seed=5, batch_size=3, local_epochs=2)
    torch.manual_seed(2)
    again = train(before, x, y, seed=5, batch_size=3, local_epochs=2)
    other = train(before, x, y, seed=6, batch_size=3, local_epochs=2)
    assert torch.equal(first["weight"], again["weight"])
    assert torch.equal(first["bias"], again["bias"])
    assert not torch.equal(first["weight"], other["weight"])


def test_in_one_batch_the_order_of_rows_makes_no_difference_that_matters() -> None:
    x, y = data()
    before = {"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}
    one, other = (train(before, x, y, seed=seed, batch_size=20) for seed in (1, 2))
    assert torch.allclose(one["weight"], other["weight"], atol=1e-6)


def test_neither_arguments_nor_the_networks_parameters_nor_the_global_generator_change() -> None:
    x, y = data()
    network = nn.Linear(3, 1)
    before = {"weight": torch.ones(1, 3), "bias": torch.ones(1)}
    watched = {"x": x, "y": y, **before, **{f"net.{k}": p for k, p in network.named_parameters()}}
    kept = {name: tensor.detach().clone() for name, tensor in watched.items()}
    state = torch.get_rng_state()
    result = train_round(network, before, x, y, TrainingOptions(batch_size=3), 1)
    assert all(torch.equal(kept[name], tensor) for name, tensor in watched.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(tensor.requires_grad for tensor in result.state.values())
    assert not torch.equal(result.state["weight"], before["weight"])


def test_weights_that_share_memory_with_others_stay_apart() -> None:
    x, y = data()
    base = {"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}
    first = train(base, x, y, seed=1)
    second = train(first, x, y, seed=2)
    assert not torch.equal(first["weight"], second["weight"])
    assert torch.equal(base["weight"], torch.zeros(1, 3))


@pytest.mark.parametrize(
    "bad",
    [{"learning_rate": 0}, {"l2": -0.1}, {"batch_size": 0}, {"rounds": 0}, {"local_epochs": 0}, {"momentum": 1.0}],
)
def test_options_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        TrainingOptions.model_validate(bad)


def test_momentum_is_the_heavy_ball_and_begins_at_rest() -> None:
    # x = 0, penalty 2 · .5 · w = w: two steps of rate .1 with momentum .5 from 1: v = 1, w = .9; v = .5 + .9, w = .76
    after = train(
        start(1.0, 0.0), torch.zeros(2, 1), torch.ones(2), learning_rate=0.1, l2=0.5, batch_size=1, momentum=0.5
    )
    assert after["weight"].item() == pytest.approx(0.76)


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({"momentum": 0.9}, lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
        ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, lr=0.1)),
    ],
)
def test_the_optimisers_are_those_of_torch(options: dict[str, float], reference: Callable[..., Any]) -> None:
    x, y = data()
    after = train(
        {"weight": torch.ones(1, 3), "bias": torch.zeros(1)},
        x,
        y,
        seed=3,
        batch_size=4,
        learning_rate=0.1,
        l2=0.02,
        local_epochs=2,
        **options,
    )
    network = nn.Linear(3, 1)
    network.load_state_dict({"weight": torch.ones(1, 3), "bias": torch.zeros(1)})
    optimiser, generator = reference(network.parameters()), torch_generator(3)
    for _ in range(2):
        for batch in torch.split(torch.randperm(20, generator=generator), 4):
            optimiser.zero_grad()
            (log_loss(network(x[batch]), y[batch]) + 0.02 * network.weight.square().sum()).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    for name, tensor in network.named_parameters():
        assert torch.allclose(after[name], tensor.detach(), atol=1e-5)


def test_a_gradient_that_is_too_long_is_shortened_before_penalty_and_correction() -> None:
    # The gradient at 0 for y = 1 and x = 2 is (-1, -.5), of length 1.118; with clip .559 half of it.
    x, y = torch.tensor([[2.0]]), torch.tensor([1.0])
    after = train(start(0.0, 0.0), x, y, learning_rate=1.0, l2=0.0, clip=math.sqrt(1.25) / 2)
    assert (after["weight"].item(), after["bias"].item()) == (pytest.approx(0.5), pytest.approx(0.25))
    untouched = train(start(0.0, 0.0), x, y, learning_rate=1.0, l2=0.0, clip=2.0)
    assert untouched["weight"].item() == pytest.approx(1.0)
    penalised = train(start(3.0, -6.0), x, y, learning_rate=1.0, l2=0.25, clip=math.sqrt(1.25) / 2)
    assert penalised["weight"].item() == pytest.approx(3.0 + 0.5 - 1.5)


def test_a_correction_is_added_and_fixed_parameters_stay() -> None:
    x, y = torch.tensor([[2.0]]), torch.tensor([1.0])
    problem = Problem(NETWORK, log_loss, x, y, TrainingOptions(l2=0.0))
    batches = [torch.tensor([0])]
    found = local.train(
        problem, start(0.0, 0.0), batches, rate=1.0, correct=lambda name, value: value * 0 + 3, fixed=["bias"]
    )
    assert (found.state["weight"].item(), found.state["bias"].item()) == (pytest.approx(1.0 - 3.0), 0.0)


def test_the_gradient_over_all_rows_is_one_step_of_all_rows() -> None:
    x, y = data()
    before = {"weight": torch.ones(1, 3), "bias": torch.zeros(1)}
    problem = Problem(nn.Linear(3, 1), log_loss, x, y, TrainingOptions(l2=0.3))
    slope = gradient(problem, before)
    stepped = local.train(problem, before, [torch.arange(20)], rate=1.0)
    for name in before:
        assert torch.allclose(before[name] - slope.state[name], stepped.state[name], atol=1e-6)
    assert slope.loss == pytest.approx(stepped.loss)
    assert gradient(problem, before, fixed=["bias"]).state["bias"].item() == 0.0


def test_rounds_of_updates_go_through_the_same_passes_without_a_gap() -> None:
    rows, options = 7, TrainingOptions(batch_size=3, local_updates=4)

    def order(epoch: int) -> Tensor:
        return torch.randperm(rows, generator=torch_generator(1, epoch))

    by_updates = [batch.tolist() for number in (1, 2, 3) for batch in batches_of_round(rows, options, number, order)]
    passes = TrainingOptions(batch_size=3, local_epochs=4)
    assert by_updates == [batch.tolist() for batch in batches_of_round(rows, passes, 1, order)]
    assert len(by_updates) == 12


def test_rounds_of_passes_go_on_where_the_last_stopped() -> None:
    seen: list[int] = []
    options = TrainingOptions(batch_size=4, local_epochs=2)
    for number in (1, 2):
        batches_of_round(8, options, number, lambda epoch: (seen.append(epoch), torch.arange(8))[1])
    assert sorted(set(seen)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("rows", "sizes"), [(9, [4, 5]), (8, [4, 4]), (1, [1]), (10, [4, 4, 2])])
def test_a_lone_last_row_is_joined_to_the_batch_before_it_where_batches_are_normalised(
    rows: int, sizes: list[int]
) -> None:
    network = build_network((1, 8, 8), 1, NetworkOptions(name="cnn", channels=(2,), normalisation="batch"))
    assert (fewest_in_batch(network), fewest_in_batch(NETWORK)) == (2, 1)
    batches = batches_of_round(rows, TrainingOptions(batch_size=4), 1, lambda e: torch.arange(rows), fewest=2)
    assert [len(batch) for batch in batches] == sizes


def test_running_statistics_come_back_with_the_state_and_those_given_are_left_alone() -> None:
    network = build_network((1, 8, 8), 1, NetworkOptions(name="cnn", channels=(2,), normalisation="batch"))
    before = initial_weights(network, torch_generator(0))
    kept = {name: tensor.clone() for name, tensor in before.items()}
    x = torch.randn(6, 1, 8, 8, generator=torch_generator(1)) + 1
    problem = Problem(network, log_loss, x, torch.tensor([0.0, 1.0] * 3), TrainingOptions())
    found = local.train(problem, before, [torch.arange(6)], rate=0.1)
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())
    assert not torch.equal(found.state["body.1.running_mean"], before["body.1.running_mean"])
    assert not any(tensor.requires_grad for tensor in found.state.values())
    assert found.state.keys() == before.keys()


def test_the_loss_of_a_state_is_without_penalty_and_infinite_where_there_are_no_rows() -> None:
    weights = {"weight": torch.tensor([[math.log(3.0), 0.0]]), "bias": torch.zeros(1)}
    x = torch.tensor([[1.0, 9.0], [0.0, 9.0]])
    # σ(ln 3) = ¾ of a positive, σ(0) = ½ of a negative
    problem = Problem(nn.Linear(2, 1), log_loss, x, torch.tensor([1.0, 0.0]), TrainingOptions(l2=9.0))
    assert loss_of(problem, weights) == pytest.approx(-(math.log(0.75) + math.log(0.5)) / 2)
    assert loss_of(problem._replace(features=x[:0], labels=torch.zeros(0)), weights) == math.inf


def test_schedules_by_hand() -> None:
    assert [factor(number, 4, "linear") for number in (1, 2, 3, 4)] == [1.0, 0.75, 0.5, 0.25]
    assert [factor(number, 4, "cosine") for number in (1, 3)] == [1.0, pytest.approx(0.5)]
    assert factor(2, 4, "cosine") == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert [factor(number, 4, "constant") for number in (1, 4)] == [1.0, 1.0]
    assert [factor(number, 4, "linear", warmup=2) for number in (1, 2, 3)] == [0.5, 0.75, 0.5]
    assert all(
        factor(number, 9, kind, warmup) > 0
        for number in range(1, 10)
        for kind in ("linear", "cosine")
        for warmup in (0, 3)
    )


class WithASpare(nn.Module):
    """Of two layers only one is used."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """`(rows, 3)` → `(rows, 1)`."""
        logits: Tensor = self.used(rows)
        return logits


def test_a_layer_that_the_network_does_not_use_feels_the_penalty_alone() -> None:
    x, y = data()
    before = {name: torch.ones_like(tensor.detach()) for name, tensor in WithASpare().named_parameters()}
    problem = Problem(WithASpare(), log_loss, x, y, TrainingOptions(l2=0.5))
    after = local.train(problem, before, [torch.arange(20)], rate=0.1).state
    assert after["spare.weight"].tolist() == [[pytest.approx(0.9)] * 3]
    assert after["spare.bias"].item() == 1.0
    assert gradient(problem, before).state["spare.weight"].tolist() == [[1.0] * 3]

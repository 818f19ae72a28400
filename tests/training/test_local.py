"""A step of local training worked out by hand, and what it may depend on and touch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fedmed.seeds import torch_generator
from fedmed.training.local import TrainingOptions, train_locally

NETWORK = nn.Linear(1, 1)


def start(weight: float, bias: float) -> dict[str, Tensor]:
    return {"weight": torch.tensor([[weight]]), "bias": torch.tensor([bias])}


def data(n: int = 20, features: int = 3) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, features, generator=torch_generator(1, "x"))
    return x, (x[:, 0] > 0).float()


def train(weights: dict[str, Tensor], x: Tensor, y: Tensor, seed: int = 0, **options: float) -> dict[str, Tensor]:
    network = nn.Linear(x.shape[1], 1)
    chosen = TrainingOptions.model_validate(options)
    return train_locally(network, weights, x, y, chosen, torch_generator(seed)).weights


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
    result = train_locally(NETWORK, start(0.0, 0.0), x, y, options, torch_generator(0))
    assert result.loss == pytest.approx(math.log(2))
    # The last batch has one row: rows count equally, not batches.
    options = TrainingOptions(learning_rate=1e-9, l2=0.0, batch_size=2)
    uneven = torch.tensor([[math.log(3)]] * 2 + [[0.0]])
    result = train_locally(NETWORK, start(1.0, 0.0), uneven, torch.ones(3), options, torch_generator(0))
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
    result = train_locally(network, before, x, y, TrainingOptions(batch_size=3), torch_generator(1))
    assert all(torch.equal(kept[name], tensor) for name, tensor in watched.items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(tensor.requires_grad for tensor in result.weights.values())
    assert not torch.equal(result.weights["weight"], before["weight"])


def test_weights_that_share_memory_with_others_stay_apart() -> None:
    x, y = data()
    base = {"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}
    first = train(base, x, y, seed=1)
    second = train(first, x, y, seed=2)
    assert not torch.equal(first["weight"], second["weight"])
    assert torch.equal(base["weight"], torch.zeros(1, 3))


@pytest.mark.parametrize(
    "bad",
    [{"learning_rate": 0}, {"l2": -0.1}, {"batch_size": 0}, {"rounds": 0}, {"local_epochs": 0}, {"momentum": 0.9}],
)
def test_options_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        TrainingOptions.model_validate(bad)

"""Every network: its parameters' names and sizes, where it starts, and that it starts from its generator alone."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from fedmed.models.networks import NETWORKS, ModelOptions, build_network, initial_weights
from fedmed.seeds import torch_generator
from fedmed.weights import flatten, is_finite, layout_of, size

every_network = pytest.mark.parametrize("name", NETWORKS)


def options(name: str, *hidden: int) -> ModelOptions:
    return ModelOptions.model_validate({"name": name, "hidden": hidden or (4, 3)})


def test_options_and_networks_know_the_same_names() -> None:
    assert set(get_args(ModelOptions.model_fields["name"].annotation)) == set(NETWORKS)


@every_network
def test_one_logit_a_row(name: str) -> None:
    network = build_network(5, options(name))
    weights = initial_weights(network, torch_generator(1))
    logits = torch.func.functional_call(network, weights, (torch.zeros(7, 5),))
    assert logits.shape == (7, 1)
    assert logits.tolist() == [[0.0]] * 7  # every intercept starts at zero


@every_network
def test_the_start_depends_on_the_generator_alone(name: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = initial_weights(build_network(5, options(name)), torch_generator(1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    second = initial_weights(build_network(5, options(name)), torch_generator(1))
    assert torch.equal(flatten(first), flatten(second))
    assert is_finite(first)


@every_network
def test_the_weights_have_the_networks_own_names_and_shapes(name: str) -> None:
    network = build_network(5, options(name))
    assert layout_of(initial_weights(network, torch_generator(1))) == layout_of(dict(network.named_parameters()))


def test_a_logistic_regression_has_a_weight_a_feature_and_starts_at_zero() -> None:
    weights = initial_weights(build_network(5, options("logistic")), torch_generator(1))
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {"weight": (1, 5), "bias": (1,)}
    assert flatten(weights).tolist() == [0.0] * 6


def test_the_mlp_we_start_from_has_256_and_128_hidden_units() -> None:
    network = build_network(20, ModelOptions(name="mlp"))
    weights = initial_weights(network, torch_generator(1))
    assert [tuple(weights[f"{place}.weight"].shape) for place in (0, 2, 4)] == [(256, 20), (128, 256), (1, 128)]
    assert size(weights) == 256 * 21 + 128 * 257 + 129


def test_an_mlp_starts_within_the_bound_of_he_with_intercepts_at_zero() -> None:
    weights = initial_weights(build_network(6, options("mlp", 200, 50)), torch_generator(1))
    first = weights["0.weight"]
    assert float(first.abs().max()) <= math.sqrt(6 / 6)
    assert float(first.abs().max()) > 0.98
    assert float(first.std()) == pytest.approx(1 / math.sqrt(3), rel=0.05)  # uniform on ±1
    assert 0.98 * math.sqrt(6 / 200) < float(weights["2.weight"].abs().max()) <= math.sqrt(6 / 200)
    assert all(bool((weights[f"{place}.bias"] == 0).all()) for place in (0, 2, 4))


def test_another_generator_starts_an_mlp_elsewhere() -> None:
    network = build_network(5, options("mlp"))
    assert not torch.equal(
        flatten(initial_weights(network, torch_generator(1))), flatten(initial_weights(network, torch_generator(2)))
    )


@pytest.mark.parametrize("bad", [{"name": "resnet"}, {"hidden": ()}, {"depth": 3}])
def test_options_that_no_network_has_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        ModelOptions.model_validate(bad)

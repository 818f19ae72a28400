"""The convolutional network: any size of image, its normalisations, and that it learns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy, group_norm

from fedmed.errors import SettingsError
from fedmed.models.networks import NetworkOptions, build_network, initial_weights, state_names, state_of
from fedmed.seeds import torch_generator
from fedmed.weights import size


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def options(**changes: object) -> NetworkOptions:
    return NetworkOptions.model_validate({"name": "cnn", **changes})


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 31), (1, 28, 28), (3, 64, 64)])
@pytest.mark.parametrize("blocks", [(4,), (4, 4), (4, 4, 4), (4, 4, 4, 4, 4, 4)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_images_of_any_size_from_8_pixels_and_any_depth(
    shape: tuple[int, ...], blocks: tuple[int, ...], kernel: int
) -> None:
    network = build_network(shape, 2, options(channels=blocks, kernel=kernel))
    state = initial_weights(network, torch_generator(1))
    assert torch.func.functional_call(network, state, (torch.ones(3, *shape),)).shape == (3, 2)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"network\.kernel: that of a cnn must be odd, got 4"):
        build_network((1, 8, 8), 1, options(kernel=4))


def test_the_size_does_not_depend_on_the_images() -> None:
    sizes = {size(state_of(build_network((1, side, side), 1, options()))) for side in (8, 28, 64)}
    assert sizes == {9 * (16 + 16 * 32 + 32 * 64) + 2 * (16 + 32 + 64) + 65}


def test_one_block_by_hand() -> None:
    # A constant image of 2, a 3 × 3 kernel of ones: 18 in the middle, 12 at an edge, 8 at a corner.
    network = build_network((1, 8, 8), 1, options(channels=(1,), normalisation="none"))
    state = {
        "body.0.weight": torch.ones(1, 1, 3, 3),
        "body.0.bias": torch.tensor([-10.0]),
        "head.weight": torch.tensor([[2.0]]),
        "head.bias": torch.tensor([1.0]),
    }
    mean = (36 * 8 + 24 * 2 + 4 * 0) / 64  # after -10 and ReLU
    logit = torch.func.functional_call(network, state, (torch.full((1, 1, 8, 8), 2.0),))
    assert logit.item() == pytest.approx(2 * mean + 1)


def test_group_normalisation_has_eight_groups_or_the_next_that_divides() -> None:
    for channels, groups in ((16, 8), (6, 6), (9, 3), (11, 1)):
        network = build_network((1, 8, 8), 1, options(channels=(channels,)))
        layer = network.get_submodule("body.1")
        seen = torch.rand(2, channels, 4, 4, generator=torch_generator(2))
        given = {"weight": torch.ones(channels), "bias": torch.zeros(channels)}
        assert torch.allclose(torch.func.functional_call(layer, given, (seen,)), group_norm(seen, groups), atol=1e-5)


@pytest.mark.parametrize("normalisation", ["batch", "group", "none"])
def test_it_learns_to_read_digits(normalisation: str) -> None:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    classes = torch.tensor(digits.target)
    network = build_network((1, 8, 8), 10, options(normalisation=normalisation))
    state = initial_weights(network, torch_generator(1))
    names = state_names(network).parameters
    for name in names:
        state[name].requires_grad_()
    adam = torch.optim.Adam([state[name] for name in names], lr=0.01)
    generator = torch_generator(1, "order")
    network.train()
    for _ in range(4):
        for batch in torch.split(torch.randperm(1500, generator=generator), 50):
            adam.zero_grad()
            cross_entropy(torch.func.functional_call(network, state, (images[batch],)), classes[batch]).backward()
            adam.step()
    with torch.no_grad():
        told = torch.func.functional_call(network.eval(), state, (images[1500:],)).argmax(1)
    assert float((told == classes[1500:]).float().mean()) > 0.8

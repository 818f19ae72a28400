"""Networks of series: recurrent by the equations, convolutional without a look ahead, both able to learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedmed.errors import SettingsError
from fedmed.models.networks import NetworkOptions, build_network, initial_weights, state_of
from fedmed.models.sequences import sees
from fedmed.seeds import torch_generator


def options(name: str, **changes: object) -> NetworkOptions:
    return NetworkOptions.model_validate({"name": name, **changes})


def drawn(network: nn.Module, seed: int = 1) -> dict[str, Tensor]:
    generator = torch_generator(seed)
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state_of(network).items()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_a_gru_is_that_of_the_equations() -> None:
    network = build_network((4, 3), 2, options("gru", hidden=(2,)))
    state = drawn(network)
    series = torch.randn(1, 4, 3, generator=torch_generator(2))
    w, u, b, c = (state[f"body.0.{name}_l0"].numpy() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h, states = np.zeros(2), []
    for x in series[0].numpy():
        of_input, of_state = (w @ x + b).reshape(3, 2), (u @ h + c).reshape(3, 2)
        r, z = sigmoid(of_input[:2] + of_state[:2])
        n = np.tanh(of_input[2] + r * of_state[2])
        h = (1 - z) * n + z * h
        states.append(h)
    read = np.concatenate([h, np.mean(states, axis=0)])
    expected = state["head.weight"].numpy() @ read + state["head.bias"].numpy()
    logits = torch.func.functional_call(network, state, (series,))
    assert logits[0].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_layers_of_a_gru_have_the_widths_that_were_asked_for() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in state_of(build_network((4, 3), 1, options("gru", hidden=(5, 2)))).items()}  # fmt: skip
    assert shapes["body.0.weight_ih_l0"] == (15, 3)
    assert shapes["body.1.weight_ih_l0"] == (6, 5)
    assert shapes["head.weight"] == (1, 4)
    assert tuple(state_of(build_network((4, 3), 1, options("gru")))["head.weight"].shape) == (1, 128)


def test_no_state_of_a_tcn_sees_a_later_step() -> None:
    network = build_network((12, 3), 1, options("tcn", channels=(4, 4)))
    state = drawn(network)
    body = {name.removeprefix("body."): tensor for name, tensor in state.items() if name.startswith("body.")}
    series = torch.randn(1, 3, 12, generator=torch_generator(3))
    changed = series.clone()
    changed[:, :, 7] += 1.0
    before, after = (torch.func.functional_call(network.body, body, (given,)) for given in (series, changed))
    differs = (before != after).any(dim=1)[0]
    assert not differs[:7].any()
    assert differs[7]


@pytest.mark.parametrize(("blocks", "kernel", "expected"), [(1, 2, 3), (2, 2, 7), (2, 3, 13), (3, 4, 43)])
def test_the_last_step_sees_so_many_and_no_more(blocks: int, kernel: int, expected: int) -> None:
    assert sees(blocks, kernel) == expected
    steps = expected + 4
    network = build_network((expected, 1), 1, options("tcn", channels=(3,) * blocks, kernel=kernel))
    state = {name: torch.ones_like(tensor) for name, tensor in drawn(network).items()}
    series = torch.ones(1, steps, 1, requires_grad=True)
    logit = torch.func.functional_call(network, state, (series,))
    (gradient,) = torch.autograd.grad(logit.sum(), series)
    assert (gradient[0, :, 0] != 0).tolist() == [False] * 4 + [True] * expected


def test_a_causal_block_by_hand() -> None:
    # Kernel (1, 10) and dilation 1: each convolution gives x[t-1] + 10 x[t], with ReLU; then the input is added.
    network = build_network((3, 1), 1, options("tcn", channels=(1,), kernel=2))
    kernel = torch.tensor([[[1.0, 10.0]]])
    state = {name: torch.zeros_like(tensor) for name, tensor in state_of(network).items()}
    state |= {"body.0.first.weight": kernel, "body.0.second.weight": kernel, "head.weight": torch.ones(1, 1)}
    series = torch.tensor([[[1.0], [2.0], [-1.0]]])
    # first: 10, 21, max(0, 2 - 10) = 0; second: 100, 220, 21; the last with its input: 21 - 1
    assert torch.func.functional_call(network, state, (series,)).item() == 20.0


def test_a_tcn_that_cannot_see_the_first_step_is_refused() -> None:
    with pytest.raises(SettingsError, match="sees 13 steps, but the series have 14; name more blocks"):
        build_network((14, 1), 1, options("tcn", channels=(4, 4)))


@pytest.mark.parametrize("name", ["gru", "tcn"])
def test_it_learns_what_came_first(name: str) -> None:
    generator = torch_generator(1, "series")
    series = torch.randn(1200, 10, 2, generator=generator)
    labels = (series[:, 1, 0] > 0).float()  # told early, asked at the end
    network = build_network((10, 2), 1, options(name, hidden=(16,), channels=(8, 8)))
    state = {name: tensor.requires_grad_() for name, tensor in initial_weights(network, generator).items()}
    adam = torch.optim.Adam(list(state.values()), lr=0.02)
    for _ in range(60):
        adam.zero_grad()
        logits = torch.func.functional_call(network, state, (series[:1000],)).squeeze(1)
        binary_cross_entropy_with_logits(logits, labels[:1000]).backward()
        adam.step()
    with torch.no_grad():
        told = torch.func.functional_call(network, state, (series[1000:],)).squeeze(1) > 0
    assert float((told == labels[1000:].bool()).float().mean()) > 0.85

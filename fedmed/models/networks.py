"""The networks by name: functions from a number of features to a module, initialised from a generator of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fedmed.typed_yaml import Record


class ModelOptions(Record):
    """Which network, and its size."""

    name: Literal["logistic", "mlp"] = Field("logistic", description="the network: logistic or mlp")
    hidden: tuple[int, ...] = Field((256, 128), min_length=1, description="widths of the mlp's hidden layers")


def logistic(features: int, options: ModelOptions) -> nn.Module:
    """Logistic regression: `features` weights and an intercept."""
    return nn.Linear(features, 1)


def mlp(features: int, options: ModelOptions) -> nn.Module:
    """A multi-layer perceptron with ReLU between its layers."""
    widths = [features, *options.hidden]
    layers: list[nn.Module] = []
    for inner, outer in pairwise(widths):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1))


NETWORKS: dict[str, Callable[[int, ModelOptions], nn.Module]] = {"logistic": logistic, "mlp": mlp}


def build_network(features: int, options: ModelOptions) -> nn.Module:
    """The network with memory for its parameters, none of them set: see :func:`initial_weights`."""
    with torch.device("meta"):
        network = NETWORKS[options.name](features, options)
    return network.to_empty(device="cpu")


def initial_weights(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Starting weights, drawn from `generator` alone.

    A single linear layer starts at zero (its loss is convex); deeper networks draw weights uniformly from
    ±sqrt(6 / inputs) (He et al. 2015, equation 10, for ReLU) and start their biases at zero.
    """
    weights = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
    if isinstance(network, nn.Linear):
        return weights
    for tensor in weights.values():
        if tensor.ndim > 1:
            bound = math.sqrt(6.0 / tensor.shape[1])
            tensor.uniform_(-bound, bound, generator=generator)
    return weights

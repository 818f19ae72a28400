"""The networks by name, and their state: what of them is trained, what is counted, and where both start.

A network is a function; its numbers travel beside it. It is called as
`torch.func.functional_call(network, state, (features,))`, where the state holds every parameter and every
floating-point buffer by name. In training mode, batch normalisation updates the running statistics *given to it* in
place, and nothing in the network itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, Self

import torch
from pydantic import Field, JsonValue, field_validator, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from fedmed.models.encoding import input_shape
from fedmed.models.images import Cnn
from fedmed.models.imported import IMPORT_PATH, Recipe, build_imported, own_start, recipe_of
from fedmed.models.sequences import Gru, Tcn
from fedmed.targets.kind import Form
from fedmed.targets.table import KINDS
from fedmed.typed_yaml import Record

if TYPE_CHECKING:
    from fedmed.data.cohort import Cohort
    from fedmed.targets.target import Target

InputShape = tuple[int, ...]
"""The shape of one row: `(features,)`, `(channels, height, width)` or `(steps, features)`."""

Width = Annotated[int, Field(ge=1, le=65536)]
_HIDDEN = {"mlp": (256, 128), "gru": (64,)}
_CHANNELS = {"cnn": (16, 32, 64), "tcn": (32, 32, 32, 32)}


class NetworkOptions(Record):
    """Which network, and its size."""

    name: str = Field(
        "logistic", description="the network: logistic, mlp, cnn, gru, tcn, or `package.module:Class` of your own"
    )
    hidden: tuple[Width, ...] = Field(
        (), description="widths of the hidden layers; empty: [256, 128] for mlp, [64] for gru"
    )
    channels: tuple[Width, ...] = Field(
        (), description="channels of each block; empty: [16, 32, 64] for cnn, [32, 32, 32, 32] for tcn"
    )
    kernel: int = Field(3, ge=2, le=15, description="width of the convolutions of a cnn (odd) or tcn")
    normalisation: Literal["batch", "group", "none"] = Field("group", description="normalisation within a cnn")
    survival: Literal["cox", "discrete"] = Field(
        "cox", description="for a survival target: a relative hazard, or a hazard for each interval"
    )
    intervals: int = Field(
        20, ge=1, le=1000, description="equal intervals up to the target's horizon, where survival is discrete"
    )
    arguments: dict[str, JsonValue] = Field({}, description="arguments of a network of your own")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NETWORKS and not IMPORT_PATH.fullmatch(name):
            raise ValueError(f"expected {', '.join(NETWORKS)}, or package.module:Class of a network of your own")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.arguments and not self.imported:
            raise ValueError(f"`arguments` are for a network of your own; {self.name} takes none")
        return self

    @property
    def imported(self) -> bool:
        """Whether the network is one of the user's own."""
        return ":" in self.name

    @property
    def form(self) -> Form:
        """How survival is modelled; without meaning for other targets."""
        return Form(self.survival, self.intervals)

    @property
    def widths(self) -> tuple[int, ...]:
        """The widths that the network has between its input and its head: `hidden` or `channels`, or its default."""
        if self.name in _CHANNELS:
            return self.channels or _CHANNELS[self.name]
        return self.hidden or _HIDDEN.get(self.name, ())


class Logistic(nn.Linear):
    """One linear layer on the flattened row: logistic regression, or the linear predictor of a Cox model (Cox 1972)."""

    def __init__(self, shape: InputShape, outputs: int, options: NetworkOptions) -> None:
        super().__init__(math.prod(shape), outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """float32 `(rows, *shape)` → `(rows, outputs)`."""
        return super().forward(rows.flatten(1))


class Mlp(nn.Module):
    """A multi-layer perceptron on the flattened row, with ReLU between its layers."""

    def __init__(self, shape: InputShape, outputs: int, options: NetworkOptions) -> None:
        super().__init__()
        widths = [math.prod(shape), *options.widths]
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            layers += [nn.Linear(inner, outer), nn.ReLU()]
        self.body = nn.Sequential(nn.Flatten(), *layers)
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """float32 `(rows, *shape)` → `(rows, outputs)`."""
        logits: Tensor = self.head(self.body(rows))
        return logits


NETWORKS: dict[str, Callable[[InputShape, int, NetworkOptions], nn.Module]] = {
    "logistic": Logistic,
    "mlp": Mlp,
    "cnn": Cnn,
    "gru": Gru,
    "tcn": Tcn,
}


class StateNames(NamedTuple):
    """The names of a model's state: what gradients train, and what only counts along (running statistics)."""

    parameters: tuple[str, ...]
    statistics: tuple[str, ...]


def build_network(shape: InputShape, outputs: int, options: NetworkOptions) -> nn.Module:
    """The function that `options` name, for rows of `shape`; its own state is zero, see :func:`initial_weights`.

    Raises:
        SettingsError: if the network does not read rows of this shape, or is one of the user's own and cannot be used.

    Guarantees:
        torch's global generator is left as it was.
    """
    if options.imported:
        network = build_imported(Recipe(options.name, tuple(shape), outputs, options.arguments))
    else:
        with torch.device("meta"):
            network = NETWORKS[options.name](tuple(shape), outputs, options)
        network = network.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in state_of(network).values():
            tensor.zero_()
    for module in network.modules():
        if isinstance(module, _NormBase) and module.num_batches_tracked is not None:
            # A count of the batches seen is no part of the state, and would be the one thing that a call changes.
            module.num_batches_tracked = None
    return network


def outputs_of(target: Target, options: NetworkOptions) -> int:
    """How many numbers a network gives for a row.

    One logit for a binary target, one a class for a multi-class one; for survival the logarithm of a relative hazard,
    or a logit of the hazard in each interval.
    """
    return KINDS[target.kind].outputs(target, options.form)


def network_for(cohort: Cohort, options: NetworkOptions) -> nn.Module:
    """The network for a cohort's rows and target; see :func:`build_network`."""
    return build_network(input_shape(cohort), outputs_of(cohort.target, options), options)


def state_of(network: nn.Module) -> dict[str, Tensor]:
    """The network's own parameters and floating-point buffers by name, in name order: the layout of its weights."""
    named = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    kept = network.state_dict(keep_vars=True).keys()  # not the buffers that are constants (`persistent=False`)
    return {name: named[name] for name in sorted(named) if name in kept and named[name].is_floating_point()}


def state_names(network: nn.Module) -> StateNames:
    """Which names of the state are trained, and which are not: running statistics, and what a user's module freezes."""
    trained = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    names = sorted(state_of(network))
    return StateNames(tuple(n for n in names if n in trained), tuple(n for n in names if n not in trained))


def normalisation_names(network: nn.Module) -> set[str]:
    """The names of the state of batch normalisation: scale, offset and running statistics.

    What a hospital keeps to itself under FedBN (Li et al. 2021, ICLR, algorithm 1).
    """
    layers = {name for name, module in network.named_modules() if isinstance(module, _BatchNorm)}
    return {name for name in state_of(network) if name.rpartition(".")[0] in layers}


def initial_weights(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Where training starts: the whole state, drawn from `generator` alone.

    A single linear layer starts at zero (its loss is convex). Deeper networks draw the weights of layers and
    convolutions uniformly from ±sqrt(6 / inputs) (He et al. 2015, equation 10, for ReLU) and those of recurrent layers
    from ±1 / sqrt(width), as torch does; their biases start at zero, normalisation as the identity, and running
    statistics at mean 0 and variance 1. A network of the user's own starts where its constructor starts it.
    """
    if (recipe := recipe_of(network)) is not None:
        return {name: tensor.detach().clone() for name, tensor in state_of(own_start(recipe, generator)).items()}
    weights = {name: torch.zeros_like(tensor, requires_grad=False) for name, tensor in state_of(network).items()}
    for prefix, module in network.named_modules():
        for own in module.state_dict(keep_vars=True):
            tensor = weights.get(f"{prefix}.{own}" if prefix else own)
            if "." in own or tensor is None:
                continue
            if isinstance(module, nn.GRU) and tensor.ndim > 1:
                bound = 1 / math.sqrt(module.hidden_size)
                tensor.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) and tensor.ndim > 1:
                if not isinstance(module, Logistic):
                    bound = math.sqrt(6.0 / tensor[0].numel())
                    tensor.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, _BatchNorm | nn.GroupNorm) and own in {"weight", "running_var"}:
                tensor.fill_(1.0)
    return weights

"""Networks that read a patient's course: one vector of features for every step of time."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from fedmed.errors import SettingsError

if TYPE_CHECKING:
    from fedmed.models.networks import NetworkOptions


class Gru(nn.Module):
    """Gated recurrent layers; the head reads the last state and the mean of all states (Cho et al. 2014).

    Which steps were observed and how long ago is among the features (fedmed.models.encoding), so that no step is
    masked here (Lipton, Kale, Wetzel 2016; Che et al. 2018).

    Args:
        shape: of one row, `(steps, features)`.
        outputs: how many numbers it gives for a row.
        options: `hidden`, the widths of the layers.

    Raises:
        SettingsError: if the shape is not that of a series.
    """

    def __init__(self, shape: tuple[int, ...], outputs: int, options: NetworkOptions) -> None:
        super().__init__()
        widths = [features_of(shape, "gru"), *options.widths]
        self.body = nn.ModuleList(nn.GRU(inner, outer, batch_first=True) for inner, outer in pairwise(widths))
        self.head = nn.Linear(2 * widths[-1], outputs)

    def forward(self, series: Tensor) -> Tensor:
        """float32 `(rows, steps, features)` → `(rows, outputs)`."""
        states = series
        for layer in self.body:
            assert isinstance(layer, nn.GRU)  # noqa: S101  # for the type checker
            # A start made from the rows, unlike nn.GRU's own, also works row by row under torch.func.vmap.
            states, _ = layer(states, states.new_zeros(1, len(states), layer.hidden_size))
        logits: Tensor = self.head(torch.cat([states[:, -1], states.mean(dim=1)], dim=1))
        return logits


class CausalBlock(nn.Module):
    """Two dilated convolutions that see no later step, and a residual connection (Bai et al. 2018, figure 1b).

    Without the figure's weight normalisation and dropout: the first doubles the parameters of every update, the second
    would draw random numbers.
    """

    def __init__(self, inner: int, outer: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.reach = (kernel - 1) * dilation
        self.first = nn.Conv1d(inner, outer, kernel, dilation=dilation)
        self.second = nn.Conv1d(outer, outer, kernel, dilation=dilation)
        self.residual = nn.Conv1d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, series: Tensor) -> Tensor:
        """float32 `(rows, inner, steps)` → `(rows, outer, steps)`."""
        inner = relu(self.first(pad(series, (self.reach, 0))))
        inner = relu(self.second(pad(inner, (self.reach, 0))))
        return relu(inner + self.residual(series))


class Tcn(nn.Module):
    """A temporal convolutional network: causal blocks whose dilation doubles; the head reads the last step.

    Bai, Kolter, Koltun 2018, "An empirical evaluation of generic convolutional and recurrent networks for sequence
    modeling", section 3. The last step sees the last :func:`sees` steps.

    Args:
        shape: of one row, `(steps, features)`.
        outputs: how many numbers it gives for a row.
        options: `channels` of the blocks, `kernel`.

    Raises:
        SettingsError: if the shape is not that of a series, or its first steps would not be seen.
    """

    def __init__(self, shape: tuple[int, ...], outputs: int, options: NetworkOptions) -> None:
        super().__init__()
        widths = [features_of(shape, "tcn"), *options.widths]
        if (seen := sees(len(options.widths), options.kernel)) < shape[0]:
            raise SettingsError(
                f"network.channels: a tcn of {len(options.widths)} blocks and kernel {options.kernel} sees {seen}"
                f" steps, but the series have {shape[0]}; name more blocks (each doubles that) or a larger kernel"
            )
        self.body = nn.Sequential(
            *(CausalBlock(inner, outer, options.kernel, 2**n) for n, (inner, outer) in enumerate(pairwise(widths)))
        )
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, series: Tensor) -> Tensor:
        """float32 `(rows, steps, features)` → `(rows, outputs)`."""
        logits: Tensor = self.head(self.body(series.transpose(1, 2))[:, :, -1])
        return logits


def sees(blocks: int, kernel: int) -> int:
    """How many steps bear on the last output: each block's two convolutions reach `2 (kernel − 1) dilation` back.

    >>> sees(1, 3), sees(4, 3)  # 1 + 2·2·1; 1 + 2·2·(1 + 2 + 4 + 8)
    (5, 61)
    """
    return 1 + 2 * (kernel - 1) * ((1 << blocks) - 1)


def features_of(shape: tuple[int, ...], name: str) -> int:
    """The number of features of a step.

    Raises:
        SettingsError: if the shape is not `(steps, features)`.
    """
    if len(shape) != 2:
        raise SettingsError(
            f"network.name: {name} reads series (steps, features), but a row of this cohort has the shape {shape};"
            " choose another network"
        )
    return shape[1]

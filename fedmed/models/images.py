"""Networks that read images."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn

from fedmed.errors import SettingsError

if TYPE_CHECKING:
    from fedmed.models.networks import NetworkOptions

SMALLEST_SIDE = 8
MOST_GROUPS = 8


class Cnn(nn.Module):
    """Blocks of convolution, normalisation and ReLU with pooling between them, the mean over the image, one layer.

    Every pooling halves the image (rounding up), and the mean over what is left of it makes the head independent of
    the image's size (global average pooling; Lin, Chen, Yan 2014, section 3.2).

    Args:
        shape: of one image, `(channels, height, width)`, at least 8 × 8.
        outputs: how many numbers it gives for an image.
        options: `channels` of the blocks, `kernel`, `normalisation`.

    Raises:
        SettingsError: if the shape is not that of an image, the image is too small, or the kernel even.
    """

    def __init__(self, shape: tuple[int, ...], outputs: int, options: NetworkOptions) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < SMALLEST_SIDE:
            raise SettingsError(
                f"network.name: cnn reads images (channels, height, width) of at least {SMALLEST_SIDE} by"
                f" {SMALLEST_SIDE}, but a row of this cohort has the shape {shape}; choose another network"
            )
        if options.kernel % 2 == 0:
            raise SettingsError(f"network.kernel: that of a cnn must be odd, got {options.kernel}")
        widths = [shape[0], *options.widths]
        layers: list[nn.Module] = []
        for place, (inner, outer) in enumerate(pairwise(widths)):
            if place:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            bare = options.normalisation == "none"
            layers.append(nn.Conv2d(inner, outer, options.kernel, padding="same", bias=bare))
            if not bare:
                layers.append(normalisation(options, outer))
            layers.append(nn.ReLU())
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, images: Tensor) -> Tensor:
        """float32 `(rows, channels, height, width)` → `(rows, outputs)`."""
        logits: Tensor = self.head(self.body(images))
        return logits


def normalisation(options: NetworkOptions, channels: int) -> nn.Module:
    """The normalisation of a layer's `channels`.

    `group` normalises each image by itself and holds no statistics, so it needs no agreement between hospitals (Wu and
    He 2018; between unlike parties, Hsieh et al. 2020); `batch` holds running statistics, which are a part
    of the model's state (Ioffe and Szegedy 2015) or, under FedBN, of a hospital's own.
    """
    if options.normalisation == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(max(n for n in range(1, MOST_GROUPS + 1) if channels % n == 0), channels)

"""Real vectors as integers, so that their sum is exact: independent of arrival order, workers and machine.

Floating-point addition is not associative; integer addition is. Every site multiplies its vector by its weight, rounds
to a grid that all sites share, and sends integers. The grid is chosen so that no sum can wrap, which is also the form
that secure aggregation needs (Bonawitz et al. 2017, section 4): masking the integers later changes no bit of the sum.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from fedmed.errors import RangeExceeded
from fedmed.typed_yaml import Record


class FixedPoint(Record):
    """A grid: how many bits an integer has, the largest value before weighting, the largest sum of weights."""

    bits: Literal[32, 64]
    limit: float = Field(gt=0)
    weight: int = Field(ge=1)

    @property
    def exponent(self) -> int:
        """The grid's step is 2**-exponent.

        Each of at most `weight` sites is off by half a step after rounding, so `limit * weight` steps and
        `weight / 2` more must fit into a signed integer.

        >>> FixedPoint(bits=32, limit=16.0, weight=1000).exponent
        17
        """
        room = 2.0 ** (self.bits - 1) - 1 - self.weight / 2
        # 64-bit bounds are rounded as doubles: without the slack, a power of two would come out as one bit too many.
        return math.floor(math.log2(room / (self.limit * self.weight)) - 2.0**-40)

    @property
    def dtype(self) -> torch.dtype:
        """The integer type that travels."""
        return torch.int32 if self.bits == 32 else torch.int64

    def encode(self, values: Tensor, weight: int) -> Tensor:
        """`weight · values` on the grid.

        Args:
            values: float tensor of shape `(size,)`.
            weight: the site's exact weight, at least 1.

        Returns:
            Integer tensor of shape `(size,)`.

        Raises:
            RangeExceeded: if a value is not finite or larger than the limit; nothing is clipped in silence.
        """
        exact = values.double()
        largest = float(exact.abs().max()) if exact.numel() else 0.0
        if not largest <= self.limit:
            raise RangeExceeded(
                f"an update reaches {largest:.3g} in a coordinate, the agreed range is ±{self.limit:g}: training"
                " diverges (lower training.learning_rate) or aggregation.limit is too small"
            )
        if not 1 <= weight <= self.weight:
            raise RangeExceeded(f"weight: expected 1 to {self.weight}, got {weight}")
        return torch.round(exact * weight * 2.0**self.exponent).to(self.dtype)

    def mean(self, total: Tensor, weight: int) -> Tensor:
        """The weighted mean that a sum of encoded vectors stands for.

        Args:
            total: the sum of what the sites encoded, int64 of shape `(size,)`; integers add up to the same sum in any
                order, and one by one, so that no more than one vector need be held.
            weight: sum of the sites' weights.

        Returns:
            float64 of shape `(size,)`.

        >>> grid = FixedPoint(bits=32, limit=4.0, weight=4)
        >>> total = grid.encode(torch.tensor([1.0]), 3).long() + grid.encode(torch.tensor([-2.0]), 1)
        >>> grid.mean(total, 4).item()
        0.25
        """
        if not 1 <= weight <= self.weight:
            raise RangeExceeded(f"sum of weights: expected 1 to {self.weight}, got {weight}")
        return total.double() / 2.0**self.exponent / weight

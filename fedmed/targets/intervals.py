"""Survival in discrete time: the follow-up in equal intervals, and the curve that a network's hazards give.

A network gives one logit an interval; its sigmoid is the hazard, the probability of the event in the interval for one
who came to its beginning (Brown 1975; Gensheimer and Narasimhan 2019, PeerJ 7:e6257). An interval holds its end and not
its beginning, so that the curve at an interval's end is the probability of an event later than that.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def interval_ends(horizon: float, intervals: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The last moment of each of `intervals` equal parts of the time from 0 to `horizon`; shape `(intervals,)`.

    >>> interval_ends(10, 4).tolist()
    [2.5, 5.0, 7.5, 10.0]
    """
    return (torch.arange(1, intervals + 1, dtype=torch.float64) * horizon / intervals).to(dtype)


def interval_of(duration: Tensor, horizon: float, intervals: int) -> Tensor:
    """The interval, counted from 0, in which each duration ends; `intervals` for those past the horizon.

    Args:
        duration: positive, of shape `(rows,)`.
        horizon: where the last interval ends, in the unit of the durations.
        intervals: how many equal ones there are.

    Returns:
        int64 of shape `(rows,)`.

    >>> interval_of(torch.tensor([0.1, 2.5, 2.6, 10.0, 11.0]), 10, 4).tolist()
    [0, 0, 1, 3, 4]
    """
    return torch.bucketize(duration.contiguous(), interval_ends(horizon, intervals, duration.dtype))


def survival_curve(logits: Tensor) -> Tensor:
    """Probability of no event up to the end of each interval: S(k) = Π over j ≤ k of (1 − hazard j).

    Args:
        logits: of the hazards, of shape `(rows, intervals)`.

    Returns:
        Of the same shape and type; it never rises along a row.

    >>> survival_curve(torch.zeros(1, 3)).tolist()  # hazards of 1/2
    [[0.5, 0.25, 0.125]]
    """
    return logsigmoid(-logits).cumsum(dim=1).exp()

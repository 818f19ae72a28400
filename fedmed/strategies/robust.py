"""Rules that combine updates so that a few faulty ones cannot take the result where they want it.

Each takes vectors of shape `(sites, size)` in float64, weights of shape `(sites,)` and the options, and returns one of
shape `(size,)`. Equal vectors give themselves, and scaled vectors the scaled result. None of them can work on a masked
sum: they need every hospital's own update, so they and secure aggregation exclude each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedmed.strategies.options import AggregationOptions, CombineName

_MOST_STEPS = 200
_TOLERANCE = 1e-10
_SMOOTHING = 1e-6

Combine = Callable[[Tensor, Tensor, AggregationOptions], Tensor]


def weighted_mean(vectors: Tensor, weights: Tensor, options: AggregationOptions) -> Tensor:
    """Σ w_k v_k / Σ w_k."""
    return (weights.unsqueeze(1) * vectors).sum(dim=0) / weights.sum()


def median(vectors: Tensor, weights: Tensor, options: AggregationOptions) -> Tensor:
    """The median of each coordinate, of two middle values their mean (Yin et al. 2018, definition 1). No weights."""
    return _middle(vectors)


def trimmed_mean(vectors: Tensor, weights: Tensor, options: AggregationOptions) -> Tensor:
    """The mean of each coordinate without its ⌊βK⌋ largest and smallest values (Yin et al. 2018, definition 2)."""
    drop = int(options.trim * len(vectors) + 1e-9)
    return vectors.sort(dim=0).values[drop : len(vectors) - drop].mean(dim=0)


def krum_scores(vectors: Tensor, faulty: int) -> Tensor:
    """Each vector's sum of squared distances to its K − f − 2 nearest others; to one at least, where there is one."""
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").square()
    nearest = max(1, len(vectors) - faulty - 2)
    return distances.sort(dim=1).values[:, 1 : 1 + nearest].sum(dim=1)


def krum(vectors: Tensor, weights: Tensor, options: AggregationOptions) -> Tensor:
    """The vector with the least score (Blanchard et al. 2017, section 4). It guards against f of more than 2f + 2."""
    return vectors[int(krum_scores(vectors, options.faulty).argmin())]


def multi_krum(vectors: Tensor, weights: Tensor, options: AggregationOptions) -> Tensor:
    """The weighted mean of the K − f vectors with the least scores (Blanchard et al. 2017, section 4, "Multi-Krum")."""
    keep = max(1, len(vectors) - options.faulty)
    best = krum_scores(vectors, options.faulty).argsort(stable=True)[:keep].sort().values
    return weighted_mean(vectors[best], weights[best], options)


def geometric_median(vectors: Tensor, weights: Tensor, options: AggregationOptions) -> Tensor:
    """The point z that minimises Σ w_k ‖z − v_k‖, by smoothed Weiszfeld (Pillutla et al. 2022, Algorithm 2)."""
    z = weighted_mean(vectors, weights, options)
    scale = float((vectors - z).norm(dim=1).max())
    for _ in range(_MOST_STEPS if scale else 0):
        closeness = weights / (vectors - z).norm(dim=1).clamp(min=_SMOOTHING * scale)
        moved = weighted_mean(vectors, closeness, options)
        done = float((moved - z).norm()) <= _TOLERANCE * scale
        z = moved
        if done:
            break
    return z


def clipped_mean(vectors: Tensor, weights: Tensor, options: AggregationOptions) -> Tensor:
    """The weighted mean of vectors no longer than `clip` times the median length (after Sun et al. 2019, § 3.2)."""
    norms = vectors.norm(dim=1)
    longest = options.clip * _middle(norms)
    shorten = torch.where(norms > longest, longest / norms.clamp(min=1e-300), 1.0)
    return weighted_mean(vectors * shorten.unsqueeze(1), weights, options)


def _middle(values: Tensor) -> Tensor:
    """The median over the first dimension; torch.quantile takes no more than 2**24 values."""
    ordered = values.sort(dim=0).values
    return (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2


def capped(weights: Mapping[str, int], largest_share: float) -> dict[str, int]:
    """Weights of which none is more than a share of their sum, to a rounding: larger ones are cut to one cap.

    Raises:
        ValueError: if there are too few hospitals for such a share.

    >>> capped({"a": 80, "b": 10, "c": 10}, 0.5)
    {'a': 20, 'b': 10, 'c': 10}
    """
    if largest_share * len(weights) < 1 - 1e-9:
        raise ValueError(
            f"aggregation.largest_share is {largest_share:g}, but of {len(weights)} hospitals one has at least"
            f" {1 / len(weights):.2g} of the weight"
        )
    ordered = sorted(weights.values(), reverse=True)
    for cut in range(len(ordered)):
        # `cut` hospitals at the cap c, the others as they are: c = share · (cut · c + rest).
        rest, left = sum(ordered[cut:]), 1 - cut * largest_share
        cap = largest_share * rest / left if left > 1e-9 else float(ordered[-1])
        if ordered[cut] <= cap + 1e-9 or left <= 1e-9:
            return {site: max(1, min(weight, int(cap + 1e-9))) for site, weight in weights.items()}
    return dict.fromkeys(weights, 1)


COMBINE: dict[CombineName, Combine] = {
    "mean": weighted_mean,
    "median": median,
    "trimmed_mean": trimmed_mean,
    "krum": krum,
    "multi_krum": multi_krum,
    "geometric_median": geometric_median,
    "clipped_mean": clipped_mean,
}

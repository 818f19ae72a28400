"""The coordinator's side of a round, as one function: combine the updates, and let the strategy apply them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedmed.aggregation.codec import as_moments, behind, blocks, decode_update, from_moments, travelling
from fedmed.aggregation.grid import FixedPoint
from fedmed.models.parts import Parts
from fedmed.strategies.base import Memory, Round, Strategy
from fedmed.strategies.options import AggregationOptions
from fedmed.strategies.robust import COMBINE
from fedmed.training.local import factor
from fedmed.weights import Weights, map_weights


def aggregate(
    strategy: Strategy,
    options: AggregationOptions,
    base: Weights,
    memory: Memory,
    updates: Mapping[str, Tensor],
    weights: Mapping[str, int],
    grid: FixedPoint,
    parts: Parts,
    *,
    sites: int,
    rate: float,
    staleness: Mapping[str, int] | None = None,
    started: Mapping[str, Weights] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """New global state and memory.

    Args:
        strategy: the run's.
        options: its constants, and how updates are combined.
        base: the global state before the round.
        memory: the server's memory before the round.
        updates: site → integers from :func:`~fedmed.aggregation.codec.encode_update`.
        weights: site → its weight.
        grid: the grid that the updates are on.
        parts: which tensors travel.
        sites: hospitals in the run.
        rate: this round's server step size.
        staleness: site → rounds between the model that it trained on and the newest; 0 if left out.
        started: site → the global state that it trained on, where that is not `base`.

    Returns:
        A state with the names, shapes and types of `base`, in which what does not travel is as it was, and the memory.

    Raises:
        ValueError: if there is no update, or updates and weights are of different sites.

    Guarantees:
        Independent of the order of sites, bit for bit. With `combine: mean` and no stale update the mean is exact.
    """
    if not updates:
        raise ValueError("expected at least one update, got none")
    if updates.keys() != weights.keys():
        raise ValueError(f"updates and weights of different sites: {sorted(updates.keys() ^ weights.keys())}")
    shared, statistics = travelling(base, parts)
    double = map_weights(lambda tensor: tensor.double(), shared)
    sizes = blocks(shared, statistics, strategy)
    late = {site: behind(state, base, parts, strategy) for site, state in (started or {}).items()}
    combined = combine(strategy, options, updates, weights, grid, staleness or {}, late, sizes)
    got = decode_update(combined, shared, statistics, strategy)
    round_ = Round(got.change, got.extra, got.normaliser, len(updates) / sites, rate)
    kept = {name: tensor.double() for name, tensor in memory.items()}
    moved, remembered = strategy.apply(double, kept, round_, options)
    moments = {name: value.double() + got.moments[name] for name, value in as_moments(statistics).items()}
    state = {**base, **moved, **from_moments(moments)}
    return (
        {name: state[name].to(base[name].dtype) for name in base},
        {name: tensor.float() for name, tensor in remembered.items()},
    )


def server_rate(strategy: Strategy, options: AggregationOptions, number: int, rounds: int) -> float:
    """The server's step size in round `number` of `rounds`.

    >>> from fedmed.strategies.table import STRATEGIES
    >>> server_rate(STRATEGIES["fedadam"], AggregationOptions(schedule="linear"), 2, 2)
    0.05
    """
    own = options.learning_rate or strategy.rate
    return own * factor(number, rounds, options.schedule, options.warmup)


def combine(
    strategy: Strategy,
    options: AggregationOptions,
    updates: Mapping[str, Tensor],
    weights: Mapping[str, int],
    grid: FixedPoint,
    staleness: Mapping[str, int],
    late: Mapping[str, Tensor],
    sizes: Sequence[int],
) -> Tensor:
    """The updates as one vector, float64 of shape `(size,)`; a robust rule is used on every part by itself."""
    counts = {site: strategy.staleness(staleness.get(site, 0)) for site in updates}
    if options.combine == "mean" and not late and all(count == 1.0 for count in counts.values()):
        return grid.mean(list(updates.values()), sum(weights.values()))
    told = {
        site: (update.double() / (2.0**grid.exponent * weights[site]) + late.get(site, 0.0)) * counts[site]
        for site, update in updates.items()
    }
    # Sums of floats depend on their order: the vectors are put into one that follows from what they hold.
    order = sorted(told, key=lambda site: (_in_order(told[site]), weights[site]))
    vectors = torch.stack([told[site] for site in order])
    shares = torch.tensor([float(weights[site]) for site in order], dtype=torch.float64)
    rule = COMBINE[options.combine]
    return torch.cat([rule(part, shares, options) for part in torch.split(vectors, list(sizes), dim=1) if part.numel()])


def _in_order(vector: Tensor) -> bytes:
    """Bytes that sort as the vectors do, coordinate by coordinate: a tie is broken alike whatever the scale."""
    bits = (vector + 0.0).numpy().view("int64")  # + 0.0: -0.0 is 0.0
    return bytes((bits ^ ((bits >> 63) & (2**63 - 1)) ^ -(2**63)).astype(">i8").tobytes())

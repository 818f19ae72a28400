"""Several strategies in pictures: how each converged, and what it reached for the bytes that it moved."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedmed.evaluation.names import LOWER_IS_BETTER, title_of
from fedmed.evaluation.panels import BLUE, GREEN, INK, ORANGE, grid, points_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRATEGY_COLOURS = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", INK)


def losses_of_strategies(path: Path, losses: Mapping[str, Sequence[Sequence[float | None]]]) -> None:
    """The validation loss by round of several strategies: the mean over seeds, and every seed in a thin line.

    Args:
        path: the PNG to write.
        losses: strategy → of each seed the loss of every round, None where none is told. Losses far above the first
            round's, of a strategy that diverges, are cut off at the upper edge.
    """
    from matplotlib.ticker import MaxNLocator

    known = [loss for runs in losses.values() for run in runs for loss in run if loss is not None]
    first = [run[0] for runs in losses.values() for run in runs if run and run[0] is not None]
    with grid(path, 1, "Loss on the validation rows, by round", height=3.8, width=7.2) as (axes,):
        for place, (strategy, runs) in enumerate(losses.items()):
            colour, style, _ = _look(place)
            for run in runs if len(runs) > 1 else ():
                axes.plot(*points_of(list(enumerate(run, 1))), color=colour, linewidth=0.6, alpha=0.35)
            told = [[run[place] for run in runs if len(run) > place] for place in range(max(map(len, runs), default=0))]
            mean = [_mean(of) if len(of) == len(runs) else None for of in told]
            steps, values = points_of(list(enumerate(mean, 1)))
            dot = "o" if len(steps) == 1 else ""
            axes.plot(steps, values, color=colour, linestyle=style, linewidth=1.7, marker=dot, label=strategy)
        if known and first:
            low, high = min(known), min(max(known), 1.25 * max(first))
            axes.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("round; a thin line is one seed")
        axes.set_ylabel("loss")
        axes.figure.legend(loc="outside right center", frameon=False)


def metrics_against_bytes(
    path: Path,
    metrics: Mapping[str, Mapping[str, tuple[int, float, float | None, float | None]]],
    seeds: int,
) -> None:
    """What strategies reach against what they move: a panel a metric.

    Args:
        path: the PNG to write.
        metrics: metric → strategy → bytes of the whole run, mean over seeds, and the ends of its interval, if any.
        seeds: how many there are.
    """
    strategies = list(dict.fromkeys(name for points in metrics.values() for name in points))
    interval = f"95 % intervals over {seeds} seeds" if seeds > 1 else "one seed"
    with grid(path, len(metrics), f"Test figures by bytes, {interval}", height=3.2, width=3.4) as panels:
        for axes, (metric, points) in zip(panels, metrics.items(), strict=True):
            axes.set_title(f"{title_of(metric)}{' ↓' if metric in LOWER_IS_BETTER else ' ↑'}")
            for strategy, at in _apart({name: size for name, (size, *_) in points.items()}).items():
                _, mean, low, high = points[strategy]
                colour, _, marker = _look(strategies.index(strategy))
                if low is not None and high is not None:
                    axes.plot((at, at), (low, high), color=colour, linewidth=1.5, alpha=0.55)
                axes.plot(at, mean, marker=marker, linestyle="", color=colour, markersize=6, label=strategy)
            _bytes(axes, [size for size, *_ in points.values()])
        handles = {
            label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        shown = [name for name in strategies if name in handles]
        panels[0].figure.legend([handles[name] for name in shown], shown, loc="outside right center", frameon=False)


def _bytes(axes: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis of bytes, at least a power of ten wide, with ticks that can be read."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    if sizes:
        margin = max(1.3, math.sqrt(10 * min(sizes) / max(sizes)))
        axes.set_xlim(min(sizes) / margin, max(sizes) * margin)
    wide = bool(sizes) and max(sizes) > 100 * min(sizes)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 3)))
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("bytes, down and up")


def _apart(sizes: Mapping[str, int]) -> dict[str, float]:
    """Places on a logarithmic axis: those that are equal to 1 % stand side by side, 5 % from one to the next.

    >>> {name: round(at, 1) for name, at in _apart({"a": 100, "b": 100, "c": 500}).items()}
    {'a': 97.5, 'b': 102.5, 'c': 500.0}
    """
    groups: dict[float, list[str]] = {}
    for name, size in sizes.items():
        near = next((place for place in groups if math.isclose(place, size, rel_tol=0.01)), float(size))
        groups.setdefault(near, []).append(name)
    return {
        name: at * (1 + 0.05 * (place - (len(names) - 1) / 2))
        for at, names in groups.items()
        for place, name in enumerate(names)
    }


def _look(place: int) -> tuple[str, str, str]:
    """Colour, line and marker of the strategy at a place: no two of twenty are alike."""
    return (
        STRATEGY_COLOURS[place % len(STRATEGY_COLOURS)],
        ("-", "--", ":")[place // len(STRATEGY_COLOURS) % 3],
        "osDv^P*X"[place % 8],
    )


def _mean(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return math.fsum(told) / len(told) if told and len(told) == len(values) else None

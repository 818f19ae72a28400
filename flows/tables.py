"""A description as the rows of tables, for Prefect's page and for the command line."""

from __future__ import annotations

import math

from fedmed.aggregation.summaries import Between, CategorySummary, NumberSummary, Quantile
from fedmed.coordinator.description import Described
from fedmed.targets.kind import TARGET

BARS = "▁▂▃▄▅▆▇█"


def number_rows(part: Described, target: str) -> list[dict[str, str]]:
    """One row a number column: its missing share, mean, deviation, quantiles and a drawing of its histogram."""
    rows = []
    for name, summary in part.columns.items():
        if isinstance(summary, NumberSummary):
            rows.append(
                {
                    "number": name if not summary.unit else f"{name} ({summary.unit})",
                    "missing": _share(summary.missing),
                    "mean": _figure(summary.mean),
                    "deviation": _figure(None if summary.variance is None else math.sqrt(summary.variance)),
                    **{
                        "median" if share == "50 %" else share: _quantile(summary.quantiles.get(share))
                        for share in ("5 %", "25 %", "50 %", "75 %", "95 %")
                    },
                    "distribution": _drawing(summary.shares),
                }
            )
    return rows


def category_rows(part: Described, target: str) -> list[dict[str, str]]:
    """One row a category of a column, the target's first."""
    rows = []
    for name, summary in part.columns.items():
        if isinstance(summary, CategorySummary):
            counts = {code: (summary.meanings[code], count) for code, count in summary.counts.items()}
            if summary.missing.at_most:
                counts["missing"] = ("", summary.missing)
            rows += [
                {
                    "category": target if name == TARGET else name,
                    "code": f"{code} {meaning}".strip(),
                    "rows": str(count),
                    "share": _share(count),
                }
                for code, (meaning, count) in counts.items()
            ]
    return rows


def _share(count: Between) -> str:
    low, high = (f"{100 * share:.1f}" for share in count.share)
    return f"{low} %" if count.at_least == count.at_most else f"{low}–{high} %"


def _quantile(quantile: Quantile | None) -> str:
    if quantile is None:
        return "untold"
    if quantile.value is None:
        return f"{quantile.at_least:.4g} to {quantile.at_most:.4g}"
    return f"{quantile.value:.4g}"


def _figure(value: float | None) -> str:
    return "untold" if value is None else f"{value:.4g}"


def _drawing(shares: tuple[float, ...]) -> str:
    """Bars in proportion to the largest share.

    >>> _drawing((0.0, 0.25, 0.5, 0.25))
    '▁▄█▄'
    """
    most = max(shares, default=0.0)
    return "".join(BARS[int((len(BARS) - 1) * share / most + 0.5 - 1e-9)] for share in shares) if most else ""

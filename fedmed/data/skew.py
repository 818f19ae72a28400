"""Divide one table among hospitals that do not exist, as unevenly as real ones are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedmed.errors import RecordsError
from fedmed.seeds import numpy_generator

_SMALLEST = 1e-9  # a share of 0 would leave nothing to scale
_SWEEPS = 1000


def dirichlet_partition(
    labels: Sequence[int] | np.ndarray,
    sites: int,
    *,
    alpha_label: float | None,
    alpha_quantity: float | None,
    seed: int,
    minimum: int = 1,
) -> np.ndarray:
    """The site of every row, with skewed labels and skewed sizes.

    The sizes are shares q ~ Dirichlet(β·1) of all rows (quantity skew: Li, Diao, Chen, He 2022, "Federated Learning on
    Non-IID Data Silos", section 4.3), the mix of classes at a site is p ~ Dirichlet(α·prior) (label skew: Hsu, Qi,
    Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", section
    3). Both cannot hold exactly where every row goes to just one site, so the table of q·p is scaled in turns to the
    sizes and to the classes that there are (iterative proportional fitting), which keeps its odds ratios.

    Args:
        labels: the class of every row, shape `(rows,)`.
        sites: how many sites.
        alpha_label: α; small is skewed, None is no label skew.
        alpha_quantity: β; small is skewed, None is equal sizes.
        seed: the same seed gives the same division of the same labels in the same order.
        minimum: the fewest rows of a site.

    Returns:
        int64 of shape `(rows,)`, numbers below `sites`.

    Raises:
        RecordsError: if there are too few rows for `sites` times `minimum`.

    Guarantees:
        Every row is at exactly one site; every site has at least `minimum` rows.

    >>> np.bincount(dirichlet_partition([0, 1] * 6, 3, alpha_label=None, alpha_quantity=None, seed=1)).tolist()
    [4, 4, 4]
    """
    codes, classes = np.unique(np.asarray(labels), return_inverse=True)
    rows = len(classes)
    if sites < 1 or rows < sites * max(minimum, 1):
        raise RecordsError(f"{rows} rows cannot be divided among {sites} sites with at least {max(minimum, 1)} each")
    generator = numpy_generator(seed, "partition", sites)
    prior = np.bincount(classes, minlength=len(codes)) / rows
    shares = (
        np.full(sites, 1 / sites) if alpha_quantity is None else generator.dirichlet(np.full(sites, alpha_quantity))
    )
    mix = np.tile(prior, (sites, 1)) if alpha_label is None else generator.dirichlet(alpha_label * prior, size=sites)
    counts = _counts(mix, _sizes(shares, rows, max(minimum, 1)), np.bincount(classes, minlength=len(codes)))
    _lift(counts, max(minimum, 1))
    site_of = np.empty(rows, dtype=np.int64)
    for code in range(len(codes)):
        members = generator.permutation(np.flatnonzero(classes == code))
        site_of[members] = np.repeat(np.arange(sites), counts[:, code])
    return site_of


def _sizes(shares: np.ndarray, rows: int, minimum: int) -> np.ndarray:
    """Rows of every site: the minimum, and a share of what is left."""
    return minimum + _round(shares * (rows - minimum * len(shares)), rows - minimum * len(shares))


def _counts(mix: np.ndarray, sizes: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Whole numbers `(sites, classes)` that sum to `totals` by class and, within rounding, to `sizes` by site."""
    table = np.maximum(mix, _SMALLEST) * sizes[:, None]
    for _ in range(_SWEEPS):
        table *= (sizes / table.sum(axis=1))[:, None]
        table *= totals / table.sum(axis=0)
        if np.abs(table.sum(axis=1) - sizes).max() < 1e-6:
            break
    return np.stack([_round(table[:, code], int(totals[code])) for code in range(len(totals))], axis=1)


def _lift(counts: np.ndarray, minimum: int) -> None:
    """Move single rows from the largest site to one that rounding, or an extreme mix, has left under the minimum."""
    while counts.sum(axis=1).min() < minimum:
        poor, rich = counts.sum(axis=1).argmin(), counts.sum(axis=1).argmax()
        code = counts[rich].argmax()
        counts[rich, code] -= 1
        counts[poor, code] += 1


def _round(parts: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that sum to `total`, by the largest remainders; equal ones go to the first."""
    whole: np.ndarray = np.floor(parts).astype(np.int64)
    order = np.argsort(-(parts - whole), kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return whole

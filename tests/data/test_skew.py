"""A table divided among hospitals that do not exist: whole, reproducible, and as uneven as it is asked to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.data.skew import dirichlet_partition
from fedmed.errors import RecordsError

LABELS = np.repeat([0, 1], [300, 700])


def shares_of_ones(site_of: np.ndarray, sites: int) -> np.ndarray:
    return np.array([LABELS[site_of == site].mean() for site in range(sites)])


@given(
    labels=st.lists(st.integers(0, 3), min_size=12, max_size=120),
    sites=st.integers(1, 6),
    alphas=st.tuples(*[st.none() | st.floats(0.05, 50)] * 2),
    seed=st.integers(0, 1000),
)
def test_every_row_is_at_one_site_and_no_site_is_under_the_minimum(labels, sites, alphas, seed):
    site_of = dirichlet_partition(labels, sites, alpha_label=alphas[0], alpha_quantity=alphas[1], seed=seed, minimum=2)
    assert site_of.shape == (len(labels),)
    counts = np.bincount(site_of, minlength=sites)
    assert len(counts) == sites
    assert counts.min() >= 2


def test_without_skew_sites_are_equal_in_size_and_mix():
    site_of = dirichlet_partition(LABELS, 5, alpha_label=None, alpha_quantity=None, seed=3)
    assert np.bincount(site_of).tolist() == [200] * 5
    assert shares_of_ones(site_of, 5).tolist() == [0.7] * 5


def test_label_skew_leaves_sizes_alone_and_quantity_skew_the_mix():
    by_label = dirichlet_partition(LABELS, 5, alpha_label=0.5, alpha_quantity=None, seed=3)
    assert np.abs(np.bincount(by_label) - 200).max() <= 1
    by_size = dirichlet_partition(LABELS, 5, alpha_label=None, alpha_quantity=2.0, seed=3)
    assert np.abs(shares_of_ones(by_size, 5) - 0.7).max() < 0.05
    assert np.ptp(np.bincount(by_size)) > 100, np.bincount(by_size)


def test_a_smaller_alpha_is_more_skewed():
    def spread(alpha: float) -> float:
        seeds = range(20)
        return float(
            np.mean(
                [
                    shares_of_ones(
                        dirichlet_partition(LABELS, 5, alpha_label=alpha, alpha_quantity=None, seed=s), 5
                    ).std()
                    for s in seeds
                ]
            )
        )

    assert spread(0.3) > 1.5 * spread(3) > 1.5 * 1.5 * spread(30)


def test_the_same_seed_gives_the_same_division_and_another_seed_another():
    def divide(seed: int) -> list[int]:
        return dirichlet_partition(LABELS, 4, alpha_label=1.0, alpha_quantity=1.0, seed=seed).tolist()

    assert divide(1) == divide(1) != divide(2)


def test_too_few_rows_for_so_many_sites():
    with pytest.raises(RecordsError, match="10 rows cannot be divided among 3 sites with at least 4 each"):
        dirichlet_partition([0] * 10, 3, alpha_label=1.0, alpha_quantity=1.0, seed=1, minimum=4)

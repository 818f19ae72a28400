"""Inner folds: how choices are made on training rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from fedmed.targets.kind import TARGET

FOLDS = 5

Rows = Mapping[str, pd.DataFrame]


class Divided(NamedTuple):
    """Training and test rows of every site."""

    train: Rows
    test: Rows


def folds(train: Rows, repeats: int, seed: int) -> Iterator[tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame]]]:
    """Inner training and validation rows, site by site, by patient's label where a class is large enough."""
    for repeat in range(repeats):
        places = {site: _places(rows[TARGET].to_numpy(), seed + repeat) for site, rows in train.items()}
        for fold in range(FOLDS):
            yield (
                {site: rows[places[site] != fold].reset_index(drop=True) for site, rows in train.items()},
                {site: rows[places[site] == fold].reset_index(drop=True) for site, rows in train.items()},
            )


def _places(labels: np.ndarray, seed: int) -> np.ndarray:
    """The fold of every row: each class is dealt out in a random order, going on where the class before it ended."""
    generator, dealt, place = np.random.default_rng(seed), 0, np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        place[members] = (dealt + np.arange(len(members))) % FOLDS
        dealt += len(members)
    return place

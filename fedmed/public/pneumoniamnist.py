"""PneumoniaMNIST: chest radiographs of one children's hospital, divided among hospitals that do not exist.

From `pneumoniamnist.npz` (MedMNIST v2) or any file `pneumoniamnist*.npz` with the same images in whatever order. The
three official splits are joined: every site splits its own rows again.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fedmed.data.skew import dirichlet_partition
from fedmed.errors import SourceError, SourceMismatch

COHORT = "pneumoniamnist"
SHAPE = (28, 28)
SPLITS = ("train", "val", "test")
ALPHA_LABEL = 4.0
ALPHA_QUANTITY = 3.0
MINIMUM = 200
SEED = 2026


def read(folder: Path) -> pd.DataFrame:
    """All images with their label, by label and SHA-256: the division does not depend on the order in the file.

    Raises:
        SourceError: if the file is missing.
        SourceMismatch: if it is not what it should be.
    """
    found = sorted(folder.glob("pneumoniamnist*.npz"))
    if not found:
        raise SourceError(f"{folder}: expected pneumoniamnist.npz. Fetch it with `fedmed data fetch {COHORT}`.")
    try:
        with np.load(found[0], allow_pickle=False) as arrays:
            images = np.concatenate([arrays[f"{split}_images"] for split in SPLITS])
            labels = np.concatenate([arrays[f"{split}_labels"] for split in SPLITS]).ravel()
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as problem:
        raise SourceMismatch(
            f"{found[0]}: expected images and labels of {', '.join(SPLITS)} ({type(problem).__name__})"
        ) from None
    if images.shape != (len(labels), *SHAPE) or images.dtype != np.uint8:
        raise SourceMismatch(f"{found[0]}: expected uint8 images of 28 × 28, got {images.dtype} {images.shape[1:]}")
    cells = [image.tobytes() for image in images]
    digests = [hashlib.sha256(cell).hexdigest() for cell in cells]
    table = pd.DataFrame(
        {"image": pd.Series(cells, dtype=object), "pneumonia": labels.astype("int64"), "order": digests}
    )
    return table.sort_values(["pneumonia", "order"]).drop(columns="order").reset_index(drop=True)


def divide(table: pd.DataFrame, sites: Sequence[str]) -> dict[str, pd.DataFrame]:
    """With skewed labels and sizes among however many sites are named, in the order of their names' sorting."""
    names = sorted(sites)
    site_of = dirichlet_partition(
        table["pneumonia"].to_numpy(),
        len(names),
        alpha_label=ALPHA_LABEL,
        alpha_quantity=ALPHA_QUANTITY,
        seed=SEED,
        minimum=min(MINIMUM, len(table) // (2 * len(names))),
    )
    return {name: table[site_of == number] for number, name in enumerate(names)}

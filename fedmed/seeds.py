"""Random generators derived from what they are for: no global state, the same stream on every machine."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def derive(seed: int, *purpose: str | int) -> int:
    """The 63-bit seed of one purpose, such as `derive(seed, round, site, "batches")`.

    Args:
        seed: the run's public seed (`training.seed`). The run's name is no part of it: the name follows from keyed
            fingerprints, and the same rows and parameters must give the same weights under any hospital's key.
        purpose: what the numbers are for; parts are length-prefixed, so `("ab", "c")` and `("a", "bc")` differ.

    Returns:
        A non-negative integer below 2**63.

    >>> derive(1, "cleveland", "batches") == derive(1, "cleveland", "batches")
    True
    >>> derive(1, "ab", "c") == derive(1, "a", "bc")
    False
    """
    digest = hashlib.sha256(str(seed).encode())
    for part in purpose:
        encoded = f"{type(part).__name__}:{part}".encode()
        digest.update(len(encoded).to_bytes(4, "big") + encoded)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose; see :func:`derive`."""
    import torch

    return torch.Generator(device="cpu").manual_seed(derive(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """A NumPy generator (PCG64) for one purpose; see :func:`derive`."""
    import numpy as np

    return np.random.default_rng(derive(seed, *purpose))

"""Which tensors of a network travel, which a hospital keeps to itself, and which never change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from fedmed.errors import SettingsError
from fedmed.models.networks import normalisation_names, state_names


class Parts(NamedTuple):
    """Names of a network's tensors, each group sorted.

    Args:
        parameters: those that are trained together and travel.
        statistics: what the network counts in training, such as BatchNorm's running mean, and travels.
        personal: parameters and statistics that every hospital has its own of.
        frozen: parameters that keep their starting values.
    """

    parameters: tuple[str, ...]
    statistics: tuple[str, ...]
    personal: tuple[str, ...]
    frozen: tuple[str, ...]


def parts_of(
    network: nn.Module, *, personal: Sequence[str] = (), frozen: Sequence[str] = (), keep_normalisation: bool = False
) -> Parts:
    """Tell a network's tensors apart.

    Args:
        network: any.
        personal: patterns of the names that a hospital keeps, such as `head.*`.
        frozen: patterns of the names that are not trained.
        keep_normalisation: whether normalisation layers are personal too (FedBN).

    Raises:
        SettingsError: if a pattern fits nothing, or nothing is left to travel.

    >>> parts_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), personal=["1.*"]).parameters
    ('0.bias', '0.weight')
    """
    parameters, statistics = (sorted(names) for names in state_names(network))
    everything = [*parameters, *statistics]
    own = set(_fitting("personal.layers", personal, everything))
    if keep_normalisation:
        own |= set(normalisation_names(network)) & set(everything)
    still = set(_fitting("training.frozen", frozen, parameters)) - own
    travel = [name for name in parameters if name not in own | still]
    if not travel:
        raise SettingsError(
            "parameters: personal.layers and training.frozen leave no parameter to train together; the network has"
            f" {', '.join(parameters[:12])}"
        )
    return Parts(
        parameters=tuple(travel),
        statistics=tuple(name for name in statistics if name not in own),
        personal=tuple(sorted(own)),
        frozen=tuple(sorted(still)),
    )


def _fitting(key: str, patterns: Iterable[str], names: Sequence[str]) -> list[str]:
    found = []
    for pattern in patterns:
        fit = [name for name in names if fnmatchcase(name, pattern)]
        if not fit:
            raise SettingsError(
                f"parameters: {key}: {pattern!r} fits no tensor of the network, which has {', '.join(names[:12])}"
            )
        found += fit
    return found

"""The kinds of target by name: `KINDS[target.kind]`, a module each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from fedmed.evaluation.curves import Curves
from fedmed.evaluation.names import metric_named
from fedmed.targets.binary import BINARY
from fedmed.targets.kind import Kind, KindName
from fedmed.targets.multiclass import MULTICLASS
from fedmed.targets.survival import SURVIVAL

KINDS: Mapping[str, Kind] = {"binary": BINARY, "multiclass": MULTICLASS, "survival": SURVIVAL}


def check(kinds: Mapping[str, Kind]) -> None:
    """Refuse kinds that cannot be told: it runs when this module is imported.

    Raises:
        ValueError: a kind names a metric that the table of metrics does not have, and of which nobody knows what it
            tells of small classes; it shows a metric that it does not measure; or the kinds are not those that a
            declaration may name.
    """
    if set(kinds) != set(get_args(KindName)):
        raise ValueError(f"kinds of target: expected {', '.join(get_args(KindName))}, got {', '.join(kinds)}")
    for name, kind in kinds.items():
        measured = kind.names(3)
        for metric in (*measured, *kind.validated, "loss"):
            metric_named(metric)
        if lost := [metric for metric in (*kind.validated, *kind.headline, *kind.drawn) if metric not in measured]:
            raise ValueError(f"kind {name}: expected metrics that it measures, got {', '.join(lost)}")
        if unknown := set(kind.told_curves) - set(Curves.model_fields):
            raise ValueError(f"kind {name}: expected curves of {Curves.__name__}, got {', '.join(sorted(unknown))}")


check(KINDS)

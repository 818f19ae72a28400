"""What may be chosen about the registry, and the rule by which a new version becomes champion."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from fedmed.evaluation.measurement import number
from fedmed.evaluation.names import LOWER_IS_BETTER
from fedmed.gates import Verdict, cannot_tell, fails
from fedmed.typed_yaml import Record

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Metric = Literal[
    "validation_loss",
    "validation_accuracy",
    "validation_auroc",
    "validation_auprc",
    "validation_balanced_accuracy",
    "validation_macro_auroc",
    "validation_macro_auprc",
    "validation_brier",
    "validation_c_index",
]


class ChampionRule(Record):
    """When a new version takes the place of the champion.

    Both are judged by the validation rows, at the round that each chose: test rows that decide which model is served
    would no longer be a test, and their figures would rise with every release. Hospitals count alike, so that a small
    one is not outvoted, and none may pay for the others: the mean alone would let one of them get much worse.

    The validation figures are measured with each hospital's own shift of the intercept, where `personal.intercept` is
    on (`_evaluate` in `fedmed/site/answers.py`). What is compared is thus the model as the hospitals use it: the
    version that wins may be the worse one where it is served without a shift.

    Figures are compared as they were recorded. If a hospital's records have changed in between they are of other rows,
    and the reason says so. A hospital where only one of the two was validated is left out; if there is none in common,
    or the cohort is declared otherwise, a person has to decide (:func:`~fedmed.registry.promote`).
    """

    metric: Metric = Field(
        "validation_loss", description="what champion and challenger are compared by, as a mean over hospitals"
    )
    minimum_gain: float = Field(0.001, ge=0, description="the mean must be better by more than this")
    largest_loss_at_a_site: float = Field(0.05, ge=0, description="no hospital may get worse by more than this")


class RegistryOptions(Record):
    """Where a run is registered, and when its model becomes champion."""

    model: str = Field("heart-disease", pattern=f"^{NAME.pattern}$", description="name of the registered model")
    experiment: str = Field("fedmed", pattern=f"^{NAME.pattern}$", description="MLflow experiment that holds the runs")
    champion: ChampionRule = Field(ChampionRule(), description="when a new version becomes champion")


def better(rule: ChampionRule, challenger: Mapping[str, float], champion: Mapping[str, float], version: int) -> Verdict:
    """Whether a challenger takes the champion's place, and why, in a sentence; also where it passes.

    Args:
        rule: the metric and its bounds.
        challenger: hospital → the metric on its validation rows, with its own shift where it has one.
        champion: the same of version `version`.
        version: the champion's number, for the sentence.

    >>> better(ChampionRule(), {"a": 0.40, "b": 0.30}, {"a": 0.45, "b": 0.31}, 1)
    Verdict(word='passes', why='mean validation_loss over 2 hospitals is .350, better by .030 than .380 of version 1')
    >>> better(ChampionRule(), {"a": 0.40, "b": 0.30}, {"a": 0.60, "b": 0.20}, 1).why.partition(", but ")[2]
    'b gets worse by .100 (at most .050)'
    """
    common = sorted(challenger.keys() & champion.keys())
    if not common:
        return cannot_tell(f"version {version} has no {rule.metric} at a hospital that this one was validated at")
    sign = -1 if rule.metric.removeprefix("validation_") in LOWER_IS_BETTER else 1
    gain = {site: sign * (challenger[site] - champion[site]) for site in common}
    new, old = (math.fsum(figures[site] for site in common) / len(common) for figures in (challenger, champion))
    mean, worst = sign * (new - old), min(gain, key=gain.__getitem__)
    hospitals = f"{len(common)} hospital{'s' if len(common) > 1 else ''}"
    said = f"mean {rule.metric} over {hospitals} is {number(new)}"
    than = f"than {number(old)} of version {version}"
    if not mean > rule.minimum_gain:
        change = (
            "no better" if mean == 0 else f"worse by {number(-mean)}" if mean < 0 else f"better by only {number(mean)}"
        )
        return fails(f"{said}, {change} {than} (a gain over {number(rule.minimum_gain)} is asked for)")
    said = f"{said}, better by {number(mean)} {than}"
    if -gain[worst] > rule.largest_loss_at_a_site:
        limit = number(rule.largest_loss_at_a_site)
        return fails(f"{said}, but {worst} gets worse by {number(-gain[worst])} (at most {limit})")
    return Verdict("passes", said)

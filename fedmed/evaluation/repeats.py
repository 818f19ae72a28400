"""A figure that was found several times, once a seed: its mean, how it varies, and what a difference of two may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedmed.evaluation.measurement import number
from fedmed.typed_yaml import Record

CONFIDENCE = 0.95


class Repeated(Record):
    """The mean of a figure over seeds.

    `deviation` is the standard deviation over seeds (divided by one less than their number), and `low` to `high` the
    95 % interval of the mean by Student's t: both absent for one seed. They say how much training's own chance matters,
    its start and its order of rows; the patients are the same under every seed, so they say nothing of other patients.
    """

    seeds: int
    mean: float
    deviation: float | None = None
    low: float | None = None
    high: float | None = None

    def text(self, decimals: int = 3) -> str:
        """For people: `.812 ± .004`, or `.812` of one seed."""
        spread = "" if self.deviation is None else f" ± {number(self.deviation, decimals)}"
        return number(self.mean, decimals) + spread

    def interval_text(self, decimals: int = 3) -> str:
        """`.806 to .818`; a dash where there is one seed."""
        if self.low is None or self.high is None:
            return "—"
        return f"{number(self.low, decimals)} to {number(self.high, decimals)}"


def repeated(values: Sequence[float]) -> Repeated | None:
    """The mean of values that were found under several seeds; None of none.

    Args:
        values: one a seed.

    >>> found = repeated([1.0, 3.0])
    >>> found.mean, round(found.deviation, 4), round(found.low, 3)
    (2.0, 1.4142, -10.706)
    """
    seeds = len(values)
    if not seeds:
        return None
    mean = math.fsum(values) / seeds
    if seeds == 1:
        return Repeated(seeds=1, mean=mean)
    from scipy.stats import t  # takes half a second, and many never compare

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (seeds - 1))
    half = float(t.ppf((1 + CONFIDENCE) / 2, seeds - 1)) * deviation / math.sqrt(seeds)
    return Repeated(seeds=seeds, mean=mean, deviation=deviation, low=mean - half, high=mean + half)


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Repeated | None:
    """The mean difference `values` minus `reference` over the seeds that both have.

    Args:
        values: seed → figure.
        reference: seed → the figure that it is held against, found under the same seed on the same rows.
    """
    return repeated([values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())])

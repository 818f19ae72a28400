"""From a table with one measurement a row to one series a patient: the last observation of each step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fedmed.data.arrays import as_cell, outside
from fedmed.data.cohort import Column


def series_of(
    patients: Sequence[str],
    holders: pd.Series,
    minutes: np.ndarray,
    parameters: pd.Series,
    values: np.ndarray,
    column: Column,
) -> list[bytes]:
    """The series of every patient.

    Args:
        patients: whose series are wanted, each once.
        holders: patient of every measurement; one that is not wanted is left out.
        minutes: time of every measurement since the start of the series, float64; one outside the window of
            `steps · step` minutes is left out, and so is one without a time.
        parameters: name of what was measured; one that is no declared channel is left out.
        values: what was measured, float64; NaN and a channel's missing codes are no measurements.
        column: the declaration.

    Returns:
        One cell a patient, in order; a patient without measurements has one without observations.

    Guarantees:
        - The order of the measurements does not matter: of several in a step the last counts, and of several in a
          minute the largest.
        - A measurement outside the range of a channel never hides one inside it if the channel drops such, and is never
          hidden by one inside it if the channel refuses such.
    """
    channels = column.channels or {}
    steps, step = column.steps or 0, column.step or 1.0
    with np.errstate(over="ignore"):
        values = values.astype("<f4")
    row = pd.Index(patients).get_indexer(pd.Index(holders))
    place = pd.Index(list(channels)).get_indexer(pd.Index(parameters))
    with np.errstate(invalid="ignore"):
        at = np.floor(minutes / step)
        kept = (row >= 0) & (place >= 0) & (at >= 0) & (at < steps) & ~np.isnan(values)
    weaker = np.zeros(len(values), dtype=bool)
    for number, channel in enumerate(channels.values()):
        of_it = place == number
        kept &= ~(of_it & np.isin(values, np.array(channel.missing_codes, dtype="<f4")))
        implausible = outside(values, channel)
        weaker |= of_it & (implausible if channel.outside == "drop" else ~implausible)
    row, place, at, values, minutes = row[kept], place[kept], at[kept].astype(np.int64), values[kept], minutes[kept]
    order = np.lexsort((values, minutes, ~weaker[kept]))
    grids = np.full((len(patients), steps, len(channels)), np.nan, dtype="<f4")
    grids[row[order], at[order], place[order]] = values[order]  # of several at one place NumPy keeps the last
    return [as_cell(grid, column) for grid in grids]

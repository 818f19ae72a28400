"""What becomes of one measurement a row: the last plausible observation of each step, whatever the order of rows."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.data.arrays import raw_arrays
from fedmed.data.cohort import Column
from fedmed.sources.long_form import series_of

STAY = Column.model_validate(
    {
        "type": "series",
        "steps": 3,
        "step": 60,
        "channels": {
            "HR": {"range": [1, 300], "missing_codes": [-1]},
            "FiO2": {"range": [0.21, 1], "outside": "drop"},
        },
        "long": {"time": "minute", "parameter": "parameter", "value": "value"},
    }
)
NAN = math.nan
Measurement = tuple[str, float, str, float]


def grids(measurements: list[Measurement], *patients: str) -> Any:
    """Steps × channels of each patient, None where nothing was observed."""
    table = pd.DataFrame(measurements, columns=["patient", "minute", "parameter", "value"])
    cells = series_of(
        patients,
        table["patient"],
        table["minute"].to_numpy(dtype=np.float64),
        table["parameter"],
        table["value"].to_numpy(dtype=np.float64),
        STAY,
    )
    arrays = raw_arrays(cells, STAY, "stay")
    return [[[None if math.isnan(x) else float(x) for x in step] for step in array] for array in arrays]


def test_measurements_stand_in_their_step_and_channel() -> None:
    given_ = [("a", 0, "HR", 80), ("a", 59.9, "FiO2", 0.5), ("b", 60, "HR", 90), ("a", 179, "HR", 70)]
    assert grids(given_, "b", "a") == [
        [[None, None], [90, None], [None, None]],
        [[80, 0.5], [None, None], [70, None]],
    ]


SITUATIONS: dict[str, tuple[list[Measurement], float | None]] = {
    "the last of a step counts": ([("a", 5, "HR", 80), ("a", 7, "HR", 60), ("a", 6, "HR", 70)], 60),
    "of two in a minute the larger counts": ([("a", 5, "HR", 80), ("a", 5, "HR", 90), ("a", 5, "HR", 70)], 90),
    "what is after the window is left out": ([("a", 180, "HR", 80)], None),
    "what is before the window is left out": ([("a", -1, "HR", 80)], None),
    "what has no time is left out": ([("a", NAN, "HR", 80)], None),
    "what has no value is none": ([("a", 1, "HR", 80), ("a", 2, "HR", NAN)], 80),
    "a missing code is none": ([("a", 1, "HR", 80), ("a", 2, "HR", -1)], 80),
    "another patient's is left out": ([("x", 1, "HR", 80)], None),
    "an undeclared parameter is left out": ([("a", 1, "Age", 80)], None),
    "a refused value is not hidden by a later one": ([("a", 1, "HR", 800), ("a", 2, "HR", 80)], 800),
    "a value that float32 cannot hold is out of range": ([("a", 1, "HR", 1e300)], math.inf),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_of_measurements(situation: str) -> None:
    measurements, expected = SITUATIONS[situation]
    assert grids(measurements, "a")[0][0][0] == expected


def test_a_dropped_value_does_not_hide_an_earlier_one_in_the_step() -> None:
    measurements = [("a", 1, "FiO2", 0.5), ("a", 2, "FiO2", 50.0), ("a", 61, "FiO2", 50.0)]
    # where there is nothing else it stays, for the contract to count
    assert [step[1] for step in grids(measurements, "a")[0]] == [0.5, 50.0, None]


def test_a_patient_without_measurements_has_an_empty_series() -> None:
    assert grids([("a", 1, "HR", 80)], "b") == [[[None, None]] * 3]
    assert grids([], "b") == [[[None, None]] * 3]


table = st.lists(
    st.tuples(
        st.sampled_from("abx"),
        st.sampled_from([-5.0, 0.0, 1.0, 59.0, 60.0, 170.0, 200.0]),
        st.sampled_from(["HR", "FiO2", "Age"]),
        st.sampled_from([-1.0, 0.25, 0.5, 1.0, 80.0, 400.0, NAN]),
    ),
    max_size=25,
)


@given(table, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[Measurement], chance: random.Random) -> None:
    shuffled = list(rows)
    chance.shuffle(shuffled)
    assert grids(rows, "a", "b") == grids(shuffled, "a", "b")


@given(table)
def test_every_cell_is_what_a_search_through_the_table_finds(rows: list[Measurement]) -> None:
    found = grids(rows, "a", "b")
    for place, patient in enumerate(("a", "b")):
        for step in range(3):
            heart = [(not 1 <= v <= 300, t, v) for p, t, n, v in rows if (p, n, t // 60) == (patient, "HR", step)]
            oxygen = [(0.21 <= v <= 1, t, v) for p, t, n, v in rows if (p, n, t // 60) == (patient, "FiO2", step)]
            best = [
                max((x for x in heart if not math.isnan(x[2]) and x[2] != -1), default=None),
                max((x for x in oxygen if not math.isnan(x[2])), default=None),
            ]
            assert found[place][step] == [None if x is None else x[2] for x in best]

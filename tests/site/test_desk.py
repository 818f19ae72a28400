"""A hospital's partition at work."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fedmed.data.cohort import PATIENT
from fedmed.site.desk import SiteSession
from fedmed.site.home import SiteHome


def test_rows_of_one_patient_have_one_number_in_every_split() -> None:
    def table(*patients: str) -> pd.DataFrame:
        return pd.DataFrame({PATIENT: patients})

    tables = {"train": table("b", "a", "b", "c", "a"), "validation": table("d"), "test": table("e", "e")}
    session = SiteSession(SiteHome(Path("va")), None, tables)  # type: ignore[arg-type]  # the manifest is not looked at
    assert {name: whose.tolist() for name, whose in session.patients().items()} == {
        "train": [0, 1, 0, 2, 1],
        "validation": [0],
        "test": [0, 0],
    }

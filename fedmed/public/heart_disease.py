"""The table of four hospitals that ships with FedMed, as one of the public cohorts."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pandas as pd

SITE = "centre"


def read(folder: Path) -> pd.DataFrame:
    """All rows with the column `centre`; the folder is not looked at."""
    with resources.as_file(resources.files("fedmed.public.tables.heart_disease").joinpath("heart_disease.csv")) as path:
        return pd.read_csv(path)

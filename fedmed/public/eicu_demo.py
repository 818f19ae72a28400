"""The eICU demo: what the APACHE score saw of the first day in intensive care, and whether the patient left alive.

From `apacheApsVar`, `patient` and `hospital` of the eICU Collaborative Research Database Demo 2.0.1, or from one table
in which they are joined already (`apache_tabular.csv`). Stays whose `hospitaldischargestatus` is not recorded are left
out; −1 is the database's "not recorded"; an age over 89 is told as "> 89" and becomes 90.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fedmed.errors import SourceMismatch
from fedmed.public.raw import first_of, read_csv

COHORT = "eicu_demo"
SITE = "region"
HOSPITAL = "hospital"
OLDEST = 90.0
APACHE = (
    "intubated",
    "vent",
    "dialysis",
    "eyes",
    "motor",
    "verbal",
    "meds",
    "urine",
    "wbc",
    "temperature",
    "respiratoryrate",
    "sodium",
    "heartrate",
    "meanbp",
    "ph",
    "hematocrit",
    "creatinine",
    "albumin",
    "pao2",
    "pco2",
    "bun",
    "glucose",
    "bilirubin",
    "fio2",
)
_TEXT = ("uniquepid", "region", "unittype", "gender", "age")
_JOINED = "apache_tabular.csv"


def read(folder: Path) -> pd.DataFrame:
    """All stays, with the columns `region` ("midwest", … "unknown") and `hospital` ("hospital_59").

    Raises:
        SourceError: if a file is missing.
        SourceMismatch: if one is not what it should be.
    """
    if (folder / _JOINED).exists():
        wanted = [*APACHE, "uniquepid", "hospitalid", "region", "unittype", "gender", "age", "died"]
        joined = read_csv(folder / _JOINED, wanted, text=_TEXT)
    else:
        joined = _join(folder)
    table = joined[["uniquepid", *APACHE]].copy()
    for name in APACHE:
        values = pd.to_numeric(table[name], errors="coerce").astype("float64")
        table[name] = values.mask(values == -1)
    table["age"] = pd.to_numeric(joined["age"].replace("> 89", str(OLDEST)), errors="coerce").astype("float64")
    table["gender"] = joined["gender"].where(joined["gender"].isin(["Female", "Male"]), None).astype(object)
    table["unittype"] = joined["unittype"].astype(object)
    table["died"] = joined["died"].astype("int64")
    table[SITE] = joined["region"].fillna("unknown").str.lower()
    table[HOSPITAL] = "hospital_" + joined["hospitalid"].astype("int64").astype(str)
    return table.reset_index(drop=True)


def divide(table: pd.DataFrame, sites: Sequence[str]) -> dict[str, pd.DataFrame]:
    """By region; or by hospital if that is what the sites are named after."""
    by = HOSPITAL if any(site.startswith("hospital_") for site in sites) else SITE
    return {str(site): rows for site, rows in table.groupby(by, sort=True)}


def _join(folder: Path) -> pd.DataFrame:
    def file(name: str, columns: Sequence[str], text: Sequence[str] = ()) -> pd.DataFrame:
        return read_csv(first_of(folder, [f"{name}.csv.gz", f"{name}.csv"], cohort=COHORT), columns, text=text)

    apache = file("apacheApsVar", ["patientunitstayid", *APACHE])
    identity = ("uniquepid", "unittype", "gender", "age", "hospitaldischargestatus")
    patient = file("patient", ["patientunitstayid", "hospitalid", *identity], identity)
    hospital = file("hospital", ["hospitalid", "region"], ["region"])
    try:
        joined = apache.merge(patient, on="patientunitstayid", how="inner", validate="one_to_one").merge(
            hospital, on="hospitalid", how="left", validate="many_to_one"
        )
    except pd.errors.MergeError:
        raise SourceMismatch(f"{folder}: a stay or a hospital stands twice in the tables of the eICU demo") from None
    status = joined["hospitaldischargestatus"]
    known = joined[status.isin(["Alive", "Expired"])]
    died = np.asarray(known["hospitaldischargestatus"] == "Expired", dtype="int64")
    return known.assign(died=died).drop(columns="hospitaldischargestatus").reset_index(drop=True)

"""PhysioNet/CinC Challenge 2012, set A: 48 hours of intensive care as a series, four kinds of unit as the sites.

From `set-a` (an archive or a folder with one text file a stay, or the same measurements as one Parquet table in long
form: RecordID, minute, parameter, value) and `Outcomes-a.txt`. Hour by hour a channel holds the last observation; of
several in the same minute (arterial pressure is often noted twice) their mean, so that the order of lines does not
matter. −1 is the challenge's "not recorded". A height outside 120 to 230 cm, or a weight at admission outside 20 to 300
kg, is an error of entry and is taken as not recorded; implausible measurements are left to the declaration.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd

from fedmed.errors import SourceMismatch
from fedmed.public.raw import first_of, members, read_csv

COHORT = "physionet2012"
SITE = "unit"
SERIES = "measurements"
STEPS = 48
STEP = 60  # minutes
UNITS = {1: "ccu", 2: "csru", 3: "micu", 4: "sicu"}
HEIGHT = (120.0, 230.0)
WEIGHT = (20.0, 300.0)
CHANNELS = (
    "Albumin",
    "ALP",
    "ALT",
    "AST",
    "Bilirubin",
    "BUN",
    "Cholesterol",
    "Creatinine",
    "DiasABP",
    "FiO2",
    "GCS",
    "Glucose",
    "HCO3",
    "HCT",
    "HR",
    "K",
    "Lactate",
    "Mg",
    "MAP",
    "MechVent",
    "Na",
    "NIDiasABP",
    "NIMAP",
    "NISysABP",
    "PaCO2",
    "PaO2",
    "pH",
    "Platelets",
    "RespRate",
    "SaO2",
    "SysABP",
    "Temp",
    "TroponinI",
    "TroponinT",
    "Urine",
    "WBC",
    "Weight",
)
DESCRIPTORS = ("Age", "Gender", "Height", "ICUType")
_PACKAGINGS = ("set-a.tar.gz", "set-a.zip", "set-a", "set-a.parquet")
_OTHER_NAMES = {"TropI": "TroponinI", "TropT": "TroponinT"}


def read(folder: Path) -> pd.DataFrame:
    """All stays, with the column `unit` ("ccu", "csru", "micu", "sicu").

    Raises:
        SourceError: if a file is missing.
        SourceMismatch: if one is not what it should be.
    """
    outcomes = read_csv(first_of(folder, ["Outcomes-a.txt"], cohort=COHORT), ["RecordID", "In-hospital_death"])
    died = outcomes.set_index("RecordID")["In-hospital_death"].sort_index()
    long = _measurements(first_of(folder, _PACKAGINGS, cohort=COHORT))
    stays = died.index.to_numpy(dtype=np.int64)
    if died.index.has_duplicates or not np.array_equal(np.unique(long["stay"]), stays):
        raise SourceMismatch(f"{folder}: Outcomes-a.txt and set-a do not name the same stays")
    described = _descriptors(long).reindex(stays)
    table = pd.DataFrame({"stay": stays.astype(str)})
    table["age"] = described["Age"].to_numpy()
    gender = described["Gender"].to_numpy()
    table["gender"] = pd.Series([{0.0: "0", 1.0: "1"}.get(value) for value in gender], dtype=object)
    table["height"] = _within(described["Height"].to_numpy(), HEIGHT)
    table["weight"] = _within(described["Weight"].to_numpy(), WEIGHT)
    table[SERIES] = binned(long, stays)
    table["died"] = died.to_numpy(dtype=np.int64)
    table[SITE] = [UNITS.get(int(kind), "unknown") if np.isfinite(kind) else "unknown" for kind in described["ICUType"]]
    return table


def binned(long: pd.DataFrame, stays: np.ndarray) -> list[bytes]:
    """Measurements in long form as one cell a stay: little-endian float32 `(STEPS, CHANNELS)`, NaN where none is.

    Args:
        long: columns `stay`, `minute`, `parameter`, `value` (float64, as float32 can hold it).
        stays: the stays in ascending order, shape `(stays,)`.
    """
    number = {name: place for place, name in enumerate(CHANNELS)}
    observed = (long["value"] != -1) & long["minute"].between(0, STEPS * STEP) & long["parameter"].isin(CHANNELS)
    known = long.loc[observed, ["stay", "minute", "value"]]
    known["channel"] = long.loc[observed, "parameter"].map(number).astype("int64")
    known["step"] = (known["minute"] // STEP).clip(upper=STEPS - 1)
    minutes = known.groupby(["stay", "channel", "step", "minute"], sort=True)["value"].mean().reset_index()
    last = minutes.groupby(["stay", "channel", "step"], sort=False).tail(1)
    cells = np.full((len(stays), STEPS, len(CHANNELS)), np.nan, dtype="<f4")
    cells[np.searchsorted(stays, last["stay"]), last["step"], last["channel"]] = last["value"]
    return [cell.tobytes() for cell in cells]


def _descriptors(long: pd.DataFrame) -> pd.DataFrame:
    """One row a stay with what was noted at admission; NaN where that was −1."""
    first = long[(long["minute"] == 0) & long["parameter"].isin([*DESCRIPTORS, "Weight"]) & (long["value"] >= 0)]
    wide = first.groupby(["stay", "parameter"], observed=True)["value"].mean().unstack()
    return wide.reindex(columns=[*DESCRIPTORS, "Weight"]).astype("float64")


def _within(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return np.where((values >= limits[0]) & (values <= limits[1]), values, np.nan)


def _measurements(path: Path) -> pd.DataFrame:
    """Every measurement in long form: `stay`, `minute`, `parameter`, `value`."""
    if path.suffix == ".parquet":
        try:
            table = pd.read_parquet(path, columns=["RecordID", "minute", "parameter", "value"])
        except (ValueError, KeyError, OSError):
            raise SourceMismatch(f"{path}: expected a Parquet table of RecordID, minute, parameter, value") from None
        long = pd.DataFrame(
            {
                "stay": table["RecordID"].astype("int64"),
                "minute": table["minute"].astype("int64"),
                "parameter": table["parameter"].astype(object),
                "value": table["value"].astype("float32").astype("float64"),
            }
        )
    else:
        long = _texts(path)
    return long[long["parameter"] != "RecordID"].reset_index(drop=True)


def _texts(path: Path) -> pd.DataFrame:
    stays: list[int] = []
    minutes: list[int] = []
    parameters: list[str] = []
    values: list[float] = []
    for name, content in members(path, ".txt"):
        if not (stay := name.removesuffix(".txt")).isdigit():
            continue
        try:
            lines = csv.reader(io.StringIO(content.decode("ascii"), newline=""), strict=True)
            if next(lines, None) != ["Time", "Parameter", "Value"]:
                raise ValueError(name)
            for time, parameter, value in filter(None, lines):
                if not parameter:  # a few lines of the challenge's files name nothing
                    continue
                hours, _, rest = time.partition(":")
                stays.append(int(stay))
                minutes.append(60 * int(hours) + int(rest))
                parameters.append(_OTHER_NAMES.get(parameter, parameter))
                values.append(float(value))
        except (ValueError, csv.Error):
            raise SourceMismatch(f"{path}: {name} is no record of the challenge (Time, Parameter, Value)") from None
    return pd.DataFrame(
        {
            "stay": np.array(stays, dtype=np.int64),
            "minute": np.array(minutes, dtype=np.int64),
            "parameter": pd.Series(parameters, dtype=object),
            "value": np.array(values, dtype=np.float32).astype(np.float64),
        }
    )

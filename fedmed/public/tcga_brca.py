"""TCGA breast cancer as FLamby prepared it: 39 covariates, survival in days, six regions.

From `brca.csv` and `train_test_split.csv` of flamby/datasets/fed_tcga_brca (Ogier du Terrail et al. 2022, section 4).
Names are cleaned; the region is the number at the end of `fold2` ("train_3"), whose split FedMed does not use; the 8
patients whom the second file does not name are left out. A follow-up of 0 days becomes half a day: the patient was seen
on the first day, and a survival time has to be positive.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from fedmed.errors import SourceMismatch
from fedmed.public.raw import first_of, read_csv

COHORT = "tcga_brca"
SITE = "region"
HALF_A_DAY = 0.5
COVARIATES = (
    "age_at_index",
    "ethnicity_not hispanic or latino",
    "ethnicity_not reported",
    "race_asian",
    "race_black or african american",
    "race_not reported",
    "race_white",
    "ajcc_pathologic_m_MX",
    "ajcc_pathologic_n_N0 (i-)",
    "ajcc_pathologic_n_N1",
    "ajcc_pathologic_n_N1a",
    "ajcc_pathologic_n_N2",
    "ajcc_pathologic_n_N2a",
    "ajcc_pathologic_stage_Stage IA",
    "ajcc_pathologic_stage_Stage IIA",
    "ajcc_pathologic_stage_Stage IIB",
    "ajcc_pathologic_stage_Stage IIIA",
    "ajcc_pathologic_stage_Stage IIIC",
    "ajcc_pathologic_t_T1c",
    "ajcc_pathologic_t_T2",
    "ajcc_pathologic_t_T3",
    "ajcc_staging_system_edition_5th",
    "ajcc_staging_system_edition_6th",
    "ajcc_staging_system_edition_7th",
    "icd_10_code_C50.9",
    "morphology_8500/3",
    "morphology_8520/3",
    "primary_diagnosis_Infiltrating duct carcinoma, NOS",
    "primary_diagnosis_Lobular carcinoma, NOS",
    "prior_malignancy_yes",
    "synchronous_malignancy_Not Reported",
    "treatment_or_therapy_not reported",
    "treatment_or_therapy_yes",
    "tumor_stage_stage i",
    "tumor_stage_stage ia",
    "tumor_stage_stage iia",
    "tumor_stage_stage iib",
    "tumor_stage_stage iiia",
    "tumor_stage_stage iiic",
)


def clean_name(name: str) -> str:
    """A covariate's name as a declaration may have it.

    >>> clean_name("ajcc_pathologic_n_N0 (i-)"), clean_name("morphology_8500/3")
    ('ajcc_pathologic_n_n0_i', 'morphology_8500_3')
    """
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def read(folder: Path) -> pd.DataFrame:
    """All patients of the six regions, with the column `region` ("region_0" to "region_5").

    Raises:
        SourceError: if a file is missing.
        SourceMismatch: if one is not what it should be.
    """
    table = read_csv(first_of(folder, ["brca.csv"], cohort=COHORT), ["pid", *COVARIATES, "E", "T"], text=["pid"])
    folds = read_csv(first_of(folder, ["train_test_split.csv"], cohort=COHORT), ["pid", "fold2"], text=["pid", "fold2"])
    number = folds["fold2"].astype(str).str.extract(r"^(?:train|test)_([0-5])$")[0]
    if number.isna().any() or folds["pid"].duplicated().any() or table["pid"].duplicated().any():
        raise SourceMismatch(f"{folder}: train_test_split.csv names a patient twice, or a region that is not 0 to 5")
    region = ("region_" + number).set_axis(folds["pid"])
    names = {name: clean_name(name) for name in COVARIATES}
    table = table.rename(columns={**names, "T": "time", "E": "event"})
    table[SITE] = table["pid"].map(region)
    table = table[table[SITE].notna()].reset_index(drop=True)
    return table.assign(time=table["time"].astype("float64").mask(table["time"] == 0, HALF_A_DAY))

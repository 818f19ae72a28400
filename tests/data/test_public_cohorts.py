"""The real public cohorts, from a hospital's file to a network's inputs, by the declarations that come with FedMed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from public_data import real_files

from fedmed.aggregation.statistics import column_sums, plausible, pool_statistics
from fedmed.data.arrays import measurements, raw_arrays
from fedmed.data.cohort import Cohort, read_cohort
from fedmed.data.contract import examine
from fedmed.data.split import SPLITS, SplitOptions, split
from fedmed.models.encoding import InputStatistics, encode, input_shape, labels_of, scaled_inputs
from fedmed.public.preparing import prepare
from fedmed.sources.reading import read_records

COHORTS = Path(__file__).parents[2] / "cohorts"
CELL = 11


class Federation(NamedTuple):
    """A cohort, every hospital's partition, and the statistics of the training rows over all."""

    cohort: Cohort
    tables: dict[str, dict[str, pd.DataFrame]]
    statistics: InputStatistics

    def joined(self, part: str) -> pd.DataFrame:
        return pd.concat([tables[part] for tables in self.tables.values()], ignore_index=True)


@pytest.fixture(scope="module", params=["tcga_brca", "eicu_demo", "physionet2012", "pneumoniamnist"])
def federation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    name = request.param
    cohort = read_cohort(COHORTS / f"{name}.yaml")
    folder = tmp_path_factory.mktemp(name)
    tables = {}
    for site, rows in prepare(name, real_files(name)).items():
        rows.to_parquet(folder / f"{site}.parquet")
        records = read_records([folder / f"{site}.parquet"], cohort, site)
        assert len(records) == len(rows)
        inputs = records.drop(columns=cohort.target.columns)
        tables[site] = split(inputs, cohort.target.label(records), SplitOptions(), site)
    sums = [column_sums(each["train"], cohort, CELL) for each in tables.values()]
    assert all(plausible(part) for part in sums)
    return Federation(cohort, tables, pool_statistics(sums, cohort))


def test_every_hospital_is_admitted_by_its_contract(federation: Federation, tmp_path: Path) -> None:
    for site, tables in federation.tables.items():
        rows = pd.concat([tables[name].assign(split=name) for name in SPLITS], ignore_index=True)
        verdict = examine(federation.cohort, rows, tmp_path / site)
        assert verdict.failed == (), site


def test_no_person_is_in_two_splits_and_every_split_has_both_labels(federation: Federation) -> None:
    for tables in federation.tables.values():
        people = [set(tables[name]["patient"]) for name in SPLITS]
        assert sum(map(len, people)) == len(set.union(*people))
    # One region has three deaths in all: the labels are looked for over the federation.
    assert all(federation.joined(name)["target"].nunique() == 2 for name in SPLITS)


def test_the_pooled_statistics_are_those_of_all_training_rows(federation: Federation) -> None:
    cohort, rows = federation.cohort, federation.joined("train")
    for name in scaled_inputs(cohort):
        column, _, channel = name.partition(".")
        declared = cohort.columns[column]
        if declared.type == "image":
            values = raw_arrays(rows[column], declared, column).astype(np.float64) / 255
        elif channel:
            place = list(declared.channels or {}).index(channel)
            values = measurements(rows[column], declared, column)[..., place].astype(np.float64)
        else:
            values = rows[column].to_numpy()
        # Small cells are withheld or counted as the mean, so it is nearly, not exactly, equal.
        spread = np.nanstd(values) or 1.0
        assert abs(federation.statistics.mean[name] - np.nanmean(values)) <= 0.05 * spread, name
        assert federation.statistics.deviation[name] == pytest.approx(spread, rel=0.05), name


def test_rows_become_finite_inputs_of_the_declared_shape(federation: Federation) -> None:
    cohort = federation.cohort
    for tables in federation.tables.values():
        for rows in tables.values():
            features = encode(rows, cohort, federation.statistics)
            assert features.dtype == torch.float32
            assert features.shape == (len(rows), *input_shape(cohort))
            assert bool(torch.isfinite(features).all())
            assert len(labels_of(rows, cohort.target)) == len(rows)


def test_measurements_of_intensive_care_in_long_form_are_those_of_a_search(tmp_path: Path) -> None:
    long = pd.read_parquet(real_files("physionet2012") / "set-a.parquet")
    stays = sorted(long["RecordID"].unique())[:60]
    long = long[long["RecordID"].isin(stays)].astype({"parameter": str})
    cohort = Cohort.model_validate(
        {
            "name": "care",
            "patient_id": "RecordID",
            "target": {"name": "died", "column": "death", "positive": "== 1"},
            "columns": {
                "stay": {
                    "type": "series",
                    "steps": 48,
                    "step": 60,
                    "channels": {"HR": {"range": [0, 500]}, "Weight": {"range": [0, 500], "missing_codes": [-1]}},
                    "long": {"time": "minute", "parameter": "parameter", "value": "value"},
                }
            },
        }
    )
    long.to_parquet(tmp_path / "long.parquet")
    pd.DataFrame({"RecordID": stays, "death": 0}).to_csv(tmp_path / "stays.csv", index=False)
    records = read_records([tmp_path / "stays.csv", tmp_path / "long.parquet"], cohort, "here")
    found = raw_arrays(records["stay"], cohort.columns["stay"], "stay")
    kept = long[long["parameter"].isin(["HR", "Weight"]) & (long["minute"] < 48 * 60) & (long["value"] >= 0)]
    ordered = kept.sort_values(["minute", "value"]).assign(step=kept["minute"] // 60)
    last = ordered.groupby(["RecordID", "step", "parameter"])["value"].last().unstack()
    full = pd.MultiIndex.from_product([stays, range(48)])
    expected = last.reindex(full)[["HR", "Weight"]].to_numpy(dtype=np.float32).reshape(60, 48, 2)
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found[..., 0]).sum() > 2000

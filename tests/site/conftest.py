"""Hospitals that tests of this room share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from one_hospital import HEART

from fedmed.data.split import SplitOptions
from fedmed.site.home import SiteHome, add_records, partition_records
from fedmed.sources.reading import read_embedded

torch.set_num_threads(1)  # as in tasks.site


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SiteHome]:
    """Two of the embedded hospitals, partitioned; tests add to their outboxes and to nothing else."""
    root = tmp_path_factory.mktemp("sites")
    homes = {name: SiteHome(root / name) for name in ("cleveland", "hungarian")}
    for home in homes.values():
        partition_records(home, HEART, SplitOptions())
    return homes


@pytest.fixture
def home(hospitals: dict[str, SiteHome]) -> SiteHome:
    return hospitals["cleveland"]


@pytest.fixture(scope="session")
def _small(tmp_path_factory: pytest.TempPathFactory) -> SiteHome:
    """The first 60 patients of Cleveland."""
    root = tmp_path_factory.mktemp("small")
    home = SiteHome(root / "cleveland")
    file = root / "rows.csv"
    read_embedded(HEART, "cleveland").drop(columns="patient").head(60).to_csv(file, index=False)
    add_records(home, [file], HEART)
    partition_records(home, HEART, SplitOptions())
    return home


@pytest.fixture
def small(_small: SiteHome, tmp_path: Path) -> SiteHome:
    """A small hospital that has said nothing yet, and is the test's own."""
    shutil.copytree(_small.path, tmp_path / "sites" / "cleveland")
    return SiteHome(tmp_path / "sites" / "cleveland")

"""The real files of the public cohorts: a folder beside the project, or wherever FEDMED_TEST_DATA says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("FEDMED_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def real_files(cohort: str) -> Path:
    """The folder of one cohort; the test is skipped, with that reason, where it is not there."""
    folder = ROOT / cohort
    if not folder.is_dir():
        pytest.skip(f"needs the real files of {cohort} in {folder} (FEDMED_TEST_DATA)")
    return folder

"""The wheel that a hospital installs holds all of FedMed, its data and its templates."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_every_package_is_listed() -> None:
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ("fedmed", "flows", "tasks")
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert listed == found


@pytest.mark.slow
def test_the_wheel_holds_code_data_and_templates(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("fedmed_flows-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for needed in (
            "fedmed/py.typed",
            "fedmed/data/contract.html",
            "fedmed/registry/evaluation.html",
            "fedmed/public/tables/heart_disease/heart_disease.csv",
            "fedmed/public/tables/heart_disease/ATTRIBUTION.md",
            "fedmed/template/params.yaml",
            "fedmed/template/cohorts/heart_disease.yaml",
            "fedmed/template/cohorts/tcga_brca.yaml",
            "fedmed/template/presets/tcga_brca.yaml",
            "flows/federated_training.py",
            "flows/cli/__init__.py",
            "tasks/site.py",
        ):
            assert needed in names
        assert archive.read("fedmed/template/params.yaml") == (ROOT / "params.yaml").read_bytes()
        assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_embedded_table_is_the_known_one() -> None:
    import hashlib

    from fedmed.public.tables.heart_disease.build import SHA256

    table = ROOT / "fedmed" / "public" / "tables" / "heart_disease" / "heart_disease.csv"
    assert hashlib.sha256(table.read_bytes()).hexdigest() == SHA256

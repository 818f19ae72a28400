"""The wheel that a hospital installs holds all of FedMed, its data and its templates."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SLIM = ROOT / "packaging" / "site"
HOSTS = ROOT / "tests" / "support" / "on_hosts_of_their_own.py"


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text())


def name_of(requirement: str) -> str:
    found = re.match(r"[a-z0-9-]+", requirement)
    assert found, requirement
    return found[0]


def test_every_package_is_listed() -> None:
    def found(*packages: str) -> set[str]:
        return {
            ".".join(path.parent.relative_to(ROOT).parts)
            for package in packages
            for path in (ROOT / package).rglob("__init__.py")
        }

    assert set(project(ROOT)["tool"]["setuptools"]["packages"]) == found("fedmed", "flows", "tasks")
    assert set(project(SLIM)["tool"]["setuptools"]["packages"]) == found("fedmed")


def test_the_slim_install_is_the_same_tree_with_fewer_requirements() -> None:
    whole, slim = project(ROOT), project(SLIM)
    assert (SLIM / "fedmed").resolve() == ROOT / "fedmed"
    assert (SLIM / "LICENSE").resolve() == ROOT / "LICENSE"
    asked, fewer = set(whole["project"]["dependencies"]), set(slim["project"]["dependencies"])
    assert fewer <= asked
    assert {name_of(requirement) for requirement in asked - fewer} == {
        "click", "fastapi", "matplotlib", "mlflow", "prefect", "rich", "sqlalchemy",
    }  # fmt: skip
    for key in ("requires-python", "license", "authors", "classifiers", "dynamic"):
        assert slim["project"][key] == whole["project"][key], key
    assert slim["project"]["scripts"].items() <= whole["project"]["scripts"].items()
    for key in ("package-data", "dynamic"):
        assert slim["tool"]["setuptools"][key] == whole["tool"]["setuptools"][key], key


def test_it_says_that_it_is_for_linux() -> None:
    assert "Operating System :: POSIX :: Linux" in project(ROOT)["project"]["classifiers"]


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


def called(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What a command prints, without anything of the present environment on its path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PREFECT_", "MLFLOW_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, "PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def installed(folder: Path, source: Path) -> Path:
    """The programs of an empty virtual environment in which a distribution was installed as README says."""
    venv.create(folder, with_pip=True)
    bin_ = folder / "bin"
    install = ("install", "--quiet", "--no-compile", "-c", ROOT / "constraints.txt", source)
    called(bin_ / "python", "-m", "pip", *install, cwd=folder)
    assert "No broken requirements" in called(bin_ / "python", "-m", "pip", "check", cwd=folder)
    return bin_


@pytest.mark.nightly
@pytest.mark.timeout(1200)
def test_the_whole_install_runs_two_rounds_and_registers_a_model(tmp_path: Path) -> None:
    bin_ = installed(tmp_path / "venv", ROOT)
    assert called(bin_ / "fedmed", "--version", cwd=tmp_path).startswith("fedmed, version")
    called(bin_ / "fedmed", "init", "work", cwd=tmp_path)
    parameters = tmp_path / "work" / "params.yaml"
    content = yaml.safe_load(parameters.read_text())
    content["training"]["rounds"], content["evaluation"]["resamples"] = 2, 100
    parameters.write_text(yaml.safe_dump(content))
    outcome = json.loads(called(bin_ / "fedmed", "--json", "run", cwd=tmp_path / "work"))
    assert outcome["rounds"] == 2
    assert sorted(outcome["test"]) == ["cleveland", "hungarian", "switzerland", "va"]
    (version,) = json.loads(called(bin_ / "fedmed", "--json", "models", cwd=tmp_path / "work"))
    assert "champion" in version["aliases"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hospitals_with_the_slim_install_do_a_whole_run_with_the_same_weights(tmp_path: Path) -> None:
    bin_ = installed(tmp_path / "venv", SLIM)
    told = json.loads(called(bin_ / "python", HOSTS, tmp_path / "slim", bin_ / "fedmed-site", cwd=tmp_path))
    assert told["installed"] == []  # neither Prefect, MLflow, FastAPI nor matplotlib
    assert told["fedmed"].startswith(str(tmp_path / "venv"))
    assert told["not_importable"] == ["fedmed.serving.mlflow_model"]  # the file that MLflow itself runs
    assert told["simulated"] == pytest.approx(0.5, abs=1e-6)
    both = ["cleveland", "va"]
    assert told["admitted"] == told["evaluated"] == both
    assert min(told["expectations"].values()) > 20
    assert told["participants"] == told["scored"] == [both, both]
    assert told["failed"] == {}
    assert told["codes"] == [0, 0]  # the agents ended when they were told to
    here = (sys.executable, HOSTS, tmp_path / "here", sys.executable, "-m", "fedmed.site.cli")
    assert json.loads(called(*here, cwd=tmp_path, PYTHONPATH=str(ROOT)))["weights"] == told["weights"]

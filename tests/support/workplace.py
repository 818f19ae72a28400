"""A workspace on which the real command line, Prefect, MLflow, GX and DVC run."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import yaml

BIN = Path(sys.executable).parent
SITES = ("cleveland", "hungarian", "switzerland", "va")


class Workplace(NamedTuple):
    """A workspace, and how its commands are called."""

    root: Path

    def call(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "DVC_"))
        }
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=self.root,
            env={**clean, "PATH": f"{BIN}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def fedmed(self, *arguments: str) -> Any:
        return json.loads(self.call("fedmed", "--json", *arguments).stdout)

    def parameters(self, **changes: Any) -> None:
        path = self.root / "params.yaml"
        content = yaml.safe_load(path.read_text())
        for dotted, value in changes.items():
            place, *rest = dotted.split("__")
            if rest:
                content[place][rest[0]] = value
            else:
                content[place] = value
        path.write_text(yaml.safe_dump(content))

    def copy(self, target: Path) -> Workplace:
        shutil.copytree(self.root, target, symlinks=True)
        return Workplace(target)


def embedded_rows(site: str) -> list[dict[str, str]]:
    table = resources.files("fedmed.public.tables.heart_disease").joinpath("heart_disease.csv").read_text()
    return [row for row in csv.DictReader(table.splitlines()) if row["centre"] == site]


def write_rows(path: Path, rows: Sequence[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path

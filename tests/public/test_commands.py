"""Public cohorts at the command line: listed, fetched, added to every hospital's vault, run."""

from __future__ import annotations

import functools
import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from public_data import ROOT, real_files
from workplace import Workplace

from fedmed.public.records import PUBLIC_COHORTS
from fedmed.site.home import SiteHome
from fedmed.workspace import Workspace
from flows.cli.workspaces import workspace_of

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture
def mirror() -> Iterator[str]:
    """A web server on this machine with the real files."""
    real_files("tcga_brca")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(ROOT))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def rows_in_vaults(root: Path) -> dict[str, int]:
    homes = [SiteHome(root / "sites" / site) for site in Workspace(root).settings.federation.sites]
    return {home.name: len(home.vault().read(home.records)) for home in homes}


def call(place: Workplace, *command: str, **environment: str) -> Any:
    done = place.call("fedmed", "--json", *command, **{"FEDMED_DATA": str(place.root / "cache"), **environment})
    return json.loads(done.stdout[done.stdout.index("{" if "{" in done.stdout else "[") :])


def test_the_list_says_licence_hospitals_rows_and_what_is_here(place):
    done = place.call("fedmed", "data", "list", FEDMED_DATA=str(place.root))
    line = next(line for line in done.stdout.splitlines() if "physionet2012" in line)
    assert line.split() == ["physionet2012", "ODC-By", "1.0", "4", "4,000", "not", "fetched"]
    assert "ships with FedMed" in done.stdout


def test_a_cohort_is_fetched_outside_a_workspace_and_added_in_one(place, mirror):
    told = call(place, "data", "fetch", "tcga_brca", "--mirror", mirror)
    assert told["rows"] == PUBLIC_COHORTS["tcga_brca"].sites
    call(place, "init", "brca", "--cohort", "tcga_brca")
    call(place, "-C", "brca", "data", "add", "tcga_brca")
    assert rows_in_vaults(place.root / "brca") == PUBLIC_COHORTS["tcga_brca"].sites


def test_fetching_in_a_workspace_of_the_cohort_fills_its_vaults(place, mirror):
    call(place, "init", "--cohort", "tcga_brca")
    told = call(place, "data", "fetch", "tcga_brca", FEDMED_SOURCE_MIRROR=mirror)
    assert told == {"cohort": "tcga_brca", "rows": PUBLIC_COHORTS["tcga_brca"].sites}
    assert rows_in_vaults(place.root) == PUBLIC_COHORTS["tcga_brca"].sites


@pytest.mark.parametrize("name", [name for name, source in PUBLIC_COHORTS.items() if not source.embedded])
def test_a_local_copy_is_added_and_every_hospital_can_be_admitted(place, name):
    folder = real_files(name)
    call(place, "init", "--cohort", name)
    call(place, "data", "add", name, "--from", str(folder))
    assert rows_in_vaults(place.root) == PUBLIC_COHORTS[name].sites
    smallest = min(PUBLIC_COHORTS[name].sites, key=PUBLIC_COHORTS[name].sites.__getitem__)
    verdict = call(place, "data", "check", "--site", smallest)
    assert verdict["admitted"]


def test_a_cohort_is_not_added_to_a_workspace_of_another(place):
    call(place, "init")
    done = place.call("fedmed", "data", "add", "tcga_brca", check=False)
    assert done.returncode == 2
    assert "this one is of heart_disease" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rows.csv",), "expected one public cohort"),
        (("tcga_brca", "eicu_demo"), "expected one public cohort"),
        (("--site", "va", "--from", ".", "rows.csv"), "--from is for a public cohort"),
    ],
)
def test_what_is_added_must_be_clear(place, arguments, says):
    call(place, "init")
    done = place.call("fedmed", "data", "add", *arguments, check=False)
    assert done.returncode == 2
    assert says in done.stderr


def test_a_host_that_cannot_be_reached_ends_with_its_own_code(place):
    done = place.call(
        "fedmed",
        "data",
        "fetch",
        "eicu_demo",
        "--mirror",
        "http://127.0.0.1:9",
        check=False,
        FEDMED_DATA=str(place.root),
    )
    assert done.returncode == 10
    assert "cannot be reached" in done.stderr


def test_another_folder_in_the_place_of_the_workspace_is_left_alone(place):
    (place.root / "tcga_brca").mkdir()
    (place.root / "tcga_brca" / "notes.txt").write_text("mine")
    done = place.call("fedmed", "run", "--cohort", "tcga_brca", check=False)
    assert done.returncode == 2
    assert "or nothing, to make one" in done.stderr
    assert [path.name for path in (place.root / "tcga_brca").iterdir()] == ["notes.txt"]


def test_one_command_runs_a_cohort_in_a_workspace_that_git_ignores(place):
    subprocess.run(["git", "init", "-q"], cwd=place.root, check=True)
    folder, _ = workspace_of(place.root, "heart_disease")
    inside = Workplace(folder)
    inside.parameters(training__rounds=2, evaluation__resamples=100)
    call(place, "run", "--cohort", "heart_disease")
    again = call(place, "run", "--cohort", "heart_disease")
    assert again["ran"] == []
    assert (
        "heart_disease"
        not in subprocess.run(
            ["git", "status", "--porcelain"], cwd=place.root, check=True, capture_output=True, text=True
        ).stdout
    )

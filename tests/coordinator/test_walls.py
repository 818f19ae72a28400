"""The coordinator in a process of its own, and every hospital in another: who opens whose files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedmed.data.cohort import read_cohort
from fedmed.data.split import SplitOptions
from fedmed.site.home import SiteHome, partition_records

ROOT = Path(__file__).parents[2]
SITES = ("cleveland", "hungarian", "va")

COORDINATOR = """
import json, sys
from pathlib import Path
place, sites = Path(sys.argv[1]), sys.argv[2].split(",")
opened = set()
sys.addaudithook(lambda event, args: opened.add(str(args[0])) if event in ("open", "os.listdir", "os.scandir") else None)
from fedmed.coordinator.admission import Admissions, ask_to_validate
from fedmed.coordinator.asking import ask_all, waiting
from fedmed.coordinator.home import CoordinatorHome
from fedmed.coordinator.plan import ask_for_statistics, make_plan
from fedmed.coordinator.training import keep_plan, rounds_of
from fedmed.data.cohort import read_cohort
from fedmed.data.partition import PartitionReceipt
from fedmed.exchange.folder import FolderExchange
from fedmed.settings import Settings
from fedmed.wire.messages import Admission, Statistics
cohort = read_cohort(Path(sys.argv[3]))
settings = Settings.model_validate({"cohort": "c", "federation": {"sites": sites}, "training": {"rounds": 2}})
exchange, home = FolderExchange(place / "exchange"), CoordinatorHome(place / "coordinator")
call = waiting(exchange, within=120.0, pause=0.05)
receipts = {site: PartitionReceipt.model_validate_json((place / f"{site}.json").read_bytes()) for site in sites}
questions = ask_to_validate(settings, receipts)
admissions = Admissions.gather(questions, ask_all(exchange, call, questions, Admission))
asked = ask_all(exchange, call, ask_for_statistics("run", admissions, settings), Statistics)
plan, begin = make_plan("run", 1, settings, cohort, admissions, asked, exchange)
run = keep_plan(home, plan, begin, settings.privacy.minimum_cell)
records = list(rounds_of(run, exchange, call, quorum=3))
print(json.dumps({"rounds": [list(record.participants) for record in records], "opened": sorted(opened)}))
"""
HOSPITAL = """
import sys
from pathlib import Path
from fedmed.exchange.folder import FolderExchange
from fedmed.site.agent import serve
from fedmed.site.home import SiteHome
serve(SiteHome(Path(sys.argv[1])), FolderExchange(Path(sys.argv[2])), until=lambda: False, pause=0.05)
"""


@pytest.mark.slow
def test_the_coordinator_opens_no_file_of_a_hospital(tmp_path: Path) -> None:
    declaration = ROOT / "cohorts" / "heart_disease.yaml"
    homes = {site: SiteHome(tmp_path / "sites" / site) for site in SITES}
    for site, home in homes.items():
        receipt, _ = partition_records(home, read_cohort(declaration), SplitOptions())
        (tmp_path / f"{site}.json").write_text(receipt.model_dump_json())
    exchange = str(tmp_path / "exchange")
    agents = [subprocess.Popen([sys.executable, "-c", HOSPITAL, str(home.path), exchange]) for home in homes.values()]
    try:
        command = [sys.executable, "-c", COORDINATOR, str(tmp_path), ",".join(SITES), str(declaration)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["rounds"] == [list(SITES)] * 2
    assert [path for path in told["opened"] if path.startswith(str(tmp_path / "coordinator"))]  # the watch can see
    assert [path for path in told["opened"] if path.startswith(str(tmp_path / "sites"))] == []

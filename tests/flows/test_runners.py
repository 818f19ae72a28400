"""Prefect's tasks are one runner among others: for every strategy they come to the bytes that agents come to alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from workplace import Workplace

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
from pathlib import Path
root = Path(sys.argv[1])
sys.path.insert(0, sys.argv[2])
from flows.environment import prefect_environment
with prefect_environment(root):
    from prefect import flow
    from plain import agents
    from fedmed.coordinator.asking import ask_all
    from fedmed.coordinator.home import CoordinatorHome
    from fedmed.coordinator.plan import ask_for_statistics, make_plan
    from fedmed.coordinator.runs import read_admissions
    from fedmed.coordinator.training import keep_plan, rounds_of
    from fedmed.exchange.memory import MemoryExchange
    from fedmed.strategies.table import STRATEGIES
    from fedmed.wire.messages import Statistics
    from fedmed.workspace import Workspace
    from flows.asking import SITES, tasks_of_sites
    from flows.federated_training import partition_every_site, validate_every_site
    from tasks import coordinator

    def last_model(place, settings, attempt, exchange, call, step):
        admissions = read_admissions(place.coordinator)
        name = f"run-{settings.aggregation.strategy}"
        asked = ask_all(exchange, call, ask_for_statistics(name, admissions, settings, attempt), Statistics)
        plan, begin = make_plan(name, attempt, settings, place.cohort, admissions, asked, exchange)
        run = keep_plan(CoordinatorHome(root / f"kept-{attempt}"), plan, begin, settings.privacy.minimum_cell)
        records = list(rounds_of(run, exchange, call, **step, quorum=4))
        return [len(records), records[-1].model.sha256, run.states.record(len(records)).memory is not None]

    @flow(task_runner=SITES)
    def contract():
        place, told = Workspace(root), {}
        partition_every_site(place, place.settings.federation.sites)
        validate_every_site(place)
        homes = {site: place.home(site) for site in place.settings.federation.sites}
        for strategy in STRATEGIES:
            options = place.settings.aggregation.model_copy(update={"strategy": strategy})
            settings = place.settings.model_copy(update={"aggregation": options})
            memory = MemoryExchange()
            alone = last_model(place, settings, 1, memory, agents(homes, memory), {})
            tasks = last_model(place, settings, 2, place.exchange(), tasks_of_sites(place), {"step": coordinator.step})
            told[strategy] = [alone, tasks]
        return told

    print(json.dumps(contract()))
"""


def test_prefects_tasks_come_to_the_same_bytes_as_agents_alone(new_workspace: Callable[..., Workplace]) -> None:
    place = new_workspace(training__rounds=2)
    script = place.root.parent / "script.py"
    script.write_text(SCRIPT)
    done = place.call("python", str(script), str(place.root), str(Path(__file__).parents[2] / "benchmarks"))
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told) == 16
    assert {strategy: alone for strategy, (alone, _) in told.items()} == {
        strategy: tasks for strategy, (_, tasks) in told.items()
    }
    assert len({alone[1] for alone, _ in told.values()}) > 10  # strategies differ, so that the comparison can fail

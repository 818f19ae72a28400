"""The same federation without Prefect: the same coordinator and agents, called one after the other or in threads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from fedmed.coordinator.admission import Admissions, ask_to_validate
from fedmed.coordinator.asking import Call, Called, Posted, ask_all
from fedmed.coordinator.home import CoordinatorHome
from fedmed.coordinator.plan import ask_for_statistics, make_plan
from fedmed.coordinator.training import Run, keep_plan
from fedmed.data.cohort import Cohort
from fedmed.errors import FedMedError
from fedmed.exchange.base import Exchange
from fedmed.settings import Settings
from fedmed.site.agent import step
from fedmed.site.home import SiteHome, partition_records
from fedmed.wire.messages import Admission, Statistics


def agents(homes: Mapping[str, SiteHome], exchange: Exchange, workers: int = 1) -> Call:
    """A way to have questions answered: one step of each hospital's agent, `workers` side by side."""

    def one(question: Posted) -> Called:
        try:
            step(homes[question.site], exchange, question.run, question.name)
        except FedMedError as problem:
            return Called(question, str(problem))
        return Called(question)

    def call(posted: Sequence[Posted]) -> Iterator[Called]:
        if workers == 1:
            yield from map(one, posted)
            return
        with ThreadPoolExecutor(workers) as pool:
            for future in as_completed([pool.submit(one, question) for question in posted]):
                yield future.result()

    return call


def prepare(
    homes: Mapping[str, SiteHome],
    settings: Settings,
    cohort: Cohort,
    exchange: Exchange,
    run: str,
    folder: Path,
) -> tuple[Run, Admissions]:
    """Partition, validate and agree on a plan, which the coordinator keeps in a folder."""
    call = agents(homes, exchange)
    receipts = {site: partition_records(home, cohort, settings.split)[0] for site, home in homes.items()}
    questions = ask_to_validate(settings, receipts)
    admissions = Admissions.gather(questions, ask_all(exchange, call, questions, Admission))
    asked = ask_all(exchange, call, ask_for_statistics(run, admissions, settings), Statistics)
    plan, begin = make_plan(run, 1, settings, cohort, admissions, asked, exchange)
    return keep_plan(CoordinatorHome(folder), plan, begin, settings.privacy.minimum_cell), admissions


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

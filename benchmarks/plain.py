"""The same federation without Prefect: a loop over the same messages. Baseline of one benchmark, engine of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fedmed.coordinator.admission import Admissions, invite_to_validate
from fedmed.coordinator.plan import invite_to_statistics, make_plan
from fedmed.coordinator.rounds import RoundRecord, aggregate_round, invite, model_of, record_round
from fedmed.data.cohort import Cohort
from fedmed.exchange.base import Exchange
from fedmed.settings import Settings
from fedmed.site.answers import answer
from fedmed.site.home import SiteHome, partition_records
from fedmed.wire.messages import Invitation, Plan


def ask(homes: Mapping[str, SiteHome], invitations: Sequence[Invitation], exchange: Exchange, workers: int = 1) -> None:
    """Let every hospital answer, `workers` side by side."""
    for invitation in invitations:
        exchange.post(invitation)
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda invitation: answer(homes[invitation.recipient], invitation, exchange), invitations))


def prepare(
    homes: Mapping[str, SiteHome], settings: Settings, cohort: Cohort, exchange: Exchange, run: str
) -> tuple[Plan, Admissions]:
    """Partition, validate and agree on a plan."""
    receipts = {site: partition_records(home, cohort, settings.split)[0] for site, home in homes.items()}
    invitations = invite_to_validate(settings, receipts)
    ask(homes, invitations, exchange)
    admissions = Admissions.gather(invitations[0].run, list(homes), {}, exchange)
    ask(homes, invite_to_statistics(run, admissions, settings), exchange)
    return make_plan(run, settings, cohort, admissions, admissions.admitted, exchange), admissions


def one_round(
    homes: Mapping[str, SiteHome], plan: Plan, number: int, exchange: Exchange, cell: int, workers: int = 1
) -> RoundRecord:
    """Train, aggregate, evaluate."""
    base = model_of(plan.run, number - 1, exchange)
    ask(homes, invite(plan, number, "train", {"federated": base.payload}, cell), exchange, workers)
    model, refused = aggregate_round(plan, number, plan.participants, exchange)
    ask(homes, invite(plan, number, "evaluate", {"federated": model.payload}, cell), exchange, workers)
    return record_round(plan, number, refused, exchange)


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

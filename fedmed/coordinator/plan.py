"""Agree on a run: its name, its plan and its first model. From then on nothing of it changes."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from torch import Tensor

from fedmed.aggregation.fixed_point import FixedPoint
from fedmed.aggregation.statistics import plausible, pool_statistics
from fedmed.aggregation.strategies import STRATEGIES
from fedmed.coordinator.admission import Admissions, check_quorum, code_digest, digest_of
from fedmed.data.cohort import Cohort
from fedmed.errors import ExchangeError, MessageRefused, QuorumNotMet, SettingsError
from fedmed.exchange.base import Exchange, fetch, reference
from fedmed.exchange.messages import COORDINATOR, EVERYONE, Address, GlobalModel, Invitation, Plan, Statistics
from fedmed.models.networks import initial_weights, network_for
from fedmed.seeds import torch_generator
from fedmed.settings import Settings
from fedmed.weights import Layout, from_bytes, to_bytes

COARSEST = 10
"""Updates on a grid with steps wider than 2**-10 would be rounded away."""


def run_id(settings: Settings, cohort: Cohort, admissions: Admissions) -> str:
    """The name of a run: a digest of all that decides its weights (parameters, partitions, declaration, code)."""
    parameters = settings.model_dump(include={"split", "privacy", "model", "training", "aggregation", "personal"})
    partitions = {site: admissions.sites[site].fingerprint for site in admissions.admitted}
    return digest_of(parameters, partitions, cohort.digest, code_digest())[:12]


def invite_to_statistics(run: str, admissions: Admissions, settings: Settings) -> list[Invitation]:
    """Ask the admitted hospitals for the sums from which means and deviations over all of them follow."""
    return [
        Invitation(
            run=run,
            recipient=site,
            purpose="statistics",
            minimum_cell=settings.privacy.minimum_cell,
            fingerprint=admissions.fingerprint(site),
        )
        for site in admissions.admitted
    ]


def make_plan(
    run: str, settings: Settings, cohort: Cohort, admissions: Admissions, answered: Iterable[str], exchange: Exchange
) -> Plan:
    """Post the plan of a run, and the weights that it starts from; a run that was cut short keeps the plan it had.

    Args:
        run: its name.
        settings: the public parameters.
        cohort: the declaration.
        admissions: for the hospitals' training rows, the weights of their updates.
        answered: the hospitals that sent their statistics.
        exchange: where those are, and where the plan goes.
    """
    earlier = exchange.find(Address(run, 0, "plan", COORDINATOR, EVERYONE))
    participants = earlier.participants if isinstance(earlier, Plan) else tuple(sorted(answered))
    sums = {}
    for site in participants:
        with suppress(ExchangeError):  # what a hospital sent cannot be used: it takes no part
            sums[site] = _sums(run, site, cohort, exchange)
    participants = tuple(sums)
    absent = {site: "its statistics could not be used" for site in admissions.admitted if site not in sums}
    check_quorum(len(participants), settings.federation.quorum, "the plan has", absent)
    weights = _weights(settings, admissions, participants)
    plan = Plan(
        run=run,
        participants=participants,
        weights=weights,
        fingerprints={site: admissions.fingerprint(site) for site in participants},
        cohort=cohort,
        statistics=pool_statistics(list(sums.values()), cohort),
        network=settings.model,
        training=settings.training,
        aggregation=settings.aggregation,
        personal=settings.personal,
        grid=FixedPoint(
            bits=settings.aggregation.bits,
            limit=settings.aggregation.limit,
            weight=sum(weights.values()),
        ),
    )
    if plan.grid.exponent < COARSEST:
        raise SettingsError(
            f"parameters: with aggregation.limit {plan.grid.limit:g} and {plan.grid.bits} bits, a weight could change"
            f" by no less than 2**{-plan.grid.exponent}; choose a smaller limit or 64 bits"
        )
    if isinstance(earlier, Plan) and earlier != plan:
        raise MessageRefused(
            f"run {run}: the plan in the exchange is not the one that these parameters and hospitals give; start over"
            " with `fedmed run --force`"
        )
    network = network_for(cohort, plan.network)
    start = to_bytes(initial_weights(network, torch_generator(plan.training.seed, "start")))
    exchange.post(GlobalModel(run=run, payload=reference(start)), start)
    exchange.post(plan)  # last: where there is a plan, there is a model to start from
    return plan


def _weights(settings: Settings, admissions: Admissions, participants: Iterable[str]) -> dict[str, int]:
    weigh = STRATEGIES[settings.aggregation.strategy]
    weights = {}
    for site in participants:
        rows = admissions.sites[site].rows.get("train")
        if rows is None:
            raise QuorumNotMet(
                f"{site}: too few training rows to tell how many; it cannot be weighed and takes no part"
            )
        weights[site] = weigh(rows)
    return weights


def _sums(run: str, site: str, cohort: Cohort, exchange: Exchange) -> Tensor:
    message = fetch(exchange, Address(run, 0, "statistics", site, COORDINATOR), Statistics)
    expected = {"sums": Layout("I64", (3 * len(cohort.numbers()),))}
    sums = from_bytes(exchange.payload(message.payload), expected)["sums"]
    if not plausible(sums):
        raise MessageRefused(f"{site}: its sums are not those of any table within the declared ranges")
    return sums

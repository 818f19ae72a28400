"""Agree on a run: its name, its plan and its first model. From then on nothing of it changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress

from torch import Tensor, nn

from fedmed.aggregation.codec import travelling
from fedmed.aggregation.grid import FixedPoint
from fedmed.aggregation.statistics import plausible, pool_statistics
from fedmed.coordinator.admission import Admissions, check_quorum, code_digest, digest_of, invite_sites
from fedmed.data.cohort import Cohort
from fedmed.errors import ExchangeError, MessageRefused, QuorumNotMet, SettingsError
from fedmed.exchange.base import Exchange, fetch, reference
from fedmed.models.bundle import ModelBundle
from fedmed.models.encoding import scaled_inputs
from fedmed.models.imported import source_digest
from fedmed.models.networks import initial_weights, network_for
from fedmed.models.parts import parts_of
from fedmed.seeds import torch_generator
from fedmed.settings import Settings
from fedmed.strategies.base import Memory, Strategy
from fedmed.strategies.robust import capped
from fedmed.strategies.table import STRATEGIES
from fedmed.training.losses import loss_for
from fedmed.training.personal import fine_tuned
from fedmed.weights import Layout, Weights, from_bytes, sha256, to_bytes
from fedmed.wire.messages import (
    COORDINATOR,
    EVERYONE,
    Address,
    GlobalModel,
    Invitation,
    Plan,
    ServerMemory,
    Statistics,
)

COARSEST = 10
"""Updates on a grid with steps wider than 2**-10 would be rounded away."""


def run_id(settings: Settings, cohort: Cohort, admissions: Admissions, start: ModelBundle | None = None) -> str:
    """The name of a run: a digest of all that decides its weights: parameters, partitions, start, declaration, code."""
    parameters = settings.model_dump(include={"split", "privacy", "network", "training", "aggregation", "personal"})
    partitions = {site: admissions.sites[site].fingerprint for site in admissions.admitted}
    begin = start.description.weights if start else ""
    own_code = source_digest(settings.network.name) if settings.network.imported else ""
    return digest_of(parameters, partitions, cohort.digest, code_digest(), own_code, begin)[:12]


def invite_to_statistics(run: str, admissions: Admissions, settings: Settings) -> list[Invitation]:
    """Ask the admitted hospitals for the sums from which means and deviations over all of them follow."""
    return invite_sites(run, "statistics", admissions.fingerprints, settings)


def make_plan(
    run: str,
    settings: Settings,
    cohort: Cohort,
    admissions: Admissions,
    answered: Iterable[str],
    exchange: Exchange,
    start: ModelBundle | None = None,
) -> Plan:
    """Post the plan of a run, and the weights that it starts from; a run that was cut short keeps the plan it had.

    Args:
        run: its name.
        settings: the public parameters.
        cohort: the declaration.
        admissions: for the hospitals' training rows, the weights of their updates.
        answered: the hospitals that sent their statistics.
        exchange: where those are, and where the plan goes.
        start: the model to go on from, with the input statistics that belong to it; None for random weights.
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
    strategy = STRATEGIES[settings.aggregation.strategy]
    weights = _weights(settings, strategy, admissions, participants)
    _check_schedule(settings, strategy, participants)
    network = network_for(cohort, settings.network)
    # What hospitals would stumble over in their first round is said before it.
    loss_for(cohort.target, settings.network, settings.training.loss)
    fine_tuned(network, settings.personal)
    begin = start.weights if start else initial_weights(network, torch_generator(settings.training.seed, "start"))
    first = to_bytes(begin)
    plan = Plan(
        run=run,
        participants=participants,
        weights=weights,
        fingerprints={site: admissions.fingerprint(site) for site in participants},
        cohort=cohort,
        statistics=start.description.statistics if start else pool_statistics(list(sums.values()), cohort),
        network=settings.network,
        training=settings.training,
        aggregation=settings.aggregation,
        personal=settings.personal,
        grid=FixedPoint(
            bits=settings.aggregation.bits,
            limit=settings.aggregation.limit,
            weight=sum(weights.values()),
        ),
        start=sha256(first),
        validation_rows={
            site: rows for site in participants if (rows := admissions.sites[site].rows.get("validation")) is not None
        },
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
    _post_memory(run, network, begin, settings, exchange)
    exchange.post(GlobalModel(run=run, payload=reference(first)), first)
    exchange.post(plan)  # last: where there is a plan, there is a model to start from
    return plan


def post_memory(
    run: str, number: int, memory: Memory, strategy: Strategy, exchange: Exchange, participants: tuple[str, ...] = ()
) -> None:
    """Post what the strategy keeps after a round, if it keeps anything; to hospitals only if they need it."""
    if memory:
        data = to_bytes(memory)
        message = ServerMemory(
            run=run,
            round=number,
            recipient=EVERYONE if strategy.shares_memory else COORDINATOR,
            participants=participants,
            payload=reference(data),
        )
        exchange.post(message, data)


def _post_memory(run: str, network: nn.Module, begin: Weights, settings: Settings, exchange: Exchange) -> None:
    strategy = STRATEGIES[settings.aggregation.strategy]
    parts = parts_of(
        network,
        personal=settings.personal.layers,
        frozen=settings.training.frozen,
        keep_normalisation=strategy.keeps_normalisation,
    )
    memory = strategy.init(travelling(begin, parts)[0], settings.aggregation)
    post_memory(run, 0, memory, strategy, exchange)


def _check_schedule(settings: Settings, strategy: Strategy, participants: Sequence[str]) -> None:
    """Whether every round has its hospitals: a recorded order of arrival may be too short."""
    last = strategy.rounds(settings.training.rounds)
    try:
        strategy.schedule(participants, last, settings.training.seed, settings.aggregation)
    except ValueError as problem:
        raise SettingsError(f"parameters: {problem}") from None


def _weights(
    settings: Settings, strategy: Strategy, admissions: Admissions, participants: Iterable[str]
) -> dict[str, int]:
    weights = {}
    for site in participants:
        rows = admissions.sites[site].rows.get("train")
        if rows is None:
            raise QuorumNotMet(
                f"{site}: too few training rows to tell how many; it cannot be weighed and takes no part"
            )
        weights[site] = strategy.weigh(rows)
    try:
        return capped(weights, settings.aggregation.largest_share)
    except ValueError as problem:
        raise SettingsError(f"parameters: {problem}") from None


def _sums(run: str, site: str, cohort: Cohort, exchange: Exchange) -> Tensor:
    message = fetch(exchange, Address(run, 0, "statistics", site, COORDINATOR), Statistics)
    expected = {"sums": Layout("I64", (3 * len(scaled_inputs(cohort)),))}
    sums = from_bytes(exchange.payload(message.payload), expected)["sums"]
    if not plausible(sums):
        raise MessageRefused(f"{site}: its sums are not those of any table within the declared ranges")
    return sums

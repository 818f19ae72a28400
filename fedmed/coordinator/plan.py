"""Agree on a run: its name, its plan and its first model. From then on nothing of it changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from fedmed.aggregation.grid import FixedPoint
from fedmed.aggregation.statistics import plausible, pool_statistics
from fedmed.coordinator.admission import Admissions, code_digest, digest_of, questions_to
from fedmed.coordinator.asking import Asked
from fedmed.data.cohort import Cohort
from fedmed.engine.loop import check_quorum
from fedmed.errors import ExchangeError, MessageRefused, QuorumNotMet, SettingsError
from fedmed.exchange.base import Exchange
from fedmed.gates import Gate, Verdict, fails, fails_if, need
from fedmed.models.bundle import ModelBundle
from fedmed.models.encoding import scaled_inputs
from fedmed.models.imported import source_digest
from fedmed.models.networks import initial_weights, network_for
from fedmed.seeds import torch_generator
from fedmed.settings import Settings
from fedmed.strategies.base import Strategy
from fedmed.strategies.robust import capped
from fedmed.strategies.table import STRATEGIES
from fedmed.training.losses import loss_for
from fedmed.training.personal import fine_tuned
from fedmed.weights import Layout, Weights, from_bytes, sha256, to_bytes
from fedmed.wire.messages import Plan, Question, Statistics
from fedmed.wire.post import payload_of

COARSEST = 10
"""Updates on a grid with steps wider than 2**-10 would be rounded away."""
DECIDES = {"split", "privacy", "network", "training", "aggregation", "personal"}
"""The sections of the parameters that decide a run's weights."""


def run_id(settings: Settings, cohort: Cohort, admissions: Admissions, start: ModelBundle | None = None) -> str:
    """The name of a run: a digest of all that decides its weights: parameters, partitions, start, declaration, code."""
    parameters = settings.model_dump(include=DECIDES)
    partitions = {site: admissions.sites[site].fingerprint for site in admissions.admitted}
    begin = start.description.weights if start else ""
    own_code = source_digest(settings.network.name) if settings.network.imported else ""
    return digest_of(parameters, partitions, cohort.digest, code_digest(), own_code, begin)[:12]


def ask_for_statistics(run: str, admissions: Admissions, settings: Settings, attempt: int = 1) -> list[Question]:
    """Ask the admitted hospitals for the sums from which means and deviations over all of them follow."""
    return questions_to(run, "statistics", admissions.fingerprints, settings, attempt)


def make_plan(
    run: str,
    attempt: int,
    settings: Settings,
    cohort: Cohort,
    admissions: Admissions,
    asked: Asked,
    exchange: Exchange,
    start: ModelBundle | None = None,
) -> tuple[Plan, Weights]:
    """The plan of a run, and the weights that it starts from.

    Args:
        run: its name.
        attempt: that in which it is begun.
        settings: the public parameters.
        cohort: the declaration.
        admissions: for the hospitals' training rows, the weights of their updates.
        asked: what came of the question for statistics.
        exchange: where their payloads are.
        start: the model to go on from, with the input statistics that belong to it; None for random weights.

    Raises:
        QuorumNotMet: if too few hospitals sent statistics that can be used.
        SettingsError: if the parameters contradict each other, or cannot be carried out.
    """
    sums, absent = _sums(asked, admissions, cohort, exchange)
    check_quorum(sorted(sums), settings.federation.quorum, "the plan has", absent)
    strategy = STRATEGIES[settings.aggregation.strategy]
    rows = _rows(admissions, sums)
    weights = _weights(settings, strategy, rows)
    network = network_for(cohort, settings.network)
    begin = start.weights if start else initial_weights(network, torch_generator(settings.training.seed, "start"))
    plan = Plan(
        run=run,
        attempt=attempt,
        participants=tuple(sums),
        rows=rows,
        weights=weights,
        fingerprints={site: admissions.fingerprint(site) for site in sums},
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
        start=sha256(to_bytes(begin)),
        validation_rows={
            site: told for site in sums if (told := admissions.sites[site].rows.get("validation")) is not None
        },
    )
    # What hospitals would stumble over in their first round is said before it.
    loss_for(cohort.target, settings.network, settings.training.loss)
    fine_tuned(network, settings.personal)
    need(PLAN, plan, lambda reasons: SettingsError(f"parameters: {reasons}"))
    return plan, begin


def check_plan(plan: Plan, settings: Settings, cohort: Cohort) -> None:
    """Whether a plan that was agreed before is the one that the parameters give now.

    Raises:
        MessageRefused: if it is not.
    """
    ours = {key: getattr(settings, key) for key in ("network", "training", "aggregation", "personal")}
    if cohort.digest != plan.cohort.digest or any(getattr(plan, key) != value for key, value in ours.items()):
        raise MessageRefused(
            f"run {plan.run}: the plan that was kept is not the one that these parameters and hospitals give; start"
            " over with `fedmed run --force`"
        )


def _fine_enough(plan: Plan) -> Verdict:
    return fails_if(
        plan.grid.exponent < COARSEST,
        f"with aggregation.limit {plan.grid.limit:g} and {plan.grid.bits} bits, a weight could change by no less than"
        f" 2**{-plan.grid.exponent}; choose a smaller limit or 64 bits",
    )


def _has_turns(plan: Plan) -> Verdict:
    """Whether every round has its hospitals: a recorded order of arrival may be too short."""
    how = plan.algorithm
    try:
        how.turns(how.rounds)
    except ValueError as problem:
        return fails(str(problem))
    return Verdict("passes")


def _stages_fit(plan: Plan) -> Verdict:
    """Whether the coordinator can see as much as the rule and the strategy need."""
    how = plan.algorithm
    needs_each = plan.aggregation.combine != "mean" or how.strategy.schedule is STRATEGIES["fedbuff"].schedule
    return fails_if(
        needs_each and not how.sees_each,
        f"aggregation.combine {plan.aggregation.combine} with {plan.aggregation.strategy} looks at every hospital's"
        f" update, which the stages {', '.join(plan.aggregation.stages)} hide; choose the mean, or other stages",
    )


PLAN: dict[str, Gate[Plan]] = {"grid": _fine_enough, "schedule": _has_turns, "stages": _stages_fit}


def _rows(admissions: Admissions, sites: Iterable[str]) -> dict[str, int]:
    rows = {}
    for site in sites:
        told = admissions.sites[site].rows.get("train")
        if told is None:
            raise QuorumNotMet(
                f"{site}: too few training rows to tell how many; it cannot be weighed and takes no part"
            )
        rows[site] = told
    return rows


def _weights(settings: Settings, strategy: Strategy, rows: Mapping[str, int]) -> dict[str, int]:
    try:
        weights = {site: strategy.weigh(count) for site, count in rows.items()}
        return capped(weights, settings.aggregation.largest_share)
    except ValueError as problem:
        raise SettingsError(f"parameters: {problem}") from None


def _sums(
    asked: Asked, admissions: Admissions, cohort: Cohort, exchange: Exchange
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Hospital → its sums, where they can be used, and why the others take no part."""
    sums: dict[str, Tensor] = {}
    absent = {site: asked.failed.get(site, "its statistics could not be used") for site in admissions.admitted}
    for site, message in asked.answers.items():
        try:
            sums[site] = _checked(message, cohort, exchange)
        except ExchangeError:  # what a hospital sent cannot be used: it takes no part
            continue
        del absent[site]
    return sums, absent


def _checked(message: Statistics, cohort: Cohort, exchange: Exchange) -> Tensor:
    expected = {"sums": Layout("I64", (3 * len(scaled_inputs(cohort)),))}
    sums = from_bytes(payload_of(exchange, message.payload), expected)["sums"]
    if not plausible(sums):
        raise MessageRefused(f"{message.sender}: its sums are not those of any table within the declared ranges")
    return sums

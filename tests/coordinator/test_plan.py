"""Which run it is, what is agreed on before it, and where it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from small_run import RAW, SITES, SMALL, START, plan_of

from fedmed.aggregation.statistics import column_sums
from fedmed.coordinator.admission import Admissions
from fedmed.coordinator.asking import SILENT, Asked
from fedmed.coordinator.home import CoordinatorHome
from fedmed.coordinator.plan import ask_for_statistics, check_plan, make_plan, run_id
from fedmed.coordinator.start import START as START_GATES
from fedmed.coordinator.start import Begun, check_start
from fedmed.coordinator.training import keep_plan, kept_run
from fedmed.data.cohort import Cohort
from fedmed.errors import MessageRefused, QuorumNotMet, SettingsError
from fedmed.exchange.base import Exchange
from fedmed.exchange.memory import MemoryExchange
from fedmed.gates import judge
from fedmed.models.bundle import ModelBundle, ModelDescription
from fedmed.models.encoding import InputStatistics
from fedmed.models.networks import NetworkOptions
from fedmed.settings import Settings
from fedmed.strategies.options import StrategyName
from fedmed.strategies.table import STRATEGIES
from fedmed.weights import Weights, sha256, to_bytes
from fedmed.wire.messages import Admission, Plan, Statistics
from fedmed.wire.post import put_payload

PARAMETERS: dict[str, Any] = {"cohort": "c.yaml", "federation": {"sites": ["north", "south", "west"], "quorum": 2}}


def settings(**changes: Any) -> Settings:
    return Settings.model_validate({**PARAMETERS, **changes})


def admissions(fingerprints: dict[str, str] | None = None, rows: int | None = 60, **changes: Any) -> Admissions:
    prints = fingerprints or dict.fromkeys(SITES, "a" * 64)
    sites = {
        site: Admission(
            run="validation-1",
            sender=site,
            purpose="validate",
            question="0" * 64,
            admitted=not changes.get(site),
            failed=(),
            expectations=9,
            fingerprint=prints[site],
            rows={"train": rows},
        )
        for site in prints
    }
    return Admissions(validation="validation-1", sites=sites)


def test_the_same_inputs_are_the_same_run_whatever_the_order_of_sites() -> None:
    backwards = Admissions(validation="validation-2", sites=dict(reversed(admissions().sites.items())))
    assert run_id(settings(), SMALL, admissions()) == run_id(settings(), SMALL, backwards)
    assert run_id(settings(), SMALL, admissions()) == run_id(
        settings(evaluation={"resamples": 200}), SMALL, admissions()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"split": {"seed": 1}},
        {"split": {"train": 0.5}},
        {"privacy": {"minimum_cell": 12}},
        {"network": {"name": "mlp"}},
        {"training": {"learning_rate": 0.05}},
        {"training": {"rounds": 41}},
        {"training": {"seed": 1}},
        {"aggregation": {"strategy": "mean"}},
        {"aggregation": {"limit": 8.0}},
        {"personal": {"intercept": False}},
    ],
    ids=str,
)
def test_another_parameter_is_another_run(changes: dict[str, Any]) -> None:
    assert run_id(settings(**changes), SMALL, admissions()) != run_id(settings(), SMALL, admissions())


def test_another_partition_or_another_admission_is_another_run() -> None:
    changed = {**dict.fromkeys(SITES, "a" * 64), "west": "b" * 64}
    swapped = {**dict.fromkeys(SITES, "a" * 64), "north": "b" * 64}
    ids = {
        run_id(settings(), SMALL, who)
        for who in (admissions(), admissions(changed), admissions(swapped), admissions(west=True))
    }
    assert len(ids) == 4


def test_another_declaration_is_another_run_but_another_title_is_not() -> None:
    other = Cohort.model_validate({**RAW, "minimum": {"rows": 51}})
    titled = Cohort.model_validate({**RAW, "title": "Another title"})
    first = run_id(settings(), SMALL, admissions())
    assert run_id(settings(), other, admissions()) != first
    assert run_id(settings(), titled, admissions()) == first


def sums(age: float) -> bytes:
    return to_bytes({"sums": column_sums(pd.DataFrame({"age": [age] * 20, "weight": [70.0] * 20}), SMALL, 11)})


def told(exchange: Exchange, failed: dict[str, str] | None = None, **payloads: bytes) -> Asked:
    """What came of the question for statistics: the hospitals that answered, with their payloads, and those that did not."""
    answers = {
        site: Statistics(
            run="run-1", sender=site, purpose="statistics", question="0" * 64, payload=put_payload(exchange, data)
        )
        for site, data in sorted(payloads.items())
    }
    return Asked(answers, failed or {})


def agreed(
    who: Admissions | None = None,
    ages: dict[str, float] | None = None,
    start: ModelBundle | None = None,
    **changes: Any,
) -> tuple[Plan, Weights]:
    """The plan of hospitals that all answer, and the weights that it starts from."""
    exchange = MemoryExchange()
    asked = told(exchange, **{site: sums((ages or {}).get(site, 40.0)) for site in SITES})
    return make_plan("run-1", 1, settings(**changes), SMALL, who or admissions(rows=20), asked, exchange, start)


def test_statistics_are_asked_for_from_those_who_are_admitted_about_their_own_partitions() -> None:
    prints = {**dict.fromkeys(SITES, "a" * 64), "north": "b" * 64}
    questions = ask_for_statistics("run-1", admissions(prints, west=True), settings(), attempt=3)
    assert [(q.recipient, q.fingerprint[0], q.purpose, q.attempt, q.plan) for q in questions] == [
        ("north", "b", "statistics", 3, None),
        ("south", "a", "statistics", 3, None),
    ]


def test_a_plan_pools_statistics_and_its_grid_holds_the_sum_of_all_weights() -> None:
    ages = {"north": 40.0, "south": 50.0, "west": 60.0}
    plan, begin = agreed(ages=ages)
    assert plan.participants == SITES
    assert plan.grid.weight == 60
    assert plan.rows == plan.weights == dict.fromkeys(SITES, 20)
    assert plan.statistics.mean["age"] == pytest.approx(50.0)
    assert plan.statistics.deviation["age"] == pytest.approx((200 / 3) ** 0.5)
    assert begin["weight"].tolist() == [[0.0, 0.0]]
    assert plan.start == sha256(to_bytes(begin))
    equal, _ = agreed(ages=dict(reversed(ages.items())))
    assert equal.digest == plan.digest


def test_a_plan_has_the_validation_rows_of_those_who_may_tell_them() -> None:
    who = admissions(rows=20)
    told_ = {"train": 20, "validation": 12, "test": None}
    sites = {**who.sites, "north": who.sites["north"].model_copy(update={"rows": told_})}
    plan, _ = agreed(Admissions(validation="validation-1", sites=sites))
    assert plan.validation_rows == {"north": 12}


@pytest.mark.parametrize(
    "changes", [{"training": {"l2": 0.5}}, {"network": {"name": "mlp"}}, {"personal": {"intercept": False}}], ids=str
)
def test_nothing_of_a_run_changes_once_it_is_agreed(changes: dict[str, Any]) -> None:
    plan, _ = agreed()
    check_plan(plan, settings(), SMALL)
    with pytest.raises(MessageRefused, match=r"run run-1: the plan that was kept is not the one .* start over"):
        check_plan(plan, settings(**changes), SMALL)
    with pytest.raises(MessageRefused, match="start over"):
        check_plan(plan, settings(), Cohort.model_validate({**RAW, "minimum": {"rows": 51}}))


def test_a_plan_that_is_kept_is_found_again_byte_for_byte_with_its_first_state(tmp_path: Path) -> None:
    plan, begin = agreed(aggregation={"strategy": "fedadam"})
    home = CoordinatorHome(tmp_path)
    home.begin_training("run-1")
    keep_plan(home, plan, begin, 11)
    run = kept_run(home, "run-1", 1, 11)
    assert run is not None
    assert run.plan.encoded() == plan.encoded()
    assert run.plan == plan
    assert run.model_of(0).sha256 == plan.start
    assert all(torch.equal(run.states[0].weights[name], begin[name]) for name in begin)


@pytest.mark.parametrize(
    "payload", [b"", to_bytes({"sums": torch.zeros(6)}), to_bytes({"sums": torch.zeros(5).long()})]
)
def test_statistics_of_another_form_make_no_plan(payload: bytes) -> None:
    exchange = MemoryExchange()
    asked = told(exchange, north=payload)
    with pytest.raises(QuorumNotMet, match="north: its statistics could not be used"):
        make_plan("run-1", 1, settings(), SMALL, admissions(), asked, exchange)


def test_a_plan_is_of_those_whose_statistics_can_be_used_and_who_is_missing_is_named() -> None:
    exchange = MemoryExchange()
    asked = told(exchange, {"west": SILENT}, north=sums(40.0), south=b"")
    with pytest.raises(QuorumNotMet) as stopped:
        make_plan("run-1", 1, settings(), SMALL, admissions(rows=20), asked, exchange)
    assert str(stopped.value).startswith("the plan has 1 of 3 hospitals, but the quorum (federation.quorum) is 2.")
    assert f"south: its statistics could not be used; west: {SILENT}" in str(stopped.value)
    asked = told(exchange, {"west": SILENT}, north=sums(40.0), south=sums(60.0))
    plan, _ = make_plan("run-1", 1, settings(), SMALL, admissions(rows=20), asked, exchange)
    assert (plan.participants, plan.grid.weight) == (("north", "south"), 40)


def test_a_site_that_may_not_tell_its_rows_cannot_be_weighed() -> None:
    with pytest.raises(QuorumNotMet, match="north: too few training rows"):
        agreed(admissions(rows=None))


@pytest.mark.parametrize(
    ("arrivals", "reason"),
    [
        (("north",), "arrivals ends before round 2; it needs 2 entries"),
        (("north", "east"), "entry 2: expected a hospital of the run"),
    ],
)
def test_a_recorded_order_of_arrival_that_cannot_be_is_an_error(arrivals: tuple[str, ...], reason: str) -> None:
    chosen = {"strategy": "fedbuff", "buffer": 1, "arrivals": arrivals}
    with pytest.raises(SettingsError, match=f"parameters: aggregation.*{reason}"):
        agreed(aggregation=chosen, training={"rounds": 2})
    with pytest.raises(ValueError, match=reason):
        plan_of(**chosen).algorithm.turns(2)


def test_a_grid_on_which_updates_would_be_rounded_away_is_an_error() -> None:
    # Three hospitals of 20 rows with 32 bits and ±2**20: the largest step that holds the sum of all is 2**-5.
    with pytest.raises(SettingsError, match=r"a weight could change by no less than 2\*\*-5; choose a smaller limit"):
        agreed(aggregation={"limit": 2.0**20})
    agreed(aggregation={"limit": 2.0**20, "bits": 64})


def bundle(**changes: Any) -> ModelBundle:
    description = {
        "cohort": SMALL,
        "network": NetworkOptions(),
        "statistics": InputStatistics(mean={"age": 41.0, "weight": 71.0}, deviation={"age": 9.0, "weight": 8.0}),
        "run": "earlier",
        "round": 3,
        "weights": sha256(to_bytes(START)),
    }
    return ModelBundle(ModelDescription.model_validate({**description, **changes}), START)


def test_a_run_that_goes_on_from_a_model_starts_at_its_weights_with_its_statistics() -> None:
    plan, begin = agreed(start=bundle())
    assert all(torch.equal(begin[name], START[name]) for name in START)
    assert plan.statistics == bundle().description.statistics
    assert plan.start == sha256(to_bytes(START))
    assert run_id(settings(), SMALL, admissions(), bundle()) != run_id(settings(), SMALL, admissions())
    assert run_id(settings(), SMALL, admissions(), bundle()) == run_id(settings(), SMALL, admissions(), bundle(round=4))


def test_a_model_of_other_inputs_or_another_network_is_no_start() -> None:
    wanted = settings(training={"start": "small/champion"})
    check_start(bundle(), wanted, SMALL)
    other = Cohort.model_validate({**RAW, "minimum": {"rows": 51}})
    with pytest.raises(SettingsError, match=r"training.start: small/champion was trained under another declaration"):
        check_start(bundle(), wanted, other)
    with pytest.raises(SettingsError, match=r"small/champion is a mlp .* make `network` as it was"):
        check_start(bundle(network=NetworkOptions(name="mlp")), wanted, SMALL)
    both = Begun(bundle(network=NetworkOptions(name="mlp")).description, wanted, other)
    assert [verdict.passed for verdict in judge(START_GATES, both).values()] == [False, False]
    with pytest.raises(SettingsError, match=r"another declaration.*; small/champion is a mlp"):
        check_start(bundle(network=NetworkOptions(name="mlp")), wanted, other)


def test_a_plan_caps_weights_and_says_where_no_cap_can_be() -> None:
    who = admissions(rows=20)
    sites = {**who.sites, "north": who.sites["north"].model_copy(update={"rows": {"train": 400}})}
    uneven = Admissions(validation="validation-1", sites=sites)
    plan, _ = agreed(uneven, aggregation={"largest_share": 0.5})
    assert plan.weights == {"north": 40, "south": 20, "west": 20}
    assert plan.rows == {"north": 400, "south": 20, "west": 20}
    with pytest.raises(SettingsError, match="of 3 hospitals one has at least"):
        agreed(uneven, aggregation={"largest_share": 0.3})


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_plan_of_every_strategy_keeps_what_its_server_begins_with(strategy: StrategyName, tmp_path: Path) -> None:
    plan, begin = agreed(aggregation={"strategy": strategy})
    run = keep_plan(CoordinatorHome(tmp_path), plan, begin, 11)
    memory = STRATEGIES[strategy].init(START, plan.aggregation)
    assert (run.states.record(0).memory is not None) == bool(memory)
    assert run.states[0].memory.keys() == memory.keys()
    assert set(plan.weights.values()) == {STRATEGIES[strategy].weigh(20)}
    assert len(plan.algorithm.turns(1)) in {1, 2, 3}


@pytest.mark.parametrize(
    ("section", "chosen", "reason"),
    [
        ("training", {"loss": {"name": "cox"}}, "cox wants a survival target"),
        ("training", {"loss": {"class_weights": (1.0, 2.0, 3.0)}}, "expected one for each of the 2 classes"),
        ("personal", {"fine_tune": ("head.*",)}, "personal.fine_tune: head.* fits no parameter"),
    ],
)
def test_what_hospitals_would_stumble_over_in_training_is_said_before_it(
    section: str, chosen: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SettingsError, match=reason):
        agreed(**{section: chosen})

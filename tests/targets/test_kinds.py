"""One contract over every kind of target: names, disclosure, comparison and curves."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from fedmed.evaluation import disclosure, survival
from fedmed.evaluation.curves import risk_groups
from fedmed.evaluation.measurement import Measurement
from fedmed.evaluation.names import LOWER_IS_BETTER
from fedmed.registry.options import Metric
from fedmed.targets.kind import KindName, some_rows
from fedmed.targets.table import KINDS
from fedmed.typed_yaml import Record

HORIZON = 10.0
every_kind = pytest.mark.parametrize("kind", KINDS)


def hospital(kind: str, rows: int, seed: int = 0, noise: float = 0.0) -> tuple[NDArray[Any], NDArray[Any]]:
    """A model that knows the truth through some noise, and labels; a third of the rows have the event."""
    generator, other = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    score = generator.normal(size=(rows, 3))
    seen = score + noise * other.normal(size=(rows, 3))
    if kind == "binary":
        return 1 / (1 + np.exp(-2 * seen[:, 0])), (generator.random(rows) < 1 / (1 + np.exp(-2 * score[:, 0]))) * 1.0
    if kind == "multiclass":
        truth, p = np.exp(2 * score), np.exp(2 * seen)
        truth, p = truth / truth.sum(axis=1, keepdims=True), p / p.sum(axis=1, keepdims=True)
        return p, np.array([generator.choice(3, p=row) for row in truth]).astype(float)
    event, censored = generator.exponential(12 * np.exp(-score[:, 0])), generator.exponential(15, size=rows)
    return seen[:, 0], np.stack([np.minimum(event, censored) + 1e-3, event <= censored], axis=1).astype(float)


def completed(kind: str, prediction: Any, labels: Any) -> Any:
    return KINDS[kind].complete(prediction, lambda: prediction, labels, HORIZON)


def test_every_kind_that_a_cohort_may_declare_is_measured() -> None:
    assert set(KINDS) == set(get_args(KindName))


def test_every_validated_metric_may_judge_the_champion() -> None:
    names = {"loss", *(name for kind in KINDS.values() for name in kind.validated)}
    assert {name.removeprefix("validation_") for name in get_args(Metric)} == names


def test_errors_and_losses_are_better_low_and_nothing_else() -> None:
    told = {name for kind in KINDS.values() for name in (*kind.validated, *kind.headline, *kind.drawn, "loss")}
    assert {name for name in told if "brier" in name or "loss" in name} == told & LOWER_IS_BETTER


@every_kind
def test_a_large_hospital_tells_every_figure(kind: str) -> None:
    prediction, labels = hospital(kind, 300)
    this, said = KINDS[kind], completed(kind, prediction, labels)
    measured = this.measure(said, labels, resamples=200, generator=np.random.default_rng(0), horizon=HORIZON)
    assert next(iter(measured)) == "rows"
    assert {*this.headline, *this.drawn} <= set(measured)
    assert {entry.reason for entry in measured.values()} == {""}
    assert list(this.validate(prediction, labels, 11, HORIZON)) == list(this.validated)
    for name, value in this.validate(prediction, labels, 11, HORIZON).items():
        assert measured[name].value == pytest.approx(value, abs=1e-4)


@every_kind
def test_a_small_hospital_tells_nothing(kind: str) -> None:
    prediction, labels = hospital(kind, 10)
    this, said = KINDS[kind], completed(kind, prediction, labels)
    measured = this.measure(said, labels, resamples=100, generator=np.random.default_rng(0), horizon=HORIZON)
    assert {entry.reason for entry in measured.values()} == {"suppressed"}
    assert this.round_figures(prediction, labels, 0.7, 11, HORIZON) == (None, None, {})
    assert this.curves(said, labels, 11, HORIZON).model_dump(exclude_none=True) == {}


@every_kind
def test_a_loss_that_is_no_number_is_not_told(kind: str) -> None:
    figures = KINDS[kind].round_figures(*hospital(kind, 300), math.nan, 11, HORIZON)
    assert figures.rows == 300
    assert figures.loss is None
    assert KINDS[kind].round_figures(*hospital(kind, 300), 0.7123456789, 11, HORIZON).loss == 0.712346


@every_kind
def test_equal_generators_give_equal_figures(kind: str) -> None:
    prediction, labels = hospital(kind, 120)
    said = completed(kind, prediction, labels)
    one, other = (
        KINDS[kind].measure(said, labels, resamples=100, generator=np.random.default_rng(4), horizon=HORIZON)
        for _ in range(2)
    )
    assert one == other


def compared(kind: str, federated: float, own: float | None, rows: int = 400, **changes: Any) -> Any:
    this = KINDS[kind]
    good, labels = hospital(kind, rows, 3, federated)
    alone = None if own is None else completed(kind, hospital(kind, rows, 3, own)[0], labels)
    content: dict[str, Any] = {
        "federated": completed(kind, good, labels),
        "own": alone,
        "reference": this.reference(labels, rows, HORIZON),
        "resamples": 200,
        "generator": np.random.default_rng(0),
        "horizon": HORIZON,
    }
    return this.compare("north", labels, **(content | changes))


@every_kind
def test_a_better_federated_model_helped_and_a_worse_one_hurt(kind: str) -> None:
    better, worse = compared(kind, 0.1, 3.0), compared(kind, 3.0, 0.1)
    assert (better.verdict, worse.verdict) == ("helped", "hurt")
    assert better.sentence.startswith("Federating helped north: ")
    assert better.metric in better.figures
    for name, of_models in better.figures.items():
        told = {model: entry.value for model, entry in of_models.items() if model != "majority"}
        ordered = told["federated"] < told["own"] if name in LOWER_IS_BETTER else told["federated"] > told["own"]
        assert ordered, name
        gap = better.differences[name]["own"].value
        assert gap == pytest.approx(told["federated"] - told["own"], abs=2e-4)


@every_kind
def test_the_same_model_twice_makes_no_clear_difference(kind: str) -> None:
    found = compared(kind, 0.5, 0.5)
    assert found.verdict == "no clear difference"
    assert found.sentence.endswith("(difference .000)")


@every_kind
def test_a_hospital_without_a_model_of_its_own_has_no_verdict(kind: str) -> None:
    found = compared(kind, 0.5, None)
    assert found.verdict == "not estimable"
    assert found.sentence.endswith("it has no model of its own")
    assert {of["own"] for of in found.differences.values()} == {Measurement(reason="not estimable")}


@every_kind
def test_too_few_rows_have_no_verdict(kind: str) -> None:
    found = compared(kind, 0.5, 0.5, rows=10)
    every = [entry for of in (*found.figures.values(), *found.differences.values()) for entry in of.values()]
    assert {entry.reason for entry in every} == {"suppressed"}
    assert found.sentence.endswith("its figures are suppressed")


@every_kind
def test_rows_can_be_taken_out_of_a_prediction(kind: str) -> None:
    prediction, labels = hospital(kind, 100)
    rows = np.arange(100) % 2 == 0
    said = some_rows(completed(kind, prediction, labels), rows)
    settings: dict[str, Any] = {"minimum_cell": 5, "resamples": 100, "horizon": HORIZON}
    measured = KINDS[kind].measure(said, labels[rows], generator=np.random.default_rng(0), **settings)
    assert measured["rows"].value == 50


@pytest.mark.parametrize(("kind", "wanted"), [("binary", 1), ("multiclass", 2)])
def test_the_majority_is_the_last_of_equals(kind: str, wanted: int) -> None:
    labels = [0, 0, 1, 1] if kind == "binary" else [0, 0, 1, 2, 2]
    assert KINDS[kind].reference(np.array(labels), 4, None) == wanted


def test_what_teaches_nothing_is_not_trained_on() -> None:
    assert not KINDS["binary"].trainable(np.zeros(9))
    assert not KINDS["multiclass"].trainable(np.ones(9))
    assert not KINDS["survival"].trainable(np.stack([np.arange(1.0, 10), np.zeros(9)], 1))
    assert KINDS["survival"].trainable(np.array([[1.0, 1.0]]))


# --- Survival's own --------------------------------------------------------------------------------------------------


def few_events(rows: int, events: int) -> tuple[NDArray[Any], NDArray[Any]]:
    generator = np.random.default_rng(2)
    time = generator.uniform(1, 9, size=rows)
    return generator.normal(size=rows), np.stack([time, np.arange(rows) < events], axis=1).astype(float)


@pytest.mark.parametrize("events", [0, 1, 10, 50, 60])
def test_few_events_or_few_without_withhold_all_but_the_rows(events: int) -> None:
    risk, labels = few_events(60, events)
    said = completed("survival", risk, labels)
    measured = KINDS["survival"].measure(
        said, labels, minimum_cell=11, resamples=100, generator=np.random.default_rng(0), horizon=HORIZON
    )
    assert {name for name, entry in measured.items() if entry.reason == ""} == {"rows"}
    assert {entry.reason for name, entry in measured.items() if name != "rows"} == {"suppressed"}
    assert KINDS["survival"].round_figures(risk, labels, 0.7, 11, HORIZON) == (60, None, {})


def test_events_after_the_horizon_are_no_events() -> None:
    _, labels = few_events(60, 30)
    assert disclosure.event_counts(labels) == {"without": 30, "events": 30}
    early = int((labels[:30, 0] <= 4).sum())
    assert disclosure.event_counts(labels, 4.0) == {"without": 60 - early, "events": early}


def test_under_ten_events_are_told_but_not_estimated_from() -> None:
    risk, labels = few_events(60, 8)
    said = completed("survival", risk, labels)
    settings: dict[str, Any] = {"minimum_cell": 5, "resamples": 100, "horizon": HORIZON}
    found = KINDS["survival"].measure(said, labels, generator=np.random.default_rng(0), **settings)
    assert found["events"].value == 8
    assert {found[name].reason for name in ("c_index", "uno_c_index", "integrated_brier")} == {"not estimable"}
    verdict = KINDS["survival"].compare(
        "north", labels, federated=said, own=said, generator=np.random.default_rng(0), **settings
    )
    assert verdict.verdict == "not estimable"
    assert verdict.sentence.endswith("it has too few events")
    assert {entry.reason for of in verdict.differences.values() for entry in of.values()} == {"not estimable"}


def test_a_risk_without_curves_has_an_index_and_no_brier_score() -> None:
    risk, labels = hospital("survival", 200)
    found = KINDS["survival"].measure(risk, labels, resamples=100, generator=np.random.default_rng(0), horizon=HORIZON)
    assert found["c_index"].value is not None
    assert found["integrated_brier"].reason == "not estimable"


def test_a_model_in_intervals_needs_no_baseline() -> None:
    risk, labels = hospital("survival", 200)
    curves = survival.cox_forecast(risk, risk, labels, survival.grid(HORIZON, 5)).survival

    def never() -> Any:
        raise AssertionError

    said = KINDS["survival"].complete(curves, never, labels, HORIZON)
    assert said.times.tolist() == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert (np.diff(said.survival, axis=1) <= 0).all()


def test_intervals_of_the_c_index_hold_the_truth_about_as_often_as_they_say() -> None:
    """150 hospitals of 150 rows against the index of a million pairs; an interval of half the width would be refused."""
    risk, labels = hospital("survival", 6000, 99)
    truth = survival.c_index(risk, labels, HORIZON)
    held = half = 0
    for seed in range(150):
        prediction, y = hospital("survival", 150, seed)
        entry = KINDS["survival"].measure(
            prediction, y, resamples=200, generator=np.random.default_rng(seed), horizon=HORIZON
        )["c_index"]
        assert entry.low is not None
        assert entry.high is not None
        assert entry.value is not None
        held += entry.low <= truth <= entry.high
        half += (entry.value + entry.low) / 2 <= truth <= (entry.value + entry.high) / 2
    assert 0.90 <= held / 150 <= 0.99
    assert half / 150 < 0.90


# --- Risk groups -----------------------------------------------------------------------------------------------------


def test_low_risk_lives_longer_and_every_step_rests_on_enough_events() -> None:
    risk, labels = hospital("survival", 900, 5)
    found = risk_groups(risk, labels, minimum_cell=11, horizon=HORIZON)
    assert found is not None
    assert len(found) == 3
    assert sum(group.rows for group in found) == 900
    low, middle, high = (np.interp(5.0, group.times, group.survival) for group in found)
    assert low > middle > high
    order = np.argsort(risk)
    rows = 0
    for group in found:
        y = labels[order[rows : rows + group.rows]]
        rows += group.rows
        assert group.times[0] == 0
        assert group.survival[0] == 1
        dead = [int(((y[:, 0] <= time) & (y[:, 1] == 1)).sum()) for time in group.times]
        assert (np.diff(dead) >= 11).all()
        assert (y[:, 0] > group.times[-1]).sum() >= 11
        assert group.survival == pytest.approx(survival.kaplan_meier(y, group.times), abs=1e-4)


@pytest.mark.parametrize("rows", [0, 30, 60])
def test_groups_with_too_few_of_a_class_have_no_curves(rows: int) -> None:
    risk, labels = few_events(rows, min(20, rows))
    assert risk_groups(risk, labels, minimum_cell=11, horizon=HORIZON) is None


def test_without_a_horizon_there_are_no_curves() -> None:
    assert risk_groups(*hospital("survival", 900, 5), minimum_cell=11, horizon=None) is None


def test_a_round_told_as_json_has_no_array_in_it() -> None:
    class Told(Record):
        metrics: dict[str, float]

    for kind, this in KINDS.items():
        Told(metrics=this.validate(*hospital(kind, 300), 11, HORIZON)).model_dump_json()

"""Measurements: how they read, how sure they are, and what they say where little is known."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from typing import Any, TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from fedmed.evaluation import measurement
from fedmed.evaluation.disclosure import NAMES, PER_CLASS, withheld
from fedmed.evaluation.measurement import Measurement, interval, share, texts
from fedmed.evaluation.names import figures_of
from fedmed.targets.binary import measure

Rows: TypeAlias = tuple[NDArray[Any], NDArray[Any]]

WHOLE_TABLE = {"accuracy", "brier", "log_loss"}


def hospital(rows: int, seed: int, *, prevalence: float = 0.4, distance: float = 1.2) -> Rows:
    """Scores of two normal classes `distance` apart, and the probability that Bayes' rule gives them."""
    generator = np.random.default_rng(seed)
    y = (generator.random(rows) < prevalence).astype(int)
    score = generator.normal(size=rows) + distance * y
    logit = distance * score - distance**2 / 2 + math.log(prevalence / (1 - prevalence))
    return 1 / (1 + np.exp(-logit)), y


def measured(p: object, y: object, seed: int = 0, **settings: int) -> dict[str, Measurement]:
    return measure(p, y, generator=np.random.default_rng(seed), resamples=settings.pop("resamples", 200), **settings)  # type: ignore[arg-type]  # anything may come


def reasons(found: dict[str, Measurement]) -> dict[str, str]:
    return {name: entry.reason for name, entry in found.items()}


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (Measurement(value=0.812, low=0.741, high=0.874), ".812 (.741–.874)"),
        (Measurement(value=1.0, low=0.886, high=1.0), "1.000 (.886–1.000)"),
        (Measurement(value=-0.029, low=-0.051, high=0.008), "−.029 (−.051 to .008)"),
        (Measurement(value=0.0), ".000"),
        (Measurement(reason="not estimable"), "not estimable"),
        (Measurement(reason="suppressed"), "suppressed"),
        (Measurement(reason="suppressed", low=0.65), "≥ .65"),
        (Measurement(reason="suppressed", high=0.35), "≤ .35"),
    ],
)
def test_a_measurement_reads_like_a_paper(entry: Measurement, text: str) -> None:
    assert str(entry) == text


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"value": 0.5, "reason": "suppressed"},
        {"value": 0.5, "low": 0.4},
        {"reason": "suppressed", "low": 0.1, "high": 0.9},
        {"reason": "not estimable", "low": 0.1},
        {"value": math.nan},
        {"value": 0.5, "low": -math.inf, "high": 1.0},
        {"reason": "unknown"},
    ],
)
def test_a_measurement_that_contradicts_itself_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Measurement.model_validate(fields)


def test_a_measurement_survives_json() -> None:
    for entry in measured(*hospital(100, 1)).values():
        assert Measurement.model_validate_json(entry.model_dump_json()) == entry


def test_a_large_hospital_gets_every_metric_in_order() -> None:
    found = measured(*hospital(100, 1))
    assert tuple(found) == NAMES
    assert set(reasons(found).values()) == {""}
    assert texts(found)["rows"] == "100"
    assert all(entry.low <= entry.value <= entry.high for name, entry in found.items() if name != "rows")  # type: ignore[operator]  # all there


def test_equal_generators_give_equal_measurements() -> None:
    p, y = hospital(100, 1)
    assert measured(p, y, seed=5) == measured(p, y, seed=5)
    assert measured(p, y, seed=5) != measured(p, y, seed=6)


def test_blocks_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    p, y = hospital(100, 1)
    whole = measured(p, y)
    monkeypatch.setattr(measurement, "_BLOCK", 100 * 7)
    assert measured(p, y) == whole


def test_no_global_randomness_is_used() -> None:
    before = str(np.random.get_state())
    measured(*hospital(100, 1))
    assert before == str(np.random.get_state())


@pytest.mark.parametrize("ill", [0, 1, 4, 10])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_small_class_suppresses_all_that_speaks_of_classes(ill: int, swapped: bool) -> None:
    p, y = np.linspace(0.02, 0.9, 60), (np.arange(60) >= 60 - ill).astype(int)
    found = measured(p, 1 - y if swapped else y, minimum_cell=11)
    assert {name for name, reason in reasons(found).items() if reason == "suppressed"} == PER_CLASS | {"prevalence"}
    assert {name for name, reason in reasons(found).items() if not reason} == WHOLE_TABLE | {"rows"}


def test_a_class_of_the_minimum_is_told() -> None:
    p, y = np.linspace(0.02, 0.9, 60), (np.arange(60) % 5 == 0).astype(int)
    assert y.sum() == 12
    assert set(reasons(measured(p, y, minimum_cell=12)).values()) == {""}
    assert measured(p, y, minimum_cell=13)["prevalence"].reason == "suppressed"


@pytest.mark.parametrize("rows", [0, 1, 2, 10])
def test_under_the_minimum_of_rows_nothing_is_told(rows: int) -> None:
    found = measured(np.linspace(0.1, 0.9, rows), np.arange(rows) % 2)
    assert set(reasons(found).values()) == {"suppressed"}


def test_a_model_that_always_says_the_same_does_not_tell_the_class_through_its_accuracy() -> None:
    p, y = np.linspace(0.02, 0.45, 60), (np.arange(60) < 3).astype(int)
    assert withheld(p, y) == PER_CLASS | {"prevalence", "accuracy"}


def test_a_model_of_few_values_does_not_tell_the_class_through_its_brier_score() -> None:
    p, y = np.tile([0.2, 0.4, 0.8], 20), (np.arange(60) < 3).astype(int)
    assert withheld(p, y) == PER_CLASS | {"prevalence", "brier", "log_loss"}


def test_few_rows_in_a_class_are_told_but_not_estimated_over() -> None:
    p, y = np.linspace(0.02, 0.9, 60), (np.arange(60) % 9 == 0).astype(int)
    assert y.sum() == 7
    found = reasons(measured(p, y, minimum_cell=5))
    assert {name for name, reason in found.items() if reason == "not estimable"} == PER_CLASS
    assert {name for name, reason in found.items() if not reason} == {"rows", "prevalence", *WHOLE_TABLE}
    assert set(reasons(measured(p, y, minimum_cell=5, fewest_per_class=5)).values()) == {""}


def test_separated_classes_have_no_calibration_slope_but_the_rest() -> None:
    p, y = np.linspace(0.05, 0.95, 40), (np.arange(40) >= 20).astype(int)
    found = measured(p, y)
    assert {name for name, entry in found.items() if entry.value is None} == {"calibration_slope"}
    assert found["calibration_slope"].reason == "not estimable"
    assert found["auroc"] == Measurement(value=1.0)  # every resample is perfect: no interval can be had from them


def test_a_slope_that_many_resamples_lack_is_not_estimable() -> None:
    """One row overlaps; a resample without it is separated, which happens in more than a third of them."""
    p, y = np.linspace(0.05, 0.95, 40), (np.arange(40) >= 20).astype(int)
    p[19], y[19] = 0.7, 0
    assert math.isfinite(figures_of("binary")["calibration_slope"](p, y.astype(float), np.ones((1, 40)))[0])
    assert measured(p, y)["calibration_slope"].reason == "not estimable"


def test_undefined_resamples_are_left_out_up_to_one_tail() -> None:
    draws = np.linspace(0, 1, 1000)
    draws[:25] = np.nan
    assert interval(0.5, draws).reason == ""
    draws[25] = np.nan
    assert interval(0.5, draws).reason == "not estimable"


def test_perfect_accuracy_keeps_an_honest_interval() -> None:
    """Wilson 1927: 30 of 30 leaves 30 / (30 + 1.96²) as the lower end."""
    found = share(30, 30)
    assert found.low == pytest.approx(30 / (30 + 1.959964**2), abs=1e-4)
    assert found.high == 1


@pytest.mark.parametrize(("part", "rows"), [(0, 11), (1, 12), (17, 40), (39, 40)])
def test_wilsons_interval_is_where_his_score_is_at_its_bound(part: int, rows: int) -> None:
    """Wilson 1927: its ends are the shares p for which (part/rows − p)² = 1.96² p (1 − p) / rows."""
    found = share(part, rows)
    for end in (found.low, found.high):
        assert end is not None
        assert (part / rows - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / rows, abs=2e-4)


def test_no_more_than_four_decimals_leave() -> None:
    for entry in measured(*hospital(97, 2)).values():
        assert all(number == round(number, 4) for number in (entry.value, entry.low, entry.high) if number is not None)


@pytest.mark.parametrize(
    ("p", "y"),
    [([math.nan] * 60, [0, 1] * 30), ([0.5] * 60, [0, 3] * 30), ([0.5] * 60, [0, 1]), ([2.0] * 60, [0, 1] * 30)],
)
def test_what_is_no_probability_or_label_is_refused(p: list[float], y: list[int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        measured(p, y)


def test_a_minimum_that_protects_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 5"):
        measured(*hospital(100, 1), minimum_cell=4)


@pytest.mark.parametrize("rows", [0, 100])
def test_too_few_resamples_are_refused(rows: int) -> None:
    with pytest.raises(ValueError, match="at least 100"):
        measured(*hospital(rows, 1), resamples=99)


def test_ten_times_the_resamples_cost_no_more_than_their_share() -> None:
    p, y = hospital(100, 1)
    measured(p, y)
    spent = []
    for resamples in (1000, 10_000):
        began = time.process_time()
        measured(p, y, resamples=resamples)
        spent.append(time.process_time() - began)
    assert spent[1] < 40 * spent[0]


@pytest.mark.parametrize("minimum", [5, 11])
def test_no_withheld_class_follows_from_the_measurements(minimum: int) -> None:
    """Every confusion table with a small class is measured; whoever knows the rules lists those that look the same.

    The predictions take two values, which is the most that a reader could hope for. Whatever was told, more than one
    number of positive rows must remain possible.
    """
    for rows in {5: (5, 8, 9, 10, 12, 15), 11: (11, 20, 21, 22, 24)}[minimum]:
        possible = defaultdict(set)
        for positive in range(rows + 1):
            if positive >= minimum and rows - positive >= minimum:
                continue
            for true in range(positive + 1):
                for false in range(rows - positive + 1):
                    missed, rest = positive - true, rows - positive - false
                    p = np.repeat([0.8, 0.8, 0.3, 0.3], [true, false, missed, rest])
                    y = np.repeat([1, 0, 1, 0], [true, false, missed, rest])
                    found = measured(p, y, minimum_cell=minimum, resamples=100)
                    assert found["prevalence"].reason == "suppressed"
                    assert not {"auroc", "sensitivity"} & {
                        name for name, entry in found.items() if entry.value is not None
                    }
                    possible[tuple(found.values())].add(positive)
        assert min(len(counts) for counts in possible.values()) >= 2


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """300 hospitals of 150 rows: the right interval is accepted, and one of two thirds its width would not be."""
    from scipy.stats import norm

    distance, hospitals = 1.2, 300
    p, y = hospital(1_000_000, 0, distance=distance)
    right = (p >= 0.5) == (y == 1)
    truth = {
        "prevalence": 0.4,
        "auroc": norm.cdf(distance / math.sqrt(2)),
        "accuracy": right.mean(),
        "sensitivity": right[y == 1].mean(),
        "specificity": right[y == 0].mean(),
        "brier": np.mean((p - y) ** 2),
        "log_loss": -np.mean(np.log(np.where(y == 1, p, 1 - p))),
        "calibration_slope": 1.0,
        "calibration_intercept": 0.0,
    }
    held, held_by_two_thirds = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for seed in range(1, hospitals + 1):
        found = measured(*hospital(150, seed, distance=distance), seed=seed)
        for name, true in truth.items():
            entry = found[name]
            assert entry.value is not None
            assert entry.low is not None
            assert entry.high is not None
            held[name] += entry.low <= true <= entry.high
            below, above = (2 * (entry.value - entry.low) / 3, 2 * (entry.high - entry.value) / 3)
            held_by_two_thirds[name] += entry.value - below <= true <= entry.value + above
    coverage = {name: count / hospitals for name, count in held.items()}
    assert all(0.90 <= share <= 0.98 for share in coverage.values()), coverage
    too_narrow = {name: count / hospitals for name, count in held_by_two_thirds.items()}
    assert all(share < 0.90 for share in too_narrow.values()), too_narrow

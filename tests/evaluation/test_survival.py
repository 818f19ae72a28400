"""Survival figures by hand, and against implementations that compute them pair by pair and time by time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedmed.evaluation import survival
from fedmed.evaluation.survival import (
    Forecast,
    c_index,
    c_index_over,
    cox_forecast,
    forecast,
    grid,
    integrated_brier,
    integrated_brier_over,
    kaplan_meier,
    uno_c_index,
    uno_c_index_over,
)

Array = NDArray[np.float64]


def hospital(rows: int, seed: int, *, whole_days: bool = False) -> tuple[Array, Array]:
    """Log hazards and labels: exponential survival, independent censoring; with ties where times are whole days."""
    generator = np.random.default_rng(seed)
    risk = generator.normal(size=rows)
    event, censored = generator.exponential(10 * np.exp(-risk)), generator.exponential(20, size=rows)
    time = np.minimum(event, censored)
    time = np.ceil(time) if whole_days else time.astype(np.float32).astype(np.float64)
    return (np.round(risk, 1) if whole_days else risk), np.stack([time, event <= censored], axis=1).astype(float)


# --- The same figures, as their papers' words say, row by row -----------------------------------------------------


def still_followed_before(y: Array, time: float) -> float:
    """P(censoring ≥ time): the product over censoring times u < time; at u, the events have left already."""
    share = 1.0
    for u in sorted({t for t, d in y if d == 0 and t < time}):
        lost = sum(t == u and d == 0 for t, d in y)
        open_to_it = sum(t > u for t, _ in y) + lost
        share *= 1 - lost / open_to_it
    return share


def pairs_by_hand(risk: Array, y: Array, horizon: float = math.inf, *, uno: bool = False) -> float:
    won = pairs = 0.0
    for i in range(len(y)):
        if y[i, 1] == 0 or y[i, 0] > horizon:
            continue
        weight = still_followed_before(y, y[i, 0]) ** -2 if uno else 1.0
        for j in range(len(y)):
            if y[j, 0] > y[i, 0] or (y[j, 0] == y[i, 0] and y[j, 1] == 0):
                pairs += weight
                won += weight * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return won / pairs if pairs else math.nan


def brier_by_hand(said: Forecast, y: Array) -> float:
    times = [t for t in said.times if t <= y[:, 0].max()]
    scores = [0.0]
    for k, time in enumerate(times):
        total = 0.0
        for i, (t, d) in enumerate(y):
            s = said.survival[i, k]
            if t <= time and d == 1:
                total += s**2 / still_followed_before(y, t)
            elif t >= time:
                total += (1 - s) ** 2 / still_followed_before(y, time)
        scores.append(total / len(y))
    return float(np.trapezoid(scores, [0.0, *times]) / times[-1])


# --- C-index --------------------------------------------------------------------------------------------------------


def test_harrells_c_by_hand() -> None:
    """Comparable: 1 with 2, 3, 4; 3 with 4. Row 2 was censored and starts no pair. Won: (1,2), tie (1,3), (1,4) lost."""
    y = [[2, 1], [3, 0], [5, 1], [8, 0]]
    assert c_index([2, 1, 2, 3], y) == pytest.approx((1 + 0.5 + 0 + 0) / 4)


def test_two_events_at_one_time_are_no_pair_but_a_censoring_then_outlived_the_event() -> None:
    assert math.isnan(c_index([1, 2], [[4, 1], [4, 1]]))
    assert c_index([2, 1], [[4, 1], [4, 0]]) == 1.0
    assert c_index([1, 2], [[4, 1], [4, 0]]) == 0.0


@pytest.mark.parametrize("labels", [[[1, 0], [2, 0]], [[1, 1]], np.empty((0, 2))], ids=["no event", "one row", "none"])
def test_without_a_pair_there_is_no_index(labels: Any) -> None:
    risk = np.arange(len(labels), dtype=float)
    assert math.isnan(c_index(risk, labels))
    assert math.isnan(uno_c_index(risk, labels))


def test_events_after_the_horizon_start_no_pair() -> None:
    y = [[1, 1], [5, 1], [9, 0]]
    assert c_index([3, 1, 2], y) == pytest.approx(2 / 3)
    assert c_index([3, 1, 2], y, horizon=4) == 1.0
    assert c_index([3, 1, 2], y, horizon=5) == pytest.approx(2 / 3)  # at the horizon is by the horizon


@pytest.mark.parametrize("whole_days", [False, True], ids=["no ties", "ties"])
@pytest.mark.parametrize("seed", range(5))
def test_the_indices_are_those_of_pair_by_pair_counting(seed: int, whole_days: bool) -> None:
    risk, y = hospital(40, seed, whole_days=whole_days)
    for horizon in (None, 6.0):
        limit = math.inf if horizon is None else horizon
        assert c_index(risk, y, horizon) == pytest.approx(pairs_by_hand(risk, y, limit), abs=1e-12)
        assert uno_c_index(risk, y, horizon) == pytest.approx(pairs_by_hand(risk, y, limit, uno=True), abs=1e-12)


def test_blocks_of_events_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    risk, y = hospital(60, 1, whole_days=True)
    whole = c_index(risk, y)
    monkeypatch.setattr(survival, "_CELLS", 60 * 7)
    assert c_index(risk, y) == pytest.approx(whole, abs=1e-12)


def test_without_censoring_the_index_is_kendalls_share_of_concordant_pairs() -> None:
    from scipy.stats import kendalltau

    risk, y = hospital(50, 3)
    y[:, 1] = 1
    tau = kendalltau(risk, -y[:, 0]).statistic
    assert c_index(risk, y) == pytest.approx((tau + 1) / 2)
    assert uno_c_index(risk, y) == pytest.approx((tau + 1) / 2)


def test_with_one_common_time_of_events_the_index_is_the_auroc() -> None:
    """All events on day 1, all others followed to day 2: the pairs are those of ill and well."""
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    ill = generator.integers(0, 2, size=80)
    risk = np.round(generator.normal(size=80) + ill, 1)
    y = np.stack([np.where(ill, 1.0, 2.0), ill], axis=1)
    assert c_index(risk, y) == pytest.approx(roc_auc_score(ill, risk))


def test_censoring_that_hides_the_late_moves_harrells_index_and_not_unos() -> None:
    """A hazard ratio that wanes: with heavy censoring mostly the early, easy pairs remain."""
    generator = np.random.default_rng(1)
    rows = 3000
    high = generator.integers(0, 2, size=rows)
    early = generator.exponential(1 / np.where(high, 1.5, 0.5))
    event = np.where(early < 0.5, early, 0.5 + generator.exponential(1, size=rows))  # after .5, all alike
    censored = generator.exponential(0.5, size=rows)
    truth = c_index(high, np.stack([event, np.ones(rows)], 1), horizon=1.0)
    y = np.stack([np.minimum(event, censored), event <= censored], 1)
    assert c_index(high, y, horizon=1.0) > truth + 0.015
    assert uno_c_index(high, y, horizon=1.0) == pytest.approx(truth, abs=0.015)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.integers(1, 6), st.integers(0, 1), st.integers(0, 3)), min_size=2, max_size=12
    )
)
def test_a_row_that_counts_twice_is_two_rows(rows: list[tuple[int, int, int, int]]) -> None:
    risk, time, event, times = (np.asarray(column, dtype=float) for column in zip(*rows, strict=True))
    y = np.stack([time, event], axis=1)
    held = np.repeat(np.arange(len(rows)), times.astype(int))
    counts = times[None, :]
    curves = np.clip(np.linspace(0.9, 0.2, 3)[None, :] - 0.05 * risk[:, None], 0, 1)
    if not held.size:
        return
    for over, alone in ((c_index_over, c_index), (uno_c_index_over, uno_c_index)):
        expected = alone(risk[held], y[held])
        assert float(over(risk, y, None, counts)[0]) == pytest.approx(expected, abs=1e-9, nan_ok=True)
    if y[held][:, 0].max() == y[:, 0].max():  # else the last times are left out of one of them
        said = Forecast(risk, np.array([1.0, 2.0, 5.0]), curves)
        expected = integrated_brier(Forecast(risk[held], said.times, curves[held]), y[held])
        assert float(integrated_brier_over(said, y, counts)[0]) == pytest.approx(expected, abs=1e-9, nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(30)), st.floats(-3, 3), st.floats(0.1, 5))
def test_neither_order_of_rows_nor_scale_of_risk_matters(order: list[int], shift: float, scale: float) -> None:
    risk, y = hospital(30, 7, whole_days=True)
    moved = np.round(shift + scale * risk, 9)
    assert c_index(moved[order], y[order]) == pytest.approx(c_index(risk, y), abs=1e-12)
    assert c_index(-risk, y) == pytest.approx(1 - c_index(risk, y), abs=1e-12)


# --- Curves ---------------------------------------------------------------------------------------------------------


def test_kaplan_meier_by_hand() -> None:
    """Kaplan & Meier's way on seven rows: 6/7 after day 2, nothing on the censoring of day 3, 6/7 · 3/5 after day 5."""
    y = [[2, 1], [3, 0], [5, 1], [5, 1], [5, 0], [8, 0], [9, 0]]
    assert kaplan_meier(y, [1, 2, 4, 5, 9]) == pytest.approx([1, 6 / 7, 6 / 7, 6 / 7 * 3 / 5, 6 / 7 * 3 / 5])


def test_kaplan_meier_is_that_of_scipy() -> None:
    from scipy.stats import CensoredData, ecdf

    _, y = hospital(200, 2, whole_days=True)
    data = CensoredData(uncensored=y[y[:, 1] == 1, 0], right=y[y[:, 1] == 0, 0])
    times = np.linspace(0, 15, 31)
    assert kaplan_meier(y, times) == pytest.approx(ecdf(data).sf.evaluate(times))


def test_without_censoring_kaplan_meier_is_the_share_still_there() -> None:
    _, y = hospital(50, 2)
    y[:, 1] = 1
    assert kaplan_meier(y, [3.0, 8.0]) == pytest.approx([(y[:, 0] > 3).mean(), (y[:, 0] > 8).mean()])


def test_breslows_baseline_by_hand() -> None:
    """exp(risk) 1, 2, 1 at risk: 1/4 at day 1, nothing at the censoring, 1/1 at day 3."""
    said = cox_forecast([0.0, math.log(2)], [0.0, math.log(2), 0.0], [[1, 1], [2, 0], [3, 1]], [0.5, 1, 2, 3])
    hazard = np.array([0, 1 / 4, 1 / 4, 5 / 4])
    assert said.survival[0] == pytest.approx(np.exp(-hazard))
    assert said.survival[1] == pytest.approx(np.exp(-2 * hazard))


def test_a_constant_added_to_every_risk_cancels_out() -> None:
    risk, y = hospital(40, 5)
    one, other = cox_forecast(risk, risk, y, grid(8.0)), cox_forecast(risk + 300, risk + 300, y, grid(8.0))
    assert other.survival == pytest.approx(one.survival)


def test_risks_beyond_all_bounds_still_give_curves() -> None:
    said = cox_forecast([1e6, -1e6], [0.0, 1.0], [[1, 1], [2, 1]], [1, 2])
    assert said.survival.tolist() == [[0.0, 0.0], [1.0, 1.0]]


def test_survival_curves_order_rows_by_their_mean() -> None:
    said = forecast([[0.9, 0.1], [0.6, 0.5]], horizon=4.0)
    assert said.risk == pytest.approx([-0.5, -0.55])
    assert said.times.tolist() == [2.0, 4.0]
    assert forecast([[0.9, 0.1]]).times.size == 0


@pytest.mark.parametrize("wrong", [[math.nan], [[0.5, 1.5]], [[[0.5]]]], ids=["nan", "above 1", "three dimensions"])
def test_what_is_no_prediction_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        forecast(wrong, horizon=1.0)


@pytest.mark.parametrize("wrong", [[[1, 2]], [[-1, 0]], [[math.inf, 1]], [1.0], [[1, 0, 0]]])
def test_what_is_no_label_is_refused_without_its_value(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expected") as refusal:
        kaplan_meier(wrong, [1.0])
    assert "-1" not in str(refusal.value)


# --- Integrated Brier score -----------------------------------------------------------------------------------------


def test_the_brier_score_by_hand_with_a_censored_row() -> None:
    """At day 2: the event of day 1 scores .3², the row censored on day 2 is known to be without it, as is the last.

    At day 4: the event again; row 2 is unknown; the last weighs 1 / P(censoring ≥ 4) = 1 / (1 − 1/2) = 2.
    """
    survival_ = np.array([[0.3, 0.3], [0.8, 0.7], [0.9, 0.6]])
    said = Forecast(np.zeros(3), np.array([2.0, 4.0]), survival_)
    y = [[1, 1], [2, 0], [5, 0]]
    day_2 = (0.3**2 + 0.2**2 + 0.1**2) / 3
    day_4 = (0.3**2 + 2 * 0.4**2) / 3
    assert integrated_brier(said, y) == pytest.approx((day_2 / 2 * 2 + (day_2 + day_4) / 2 * 2) / 4)


@pytest.mark.parametrize("whole_days", [False, True], ids=["no ties", "ties"])
@pytest.mark.parametrize("seed", range(5))
def test_the_brier_score_is_that_of_row_by_row_and_time_by_time(seed: int, whole_days: bool) -> None:
    risk, y = hospital(40, seed, whole_days=whole_days)
    said = cox_forecast(risk, risk, y, grid(12.0, 6))
    assert integrated_brier(said, y) == pytest.approx(brier_by_hand(said, y), abs=1e-12)


def test_without_censoring_it_is_the_mean_of_sklearns_brier_scores() -> None:
    from sklearn.metrics import brier_score_loss

    risk, y = hospital(60, 9)
    y[:, 1] = 1
    said = cox_forecast(risk, risk, y, grid(5.0, 4))
    each = [brier_score_loss(y[:, 0] > t, said.survival[:, k]) for k, t in enumerate(said.times)]
    assert integrated_brier(said, y) == pytest.approx(np.trapezoid([0.0, *each], [0.0, *said.times]) / 5.0)


def test_rows_cut_off_at_the_horizon_are_known_to_be_without_the_event_then() -> None:
    """Administrative censoring on the very day of the last time leaves the score as if they were followed on."""
    risk, y = hospital(60, 4)
    y[:, 1] = 1
    said = cox_forecast(risk, risk, y, grid(5.0))
    cut = np.stack([np.minimum(y[:, 0], 5.0), y[:, 0] <= 5.0], axis=1).astype(float)
    assert integrated_brier(said, cut) == pytest.approx(integrated_brier(said, y))


def test_times_that_nobody_was_followed_to_are_left_out() -> None:
    said = Forecast(np.zeros(2), np.array([1.0, 2.0, 9.0]), np.full((2, 3), 0.5))
    shorter = Forecast(said.risk, said.times[:2], said.survival[:, :2])
    y = [[1, 1], [3, 0]]
    assert integrated_brier(said, y) == integrated_brier(shorter, y)
    assert math.isnan(integrated_brier(said, [[0.5, 1], [0.5, 0]]))


def test_the_truth_scores_better_than_what_is_too_sure_or_knows_nothing() -> None:
    generator = np.random.default_rng(3)
    risk = generator.normal(size=4000)
    event, censored = generator.exponential(np.exp(-risk)), generator.exponential(2, size=4000)
    y = np.stack([np.minimum(event, censored), event <= censored], axis=1).astype(float)
    times = grid(1.5)
    truth = Forecast(risk, times, np.exp(-np.exp(risk)[:, None] * times))
    sure = Forecast(risk, times, np.exp(-np.exp(2 * risk)[:, None] * times))
    nothing = Forecast(risk, times, np.tile(kaplan_meier(y, times), (4000, 1)))
    assert integrated_brier(truth, y) < integrated_brier(sure, y)
    assert integrated_brier(truth, y) < integrated_brier(nothing, y)
    # and about what it is without censoring: the weights stand for the rows that were lost
    whole = np.stack([event, np.ones(4000)], axis=1)
    assert integrated_brier(truth, y) == pytest.approx(integrated_brier(truth, whole), abs=0.005)

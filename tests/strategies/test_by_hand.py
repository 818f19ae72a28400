"""Every strategy on two hospitals and two parameters, in numbers that can be worked out on paper.

North has one row and is pulled to (12, 0), South three and is pulled to (0, -4): F_k(w) = ½‖w - t_k‖². With a rate of ½
every step halves what is left of the way, so two steps from w come to w + ¾ (t_k - w). By rows the mean of the targets
is t̄ = (3, -3), and with equal weights it is (6, -2).
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from federation import After, federate, pulled_to

from fedmed.strategies.averaging import one_by_one
from fedmed.strategies.options import AggregationOptions
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import TrainingOptions

FULL_STEP = {"learning_rate": 1.0}
TWO_STEPS = {"learning_rate": 0.5, "local_epochs": 2, "batch_size": 3, "rounds": 2}


def run(strategy: str, rounds: int, training: dict[str, Any] | None = None, **options: Any) -> list[After]:
    local = TrainingOptions.model_validate({**TWO_STEPS, **(training or {})})
    problems = {"north": pulled_to(12, 0, 1, local), "south": pulled_to(0, -4, 3, local)}
    chosen = AggregationOptions.model_validate({"strategy": strategy, **options})
    return federate(STRATEGIES[chosen.strategy], chosen, problems, rounds)


def path(trace: list[After]) -> list[list[float]]:
    return [after.state["w"].tolist() for after in trace[1:]]


ROOT = math.sqrt(0.5)
BY_HAND: dict[str, tuple[dict[str, Any], list[list[float]]]] = {
    # ¾ t̄, then ¾ of what is left
    "fedavg": ({}, [[2.25, -2.25], [2.8125, -2.8125]]),
    "fedbn": ({}, [[2.25, -2.25], [2.8125, -2.8125]]),
    "mean": ({}, [[4.5, -1.5], [5.625, -1.875]]),
    # half the step: ⅜ t̄, then ⅜ of what is left: 3 · (⅜ + ⅝ · ⅜)
    "fedavg with half a step": ({"learning_rate": 0.5}, [[1.125, -1.125], [1.828125, -1.828125]]),
    # one step of size ½ along the mean gradient w - t̄
    "fedsgd": ({"learning_rate": 0.5}, [[1.5, -1.5], [2.25, -2.25]]),
    # first step to ½ t; there the pull back, μ = 1, is as strong: w + ½ (t - w) for both rounds
    "fedprox": ({"mu": 1.0}, [[1.5, -1.5], [2.25, -2.25]]),
    # v₁ = ¾ t̄; Δ₂ = ¾ · ¼ t̄, v₂ = ½ · ¾ t̄ + 3/16 t̄ = 9/16 t̄; w₂ = 21/16 t̄
    "fedavgm": ({"momentum": 0.5}, [[2.25, -2.25], [3.9375, -3.9375]]),
    # Δ = ±9/4, τ = 3: v = 9 + 81/16 = (15/4)²; 9/4 / (15/4 + 3)
    "fedadagrad": ({**FULL_STEP, "beta1": 0.0, "tau": 3.0}, [[1 / 3, -1 / 3]]),
    # v = 40/63 · 9 + 23/63 · 81/16 = (11/4)²; 9/4 / (11/4 + 3)
    "fedadam": ({**FULL_STEP, "beta1": 0.0, "beta2": 40 / 63, "tau": 3.0}, [[9 / 23, -9 / 23]]),
    "fedadam with β₁ = ½": ({**FULL_STEP, "beta1": 0.5, "beta2": 40 / 63, "tau": 3.0}, [[9 / 46, -9 / 46]]),
    # v = 9 - 44/81 · 81/16 = (5/2)²; 9/4 / (5/2 + 3)
    "fedyogi": ({**FULL_STEP, "beta1": 0.0, "beta2": 37 / 81, "tau": 3.0}, [[9 / 22, -9 / 22]]),
    # v = 1 + 44/81 · 81/16 = 15/4, since v < Δ²
    "fedyogi where v is below Δ²": (
        {**FULL_STEP, "beta1": 0.0, "beta2": 37 / 81, "tau": 1.0},
        [[2.25 / (math.sqrt(3.75) + 1), -2.25 / (math.sqrt(3.75) + 1)]],
    ),
    # c_north = -(9, 0) and c_south = -(0, -3), c = (-4.5, 1.5): North is now pulled to (7.5, -1.5), South to (4.5, -2.5)
    "scaffold": ({}, [[4.5, -1.5], [5.625, -1.875]]),
    # both take two steps: as fedavg
    "fednova": ({}, [[2.25, -2.25], [2.8125, -2.8125]]),
    # local minima ½ t, mean (3, -1), h = -mean, w = 2 · mean: the minimum of both, where it stays
    "feddyn": ({"alpha": 1.0}, [[6.0, -2.0], [6.0, -2.0]]),
    "ditto": ({"ditto_lambda": 1.0}, [[2.25, -2.25], [2.8125, -2.8125]]),
    # four steps of one round: t̄ (1 - 1/16)
    "one_shot": ({}, [[2.8125, -2.8125]]),
    # North first; then South, who started with it: its update counts 1/√2
    "fedbuff": ({"buffer": 1, "arrivals": ("north", "south")}, [[9.0, 0.0], [9.0, -3 * ROOT]]),
    # mean of both; then North on the newest and South on the newest
    "fedbuff with all in the buffer": (
        {"buffer": 2, "arrivals": ("north", "south", "south", "north")},
        [[4.5, -1.5], [5.625, -1.875]],
    ),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_the_global_weights_are_those_worked_out_by_hand(case: str) -> None:
    options, expected = BY_HAND[case]
    trace = run(case.partition(" ")[0], len(expected), **options)
    for found, wanted in zip(path(trace), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)


def test_every_strategy_is_worked_out_by_hand() -> None:
    assert {case.partition(" ")[0] for case in BY_HAND} | {"cyclic"} == set(STRATEGIES)


def test_cyclic_goes_on_from_the_weights_of_the_one_before() -> None:
    targets = {"north": (12.0, 0.0), "south": (0.0, -4.0)}
    turns = [one_by_one(list(targets), number, 2026, AggregationOptions())[0] for number in (1, 2, 3)]
    assert [turn.base for turn in turns] == [0, 1, 2]
    first, second = (targets[turn.site] for turn in turns[:2])
    assert {turns[0].site, turns[1].site} == set(targets)
    assert turns[2].site == turns[0].site
    expected = [[0.75 * a, 0.75 * b] for a, b in [first]] + [
        [0.75 * p + 0.1875 * q for p, q in zip(second, first, strict=True)]
    ]
    for found, wanted in zip(path(run("cyclic", 2)), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)


def test_fednova_does_not_let_the_hospital_with_more_steps_pull_harder() -> None:
    # One row a step: North Δ = 6 in one, South Δ = -3.5 in three. Σ p d = (6/4, -3 · 3.5/3 / 4); τ = (1 + 3 · 3) / 4.
    (found,) = path(run("fednova", 1, {"batch_size": 1, "local_epochs": 1}))
    assert found == pytest.approx([3.75, -2.1875], abs=1e-6)
    (averaged,) = path(run("fedavg", 1, {"batch_size": 1, "local_epochs": 1}))
    assert averaged == pytest.approx([1.5, -2.625], abs=1e-6)


def test_ditto_keeps_a_model_for_each_hospital_between_its_own_and_the_global_one() -> None:
    # λ = 1, rate ½: every step goes to (t + w) / 2. First w = 0, then w = (2.25, -2.25).
    trace = run("ditto", 2, ditto_lambda=1.0)
    own = [{site: kept.personal["w"].tolist() for site, kept in after.kept.items()} for after in trace[1:]]
    assert own[0] == {"north": [6.0, 0.0], "south": [0.0, -2.0]}
    assert own[1] == {"north": [7.125, -1.125], "south": [1.125, -3.125]}


def test_scaffold_corrects_where_averaging_is_off_for_hospitals_of_unlike_length() -> None:
    # One row a step, one pass: North takes one step a round and South three, but the minimum of the mean is (6, -2).
    local = {"batch_size": 1, "local_epochs": 1, "rounds": 60, "learning_rate": 0.25}
    averaged, corrected = (run(name, 60, local)[-1].state["w"] for name in ("mean", "scaffold"))
    assert corrected.tolist() == pytest.approx([6, -2], abs=1e-3)
    assert not torch.allclose(averaged, torch.tensor([6.0, -2.0]), atol=0.5)


def test_the_servers_step_falls_by_its_schedule() -> None:
    # linear over two rounds: factors 1 and ½; ¾ t̄ and then half of ¾ of what is left
    assert path(run("fedavg", 2, schedule="linear"))[1] == pytest.approx([3 * (0.75 + 0.25 * 0.375)] * 1 + [-2.53125])
    # a rise over two rounds: ½ and 1
    assert path(run("fedavg", 1, warmup=2))[0] == pytest.approx([1.125, -1.125])


def test_the_local_step_falls_by_its_schedule() -> None:
    # rates ½ and ¼: in round 2 two steps leave (¾)² of the way
    second = path(run("fedavg", 2, {"schedule": "linear"}))[1]
    assert second == pytest.approx([3 * (1 - 0.25 * 0.5625), -3 * (1 - 0.25 * 0.5625)])


def test_one_shot_takes_as_many_steps_as_all_rounds_whether_counted_in_passes_or_in_updates() -> None:
    by_updates = run("one_shot", 1, {"local_updates": 2, "local_epochs": 1})  # two rounds of two steps
    assert path(by_updates) == path(run("one_shot", 1))
    # its rate falls as in the rounds of a run: ½, ½ and then ¼, ¼
    falling = path(run("one_shot", 1, {"schedule": "linear"}))
    assert falling == [pytest.approx([3 * (1 - 0.25 * 0.5625), -3 * (1 - 0.25 * 0.5625)])]


def test_a_hospital_that_is_absent_from_a_round_takes_part_in_the_next_with_its_memory() -> None:
    local = TrainingOptions.model_validate(TWO_STEPS)
    problems = {"north": pulled_to(12, 0, 1, local), "south": pulled_to(0, -4, 3, local)}
    options = AggregationOptions(strategy="scaffold")
    trace = federate(STRATEGIES["scaffold"], options, problems, 2, absent=frozenset({("south", 1)}))
    # North alone: w = (9, 0), c_north = (-9, 0) and c = ½ (-9, 0).
    assert trace[1].state["w"].tolist() == [9.0, 0.0]
    assert trace[1].memory["c/w"].tolist() == [-4.5, 0.0]
    assert dict(trace[1].kept["south"].memory) == {}
    # North goes to 12 - 9 + 4.5 = 7.5: 9 - ¾ 1.5; South to (4.5, -4) from (9, 0): (5.625, -3).
    assert trace[2].state["w"].tolist() == [(7.875 + 5.625) / 2, -1.5]


def test_scaffolds_control_is_the_mean_gradient_that_was_met_with_momentum_too() -> None:
    # Rate ½, momentum ½, from 0: gradient -12, w = 6; gradient -6, v = -6 - 6 = -12, w = 12.
    # ‖a‖₁ = 1 + 1.5: the steps hold -12 one and a half times and -6 once, in the mean -24 / 2.5.
    trace = run("scaffold", 1, {"momentum": 0.5})
    assert trace[1].kept["north"].memory["c/w"].tolist() == pytest.approx([-9.6, 0.0])
    converged = run("scaffold", 60, {"momentum": 0.5, "learning_rate": 0.1, "rounds": 60})[-1].state["w"]
    assert converged.tolist() == pytest.approx([6, -2], abs=1e-3)


def test_with_adam_scaffolds_control_is_the_gradient_at_the_global_weights() -> None:
    trace = run("scaffold", 2, {"optimizer": "adam", "momentum": 0.9})
    assert trace[1].kept["north"].memory["c/w"].tolist() == [-12.0, 0.0]
    assert trace[1].memory["c/w"].tolist() == pytest.approx([-6.0, 2.0])
    x, y = trace[1].state["w"].tolist()
    assert trace[2].kept["south"].memory["c/w"].tolist() == pytest.approx([x, y + 4])


def test_with_adam_every_step_counts_one_for_fednova() -> None:
    # One step of Adam is as long as the rate. North takes one and South three; ‖a‖₁ is 1 and 3, whatever the momentum.
    one, other = (
        path(run("fednova", 1, {"optimizer": "adam", "batch_size": 1, "local_epochs": 1, "momentum": momentum}))
        for momentum in (0.0, 0.9)
    )
    assert one == other
    assert one[0][0] == pytest.approx(0.25 * 0.5 * 2.5, abs=1e-5)  # p = ¼, a step of ½, τ = 2.5

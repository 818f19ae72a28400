"""What travels of a turn, as integers: the order of its parts, the range of each, and the means that it comes to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fedmed.aggregation.codec import SMALLER, blocks, decode_update, encode_update, travelling
from fedmed.aggregation.grid import FixedPoint
from fedmed.models.parts import Parts, parts_of
from fedmed.strategies.base import Fitted, Sent
from fedmed.strategies.options import AggregationOptions, StrategyName
from fedmed.strategies.server import aggregate
from fedmed.strategies.table import STRATEGIES

GRID = FixedPoint(bits=32, limit=16.0, weight=1000)  # steps of 2^-17
STEP = 2.0**-GRID.exponent
LINEAR = nn.Linear(3, 1)
PARTS = parts_of(LINEAR)
BASE = {"weight": torch.tensor([[0.1, -0.2, 0.3]]), "bias": torch.tensor([0.5])}


def answer(state: dict[str, Tensor], base: dict[str, Tensor], parts: Parts, normaliser: float = 1.0) -> Sent:
    weights, statistics = travelling(state, parts)
    change = {name: tensor - base[name] for name, tensor in weights.items()}
    return Sent(change, Fitted(weights, statistics, 0.5, 1), normaliser)


def test_an_update_travels_as_integers_in_name_order_with_its_normaliser_last() -> None:
    moved = {"weight": BASE["weight"] + torch.tensor([[1.0, 2.0, 3.0]]), "bias": BASE["bias"] + 4.0}
    update = encode_update(answer(moved, BASE, PARTS, 32.0), BASE, {}, STRATEGIES["fedavg"], 2, GRID)
    assert update.dtype == torch.int32
    assert (update.double() * STEP / 2).round(decimals=4).tolist() == [4.0, 1.0, 2.0, 3.0, 0.0312]  # 32 / 1024
    told = decode_update(update.double() * STEP / 2, BASE, {}, STRATEGIES["fedavg"])
    assert told.normaliser == 32.0
    assert told.change["bias"].item() == pytest.approx(4.0, abs=1e-5)


def test_parts_of_an_update_follow_each_other_change_extras_moments_normaliser() -> None:
    statistics = {"n.running_mean": torch.zeros(2), "n.running_var": torch.ones(2)}
    assert blocks(BASE, statistics, STRATEGIES["scaffold"]) == [4, 4, 4, 1]
    assert blocks(BASE, {}, STRATEGIES["fedavg"]) == [4, 1]


@pytest.mark.parametrize("steps", [1.0, 16_000.0])
def test_a_normaliser_of_many_steps_is_within_the_range_of_a_weight(steps: float) -> None:
    update = encode_update(answer(BASE, BASE, PARTS, steps), BASE, {}, STRATEGIES["fednova"], 3, GRID)
    assert decode_update(GRID.mean([update], 3), BASE, {}, STRATEGIES["fednova"]).normaliser == steps
    assert SMALLER * steps < GRID.limit


def combined(name: StrategyName, rows: dict[str, int], at: dict[str, float], base: float) -> float:
    network = nn.Linear(1, 1, bias=False)
    start, parts = {"weight": torch.tensor([[base]])}, parts_of(network)
    weights = {site: STRATEGIES[name].weigh(rows[site]) for site in rows}
    updates = {
        site: encode_update(
            answer({"weight": torch.tensor([[at[site]]])}, start, parts),
            start,
            {},
            STRATEGIES[name],
            weights[site],
            GRID,
        )
        for site in rows
    }
    options = AggregationOptions(strategy=name)
    state, _ = aggregate(STRATEGIES[name], options, start, {}, updates, weights, GRID, parts, sites=len(rows), rate=1.0)
    return state["weight"].item()


@pytest.mark.parametrize(("strategy", "expected"), [("fedavg", 0.5), ("mean", 1.0)])
def test_the_mean_of_thirty_rows_at_0_and_ten_at_2(strategy: StrategyName, expected: float) -> None:
    # fedavg: (30 · 0 + 10 · 2) / 40 = .5; mean: (0 + 2) / 2 = 1
    assert combined(strategy, {"a": 30, "b": 10}, {"a": 0.0, "b": 2.0}, 0.0) == expected


def test_fedavg_is_the_weighted_mean_of_the_weights_themselves_not_of_the_changes_alone() -> None:
    # base 1; sites at 1.5 (1 row) and 3 (3 rows): (1.5 + 9) / 4 = 2.625
    assert combined("fedavg", {"a": 1, "b": 3}, {"a": 1.5, "b": 3.0}, 1.0) == 2.625


@pytest.mark.parametrize("strategy", ["fedavg", "mean"])
def test_a_mean_lies_between_its_sites_and_one_site_is_itself(strategy: StrategyName) -> None:
    assert -1 - STEP <= combined(strategy, {"a": 3, "b": 50}, {"a": -1.0, "b": 2.0}, 0.3) <= 2 + STEP
    for by in (-4.0, 0.1, 3.999):
        assert combined(strategy, {"a": 7}, {"a": by}, 0.3) == pytest.approx(by, abs=STEP / 2 + 1e-6)

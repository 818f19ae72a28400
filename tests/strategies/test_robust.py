"""Rules that combine updates, by hand, against plain numpy, and against hospitals that want the result elsewhere."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from federation import federate, pulled_to
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedmed.strategies.options import AggregationOptions, CombineName
from fedmed.strategies.robust import COMBINE, capped, krum_scores
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import Problem, TrainingOptions

Vectors = NDArray[np.float64]
every_rule = pytest.mark.parametrize("rule", COMBINE)


def combine(rule: CombineName, vectors: object, weights: object = None, **options: object) -> list[float]:
    rows = torch.tensor(np.asarray(vectors, dtype=float))
    counts = torch.ones(len(rows), dtype=torch.float64) if weights is None else torch.tensor(np.asarray(weights, float))
    found: list[float] = COMBINE[rule](rows, counts, AggregationOptions.model_validate(options)).tolist()
    return found


FIVE = [[0.0, 1.0], [1.0, 5.0], [2.0, 3.0], [3.0, 2.0], [100.0, -100.0]]


def test_the_rules_by_hand_on_five_hospitals_of_which_one_is_far_off() -> None:
    assert combine("mean", FIVE) == [106 / 5, -89 / 5]
    assert combine("mean", FIVE, [1, 0, 0, 0, 3]) == [75, -74.75]
    assert combine("median", FIVE) == [2, 2]
    assert combine("median", FIVE[:4]) == [1.5, 2.5]  # of two middle values their mean
    assert combine("trimmed_mean", FIVE, trim=0.2) == [2, 2]  # without one at either end: (1+2+3)/3, (1+2+3)/3
    assert combine("trimmed_mean", FIVE, trim=0.19) == [106 / 5, -89 / 5]  # ⌊.95⌋ = 0
    assert combine("trimmed_mean", FIVE, trim=0.4) == [2, 2]
    # lengths 5, 5 and 50: with the median 5 the last counts a tenth
    assert combine("clipped_mean", [[3.0, 4.0], [5.0, 0.0], [30.0, 40.0]], clip=1.0) == pytest.approx([11 / 3, 8 / 3])
    assert combine("clipped_mean", [[3.0, 4.0], [5.0, 0.0], [30.0, 40.0]], [1, 1, 2], clip=2.0) == pytest.approx(
        [(3 + 5 + 12) / 4, (4 + 16) / 4]
    )


def test_krum_by_hand() -> None:
    # On a line, f = 1 of five: the two nearest others. Sums of squares: 0: 1+4, 1: 1+1, 2: 1+1, 3: 1+4, 9: 36+49.
    line = [[0.0], [1.0], [2.0], [3.0], [9.0]]
    assert krum_scores(torch.tensor(line, dtype=torch.float64), 1).tolist() == [5, 2, 2, 5, 85]
    assert combine("krum", line, faulty=1) == [1]  # the first of equals
    assert combine("multi_krum", line, faulty=1) == [1.5]  # all but the worst
    assert combine("multi_krum", line, [4, 1, 1, 2, 100], faulty=1) == [(1 + 2 + 6) / 8]
    assert combine("multi_krum", line, faulty=2) == [1]  # 0, 1 and 2: with f = 2, the nearest only


def numpy_krum(vectors: Vectors, f: int) -> list[float]:
    scores = []
    for i, v in enumerate(vectors):
        near = sorted(float(np.sum((v - u) ** 2)) for j, u in enumerate(vectors) if j != i)
        scores.append(sum(near[: max(1, len(vectors) - f - 2)]))
    return scores


def numpy_geometric_median(vectors: Vectors, weights: Vectors) -> Vectors:
    """By descent on Σ w ‖z - v‖ itself, with ever smaller steps: slow, and another way."""
    from scipy.optimize import minimize

    def total(z: Vectors) -> float:
        return float(weights @ np.sqrt(np.sum((vectors - z) ** 2, axis=1) + 1e-18))

    best = min(
        (
            minimize(total, v, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000})
            for v in (vectors.mean(axis=0), np.median(vectors, axis=0))
        ),
        key=lambda found: found.fun,
    )
    return np.asarray(best.x)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [3, 5, 8])
def test_the_rules_are_those_of_plain_numpy(count: int, seed: int) -> None:
    rng = np.random.default_rng([count, seed])
    v, w = rng.normal(size=(count, 2)), rng.integers(1, 9, count).astype(float)
    ordered = np.sort(v, axis=0)
    drop = count // 4
    assert combine("median", v) == pytest.approx(list(np.median(v, axis=0)))
    assert combine("trimmed_mean", v, trim=0.25) == pytest.approx(list(ordered[drop : count - drop].mean(axis=0)))
    scores = numpy_krum(v, 1)
    assert krum_scores(torch.tensor(v), 1).tolist() == pytest.approx(scores)
    assert combine("krum", v, faulty=1) == pytest.approx(list(v[int(np.argmin(np.round(scores, 9)))]))
    best = np.argsort(np.round(scores, 9), kind="stable")[: count - 1]
    assert combine("multi_krum", v, w, faulty=1) == pytest.approx(list(w[best] @ v[best] / w[best].sum()))
    assert combine("geometric_median", v, w) == pytest.approx(list(numpy_geometric_median(v, w)), abs=1e-4)
    norms = np.linalg.norm(v, axis=1)
    short = np.minimum(1, 1.2 * np.median(norms) / norms)[:, None] * v
    assert combine("clipped_mean", v, w, clip=1.2) == pytest.approx(list(w @ short / w.sum()))


numbers = st.floats(-10, 10).map(lambda x: round(x, 2))
tables = st.integers(1, 4).flatmap(
    lambda size: st.lists(st.lists(numbers, min_size=size, max_size=size), min_size=1, max_size=7)
)


@every_rule
@settings(max_examples=25)
@given(vectors=tables, factor=st.floats(-8, 8).filter(lambda x: abs(x) > 0.01))
def test_scaling_in_is_scaling_out(rule: CombineName, vectors: list[list[float]], factor: float) -> None:
    scaled = combine(rule, np.asarray(vectors) * factor)
    # A power of two changes no bit; of ties between nearly equal scores any may win, so others are tried on no tie.
    exact = 2.0 ** round(np.log2(abs(factor))) * np.sign(factor)
    assert combine(rule, np.asarray(vectors) * exact) == pytest.approx(
        [exact * x for x in combine(rule, vectors)], abs=1e-6
    )
    if rule not in {"krum", "multi_krum"}:
        assert scaled == pytest.approx([factor * x for x in combine(rule, vectors)], rel=1e-4, abs=1e-4)


@every_rule
@settings(max_examples=25)
@given(vector=st.lists(numbers, min_size=1, max_size=4), count=st.integers(1, 9), weight=st.integers(1, 500))
def test_equal_vectors_give_themselves(rule: CombineName, vector: list[float], count: int, weight: int) -> None:
    weights = [1 + (weight * (k + 1)) % 97 for k in range(count)]
    assert combine(rule, [vector] * count, weights) == pytest.approx(vector, abs=1e-12)


@every_rule
@settings(max_examples=25)
@given(vectors=tables)
def test_every_coordinate_lies_between_those_of_the_hospitals(rule: CombineName, vectors: list[list[float]]) -> None:
    if rule == "clipped_mean":  # shortened ones lie nearer to 0
        vectors = [*vectors, [0.0] * len(vectors[0])]
    found, table = np.asarray(combine(rule, vectors)), np.asarray(vectors)
    assert bool(((table.min(axis=0) - 1e-9 <= found) & (found <= table.max(axis=0) + 1e-9)).all())


@pytest.mark.parametrize("rule", [rule for rule in COMBINE if rule != "mean"])
@pytest.mark.parametrize("far", [[1e3, 1e3], [-1e6, 1e6]])
def test_one_hostile_hospital_of_seven_moves_the_mean_and_no_robust_rule(rule: CombineName, far: list[float]) -> None:
    honest = np.random.default_rng(3).normal([1.0, -1.0], 0.1, size=(6, 2))
    table = np.vstack([honest, far])
    assert np.linalg.norm(np.asarray(combine("mean", table)) - [1, -1]) > 100
    assert np.linalg.norm(np.asarray(combine(rule, table, faulty=1)) - [1, -1]) < 0.75


@pytest.mark.parametrize("rule", [rule for rule in COMBINE if rule != "mean"])
def test_a_run_with_a_robust_rule_shrugs_off_a_hospital_that_sends_the_opposite(rule: CombineName) -> None:
    local = TrainingOptions(learning_rate=0.5, local_epochs=2, rounds=6, batch_size=8)
    honest = {f"site-{k}": pulled_to(1 + k / 50, -1, 3, local) for k in range(5)}
    hostile = {"mallory": Problem(*pulled_to(-400, 300, 3, local))}

    def ends(rule: CombineName) -> torch.Tensor:
        options = AggregationOptions(combine=rule, faulty=1)
        found = federate(STRATEGIES["fedavg"], options, {**honest, **hostile}, 6, limit=4096.0)[-1].state["w"]
        return (found - torch.tensor([1.04, -1.0])).norm()

    assert ends("mean") > 50
    assert ends(rule) < 1.0


def test_more_values_than_torchs_quantile_takes() -> None:
    vectors = torch.arange(3, dtype=torch.float64).unsqueeze(1).expand(3, 5_600_000)
    assert COMBINE["median"](vectors, torch.ones(3), AggregationOptions()).unique().tolist() == [1.0]


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=2), st.integers(1, 10**6), min_size=1), st.floats(0.01, 1)
)
def test_no_hospital_has_a_larger_share_than_the_cap(weights: dict[str, int], share: float) -> None:
    if share * len(weights) < 1 - 1e-9:
        with pytest.raises(ValueError, match=r"aggregation.largest_share is .* of the weight"):
            capped(weights, share)
        return
    found = capped(weights, share)
    assert found.keys() == weights.keys()
    assert all(1 <= found[site] <= weights[site] for site in weights)
    total = sum(found.values())
    assert max(found.values()) <= share * total + 1 + share * len(weights)  # whole numbers
    assert capped(weights, 1.0) == weights


def test_the_cap_by_hand() -> None:
    # one cut: c = .4 (c + 30), c = 20; two cut: c = .4 (2 c + 10), c = 20
    assert capped({"a": 1000, "b": 20, "c": 10}, 0.4) == {"a": 20, "b": 20, "c": 10}
    assert capped({"a": 1000, "b": 500, "c": 10}, 0.4) == {"a": 20, "b": 20, "c": 10}
    assert capped({"a": 90, "b": 5}, 0.5) == {"a": 5, "b": 5}
    assert capped({"a": 3, "b": 2, "c": 2}, 0.5) == {"a": 3, "b": 2, "c": 2}
    # the largest cap that keeps the share: any one more would break it
    for share in (0.34, 0.4, 0.5, 0.7):
        found = capped({"a": 900, "b": 300, "c": 200}, share)
        assert max(found.values()) / sum(found.values()) <= share + 1 / sum(found.values())


def test_a_krum_tie_is_broken_alike_whatever_the_scale_and_whatever_the_names() -> None:
    # Of three hospitals the nearest two always tie.
    local = TrainingOptions(learning_rate=0.5, rounds=1, batch_size=8)
    options = AggregationOptions(combine="krum")
    for scale in (1.0, 2.0, 3.7):
        targets = {"a": (1.0 * scale, 2.0), "b": (1.5 * scale, 2.0), "c": (9.0 * scale, 2.0)}
        for names in (("a", "b", "c"), ("c", "b", "a"), ("b", "c", "a")):
            there = {name: pulled_to(*targets[of], 2, local) for name, of in zip(names, "abc", strict=True)}
            assert federate(STRATEGIES["fedavg"], options, there, 1)[-1].state["w"][0].item() == pytest.approx(
                scale / 2
            )


def test_pairs_of_rules_differ_somewhere_so_that_none_is_another_in_disguise() -> None:
    found = {
        rule: tuple(np.round(combine(rule, FIVE, [1, 2, 3, 4, 5], trim=0.2, faulty=1, clip=1.5), 6)) for rule in COMBINE
    }
    same = {(a, b) for a, b in combinations(found, 2) if found[a] == found[b]}
    assert same <= {("median", "trimmed_mean")}

"""Whether federating helped: verdicts, their sentences, and what they must not give away."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from fedmed.evaluation.comparison import Comparison
from fedmed.evaluation.measurement import Measurement
from fedmed.targets.binary import compare


def expit(score: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-score)))


def hospital(rows: int, seed: int, *, federated: float, own: float) -> dict[str, Any]:
    """Labels and two models, each of which sees the true logit through noise of the given scale."""
    generator = np.random.default_rng(seed)
    logit = 1.5 * generator.normal(size=rows)
    noise = generator.normal(size=(2, rows)) * [[federated], [own]]
    return {
        "label": (generator.random(rows) < expit(logit)).astype(int),
        "federated": expit(logit + noise[0]),
        "own": expit(logit + noise[1]),
    }


def compared(*, seed: int = 0, **settings: Any) -> Comparison:
    """`hungarian` with 400 resamples, unless the case says otherwise."""
    defaults: dict[str, Any] = {"reference": 0, "resamples": 400, "generator": np.random.default_rng(seed)}
    return compare("hungarian", **(defaults | settings))


def test_the_difference_by_hand() -> None:
    """Of 24 rows, the federated model is .2 off and the own one .6: Brier .04 against .36, accuracy 1 against 0."""
    y = np.tile([0, 1], 12)
    found = compared(label=y, federated=np.where(y, 0.8, 0.2), own=np.where(y, 0.4, 0.6), pooled=np.where(y, 0.9, 0.1))
    assert {name: entry.value for name, entry in found.figures["brier"].items()} == {
        "federated": 0.04,
        "own": 0.36,
        "pooled": 0.01,
    }
    assert {name: entry.value for name, entry in found.differences["brier"].items()} == {"own": -0.32, "pooled": 0.03}
    accuracy = {"federated": 1, "own": 0, "pooled": 1, "majority": 0.5}
    assert {name: entry.value for name, entry in found.figures["accuracy"].items()} == accuracy
    assert {name: entry.value for name, entry in found.differences["accuracy"].items()} == {
        "own": 1,
        "pooled": 0,
        "majority": 0.5,
    }


def test_a_better_federated_model_helped() -> None:
    found = compared(**hospital(300, 1, federated=0.2, own=2.5))
    difference = found.differences["brier"]["own"]
    assert found.verdict == "helped"
    assert difference.high is not None
    assert difference.high < 0
    assert found.sentence.startswith("Federating helped hungarian: Brier .")


def test_a_worse_federated_model_hurt() -> None:
    found = compared(**hospital(300, 1, federated=2.5, own=0.2))
    assert found.verdict == "hurt"
    assert found.sentence.startswith("Federating hurt hungarian: Brier .")


def test_the_sentence_has_the_figures_that_the_verdict_rests_on() -> None:
    entries = {"federated": Measurement(value=0.142), "own": Measurement(value=0.171)}
    gap = {"own": Measurement(value=-0.029, low=-0.051, high=-0.008)}
    found = Comparison(
        hospital="hungarian",
        verdict="helped",
        metric="brier",
        figures={"brier": entries},
        differences={"brier": gap},
    )
    expected = "Federating helped hungarian: Brier .142 against .171 alone (difference −.029, 95 % −.051 to −.008)"
    assert found.sentence == expected


def test_the_same_model_twice_makes_no_clear_difference() -> None:
    data = hospital(100, 1, federated=0.5, own=0.5)
    found = compared(label=data["label"], federated=data["own"], own=data["own"])
    assert found.verdict == "no clear difference"
    assert found.sentence.endswith("alone (difference .000)")


def test_a_hospital_without_a_model_of_its_own_has_no_verdict() -> None:
    data = hospital(100, 1, federated=0.5, own=0.5)
    found = compared(label=data["label"], federated=data["federated"], own=None)
    assert found.verdict == "not estimable"
    assert found.figures["brier"]["federated"].value is not None
    assert found.figures["brier"]["own"] == found.differences["accuracy"]["own"] == Measurement(reason="not estimable")
    assert found.sentence == "Whether federating helped hungarian is not estimable: it has no model of its own"


def test_too_few_rows_have_no_verdict() -> None:
    found = compared(**hospital(10, 1, federated=0.5, own=0.5), minimum_cell=11)
    entries = [
        *found.figures["brier"].values(),
        *found.figures["accuracy"].values(),
        *found.differences["brier"].values(),
    ]
    assert {entry.reason for entry in entries} == {"suppressed"}
    assert found.sentence == "Whether federating helped hungarian is not estimable: its figures are suppressed"


def test_a_small_class_suppresses_the_majority_but_a_true_bound() -> None:
    """Of 29 rows, 3 are ill. Fewer than 11 are: so at least 19 of 29, or .655, are not. It is shown as .65."""
    y, p = (np.arange(29) < 3).astype(int), np.linspace(0.02, 0.9, 29)
    found = compared(label=y, federated=p, own=p[::-1], reference=0)
    assert found.verdict != "not estimable"
    assert found.figures["accuracy"]["majority"] == Measurement(reason="suppressed", low=0.65)
    assert found.differences["accuracy"]["majority"] == Measurement(reason="suppressed")
    assert str(found.figures["accuracy"]["majority"]) == "≥ .65"
    other_way = compared(label=y, federated=p, own=p[::-1], reference=1)
    assert other_way.figures["accuracy"]["majority"] == Measurement(reason="suppressed", high=0.35)  # 10 of 29 is .345


def test_the_bound_is_true_for_every_small_class() -> None:
    for rows in range(21, 200):
        for small in (0, 10):
            y = (np.arange(rows) < small).astype(int)
            found = compared(label=y, federated=np.full(rows, 0.3), own=None).figures["accuracy"]["majority"]
            assert found.low is not None
            assert found.low <= 1 - small / rows
            found = compared(label=y, federated=np.full(rows, 0.3), own=None, reference=1).figures["accuracy"][
                "majority"
            ]
            assert found.high is not None
            assert found.high >= small / rows


def test_two_small_classes_have_no_bound() -> None:
    """Of 20 rows, 10 and 10: that both are under 11 would say exactly that."""
    y = np.tile([0, 1], 10)
    assert compared(label=y, federated=np.linspace(0, 1, 20), own=None).figures["accuracy"]["majority"] == Measurement(
        reason="suppressed"
    )


def test_a_model_that_always_says_the_same_does_not_tell_the_class_through_a_difference() -> None:
    y, p = (np.arange(60) < 3).astype(int), np.linspace(0.02, 0.9, 60)
    found = compared(label=y, federated=p, own=np.full(60, 0.05))
    suppressed = Measurement(reason="suppressed")
    assert found.figures["accuracy"]["own"] == found.differences["accuracy"]["own"] == suppressed
    assert found.figures["brier"]["own"] == found.differences["brier"]["own"] == suppressed
    assert found.figures["accuracy"]["federated"].value is not None
    assert found.verdict == "not estimable"


@pytest.mark.parametrize("majority", [0, 1])
@pytest.mark.parametrize("own", ["the same", "always negative", "always positive"])
def test_no_withheld_class_follows_from_the_comparison(majority: int, own: str) -> None:
    """As for the measurements: every confusion table with a small class, against own models of three kinds."""
    minimum = 5
    for rows in (5, 8, 9, 10, 13):
        possible = defaultdict(set)
        for positive in range(rows + 1):
            if positive >= minimum and rows - positive >= minimum:
                continue
            for true in range(positive + 1):
                for false in range(rows - positive + 1):
                    counts = [true, false, positive - true, rows - positive - false]
                    p, y = np.repeat([0.8, 0.8, 0.3, 0.3], counts), np.repeat([1, 0, 1, 0], counts)
                    alone = {
                        "the same": p,
                        "always negative": np.full(rows, 0.1),
                        "always positive": np.full(rows, 0.9),
                    }
                    settings = {"reference": majority, "minimum_cell": minimum, "resamples": 100}
                    found = compared(label=y, federated=p, own=alone[own], **settings)
                    possible[found.model_dump_json()].add(positive)
        assert min(len(counts) for counts in possible.values()) >= 2


def test_equal_generators_give_equal_comparisons() -> None:
    data = hospital(80, 1, federated=0.5, own=0.7)
    assert compared(**data, seed=4) == compared(**data, seed=4)


def test_equally_good_models_seldom_get_a_verdict_and_unequal_ones_mostly_do() -> None:
    hospitals = range(200)
    equal = [compared(**hospital(120, seed, federated=1.0, own=1.0), seed=seed).verdict for seed in hospitals]
    unequal = [compared(**hospital(120, seed, federated=0.3, own=2.0), seed=seed).verdict for seed in hospitals]
    assert sum(verdict != "no clear difference" for verdict in equal) / 200 <= 0.10
    assert unequal.count("helped") / 200 >= 0.80
    assert "hurt" not in unequal


@pytest.mark.parametrize("majority", [-1, 2, 0.5])
def test_a_majority_that_is_no_class_is_refused(majority: int) -> None:
    with pytest.raises(ValueError, match="expected the class 0 or 1"):
        compared(**hospital(80, 1, federated=0.5, own=0.7), reference=majority)


def test_models_of_other_rows_are_refused() -> None:
    data = hospital(80, 1, federated=0.5, own=0.7)
    with pytest.raises(ValueError, match="one shape"):
        compared(**(data | {"own": data["own"][:79]}))
    with pytest.raises(ValueError, match="in \\[0, 1\\]"):
        compared(**(data | {"own": np.full(80, np.nan)}))

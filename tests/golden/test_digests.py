"""The final weights of every strategy × rule × kind of cohort are those that were recorded, to the bit.

Floating point is the same to the bit only on the same kind of processor under the same torch. `probe` in the file
stands for both: where it is the recorded one, the SHA-256 of the weights is compared; on another processor or another
torch only the sums of their absolute values, to a thousandth. A run that is refused is refused with the same error.

A difference means that a change bears on weights. Where that is meant, `tests/support/golden.py` writes the file anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from golden import COMBINE, STRATEGIES, Combination, Hospitals, combinations, digest_of, probe, recorded

RUNS = combinations()
KEPT = recorded()
EXACT = probe() == KEPT["probe"]


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    return Hospitals(tmp_path_factory.mktemp("hospitals"))


def held_against(found: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
    if EXACT or "error" in kept:
        assert found == kept
    else:
        assert found["sum"] == pytest.approx(kept["sum"], rel=1e-3)
        assert found.keys() == kept.keys()
    if "own" in kept:
        held_against(found["own"], kept["own"])


@pytest.mark.parametrize(
    ("name", "run"),
    [pytest.param(name, run, id=name, marks=[] if run.quick else pytest.mark.slow) for name, run in RUNS.items()],
)
def test_the_final_weights_are_the_recorded_ones(name: str, run: Combination, hospitals: Hospitals) -> None:
    held_against(digest_of(run, hospitals), KEPT["runs"][name])


def test_every_combination_is_recorded_and_the_quick_ones_have_every_strategy_rule_and_variant() -> None:
    assert list(KEPT["runs"]) == list(RUNS)
    quick = [name.split() for name, run in RUNS.items() if run.quick]
    strategies, rules, rest = (set(column) for column in zip(*quick, strict=True))
    assert strategies == STRATEGIES.keys()
    assert rules == COMBINE.keys()
    assert rest == {name.split()[2] for name in RUNS}

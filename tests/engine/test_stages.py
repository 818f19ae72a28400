"""A mask with questions of its own, and clipping with noise, run through every runner as two more entries of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import toys
from engines import RUNNERS, SITES, Case, Listening, Losing, Open, Shuffled, digest
from federation import pulled_to
from golden import KINDS

from fedmed.aggregation.stage import STAGES
from fedmed.coordinator.plan import PLAN
from fedmed.engine.loop import federate
from fedmed.errors import QuorumNotMet
from fedmed.gates import judge
from fedmed.strategies.algorithm import Algorithm, State
from fedmed.strategies.options import AggregationOptions
from fedmed.strategies.robust import COMBINE
from fedmed.strategies.table import STRATEGIES
from fedmed.training.local import SLOPES, TrainingOptions

every_runner = pytest.mark.parametrize("runner", RUNNERS)
New = Callable[..., Case]
MASKED = ["grid", "mask"]


@pytest.fixture(autouse=True)
def entered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The toys are in the tables while a test runs, and no longer."""
    for name, stage in toys.TOY_STAGES.items():
        monkeypatch.setitem(STAGES, name, stage)
    for name, slope in toys.TOY_SLOPES.items():
        monkeypatch.setitem(SLOPES, name, slope)
    yield
    monkeypatch.undo()
    assert "mask" not in STAGES


def new(case: New, strategy: str, stages: list[str], **more: Any) -> Case:
    changes = {"aggregation": {"strategy": strategy, "stages": stages, "buffer": 2, **more}}
    return case(changes, toys.enter)


def ends(at: Case, opened: Open) -> State:
    *_, last = federate(at.agreed.plan.algorithm, opened.states, opened.runner, scored=False)
    return last.state


def in_the_clear(case: New, strategy: str = "fedavg", **more: Any) -> tuple[str, str, float | None]:
    at = new(case, strategy, ["grid"], **more)
    return digest(ends(at, RUNNERS["here"](at)()))


@every_runner
@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", "fedbn"])
def test_masked_updates_come_to_the_bytes_of_plain_ones(runner: str, strategy: str, case: New) -> None:
    at = new(case, strategy, MASKED)
    states, asking = RUNNERS[runner](at)()
    state = ends(at, Open(states, Shuffled(asking, 5)))
    assert digest(state) == in_the_clear(case, strategy)
    assert state.losses == {}  # nobody's own loss can be read
    assert state.loss is not None  # that of all can


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "fedbuff"])
def test_every_strategy_that_needs_the_sum_alone_may_be_masked(strategy: str, case: New) -> None:
    at = new(case, strategy, MASKED, bits=64)
    assert digest(ends(at, RUNNERS["here"](at)())) == in_the_clear(case, strategy, bits=64)


def overheard(at: Case, runner: str) -> dict[tuple[int, str], torch.Tensor]:
    states, asking = RUNNERS[runner](at)()
    listening = Listening(asking)
    ends(at, Open(states, listening))
    return listening.heard


@every_runner
def test_the_coordinator_sees_noise_in_place_of_each_vector_and_the_sum_of_all(runner: str, case: New) -> None:
    plain, masked = overheard(new(case, "fedavg", ["grid"]), "here"), overheard(new(case, "fedavg", MASKED), runner)
    assert masked.keys() == plain.keys()
    for key, vector in masked.items():
        assert vector.dtype == plain[key].dtype
        assert int((vector == plain[key]).sum()) == 0  # of some 50 numbers; by chance one in 2**32
        assert 0.2 < (vector > 0).double().mean() < 0.8
        assert vector.double().abs().mean() > 2**28  # all of the range is used: 2**30 on the average
    for number in range(1, 4):
        sums = [sum(heard[number, site].long() for site in SITES) for heard in (plain, masked)]
        assert (sums[0] - sums[1]).remainder(2**32).unique().tolist() == [0]


@every_runner
def test_masks_of_a_hospital_whose_vector_is_lost_are_taken_off_the_sum(runner: str, case: New) -> None:
    clear = new(case, "scaffold", ["grid"])
    lost = {2: ["east"]}
    there = RUNNERS["here"](clear)()
    expected = digest(ends(clear, Open(there.states, Losing(there.runner, lost, asked=True))))
    for about in ("", "mask.ready"):  # its vector, or its public key: then it is not asked to train at all
        at = new(case, "scaffold", MASKED)
        states, asking = RUNNERS[runner](at)()
        listening = Listening(Losing(asking, lost, asked=True, about=about))
        assert digest(ends(at, Open(states, listening))) == expected
        assert states[2].refused == {"east": "east is away"}
        assert sorted(site for number, site in listening.heard if number == 2) == ["centre", "north"]


@every_runner
def test_without_enough_answers_to_a_question_of_a_stage_there_is_no_round(runner: str, case: New) -> None:
    for about, lost in (("mask.ready", ["east", "north"]), ("mask.missing", ["centre", "north"])):
        at = new(case, "fedavg", MASKED)
        states, asking = RUNNERS[runner](at)()
        going = federate(at.agreed.plan.algorithm, states, Losing(asking, {1: lost}, asked=True, about=about), 2)
        with pytest.raises(QuorumNotMet, match=rf"round 1 \({about}\) was answered by 1 of"):
            next(going)
        assert sorted(states) == [0]


@pytest.mark.parametrize("rule", COMBINE)
def test_a_rule_that_looks_at_every_vector_is_refused_at_the_plan(rule: str, case: New) -> None:
    plan = new(case, "fedavg", MASKED, combine=rule).agreed.plan
    verdict = judge(PLAN, plan)["stages"]
    assert verdict.passed == (rule == "mean")
    assert verdict.passed or f"aggregation.combine {rule} with fedavg looks at every hospital's update" in verdict.why
    assert judge(PLAN, new(case, "fedavg", ["grid"], combine=rule).agreed.plan)["stages"].passed
    # What leaves each vector in sight leaves the rules their use.
    assert judge(PLAN, new(case, "fedavg", ["grid", "noise"], combine=rule).agreed.plan)["stages"].passed


def test_fedbuff_which_weighs_every_update_by_its_age_is_refused_with_a_mask(case: New) -> None:
    assert not judge(PLAN, new(case, "fedbuff", MASKED).agreed.plan)["stages"].passed


NOISY = {"training_loss": False}
"""A count of rows with noise on it is none: the plan leaves it out, and the loss with it."""


@every_runner
def test_clipping_by_patient_and_noise_after_the_grid_run_everywhere_alike(runner: str, case: New) -> None:
    def run(runner: str, slope: str, stages: list[str]) -> tuple[str, str, float | None]:
        changes = {"aggregation": {"stages": stages, **NOISY}, "training": {"slope": slope}}
        at = case(changes, toys.enter, kind=KINDS["mlp"])
        opened = RUNNERS[runner](at)()
        found = digest(ends(at, opened))
        assert [opened.states[number].refused for number in range(1, 4)] == [{}] * 3
        return found

    both = run(runner, "clipped", ["grid", "noise"])
    assert both == run("here", "clipped", ["grid", "noise"])
    assert len({both, *(run("here", *other) for other in (("mean", ["grid", "noise"]), ("clipped", ["grid"])))}) == 3


def test_noise_and_mask_stand_one_behind_the_other(case: New) -> None:
    noisy, both = (new(case, "fedavg", stages, **NOISY) for stages in (["grid", "noise"], ["grid", "noise", "mask"]))
    assert digest(ends(noisy, RUNNERS["here"](noisy)())) == digest(ends(both, RUNNERS["here"](both)()))


def test_every_patient_pulls_by_the_allowed_length_at_most() -> None:
    # From 0 the rows' gradients are -(x, y): one patient with (3, 4) twice, one with (0.3, 0.4) once.
    far, near = (pulled_to(x, y, rows, TrainingOptions()) for x, y, rows in ((3, 4, 2), (0.3, 0.4, 1)))
    rows = torch.cat([far.features, near.features])
    problem = far._replace(features=rows, labels=torch.zeros(3), patients=torch.tensor([7, 7, 2]))
    w = torch.zeros(2, requires_grad=True)
    # ½ of the way to the first in length, and all of the second: each is ½ long in the same direction
    _, (gradient,) = toys.clipped(problem, {"w": w}, [w], torch.arange(3))
    assert gradient.tolist() == pytest.approx([-0.3, -0.4])
    _, (alone,) = toys.clipped(problem._replace(patients=None), {"w": w}, [w], torch.arange(3))
    assert alone.tolist() == pytest.approx([-0.3, -0.4])
    _, (half,) = toys.clipped(problem, {"w": w}, [w], torch.tensor([0, 2]))
    assert half.tolist() == pytest.approx([-0.3, -0.4])


def test_a_stage_that_no_table_knows_is_refused_by_the_parameters() -> None:
    with pytest.raises(ValueError, match=r"`stages`: expected grid, mask, noise, got masks"):
        AggregationOptions(stages=("grid", "masks"))


def how(at: Case) -> Algorithm:
    return at.agreed.plan.algorithm


def test_the_questions_of_a_stage_are_asked_before_and_after_training(case: New) -> None:
    at = new(case, "fedavg", MASKED)
    assert [[about for about, _ in how(at).asks(when)] for when in ("before", "after")] == [
        ["mask.ready"],
        ["mask.missing"],
    ]
    assert not how(at).sees_each

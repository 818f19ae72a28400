"""What a hospital asks itself before it works on a question: every gate, before and after what it is there for."""

from __future__ import annotations

from typing import Any

import pytest
from one_hospital import ABSENT, HEART, Run

from fedmed.data.cohort import Cohort
from fedmed.errors import MessageMissing, MessageRefused
from fedmed.gates import against, judge
from fedmed.models.networks import NetworkOptions
from fedmed.site.agent import step
from fedmed.site.home import SiteHome
from fedmed.site.policy import POLICY
from fedmed.site.request import Request
from fedmed.training.local import TrainingOptions
from fedmed.wire.messages import Question, encode
from fedmed.wire.post import post, put_payload

PLANNED = pytest.mark.parametrize("purpose", ["train", "stage", "score", "evaluate"])


def judged(home: SiteHome, run: Run, purpose: str, **changes: Any) -> dict[str, str]:
    """The gates that do not pass, and why."""
    verdicts = judge(POLICY, Request(home, run.question(purpose, **changes), run.exchange))
    return {name: verdict.why for name, verdict in verdicts.items() if not verdict.passed}


@pytest.mark.parametrize("purpose", ["validate", "describe", "statistics", "train", "score", "evaluate"])
def test_every_gate_lets_an_honest_question_through(purpose: str, home: SiteHome) -> None:
    assert judged(home, Run(home, "hungarian"), purpose) == {}


def test_a_question_to_another_hospital_is_in_another_inbox_and_would_be_refused(
    hospitals: dict[str, SiteHome],
) -> None:
    run, other = Run(hospitals["cleveland"], "hungarian"), hospitals["hungarian"]
    assert judged(other, run, "validate") == {"addressee": "the question is addressed to cleveland"}
    before = run.standing()
    with pytest.raises(MessageMissing, match="hungarian: its inbox holds no question to/cleveland"):
        run.ask("train", at=other)
    assert run.standing() == before


def test_a_question_that_was_laid_into_another_inbox_is_refused(hospitals: dict[str, SiteHome]) -> None:
    run, other = Run(hospitals["cleveland"], "hungarian"), hospitals["hungarian"]
    question = run.question("train")
    name = question.address._replace(recipient="hungarian").name
    run.exchange.put(name, encode(question))
    before = run.standing()
    with pytest.raises(MessageRefused, match="expected a message of this address"):
        step(other, run.exchange, run.name, name)
    assert run.standing() == before


def test_what_is_no_question_is_not_answered(home: SiteHome) -> None:
    run = Run(home, "hungarian")
    name = run.question("train").address.name
    for content, reason in ((b"", "not what its kind asks for"), (b"{}", "not what its kind asks for")):
        run.exchange = Run(home, "hungarian", run=run.name).exchange
        run.exchange.put(name, content)
        before = run.standing()
        with pytest.raises(MessageRefused, match=reason):
            step(home, run.exchange, run.name, name)
        assert run.standing() == before


def test_a_purpose_that_nobody_knows_is_refused(home: SiteHome) -> None:
    reason = Run(home, "hungarian").refused("rows", plan=None)
    assert "expected a question to validate, describe, statistics, train, stage, score, evaluate, got 'rows'" in reason


def wider() -> Cohort:
    raw = HEART.model_dump()
    raw["columns"]["age"]["range"] = (0, 100)
    return Cohort.model_validate(raw)


@PLANNED
def test_a_plan_for_another_declaration_is_refused(purpose: str, home: SiteHome) -> None:
    run = Run(home, "hungarian", cohort=wider())
    assert "another declaration of heart_disease" in run.refused(purpose)
    assert list(judged(home, run, purpose)) == ["declaration"]


@PLANNED
def test_a_plan_that_does_not_name_the_hospital_is_refused(purpose: str, home: SiteHome) -> None:
    run = Run(home, "hungarian", "va", without=True)
    assert "does not name this hospital" in run.refused(purpose)
    assert list(judged(home, run, purpose)) == ["participant"]


@PLANNED
def test_a_question_whose_plan_is_not_there_is_refused(purpose: str, home: SiteHome) -> None:
    run = Run(home, "hungarian")
    assert "the question names no plan" in run.refused(purpose, plan=None)
    reason = run.refused(purpose, plan=ABSENT, round=2)
    assert "the plan that the question names: payload 000000000000… was not posted" in reason
    no_plan = put_payload(run.exchange, b'{"run": "run-1"}')
    assert "not what a plan asks for" in run.refused(purpose, plan=no_plan, round=3)


@PLANNED
def test_the_plan_of_another_run_or_of_a_later_attempt_is_refused(purpose: str, home: SiteHome) -> None:
    run, other = Run(home, "hungarian"), Run(home, "hungarian")
    theirs = put_payload(run.exchange, other.plan.encoded())
    assert "the plan of another run" in run.refused(purpose, plan=theirs)
    later = run.plan.model_copy(update={"attempt": 2})
    assert "the plan of another run" in run.refused(purpose, plan=put_payload(run.exchange, later.encoded()), round=2)


def test_parameters_changed_within_a_run_are_refused(home: SiteHome) -> None:
    run = Run(home, "hungarian")
    run.told("train")
    changed = run.plan.model_copy(update={"training": TrainingOptions(learning_rate=3.0)})
    plan = put_payload(run.exchange, changed.encoded())
    assert f"another plan than those before it in run {run.name}" in run.refused("train", round=2, plan=plan)
    # A plan that was refused binds nobody: the first one goes on, in this attempt and the next.
    run.told("train", round=3)
    run.told("train", round=4, attempt=2)
    # Begun anew under the next number, a run may have another plan; and its first one is gone for good.
    anew = put_payload(run.exchange, changed.model_copy(update={"attempt": 2}).encoded())
    run.told("train", round=1, attempt=2, plan=anew)
    again = put_payload(run.exchange, run.plan.model_copy(update={"attempt": 2}).encoded())
    assert "another plan than those before it" in run.refused("train", round=2, attempt=2, plan=again)


def test_a_plan_that_was_refused_binds_nobody(home: SiteHome) -> None:
    run = Run(home, "hungarian")
    bad = run.plan.model_copy(update={"cohort": wider()})
    run.refused("train", plan=put_payload(run.exchange, bad.encoded()))
    run.told("train", round=2)


def test_a_network_that_is_not_admitted_is_not_imported(small: SiteHome) -> None:
    (small.path / "site.yaml").write_text("networks: [ours.*]\n")
    run = Run(small, network=NetworkOptions(name="theirs.of_nobody:Network"))
    reason = run.refused("train")
    assert "does not admit the network theirs.of_nobody:Network" in reason
    assert "networks: [theirs.of_nobody:Network]" in reason
    assert "No module" not in reason
    assert "theirs" in Run(small, network=NetworkOptions(name="theirs.of_nobody:Network")).refused("score")


def test_all_that_is_wrong_is_said_at_once(home: SiteHome) -> None:
    run = Run(home, "hungarian", "va", without=True, cohort=wider())
    reasons = judged(home, run, "train", fingerprint="f" * 64)
    assert list(reasons) == ["partition", "declaration", "participant"]
    said = run.refused("train", fingerprint="f" * 64)
    assert all(why in said for why in reasons.values())


def test_another_question_at_an_answered_address_is_refused_and_nothing_posted(home: SiteHome) -> None:
    run = Run(home, "hungarian")
    run.told("statistics")
    elsewhere = Run(home, "hungarian", run=run.name)
    before = elsewhere.standing()
    with pytest.raises(MessageRefused, match="cleveland: round 1 was answered for another question already"):
        elsewhere.ask("statistics", minimum_cell=12)
    assert elsewhere.standing() == before
    elsewhere.told("statistics", minimum_cell=12, attempt=2)


def test_the_gates_are_pure(home: SiteHome) -> None:
    run = Run(home, "hungarian")
    question: Question = run.question("train")
    post(run.exchange, question)
    before = run.standing()
    verdicts = [against(judge(POLICY, Request(home, question, run.exchange))) for _ in range(2)]
    assert verdicts == [(), ()]
    assert run.standing() == before
    assert home.outbox.of_run(run.name) == []

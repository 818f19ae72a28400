"""What a hospital asks itself before it works on a question: a table of gates, of which all are asked."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

from fedmed.gates import PASSES, Gate, Verdict, fails, fails_if
from fedmed.site.request import Request
from fedmed.wire.messages import Plan
from fedmed.wire.purposes import PURPOSES


def _under_plan(gate: Callable[[Request, Plan], Verdict]) -> Gate[Request]:
    """A gate on the plan; it passes where there is none, as that is another gate's to say."""

    def judged(request: Request) -> Verdict:
        plan = request.named_plan
        return PASSES if isinstance(plan, str) else gate(request, plan)

    return judged


def addressed(request: Request) -> Verdict:
    """Whether the question is for this hospital."""
    recipient = request.question.recipient
    return fails_if(recipient != request.home.name, f"the question is addressed to {recipient}")


def known_purpose(request: Request) -> Verdict:
    """Whether there is such a purpose."""
    purpose = request.question.purpose
    return fails_if(purpose not in PURPOSES, f"expected a question to {', '.join(PURPOSES)}, got {purpose!r}")


def admitted_partition(request: Request) -> Verdict:
    """Whether the partition is the one with which the hospital was admitted; a validation says itself if it is not."""
    if request.question.purpose == "validate":
        return PASSES
    another = request.session.manifest.fingerprint != request.question.fingerprint
    return fails_if(another, "the partition is not the one with which it was admitted; validate it again")


def has_plan(request: Request) -> Verdict:
    """Whether there is a plan where one is needed, and it is of this run."""
    purpose, question = PURPOSES.get(request.question.purpose), request.question
    if purpose is None or not purpose.planned:
        return PASSES
    if isinstance(plan := request.named_plan, str):
        return fails(plan)
    return fails_if(
        plan.run != question.run or plan.attempt > question.attempt, "the question names the plan of another run"
    )


def same_plan(request: Request, plan: Plan) -> Verdict:
    """Whether it is the plan that the run had before."""
    earlier = request.outbox.of_run(plan.run)
    changed = any(entry.begun == plan.attempt and entry.plan not in ("", plan.digest) for entry in earlier)
    return fails_if(changed, f"the question names another plan than those before it in run {plan.run}")


def same_declaration(request: Request, plan: Plan) -> Verdict:
    """Whether the plan is for the declaration of the hospital's data."""
    another = plan.cohort.digest != request.session.manifest.cohort.digest
    return fails_if(another, f"the plan is for another declaration of {plan.cohort.name}")


def named_in_plan(request: Request, plan: Plan) -> Verdict:
    """Whether the plan names this hospital."""
    return fails_if(request.home.name not in plan.participants, "the plan does not name this hospital")


def admitted_network(request: Request, plan: Plan) -> Verdict:
    """Whether a network that is not FedMed's own is admitted here; before it is imported."""
    name = plan.network.name
    refused = plan.network.imported and not any(fnmatchcase(name, allowed) for allowed in request.options.networks)
    return fails_if(
        refused,
        f"does not admit the network {name}; it would with `networks: [{name}]` in {request.home.path / 'site.yaml'}",
    )


def asked_once(request: Request) -> Verdict:
    """Whether the hospital has not answered another question at this address."""
    question = request.question
    earlier = request.outbox.answer_at(question.answer_address.name)
    return fails_if(
        earlier is not None and earlier.question != request.digest,
        f"round {question.round} was answered for another question already",
    )


POLICY: dict[str, Gate[Request]] = {
    "addressee": addressed,
    "purpose": known_purpose,
    "partition": admitted_partition,
    "plan": has_plan,
    "same plan": _under_plan(same_plan),
    "declaration": _under_plan(same_declaration),
    "participant": _under_plan(named_in_plan),
    "network": _under_plan(admitted_network),
}

"""What a hospital can be asked: one table. A purpose that does not say what it discloses fails at import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from fedmed.wire.messages import (
    Admission,
    Description,
    Response,
    Score,
    SiteEvaluation,
    StageAnswer,
    Statistics,
    Update,
)

RULES = {
    "verdict": "the names of the expectations that fail, and numbers of rows from the minimum cell on",
    "counts": "counts on declared bins and codes, small ones withheld so that no difference tells them",
    "sums": "sums of columns that have values in at least the minimum cell of rows",
    "stages": "what the last stage of the plan lets through; the stage says what that is",
    "stage": "what the stage's question says that it discloses",
    "figures": "metrics, each under its own rule of disclosure",
}
"""Every rule of disclosure, in words; docs/architecture.md says where each is enforced."""


class Purpose(NamedTuple):
    """One purpose.

    Args:
        answer: the message that answers it.
        answered_by: `module:function` at the hospital; it is imported when it is asked for.
        discloses: which of :data:`RULES` its answer keeps.
        planned: whether it is asked under a plan.
        rounds: whether it is asked in every round: a question of a later round then overtakes it.
        title: what a person calls it, with `{site}` and `{round}`.
        says: what a hospital does, in a sentence.
    """

    answer: type[Response]
    answered_by: str
    discloses: str
    planned: bool
    rounds: bool
    title: str
    says: str


PURPOSES: dict[str, Purpose] = {
    "validate": Purpose(
        Admission,
        "fedmed.site.answers:validate",
        "verdict",
        False,
        False,
        "validate · {site}",
        "Hold the hospital's data against the contract.",
    ),
    "describe": Purpose(
        Description,
        "fedmed.site.description:describe",
        "counts",
        False,
        False,
        "describe · {site}",
        "Send counts and sums of the training rows.",
    ),
    "statistics": Purpose(
        Statistics,
        "fedmed.site.answers:statistics",
        "sums",
        False,
        False,
        "statistics · {site}",
        "Send the sums of the number columns.",
    ),
    "train": Purpose(
        Update,
        "fedmed.site.answers:train",
        "stages",
        True,
        True,
        "train · {site} · round {round:02d}",
        "Train on the hospital's own rows.",
    ),
    "stage": Purpose(
        StageAnswer,
        "fedmed.site.answers:stage",
        "stage",
        True,
        True,
        "stage · {site} · round {round:02d}",
        "Answer a question of a stage of the plan.",
    ),
    "score": Purpose(
        Score,
        "fedmed.site.answers:score",
        "figures",
        True,
        True,
        "score · {site} · round {round:02d}",
        "Measure the round's model on the hospital's validation rows.",
    ),
    "evaluate": Purpose(
        SiteEvaluation,
        "fedmed.site.evaluation:evaluate",
        "figures",
        True,
        False,
        "evaluate · {site}",
        "Measure the chosen model on the hospital's test rows.",
    ),
}


def check_purposes(purposes: Mapping[str, Purpose]) -> None:
    """Whether every purpose says under which rule it discloses what it tells.

    Raises:
        TypeError: naming those that do not.
    """
    if silent := [name for name, purpose in purposes.items() if purpose.discloses not in RULES]:
        raise TypeError(f"purposes without a rule of disclosure ({', '.join(RULES)}): {', '.join(silent)}")


check_purposes(PURPOSES)

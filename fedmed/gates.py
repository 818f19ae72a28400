"""One shape for every decision: a gate looks at evidence and passes it, fails it, or says that it cannot tell.

A gate is a pure function of its evidence. Of a table of gates all are asked, also after one has failed, so that a log
can say all that is wrong at once; :func:`need` then refuses with everything that was found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, TypeVar

E = TypeVar("E")
T = TypeVar("T")


class Verdict(NamedTuple):
    """What a gate says of its evidence, and why unless it passes."""

    word: Literal["passes", "fails", "cannot tell"]
    why: str = ""

    @property
    def passed(self) -> bool:
        """Whether it passes; what cannot be told does not."""
        return self.word == "passes"


PASSES = Verdict("passes")
Gate = Callable[[E], Verdict]


def fails(why: str) -> Verdict:
    """The evidence is against it."""
    return Verdict("fails", why)


def cannot_tell(why: str) -> Verdict:
    """There is too little evidence: a person may decide, a program goes no further."""
    return Verdict("cannot tell", why)


def fails_if(wrong: object, why: str) -> Verdict:
    """Fails where something is wrong, else passes.

    >>> fails_if(2 > 1, "too many").word, fails_if([], "too many").word
    ('fails', 'passes')
    """
    return fails(why) if wrong else PASSES


def judge(gates: Mapping[str, Gate[E]], evidence: E) -> dict[str, Verdict]:
    """What each gate says, in the order of the table; all are asked."""
    return {name: gate(evidence) for name, gate in gates.items()}


def against(verdicts: Mapping[str, Verdict]) -> tuple[str, ...]:
    """The reasons of those that do not pass, each once, in order.

    >>> against({"a": PASSES, "b": fails("too small"), "c": cannot_tell("nothing was told")})
    ('too small', 'nothing was told')
    """
    return tuple(dict.fromkeys(verdict.why for verdict in verdicts.values() if not verdict.passed))


def need(gates: Mapping[str, Gate[E]], evidence: E, refuse: Callable[[str], Exception]) -> None:
    """Go on only if every gate passes.

    Args:
        gates: by name.
        evidence: what they look at.
        refuse: makes the error of all reasons.
    """
    if reasons := against(judge(gates, evidence)):
        raise refuse("; ".join(reasons))

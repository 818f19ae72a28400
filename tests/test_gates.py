"""Gates: all are asked, all reasons are told, each once, and nothing goes on that does not pass."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.errors import MessageRefused, QuorumNotMet
from fedmed.gates import PASSES, Gate, Verdict, against, cannot_tell, fails, fails_if, judge, need

LARGE: Gate[int] = lambda number: fails_if(number > 100, f"{number} is over 100")  # noqa: E731
ODD: Gate[int] = lambda number: fails_if(number % 2, f"{number} is odd")  # noqa: E731
TOLD: Gate[int] = lambda number: PASSES if number >= 0 else cannot_tell("nothing was told")  # noqa: E731
GATES: dict[str, Gate[int]] = {"large": LARGE, "odd": ODD, "told": TOLD}

BEFORE_AND_AFTER: dict[int, tuple[str, ...]] = {
    0: (),
    100: (),
    101: ("101 is over 100", "101 is odd"),
    102: ("102 is over 100",),
    7: ("7 is odd",),
    -2: ("nothing was told",),
    -1: ("-1 is odd", "nothing was told"),
}


@pytest.mark.parametrize("number", BEFORE_AND_AFTER)
def test_every_reason_against_the_evidence_is_told_in_the_order_of_the_table(number: int) -> None:
    reasons = BEFORE_AND_AFTER[number]
    assert against(judge(GATES, number)) == reasons
    if reasons:
        with pytest.raises(MessageRefused) as refused:
            need(GATES, number, MessageRefused)
        assert str(refused.value) == "; ".join(reasons)
    else:
        need(GATES, number, MessageRefused)


def test_all_gates_are_asked_also_after_one_has_failed() -> None:
    asked: list[str] = []

    def gate(name: str, verdict: Verdict) -> Gate[None]:
        def judged(evidence: None) -> Verdict:
            asked.append(name)
            return verdict

        return judged

    gates = {"a": gate("a", fails("no")), "b": gate("b", PASSES), "c": gate("c", cannot_tell("who knows"))}
    verdicts = judge(gates, None)
    assert asked == list(verdicts) == ["a", "b", "c"]
    assert [verdict.word for verdict in verdicts.values()] == ["fails", "passes", "cannot tell"]
    with pytest.raises(QuorumNotMet, match=r"^no; who knows$"):
        need(gates, None, QuorumNotMet)
    assert asked == ["a", "b", "c"] * 2


def test_what_cannot_be_told_does_not_pass() -> None:
    assert PASSES.passed
    assert not fails("no").passed
    assert not cannot_tell("no data").passed
    with pytest.raises(MessageRefused, match="nothing was told"):
        need({"told": TOLD}, -1, MessageRefused)


def test_a_reason_that_two_gates_have_is_told_once() -> None:
    assert against({"a": fails("no"), "b": fails("no"), "c": fails("never"), "d": fails("no")}) == ("no", "never")


def test_a_verdict_that_passes_has_no_reason_to_tell_even_if_it_has_words() -> None:
    assert against({"a": Verdict("passes", "barely")}) == ()


def test_without_a_gate_nothing_is_in_the_way() -> None:
    need({}, "anything", MessageRefused)
    assert judge({}, "anything") == {}


@pytest.mark.parametrize(
    ("wrong", "word"), [(True, "fails"), ([1], "fails"), ("x", "fails"), (0, "passes"), ([], "passes")]
)
def test_something_is_wrong_or_it_is_not(wrong: object, word: str) -> None:
    verdict = fails_if(wrong, "wrong")
    assert (verdict.word, verdict.why) == (word, "wrong" if word == "fails" else "")


verdicts = st.builds(Verdict, st.sampled_from(["passes", "fails", "cannot tell"]), st.sampled_from("abc"))


@given(st.dictionaries(st.text(max_size=3), verdicts, max_size=6))
def test_it_goes_on_only_if_every_gate_passes(table: Mapping[str, Verdict]) -> None:
    gates: dict[str, Gate[None]] = {name: lambda _, verdict=verdict: verdict for name, verdict in table.items()}
    assert judge(gates, None) == table
    passes = all(verdict.word == "passes" for verdict in table.values())
    assert (against(table) == ()) == passes
    if passes:
        need(gates, None, MessageRefused)
    else:
        with pytest.raises(MessageRefused):
            need(gates, None, MessageRefused)

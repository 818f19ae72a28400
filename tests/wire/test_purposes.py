"""What a hospital can be asked: each purpose says who answers, with what, and what that discloses."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import fedmed
from fedmed.wire import purposes
from fedmed.wire.messages import AnyMessage, Question, Refusal, Response
from fedmed.wire.purposes import PURPOSES, RULES, Purpose, check_purposes

every_purpose = pytest.mark.parametrize("name", PURPOSES)


def test_there_are_the_words_of_the_design() -> None:
    assert list(PURPOSES) == ["validate", "describe", "statistics", "train", "stage", "score", "evaluate"]
    assert [name for name, purpose in PURPOSES.items() if purpose.planned] == ["train", "stage", "score", "evaluate"]
    assert [name for name, purpose in PURPOSES.items() if purpose.rounds] == ["train", "stage", "score"]


def test_every_answer_belongs_to_one_purpose() -> None:
    answers = [purpose.answer for purpose in PURPOSES.values()]
    assert len(set(answers)) == len(answers)
    assert set(answers) == set(get_args(get_args(AnyMessage)[0])) - {Question, Refusal}
    assert all(issubclass(answer, Response) for answer in answers)


@every_purpose
def test_who_answers_is_a_function_of_the_hospitals(name: str) -> None:
    module, _, function = PURPOSES[name].answered_by.partition(":")
    assert module.startswith("fedmed.site.")
    answer = getattr(importlib.import_module(module), function)
    assert list(inspect.signature(answer).parameters) == ["request"]


@every_purpose
def test_a_person_is_told_what_is_done_where_and_in_which_round(name: str) -> None:
    purpose = PURPOSES[name]
    title = purpose.title.format(site="va", round=3)
    assert title == f"{name} · va · round 03" if purpose.rounds else f"{name} · va"
    assert purpose.says.endswith(".")


@every_purpose
def test_every_purpose_names_a_rule_of_disclosure(name: str) -> None:
    assert PURPOSES[name].discloses in RULES


def test_every_rule_is_some_purposes() -> None:
    assert {purpose.discloses for purpose in PURPOSES.values()} == set(RULES)


@pytest.mark.parametrize("rule", ["", "whatever", "Figures"])
def test_a_purpose_without_a_known_rule_of_disclosure_is_an_error(rule: str) -> None:
    lax = PURPOSES["score"]._replace(discloses=rule)
    with pytest.raises(TypeError, match=r"purposes without a rule of disclosure \(verdict, .*figures\): dump, spill$"):
        check_purposes({**PURPOSES, "dump": lax, "spill": lax})
    check_purposes(PURPOSES)


def test_a_purpose_cannot_be_made_without_saying_what_it_discloses() -> None:
    with pytest.raises(TypeError, match="discloses"):
        Purpose(Refusal, "fedmed.site.answers:dump", planned=False, rounds=False, title="", says="")  # type: ignore[call-arg]


def test_the_module_cannot_be_imported_with_a_purpose_that_does_not_say_what_it_discloses(tmp_path: Path) -> None:
    source = Path(purposes.__file__).read_text(encoding="utf-8")
    assert source.count('        "figures",\n') == 2
    (tmp_path / "spoiled.py").write_text(source.replace('        "figures",\n', '        "",\n', 1), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{Path(fedmed.__file__).parents[1]}:{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-c", "import spoiled"], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("TypeError: purposes without a rule of disclosure")
    assert done.stderr.splitlines()[-1].endswith(": score")

"""What is run before a commit and by a public CI is what the Makefile knows, and `make check` holds what is fast."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from quick import HERE, QUICK, TOO_LONG, is_fast
from whitespace import main, mended

ROOT = Path(__file__).parents[1]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def hooks() -> list[dict[str, Any]]:
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert local["repo"] == "local"  # no repository is fetched
    return list(local["hooks"])


def workflow() -> dict[Any, Any]:
    return dict(yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")))


def made(command: str) -> list[str]:
    """The targets that a command makes."""
    return command.split()[1:] if command.split()[0] == "make" else []


def test_every_target_is_phony_and_told_of() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert set(phony.split()) == targets()
    told = set(re.findall(r'@echo "make (\w+) ', text))
    assert {"demo", "test", "check", "nightly", "lint", "bench", "clean"} == told


def test_what_runs_before_a_commit_is_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["test"]
    assert {hook["id"] for hook in hooks()} == {"ruff", "ruff-format", "mypy", "whitespace"}
    for hook in hooks():
        program, *arguments = hook["entry"].split()
        assert hook["language"] == "system"
        if program == "make":
            assert set(arguments) <= targets()
            continue
        name = program.removeprefix(".venv/bin/")
        assert name == "python" or any(requirement.startswith(f"{name}>=") for requirement in extras), program
        assert all((ROOT / word).is_file() for word in arguments if word.endswith(".py"))


def test_the_ci_makes_only_what_the_makefile_knows() -> None:
    jobs = workflow()["jobs"]
    made_by = {
        name: [target for step in job["steps"] if "run" in step for target in made(step["run"])]
        for name, job in jobs.items()
    }
    assert made_by == {"test": ["lint", "test"], "nightly": ["nightly"]}
    assert {target for names in made_by.values() for target in names} <= targets()
    for job in jobs.values():
        assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
        (python,) = [step for step in job["steps"] if "setup-python" in step.get("uses", "")]
        assert python["with"]["cache"] == "pip"
        assert all((ROOT / path).is_file() for path in python["with"]["cache-dependency-path"].split())


def test_the_ci_runs_on_pull_requests_and_at_night() -> None:
    when = workflow()[True]  # YAML 1.1 reads `on` as a truth
    assert "pull_request" in when
    assert [entry["cron"] for entry in when["schedule"]] == ["0 3 * * *"]
    assert workflow()["permissions"] == {"contents": "read"}


def test_the_locally_run_ci_makes_what_the_public_one_makes() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("make ")] == ["make lint", "make test"]


def test_what_is_too_long_for_a_check_is_there() -> None:
    assert [name for name in sorted(TOO_LONG) if not (HERE / name).is_file()] == []
    assert {Path(name).parts[0] for name in TOO_LONG} <= QUICK


@pytest.mark.parametrize(
    ("name", "marks", "fast"),
    [
        ("strategies/test_by_hand.py", set(), True),
        ("test_docs.py", set(), True),
        ("test_packaging.py", {"slow"}, False),
        ("test_packaging.py", {"nightly"}, False),
        ("flows/test_whole_run.py", set(), False),
        ("data/test_contract.py", set(), False),
    ],
)
def test_fast_is_what_is_quick_and_not_marked_otherwise(name: str, marks: set[str], *, fast: bool) -> None:
    assert is_fast(HERE / name, marks) is fast


def test_a_doctest_is_not_fast_for_its_module_has_to_be_imported() -> None:
    assert not is_fast(ROOT / "fedmed" / "seeds.py", set())


def test_a_file_ends_in_one_newline_and_no_line_in_blanks(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = 1  \n\n\n")
    assert main([str(file)]) == 1
    assert file.read_text() == "x = 1\n"
    assert main([str(file)]) == 0


@pytest.mark.parametrize(("text", "better"), [("", ""), ("\n\n", ""), ("a", "a\n"), ("a\n\nb \n", "a\n\nb\n")])
def test_a_text_is_mended(text: str, better: str) -> None:
    assert mended(text) == better


def test_a_line_break_of_markdown_stays() -> None:
    assert mended("a  \nb\n", markdown=True) == "a  \nb\n"

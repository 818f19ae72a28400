"""Which tests are fast enough to be run before every commit: `make check`."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parents[1]
QUICK = {
    "aggregation", "coordinator", "data", "engine", "evaluation", "exchange", "models", "privacy", "site", "strategies",
    "training", "wire",
}  # fmt: skip
"""The rooms whose tests are fast, and the tests that stand beside the rooms."""
TOO_LONG = {
    "coordinator/test_resume.py",  # whole runs with hospitals
    "data/test_public_cohorts.py",
    "engine/test_processes.py",
    "engine/test_runners.py",
    "engine/test_stages.py",
    "site/test_agent.py",
    "data/test_contract.py",  # Great Expectations: 2 s for every table
    "data/test_rules.py",
    "evaluation/test_comparison.py",  # many resamples, or many trainings
    "evaluation/test_measurement.py",
    "evaluation/test_plots.py",
    "models/test_sequences.py",
    "site/test_answers.py",
    "site/test_evaluation.py",
    "strategies/test_against_papers.py",
    "strategies/test_contract.py",
    "training/test_alone.py",
    "training/test_personal.py",
}
"""What they hold `make test` holds; a name that is no file any more fails tests/test_habits.py."""


def is_fast(path: Path, marks: set[str]) -> bool:
    """Whether a test belongs to `make check`, by its file and its own marks."""
    if HERE not in path.parents or marks & {"slow", "nightly"}:
        return False
    file = path.relative_to(HERE)
    return (len(file.parts) == 1 or file.parts[0] in QUICK) and file.as_posix() not in TOO_LONG

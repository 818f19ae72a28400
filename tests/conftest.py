"""What holds for all tests, and which of them are fast (`make check`) or nightly (`make nightly`)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# A shell that starts a job in the background lets it ignore Ctrl-C, and programs inherit that: some tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).parent
QUICK = {
    "aggregation", "coordinator", "data", "engine", "evaluation", "exchange", "models", "privacy", "site", "strategies",
    "training", "wire",
}  # fmt: skip
"""The rooms whose tests are fast, and the tests that stand beside the rooms."""
TOO_LONG = {
    "data/test_contract.py",  # Great Expectations: 2 s for every table
    "data/test_rules.py",
    "evaluation/test_comparison.py",  # many resamples, or many trainings
    "evaluation/test_kinds.py",
    "evaluation/test_measurement.py",
    "evaluation/test_plots.py",
    "models/test_sequences.py",
    "site/test_answers.py",
    "site/test_report.py",
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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is fast, before `-m` chooses; leave out what is nightly unless `-m` asks for it."""
    asked = "nightly" in config.option.markexpr
    left_out = [] if asked else [item for item in items if item.get_closest_marker("nightly")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    for item in items:
        if is_fast(item.path, {mark.name for mark in item.iter_markers()}):
            item.add_marker(pytest.mark.fast)

"""Workspaces: a new one for a test, and one that was trained once for all that only look."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workplace import Workplace


@pytest.fixture
def new_workspace(tmp_path: Path) -> Callable[..., Workplace]:
    def make(name: str = "work", **changes: Any) -> Workplace:
        (tmp_path / name).mkdir()
        place = Workplace(tmp_path / name)
        place.call("fedmed", "init")
        place.parameters(**{"training__rounds": 3, "evaluation__resamples": 100, **changes})
        return place

    return make


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A workspace after one `fedmed run`; not to be changed by a test."""
    root = tmp_path_factory.mktemp("trained") / "work"
    root.mkdir()
    place = Workplace(root)
    place.call("fedmed", "init")
    place.parameters(training__rounds=3, evaluation__resamples=100)
    place.fedmed("run")
    return place

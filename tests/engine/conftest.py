"""What tests of the engine share: hospitals with partitions, and processes, made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from engines import Case, agree, nothing
from golden import Hospitals

from fedmed.engine.processes import Workers

NUMBERS = count(1)


@pytest.fixture(scope="session")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Hospitals:
    return Hospitals(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    with Workers(2, deadline=120) as started:
        yield started


@pytest.fixture
def case(tmp_path: Path, hospitals: Hospitals, workers: Workers) -> Callable[..., Case]:
    """A new run under some changed parameters; hospitals remember runs by their names, so each has its own."""

    def new(changes: Mapping[str, Any], enter: Callable[[], None] = nothing, **more: Any) -> Case:
        number = next(NUMBERS)
        agreed = agree(f"run-{number}", hospitals, changes, **more)
        return Case(agreed, tmp_path / str(number), workers, enter)

    return new

"""What holds for all tests, and which of them are fast (`make check`) or nightly (`make nightly`)."""

from __future__ import annotations

import signal

import pytest
from quick import is_fast

# A shell that starts a job in the background lets it ignore Ctrl-C, and programs inherit that: some tests press it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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

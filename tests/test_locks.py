"""Locks on files, against real processes: refused at once or waited for, and free when their holder is dead."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from fedmed.errors import WorkspaceError
from fedmed.locks import held, in_turn

SAYS = "another run is going on here; wait for it"
HOLD = """
import sys, time
from pathlib import Path
from fedmed import locks
with getattr(locks, sys.argv[1])(Path(sys.argv[2]), **({"says": ""} if sys.argv[1] == "held" else {})):
    print("holds", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def somebody_else(how: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until it reads a line, or is killed."""
    command = [sys.executable, "-c", HOLD, how, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds\n"
        try:
            yield process
        finally:
            process.kill()


def free_for_others(path: Path) -> bool:
    command = [sys.executable, "-c", HOLD, "held", str(path)]
    return subprocess.run(command, input="\n", capture_output=True, text=True, check=False).returncode == 0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "not yet made" / "run.lock"


def test_what_another_process_holds_is_refused_with_the_given_sentence(path):
    with somebody_else("held", path), pytest.raises(WorkspaceError) as refused, held(path, says=SAYS):
        pass
    assert str(refused.value) == SAYS


def test_a_killed_holder_holds_nothing(path):
    with somebody_else("held", path) as other:
        other.kill()
        other.wait()
        with held(path, says=SAYS):
            pass
        assert path.read_bytes() == b""  # the file stays, and says nothing


def test_what_is_held_here_is_held_once_more_and_freed_by_the_last(path):
    with held(path, says=SAYS):
        with held(path.parent / ".." / path.parent.name / path.name, says=SAYS):
            assert not free_for_others(path)
        assert not free_for_others(path)
    assert free_for_others(path)


def test_an_error_inside_frees_it_and_comes_out_as_it_is(path):
    with pytest.raises(TimeoutError, match="mine"), held(path, says=SAYS):
        raise TimeoutError("mine")  # filelock's own Timeout is one too
    assert free_for_others(path)


def test_threads_of_one_process_hold_it_together(path):
    together = threading.Barrier(8)

    def enter(_: int) -> bool:
        for _ in range(50):
            with held(path, says=SAYS):
                pass
        with held(path, says=SAYS):
            together.wait(timeout=30)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(enter, range(8)))
    assert free_for_others(path)


def test_threads_follow_one_another_in_turn(path):
    inside: list[int] = []

    def enter(number: int) -> None:
        with in_turn(path):
            inside.append(number)
            assert inside == [number]
            inside.remove(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(enter, range(12)))


def test_another_process_is_waited_for(path):
    with somebody_else("in_turn", path) as other, ThreadPoolExecutor(1) as pool:
        entered = threading.Event()

        def enter() -> None:
            with in_turn(path):
                entered.set()

        waiting = pool.submit(enter)
        assert not entered.wait(0.3)
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()
        waiting.result(timeout=30)


@pytest.mark.parametrize("lock", [in_turn, partial(held, says=SAYS)])
def test_a_file_system_without_locks_is_no_place_for_one(path, monkeypatch, lock):
    def unknown(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", unknown)
    with pytest.raises(OSError, match="not implemented"), lock(path):
        pass


def test_waiting_for_oneself_fails_in_place_of_hanging(path):
    with in_turn(path), pytest.raises(RuntimeError, match="Deadlock"), in_turn(path):
        pass

"""Work with a deadline: given in time, or left behind, so that whoever waited goes on and the process can end."""

from __future__ import annotations

import contextvars
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import fedmed
from fedmed.deadline import within
from fedmed.errors import HospitalSilent, VaultError


def test_what_is_given_in_time_is_given() -> None:
    assert within(5.0, "va", lambda: {"rows": 3}) == {"rows": 3}
    assert within(5.0, "va", lambda: None) is None


def test_work_that_hangs_is_left_behind_and_named() -> None:
    ended, began = threading.Event(), time.monotonic()
    with pytest.raises(HospitalSilent) as silent:
        within(0.1, "va", lambda: ended.wait(30))
    assert 0.1 <= time.monotonic() - began < 5
    assert str(silent.value) == "va: did not answer within 0.1 seconds (federation.answer_within)"
    (left,) = (thread for thread in threading.enumerate() if thread.name == "step of va")
    assert left.daemon
    ended.set()
    left.join(5)
    assert not left.is_alive()


def test_what_is_done_after_the_deadline_is_done_for_nobody() -> None:
    go, done = threading.Event(), threading.Event()

    def late() -> str:
        go.wait(30)
        done.set()
        raise VaultError("nobody hears this")

    with pytest.raises(HospitalSilent):
        within(0.05, "va", late)
    go.set()
    assert done.wait(5)
    assert within(5.0, "va", lambda: "the next question") == "the next question"


@pytest.mark.parametrize("problem", [VaultError("no key"), ZeroDivisionError(), KeyboardInterrupt(), SystemExit(3)])
def test_what_the_work_raises_is_raised_as_it_is(problem: BaseException) -> None:
    def fail() -> None:
        raise problem

    with pytest.raises(type(problem)) as raised:
        within(5.0, "va", fail)
    assert raised.value is problem


def test_the_work_knows_the_context_of_who_waits_for_it() -> None:
    word = contextvars.ContextVar("word", default="none")
    word.set("outer")

    def look() -> str:
        seen = word.get()
        word.set("inner")
        return seen

    assert within(5.0, "va", look) == "outer"
    assert word.get() == "outer"  # and what it sets is its own


def test_each_work_has_a_thread_of_its_own_so_that_many_can_be_waited_for_at_once() -> None:
    together = threading.Barrier(4)
    with_others = [threading.Thread(target=lambda: within(10.0, "va", lambda: together.wait(10))) for _ in range(4)]
    for thread in with_others:
        thread.start()
    for thread in with_others:
        thread.join(10)
    assert not together.broken
    assert not any(thread.is_alive() for thread in with_others)


HANGS = """
import sys, threading, time
from fedmed.deadline import within
from fedmed.errors import HospitalSilent

def for_ever():
    while True:
        time.sleep(0.01)

for site in ("va", "cleveland"):
    try:
        within(0.1, site, for_ever)
    except HospitalSilent as problem:
        print(problem)
print(threading.active_count())
"""


def test_a_process_can_end_although_work_in_it_hangs() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(fedmed.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "va: did not answer within 0.1 seconds (federation.answer_within)",
        "cleveland: did not answer within 0.1 seconds (federation.answer_within)",
        "3",  # both still hang there, and hold up nobody
    ]

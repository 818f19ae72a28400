"""Hospitals in processes of their own, on one machine: each process has some of them for the whole run.

What a hospital keeps between its turns stays in its process. What passes are bytes: the coordinator's process sends the
question, the state that it is about where the other lacks it, and who took part in the rounds before; the answer is a
vector as safetensors, a stage's bytes, a score as JSON, or a refusal. Only the function that makes the hospitals goes
through multiprocessing's own serialisation, from this process to those that it started; nothing that comes back does.
"""

from __future__ import annotations

import json
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Lock, Timer
from typing import Any, Self, TypeVar

import torch

from fedmed.engine.members import Members
from fedmed.engine.runner import Answer, Question, Refusal
from fedmed.errors import FedMedError
from fedmed.strategies.algorithm import State
from fedmed.weights import from_bytes, layouts_in, to_bytes

T = TypeVar("T")
Make = Callable[[Sequence[str]], Members]
"""Makes some hospitals, in the process that is to have them. It is named by its module, or a `partial` of such a one;
its members have a mapping of states of their own, to which the states that arrive are written."""

HELD = 4
"""Models that a process holds at most: the newest, and those that a hospital is late on."""


# In a hospital's process.


def _serve(connection: Connection[Any, Any]) -> None:
    """Answer until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the coordinator's to judge: it closes the connection
    torch.set_num_threads(1)
    members: Members | None = None
    while True:
        try:
            asked = json.loads(connection.recv_bytes())
            if "question" not in asked:
                make, sites = connection.recv()
            else:
                states = [(connection.recv_bytes(), connection.recv_bytes()) for _ in asked["states"]]
                told = [connection.recv_bytes() for _ in asked["told"]]
        except EOFError:
            return
        try:
            said: dict[str, Any] = {}
            body = b""
            if "question" not in asked:
                members = make(sites)
            elif members is None:
                said = {"refusal": "its process has no hospitals"}
            else:
                _learn(members, asked, states)
                said, body = _said(members(_question(asked, told)))
        except FedMedError as problem:
            said, body = {"refusal": str(problem)}, b""
        except Exception as problem:  # noqa: BLE001  # of one hospital: its neighbours go on
            traceback.print_exc()
            said, body = {"refusal": f"{type(problem).__name__} in its process, whose standard error says more"}, b""
        try:
            connection.send_bytes(json.dumps(said).encode())
            connection.send_bytes(body)
        except OSError:
            return


def _learn(members: Members, asked: Mapping[str, Any], states: Sequence[tuple[bytes, bytes]]) -> None:
    """Take over what the coordinator says of the rounds so far."""
    known = members.states
    if not isinstance(known, MutableMapping):
        raise TypeError("expected members with a mapping of states that can be written to")
    for number, took_part in asked["took_part"]:
        known[number] = known.get(number, State({}))._replace(took_part=dict.fromkeys(took_part, ""))
    for number in asked["forget"]:
        known[number] = known[number]._replace(weights={}, memory={})
    for number, (model, shared) in zip(asked["states"], states, strict=True):
        weights = from_bytes(model, members.how.layout)
        memory = from_bytes(shared, members.how.memory_layout(weights)) if shared else {}
        known[number] = known.get(number, State({}))._replace(weights=weights, memory=memory)


def _question(asked: Mapping[str, Any], bodies: Sequence[bytes]) -> Question:
    told: dict[str, dict[str, bytes]] = {about: {} for about in asked["abouts"]}
    for (about, site), body in zip(asked["told"], bodies, strict=True):
        told[about][site] = body
    purpose, number, site, base, sites, about = asked["question"]
    return Question(purpose, number, site, base, tuple(sites), about, told)


def _said(answer: Answer | Refusal) -> tuple[dict[str, Any], bytes]:
    """An answer as it goes back: what it is, and its bytes."""
    if isinstance(answer, Refusal):
        return {"refusal": answer.reason}, b""
    if isinstance(answer.content, torch.Tensor):
        return {"answer": "vector"}, to_bytes({"vector": answer.content})
    if isinstance(answer.content, bytes):
        return {"answer": "bytes"}, answer.content
    return {"answer": "score"}, json.dumps(answer.content).encode()


# In the coordinator's process.


class Worker:
    """A process with some hospitals, as the coordinator's process sees it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.lost = ""
        self.known: set[int] = set()
        self.trained: set[int] = set()
        self.held: set[int] = set()

    def begin(self, make: Make, sites: Sequence[str], deadline: float) -> None:
        """Have hospitals made here, in place of any before."""
        self.known, self.trained, self.held = set(), set(), set()
        try:
            said, _ = self._exchange([json.dumps({}).encode()], deadline, lambda: self._connection.send((make, sites)))
        except Exception:  # the function is none that can be sent
            self.close()
            raise
        if "refusal" in said:
            self.lost = f"its process could not make its hospitals: {said['refusal']}"
            self.close()

    def ask(self, frames: Sequence[bytes], site: str, deadline: float) -> Answer | Refusal:
        """What a hospital says to a question."""
        said, body = self._exchange(frames, deadline)
        if "refusal" in said:
            return Refusal(site, str(said["refusal"]))
        if said["answer"] == "vector":
            return Answer(site, from_bytes(body, layouts_in(body))["vector"])
        return Answer(site, body if said["answer"] == "bytes" else json.loads(body))

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self.lost = self.lost or "its process was closed"
        self._connection.close()
        self.process.kill()
        self.process.join()

    def _exchange(
        self, frames: Sequence[bytes], deadline: float, then: Callable[[], None] | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Send, and wait for what comes back; whoever says nothing for too long is ended, so that nobody waits for it.

        Ended, not left alone: a process that does not read would block the next question on its way.
        """
        if self.lost:
            return {"refusal": self.lost}, b""

        def too_late() -> None:
            self.lost = f"its process did not answer within {deadline:g} s and was ended"
            self.process.kill()

        alarm = Timer(deadline, too_late)
        alarm.daemon = True
        alarm.start()
        try:
            for frame in frames:
                self._connection.send_bytes(frame)
            if then is not None:
                then()
            said: dict[str, Any] = json.loads(self._connection.recv_bytes())
            return said, self._connection.recv_bytes()
        except (EOFError, OSError):
            self.lost = self.lost or "its process has ended"
            return {"refusal": self.lost}, b""
        finally:
            alarm.cancel()


class Workers:
    """Processes that live as long as this context; one run after the other may have its hospitals in them.

    Args:
        count: how many processes.
        deadline: seconds after which a process that does not answer is ended.
    """

    def __init__(self, count: int, *, deadline: float = 600.0) -> None:
        self.deadline = deadline
        self.workers = [Worker() for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.workers:
            worker.close()

    def begin(self, make: Make, sites: Sequence[str]) -> dict[str, Worker]:
        """Have a run's hospitals made, each in one of the processes; hospital → its process.

        A process that was lost in an earlier run is started anew.
        """
        for place, worker in enumerate(self.workers):
            if worker.lost:
                worker.close()
                self.workers[place] = Worker()
        shares = [sorted(sites)[place :: len(self.workers)] for place in range(len(self.workers))]
        with ThreadPoolExecutor(len(self.workers)) as pool:
            list(pool.map(lambda worker, own: worker.begin(make, own, self.deadline), self.workers, shares))
        return {site: worker for worker, own in zip(self.workers, shares, strict=True) for site in own}


class Processes:
    """The runner of hospitals in processes.

    Args:
        workers: the processes.
        make: makes hospitals, in the process that is to have them.
        sites: all hospitals of the run.
        states: the mapping that the rounds write their states to.

    Guarantees:
        A process that dies, or does not answer by the deadline, is the refusal of its hospitals, now and in later
        rounds; nobody waits for it, and the others go on.
    """

    def __init__(self, workers: Workers, make: Make, sites: Sequence[str], states: Mapping[int, State]) -> None:
        self._deadline, self._states = workers.deadline, states
        self._worker_of = workers.begin(make, sites)
        self._lock = Lock()
        self._bytes: dict[tuple[int, str], bytes] = {}

    def ask(self, questions: Sequence[Question]) -> Iterator[Answer | Refusal]:
        """See :class:`fedmed.engine.runner.Runner`."""
        shares: dict[int, list[Question]] = {}
        for question in questions:
            shares.setdefault(id(self._worker_of[question.site]), []).append(question)
        came: SimpleQueue[Answer | Refusal | BaseException] = SimpleQueue()
        with ThreadPoolExecutor(max(1, len(shares))) as pool:
            for share in shares.values():
                pool.submit(self._through, share, came)
            for _ in questions:
                answer = came.get()
                if isinstance(answer, BaseException):
                    raise answer
                yield answer

    def step(self, name: str, work: Callable[[], T]) -> T:
        """See :class:`fedmed.engine.runner.Runner`."""
        return work()

    def _through(self, share: Sequence[Question], came: SimpleQueue[Answer | Refusal | BaseException]) -> None:
        """Ask the hospitals of one process, one after the other."""
        try:
            for question in share:
                worker = self._worker_of[question.site]
                frames = [] if worker.lost else self._frames(worker, question)
                came.put(worker.ask(frames, question.site, self._deadline))
        except BaseException as problem:  # noqa: BLE001  # raised by whoever waits for the answers
            came.put(problem)

    def _frames(self, worker: Worker, question: Question) -> list[bytes]:
        """A question with all that its process does not know yet, in the order in which it is read there."""
        number, purpose = question.round, question.purpose
        about = {"train": question.base, "score": number}.get(purpose)
        lacking = [] if about is None or about in worker.held else [about]
        done = number if purpose == "score" else number - 1
        news = sorted(turn for turn in worker.trained - worker.known if turn <= done)
        with self._lock:
            bodies = [self._body(base, what) for base in lacking for what in ("model", "memory")]
            took_part = [(turn, sorted(self._states[turn].took_part)) for turn in news]
        worker.trained |= {number} if purpose == "train" else set()
        worker.known |= set(news)
        worker.held |= set(lacking)
        forget = sorted(worker.held - {about})[: len(worker.held) - HELD] if len(worker.held) > HELD else []
        worker.held -= set(forget)
        told = [(name, site, data) for name, by_site in question.told.items() for site, data in by_site.items()]
        header = {
            "question": question[:6],
            "abouts": list(question.told),
            "told": [entry[:2] for entry in told],
            "states": lacking,
            "took_part": took_part,
            "forget": forget,
        }
        return [json.dumps(header).encode(), *bodies, *(data for _, _, data in told)]

    def _body(self, number: int, what: str) -> bytes:
        """A state's model or memory as bytes, made once for all processes."""
        if (number, what) not in self._bytes:
            while len(self._bytes) >= 2 * HELD:
                del self._bytes[next(iter(self._bytes))]
            state = self._states[number]
            tensors = state.weights if what == "model" else state.memory
            self._bytes[number, what] = to_bytes(tensors) if tensors else b""
        return self._bytes[number, what]

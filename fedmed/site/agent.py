"""A hospital's agent: find what is asked, decide, answer or refuse, and let nothing out that is not in the outbox.

For each question of the inbox: was it answered before? Then the same bytes go out again, wherever they are missing. If
not, the hospital's policy decides, the answer is computed, kept in the outbox, and only then posted. This is the one
door through which anything leaves a hospital. It can be ended at any instant and is gone on with at the next step.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from fedmed.errors import ExchangeError, FedMedError, MessageMissing, MessageRefused, SiteFailed
from fedmed.exchange.base import Exchange
from fedmed.gates import need
from fedmed.site.home import SiteHome
from fedmed.site.log import kept_at_home, write_log
from fedmed.site.outbox import Entry
from fedmed.site.policy import POLICY, asked_once
from fedmed.site.request import Request, Told
from fedmed.wire.messages import Address, Question, Refusal, read_name
from fedmed.wire.post import find, inbox, payload_name, reference
from fedmed.wire.purposes import PURPOSES

MOST_REASON = 2000
TRIES = 3
"""How often a question is tried that fails for no reason of FedMed's own, before it is refused."""


class Receipt(NamedTuple):
    """What became of a question: names and addresses only."""

    site: str
    purpose: str
    name: str
    reused: bool
    refused: bool


def step(home: SiteHome, exchange: Exchange, run: str, name: str, *, last: bool = True) -> Receipt:
    """Answer one question of a run's inbox.

    Args:
        home: the hospital's folder.
        exchange: where questions are found and answers are posted.
        run: whose inbox is looked through.
        name: of the question's address.
        last: whether a failure that is no reason of FedMed's own is final: if not, nothing is posted.

    Raises:
        MessageMissing: if the inbox does not hold the question.
        MessageRefused: if another question was answered at this address; nothing is posted then.
        MessageConflict: if somebody else's bytes stand where the answer belongs.
        SiteFailed: if something unforeseen failed, and this try is not the last.

    Guarantees:
        Idempotent: a question that was answered before is not worked on again; nothing differs for whoever reads it.
        What is posted is in the outbox before, byte for byte.
    """
    if name not in inbox(exchange, home.name, run):
        raise MessageMissing(f"{home.name}: its inbox holds no question {name}")
    question = find(exchange, name)
    if not isinstance(question, Question):
        raise MessageRefused(f"{name}: expected a question, got something else")
    request = Request(home, question, exchange)
    need({"once": asked_once}, request, lambda reason: MessageRefused(f"{home.name}: {reason}"))
    earlier = home.outbox.answer_to(request.digest)
    entry = earlier or _answer(request, last=last)
    refused = _post(home, exchange, entry)
    return Receipt(home.name, question.purpose, entry.name, earlier is not None, refused)


def due(home: SiteHome, exchange: Exchange) -> list[tuple[str, str]]:
    """Run and name of every question that is still to be answered, and of every answer that is missing, in order.

    Questions that a later one of the same kind has overtaken are left: nobody waits for their answers. Of the others
    it is looked whether the answer stands there whole. A name that no question can have is nobody's question.
    """
    questions = list(_addresses(inbox(exchange, home.name)))
    newest: dict[tuple[str, str], tuple[int, int]] = {}
    for _, address in questions:
        key = _kind(address)
        newest[key] = max(newest.get(key, (0, 0)), (address.attempt, address.round))
    entries = home.outbox.entries()
    answered = {entry.name: entry.number for entry in entries if entry.kind == "answer"}
    dropped = {entry.run: entry.number for entry in entries if entry.kind == "dropped"}
    standing = {
        name for sender, run in {(at.sender, at.run) for _, at in questions} for name in inbox(exchange, sender, run)
    }

    def open_(address: Address) -> bool:
        answer, waited_for = _answer_name(address), newest[_kind(address)] == (address.attempt, address.round)
        if answer not in standing:
            has_bodies = answered.get(answer, 0) > dropped.get(address.run, 0)
            return has_bodies if answer in answered else waited_for
        return waited_for and answer in answered and _lost(exchange, answer)

    return [(address.run, name) for name, address in questions if open_(address)]


def _lost(exchange: Exchange, name: str) -> bool:
    """Whether what was put under a name does not stand there whole any more."""
    try:
        return exchange.get(name) is None
    except MessageRefused:
        return False  # it is somebody else's


def _addresses(names: Iterable[str]) -> Iterator[tuple[str, Address]]:
    """The names that stand for addresses, with these; whatever else somebody has put there is passed over."""
    for name in names:
        with suppress(MessageRefused):
            if (address := read_name(name)).name == name:
                yield name, address


def _kind(address: Address) -> tuple[str, str]:
    """Run and topic of a question; one topic for all that is asked in every round."""
    purpose = PURPOSES.get(address.topic.partition(".")[0])
    return address.run, "rounds" if purpose is not None and purpose.rounds else address.topic


def _answer_name(question: Address) -> str:
    return question._replace(recipient=question.sender, sender=question.recipient).name


def serve(home: SiteHome, exchange: Exchange, *, until: Callable[[], bool], pause: float = 1.0) -> None:
    """Answer whatever comes, until `until` says so; a question that fails is tried again, and in the end refused.

    What the machine itself refuses, such as a full disk, is waited out: it is no try.

    Args:
        home: the hospital's folder.
        exchange: where both sides meet.
        until: asked before every look into the inbox.
        pause: seconds until the next look, where one finds nothing or something fails.

    Raises:
        SettingsError: if the hospital's own options are wrong when it begins.
    """
    tries: dict[str, int] = {}
    home.outbox.drop_bodies(time.time() - 86_400 * home.options().keep_bodies)
    while not until():
        if not _look(home, exchange, tries):
            time.sleep(pause)


def _look(home: SiteHome, exchange: Exchange, tries: dict[str, int]) -> bool:
    """Try every question that is due once; whether there were any and none failed."""
    try:
        waiting = [(run, name) for run, name in due(home, exchange) if tries.get(name, 0) < TRIES]
    except (ExchangeError, OSError) as problem:
        return _failed(home, "the inbox", problem)
    went_well = bool(waiting)
    for run, name in waiting:
        try:
            step(home, exchange, run, name, last=tries.get(name, 0) + 1 == TRIES)
        except OSError as problem:
            went_well = _failed(home, name, problem)
        except FedMedError as problem:
            tries[name] = tries.get(name, 0) + 1
            went_well = _failed(home, name, problem)
    return went_well


def _failed(home: SiteHome, what: str, problem: Exception) -> bool:
    with suppress(OSError):  # where the disk is full, the log cannot be written either
        write_log(home, f"{what}: {type(problem).__name__}: {problem}")
    return False


def _answer(request: Request, *, last: bool) -> Entry:
    """Work on a question: the answer, or the refusal, as it is in the outbox."""
    try:
        with kept_at_home(request.home):
            told = _worked(request)
    except SiteFailed as problem:
        if not last:
            raise
        told = _refusal(request, problem)
    except FedMedError as problem:
        told = _refusal(request, problem)
    plan = request.named_plan
    if isinstance(plan, str) or isinstance(told.response, Refusal):  # a plan that was refused binds nobody
        return request.outbox.add(*told)
    return request.outbox.add(*told, plan=plan.digest, begun=plan.attempt)


def _worked(request: Request) -> Told:
    home = request.home
    need(POLICY, request, lambda reasons: MessageRefused(f"{home.name}: {reasons}"))
    module, _, function = PURPOSES[request.question.purpose].answered_by.partition(":")
    answered: Told = getattr(importlib.import_module(module), function)(request)
    return answered


def _refusal(request: Request, problem: FedMedError) -> Told:
    return Told(request.reply(Refusal, reason=str(problem)[:MOST_REASON]))


def _post(home: SiteHome, exchange: Exchange, entry: Entry) -> bool:
    """Put an answer of the outbox where it belongs, its payload first; whether it is a refusal."""
    said = home.outbox.said(entry)
    if said.payload is not None:
        exchange.put(payload_name(reference(said.payload)), said.payload)
    exchange.put(entry.name, said.message)
    return said.message.startswith(b'{"kind":"refusal"')

"""A run at the coordinator: its plan and states on the disk, its rounds, and what is known of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from fedmed.coordinator.asking import Call, Silent, Step, ask, right_away
from fedmed.coordinator.history import RoundRecord, SiteRound, mean_of
from fedmed.coordinator.home import CoordinatorHome
from fedmed.coordinator.intake import Envelope, Scored, take_score, take_update
from fedmed.coordinator.states import KeptStates
from fedmed.engine.loop import Round, federate
from fedmed.engine.runner import Answer, Question, Refusal
from fedmed.errors import ExchangeError, MessageRefused, WorkspaceError
from fedmed.exchange.base import Exchange
from fedmed.files import write_atomically
from fedmed.weights import Weights
from fedmed.wire import messages
from fedmed.wire.messages import Payload, Plan, Response, Score, StageAnswer, Update, decode_plan
from fedmed.wire.post import bundle, payload_of, put_payload


class Run:
    """A run that was agreed on, and all that the coordinator has of it.

    Args:
        folder: where it is kept.
        plan: what was agreed.
        attempt: the present one.
        minimum_cell: the smallest count that the coordinator wants to be told.
    """

    def __init__(self, folder: Path, plan: Plan, attempt: int, minimum_cell: int) -> None:
        self.folder, self.plan, self.attempt, self.minimum_cell = folder, plan, attempt, minimum_cell
        self.states = KeptStates(folder / "states", plan.algorithm)

    @property
    def records(self) -> list[RoundRecord]:
        """The rounds that are done, in order.

        Raises:
            WorkspaceError: if a file is damaged.
        """
        return [_record(path) for path in sorted((self.folder / "rounds").glob("*.json"))]

    def keep(self, record: RoundRecord) -> None:
        """Keep a round that is done."""
        path = self.folder / "rounds" / f"{record.round:05d}.json"
        write_atomically(path, record.model_dump_json(indent=1).encode() + b"\n")

    def model_of(self, number: int) -> Payload:
        """The model after a round, by its digest."""
        return self.states.record(number).model


def keep_plan(home: CoordinatorHome, plan: Plan, begin: Weights, minimum_cell: int) -> Run:
    """Keep a plan that was agreed on now, its first state before it: where there is a plan, there is a start."""
    run = Run(home.run_folder(plan.run, plan.attempt), plan, plan.attempt, minimum_cell)
    run.states[0] = plan.algorithm.start(begin)
    write_atomically(run.folder / "plan.json", plan.encoded())
    return run


def kept_run(home: CoordinatorHome, run: str, attempt: int, minimum_cell: int) -> Run | None:
    """The run that was agreed on before under this name; None if none was.

    Raises:
        WorkspaceError: if its plan is damaged.
    """
    folder = home.run_folder(run, home.attempts(run).begun)
    try:
        return Run(folder, decode_plan((folder / "plan.json").read_bytes()), attempt, minimum_cell)
    except FileNotFoundError:
        return None
    except MessageRefused:
        raise WorkspaceError(f"{folder / 'plan.json'}: damaged; start over with `fedmed run --force`") from None


class Hospitals:
    """The runner of a run with hospitals: the engine's questions become messages, and messages its answers.

    Args:
        run: the run.
        exchange: where both sides meet.
        call: how hospitals come to answer.
        step: how the coordinator's steps are run.
    """

    def __init__(self, run: Run, exchange: Exchange, call: Call, step: Step = right_away) -> None:
        self._run, self._exchange, self._call = run, exchange, call
        self.step = step
        self._published: dict[tuple[int, str], Payload] = {}

    def ask(self, questions: Sequence[Question]) -> Iterator[Answer | Refusal]:
        """See :class:`fedmed.engine.runner.Runner`."""
        asked = {question.site: question for question in questions}
        for outcome in ask(self._exchange, self._call, self._dressed(questions)):
            if isinstance(outcome, Silent):
                yield Refusal(outcome.site, outcome.reason)
                continue
            try:
                yield self._judged(asked[outcome.sender], outcome)
            except ExchangeError as problem:
                yield Refusal(outcome.sender, str(problem))

    def _dressed(self, questions: Sequence[Question]) -> list[messages.Question]:
        """The engine's questions as messages, with everything that they name in the exchange."""
        run, plan = self._run, self._run.plan
        agreed = self._put((-1, "plan"), plan.encoded())
        bundles: dict[str, Payload] = {}
        dressed = []
        for question in questions:
            for about, told in question.told.items():
                if about not in bundles:
                    bundles[about] = put_payload(self._exchange, bundle(told))
            before = question.round if question.purpose == "score" else question.round - 1
            dressed.append(
                messages.Question(
                    run=plan.run,
                    attempt=run.attempt,
                    round=question.round,
                    recipient=question.site,
                    purpose=question.purpose,
                    about=question.about,
                    minimum_cell=run.minimum_cell,
                    fingerprint=plan.fingerprints[question.site],
                    plan=agreed,
                    models=self._models(question),
                    sites=question.sites,
                    counted=run.states.counted(question.site, before),
                    told={about: bundles[about] for about in question.told},
                )
            )
        return dressed

    def _models(self, question: Question) -> dict[str, Payload]:
        if question.purpose == "stage":
            return {}
        names = {"federated": "model"}
        if question.purpose == "train" and self._run.plan.algorithm.strategy.shares_memory:
            names["memory"] = "memory"
        return {name: self._published_state(question.base, what) for name, what in names.items()}

    def _published_state(self, number: int, what: str) -> Payload:
        key = (number, what)
        return self._published[key] if key in self._published else self._put(key, self._run.states.bytes_of(*key))

    def _put(self, key: tuple[int, str], data: bytes) -> Payload:
        if key not in self._published:
            self._published[key] = put_payload(self._exchange, data)
        return self._published[key]

    def _judged(self, question: Question, response: Response) -> Answer:
        site, content = question.site, self._content(question, response)
        return Answer(site, content, response.payload.sha256 if response.payload else "")

    def _content(self, question: Question, response: Response) -> Tensor | bytes | Score:
        run = self._run
        if isinstance(response, Update) and question.purpose == "train":
            base = run.model_of(question.base).sha256
            return take_update(Envelope(response, run.plan, base), self._exchange)
        if isinstance(response, StageAnswer) and question.purpose == "stage":
            return payload_of(self._exchange, response.payload)
        if isinstance(response, Score) and question.purpose == "score":
            return take_score(Scored(response, run.plan, run.model_of(question.round).sha256))
        raise MessageRefused(f"{question.site}: expected an answer to {question.purpose}, got another message")


def rounds_of(
    run: Run, exchange: Exchange, call: Call, step: Step = right_away, *, quorum: int = 1
) -> Iterator[RoundRecord]:
    """The rounds of a run that are still to be done, one for each `next`; each is kept when it is done.

    Raises:
        QuorumNotMet: if too few hospitals answer.
    """
    since = len(run.records) + 1
    for round_ in federate(run.plan.algorithm, run.states, Hospitals(run, exchange, call, step), quorum, since=since):
        record = record_of(run, round_)
        run.keep(record)
        yield record


def record_of(run: Run, round_: Round) -> RoundRecord:
    """What is known of a round when it is done."""
    state, scores = round_.state, round_.scores
    sites: dict[str, Any] = {
        site: SiteRound(refused=reason, silent=round_.silent.get(site, "")) for site, reason in state.refused.items()
    }
    for site in run.plan.participants:
        took_part, score = site in state.took_part, scores.get(site)
        silent = round_.silent.get(site, "")
        if site in state.refused or not (took_part or score or silent):
            continue
        sites[site] = SiteRound(
            train_loss=state.losses.get(site) if took_part else None,
            rows=run.plan.rows[site] if took_part else None,
            validation_loss=score.loss if score else None,
            validation_rows=score.rows if score else None,
            metrics=score.metrics if score else {},
            silent=silent,
        )
    return RoundRecord(
        round=round_.number,
        model=run.model_of(round_.number),
        participants=tuple(state.took_part),
        train_loss=state.loss,
        validation_loss=mean_of([(entry.validation_loss, entry.validation_rows) for entry in sites.values()]),
        sites=dict(sorted(sites.items())),
    )


def _record(path: Path) -> RoundRecord:
    try:
        return RoundRecord.model_validate_json(path.read_bytes())
    except ValidationError:
        raise WorkspaceError(f"{path}: damaged; start the run over with `fedmed run --force`") from None

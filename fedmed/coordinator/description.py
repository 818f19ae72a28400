"""The description of all hospitals' training rows: asked for, held against the rules, pooled, written."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from fedmed.aggregation.description import Told, described, description_layout, read_tables
from fedmed.aggregation.summaries import Summary, summarise
from fedmed.coordinator.admission import Admissions, code_digest, digest_of, questions_to
from fedmed.coordinator.asking import Asked
from fedmed.data.cohort import Cohort
from fedmed.engine.loop import check_quorum
from fedmed.errors import ExchangeError, MessageRefused, QuorumNotMet, WorkspaceError
from fedmed.exchange.base import Exchange
from fedmed.files import write_atomically
from fedmed.settings import Settings
from fedmed.typed_yaml import Record
from fedmed.weights import from_bytes
from fedmed.wire.messages import Description, Question
from fedmed.wire.post import payload_of


class Described(Record):
    """The training rows of one hospital or of all: how many, under which minimum cell, and every column."""

    rows: int
    minimum_cell: int
    columns: dict[str, Summary]


class FederatedDescription(Record):
    """What the hospitals' training rows look like, over all and one by one; `target` is a column among the others."""

    run: str
    cohort: str
    target: str
    overall: Described
    hospitals: dict[str, Described]
    failed: dict[str, str] = {}


def ask_to_describe(settings: Settings, cohort: Cohort, admissions: Admissions, attempt: int = 1) -> list[Question]:
    """Ask the admitted hospitals to describe their training rows."""
    return questions_to(
        description_id(settings, cohort, admissions), "describe", admissions.fingerprints, settings, attempt
    )


def description_id(settings: Settings, cohort: Cohort, admissions: Admissions) -> str:
    """The name of a description; the same question again has the same name.

    Raises:
        QuorumNotMet: if no hospital is admitted.
    """
    if not admissions.admitted:
        raise QuorumNotMet("no hospital is admitted, so there is nothing to describe; see `fedmed validate`")
    digest = digest_of(admissions.fingerprints, settings.privacy.minimum_cell, cohort.digest, code_digest())
    return f"description-{digest[:10]}"


def gather_descriptions(
    run: str, settings: Settings, cohort: Cohort, asked: Asked, exchange: Exchange
) -> FederatedDescription:
    """Pool what the hospitals told.

    Args:
        run: the name of the description.
        settings: for the quorum and the minimum cell that was asked for.
        cohort: the declaration.
        asked: what came of the question.
        exchange: where the payloads are.

    Raises:
        QuorumNotMet: if too few descriptions could be used.
    """
    features, told, failed = described(cohort), {}, dict(asked.failed)
    for site, message in asked.answers.items():
        try:
            told[site] = _told(message, settings.privacy.minimum_cell, cohort, exchange)
        except ExchangeError as problem:
            failed[site] = str(problem)
    check_quorum(sorted(told), settings.federation.quorum, "there are descriptions of", failed)

    def of(sites: Iterable[str]) -> Described:
        parts = [told[site] for site in sites]
        first = [part[features[0].name] for part in parts]
        return Described(
            rows=sum(part.rows for part in first),
            minimum_cell=max(part.minimum_cell for part in first),
            columns={feature.name: summarise(feature, [part[feature.name] for part in parts]) for feature in features},
        )

    return FederatedDescription(
        run=run,
        cohort=cohort.name,
        target=cohort.target.name,
        overall=of(told),
        hospitals={site: of([site]) for site in told},
        failed=failed,
    )


def write_description(path: Path, description: FederatedDescription) -> None:
    """Write a description as JSON."""
    write_atomically(path, description.model_dump_json(indent=1).encode() + b"\n")


def read_description(path: Path) -> FederatedDescription:
    """The description in a file.

    Raises:
        WorkspaceError: if there is none, or the file is damaged.
    """
    try:
        return FederatedDescription.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise WorkspaceError("the hospitals' data have not been described yet; run `fedmed data describe`") from None
    except ValidationError:
        raise WorkspaceError(f"{path}: not a description; run `fedmed data describe`") from None


def _told(message: Description, minimum_cell: int, cohort: Cohort, exchange: Exchange) -> dict[str, Told]:
    site = message.sender
    if message.minimum_cell < minimum_cell:
        raise MessageRefused(f"{site}: its minimum cell is under the {minimum_cell} that were asked for")
    tables = from_bytes(payload_of(exchange, message.payload), description_layout(cohort))
    try:
        return read_tables(tables, cohort, message.rows, message.minimum_cell)
    except ValueError as problem:
        raise MessageRefused(f"{site}: {problem}") from None

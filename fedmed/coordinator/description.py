"""The description of all hospitals' training rows: asked for, held against the rules, pooled, written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from fedmed.aggregation.description import Summary, Told, described, description_layout, read_tables, summarise
from fedmed.coordinator.admission import Admissions, check_quorum, code_digest, digest_of, invite_sites
from fedmed.data.cohort import Cohort
from fedmed.errors import ExchangeError, MessageRefused, QuorumNotMet, WorkspaceError
from fedmed.exchange.base import Exchange, fetch
from fedmed.files import write_atomically
from fedmed.settings import Settings
from fedmed.typed_yaml import Record
from fedmed.weights import from_bytes
from fedmed.wire.messages import COORDINATOR, Address, Description, Invitation


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


def invite_to_describe(settings: Settings, cohort: Cohort, admissions: Admissions) -> list[Invitation]:
    """Ask the admitted hospitals to describe their training rows; the same question again has the same name.

    Raises:
        QuorumNotMet: if no hospital is admitted.
    """
    if not admissions.admitted:
        raise QuorumNotMet("no hospital is admitted, so there is nothing to describe; see `fedmed validate`")
    partitions = admissions.fingerprints
    run = "description-" + digest_of(partitions, settings.privacy.minimum_cell, cohort.digest, code_digest())[:10]
    return invite_sites(run, "describe", partitions, settings)


def gather_descriptions(
    run: str,
    settings: Settings,
    cohort: Cohort,
    answered: Iterable[str],
    failed: Mapping[str, str],
    exchange: Exchange,
) -> FederatedDescription:
    """Pool what the hospitals told.

    Args:
        run: the name of the description.
        settings: for the quorum and the minimum cell that was asked for.
        cohort: the declaration.
        answered: the hospitals that posted a description.
        failed: hospital → why it did not.
        exchange: where the descriptions are.

    Raises:
        QuorumNotMet: if too few descriptions could be used.
    """
    features, told, failed = described(cohort), {}, dict(failed)
    for site in sorted(answered):
        try:
            told[site] = _told(run, site, settings.privacy.minimum_cell, cohort, exchange)
        except ExchangeError as problem:
            failed[site] = str(problem)
    check_quorum(len(told), settings.federation.quorum, "there are descriptions of", failed)

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


def _told(run: str, site: str, minimum_cell: int, cohort: Cohort, exchange: Exchange) -> dict[str, Told]:
    message = fetch(exchange, Address(run, 0, "description", site, COORDINATOR), Description)
    if message.minimum_cell < minimum_cell:
        raise MessageRefused(f"{site}: its minimum cell is under the {minimum_cell} that were asked for")
    tables = from_bytes(exchange.payload(message.payload), description_layout(cohort))
    try:
        return read_tables(tables, cohort, message.rows, message.minimum_cell)
    except ValueError as problem:
        raise MessageRefused(f"{site}: {problem}") from None

"""Who takes part: the hospitals whose data keep the contract, if they are enough."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Self

from fedmed.data.partition import PartitionReceipt
from fedmed.errors import ExchangeError, MessageRefused, QuorumNotMet, WorkspaceError
from fedmed.exchange.base import Exchange, fetch
from fedmed.settings import Settings
from fedmed.typed_yaml import Record
from fedmed.wire.messages import COORDINATOR, Address, Admission, Invitation, Purpose


class Admissions(Record):
    """The answers of all hospitals that were asked, and of which partitions."""

    validation: str
    sites: dict[str, Admission]

    @classmethod
    def gather(cls, validation: str, answered: Iterable[str], failed: Mapping[str, str], exchange: Exchange) -> Self:
        """From the answers in the exchange; a hospital without an answer that can be used is quarantined for that."""
        sites, unusable = {}, dict(failed)
        for site in answered:
            try:
                sites[site] = _checked(
                    fetch(exchange, Address(validation, 0, "admission", site, COORDINATOR), Admission)
                )
            except ExchangeError as problem:
                unusable[site] = str(problem)
        for site, reason in unusable.items():
            sites[site] = Admission(
                run=validation,
                sender=site,
                admitted=False,
                failed=(f"validation: {reason}",),
                expectations=0,
                fingerprint=None,
                rows={},
            )
        return cls(validation=validation, sites=dict(sorted(sites.items())))

    @property
    def admitted(self) -> list[str]:
        """Names of the admitted hospitals, sorted."""
        return sorted(site for site, admission in self.sites.items() if admission.admitted)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Admitted hospital → the partition with which it was admitted."""
        return {site: self.fingerprint(site) for site in self.admitted}

    def fingerprint(self, site: str) -> str:
        """The partition with which a hospital was admitted."""
        return self.sites[site].fingerprint or ""

    @property
    def quarantined(self) -> dict[str, tuple[str, ...]]:
        """Quarantined hospital → the expectations that its data failed."""
        return {site: message.failed for site, message in sorted(self.sites.items()) if not message.admitted}


def _checked(admission: Admission) -> Admission:
    """An answer by which a hospital takes part says which partition it has, and how much of it there is to train on."""
    if admission.admitted and (admission.fingerprint is None or not admission.rows.get("train")):
        raise MessageRefused(f"{admission.sender}: expected the fingerprint and training rows of an admitted partition")
    return admission


def digest_of(*parts: object) -> str:
    """SHA-256 of JSON-able parts, keys sorted."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def code_digest() -> str:
    """SHA-256 of FedMed's own sources: another version of the code is another run."""
    digest = hashlib.sha256()
    root = Path(str(resources.files("fedmed")))
    for source in sorted(root.rglob("*.py")):
        digest.update(source.relative_to(root).as_posix().encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()


def read_receipts(folder: Path, settings: Settings) -> dict[str, PartitionReceipt]:
    """Every hospital's partition receipt.

    Raises:
        WorkspaceError: if a hospital has not partitioned its data.
    """
    receipts = {}
    for site in sorted(settings.federation.sites):
        path = folder / f"{site}.json"
        if not path.exists():
            raise WorkspaceError(f"{site} has not partitioned its data; run `fedmed data partition --site {site}`")
        receipts[site] = PartitionReceipt.model_validate_json(path.read_bytes())
    return receipts


def validation_id(settings: Settings, receipts: Mapping[str, PartitionReceipt]) -> str:
    """The name of one validation: what is asked, of which partitions."""
    fingerprints = {site: receipt.model_dump() for site, receipt in receipts.items()}
    return "validation-" + digest_of(fingerprints, settings.privacy.model_dump(), code_digest())[:10]


def invite_to_validate(settings: Settings, receipts: Mapping[str, PartitionReceipt]) -> list[Invitation]:
    """One invitation a hospital, in site order."""
    fingerprints = {site: receipt.fingerprint for site, receipt in receipts.items()}
    return invite_sites(validation_id(settings, receipts), "validate", fingerprints, settings)


def invite_sites(run: str, purpose: Purpose, fingerprints: Mapping[str, str], settings: Settings) -> list[Invitation]:
    """One invitation for each hospital that is named with the partition that is meant, in site order; no plan yet."""
    return [
        Invitation(
            run=run,
            recipient=site,
            purpose=purpose,
            minimum_cell=settings.privacy.minimum_cell,
            fingerprint=fingerprints[site],
        )
        for site in sorted(fingerprints)
    ]


def check_quorum(present: int, quorum: int, what: str, absent: Mapping[str, object]) -> None:
    """Stop if fewer hospitals are there than the quorum (federation.quorum in params.yaml).

    Raises:
        QuorumNotMet: saying how many there are, who is missing and why.
    """
    if present >= quorum:
        return
    reasons = "; ".join(f"{site}: {_words(reason)}" for site, reason in sorted(absent.items()))
    hospitals = present + len(absent)
    raise QuorumNotMet(
        f"{what} {present} of {hospitals} hospitals, but the quorum (federation.quorum) is {quorum}. {reasons}"
    )


def _words(reason: object) -> str:
    return ", ".join(map(str, reason)) if isinstance(reason, tuple | list) else str(reason)

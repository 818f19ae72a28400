"""Who takes part: the hospitals whose data keep the contract, if they are enough."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Self

from fedmed.coordinator.asking import Asked
from fedmed.data.partition import PartitionReceipt
from fedmed.errors import WorkspaceError
from fedmed.gates import Gate, Verdict, against, fails_if, judge
from fedmed.settings import Settings
from fedmed.typed_yaml import Record
from fedmed.weights import sha256
from fedmed.wire.messages import Admission, Question, bare, encode


class Admissions(Record):
    """The answers of all hospitals that were asked, and of which partitions."""

    validation: str
    sites: dict[str, Admission]

    @classmethod
    def gather(cls, questions: Sequence[Question], asked: Asked) -> Self:
        """From what came of a validation; a hospital without an answer that can be used is quarantined for that."""
        sites, unusable = {}, dict(asked.failed)
        for site, admission in asked.answers.items():
            if reasons := against(judge(ADMISSION, admission)):
                unusable[site] = "; ".join(reasons)
            else:
                sites[site] = bare(admission)
        by_site = {question.recipient: question for question in questions}
        for site, reason in unusable.items():
            sites[site] = bare(_quarantined(by_site[site], f"validation: {reason}"))
        return cls(validation=questions[0].run, sites=dict(sorted(sites.items())))

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


def _quarantined(question: Question, reason: str) -> Admission:
    return Admission(
        run=question.run,
        attempt=question.attempt,
        sender=question.recipient,
        purpose=question.purpose,
        question=sha256(encode(question)),
        admitted=False,
        failed=(reason,),
        expectations=0,
        fingerprint=None,
        rows={},
    )


def _says_what_it_has(admission: Admission) -> Verdict:
    """An answer by which a hospital takes part says which partition it has, and how much of it there is to train on."""
    silent = admission.admitted and (admission.fingerprint is None or not admission.rows.get("train"))
    return fails_if(silent, f"{admission.sender}: expected the fingerprint and training rows of an admitted partition")


ADMISSION: dict[str, Gate[Admission]] = {"complete": _says_what_it_has}


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


def ask_to_validate(settings: Settings, receipts: Mapping[str, PartitionReceipt], attempt: int = 1) -> list[Question]:
    """One question a hospital, in site order."""
    fingerprints = {site: receipt.fingerprint for site, receipt in receipts.items()}
    return questions_to(validation_id(settings, receipts), "validate", fingerprints, settings, attempt)


def questions_to(
    run: str, purpose: str, fingerprints: Mapping[str, str], settings: Settings, attempt: int = 1
) -> list[Question]:
    """One question for each hospital that is named with the partition that is meant, in site order; no plan yet."""
    return [
        Question(
            run=run,
            attempt=attempt,
            recipient=site,
            purpose=purpose,
            minimum_cell=settings.privacy.minimum_cell,
            fingerprint=fingerprints[site],
            sites=tuple(sorted(fingerprints)),
        )
        for site in sorted(fingerprints)
    ]

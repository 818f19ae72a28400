"""Hold a hospital's partition against its contract, unless neither has changed since the last time."""

from __future__ import annotations

import pandas as pd
from pydantic import ValidationError

from fedmed.data.contract import Verdict, examine, suite_digest
from fedmed.data.partition import read_partition
from fedmed.data.split import SPLITS
from fedmed.files import write_atomically
from fedmed.privacy.cells import published
from fedmed.site.desk import open_session
from fedmed.site.home import SiteHome
from fedmed.targets.kind import TARGET
from fedmed.typed_yaml import Record

TOO_SMALL = "table: rows in train, at least the minimum cell"


class _Examined(Record):
    """A verdict and what it was passed on."""

    fingerprint: str
    suite: str
    verdict: Verdict


def examine_partition(home: SiteHome, minimum_cell: int) -> tuple[Verdict, str, dict[str, int | None]]:
    """The contract's verdict on a home's partition.

    Returns:
        The verdict, the partition's fingerprint, and the number of rows of each split, None where it is smaller than
        `minimum_cell`.

    Raises:
        VaultError: if the partition does not open.
    """
    session = open_session(home)
    manifest = session.manifest
    tables = read_partition(home.partition, home.vault())
    suite = suite_digest(manifest.cohort)
    examined = _last(home)
    if examined is None or (examined.fingerprint, examined.suite) != (manifest.fingerprint, suite):
        rows = pd.concat([tables[name].assign(split=name) for name in SPLITS], ignore_index=True)
        examined = _Examined(
            fingerprint=manifest.fingerprint, suite=suite, verdict=examine(manifest.cohort, rows, home.contract)
        )
        write_atomically(home.contract / "verdict.json", examined.model_dump_json(indent=2).encode(), mode=0o600)
    verdict, told = examined.verdict, _rows(tables, minimum_cell)
    if verdict.admitted and told["train"] is None:
        # What may not tell how many rows it trains on cannot be weighed.
        verdict = verdict.model_copy(update={"admitted": False, "failed": (TOO_SMALL,)})
    return verdict, manifest.fingerprint, told


def _rows(tables: dict[str, pd.DataFrame], minimum_cell: int) -> dict[str, int | None]:
    told: dict[str, int | None] = {}
    for name, table in tables.items():
        counts = {str(label): int(count) for label, count in table[TARGET].value_counts().items()}
        told[name] = published(counts, minimum_cell)["rows"].value
    return told


def _last(home: SiteHome) -> _Examined | None:
    try:
        return _Examined.model_validate_json((home.contract / "verdict.json").read_bytes())
    except (FileNotFoundError, ValidationError):
        return None

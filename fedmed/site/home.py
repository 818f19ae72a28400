"""A hospital's own folder: its key, records, partition, contract results and models, and how each is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from pydantic import Field

from fedmed import typed_yaml
from fedmed.data.cohort import Cohort
from fedmed.data.keys import provider_for
from fedmed.data.partition import PartitionReceipt, write_partition
from fedmed.data.split import SplitOptions
from fedmed.data.vault import Vault
from fedmed.errors import RecordsError, SettingsError
from fedmed.privacy.cells import LOWEST_MINIMUM
from fedmed.site.outbox import Outbox, outbox_at
from fedmed.sources.reading import read_embedded, read_records
from fedmed.typed_yaml import Record


class SiteOptions(Record):
    """What a hospital decides for itself, in `site.yaml` of its folder."""

    networks: tuple[str, ...] = Field(
        ("*",), description="import paths, or patterns of them, of networks not FedMed's own that may be built here"
    )
    minimum_cell: int = Field(LOWEST_MINIMUM, ge=LOWEST_MINIMUM, description="no smaller count leaves, whoever asks")
    keep_bodies: int = Field(
        365,
        ge=1,
        description="days after its last answer that what was said in a run is kept; its digests are for good",
    )


@dataclass(frozen=True)
class SiteHome:
    """Paths and doors of one hospital's folder."""

    path: Path

    @property
    def name(self) -> str:
        """The hospital's name."""
        return self.path.name

    @property
    def records(self) -> Path:
        """All rows that the hospital has added, encrypted."""
        return self.path / "records" / "records.parquet"

    @property
    def partition(self) -> Path:
        """The rows in three splits, encrypted."""
        return self.path / "partition"

    @property
    def contract(self) -> Path:
        """The contract's full result; it stays here."""
        return self.path / "contract"

    @property
    def outbox(self) -> Outbox:
        """All that the hospital has said, and what it remembers of it."""
        return outbox_at(self.path / "outbox")

    @property
    def log(self) -> Path:
        """What went wrong here, in full, for the eyes of the hospital alone."""
        return self.path / "logs" / "site.log"

    @property
    def models(self) -> Path:
        """Models that the hospital keeps to itself."""
        return self.path / "models"

    def options(self) -> SiteOptions:
        """The hospital's own options; the defaults if it wrote none.

        Raises:
            SettingsError: if its file is wrong.
        """
        path = self.path / "site.yaml"
        return typed_yaml.read(path, SiteOptions, SettingsError, "site options") if path.exists() else SiteOptions()

    def vault(self, *, create_key: bool = False) -> Vault:
        """The vault under the hospital's key.

        Raises:
            KeyUnavailable: if there is no usable key.
        """
        return Vault(provider_for(self.path), create_key=create_key)


def add_records(home: SiteHome, files: Sequence[Path], cohort: Cohort) -> int:
    """Read a hospital's files and keep them, encrypted, in place of what it had.

    Returns:
        The number of rows.

    Raises:
        RecordsError: if a file is not as the cohort declares; nothing is changed then.
    """
    rows = read_records(files, cohort, home.name)
    home.vault(create_key=True).write(home.records, rows)
    return len(rows)


def partition_records(home: SiteHome, cohort: Cohort, options: SplitOptions) -> tuple[PartitionReceipt, bool]:
    """Split and encrypt the hospital's records; a hospital of the demonstration that added none has its embedded rows.

    Returns:
        The receipt for the coordinator, and whether anything was written.

    Raises:
        RecordsError: if there are no records, or they were added under another declaration.
        PartitionDamaged: if records or an earlier partition do not open.
    """
    vault = home.vault(create_key=not home.records.exists())
    records = vault.read(home.records) if home.records.exists() else read_embedded(cohort, home.name)
    return write_partition(home.partition, _declared(records, cohort, home), cohort, options, home.name, vault)


def _declared(records: pd.DataFrame, cohort: Cohort, home: SiteHome) -> pd.DataFrame:
    missing = [name for name in [*cohort.columns, *cohort.target.columns] if name not in records.columns]
    if missing:
        raise RecordsError(
            f"{home.name}: the records were added under another declaration (column {', '.join(missing)} missing);"
            f" add them again with `fedmed data add --site {home.name} FILE`"
        )
    return records

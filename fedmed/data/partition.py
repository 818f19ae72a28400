"""A hospital's partition: its rows split and encrypted, with a sealed manifest that says what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from fedmed.data.cohort import Cohort
from fedmed.data.split import SPLITS, SplitOptions, split
from fedmed.data.vault import Vault
from fedmed.errors import PartitionDamaged
from fedmed.files import write_atomically
from fedmed.typed_yaml import Record

MANIFEST = "manifest.json"


class Manifest(Record):
    """What a partition is, without a count or a value: it may be seen by whoever sees the ciphertext."""

    site: str
    cohort: Cohort
    split: SplitOptions
    fingerprint: str
    fingerprints: dict[str, str]


class PartitionReceipt(Record):
    """What the coordinator learns when a hospital has partitioned its data."""

    site: str
    cohort: str
    cohort_digest: str
    fingerprint: str


def write_partition(
    folder: Path, records: pd.DataFrame, cohort: Cohort, options: SplitOptions, site: str, vault: Vault
) -> tuple[PartitionReceipt, bool]:
    """Split and encrypt `records` into `folder`, unless it holds just that already.

    Returns:
        The receipt, and whether anything was written.

    Raises:
        PartitionDamaged: if an earlier partition stands there and does not open; it is left as it is.
    """
    inputs = records.drop(columns=cohort.target.columns)
    tables = split(inputs, cohort.target.label(records), options, site)
    manifest = Manifest(
        site=site,
        cohort=cohort,
        split=options,
        fingerprint=vault.fingerprint(*tables.values()),
        fingerprints={name: vault.fingerprint(table) for name, table in tables.items()},
    )
    receipt = PartitionReceipt(
        site=site, cohort=cohort.name, cohort_digest=cohort.digest, fingerprint=manifest.fingerprint
    )
    if (folder / MANIFEST).exists() and read_manifest(folder, vault) == manifest:
        read_partition(folder, vault)
        return receipt, False
    for name, table in tables.items():
        vault.write(folder / f"{name}.parquet", table)
    body = manifest.model_dump_json(indent=2)
    sealed = {"manifest": json.loads(body), "seal": vault.seal(manifest.model_dump_json().encode())}
    write_atomically(folder / MANIFEST, (json.dumps(sealed, indent=2) + "\n").encode())
    return receipt, True


def read_manifest(folder: Path, vault: Vault) -> Manifest:
    """The manifest of a partition, its seal checked.

    Raises:
        PartitionDamaged: if it is missing, malformed or not sealed by this hospital's key.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_bytes())
        manifest = Manifest.model_validate(content["manifest"])
        seal = content["seal"]
    except FileNotFoundError:
        raise PartitionDamaged(f"{path}: there is no partition here; run `fedmed data partition`") from None
    except (ValueError, KeyError, TypeError, ValidationError):
        raise PartitionDamaged(f"{path}: expected the manifest of a partition, got something else") from None
    if seal != vault.seal(manifest.model_dump_json().encode()):
        raise PartitionDamaged(f"{path}: not sealed by this hospital's key: another key, or an altered manifest")
    return manifest


def read_partition(folder: Path, vault: Vault) -> dict[str, pd.DataFrame]:
    """Split name → rows, decrypted in memory and held against the manifest.

    Raises:
        PartitionDamaged: if a file is missing, does not open, or is not the one that the manifest names.
    """
    manifest = read_manifest(folder, vault)
    tables = {}
    for name in SPLITS:
        table = vault.read(folder / f"{name}.parquet")
        if vault.fingerprint(table) != manifest.fingerprints.get(name):
            raise PartitionDamaged(f"{folder / f'{name}.parquet'}: opens, but is not the table that the manifest names")
        tables[name] = table
    return tables

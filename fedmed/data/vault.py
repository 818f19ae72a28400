"""Tables at rest: Parquet with modular encryption under the hospital's own key. Plaintext never touches the disk.

Modular encryption authenticates what a reader of the format needs, and leaves a few redundant bytes of a file alone. So
every file has a seal beside it (`train.parquet.seal`): an HMAC of all of its bytes, checked before any is decrypted.

Envelope: every file has fresh data keys (AES-GCM, by Parquet), wrapped by a key derived from the hospital's.
Encrypting the same table twice gives other bytes; :meth:`Vault.fingerprint` tells whether the plaintext is the same.
Source: Apache Parquet Modular Encryption, format specification 2.9.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedmed.data.keys import KeyProvider, derive_key
from fedmed.errors import PartitionDamaged
from fedmed.files import write_atomically

_MASTER = "data"
_MISSING = b"\0"
_BYTES = b"\1"


class Vault:
    """Encrypts, decrypts and fingerprints tables under one hospital's key."""

    def __init__(self, keys: KeyProvider, *, create_key: bool = False) -> None:
        key = keys.key(create=create_key)
        self._wrapping = derive_key(key, "parquet key wrapping")
        self._authentication = derive_key(key, "fingerprint")

    def write(self, path: Path, table: pd.DataFrame) -> None:
        """Encrypt `table` into `path`, whole or not at all."""
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        configuration = pe.EncryptionConfiguration(
            footer_key=_MASTER, uniform_encryption=True, encryption_algorithm="AES_GCM_V1", plaintext_footer=False
        )
        factory, connection = self._factory()
        buffer = pa.BufferOutputStream()
        properties = factory.file_encryption_properties(connection, configuration)
        with pq.ParquetWriter(buffer, arrow.schema, encryption_properties=properties, compression="zstd") as writer:
            writer.write_table(arrow)
        content = buffer.getvalue().to_pybytes()
        # Between the two writes of the seal the file may be the old one or the new one: a crash damages neither.
        sealed = _seal_path(path)
        earlier = sealed.read_text(encoding="ascii").split() if sealed.exists() else []
        write_atomically(sealed, "\n".join([self.seal(content), *earlier]).encode())
        write_atomically(path, content)
        write_atomically(sealed, self.seal(content).encode())

    def read(self, path: Path) -> pd.DataFrame:
        """Decrypt the table in `path`.

        Raises:
            PartitionDamaged: if the file is missing, was encrypted under another key, or has changed by a bit.
        """
        try:
            raw = path.read_bytes()
            seals = _seal_path(path).read_text(encoding="ascii").split()
        except FileNotFoundError as problem:
            raise PartitionDamaged(
                f"{problem.filename}: expected a table and its seal, but there is no such file"
            ) from None
        except UnicodeDecodeError:
            seals = []
        factory, connection = self._factory()
        try:
            if self.seal(raw) not in seals:
                raise ValueError("not the bytes that were sealed")
            properties = factory.file_decryption_properties(connection, pe.DecryptionConfiguration())
            table: pd.DataFrame = (
                pq.ParquetFile(pa.BufferReader(raw), decryption_properties=properties).read().to_pandas()
            )
            return table
        except (pa.ArrowException, OSError, ValueError, InvalidTag):
            raise PartitionDamaged(
                f"{path}: does not open under this hospital's key: the key is another one, or the file has changed"
                " since it was written. Put the right key or the file's own version back (`dvc checkout`), or"
                " delete its folder and partition again."
            ) from None

    def fingerprint(self, *tables: pd.DataFrame) -> str:
        """HMAC-SHA256 of the plaintext of `tables`, hexadecimal: equal for equal content, telling nothing else."""
        digest = hmac.new(self._authentication, digestmod=hashlib.sha256)
        for table in tables:
            digest.update(f"{len(table)}:{len(table.columns)};".encode())
            for name in table.columns:
                _absorb(digest, str(name), table[name])
        return digest.hexdigest()

    def seal(self, text: bytes) -> str:
        """HMAC-SHA256 of a document of the hospital's own, hexadecimal."""
        return hmac.new(self._authentication, b"seal:" + text, hashlib.sha256).hexdigest()

    def _factory(self) -> tuple[pe.CryptoFactory, pe.KmsConnectionConfig]:
        return pe.CryptoFactory(lambda _: _LocalKms(self._wrapping)), pe.KmsConnectionConfig()


def _seal_path(path: Path) -> Path:
    return path.with_name(path.name + ".seal")


class _LocalKms(pe.KmsClient):  # type: ignore[misc]  # pyarrow ships no types
    """Wraps Parquet's data keys with AES-256-GCM inside this process."""

    def __init__(self, wrapping: bytes) -> None:
        super().__init__()
        self._cipher = AESGCM(wrapping)

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        nonce = os.urandom(12)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, key_bytes, master_key_identifier.encode())).decode()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        raw = base64.b64decode(wrapped_key)
        try:
            return self._cipher.decrypt(raw[:12], raw[12:], master_key_identifier.encode())
        except InvalidTag:
            raise ValueError("wrapped under another key") from None


def _text(value: object) -> bytes:
    # No text is taken for a missing value, and none for the bytes of an image or a series.
    if isinstance(value, bytes):
        return _MISSING + _BYTES + value
    encoded = str(value).encode()
    return _MISSING + encoded if encoded.startswith(_MISSING) else encoded


def _absorb(digest: hmac.HMAC, name: str, values: pd.Series) -> None:
    if values.dtype.kind in "if":
        numbers = np.array(values.to_numpy(), dtype="<f8")
        numbers[np.isnan(numbers)] = np.nan  # one bit pattern for every missing value
        parts = [numbers.tobytes()]
    else:
        parts = [_MISSING if value is None or value != value else _text(value) for value in values]
    for part in (name.encode(), values.dtype.kind.encode() if values.dtype.kind in "if" else b"s", *parts):
        digest.update(len(part).to_bytes(8, "big") + part)

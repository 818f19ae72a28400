"""Where a hospital's data key comes from: a file that only its owner reads, or the environment; a KMS later."""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedmed.errors import KeyUnavailable
from fedmed.files import create_exclusively

KEY_BYTES = 32


class KeyProvider(Protocol):
    """Hands out the hospital's 256-bit data key."""

    def key(self, *, create: bool = False) -> bytes:
        """The key, 32 bytes.

        Args:
            create: make one if there is none, where the provider can.

        Raises:
            KeyUnavailable: if there is none, or it is not safe to use.
        """
        ...


class FileKey:
    """A key in a file of mode 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def key(self, *, create: bool = False) -> bytes:
        """See :class:`KeyProvider`."""
        if create and not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(FileExistsError):  # another process made one a moment ago: that is the key
                create_exclusively(self.path, base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n", mode=0o600)
        try:
            mode = stat.S_IMODE(self.path.stat().st_mode)
            if mode & 0o077:
                raise KeyUnavailable(f"{self.path}: expected mode 0600, got {mode:04o}. Run `chmod 600 {self.path}`.")
            return _decode(self.path.read_bytes(), str(self.path))
        except FileNotFoundError:
            raise KeyUnavailable(
                f"{self.path}: there is no key. Without it the hospital's data cannot be read."
            ) from None
        except OSError as problem:
            raise KeyUnavailable(f"{self.path}: this key cannot be read ({problem.strerror})") from None


class EnvironmentKey:
    """A key in an environment variable, base64."""

    def __init__(self, variable: str) -> None:
        self.variable = variable

    def key(self, *, create: bool = False) -> bytes:
        """See :class:`KeyProvider`; never creates one."""
        text = os.environ.get(self.variable)
        if not text:
            raise KeyUnavailable(
                f"the environment variable {self.variable} is empty: expected {KEY_BYTES} bytes in base64"
            )
        return _decode(text.encode(), self.variable)


def provider_for(home: Path) -> KeyProvider:
    """The key provider of a site's home: FEDMED_KEYS says `file` (the default) or `environment`.

    Raises:
        KeyUnavailable: if FEDMED_KEYS says anything else.
    """
    choice = os.environ.get("FEDMED_KEYS", "file")
    if choice == "file":
        return FileKey(home / "keys" / "data.key")
    if choice == "environment":
        return EnvironmentKey("FEDMED_KEY_" + re.sub(r"\W", "_", home.name).upper())
    raise KeyUnavailable(f"FEDMED_KEYS: expected 'file' or 'environment', got {choice!r}")


def derive_key(key: bytes, purpose: str) -> bytes:
    """A 256-bit key for one purpose, by HKDF-SHA256 (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=f"fedmed:{purpose}".encode()).derive(key)


def _decode(text: bytes, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        raise KeyUnavailable(f"{where}: expected {KEY_BYTES} bytes in base64, got something else") from None
    if len(key) != KEY_BYTES:
        raise KeyUnavailable(f"{where}: expected a key of {KEY_BYTES} bytes, got {len(key)}")
    return key

"""The exchange: bytes under names, written once. It knows no message, no schema and no party.

Nobody calls anybody: both sides come to it. What lies in it may get lost; whoever put it there has kept it and puts it
there again. Deleting is no part of it: that is what an operator does to a folder or a bucket.
"""

from __future__ import annotations

import re
from typing import Protocol

from fedmed.errors import MessageRefused

LARGEST = 1 << 30
"""Bytes under one name, at most."""
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}(/[a-z0-9][a-z0-9._-]{0,199}){0,7}")


class Exchange(Protocol):
    """Where bytes lie under names such as `to/coordinator/3f2a91c0d1e2/001.00003.train.va`."""

    def put(self, name: str, data: bytes) -> None:
        """Write bytes under a name.

        Raises:
            MessageConflict: if other bytes stand there. The same bytes again are no error.
            MessageRefused: if the name is none, or there are over :data:`LARGEST` bytes.
        """
        ...

    def get(self, name: str, most: int = LARGEST) -> bytes | None:
        """What stands under a name; None if nothing does, or not the whole of what was put there.

        Raises:
            MessageRefused: if the name is none, or over `most` bytes stand there.
        """
        ...

    def names(self, prefix: str) -> list[str]:
        """All names below a prefix that ends with `/`, sorted.

        Raises:
            MessageRefused: if the prefix is none.
        """
        ...


def is_name(text: str) -> bool:
    """Whether a text is a name.

    >>> is_name("to/va/run-1/001.00003.train.coordinator"), is_name("to/../va"), is_name("to/va/")
    (True, False, False)
    """
    return _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """A name, if it is one: parts of small letters, digits, `.`, `_` and `-`, with `/` between them.

    Raises:
        MessageRefused: if it is not.
    """
    if not is_name(name):
        raise MessageRefused(
            f"{name[:80]!r}: expected a name in parts of small letters, digits, '.', '_' and '-', with '/' between them"
        )
    return name


def check_size(name: str, size: int, most: int = LARGEST) -> None:
    """Refuse what is too large.

    Raises:
        MessageRefused: naming it.
    """
    if size > most:
        raise MessageRefused(f"{name}: expected at most {most} bytes, got {size}")


def check_prefix(prefix: str) -> str:
    """A prefix, if it is one.

    Raises:
        MessageRefused: if it does not end with `/`, or could not begin a name.
    """
    if not prefix.endswith("/"):
        raise MessageRefused(f"{prefix[:80]!r}: expected a prefix that ends with '/'")
    check_name(prefix[:-1])
    return prefix

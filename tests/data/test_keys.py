"""Which keys a hospital's data open under, and which are refused."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from fedmed.data.keys import EnvironmentKey, FileKey, derive_key, provider_for
from fedmed.errors import KeyUnavailable

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()


def key_file(tmp_path: Path, content: bytes, mode: int = 0o600) -> FileKey:
    path = tmp_path / "data.key"
    path.write_bytes(content)
    path.chmod(mode)
    return FileKey(path)


def test_a_key_that_only_its_owner_reads_is_taken(tmp_path: Path) -> None:
    assert key_file(tmp_path, TEXT.encode() + b"\n").key() == KEY
    assert key_file(tmp_path, TEXT.encode(), 0o400).key() == KEY


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o610, 0o601, 0o660, 0o777])
def test_a_key_that_others_may_touch_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable, match=f"expected mode 0600, got {mode:04o}.*chmod 600"):
        key_file(tmp_path, TEXT.encode(), mode).key()


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_key_of_another_length_is_refused(length: int, tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable, match=f"32 bytes, got {length}"):
        key_file(tmp_path, base64.b64encode(b"k" * length)).key()


@pytest.mark.parametrize("content", [b"not base64!", KEY[:-1] + b"\xff", TEXT.encode()[:-2], b"zz" + b"=" * 40])
def test_a_key_that_is_not_base64_is_refused_without_quoting_it(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable, match="expected 32 bytes in base64") as caught:
        key_file(tmp_path, content).key()
    assert content.decode("latin-1") not in str(caught.value)


def test_without_a_key_nothing_is_made_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(KeyUnavailable, match="there is no key"):
        FileKey(tmp_path / "keys" / "data.key").key()
    assert list(tmp_path.iterdir()) == []


def test_a_new_key_is_random_its_owners_alone_and_kept(tmp_path: Path) -> None:
    first = FileKey(tmp_path / "a" / "data.key").key(create=True)
    assert len(first) == 32
    assert stat.S_IMODE((tmp_path / "a" / "data.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert FileKey(tmp_path / "a" / "data.key").key(create=True) == first
    assert FileKey(tmp_path / "b" / "data.key").key(create=True) != first


def test_a_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDMED_KEY_NORTH", TEXT)
    assert EnvironmentKey("FEDMED_KEY_NORTH").key() == KEY
    monkeypatch.setenv("FEDMED_KEY_NORTH", TEXT[:20])
    with pytest.raises(KeyUnavailable, match="FEDMED_KEY_NORTH: expected") as caught:
        EnvironmentKey("FEDMED_KEY_NORTH").key()
    assert TEXT[:20] not in str(caught.value)


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_environment_makes_no_key(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDMED_KEY_NORTH", raising=False)
    if value is not None:
        monkeypatch.setenv("FEDMED_KEY_NORTH", value)
    with pytest.raises(KeyUnavailable, match="FEDMED_KEY_NORTH is empty"):
        EnvironmentKey("FEDMED_KEY_NORTH").key(create=True)


def test_fedmed_keys_chooses_the_provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "saint-mary"
    monkeypatch.delenv("FEDMED_KEYS", raising=False)
    made = provider_for(home).key(create=True)
    assert FileKey(home / "keys" / "data.key").key() == made
    monkeypatch.setenv("FEDMED_KEYS", "environment")
    monkeypatch.setenv("FEDMED_KEY_SAINT_MARY", TEXT)
    assert provider_for(home).key() == KEY
    monkeypatch.setenv("FEDMED_KEYS", "kms")
    with pytest.raises(KeyUnavailable, match="'file' or 'environment', got 'kms'"):
        provider_for(home)


def test_every_purpose_has_a_key_of_its_own() -> None:
    keys = {
        derive_key(KEY, "fingerprint"),
        derive_key(KEY, "parquet key wrapping"),
        derive_key(KEY[::-1], "fingerprint"),
    }
    assert len(keys | {KEY}) == 4
    assert all(len(key) == 32 for key in keys)
    assert derive_key(KEY, "fingerprint") in keys

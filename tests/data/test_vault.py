"""What comes out of a hospital's vault is what went in, and nothing else opens or can be read on the disk."""

from __future__ import annotations

import base64
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmed.data.keys import EnvironmentKey
from fedmed.data.vault import Vault
from fedmed.errors import PartitionDamaged

CANARY = "98765.4321 Sokołowska"


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Vault:
    return under(monkeypatch, 1)


def under(monkeypatch: pytest.MonkeyPatch, number: int) -> Vault:
    monkeypatch.setenv("FEDMED_KEY_TEST", base64.b64encode(bytes([number] * 32)).decode())
    return Vault(EnvironmentKey("FEDMED_KEY_TEST"))


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "patient": ["a", "ß…日本 \N{SNOWMAN}", 'quo"te,\n'],
            "age": [50.0, math.nan, -0.5],
            "sex": pd.Series(["1", None, "0"], dtype=object),
            "thal": pd.Series([None, None, None], dtype=object),
            "ca": [math.nan] * 3,
            "image": pd.Series([b"\0\xff", None, b""], dtype=object),
            "target": np.array([0, 1, 1], dtype=np.int64),
        }
    )


def lines(frame: pd.DataFrame) -> list[list[object]]:
    """Cells by row with every missing value as None."""
    return [[None if pd.isna(cell) else cell for cell in row] for row in frame.itertuples(index=False)]


@pytest.mark.parametrize("rows", [3, 1, 0])
def test_a_table_comes_back_as_it_was(rows: int, vault: Vault, tmp_path: Path) -> None:
    before = table().head(rows)
    vault.write(tmp_path / "t.parquet", before)
    after = vault.read(tmp_path / "t.parquet")
    assert list(after) == list(before)
    assert lines(after) == lines(before)
    assert [after[name].dtype for name in ("age", "ca", "target")] == [np.float64, np.float64, np.int64]
    assert vault.fingerprint(after) == vault.fingerprint(before)


def test_a_wrong_key_is_refused(vault: Vault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault.write(tmp_path / "t.parquet", table())
    with pytest.raises(PartitionDamaged, match="does not open under this hospital's key"):
        under(monkeypatch, 2).read(tmp_path / "t.parquet")
    assert lines(under(monkeypatch, 1).read(tmp_path / "t.parquet")) == lines(table())


def test_a_missing_an_empty_and_a_plain_file_are_refused(vault: Vault, tmp_path: Path) -> None:
    with pytest.raises(PartitionDamaged, match="no such file"):
        vault.read(tmp_path / "none.parquet")
    (tmp_path / "empty.parquet").write_bytes(b"")
    table().to_parquet(tmp_path / "plain.parquet")
    for name in ("empty", "plain"):
        with pytest.raises(PartitionDamaged, match=r"does not open|no such file"):
            vault.read(tmp_path / f"{name}.parquet")


def test_a_flipped_bit_anywhere_is_refused(vault: Vault, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    vault.write(path, table()[["age", "sex"]])
    whole = path.read_bytes()
    # Parquet's own check leaves out a clear record of who wrapped the key: all of it is tried.
    clear = range(whole.index(b'{"keyMaterialType"') - 60, whole.index(b"wrappedKEK") + 120)
    positions = {*range(16), *range(len(whole) - 16, len(whole)), *range(0, len(whole), len(whole) // 300), *clear}
    for position in sorted(positions):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << position % 8)]) + whole[position + 1 :])
        with pytest.raises(PartitionDamaged, match="does not open"):
            vault.read(path)
    path.write_bytes(whole)
    assert lines(vault.read(path)) == lines(table()[["age", "sex"]])


@pytest.mark.parametrize("seal", [b"", b"0" * 64, b"\xff", None])
def test_a_table_without_its_seal_is_refused(seal: bytes | None, vault: Vault, tmp_path: Path) -> None:
    vault.write(tmp_path / "t.parquet", table())
    (tmp_path / "t.parquet.seal").unlink()
    if seal is not None:
        (tmp_path / "t.parquet.seal").write_bytes(seal)
    with pytest.raises(PartitionDamaged):
        vault.read(tmp_path / "t.parquet")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(share: float, vault: Vault, tmp_path: Path) -> None:
    vault.write(tmp_path / "t.parquet", table())
    whole = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(PartitionDamaged):
        vault.read(tmp_path / "t.parquet")


def test_no_plain_value_and_no_column_name_is_on_the_disk(vault: Vault, tmp_path: Path) -> None:
    secret = pd.DataFrame({"patient": [CANARY] * 50, "cholesterol": [98765.4321] * 50})
    vault.write(tmp_path / "t.parquet", secret)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"t.parquet", "t.parquet.seal"}
    raw = b"".join(path.read_bytes() for path in files)
    for plain in (
        CANARY.encode(),
        b"98765",
        b"Soko",
        b"cholesterol",
        np.float64(98765.4321).tobytes(),
        bytes([1] * 32),
    ):
        assert plain not in raw


def test_the_same_table_gives_other_bytes_and_the_same_fingerprint(vault: Vault, tmp_path: Path) -> None:
    vault.write(tmp_path / "a", table())
    vault.write(tmp_path / "b", table())
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
    assert vault.fingerprint(table()) == vault.fingerprint(table().copy())


def test_a_fingerprint_is_of_one_key(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    other = under(monkeypatch, 2)
    assert vault.fingerprint(table()) != other.fingerprint(table())
    assert vault.seal(b"text") != other.seal(b"text")
    assert vault.seal(b"text") != vault.seal(b"texu")


def test_every_missing_number_is_the_same_one(vault: Vault) -> None:
    odd = np.frombuffer(b"\x01\x00\x00\x00\x00\x00\xf8\xff", dtype="<f8")
    assert math.isnan(odd[0])
    one, other = pd.DataFrame({"x": [math.nan]}), pd.DataFrame({"x": odd})
    assert vault.fingerprint(one) == vault.fingerprint(other)


texts = st.none() | st.text(st.sampled_from("a\0\1b1;:|"), max_size=3) | st.binary(max_size=2)
numbers = st.sampled_from([0.0, 1.0, 1.5, 256.0, math.nan])
tables = st.integers(0, 2).flatmap(
    lambda rows: st.dictionaries(
        st.sampled_from(["a", "b", "ab"]),
        st.lists(texts, min_size=rows, max_size=rows) | st.lists(numbers, min_size=rows, max_size=rows),
        max_size=2,
    )
)
Plain = dict[str, list[object]]


def frame(columns: Plain) -> pd.DataFrame:
    return pd.DataFrame(
        {name: pd.Series(cells, dtype=float if _is_number(cells) else object) for name, cells in columns.items()}
    )


def _is_number(cells: list[object]) -> bool:
    return any(isinstance(cell, float) for cell in cells)


def content(columns: Plain) -> object:
    return [(name, _is_number(cells), repr(cells)) for name, cells in columns.items()], len(frame(columns))


KEYED = Vault(type("Fixed", (), {"key": staticmethod(lambda create=False: bytes(32))})())


@given(st.lists(tables, max_size=2), st.lists(tables, max_size=2))
def test_fingerprints_are_equal_exactly_when_the_contents_are(first: list[Plain], second: list[Plain]) -> None:
    same = [content(columns) for columns in first] == [content(columns) for columns in second]
    assert (KEYED.fingerprint(*map(frame, first)) == KEYED.fingerprint(*map(frame, second))) == same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([None], ["\0"]),
        ([None, None], ["\0", None]),
        (["\0"], ["\0\0"]),
        (["ab", "c"], ["a", "bc"]),
        (["None"], [None]),
        (["nan"], [math.nan]),
        ([1.0], ["1.0"]),
        (["a", "b"], ["b", "a"]),
        ([b"ab"], ["ab"]),
        ([b"ab"], ["b'ab'"]),
        ([b"ab"], ["\0\1ab"]),
        ([b"ab"], ["\1ab"]),
        ([b""], [None]),
        ([b"ab", b"c"], [b"a", b"bc"]),
        ([b"\0\1"], [b"\1"]),
    ],
)
def test_contents_that_look_alike_have_other_fingerprints(one: list[object], other: list[object]) -> None:
    assert KEYED.fingerprint(frame({"x": one})) != KEYED.fingerprint(frame({"x": other}))


def test_a_column_under_another_name_or_in_another_place_has_another_fingerprint() -> None:
    rows = pd.DataFrame({"a": [1.0], "b": [1.0]})
    prints = {
        KEYED.fingerprint(each) for each in (rows, rows[["b", "a"]], rows.rename(columns={"b": "c"}), rows[["a"]])
    }
    assert len(prints) == 4
    assert KEYED.fingerprint(rows, rows) != KEYED.fingerprint(pd.concat([rows, rows]))

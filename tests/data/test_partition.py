"""When a partition is written, when it is left alone, and when it is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedmed.data.cohort import Cohort
from fedmed.data.keys import FileKey
from fedmed.data.partition import PartitionReceipt, read_manifest, read_partition, write_partition
from fedmed.data.split import SPLITS, SplitOptions
from fedmed.data.vault import Vault
from fedmed.errors import PartitionDamaged

RAW = {
    "name": "small",
    "target": {"name": "ill", "column": "outcome", "positive": "> 0"},
    "columns": {
        "age": {"type": "integer", "range": [18, 100]},
        "sex": {"type": "category", "categories": {"0": "f", "1": "m"}, "missing": "impute"},
    },
}
SMALL = Cohort.model_validate(RAW)
OPTIONS = SplitOptions()


def records(n: int = 20) -> pd.DataFrame:
    sexes = [["0", "1", None][i % 3] for i in range(n)]
    return pd.DataFrame(
        {
            "patient": [f"p{i:02d}" for i in range(n)],
            "age": np.arange(n) + 40.0,
            "sex": pd.Series(sexes, dtype=object),
            "outcome": [float(i % 2 * 3) for i in range(n)],
        }
    )


class Home:
    """A folder with a partition of twenty rows, and its key."""

    def __init__(self, root: Path, name: str = "north") -> None:
        self.folder, self.name = root / name, name
        self.vault = Vault(FileKey(root / f"{name}.key"), create_key=True)

    def write(
        self, rows: pd.DataFrame | None = None, cohort: Cohort = SMALL, options: SplitOptions = OPTIONS
    ) -> tuple[PartitionReceipt, bool]:
        return write_partition(self.folder, records() if rows is None else rows, cohort, options, self.name, self.vault)

    def state(self) -> dict[str, tuple[bytes, int, int]]:
        """Name → bytes, time of change, inode of every file."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {f.name: (f.read_bytes(), f.stat().st_mtime_ns, f.stat().st_ino) for f in files}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_partition_is_written_and_read_back_in_three_splits(home: Home) -> None:
    receipt, written = home.write()
    assert written
    assert receipt == PartitionReceipt(
        site="north", cohort="small", cohort_digest=SMALL.digest, fingerprint=receipt.fingerprint
    )
    tables = read_partition(home.folder, home.vault)
    assert [len(tables[name]) for name in SPLITS] == [12, 4, 4]  # of each ten: 6, round(7.5) - 6 = 2 and 2
    joined = pd.concat(tables.values()).sort_values("patient", ignore_index=True)
    assert joined["patient"].tolist() == records()["patient"].tolist()
    assert joined["age"].tolist() == records()["age"].tolist()
    assert joined["target"].tolist() == [0, 1] * 10
    assert "outcome" not in joined  # the label's raw column is no input
    assert {name for name in home.state() if not name.endswith(".seal")} == {"manifest.json"} | {
        f"{split}.parquet" for split in SPLITS
    }


def test_an_unchanged_partition_is_not_written_again_whatever_the_order_of_rows(home: Home) -> None:
    receipt, _ = home.write()
    before = home.state()
    assert home.write() == (receipt, False)
    assert home.write(records().iloc[::-1].reset_index(drop=True)) == (receipt, False)
    assert home.state() == before


CHANGES: dict[str, Callable[[Home], object]] = {
    "other shares": lambda home: home.write(options=SplitOptions(train=0.5)),
    "another seed": lambda home: home.write(options=SplitOptions(seed=1)),
    "a changed cell": lambda home: home.write(
        records().assign(age=lambda rows: rows["age"].where(rows.index != 3, 90.0))
    ),
    "a changed label": lambda home: home.write(
        records().assign(outcome=[3.0] + [float(i % 2 * 3) for i in range(1, 20)])
    ),
    "a row less": lambda home: home.write(records(19)),
    "another declaration": lambda home: home.write(cohort=Cohort.model_validate({**RAW, "minimum": {"rows": 7}})),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_partition_is_written_anew_after(change: str, home: Home) -> None:
    home.write()
    before = home.state()
    receipt, written = CHANGES[change](home)  # type: ignore[misc]  # what Home.write returns
    assert written
    assert all(home.state()[name][0] != before[name][0] for name in before)
    assert read_manifest(home.folder, home.vault).fingerprint == receipt.fingerprint
    assert CHANGES[change](home) == (receipt, False)


def test_an_untouched_table_under_other_words_is_another_manifest_but_the_same_fingerprint(home: Home) -> None:
    first, _ = home.write()
    second, written = home.write(cohort=Cohort.model_validate({**RAW, "title": "Another title"}))
    assert written
    assert second == first


@pytest.mark.parametrize("split", SPLITS)
def test_a_flipped_bit_is_refused_and_the_partition_left_as_it_is(split: str, home: Home) -> None:
    home.write()
    path = home.folder / f"{split}.parquet"
    raw = path.read_bytes()
    path.write_bytes(raw[:100] + bytes([raw[100] ^ 1]) + raw[101:])
    before = home.state()
    with pytest.raises(PartitionDamaged, match=f"{split}.parquet"):
        read_partition(home.folder, home.vault)
    with pytest.raises(PartitionDamaged, match=f"{split}.parquet"):
        home.write()
    assert home.state() == before


def test_a_missing_file_is_refused(home: Home) -> None:
    home.write()
    (home.folder / "test.parquet").unlink()
    with pytest.raises(PartitionDamaged, match=r"test\.parquet.*no such file"):
        home.write()
    assert not (home.folder / "test.parquet").exists()


def test_two_files_in_each_others_place_are_refused(home: Home) -> None:
    home.write()
    train, test = home.folder / "train.parquet", home.folder / "test.parquet"
    for end in ("", ".seal"):  # each with its seal
        one, other = Path(f"{train}{end}"), Path(f"{test}{end}")
        first, second = one.read_bytes(), other.read_bytes()
        one.write_bytes(second)
        other.write_bytes(first)
    with pytest.raises(PartitionDamaged, match="not the table that the manifest names"):
        read_partition(home.folder, home.vault)


def test_an_older_version_of_a_file_is_refused(home: Home) -> None:
    home.write(records(18))
    old = {name: (home.folder / name).read_bytes() for name in ("train.parquet", "train.parquet.seal")}
    home.write()
    for name, raw in old.items():
        (home.folder / name).write_bytes(raw)
    with pytest.raises(PartitionDamaged, match=r"train\.parquet.*not the table"):
        read_partition(home.folder, home.vault)


ALTERED: dict[str, Callable[[dict], object]] = {  # type: ignore[type-arg]
    "another site": lambda m: m["manifest"].update(site="south"),
    "another seed": lambda m: m["manifest"]["split"].update(seed=1),
    "a wider range": lambda m: m["manifest"]["cohort"]["columns"]["age"].update(range=[0, 200]),
    "another fingerprint": lambda m: m["manifest"]["fingerprints"].update(test="0" * 64),
    "another seal": lambda m: m.update(seal="0" * 64),
    "no seal": lambda m: m.pop("seal"),
    "a seal that is no text": lambda m: m.update(seal=None),
    "no manifest": lambda m: m.pop("manifest"),
    "a key too many": lambda m: m["manifest"].update(note="x"),
}


@pytest.mark.parametrize("change", ALTERED)
def test_an_altered_manifest_is_refused_and_left_as_it_is(change: str, home: Home) -> None:
    home.write()
    path = home.folder / "manifest.json"
    content = json.loads(path.read_bytes())
    ALTERED[change](content)
    path.write_text(json.dumps(content))
    before = home.state()
    with pytest.raises(PartitionDamaged, match=r"manifest\.json"):
        read_partition(home.folder, home.vault)
    with pytest.raises(PartitionDamaged, match=r"manifest\.json"):
        home.write()
    assert home.state() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"text"', b"\xff\xfe"])
def test_a_manifest_that_is_something_else_is_refused(content: bytes, home: Home) -> None:
    home.write()
    (home.folder / "manifest.json").write_bytes(content)
    with pytest.raises(PartitionDamaged, match="expected the manifest of a partition"):
        read_manifest(home.folder, home.vault)


def test_a_partition_under_another_hospitals_key_is_refused(home: Home, tmp_path: Path) -> None:
    home.write()
    other = Home(tmp_path, "south")
    with pytest.raises(PartitionDamaged, match="not sealed by this hospital's key"):
        read_partition(home.folder, other.vault)


def test_where_there_is_no_partition_the_next_step_is_named(home: Home) -> None:
    with pytest.raises(PartitionDamaged, match="run `fedmed data partition`"):
        read_manifest(home.folder, home.vault)


def test_neither_manifest_nor_receipt_tells_a_count_or_a_value(home: Home) -> None:
    receipt, _ = home.write(records().assign(age=98765.0, patient=[f"Sokolowska{i}" for i in range(20)]))
    seen = receipt.model_dump_json().encode() + b"".join(raw for raw, *_ in home.state().values())
    assert b"98765" not in seen
    assert b"Sokolowska" not in seen
    assert "rows" not in json.dumps(
        json.loads((home.folder / "manifest.json").read_bytes())["manifest"]["fingerprints"]
    )


def test_a_partition_of_images_and_follow_up_comes_back_as_it_was(home: Home) -> None:
    cohort = Cohort.model_validate(
        {
            "name": "pictures",
            "target": {"name": "death", "kind": "survival", "time": "t", "event": "e", "unit": "days", "horizon": 100},
            "columns": {"image": {"type": "image", "shape": [2, 2]}},
        }
    )
    rows = pd.DataFrame(
        {
            "patient": [f"p{i:02d}" for i in range(20)],
            "image": pd.Series([bytes([i, 0, 255, 7]) for i in range(20)], dtype=object),
            "t": [float(i + 1) for i in range(20)],
            "e": [float(i % 2) for i in range(20)],
        }
    )
    receipt, _ = home.write(rows, cohort=cohort)
    tables = read_partition(home.folder, home.vault)
    joined = pd.concat(tables.values()).sort_values("patient", ignore_index=True)
    assert list(joined) == ["patient", "image", "target", "duration"]
    assert joined["image"].tolist() == rows["image"].tolist()
    assert joined["duration"].tolist() == rows["t"].tolist()
    assert [int(tables[name]["target"].sum()) for name in SPLITS] == [6, 2, 2]
    assert home.write(rows, cohort=cohort) == (receipt, False)
    other, written = home.write(rows.assign(image=[bytes([i, 0, 255, 8]) for i in range(20)]), cohort=cohort)
    assert written
    assert other.fingerprint != receipt.fingerprint


def test_a_raw_target_may_be_called_what_fedmed_calls_its_label(home: Home) -> None:
    cohort = Cohort.model_validate({**RAW, "target": {"name": "ill", "column": "target", "positive": "> 2"}})
    home.write(records().rename(columns={"outcome": "target"}), cohort=cohort)
    joined = pd.concat(read_partition(home.folder, home.vault).values()).sort_values("patient")
    assert joined["target"].tolist() == [0, 1] * 10

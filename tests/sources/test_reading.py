"""Which tables a hospital may bring, what becomes of their cells, and that no message repeats one."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedmed.data.arrays import as_cell, raw_arrays
from fedmed.data.cohort import Cohort, read_cohort
from fedmed.data.keys import FileKey
from fedmed.data.vault import Vault
from fedmed.errors import RecordsError
from fedmed.sources.reading import read_embedded, read_records, read_rows

HEART = read_cohort(Path(__file__).parents[2] / "cohorts" / "heart_disease.yaml")
CANARY = "98765.4321"
NAME = "Sokolowska"
RAW = {
    "name": "small",
    "site_column": "centre",
    "patient_id": "person",
    "target": {"name": "ill", "column": "outcome", "positive": "> 0"},
    "columns": {
        "age": {"type": "integer", "range": [18, 100]},
        "weight": {"type": "number", "range": [-5, 300.5], "missing": "impute", "missing_codes": [-9, "unknown"]},
        "sex": {"type": "category", "categories": {"0": "f", "1": "m"}, "missing": "impute", "missing_codes": [9]},
    },
}
SMALL = Cohort.model_validate(RAW)
ANONYMOUS = Cohort.model_validate({**RAW, "patient_id": None, "site_column": None})

# A good file in which every cell of one row can be recognised.
HEADER = "person,age,weight,sex,outcome"
GOOD = f"{HEADER}\n{NAME},71,{CANARY},1,1\nB,50,70.5,0,0\n"


def read(tmp_path: Path, *files: str | bytes, cohort: Cohort = SMALL, site: str = "north") -> pd.DataFrame:
    paths = []
    for number, content in enumerate(files):
        paths.append(tmp_path / f"file{number}")
        paths[-1].write_bytes(content.encode() if isinstance(content, str) else content)
    return read_records(paths, cohort, site)


def parquet(**columns: object) -> bytes:
    good = {"person": [NAME, "B"], "age": [71, 50], "weight": [98765.4321, 70.5], "sex": ["1", "0"], "outcome": [1, 0]}
    sink = io.BytesIO()
    pq.write_table(pa.table({**good, **columns}), sink)
    return sink.getvalue()


def two_columns_of_one_name() -> bytes:
    table = pq.read_table(io.BytesIO(parquet()))
    sink = io.BytesIO()
    pq.write_table(table.append_column("age", table["age"]), sink)
    return sink.getvalue()


def not_utf_8_inside() -> bytes:
    offsets = pa.py_buffer(np.array([0, 12, 14], dtype=np.int32).tobytes())
    texts = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(CANARY.encode() + b"\xff\xfe\x31\x31")])
    return parquet(weight=texts)


def encrypted(tmp_path: Path) -> bytes:
    vault = Vault(FileKey(tmp_path / "keys" / "data.key"), create_key=True)
    vault.write(tmp_path / "secret.parquet", pd.DataFrame({"person": [NAME], "age": [71]}))
    return (tmp_path / "secret.parquet").read_bytes()


def test_a_good_csv_becomes_a_clean_table(tmp_path: Path) -> None:
    rows = read(tmp_path, GOOD)
    assert list(rows) == ["patient", "age", "weight", "sex", "outcome"]
    assert rows["age"].tolist() == [71.0, 50.0]
    assert rows["weight"].tolist() == [98765.4321, 70.5]
    assert rows["sex"].tolist() == ["1", "0"]
    assert rows["outcome"].tolist() == [1.0, 0.0]
    assert rows["patient"].str.fullmatch("[0-9a-f]{32}").all()
    assert rows["patient"].nunique() == 2
    assert [rows[name].dtype for name in ("age", "weight", "outcome")] == [np.float64] * 3


def test_a_parquet_file_gives_the_same_table_as_a_csv(tmp_path: Path) -> None:
    pd.testing.assert_frame_equal(read(tmp_path, parquet()), read(tmp_path, GOOD))


Fault = tuple[Callable[[Path], str | bytes], str]


def fault(content: str | bytes, message: str) -> Fault:
    return (lambda _: content), message


def replaced(old: str, new: str, message: str) -> Fault:
    assert GOOD.count(old) == 1
    return fault(GOOD.replace(old, new), message)


NUMBERS = r"column weight: expected numbers, but 1 of 2 cells are none \(first in row 1\)"
HEADLESS = "\n".join(f"{NAME},{age},{CANARY},1,1" for age in (71, 72)) + "\n"
FAULTS: dict[str, Fault] = {
    "is UTF-16": fault(GOOD.encode("utf-16"), "expected UTF-8, got UTF-16"),
    "is UTF-16, big end first": fault(b"\xfe\xff" + GOOD.encode("utf-16-be"), "got UTF-16"),
    "is UTF-16 without a mark": fault(GOOD.encode("utf-16-le"), "NUL byte at byte 1"),
    "begins with a byte-order mark": fault(b"\xef\xbb\xbf" + GOOD.encode(), "byte-order mark"),
    "holds a NUL": replaced("71", "7\x001", "NUL byte at byte"),
    "is Latin-1": fault(GOOD.replace("B,50", "Zoë,50").encode("latin-1"), r"byte \d+ is not"),
    "uses semicolons": fault(GOOD.replace(",", ";"), "a semicolon"),
    "uses tabs": fault(GOOD.replace(",", "\t"), "a tab"),
    "uses bars": fault(GOOD.replace(",", "|"), "a bar"),
    "has a row that is too long": replaced(f"{CANARY},1,1", f"{CANARY},1,1,1", "line 2: expected 5 cells, got 6"),
    "has a row that is too short": replaced("70.5,0,0", "70.5,0", "line 3: expected 5 cells, got 4"),
    "has a quote left open": replaced(f"\n{NAME}", f'\n"{NAME}', "not well-formed CSV"),
    "has a quote inside a quoted cell": replaced(f"\n{NAME}", f'\n"{NAME[:3]}"{NAME[3:]}', "not well-formed CSV"),
    "has a huge cell": replaced("B,50", f"{CANARY * 7000},50", "oversized cell"),
    "lacks a column": replaced(",weight", ",mass", "column weight missing; small declares 5 columns, of which.* 4"),
    "has a declared column twice": replaced("weight,sex", "weight,weight", "column weight stands twice"),
    "has its site column twice": fault(
        f"centre,centre,{HEADER}\nnorth,north,{NAME},71,{CANARY},1,1\n", "centre stands"
    ),
    "has no header": fault(HEADLESS, r"column person, age, weight, sex, outcome missing.*Is the header row missing\?"),
    "has no header and semicolons": fault(HEADLESS.replace(",", ";"), "a semicolon"),
    "is empty": fault("", "missing"),
    "has a header only": fault(HEADER + "\n", "expected rows below the header, got none"),
    "has decimal commas": replaced(CANARY, '"98765,4321"', "Is the decimal mark a comma"),
    "has 1e999": replaced(CANARY, "1e999", r"column weight: 1 numbers are too large to hold \(first in row 1\)"),
    "has inf": replaced(CANARY, "inf", NUMBERS),
    "has Infinity": replaced(CANARY, "-Infinity", NUMBERS),
    "has text in a number column": replaced(CANARY, NAME + "ski", NUMBERS),
    "has a hexadecimal number": replaced(CANARY, "0x1F", NUMBERS),
    "has an underscore in a number": replaced(CANARY, "1_000", NUMBERS),
    "has a number in other digits": replaced(CANARY, "٣٤", NUMBERS),
    "has a formula": replaced(CANARY, f"={CANARY}+1", NUMBERS),
    "has a boolean word": replaced(CANARY, "TRUE", NUMBERS),
    "has two numbers in a cell": replaced(CANARY, f"{CANARY} 1", NUMBERS),
    "has a fraction in whole numbers": replaced("71", "71.25", r"column age: expected whole numbers, but 1 are not"),
    "lacks a target": replaced("70.5,0,0", "70.5,0,", "target outcome is missing in 1 of 2 rows"),
    "has a target that is text": replaced("70.5,0,0", f"70.5,0,{NAME}ski", "column outcome: expected numbers"),
    "lacks a patient": replaced("B,50", ",50", "person is missing in 1 of 2 rows"),
    "holds another hospital's rows": fault(
        f"centre,{HEADER}\nnorth,B,50,70.5,0,0\n{NAME},A,71,{CANARY},1,1\n",
        "in 1 of 2 rows, column centre is empty or names",
    ),
    "does not say whose a row is": fault(
        f"centre,{HEADER}\n,{NAME},71,{CANARY},1,1\n", "in 1 of 1 rows, column centre"
    ),
    "is truncated Parquet": fault(parquet()[:-20], "not a readable Parquet file"),
    "is Parquet with a damaged page": (lambda _: parquet()[:4] + b"\xff" * 200 + parquet()[204:], "not a readable"),
    "is encrypted Parquet": (encrypted, "not a readable Parquet file"),
    "is Parquet without rows": fault(
        parquet(**{name: pa.array([], pa.string()) for name in HEADER.split(",")}), "expected rows, got none"
    ),
    "is Parquet that lacks a column": fault(parquet().replace(b"weight", b"height"), "column weight missing"),
    "is Parquet with a column twice": fault(two_columns_of_one_name(), "column age stands twice"),
    "is Parquet with an infinite number": fault(parquet(weight=[float("inf"), 1.0]), NUMBERS),
    "is Parquet with lists": fault(parquet(weight=[[98765.4321], [1.0]]), "column weight: expected numbers, but 2"),
    "is Parquet with text for numbers": fault(parquet(weight=[NAME, "1"]), NUMBERS),
    "is Parquet with text that is not UTF-8": fault(not_utf_8_inside(), "not a readable Parquet file"),
}


@pytest.mark.parametrize("situation", FAULTS)
def test_a_file_is_refused_without_quoting_a_cell_that(situation: str, tmp_path: Path) -> None:
    content, message = FAULTS[situation]
    with pytest.raises(RecordsError, match=message) as caught:
        read(tmp_path, content(tmp_path))
    said = str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    for secret in (NAME, CANARY, "98765", "4321", "71.25", "0x1F", "1_000", "=9", "Zo"):
        assert secret not in said


def test_a_hospital_without_files_and_a_file_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="north: expected at least one"):
        read_records([], SMALL, "north")
    with pytest.raises(RecordsError, match=r"none\.csv: cannot be read"):
        read_records([tmp_path / "none.csv"], SMALL, "north")
    with pytest.raises(RecordsError, match="cannot be read"):
        read_records([tmp_path], SMALL, "north")


def test_one_code_is_one_category_however_it_is_written(tmp_path: Path) -> None:
    cells = ["1", "1.0", " 1 ", "1.", "1.00", '"1"']
    lines = "".join(f"P{i},50,1,{cell},0\n" for i, cell in enumerate(cells))
    assert read(tmp_path, f"{HEADER}\n{lines}")["sex"].tolist() == ["1"] * 6
    for codes in ([1, 0], [1.0, 0.0], ["1.0", "0.0"], [True, False]):
        assert read(tmp_path, parquet(sex=codes))["sex"].tolist() == ["1", "0"]
    nullable = pa.array([1, None], pa.int64())
    sexes = read(tmp_path, parquet(sex=nullable))["sex"]
    assert sexes[0] == "1"
    assert pd.isna(sexes[1])


@pytest.mark.parametrize("cell", ["1.5", "10", "01", "1e0", ".0", "x.0", "²"])
def test_another_code_stays_another_category(cell: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"{HEADER}\nA,50,1,{cell},0\n")["sex"].tolist() == [cell]


def test_missing_words_and_missing_codes_become_missing(tmp_path: Path) -> None:
    weights = ["", "?", "NA", "nan", "None", " ", "-9", "-9.0", "-9e0", "unknown", "-9.1"]
    lines = "".join(f"P{i},50,{cell},9,0\n" for i, cell in enumerate(weights))
    rows = read(tmp_path, f"{HEADER}\n{lines}")
    assert rows["weight"].isna().tolist() == [True] * 10 + [False]
    assert rows["sex"].isna().all()
    assert (rows["age"] == 50).all()


def test_plain_decimal_numbers_are_read_as_they_stand(tmp_path: Path) -> None:
    cells = {"1": 1.0, "+1": 1.0, "-.5": -0.5, "7.": 7.0, "1e2": 100.0, "2.5E-1": 0.25, " 3 ": 3.0, "007": 7.0}
    lines = "".join(f"P{i},50,{cell},0,0\n" for i, cell in enumerate(cells))
    assert read(tmp_path, f"{HEADER}\n{lines}")["weight"].tolist() == list(cells.values())


def test_columns_that_are_not_declared_are_left_out(tmp_path: Path) -> None:
    rows = read(tmp_path, f"surname,note,note,{HEADER}\n{NAME},x,y,A,50,1,0,0\n", GOOD)
    assert list(rows) == ["patient", "age", "weight", "sex", "outcome"]
    assert len(rows) == 3
    assert NAME not in rows.to_csv()


def test_line_ends_and_empty_lines_do_not_matter(tmp_path: Path) -> None:
    want = read(tmp_path, GOOD)
    for text in (GOOD.replace("\n", "\r\n"), GOOD.replace("\n", "\r"), GOOD.replace("\n", "\n\n"), GOOD.rstrip()):
        pd.testing.assert_frame_equal(read(tmp_path, text), want)


def test_the_rows_of_several_files_stand_in_one_table(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD, parquet(person=["C", "D"])).shape == (4, 5)


def test_rows_of_the_hospital_itself_are_taken(tmp_path: Path) -> None:
    rows = read(tmp_path, f"centre,{HEADER}\nnorth,A,50,1,0,0\n")
    assert len(rows) == 1
    assert "centre" not in rows


def test_a_patient_with_two_rows_has_one_identity_and_equal_rows_are_one_person(tmp_path: Path) -> None:
    rows = read(tmp_path, f"{HEADER}\nA,50,1,0,0\nA,51,2,0,1\nB,50,1,0,0\n")
    assert rows["patient"].tolist()[0] == rows["patient"].tolist()[1] != rows["patient"].tolist()[2]
    bare = HEADER.removeprefix("person,")
    rows = read(tmp_path, f"{bare}\n50,1,0,0\n50.0,1.0,0,0\n50,1,1,0\n", cohort=ANONYMOUS)
    assert rows["patient"].nunique() == 2


def test_rows_to_predict_need_no_target(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("sex,age,weight\n1,50,-9\n")
    rows = read_rows(tmp_path / "rows.csv", SMALL)
    assert list(rows) == ["age", "weight", "sex"]
    assert rows["weight"].isna().tolist() == [True]


def test_the_embedded_table_has_four_hospitals_and_no_fifth() -> None:
    sizes = {site: len(read_embedded(HEART, site)) for site in ("cleveland", "hungarian", "switzerland", "va")}
    assert sizes["cleveland"] == 303
    assert sum(sizes.values()) == 920
    with pytest.raises(RecordsError, match="knows only cleveland, hungarian, switzerland, va"):
        read_embedded(HEART, "atlantis")
    with pytest.raises(RecordsError, match="cleveland: the hospital has no records"):
        read_embedded(SMALL, "cleveland")


STAGES = Cohort.model_validate(
    {
        **RAW,
        "target": {
            "name": "stage",
            "kind": "multiclass",
            "column": "outcome",
            "classes": {"0": "none", "1": "early", "None": "unclear"},
        },
    }
)
FOLLOW_UP = Cohort.model_validate(
    {
        **RAW,
        "target": {
            "name": "death",
            "kind": "survival",
            "time": "days",
            "event": "dead",
            "unit": "days",
            "horizon": 365,
        },
    }
)


def test_the_classes_of_a_target_are_codes_and_stay_text(tmp_path: Path) -> None:
    cells = ["1", "1.0", "0", "7", "None"]
    lines = "".join(f"P{i},50,1,0,{cell}\n" for i, cell in enumerate(cells))
    rows = read(tmp_path, f"{HEADER}\n{lines}", cohort=STAGES)
    assert rows["outcome"].tolist() == ["1", "1", "0", "7", "None"]  # 7 is for the contract to refuse
    with pytest.raises(RecordsError, match="the target outcome is missing in 1 of 1 rows"):
        read(tmp_path, f"{HEADER}\nA,50,1,0,NA\n", cohort=STAGES)


def test_a_follow_up_has_two_raw_columns_and_neither_may_be_missing(tmp_path: Path) -> None:
    header = HEADER.replace("outcome", "days,dead")
    rows = read(tmp_path, f"{header}\nA,50,1,0,30.5,1\nB,50,1,0,365,0\n", cohort=FOLLOW_UP)
    assert rows["days"].tolist() == [30.5, 365.0]
    assert rows["dead"].tolist() == [1.0, 0.0]
    for cells, missing in (("?,1", "days"), ("30,", "dead")):
        with pytest.raises(RecordsError, match=f"the target {missing} is missing in 1 of 1 rows"):
            read(tmp_path, f"{header}\nA,50,1,0,{cells}\n", cohort=FOLLOW_UP)


XRAY = Cohort.model_validate(
    {
        "name": "xray",
        "target": {"name": "pneumonia", "column": "label", "positive": "== 1"},
        "columns": {"chest": {"type": "image", "shape": [2, 3]}},
    }
)
PICTURES = np.arange(24, dtype=np.uint8).reshape(4, 2, 3) + 97  # letters, should a message quote them


def npz(**arrays: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.savez_compressed(sink, **{"images": PICTURES, "label": np.array([0, 1, 1, 0]), **arrays})  # type: ignore[arg-type]
    return sink.getvalue()


def workbook() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as book:
        book.writestr("xl/workbook.xml", CANARY)
    return sink.getvalue()


def test_images_are_read_from_arrays_parquet_and_base64_alike(tmp_path: Path) -> None:
    cells = [picture.tobytes() for picture in PICTURES]
    sink = io.BytesIO()
    pq.write_table(pa.table({"chest": cells, "label": [0, 1, 1, 0]}), sink)
    text = "".join(f"{base64.b64encode(cell).decode()},{i}\n" for cell, i in zip(cells, (0, 1, 1, 0), strict=True))
    want = read(tmp_path, npz(), cohort=XRAY)
    assert list(want) == ["patient", "chest", "label"]
    assert want["chest"].tolist() == cells
    assert want["label"].tolist() == [0.0, 1.0, 1.0, 0.0]
    assert want["patient"].nunique() == 4
    for other in (
        sink.getvalue(),
        f"chest,label\n{text}",
        npz(label=np.array([[0], [1], [1], [0]], dtype=np.uint8)),
        npz(unused=np.array([{"a": 1}], dtype=object)),
    ):
        pd.testing.assert_frame_equal(read(tmp_path, other, cohort=XRAY), want)
    named = io.BytesIO()
    np.savez(named, chest=PICTURES, label=np.array([0, 1, 1, 0]))
    pd.testing.assert_frame_equal(read(tmp_path, named.getvalue(), cohort=XRAY), want)


def test_the_same_picture_with_the_same_label_is_one_person(tmp_path: Path) -> None:
    rows = read(tmp_path, npz(images=PICTURES[[0, 0, 1, 1]], label=np.array([1, 1, 1, 0])), cohort=XRAY)
    assert rows["patient"].nunique() == 3


def test_colours_may_stand_first_or_last(tmp_path: Path) -> None:
    raw = XRAY.model_dump()
    raw["columns"]["chest"]["shape"] = (3, 2, 4)
    colour = Cohort.model_validate(raw)
    first = np.arange(96, dtype=np.uint8).reshape(4, 3, 2, 4)
    want = read(tmp_path, npz(images=first), cohort=colour)
    assert raw_arrays(want["chest"], colour.columns["chest"], "chest").tolist() == first.tolist()
    last = npz(images=np.moveaxis(first, 1, -1))
    pd.testing.assert_frame_equal(read(tmp_path, last, cohort=colour), want)


PICTURE_FAULTS: dict[str, tuple[bytes | str, str]] = {
    "images of another size": (
        npz(images=PICTURES[:, :, :2]),
        r"expected images of uint8 \(2, 3\), got uint8 \(2, 2\)",
    ),
    "images on their side": (npz(images=PICTURES.transpose(0, 2, 1)), r"got uint8 \(3, 2\)"),
    "images as floats": (npz(images=PICTURES / 255), "got float64"),
    "objects": (npz(label=np.array([NAME, 1, 1, 0], dtype=object)), "damaged, or it holds objects"),
    "arrays of other lengths": (npz(label=np.array([1, 0])), "all of the same length"),
    "no rows": (npz(images=PICTURES[:0], label=np.array([])), "expected arrays with one entry a row"),
    "two labels a row": (npz(label=np.zeros((4, 2))), "array label: expected one number or text a row"),
    "dates for labels": (npz(label=np.array(["2020-01-01"] * 4, dtype="M8[D]")), "expected one number or text"),
    "no labels": (npz(labels=np.zeros(4)).replace(b"label.npy", b"other.npy"), "column label missing"),
    "a workbook": (workbook(), "a ZIP or Excel file"),
    "a truncated file": (npz()[:-30], "not a readable .npz file"),
    "a damaged file": (npz()[:60] + b"\xff" * 40 + npz()[100:], "not a readable .npz file"),
    "base64 of another size": ("chest,label\nYWJj,1\nYWJjZGVm,0\n", r"the 6 bytes of 1 × 2 × 3 .* 1 of 2 .* row 1\)"),
    "text that is no base64": (f"chest,label\n{NAME}!,1\n", r"1 of 1 have not \(first in row 1\)"),
}


@pytest.mark.parametrize("situation", PICTURE_FAULTS)
def test_pictures_are_refused_without_quoting_one_that_are(situation: str, tmp_path: Path) -> None:
    content, message = PICTURE_FAULTS[situation]
    with pytest.raises(RecordsError, match=message) as caught:
        read(tmp_path, content, cohort=XRAY)
    for secret in (NAME, CANARY, "abc", "YWJj"):
        assert secret not in str(caught.value)


def test_a_cell_without_an_image_is_left_to_the_contract(tmp_path: Path) -> None:
    assert read(tmp_path, "chest,label\n,1\nYWJjZGVm,0\n", cohort=XRAY)["chest"].tolist() == [None, b"abcdef"]


STAY = Cohort.model_validate(
    {
        "name": "stay",
        "patient_id": "person",
        "target": {"name": "died", "column": "death", "positive": "== 1"},
        "columns": {
            "stay": {
                "type": "series",
                "steps": 2,
                "step": 60,
                "channels": {"HR": {"range": [1, 300], "missing_codes": [-1]}, "FiO2": {"range": [0.21, 1]}},
                "long": {"time": "minute", "parameter": "parameter", "value": "value"},
            },
            "age": {"type": "integer", "range": [0, 120]},
        },
    }
)
STAYS = "person,age,death\n7,50,0\n8,60,1\n"
MEASURED = "person,minute,parameter,value\n8,0,HR,80\n7,61,HR,90\n8,5,FiO2,0.5\n8,6,HR,-1\n9,7,HR,70\n8,8,Age,60\n"
NAN = float("nan")


def series(rows: pd.DataFrame) -> list[list[list[float | None]]]:
    arrays = raw_arrays(rows["stay"], STAY.columns["stay"], "stay")
    return [[[None if np.isnan(x) else float(x) for x in step] for step in stay] for stay in arrays]


def test_a_table_and_its_measurements_become_one_row_a_patient(tmp_path: Path) -> None:
    rows = read(tmp_path, STAYS, MEASURED, cohort=STAY)
    assert list(rows) == ["patient", "stay", "age", "death"]
    assert series(rows) == [[[None, None], [90, None]], [[80, 0.5], [None, None]]]
    assert rows["age"].tolist() == [50.0, 60.0]
    pd.testing.assert_frame_equal(read(tmp_path, MEASURED, STAYS, cohort=STAY), rows)
    head, *lines = MEASURED.splitlines()
    halves = ["\n".join([head, *part]) + "\n" for part in (lines[:2], lines[2:])]
    pd.testing.assert_frame_equal(read(tmp_path, halves[0], STAYS, halves[1], cohort=STAY), rows)


def test_measurements_in_parquet_are_read_whatever_their_types(tmp_path: Path) -> None:
    want = read(tmp_path, STAYS, MEASURED, cohort=STAY)
    table = pd.read_csv(io.StringIO(MEASURED)).astype({"person": "int32", "minute": "int16", "parameter": "category"})
    for kind in ("float32", "float64", "str"):
        sink = io.BytesIO()
        table.astype({"value": kind}).to_parquet(sink)
        pd.testing.assert_frame_equal(read(tmp_path, STAYS, sink.getvalue(), cohort=STAY), want)


def test_a_prepared_series_is_taken_as_it_is_but_for_missing_codes(tmp_path: Path) -> None:
    cells = [as_cell(np.array(stay), STAY.columns["stay"]) for stay in ([[80, 0.5], [-1, NAN]], [[NAN, NAN]] * 2)]
    sink = io.BytesIO()
    pq.write_table(pa.table({"person": [7, 8], "stay": cells, "age": [50, 60], "death": [0, 1]}), sink)
    rows = read(tmp_path, sink.getvalue(), cohort=STAY)
    assert series(rows) == [[[80, 0.5], [None, None]], [[None, None], [None, None]]]
    for other in (MEASURED, STAYS):
        with pytest.raises(
            RecordsError, match=r"column stay: expected it in the table of rows, or beside that .* both"
        ):
            read(tmp_path, sink.getvalue(), other, cohort=STAY)


SERIES_FAULTS: dict[str, tuple[list[str], str]] = {
    "without measurements": ([STAYS], r"column stay: .* columns person, minute, parameter, value; got neither"),
    "without a table of rows": (
        [MEASURED],
        "beside the measurements, expected a table with columns person, stay, age, death",
    ),
    "with a patient twice": (
        [STAYS + "8,61,1\n", MEASURED],
        r"column person: expected each patient once .* 1 rows repeat",
    ),
    "with other patients": (
        [STAYS.replace("7", "70").replace("8", "80"), MEASURED],
        "column person: none of the measure",
    ),
    "with other channels": (
        [STAYS, MEASURED.replace("HR", "X").replace("FiO2", "Y")],
        "column parameter: none of the m",
    ),
    "with a value that is no number": ([STAYS, MEASURED.replace("0.5", NAME)], r"column value: .* 1 of 6 .* row 3\)"),
    "with a time that is no number": ([STAYS, MEASURED.replace("61", "01:01")], r"column minute: .* 1 of 6 .* row 2\)"),
    "without a column": ([STAYS.replace("age", "years"), MEASURED], "column age missing"),
}


@pytest.mark.parametrize("situation", SERIES_FAULTS)
def test_a_long_form_is_refused_without_quoting_a_cell(situation: str, tmp_path: Path) -> None:
    files, message = SERIES_FAULTS[situation]
    with pytest.raises(RecordsError, match=message) as caught:
        read(tmp_path, *files, cohort=STAY)
    assert NAME not in str(caught.value)
    assert "01:01" not in str(caught.value)


def test_rows_to_predict_may_come_with_their_measurements(tmp_path: Path) -> None:
    rows, measured = tmp_path / "rows.csv", tmp_path / "measured.csv"
    rows.write_text("person,age\n8,60\n7,50\n")
    measured.write_text(MEASURED)
    found = read_rows(rows, STAY, measured)
    assert list(found) == ["stay", "age"]
    assert found["age"].tolist() == [60.0, 50.0]
    assert series(found) == [[[80, 0.5], [None, None]], [[None, None], [90, None]]]
    raw = STAY.model_dump()
    del raw["columns"]["age"]
    alone = read_rows(measured, Cohort.model_validate(raw))
    assert series(alone) == [*series(found), [[70, None], [None, None]]]  # patients as they first stand there

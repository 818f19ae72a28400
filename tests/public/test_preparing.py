"""The real public cohorts become the tables that their declarations describe, and a changed copy is refused."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from public_data import real_files

from fedmed.data.cohort import read_cohort
from fedmed.errors import SourceError, SourceMismatch
from fedmed.public import eicu_demo, physionet2012
from fedmed.public.content import content_digest
from fedmed.public.preparing import PREPARATIONS, prepare
from fedmed.public.raw import LARGEST_TABLE, members, read_csv
from fedmed.public.records import PUBLIC_COHORTS, public_cohort
from fedmed.template.parameters import presets

COHORTS = Path(__file__).parents[2] / "cohorts"
FETCHED = [name for name, source in PUBLIC_COHORTS.items() if not source.embedded]


def folder_of(name: str) -> Path:
    return Path() if PUBLIC_COHORTS[name].embedded else real_files(name)


def test_every_public_cohort_has_a_preparation_a_declaration_and_a_preset():
    assert set(PUBLIC_COHORTS) == set(PREPARATIONS) == set(presets())
    assert set(PUBLIC_COHORTS) == {path.stem for path in COHORTS.glob("*.yaml")}


@pytest.mark.parametrize("name", PUBLIC_COHORTS)
def test_the_declaration_names_the_same_licence_and_page(name):
    declared = read_cohort(COHORTS / f"{name}.yaml")
    assert declared.name == name
    assert declared.title == PUBLIC_COHORTS[name].title
    assert declared.source.url == PUBLIC_COHORTS[name].page
    assert declared.source.licence.split()[0] == PUBLIC_COHORTS[name].licence.split()[0]
    assert declared.source.citation


@pytest.mark.parametrize("name", PUBLIC_COHORTS)
def test_every_hospital_has_the_rows_and_the_columns_that_are_declared(name):
    tables = prepare(name, folder_of(name))
    assert {site: len(rows) for site, rows in tables.items()} == PUBLIC_COHORTS[name].sites
    declared = set(read_cohort(COHORTS / f"{name}.yaml").table_columns)
    assert all(declared <= set(rows.columns) for rows in tables.values())


def test_a_cohort_that_nobody_knows():
    with pytest.raises(SourceError, match=r"'mimic' is no public cohort .*heart_disease, tcga_brca"):
        public_cohort("mimic")


@pytest.mark.parametrize("name", FETCHED)
def test_an_empty_folder_says_what_is_missing_and_how_to_get_it(name, tmp_path):
    with pytest.raises(SourceError, match=f"fedmed data fetch {name}"):
        prepare(name, tmp_path)


def test_a_hospital_that_the_cohort_does_not_have():
    with pytest.raises(SourceError, match=r"has no hospital budapest; .*among cleveland, hungarian, switzerland, va"):
        prepare("heart_disease", Path(), ["cleveland", "budapest"])


# TCGA


def test_brca_deaths_and_follow_up_by_region():
    tables = prepare("tcga_brca", real_files("tcga_brca"))
    assert [int(rows["event"].sum()) for rows in tables.values()] == [59, 39, 22, 19, 9, 3]
    joined = pd.concat(tables.values())
    # 12 patients were last seen on the day of diagnosis.
    assert (joined["time"] == 0.5).sum() == 12
    assert joined["time"].min() == 0.5
    first = joined.set_index("pid").loc["TCGA-E2-A9RU"]
    assert (first["age_at_index"], first["event"], first["time"], first["region"]) == (90, 0, 538, "region_0")


def test_a_changed_value_is_refused(tmp_path):
    folder = shutil.copytree(real_files("tcga_brca"), tmp_path / "copy")
    text = (folder / "brca.csv").read_text()
    (folder / "brca.csv").write_text(text.replace("TCGA-E2-A9RU,90,", "TCGA-E2-A9RU,89,", 1))
    with pytest.raises(
        SourceMismatch, match=r"expected the 1088 rows of tcga_brca with content SHA-256 990a67d8.*got 1088"
    ):
        prepare("tcga_brca", folder)


def test_a_table_without_its_columns_is_refused_without_a_cell(tmp_path):
    (tmp_path / "brca.csv").write_text("Kowalska,71\n")
    with pytest.raises(SourceMismatch, match=r"brca\.csv: expected a CSV file with the columns pid") as caught:
        prepare("tcga_brca", tmp_path)
    assert "Kowalska" not in str(caught.value)


# eICU


def original_tables(folder: Path, joined: pd.DataFrame) -> None:
    """The joined table taken apart again into the three files of the database, with stays that do not belong."""
    apache = joined[["stay_id", *eicu_demo.APACHE]].rename(columns={"stay_id": "patientunitstayid"}).fillna("-1")
    apache.insert(0, "apacheapsvarid", range(len(apache)))
    status = joined["died"].map({"0": "Alive", "1": "Expired"})
    patient = joined[["stay_id", "hospitalid", "uniquepid", "unittype", "gender", "age"]].assign(
        hospitaldischargestatus=status
    )
    patient = patient.rename(columns={"stay_id": "patientunitstayid"})
    unknown = patient.head(1).assign(patientunitstayid="1", hospitaldischargestatus=None)
    without_score = patient.head(1).assign(patientunitstayid="2")
    patient = pd.concat([patient, unknown, without_score]).sample(frac=1, random_state=1)
    apache = pd.concat([apache, apache.head(1).assign(patientunitstayid="1")])
    hospital = joined[["hospitalid", "region"]].drop_duplicates().assign(teachingstatus="f")
    hospital["region"] = hospital["region"].where(hospital["region"] != "Unknown", None)
    for name, table in (("apacheApsVar", apache), ("patient", patient), ("hospital", hospital)):
        with gzip.open(folder / f"{name}.csv.gz", "wt") as file:
            table.to_csv(file, index=False)


def test_the_original_tables_of_the_eicu_demo_give_the_same_content(tmp_path):
    joined = pd.read_csv(
        real_files("eicu_demo") / "apache_tabular.csv", dtype=str, keep_default_na=False, na_values=[""]
    )
    original_tables(tmp_path, joined)
    tables = prepare("eicu_demo", tmp_path)
    assert {site: len(rows) for site, rows in tables.items()} == PUBLIC_COHORTS["eicu_demo"].sites


def test_a_small_file_that_unpacks_into_a_huge_one_is_refused(tmp_path):
    rows = b"1,1,Male,50\n" * 100_000
    with gzip.open(tmp_path / "patient.csv.gz", "wb") as file:
        file.write(b"patientunitstayid,hospitalid,gender,age\n")
        for _ in range(LARGEST_TABLE // len(rows) + 1):
            file.write(rows)
    assert (tmp_path / "patient.csv.gz").stat().st_size < 1 << 20
    with pytest.raises(SourceMismatch, match="once it is unpacked"):
        read_csv(tmp_path / "patient.csv.gz", ["patientunitstayid", "age"])


def test_deaths_and_ages_of_the_eicu_demo():
    tables = prepare("eicu_demo", real_files("eicu_demo"))
    joined = pd.concat(tables.values())
    assert joined["died"].sum() == 196
    assert joined["uniquepid"].nunique() == 1765
    assert (joined["age"] == 90).sum() == 83  # told as "> 89"
    assert joined["age"].isna().sum() == 3
    assert not (joined[list(eicu_demo.APACHE)] == -1).any().any()
    assert round(tables["midwest"]["died"].mean(), 4) == 0.0724


def test_each_hospital_of_the_eicu_demo_can_be_a_site():
    two = prepare("eicu_demo", real_files("eicu_demo"), ["hospital_59", "hospital_60"])
    assert set(two["hospital_59"]["hospital"]) == {"hospital_59"}
    everybody = PREPARATIONS["eicu_demo"].read(real_files("eicu_demo"))
    assert len(eicu_demo.divide(everybody, ["hospital_59"])) == 186


# PhysioNet


@pytest.fixture(scope="module")
def long_form() -> pd.DataFrame:
    return pd.read_parquet(real_files("physionet2012") / "set-a.parquet")


def cell(table: pd.DataFrame, stay: str) -> np.ndarray:
    raw = table.set_index("stay").loc[stay, physionet2012.SERIES]
    return np.frombuffer(raw, dtype="<f4").reshape(physionet2012.STEPS, len(physionet2012.CHANNELS))


def test_deaths_by_kind_of_unit():
    tables = prepare("physionet2012", real_files("physionet2012"))
    assert {site: int(rows["died"].sum()) for site, rows in tables.items()} == {
        "ccu": 81,
        "csru": 43,
        "micu": 275,
        "sicu": 155,
    }


def test_a_stay_hour_by_hour(long_form):
    table = PREPARATIONS["physionet2012"].read(real_files("physionet2012"))
    channel = {name: place for place, name in enumerate(physionet2012.CHANNELS)}
    first = cell(table, "132539")
    row = table.set_index("stay").loc["132539"]
    assert (row["age"], row["gender"], row["unit"], row["died"]) == (54, "0", "sicu", 0)
    assert np.isnan(row["height"])  # told as −1
    assert np.isnan(row["weight"])
    seen = long_form[(long_form["RecordID"] == 132539) & (long_form["parameter"] == "HR")]
    for hour in range(48):
        inside = seen[(seen["minute"] // 60).clip(upper=47) == hour]
        expected = inside["value"].iloc[-1] if len(inside) else np.nan
        np.testing.assert_equal(first[hour, channel["HR"]], np.float32(expected))
    assert np.isnan(first[:, channel["TroponinI"]]).all()


def as_texts(long: pd.DataFrame) -> dict[str, str]:
    """The challenge's own form: a file a stay, lines of hh:mm, parameter, value."""
    times = (long["minute"] // 60).map("{:02d}".format) + ":" + (long["minute"] % 60).map("{:02d}".format)
    lines = (
        times
        + ","
        + long["parameter"].astype(str).replace({"TroponinI": "TropI"})
        + ","
        + long["value"].map(repr_float)
    )
    return {
        f"{stay}.txt": "Time,Parameter,Value\n" + "\n".join(group) + "\n"
        for stay, group in lines.groupby(long["RecordID"])
    }


def repr_float(value: np.float32) -> str:
    return np.format_float_positional(np.float32(value), trim="-")


def test_every_packaging_of_the_challenge_gives_the_same_stays(tmp_path, long_form):
    some = long_form[long_form["RecordID"] < 132650]
    outcomes = pd.read_csv(real_files("physionet2012") / "Outcomes-a.txt")
    texts = as_texts(some.sample(frac=1, random_state=1))
    packed = {}
    for kind in ("parquet", "tar", "zip", "folder"):
        folder = tmp_path / kind
        folder.mkdir()
        outcomes[outcomes["RecordID"] < 132650].to_csv(folder / "Outcomes-a.txt", index=False)
        if kind == "parquet":
            some.to_parquet(folder / "set-a.parquet")
        elif kind == "tar":
            with tarfile.open(folder / "set-a.tar.gz", "w:gz") as archive:
                for name, text in texts.items():
                    entry = tarfile.TarInfo(f"./set-a/{name}")
                    entry.size = len(text)
                    archive.addfile(entry, io.BytesIO(text.encode()))
        elif kind == "zip":
            with zipfile.ZipFile(folder / "set-a.zip", "w") as archive:
                for name, text in texts.items():
                    archive.writestr(f"set-a/{name}", text)
        else:
            (folder / "set-a").mkdir()
            for name, text in texts.items():
                (folder / "set-a" / name).write_text(text)
        packed[kind] = content_digest(physionet2012.read(folder))
    assert len(set(packed.values())) == 1


@pytest.mark.slow
def test_the_archive_of_the_challenge_has_the_known_content(tmp_path, long_form):
    shutil.copy(real_files("physionet2012") / "Outcomes-a.txt", tmp_path)
    with tarfile.open(tmp_path / "set-a.tar.gz", "w:gz") as archive:
        for name, text in as_texts(long_form).items():
            entry = tarfile.TarInfo(f"./set-a/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    assert len(prepare("physionet2012", tmp_path)["sicu"]) == 1068


def small_challenge(folder: Path, text: str) -> Path:
    (folder / "Outcomes-a.txt").write_text(
        "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n7,1,1,5,-1,1\n"
    )
    (folder / "set-a").mkdir()
    (folder / "set-a" / "7.txt").write_text(text)
    return folder


def test_last_value_of_an_hour_mean_of_a_minute_and_what_is_no_value(tmp_path):
    lines = [
        "Time,Parameter,Value",
        "00:00,RecordID,7",
        "00:00,Age,60",
        "00:00,Gender,-1",
        "00:00,Height,1.8",
        "00:00,ICUType,1",
    ]
    lines += [
        "00:00,Weight,80",
        "00:10,HR,70",
        "00:50,HR,90",
        "01:00,HR,60",
        "01:00,HR,62",
        "48:00,HR,55",
        "02:00,,3",
        "02:00,pH,-1",
    ]
    table = physionet2012.read(small_challenge(tmp_path, "\n".join(lines)))
    channel = {name: place for place, name in enumerate(physionet2012.CHANNELS)}
    found = cell(table, "7")
    hours = found[:, channel["HR"]]
    assert hours[[0, 1, 47]].tolist() == [90, 61, 55]
    assert np.isnan(hours[2:47]).all()
    assert np.isnan(found[:, channel["pH"]]).all()
    assert found[0, channel["Weight"]] == 80
    row = table.iloc[0]
    assert (row["age"], row["gender"], row["weight"], row["unit"], row["died"]) == (60, None, 80, "ccu", 1)
    assert np.isnan(row["height"])  # metres: an error of entry


@pytest.mark.parametrize("text", ["", "Time,Parameter,Value\n00:00,Age\n", "Time,Parameter,Value\n00:00,Age,old\n"])
def test_a_file_that_is_no_record_is_named(tmp_path, text):
    with pytest.raises(SourceMismatch, match=r"7\.txt is no record of the challenge") as caught:
        physionet2012.read(small_challenge(tmp_path, text))
    assert "old" not in str(caught.value)


def test_a_damaged_archive_is_refused(tmp_path):
    small_challenge(tmp_path, "")
    (tmp_path / "set-a.tar.gz").write_bytes(b"\x1f\x8b" + bytes(100))
    with pytest.raises(SourceMismatch, match="expected an archive of"):
        physionet2012.read(tmp_path)


# PneumoniaMNIST


@pytest.mark.parametrize(("local", "central", "value"), [(6, 8, 1), (8, 10, 99)])
def test_an_archive_that_is_encrypted_or_packed_in_an_unknown_way_is_refused(tmp_path, local, central, value):
    path = tmp_path / "set-a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.txt", "Time,Parameter,Value")
    packed = bytearray(path.read_bytes())
    packed[local] = packed[packed.rfind(b"PK\x01\x02") + central] = value
    path.write_bytes(packed)
    with pytest.raises(SourceMismatch, match="expected an archive"):
        list(members(path, ".txt"))


def test_the_same_images_in_another_order_are_divided_in_the_same_way(tmp_path):
    arrays = dict(np.load(next(real_files("pneumoniamnist").glob("*.npz"))))
    order = np.random.default_rng(1).permutation(len(arrays["train_labels"]))
    shuffled = {**arrays, "train_images": arrays["train_images"][order], "train_labels": arrays["train_labels"][order]}
    np.savez(tmp_path / "pneumoniamnist.npz", **shuffled)
    ours, theirs = prepare("pneumoniamnist", tmp_path), prepare("pneumoniamnist", real_files("pneumoniamnist"))
    assert list(ours) == list(theirs)
    for site, rows in ours.items():
        pd.testing.assert_frame_equal(rows, theirs[site])


def test_the_hospitals_that_do_not_exist_differ_in_size_and_in_how_many_are_ill():
    tables = prepare("pneumoniamnist", real_files("pneumoniamnist"))
    ill = {site: round(float(rows["pneumonia"].mean()), 2) for site, rows in tables.items()}
    assert min(ill.values()) < 0.5 < 0.85 < max(ill.values())
    assert all(min(rows["pneumonia"].sum(), (1 - rows["pneumonia"]).sum()) > 40 for rows in tables.values())
    assert len(pd.concat(tables.values())) == 5856


def test_the_images_can_be_divided_among_any_hospitals():
    tables = prepare("pneumoniamnist", real_files("pneumoniamnist"), ["east", "west"])
    assert list(tables) == ["east", "west"]
    assert sum(map(len, tables.values())) == 5856


def test_images_of_another_size_are_refused(tmp_path):
    names = {
        f"{split}_{kind}": np.zeros((2, 64, 64) if kind == "images" else (2, 1), np.uint8)
        for split in ("train", "val", "test")
        for kind in ("images", "labels")
    }
    np.savez(tmp_path / "pneumoniamnist_64.npz", **names)
    with pytest.raises(SourceMismatch, match=r"expected uint8 images of 28 × 28, got uint8 \(64, 64\)"):
        prepare("pneumoniamnist", tmp_path)

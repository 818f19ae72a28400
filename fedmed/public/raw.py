"""Open the raw files of a public cohort: whichever packaging of them a folder holds, and nothing that could do harm."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from fedmed.errors import SourceError, SourceMismatch

LARGEST_MEMBER = 4 << 20
LARGEST_TABLE = 64 << 20
MOST_MEMBERS = 50_000


def first_of(folder: Path, names: Sequence[str], *, cohort: str) -> Path:
    """The first of these files or folders that is there.

    Raises:
        SourceError: if none is.
    """
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise SourceError(
        f"{folder}: expected {' or '.join(names)} of the cohort {cohort}, found neither. Fetch it with"
        f" `fedmed data fetch {cohort}`, or name the folder of your copy with `fedmed data add {cohort} --from PATH`."
    )


def read_csv(path: Path, columns: Sequence[str], *, text: Sequence[str] = ()) -> pd.DataFrame:
    """Some columns of a CSV file, compressed or not; the columns in `text` keep every cell as it is written.

    Raises:
        SourceMismatch: if it is no such file, or far larger than any of a cohort.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(LARGEST_TABLE + 1)
        if len(content) > LARGEST_TABLE:
            raise SourceMismatch(f"{path}: expected at most {LARGEST_TABLE} bytes once it is unpacked; there are more")
        return pd.read_csv(
            io.BytesIO(content),
            usecols=list(columns),
            dtype=dict.fromkeys(text, object),
            # "NA" and the like are no missing values in these files; an empty cell is.
            keep_default_na=False,
            na_values=[""],
            encoding="utf-8",
        )[list(columns)]
    except (ValueError, KeyError, OSError, EOFError, zlib.error) as problem:
        raise SourceMismatch(
            f"{path}: expected a CSV file with the columns {', '.join(columns[:4])} … ({_kind(problem)})"
        ) from None


def members(archive: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file in a folder, a zip or a tar archive that ends with `suffix`; nothing is unpacked.

    Raises:
        SourceMismatch: if it is no such archive, or holds far more than it should.
    """
    opened = _in_folder if archive.is_dir() else _in_zip if archive.name.endswith(".zip") else _in_tar
    try:
        for number, (name, content) in enumerate(opened(archive, suffix)):
            if number >= MOST_MEMBERS or len(content) > LARGEST_MEMBER:
                raise SourceMismatch(f"{archive}: holds more, or larger, files than the cohort has")
            yield Path(name).name, content
    # zipfile says with a RuntimeError that a member is encrypted, or compressed in a way that it does not know.
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as problem:
        raise SourceMismatch(f"{archive}: expected an archive of {suffix} files ({_kind(problem)})") from None


def _in_folder(folder: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob(f"*{suffix}")):
        with path.open("rb") as file:
            yield path.name, file.read(LARGEST_MEMBER + 1)


def _in_zip(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.is_dir() and entry.filename.endswith(suffix):
                with archive.open(entry) as file:
                    yield entry.filename, file.read(LARGEST_MEMBER + 1)


def _in_tar(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for entry in archive:
            if entry.isfile() and entry.name.endswith(suffix) and (file := archive.extractfile(entry)) is not None:
                yield entry.name, file.read(LARGEST_MEMBER + 1)


def _kind(problem: Exception) -> str:
    return type(problem).__name__

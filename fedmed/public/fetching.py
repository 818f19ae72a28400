"""Fetch the files of a public cohort: over https, whole or not at all, and never under another file's name."""

from __future__ import annotations

import http.client
import ipaddress
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from fedmed import __version__
from fedmed.errors import SourceError, SourceMismatch, SourceUnreachable
from fedmed.public.records import PublicCohort, SourceFile

CACHE_VARIABLE = "FEDMED_DATA"
MIRROR_VARIABLE = "FEDMED_SOURCE_MIRROR"
CHUNK = 1 << 18
PATIENCE = 30.0  # seconds without a byte

Progress = Callable[[str, int, int | None], None]
"""Called with the file's name, the bytes that have come, and the bytes to come in all if the host said so."""


def cache_folder() -> Path:
    """Where fetched cohorts are kept: `FEDMED_DATA`, or else `fedmed` in the user's cache directory."""
    if chosen := os.environ.get(CACHE_VARIABLE, "").strip():
        return Path(chosen).expanduser()
    import pooch

    return Path(pooch.os_cache("fedmed"))


def files_folder(source: PublicCohort, cache: Path | None = None) -> Path:
    """The folder of one cohort's files in the cache."""
    return (cache or cache_folder()) / source.name


def is_fetched(source: PublicCohort, cache: Path | None = None) -> bool:
    """Whether every file of the cohort is in the cache; true of a table that ships with FedMed."""
    return all((files_folder(source, cache) / file.name).is_file() for file in source.files)


def fetch(
    source: PublicCohort, *, cache: Path | None = None, mirror: str | None = None, progress: Progress | None = None
) -> Path:
    """Bring the files of a cohort into the cache; a file that is there with the right hash is not fetched again.

    Args:
        source: the cohort.
        cache: another folder than :func:`cache_folder`.
        mirror: base address of a copy inside the hospital's network; a file is then asked for at `MIRROR/NAME/FILE`.
        progress: told what has come.

    Returns:
        The folder with the files.

    Raises:
        SourceUnreachable: if a host does not answer, or not with the file.
        SourceMismatch: if what came is not the published file.
        SourceError: if an address is not https, or the cache cannot be written.

    Guarantees:
        A file stands in the cache whole and with its published hash, or not at all. Nothing is asked of a plain http
        address, except of this machine's own.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")  # it tells of every file on the terminal
    folder = files_folder(source, cache)
    for file in source.files:
        address = f"{mirror.rstrip('/')}/{source.name}/{file.name}" if mirror else file.url
        known = f"sha256:{file.sha256}" if file.sha256 else f"md5:{file.md5}" if file.md5 else None
        downloader = partial(_download, file=file, progress=progress)
        try:
            pooch.retrieve(address, known, file.name, folder, downloader=downloader)
        except ValueError as problem:  # the hash is another
            raise SourceMismatch(f"{address}: {problem} {_WHAT_TO_DO}") from None
        except OSError as problem:
            raise SourceError(f"{folder / file.name}: cannot be written: {problem.strerror or problem}") from None
    return folder


def discard(source: PublicCohort, cache: Path | None = None) -> None:
    """Remove a cohort's files from the cache."""
    for file in source.files:
        (files_folder(source, cache) / file.name).unlink(missing_ok=True)


_WHAT_TO_DO = (
    "The host may have put an error page, a proxy's page or another release there: look at the address in a browser, or"
    " give a copy of your own with `fedmed data add NAME --from PATH`."
)
_ELSEWHERE = (
    f"Try again; behind a firewall give a mirror (--mirror or {MIRROR_VARIABLE}), or a copy of the files with"
    " `fedmed data add NAME --from PATH`."
)


def _download(address: str, to: str, _: object, *, file: SourceFile, progress: Progress | None) -> None:
    """What pooch calls: bring an address into a file that lies beside its place until its hash is seen."""
    with _opened(address) as answer, Path(to).open("wb") as out:
        told = answer.headers.get("Content-Length", "")
        length, come = int(told) if told.isdigit() else None, 0
        if length is not None and length > file.at_most:
            raise SourceMismatch(_too_long(address, file))
        while chunk := _read(answer, address):
            come += len(chunk)
            if come > file.at_most:
                raise SourceMismatch(_too_long(address, file))
            out.write(chunk)
            if progress is not None:
                progress(file.name, come, length)
        if length is not None and come != length:
            raise SourceUnreachable(f"{address}: expected {length} bytes, got {come}: broken off. {_ELSEWHERE}")
        out.flush()
        os.fsync(out.fileno())
    Path(to).chmod(0o644)  # pooch makes it for its owner only


def _read(answer: http.client.HTTPResponse, address: str) -> bytes:
    try:
        return answer.read(CHUNK)
    except (OSError, http.client.HTTPException) as problem:
        raise SourceUnreachable(f"{address}: broke off ({_reason(problem)}). {_ELSEWHERE}") from None


def _too_long(address: str, file: SourceFile) -> str:
    return f"{address}: expected at most {file.at_most} bytes, and more came. Nothing was kept. {_WHAT_TO_DO}"


def check_address(address: str) -> None:
    """Refuse an address over which anybody on the way could put other bytes.

    Raises:
        SourceError: unless it is https, or plain http to this machine itself.
    """
    parts = urlsplit(address)
    if parts.scheme == "https" and parts.hostname:
        return
    if parts.scheme == "http" and parts.hostname and _is_this_machine(parts.hostname):
        return
    raise SourceError(f"{address}: expected an https address (plain http only to this machine itself)")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Careful(urllib.request.HTTPRedirectHandler):
    """Follows a redirection only where :func:`check_address` would have gone itself."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _opened(address: str) -> Iterator[http.client.HTTPResponse]:
    check_address(address)
    handlers: list[urllib.request.BaseHandler] = [_Careful()]
    if _is_this_machine(urlsplit(address).hostname or ""):
        handlers.append(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(address, headers={"User-Agent": f"fedmed/{__version__}"})  # noqa: S310  # checked above
    try:
        answer = urllib.request.build_opener(*handlers).open(request, timeout=PATIENCE)
    except urllib.error.HTTPError as problem:
        with problem:
            said = f"{problem.code} {problem.reason}"
            raise SourceUnreachable(f"{address}: the host answered {said}. {_ELSEWHERE}") from None
    except (OSError, http.client.HTTPException) as problem:
        raise SourceUnreachable(f"{address}: cannot be reached ({_reason(problem)}). {_ELSEWHERE}") from None
    with answer:
        yield answer


def _reason(problem: Exception) -> str:
    inner = getattr(problem, "reason", None) or problem
    return str(getattr(inner, "strerror", None) or inner) or type(problem).__name__

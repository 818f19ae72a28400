"""Files come whole, from the right place and with the right bytes, or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from public_data import real_files

from fedmed.errors import SourceError, SourceMismatch, SourceUnreachable
from fedmed.public.fetching import cache_folder, check_address, discard, fetch, files_folder, is_fetched
from fedmed.public.preparing import obtain
from fedmed.public.records import PUBLIC_COHORTS, PublicCohort, SourceFile

CONTENT = b"pid,age\n" + b"x" * 1000


class Host(NamedTuple):
    """A web server on this machine: what it says at each path, and which paths were asked for."""

    address: str
    says: dict[str, tuple[int, dict[str, str], bytes]]
    asked: list[str]


@pytest.fixture
def host() -> Iterator[Host]:
    says: dict[str, tuple[int, dict[str, str], bytes]] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            code, headers, body = says.get(self.path, (404, {}, b"no such file"))
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Host(f"http://127.0.0.1:{server.server_address[1]}", says, asked)
        server.shutdown()


def source(**file: object) -> PublicCohort:
    known = {"sha256": hashlib.sha256(CONTENT).hexdigest(), **file}
    one = SourceFile(name="a.csv", url="https://example.org/a.csv", basis="made here", **known)
    return PUBLIC_COHORTS["tcga_brca"].model_copy(update={"name": "small", "files": (one,)})


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_a_file_comes_whole_and_is_not_asked_for_twice(host, tmp_path):
    host.says["/base/small/a.csv"] = (200, {}, CONTENT)
    told: list[tuple[str, int, int | None]] = []
    mirror = f"{host.address}/base/"
    folder = fetch(source(), cache=tmp_path, mirror=mirror, progress=lambda *step: told.append(step))
    assert (folder / "a.csv").read_bytes() == CONTENT
    assert told[-1] == ("a.csv", len(CONTENT), len(CONTENT))
    assert is_fetched(source(), tmp_path)
    fetch(source(), cache=tmp_path, mirror=mirror)
    assert host.asked == ["/base/small/a.csv"]
    assert left(tmp_path) == ["a.csv"]


def test_a_fetched_file_is_for_everybody_and_the_terminal_is_left_alone(host, tmp_path, capfd):
    host.says["/small/a.csv"] = (200, {}, CONTENT)
    for known in (source(), source(sha256=None)):
        path = fetch(known, cache=tmp_path, mirror=host.address) / "a.csv"
        assert path.stat().st_mode & 0o777 == 0o644
        path.unlink()
    assert capfd.readouterr() == ("", "")


def test_a_file_that_was_changed_in_the_cache_is_fetched_again(host, tmp_path):
    host.says["/small/a.csv"] = (200, {}, CONTENT)
    path = fetch(source(), cache=tmp_path, mirror=host.address) / "a.csv"
    path.write_bytes(b"changed")
    fetch(source(), cache=tmp_path, mirror=host.address)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("known", "word"),
    [({}, "sha256"), ({"sha256": None, "md5": hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}, "md5")],
)
def test_other_bytes_are_refused_and_removed(host, tmp_path, known, word):
    host.says["/small/a.csv"] = (200, {}, b"<html>Please log in</html>")
    with pytest.raises(
        SourceMismatch, match=rf"\(a\.csv\) does not match .* expected {word}:\w+ but got \w+\. Deleted .*--from PATH"
    ):
        fetch(source(**known), cache=tmp_path, mirror=host.address)
    assert left(tmp_path) == []


def test_a_connection_that_breaks_leaves_nothing(host, tmp_path):
    host.says["/small/a.csv"] = (200, {"Content-Length": "5000"}, CONTENT)
    with pytest.raises(SourceUnreachable, match=r"broke(n)? off"):
        fetch(source(), cache=tmp_path, mirror=host.address)
    assert left(tmp_path) == []


@pytest.mark.parametrize("headers", [{}, {"Content-Length": ""}])
def test_an_answer_that_is_too_long_is_refused(host, tmp_path, headers):
    host.says["/small/a.csv"] = (200, headers, CONTENT)
    with pytest.raises(SourceMismatch, match="expected at most 100 bytes, and more came"):
        fetch(source(at_most=100), cache=tmp_path, mirror=host.address)
    assert left(tmp_path) == []


def test_a_file_that_is_not_there(host, tmp_path):
    with pytest.raises(SourceUnreachable, match="answered 404 Not Found"):
        fetch(source(), cache=tmp_path, mirror=host.address)


def test_a_host_that_does_not_answer(tmp_path):
    with pytest.raises(SourceUnreachable, match=r"cannot be reached .*FEDMED_SOURCE_MIRROR"):
        fetch(source(), cache=tmp_path, mirror="http://127.0.0.1:9")


@pytest.mark.parametrize(
    "address", ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd", "http://10.0.0.7/x"]
)
def test_plain_addresses_are_refused(address, tmp_path):
    with pytest.raises(SourceError, match="expected an https address"):
        fetch(source(), cache=tmp_path, mirror=address)


def test_https_and_this_machine_are_good_addresses():
    for address in ("https://example.org/x", "http://127.0.0.1:8000/x", "http://localhost/x", "http://[::1]:80/x"):
        check_address(address)


def test_a_redirection_to_a_plain_address_is_not_followed(host, tmp_path):
    host.says["/small/a.csv"] = (302, {"Location": "http://example.org/a.csv"}, b"")
    with pytest.raises(SourceError, match=r"http://example.org/a.csv: expected an https address"):
        fetch(source(), cache=tmp_path, mirror=host.address)
    assert left(tmp_path) == []


def test_a_redirection_on_this_machine_is_followed(host, tmp_path):
    host.says["/small/a.csv"] = (302, {"Location": f"{host.address}/there"}, b"")
    host.says["/there"] = (200, {}, CONTENT)
    assert (fetch(source(), cache=tmp_path, mirror=host.address) / "a.csv").read_bytes() == CONTENT


def test_a_cache_that_cannot_be_written(host, tmp_path):
    host.says["/small/a.csv"] = (200, {}, CONTENT)
    (tmp_path / "small").write_text("in the way")
    with pytest.raises(SourceError, match="cannot be written"):
        fetch(source(), cache=tmp_path, mirror=host.address)


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FEDMED_DATA", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("FEDMED_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files_folder(PUBLIC_COHORTS["tcga_brca"]) == tmp_path / "fedmed" / "tcga_brca"


def test_the_real_files_from_a_mirror(host, tmp_path):
    for path in real_files("tcga_brca").iterdir():
        host.says[f"/tcga_brca/{path.name}"] = (200, {}, path.read_bytes())
    tables = obtain(PUBLIC_COHORTS["tcga_brca"], cache=tmp_path, mirror=host.address)
    assert sum(map(len, tables.values())) == 1088
    assert host.asked == ["/tcga_brca/brca.csv", "/tcga_brca/train_test_split.csv"]
    assert left(tmp_path) == ["brca.csv", "train_test_split.csv"]


def test_files_without_a_known_hash_are_held_against_the_content_and_removed(host, tmp_path):
    path = next(real_files("pneumoniamnist").glob("*.npz"))
    host.says["/pneumoniamnist/pneumoniamnist.npz"] = (200, {}, path.read_bytes())
    (file,) = PUBLIC_COHORTS["pneumoniamnist"].files
    open_source = PUBLIC_COHORTS["pneumoniamnist"].model_copy(
        update={"files": (file.model_copy(update={"md5": None}),)}
    )
    assert len(obtain(open_source, cache=tmp_path, mirror=host.address)) == 6
    discard(open_source, tmp_path)
    host.says["/pneumoniamnist/pneumoniamnist.npz"] = (200, {}, b"PK\x05\x06" + bytes(18))  # an empty archive
    with pytest.raises(SourceMismatch, match="expected images and labels"):
        obtain(open_source, cache=tmp_path, mirror=host.address)
    assert left(tmp_path) == []

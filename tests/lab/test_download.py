"""Downloads from a server on 127.0.0.1 that misbehaves in every way a server can."""

import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gem_activations.cli import main
from gem_activations.errors import DataError, SettingError
from gem_activations.lab.data import holdings
from gem_activations.lab.data.holdings import (
    SOURCES,
    Item,
    Source,
    check_dataset,
    fetch,
    find_source,
    get_dataset,
    lock_folder,
)

CONTENT = np.random.default_rng(3).bytes(700_000)


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Serves `files`; `faults` are taken one a request, in order, then none: each changes that one answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: list[str] = []
        self.requests: list[tuple[str, str | None]] = []
        self.released = threading.Event()
        self.outwaited = False

    def stall(self) -> None:
        """Send nothing until the test is over, or for so long that the client should have left."""
        self.outwaited |= not self.released.wait(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that a client gives up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride] -- narrowed, as the constructor's argument is

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        name, wanted = self.path[1:], self.headers.get("Range")
        self.server.requests.append((name, wanted))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        content = self.server.files.get(name)
        self.close_connection = True
        if fault.isdecimal() or content is None:
            self.send_error(int(fault or 404))
            return
        if fault == "stall":
            self.server.stall()
            return
        wanted = None if fault.startswith("ignore range") else wanted
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if begin and begin >= len(content):
            self.send_error(416)
            return
        self._answer(fault, content, begin, partial=bool(wanted))

    def _answer(self, fault: str, content: bytes, begin: int, *, partial: bool) -> None:
        body = content[begin:]
        if fault == "alter":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if fault == "other range":
            begin, body = 0, content[:1000]
        sent = body[: len(body) // 2] if fault.endswith(("drop", "truncate", "stall inside")) else body
        self.send_response(206 if partial else 200)
        if partial:
            self.send_header("Content-Range", f"bytes {begin}-{begin + len(body) - 1}/{len(content)}")
        if fault not in ("truncate", "no length"):
            self.send_header("Content-Length", str(len(sent) + 10 if fault == "longer" else len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(sent)
        self.wfile.flush()
        if fault == "stall inside":
            self.server.stall()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        running.files["x.bin"] = CONTENT
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between attempts."""
    monkeypatch.setattr("pooch.core.time.sleep", lambda _: None)
    monkeypatch.setattr(holdings, "TIMEOUT", 0.3)


def get(server: Server, target: Path) -> None:
    with lock_folder(target.parent):
        fetch([server.url + target.name], target, md5(CONTENT))


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["no length"],
        ["drop", "drop"],
        ["stall"],
        ["stall inside"],
        ["500"],
        ["503", "drop"],
        ["truncate"],
        ["alter"],
    ],
    ids="+".join,
)
def test_file_arrives_whole_whatever_breaks(tmp_path: Path, server: Server, faults: list[str]) -> None:
    server.faults = list(faults)
    get(server, tmp_path / "new" / "x.bin")
    assert (tmp_path / "new" / "x.bin").read_bytes() == CONTENT
    assert visible(tmp_path / "new") == ["x.bin"]
    assert server.faults == []
    assert not server.outwaited


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("alter", "not the published one"),
        ("404", "answers 404 Not Found"),
        ("403", "answers 403 Forbidden"),
        ("500", "answers 500"),
        ("stall", "no answer in time"),
    ],
)
def test_file_that_cannot_be_had_is_one_error_and_leaves_nothing(
    tmp_path: Path, server: Server, fault: str, words: str
) -> None:
    server.faults = [fault] * 3
    with pytest.raises(DataError, match=words) as caught:
        get(server, tmp_path / "x.bin")
    assert server.url + "x.bin" in str(caught.value)
    assert "cannot download x.bin" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [".download.lock"]


def test_unreachable_address_and_the_next_one(tmp_path: Path, server: Server) -> None:
    urls = ["http://127.0.0.1:1/x.bin", server.url + "nowhere", server.url + "x.bin"]
    with pytest.raises(DataError, match=r"127.0.0.1:1/x.bin: no connection; .*nowhere: the server answers 404"):
        fetch(urls[:2], tmp_path / "x.bin", md5(CONTENT))
    fetch(urls, tmp_path / "x.bin", md5(CONTENT))
    assert (tmp_path / "x.bin").read_bytes() == CONTENT


def test_two_downloads_at_once_make_one_request(tmp_path: Path, server: Server) -> None:
    source = Source("One", ("text", "."), (server.url,), (Item("x.bin", md5(CONTENT)),))
    threads = [threading.Thread(target=get_dataset, args=(source, tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.requests == [("x.bin", None)]
    assert (tmp_path / "text/x.bin").read_bytes() == CONTENT


def test_folder_that_cannot_be_written_is_named(tmp_path: Path, server: Server) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"cannot write to .*file.*--data-dir"):
        get(server, tmp_path / "file" / "x.bin")
    assert server.requests == []


MEMBERS = {"a.bin": b"first" * 1000, "b.txt": b"second"}


def pack(kind: str, change: Callable[[dict[str, bytes]], None] = lambda _: None) -> bytes:
    """Make an archive with one file more than is wanted, and one whose path leads elsewhere."""
    packed = {**{f"inner/{name}": content for name, content in MEMBERS.items()}, "inner/unwanted": b"x"}
    packed["../escaped"] = packed["/tmp/escaped"] = b"x"
    change(packed)
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as zipped:
            for name, content in packed.items():
                zipped.writestr(name, content)
        return buffer.getvalue()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tarred:
        link = tarfile.TarInfo("inner/a.bin.link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tarred.addfile(link)
        for name, content in packed.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o4777
            tarred.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def make_source(server: Server, kind: str, archive: bytes | None = None) -> Source:
    content = pack(kind) if archive is None else archive
    name = f"inner.{kind}"
    server.files[name] = content
    first, second = MEMBERS
    return Source(
        title="Samples",
        folders=("inner", "samples", "."),
        urls=(server.url,),
        items=(Item(first, md5(MEMBERS[first])), Item(second, None)),
        archive=Item(name, md5(content)),
    )


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_archive_is_downloaded_unpacked_and_removed(tmp_path: Path, server: Server, kind: str) -> None:
    source = make_source(server, kind)
    here = tmp_path / "deep" / "data"
    server.faults = ["drop"]
    found = get_dataset(source, here)
    assert found == here / "inner"
    assert [holding.state for holding in check_dataset(source, here)] == ["intact", "unchecked"]
    assert {path.name: path.read_bytes() for path in (here / "inner").iterdir()} == MEMBERS
    assert visible(here) == ["inner"]
    assert [path.name for path in here.iterdir() if path.is_file()] == [".download.lock"]
    assert (here / "inner/a.bin").stat().st_mode & 0o7111 == 0
    assert not list(tmp_path.rglob("escaped"))
    requests = len(server.requests)
    assert get_dataset(source, here) == found
    assert len(server.requests) == requests


def test_only_missing_files_are_unpacked_and_an_own_archive_is_kept(tmp_path: Path, server: Server) -> None:
    source = make_source(server, "tar.gz")
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/b.txt").write_bytes(b"mine")
    (tmp_path / "inner.tar.gz").write_bytes(server.files["inner.tar.gz"])
    get_dataset(source, tmp_path)
    assert server.requests == []
    assert (tmp_path / "samples/a.bin").read_bytes() == MEMBERS["a.bin"]
    assert (tmp_path / "samples/b.txt").read_bytes() == b"mine"
    assert (tmp_path / "inner.tar.gz").exists()
    (tmp_path / "samples/a.bin").unlink()
    (tmp_path / "inner.tar.gz").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"inner\.tar\.gz is altered"):
        get_dataset(source, tmp_path)


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda packed: packed.pop("inner/a.bin"), "does not hold a.bin"),
        (
            lambda packed: packed.update({"inner/a.bin": b"FIRST" * 1000}),
            "a.bin in inner.* is not the published file: it is altered",
        ),
    ],
)
def test_archive_with_other_files_is_refused(
    tmp_path: Path, server: Server, kind: str, change: Callable[[dict[str, bytes]], None], words: str
) -> None:
    source = make_source(server, kind, pack(kind, change))
    with pytest.raises(DataError, match=words):
        get_dataset(source, tmp_path)
    assert not (tmp_path / "inner/a.bin").exists()
    assert not list(tmp_path.glob(".unpack*"))


def test_link_in_the_place_of_a_file_is_refused(tmp_path: Path, server: Server) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tarred:
        link = tarfile.TarInfo("inner/a.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tarred.addfile(link)
    with pytest.raises(DataError, match=r"does not hold a\.bin, b\.txt"):
        get_dataset(make_source(server, "tar.gz", buffer.getvalue()), tmp_path)


def test_archive_that_is_none_is_one_clear_error(tmp_path: Path, server: Server) -> None:
    for kind in ("tar.gz", "zip"):
        with pytest.raises(DataError, match="no intact archive"):
            get_dataset(make_source(server, kind, b"not an archive" * 99), tmp_path)


def put(folder: Path, name: str, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def test_check_tells_every_state_apart(tmp_path: Path, server: Server) -> None:
    source = make_source(server, "tar.gz")

    def state() -> tuple[str, str]:
        found = check_dataset(source, tmp_path)[0]
        return found.state, str(found)

    place = tmp_path / "inner"
    assert state() == ("missing", f"{place / 'a.bin'} is missing")
    for content, expected, words in [
        (b"first" * 1000, "intact", "is intact"),
        (b"first" * 999, "altered", f"is altered: expected {md5(MEMBERS['a.bin'])}"),
        (b"First" + b"first" * 999, "altered", f"is altered: expected {md5(MEMBERS['a.bin'])}"),
    ]:
        put(place, "a.bin", content)
        assert state() == (expected, f"{place / 'a.bin'} {words}")
        if expected not in holdings.GOOD:
            with pytest.raises(DataError, match=words.partition(":")[0]):
                get_dataset(source, tmp_path)
            assert (place / "a.bin").read_bytes() == content
    put(place, "b.txt", b"any")
    assert str(check_dataset(source, tmp_path)[1]).endswith("is there, no checksum of it is published")


def test_single_files_have_their_own_addresses(tmp_path: Path, server: Server) -> None:
    source = Source("One", ("text", "."), (server.url,), (Item("mine.bin", md5(CONTENT), "x.bin"),))
    assert (get_dataset(source, tmp_path) / "mine.bin").read_bytes() == CONTENT


def test_commands(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(holdings, "SOURCES", {"samples": make_source(server, "tar.gz")})
    monkeypatch.setenv("GEM_ACTIVATIONS_DATA", str(tmp_path))
    assert main(["data", "check"]) == 0
    assert capsys.readouterr().out == "samples: not there\n"
    assert main(["data", "check", "samples"]) == 2
    assert "2 of the files" in capsys.readouterr().err
    assert main(["data", "get", "samples"]) == 0
    assert str(tmp_path / "inner") in capsys.readouterr().err
    assert main(["data", "check"]) == 0
    assert f"samples: {tmp_path / 'inner/a.bin'} is intact" in capsys.readouterr().out
    for words in (["check"], ["get", "samples"]):
        assert main(["data", *words, "--data-dir", str(tmp_path / "elsewhere")]) == 2
        assert "there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
    put(tmp_path / "elsewhere/inner", "a.bin", b"damaged")
    assert main(["data", "check", "--data-dir", str(tmp_path / "elsewhere")]) == 2
    assert main(["data", "get", "samples", "--data-dir", str(tmp_path / "elsewhere")]) == 2
    assert "is altered" in capsys.readouterr().err
    assert main(["data", "get"]) == 2
    assert "name at least one data set" in capsys.readouterr().err
    assert main(["data", "get", "sample"]) == 2
    assert "did you mean samples?" in capsys.readouterr().err


def test_a_terminal_shows_a_bar_and_a_file_none(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(holdings, "SOURCES", {"samples": make_source(server, "tar.gz")})
    for terminal in (False, True):
        console = Console(file=io.StringIO(), force_terminal=terminal)
        (place := tmp_path / str(terminal)).mkdir()
        holdings.get_all(("samples",), place, console)
        assert ("100%" in capsys.readouterr().err) is terminal


def test_published_sources_are_whole() -> None:
    assert set(SOURCES) == {"mnist", "fashion-mnist", "cifar10", "cifar100", "stl10", "tinyshakespeare", "wikitext-2"}
    lengths = {"md5": 32, "sha256": 64}
    for name, source in SOURCES.items():
        assert find_source(name) is source
        assert all(url.startswith("http") and url.endswith("/") for url in source.urls)
        downloaded = [source.archive] if source.archive else source.items
        known = [*downloaded, *source.items]
        assert all(item.digest for item in downloaded)
        digests = [item.digest for item in known if item.digest]
        for digest in digests:
            algorithm, _, number = digest.partition(":")
            assert len(number) == lengths[algorithm]
            assert int(number, 16) > 0
    every = [item.digest for source in SOURCES.values() for item in source.items if item.digest]
    assert len(set(every)) == len(every)
    with pytest.raises(SettingError, match=r"did you mean cifar100 or cifar10\?"):
        find_source("cifar1000")

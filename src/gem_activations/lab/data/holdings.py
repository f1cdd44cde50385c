"""What lies in a data folder: find the files of a data set, check them, fetch what is missing, unpack archives.

A file is downloaded by pooch: checked, and under its name only when it is whole. `gem-act data` prints what is there.
"""

import contextlib
import logging
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pooch
import requests
from filelock import FileLock
from rich.console import Console

from ...errors import DataError, SettingError
from .sources import SOURCES, Item, Source, find_source

DATA_DIR_VARIABLE = "GEM_ACTIVATIONS_DATA"
ATTEMPTS = 3
"""Connections to an address before the next one is tried."""
TIMEOUT = 30.0
"""Seconds without an answer, or without a byte, after which a connection is given up."""

pooch.get_logger().setLevel(logging.WARNING)  # It tells of every file on standard error.

State = Literal["intact", "unchecked", "missing", "altered"]
GOOD: tuple[State, ...] = ("intact", "unchecked")


@dataclass(frozen=True)
class Holding:
    """One file of a data set as it was found.

    Attributes:
        path: Where it is, or where a download would put it.
        state: "intact": of the published checksum. "unchecked": there, but no checksum of it is published.
            "missing". "altered": damaged, or the file of another data set.
        detail: What was found, for a message; empty if the state says it all.
    """

    path: Path
    state: State
    detail: str = ""

    def __str__(self) -> str:
        """Return in words what was found.

        Example:
            >>> print(Holding(Path("data/test.bin"), "altered", "expected md5:12"))
            data/test.bin is altered: expected md5:12
        """
        if self.state == "unchecked":
            return f"{self.path} is there, {self.detail}"
        return f"{self.path} is {self.state}{self.detail and f': {self.detail}'}"


def find_data_dir(given: Path | None = None) -> Path:
    """Return the data folder that is given, else that of GEM_ACTIVATIONS_DATA, else one in the user's cache.

    Raises: SettingError: there is no such folder as the one that is given; it may be a typing error, and is not made.
    """
    if given is not None:
        if not given.exists():
            raise SettingError(f"--data-dir {given}: there is no such folder; make it, or name another")
        return given
    return Path(os.environ.get(DATA_DIR_VARIABLE) or pooch.os_cache("gem-activations"))


def find_folder(source: Source, data_dir: Path) -> Path:
    """Return the first of the usual folders that holds a file of the data set, else the one to download to."""
    candidates = [data_dir / name for name in source.folders]
    found = (folder for folder in candidates if any((folder / item.name).exists() for item in source.items))
    return next(found, candidates[0])


def check_dataset(source: Source, data_dir: Path) -> list[Holding]:
    """Return what is there of every file of a data set.

    Raises: DataError: a file cannot be read.
    """
    folder = find_folder(source, data_dir)
    try:
        return [_check(item, folder / item.name) for item in source.items]
    except OSError as error:
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error


def _check(item: Item, path: Path) -> Holding:
    if not path.exists():
        return Holding(path, "missing")
    if item.digest is None:
        return Holding(path, "unchecked", "no checksum of it is published")
    return (
        Holding(path, "intact") if matches(path, item.digest) else Holding(path, "altered", f"expected {item.digest}")
    )


def find_dataset(name: str, data_dir: Path) -> Path:
    """Return the folder with the files of a data set, all of them there and as published; nothing is downloaded.

    Raises: DataError: one is not; the message says what to do.
    """
    source = SOURCES[name]
    for holding in check_dataset(source, data_dir):
        if holding.state not in GOOD:
            raise DataError(
                f"{holding}; run `gem-act data get {name}`, or name a folder with {source.title} by --data-dir"
            )
    return find_folder(source, data_dir)


def get_dataset(source: Source, data_dir: Path, *, bar: bool = False) -> Path:
    """Bring every file of a data set into a data folder; what is there and good is not downloaded again.

    An archive that lies in the data folder under its own name is used and kept; one that is downloaded is removed once
    its files are unpacked and checked. Return the folder of the files.

    Raises: DataError: a file that is there is altered (it is left as it is), or one cannot be downloaded.
    """
    folder = find_folder(source, data_dir)
    if not _missing(source, data_dir):
        return folder
    with lock_folder(data_dir):
        missing = _missing(source, data_dir)  # Another process may have been faster.
        if source.archive is not None and missing:
            _get_archive(source, source.archive, missing, data_dir, bar)
        for item in [] if source.archive else missing:
            urls = [url + (item.address or item.name) for url in source.urls]
            folder.mkdir(parents=True, exist_ok=True)
            try:
                fetch(urls, folder / item.name, str(item.digest), bar=bar)
            except DataError as error:
                raise DataError(
                    f"{folder / item.name} is missing: {error}; put the files of {source.title} there, or name their "
                    "folder by --data-dir"
                ) from error
    return folder


def _missing(source: Source, data_dir: Path) -> list[Item]:
    holdings = check_dataset(source, data_dir)
    for holding in holdings:
        if holding.state not in (*GOOD, "missing"):
            raise DataError(
                f"{holding}; move or delete it to have the file of {source.title} downloaded, "
                f"or name a folder with {source.title} by --data-dir"
            )
    return [item for item, holding in zip(source.items, holdings, strict=True) if holding.state == "missing"]


def _get_archive(source: Source, archive: Item, missing: list[Item], data_dir: Path, bar: bool) -> None:
    """Unpack files of an archive from its folder `source.folders[0]`, each under its name when it is checked."""
    own, folder = data_dir / archive.name, find_folder(source, data_dir)
    kept = own.exists()
    if kept and not matches(own, str(archive.digest)):
        raise DataError(f"{own} is altered: expected {archive.digest}; delete it to have it downloaded")
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=data_dir) as place:
        members = [f"{source.folders[0]}/{item.name}" for item in missing]
        unpack = pooch.Unzip if archive.name.endswith(".zip") else pooch.Untar
        urls = [url + archive.name for url in source.urls]
        try:
            processor = unpack(members=members, extract_dir=place)
            fetch(urls, own, str(archive.digest), processor=processor, bar=bar)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, KeyError) as error:
            raise DataError(
                f"{own} is no intact archive with {', '.join(members)} ({error}); fetch it again"
            ) from error
        finally:
            if not kept:
                own.unlink(missing_ok=True)
        unpacked = {item: Path(place, source.folders[0], item.name) for item in missing}
        absent = [item.name for item, path in unpacked.items() if not path.is_file() or path.is_symlink()]
        if absent:
            raise DataError(f"{archive.name} does not hold {', '.join(absent)} of {source.title}; fetch it again")
        for item, path in unpacked.items():
            found = _check(item, path)
            if found.state not in GOOD:
                raise DataError(f"{item.name} in {archive.name} is not the published file: it is {found.state}")
        folder.mkdir(parents=True, exist_ok=True)
        for item, path in unpacked.items():
            path.chmod(0o644)
            path.replace(folder / item.name)


def fetch(urls: Sequence[str], target: Path, digest: str, *, processor: Any = None, bar: bool = False) -> None:
    """Download a file from the first address that gives it whole. The caller holds the folder's lock.

    A file that is there under the target's name with that checksum is taken.

    Args:
        digest: Checksum that it must have, as "md5:..." or "sha256:...".
        processor: One of pooch's, called once the file is there.
    Raises: DataError: no address gives the file with that checksum. OSError: it cannot be written.
    """
    problems: list[str] = []
    for url in urls:
        files: dict[str, Any] = {"registry": {target.name: digest}, "urls": {target.name: url}}
        store = pooch.create(target.parent, "", **files, retry_if_failed=ATTEMPTS - 1)
        # A server that compresses on the way would send other bytes than the published ones.
        headers = {"Accept-Encoding": "identity"}
        downloader: Any = pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT, headers=headers)
        try:
            store.fetch(target.name, processor=processor, downloader=downloader)
        except requests.RequestException as error:
            reason = "no connection" if isinstance(error, requests.ConnectionError) else "the connection broke"
            if error.response is not None:
                reason = f"the server answers {error.response.status_code} {error.response.reason}".rstrip()
            elif isinstance(error, requests.Timeout) or "timed out" in str(error):
                reason = "no answer in time"
            problems.append(f"{url}: {reason}")
        except ValueError:
            problems.append(f"{url}: the file there is not the published one")
        else:
            return
    raise DataError(f"cannot download {target.name} ({'; '.join(problems)})")


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make a folder if it is missing, and hold it against other processes that download to it.

    Raises: DataError: something in it cannot be written; the system's error within the block is told so too.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):
            yield
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write to {folder}: {reason}; name another folder by --data-dir") from error


def matches(path: Path, digest: str) -> bool:
    """Return whether a file has a checksum, "md5:..." or "sha256:...". MD5 tells files apart; it stops no attacker."""
    algorithm, _, wanted = digest.partition(":")
    return pooch.file_hash(str(path), alg=algorithm) == wanted


def get_all(names: tuple[str, ...], data_dir: Path | None, console: Console) -> list[Path]:
    """Fetch data sets that are not in a data folder yet, a line on the console for each; what is there is checked.

    If the console is a terminal, a bar on standard error shows a download. Return the folder of each data set.

    Raises: SettingError: no name or an unknown one, or no such folder; DataError: as `get_dataset`.
    """
    if not names:
        raise SettingError(f"name at least one data set: {', '.join(SOURCES)}")
    folders: list[Path] = []
    for name, source in {name: find_source(name) for name in names}.items():
        folders.append(get_dataset(source, find_data_dir(data_dir), bar=console.is_terminal))
        line = f"{name}: {len(source.items)} files in {folders[-1]} (licence: {source.licence})"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return folders


def check_all(names: tuple[str, ...], data_dir: Path | None, console: Console) -> None:
    """Print what is there of data sets, one line a file; without names, of those of which a file is there.

    Raises: SettingError: an unknown name, or no such folder; DataError: after the lines, if a file is altered, or is
        missing from a data set that is named, or there in part.
    """
    folder = find_data_dir(data_dir)
    bad: list[Holding] = []
    for name, source in {name: find_source(name) for name in names or SOURCES}.items():
        holdings = check_dataset(source, folder)
        absent = not names and all(holding.state == "missing" for holding in holdings)
        for line in ["not there"] if absent else map(str, holdings):
            console.print(f"{name}: {line}", markup=False, highlight=False, soft_wrap=True)
        bad += [holding for holding in holdings if holding.state not in GOOD and not absent]
    if bad:
        raise DataError(
            f"{len(bad)} of the files in {folder} are not as published, the first being {bad[0].path} "
            f"({bad[0].state}); delete what is damaged, then fetch it with gem-act data get"
        )

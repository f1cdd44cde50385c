"""What lies in a data folder: find the files of a data set, check them, fetch what is missing, unpack archives."""

import os
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pooch

from ...errors import DataError
from .download import DownloadCallback, RetryPolicy, fetch, lock_folder, matches
from .sources import SOURCES, Item, Source

DATA_DIR_VARIABLE = "GEM_ACTIVATIONS_DATA"

State = Literal["intact", "unchecked", "missing", "wrong size", "altered", "foreign"]
GOOD: tuple[State, ...] = ("intact", "unchecked")


@dataclass(frozen=True)
class Holding:
    """One file of a data set as it was found.

    Attributes:
        path: Where it is, or where a download would put it.
        state: "intact": of the published checksum. "unchecked": there, but no checksum of it is published.
            "missing". "wrong size" and "altered": damaged.
            "foreign": the file of another known data set.
        detail: What was found, for a message; empty where the state says it all.
    """

    path: Path
    state: State
    detail: str = ""


def describe(holding: Holding) -> str:
    """Say in words what was found of a file.

    Example:
        >>> describe(Holding(Path("data/test.bin"), "wrong size", "5 bytes, expected 9"))
        'data/test.bin has the wrong size: 5 bytes, expected 9'
    """
    if holding.state == "unchecked":
        return f"{holding.path} is there, {holding.detail}"
    verb = "has the" if holding.state == "wrong size" else "is"
    return f"{holding.path} {verb} {holding.state}{holding.detail and f': {holding.detail}'}"


def default_data_dir() -> Path:
    """Return the folder of the environment variable GEM_ACTIVATIONS_DATA, else the user's cache folder."""
    if os.environ.get(DATA_DIR_VARIABLE):
        return Path(os.environ[DATA_DIR_VARIABLE])
    return Path(pooch.os_cache("gem-activations"))


def find_folder(source: Source, data_dir: Path) -> Path:
    """Return the first of the usual folders that holds a file of the data set, else the one to download to."""
    candidates = [data_dir / name for name in source.folders]
    found = (folder for folder in candidates if any((folder / item.name).exists() for item in source.items))
    return next(found, candidates[0])


def check_dataset(source: Source, data_dir: Path) -> list[Holding]:
    """Look at every file of a data set; see `Holding`.

    Raises: DataError: a file cannot be read.
    """
    folder = find_folder(source, data_dir)
    try:
        return [check_item(source, item, folder) for item in source.items]
    except OSError as error:
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror or error}") from error


def get_dataset(
    source: Source, data_dir: Path, *, retries: RetryPolicy | None = None, callback: DownloadCallback | None = None
) -> list[Holding]:
    """Bring every file of a data set into a data folder; what is there and good is not downloaded again.

    An archive that lies in the data folder under its own name is used and kept; one that is downloaded is removed once
    its files are unpacked and checked.

    Returns: What is there now.
    Raises: DataError: a file that is there is damaged or foreign (it is left as it is), or one cannot be downloaded.
    """
    folder, found = find_folder(source, data_dir), check_dataset(source, data_dir)
    missing = _find_missing(source, found)
    if not missing:
        return found
    if source.archive is not None:
        with lock_folder(data_dir):
            missing = _find_missing(source, check_dataset(source, data_dir))  # Another process may have been faster.
            _get_archive(source, source.archive, missing, data_dir, retries, callback)
    else:
        for item in missing:
            get_file(source, item, folder, retries=retries, callback=callback)
    return check_dataset(source, data_dir)


def get_file(
    source: Source,
    item: Item,
    folder: Path,
    *,
    retries: RetryPolicy | None = None,
    callback: DownloadCallback | None = None,
) -> None:
    """Download one file of a data set that is published file by file, and check it.

    Raises: DataError: it cannot be downloaded.
    """
    urls = [url + (item.address or item.name) for url in source.urls]
    path = folder / item.name
    try:
        with lock_folder(folder):
            if not path.exists():  # Another process may have been faster.
                fetch(urls, path, str(item.digest), retries=retries, callback=callback)
    except DataError as error:
        raise DataError(
            f"{path} is missing: {error}; put the files of {source.title} there, or name their folder by --data-dir"
        ) from error


def _find_missing(source: Source, holdings: list[Holding]) -> list[Item]:
    for holding in holdings:
        if holding.state not in (*GOOD, "missing"):
            raise DataError(
                f"{describe(holding)}; move or delete it to have the file of {source.title} downloaded, "
                "or name another folder by --data-dir"
            )
    return [item for item, holding in zip(source.items, holdings, strict=True) if holding.state == "missing"]


def _get_archive(
    source: Source,
    archive: Item,
    missing: list[Item],
    data_dir: Path,
    retries: RetryPolicy | None,
    callback: DownloadCallback | None,
) -> None:
    """Unpack files of an archive, each under its name only when it is whole and checked.

    The archive holds them in a folder called `source.folders[0]`.
    """
    if not missing:
        return
    own, folder = data_dir / archive.name, find_folder(source, data_dir)
    kept = own.exists()
    if kept and not matches(own, str(archive.digest)):
        raise DataError(f"{own} is altered: expected {archive.digest}; delete it to have it downloaded")
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=data_dir) as place:
        members = [f"{source.folders[0]}/{item.name}" for item in missing]
        unpack = pooch.Unzip if archive.name.endswith(".zip") else pooch.Untar
        urls = [url + archive.name for url in source.urls]
        processor = unpack(members=members, extract_dir=place)
        try:
            fetch(urls, own, str(archive.digest), processor=processor, retries=retries, callback=callback)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, KeyError) as error:
            raise DataError(
                f"{own} is no intact archive with {', '.join(members)} ({error}); fetch it again"
            ) from error
        finally:
            if not kept:
                own.unlink(missing_ok=True)
        _move(source, missing, Path(place) / source.folders[0], folder, archive.name)


def _move(source: Source, items: list[Item], place: Path, folder: Path, archive: str) -> None:
    absent = [item.name for item in items if not (place / item.name).is_file() or (place / item.name).is_symlink()]
    if absent:
        raise DataError(f"{archive} does not hold {', '.join(absent)} of {source.title}; fetch it again")
    for item in items:
        found = check_item(source, item, place)
        if found.state not in GOOD:
            raise DataError(
                f"{item.name} in {archive} is not the published file: it {describe(found).partition(' ')[2]}"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for item in items:
        (place / item.name).chmod(0o644)
        (place / item.name).replace(folder / item.name)


def check_item(source: Source, item: Item, folder: Path) -> Holding:
    """Look at one file of a data set in a folder; see `check_dataset`.

    Raises: OSError: it cannot be read.
    """
    path = folder / item.name
    if not path.exists():
        return Holding(path, "missing")
    size = path.stat().st_size
    fits = item.size in (None, size)
    if fits and item.digest is None:
        return Holding(path, "unchecked", "no checksum of it is published")
    if fits and matches(path, str(item.digest)):
        return Holding(path, "intact")
    owner = _find_owner(path, source)
    if owner:
        return Holding(path, "foreign", f"it is the file of {owner}")
    if not fits:
        return Holding(path, "wrong size", f"{size} bytes, expected {item.size}")
    return Holding(path, "altered", f"expected {item.digest}")


def _find_owner(path: Path, source: Source) -> str | None:
    """Name the other data set that has exactly this file under the same name."""
    for other in SOURCES.values():
        for item in other.items:
            if other is not source and item.name == path.name and item.digest and matches(path, item.digest):
                return other.title
    return None

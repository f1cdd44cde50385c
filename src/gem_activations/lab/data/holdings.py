"""What lies in a data folder: find the files of a data set, check them, fetch what is missing, unpack archives."""

import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from ...errors import DataError
from .download import DownloadCallback, RetryPolicy, download_part, fetch, lock_folder, matches, partial_path
from .sources import SOURCES, Item, Source

DATA_DIR_VARIABLE = "GEM_ACTIVATIONS_DATA"

State = Literal["intact", "unchecked", "missing", "partial", "wrong size", "altered", "foreign"]
GOOD: tuple[State, ...] = ("intact", "unchecked")
_ABSENT: tuple[State, ...] = ("missing", "partial")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Holding:
    """One file of a data set as it was found.

    Attributes:
        path: Where it is, or where a download would put it.
        state: "intact": of the published checksum. "unchecked": there, but no checksum of it is published.
            "missing"; "partial": only the first bytes of a download are there. "wrong size" and "altered": damaged.
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
    verb = {"wrong size": "has the", "unchecked": "is there,", "partial": "is only there in part:"}.get(
        holding.state, "is"
    )
    state = "" if holding.state in ("unchecked", "partial") else f" {holding.state}"
    detail = holding.detail and (f" {holding.detail}" if not state else f": {holding.detail}")
    return f"{holding.path} {verb}{state}{detail}"


def default_data_dir() -> Path:
    """Give the folder of the environment variable GEM_ACTIVATIONS_DATA, else the user's cache folder."""
    if os.environ.get(DATA_DIR_VARIABLE):
        return Path(os.environ[DATA_DIR_VARIABLE])
    import pooch

    return Path(pooch.os_cache("gem-activations"))


def find_folder(source: Source, data_dir: Path) -> Path:
    """Give the first of the usual folders that holds a file of the data set; where none does, the one to download to.

    A folder that only holds the start of a download does not count.
    """
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
    try:
        fetch(urls, folder / item.name, str(item.digest), item.size, retries=retries, callback=callback)
    except DataError as error:
        raise DataError(
            f"{folder / item.name} is missing: {error}; put the files of {source.title} there, "
            "or name their folder by --data-dir"
        ) from error


def _find_missing(source: Source, holdings: list[Holding]) -> list[Item]:
    for holding in holdings:
        if holding.state not in (*GOOD, *_ABSENT):
            raise DataError(
                f"{describe(holding)}; move or delete it to have the file of {source.title} downloaded, "
                "or name another folder by --data-dir"
            )
    return [item for item, holding in zip(source.items, holdings, strict=True) if holding.state in _ABSENT]


def _get_archive(
    source: Source,
    archive: Item,
    missing: list[Item],
    data_dir: Path,
    retries: RetryPolicy | None,
    callback: DownloadCallback | None,
) -> None:
    own, digest = data_dir / archive.name, str(archive.digest)
    part = partial_path(own)
    if not missing:
        return
    if own.exists():
        if not matches(own, digest):
            raise DataError(f"{own} is altered: expected {digest}; delete it to have it downloaded")
        _unpack(own, source, missing, find_folder(source, data_dir))
        return
    urls = [url + archive.name for url in source.urls]
    download_part(urls, part, digest, archive.size, retries=retries, callback=callback)
    _unpack(part, source, missing, find_folder(source, data_dir))
    part.unlink()


def _unpack(archive: Path, source: Source, items: list[Item], folder: Path) -> None:
    """Write files of an archive, each under its name only when it is whole and checked.

    Only the regular files that are asked for are read, and only their bytes: no path, link, mode or owner that the
    archive states is used, so nothing can be written elsewhere.

    Args:
        archive: A .tar.gz or .zip file that holds the files in a folder called `source.folders[0]`.
        source: The data set.
        items: Files that are wanted.
        folder: Where they go.
    Raises: DataError: a file is not in the archive, or is not the published one.
    """
    wanted = {f"{source.folders[0]}/{item.name}": item for item in items}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, size, content in _read_members(archive, source, set(wanted)):
            item = wanted.pop(name)
            if item.size not in (None, size):
                raise DataError(f"{name} in {archive} has {size} bytes, expected {item.size}")
            _write_checked(content, item, folder)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise DataError(f"{archive} is no intact archive ({error}); delete it and fetch it again") from error
    if wanted:
        raise DataError(f"{archive} does not hold {', '.join(wanted)}; delete it and fetch it again")


def _read_members(archive: Path, source: Source, names: set[str]) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Give name, size and content of the regular files of these names, each name once, in the archive's order."""
    if source.archive is not None and source.archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                if entry.filename in names:
                    names.remove(entry.filename)
                    with packed.open(entry) as content:
                        yield entry.filename, entry.file_size, content
        return
    with tarfile.open(archive, "r|gz") as stream:
        for member in stream:
            name = member.name.removeprefix("./")
            content = stream.extractfile(member) if member.isreg() and name in names else None
            if content is not None:
                names.remove(name)
                yield name, member.size, content
            if not names:
                return


def _write_checked(content: IO[bytes], item: Item, folder: Path) -> None:
    target = folder / item.name
    temporary = partial_path(target)
    with temporary.open("wb") as file:
        shutil.copyfileobj(content, file, _CHUNK)
        file.flush()
        os.fsync(file.fileno())
    if item.digest is not None and not matches(temporary, item.digest):
        temporary.unlink()
        raise DataError(f"{item.name} in the archive is not the published file: expected {item.digest}")
    temporary.replace(target)


def check_item(source: Source, item: Item, folder: Path) -> Holding:
    """Look at one file of a data set in a folder; see `check_dataset`.

    Raises: OSError: it cannot be read.
    """
    path = folder / item.name
    if not path.exists():
        part = partial_path(path)
        return (
            Holding(path, "partial", f"{part.stat().st_size} bytes so far")
            if part.exists()
            else Holding(path, "missing")
        )
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

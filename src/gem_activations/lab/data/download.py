"""Download one file: resumed where it broke off, checked, and under its name only when it is whole.

pooch downloads with checksums too, but into a temporary file of a new name each time: a broken download of 2.6 GB
starts over, and its downloader cannot tell a server that honours a Range request from one that ignores it. So the
transfer is written here, on the library that pooch uses itself, requests.
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import requests
import urllib3
from filelock import FileLock

from ...errors import DataError

_CHUNK = 1 << 18
_CLIENT_ERRORS = range(400, 500)
_BUSY = (408, 425, 429)
_RANGE_REFUSED = 416

DownloadCallback = Callable[[int, int | None], None]
"""Is told the bytes that are there and the bytes that are wanted, None where nobody knows."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long a download waits, and how often it tries.

    Attributes:
        timeout: Seconds without an answer, or without a byte, after which a connection is given up.
        attempts: Connections in a row that bring no byte before an address is given up.
        pause: Seconds before the second such connection; twice as long before each further one.
    """

    timeout: float = 30.0
    attempts: int = 3
    pause: float = 0.5


class _AddressError(Exception):
    """An address cannot give the file; another one may."""


class _BrokenError(Exception):
    """A connection broke or was refused for now; the same address may go on."""


def fetch(
    urls: Sequence[str],
    target: Path,
    digest: str,
    size: int | None = None,
    *,
    retries: RetryPolicy | None = None,
    callback: DownloadCallback | None = None,
) -> None:
    """Download a file from the first address that gives it whole.

    The bytes go to `.NAME.part` beside the target, which a later call goes on with; the folder's lock makes a second
    process wait and then find the file. A file that is there under the target's name is kept, unread.

    Args:
        urls: Addresses of the same file, tried in order.
        target: Where the file shall appear; missing folders are made.
        digest: Checksum that it must have, as "md5:..." or "sha256:...".
        size: Bytes that it must have; None where that is not known.
        retries: When to give up; None for the usual.
        callback: Called as bytes arrive.
    Raises: DataError: no address gives the file with that checksum, or it cannot be written.
    """
    with lock_folder(target.parent):
        if not target.exists():
            part = partial_path(target)
            download_part(urls, part, digest, size, retries=retries, callback=callback)
            part.replace(target)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Make a folder where it is missing, and hold it against other processes that download to it.

    Raises: DataError: something in it cannot be written; the system's error within the block is told so too.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):
            yield
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write to {folder}: {reason}; name another folder by --data-dir") from error


def download_part(
    urls: Sequence[str],
    part: Path,
    digest: str,
    size: int | None = None,
    *,
    retries: RetryPolicy | None = None,
    callback: DownloadCallback | None = None,
) -> None:
    """Bring a partial file to its end and check it; see `fetch`. The caller holds the folder's lock.

    Raises: DataError: no address gives the file with that checksum; what may be gone on with is kept.
        OSError: it cannot be written.
    """
    problems: list[str] = []
    for url in urls:
        try:
            _download_from(
                url, part, digest, size, retries or RetryPolicy(), callback or (lambda _there, _wanted: None)
            )
        except _AddressError as error:
            problems.append(f"{url}: {error}")
        else:
            return
    raise DataError(f"cannot download {part.name.removeprefix('.').removesuffix('.part')} ({'; '.join(problems)})")


def partial_path(target: Path) -> Path:
    """Name the file that holds the first bytes of an unfinished download."""
    return target.with_name(f".{target.name}.part")


def compute_digest(path: Path, algorithm: str) -> str:
    """Give the checksum of a file, "md5:..." or "sha256:...". MD5 tells files apart; it stops no attacker."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    return f"{algorithm}:{found}"


def matches(path: Path, digest: str) -> bool:
    """Tell whether a file has a checksum."""
    return compute_digest(path, digest.partition(":")[0]) == digest


def _download_from(
    url: str, part: Path, digest: str, size: int | None, retries: RetryPolicy, callback: DownloadCallback
) -> None:
    """Download from one address; where an earlier call's bytes were gone on with in vain, once more from the start."""
    for _ in range(2):
        resumed = _count_bytes(part)
        _complete(url, part, size, retries, callback)
        if matches(part, digest):
            return
        part.unlink()
        if not resumed:
            break
    raise _AddressError("the file there is not the published one")


def _complete(url: str, part: Path, size: int | None, retries: RetryPolicy, callback: DownloadCallback) -> None:
    """Connect again and again until all bytes are there, or until connections in a row bring nothing new."""
    fruitless = 0
    while size is None or _count_bytes(part) != size:
        before = _count_bytes(part)
        try:
            _transfer(url, part, size, retries.timeout, callback)
        except _BrokenError as error:
            fruitless = 0 if _count_bytes(part) > before else fruitless + 1
            if fruitless >= retries.attempts:
                raise _AddressError(str(error)) from error
            time.sleep(retries.pause * 2 ** (fruitless - 1) if fruitless else 0)
        else:
            if size is None:
                return


def _transfer(url: str, part: Path, size: int | None, timeout: float, callback: DownloadCallback) -> None:
    """Make one connection and append what it brings.

    Raises: _BrokenError: it broke before the end; _AddressError: the address has not this file.
    """
    there = _count_bytes(part)
    # A server that compresses on the way would send other bytes than the published ones.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            if response.status_code == _RANGE_REFUSED and there:
                if size is None:
                    return  # Nothing from there on: the part may be whole, which its checksum tells.
                part.unlink()
                raise _BrokenError("the server has fewer bytes than are here already")
            _check_status(response)
            if response.status_code == 200:
                there = 0  # The server ignores Range requests and sends the whole file.
            elif not _starts_at(response, there):
                part.unlink(missing_ok=True)
                raise _BrokenError("the server sends another range than was asked for")
            wanted = _wanted_size(response, there, size)
            with part.open("ab" if there else "wb") as file:
                _append(response, file, there, wanted, callback)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _BrokenError(_reason(error)) from error
    if size is not None and _count_bytes(part) < size:
        raise _BrokenError(f"the connection ended after {_count_bytes(part)} of {size} bytes")


def _check_status(response: requests.Response) -> None:
    code = response.status_code
    if code in (200, 206):
        return
    answer = f"the server answers {code} {response.reason}".rstrip()
    raise _AddressError(answer) if code in _CLIENT_ERRORS and code not in _BUSY else _BrokenError(answer)


def _starts_at(response: requests.Response, there: int) -> bool:
    """Tell whether a partial answer goes on where the part ends."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == there


def _wanted_size(response: requests.Response, there: int, size: int | None) -> int | None:
    """Give the size of the whole file, and refuse a file of another size before it is downloaded."""
    length = response.headers.get("Content-Length", "")
    announced = there + int(length) if length.isdecimal() else None
    if size is not None and announced is not None and announced != size:
        raise _AddressError(f"the file there has {announced} bytes, expected {size}")
    return size if size is not None else announced


def _append(
    response: requests.Response, file: BinaryIO, there: int, wanted: int | None, callback: DownloadCallback
) -> None:
    # Bytes as sent: a .gz file that is marked as gzip-encoded must arrive as the .gz file that it is.
    try:
        for chunk in response.raw.stream(_CHUNK, decode_content=False):
            file.write(chunk)
            there += len(chunk)
            callback(there, wanted)
            if wanted is not None and there > wanted:
                raise _AddressError(f"the server sends more than {wanted} bytes")
    finally:
        file.flush()
        os.fsync(file.fileno())


def _count_bytes(part: Path) -> int:
    """Give the size of a file, 0 where it is missing."""
    with contextlib.suppress(FileNotFoundError):
        return part.stat().st_size
    return 0


def _reason(error: Exception) -> str:
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return "the connection broke" if isinstance(error, urllib3.exceptions.ProtocolError) else type(error).__name__

"""Download one file by pooch: checked, and under its name only when it is whole."""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import requests
from filelock import FileLock

from ...errors import DataError

DownloadCallback = Callable[[int, int | None], None]
"""Is told the bytes that are there and the bytes that are wanted, None where nobody knows."""

pooch.get_logger().setLevel(logging.WARNING)  # It tells of every file on standard error.


@dataclass(frozen=True)
class RetryPolicy:
    """How long a download waits, and how often it tries.

    Attributes:
        timeout: Seconds without an answer, or without a byte, after which a connection is given up.
        attempts: Connections to an address before the next one is tried.
    """

    timeout: float = 30.0
    attempts: int = 3


class _Progress:
    """A progress bar, as pooch's downloader takes one, that tells a callback."""

    def __init__(self, callback: DownloadCallback) -> None:
        self.callback, self.total, self.there = callback, 0, 0

    def update(self, count: int) -> None:
        self.there = min(self.there + count, self.total) if self.total else self.there + count
        self.callback(self.there, self.total or None)

    def reset(self) -> None:
        self.there = 0

    def close(self) -> None:
        pass


def fetch(
    urls: Sequence[str],
    target: Path,
    digest: str,
    *,
    processor: Any = None,
    retries: RetryPolicy | None = None,
    callback: DownloadCallback | None = None,
) -> None:
    """Download a file from the first address that gives it whole. The caller holds the folder's lock.

    A file that is there under the target's name with that checksum is taken.

    Args:
        urls: Addresses of the same file, tried in order.
        target: Where the file shall appear.
        digest: Checksum that it must have, as "md5:..." or "sha256:...".
        processor: One of pooch's, called once the file is there.
        retries: When to give up; None for the usual.
        callback: Called as bytes arrive.
    Raises: DataError: no address gives the file with that checksum. OSError: it cannot be written.
    """
    retries = retries or RetryPolicy()
    problems: list[str] = []
    for url in urls:
        store = pooch.create(
            target.parent,
            "",
            registry={target.name: digest},
            urls={target.name: url},
            retry_if_failed=retries.attempts - 1,
        )
        # A server that compresses on the way would send other bytes than the published ones.
        downloader: Any = pooch.HTTPDownloader(
            progressbar=_Progress(callback) if callback else False,  # pyright: ignore[reportArgumentType] -- any such object
            timeout=retries.timeout,
            headers={"Accept-Encoding": "identity"},
        )
        try:
            store.fetch(target.name, processor=processor, downloader=downloader)
        except requests.RequestException as error:
            problems.append(f"{url}: {_reason(error)}")
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
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest() == wanted


def _reason(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}".rstrip()
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "no answer in time"
    return "no connection" if isinstance(error, requests.ConnectionError) else "the connection broke"

"""Download one file by pooch: checked, and under its name only when it is whole."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pooch
import requests
from filelock import FileLock

from ...errors import DataError

ATTEMPTS = 3
"""Connections to an address before the next one is tried."""
TIMEOUT = 30.0
"""Seconds without an answer, or without a byte, after which a connection is given up."""

pooch.get_logger().setLevel(logging.WARNING)  # It tells of every file on standard error.


def fetch(urls: Sequence[str], target: Path, digest: str, *, processor: Any = None, bar: bool = False) -> None:
    """Download a file from the first address that gives it whole. The caller holds the folder's lock.

    A file that is there under the target's name with that checksum is taken.

    Args:
        urls: Addresses of the same file, tried in order.
        target: Where the file shall appear.
        digest: Checksum that it must have, as "md5:..." or "sha256:...".
        processor: One of pooch's, called once the file is there.
        bar: Whether to show a progress bar on standard error.
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

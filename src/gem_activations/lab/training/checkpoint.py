"""The state of an unfinished run: written atomically, checked before it is trusted, the last two states kept."""

import contextlib
import hashlib
import io
import logging
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.utils.serialization import config

from ...errors import StoreError
from ..store.comparison import write_atomically

_DIGEST_BYTES = 32
_LOG = logging.getLogger(__name__)


def previous_path(path: Path) -> Path:
    """Return the file of the state before the newest one.

    Example:
        >>> previous_path(Path("run/checkpoint.pt")).as_posix()
        'run/checkpoint-before.pt'
    """
    return path.with_stem(f"{path.stem}-before")


def save_checkpoint(path: Path, state: dict[str, Any], *, sync: bool = True) -> None:
    """Write the SHA-256 of what follows, then tensors and plain values as torch saves them; atomically.

    The state that was there is kept as the one before. A process killed in between leaves that one alone. Without
    `sync` a power cut in the next seconds may damage the file.

    Raises: StoreError: the file cannot be written.
    """
    buffer = io.BytesIO(bytes(_DIGEST_BYTES))
    buffer.seek(_DIGEST_BYTES)
    # The archive's own checksums take twice the time of all else, and say what the digest says.
    with config.patch("save.compute_crc32", False):  # pyright: ignore[reportAttributeAccessIssue] -- made at run time
        torch.save(state, buffer)
    content = buffer.getbuffer()
    content[:_DIGEST_BYTES] = hashlib.sha256(content[_DIGEST_BYTES:]).digest()
    try:
        if path.exists():
            path.replace(previous_path(path))
    except OSError as error:
        raise StoreError(f"cannot rename {path}: {error.strerror or error}; choose another --out folder") from error
    write_atomically(path, content, sync=sync)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Read the newest intact state that `save_checkpoint` wrote; None where there is none.

    A damaged file is renamed to `checkpoint-damaged.pt`, so that the next save does not put it in the place of the
    intact state before it. This, and a file that cannot be read, is reported as a warning of this module's logger.
    """
    for place in (path, previous_path(path)):
        try:
            content = place.read_bytes()
        except FileNotFoundError:
            continue
        except OSError as error:
            _LOG.warning("%s cannot be read (%s); going on from an earlier state", place, error.strerror or error)
            continue
        state = _decode(content, device)
        if state is not None:
            return state
        aside = path.with_stem(f"{path.stem}-damaged")
        with contextlib.suppress(OSError):  # Another process of the same run may have been faster.
            place.replace(aside)
        _LOG.warning("%s is damaged and is kept as %s; going on from an earlier state", place, aside.name)
    return None


def _decode(content: bytes, device: torch.device) -> dict[str, Any] | None:
    """Decode a file. torch does not check what it reads: a flipped bit must cost progress, never correctness."""
    digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    try:
        state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    except pickle.UnpicklingError:  # It holds more than tensors and plain values.
        return None
    return state if isinstance(state, dict) else None

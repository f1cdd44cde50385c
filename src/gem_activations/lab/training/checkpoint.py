"""The state of an unfinished run: written atomically, checked before it is trusted, the last two states kept."""

import contextlib
import io
import logging
import pickle
import zlib
from pathlib import Path
from typing import Any

import torch
from torch.utils.serialization import config

from ..store.comparison import write_atomically

_CHECK_BYTES = 4
_LOG = logging.getLogger(__name__)


def state_paths(path: Path) -> tuple[Path, Path, Path]:
    """Return the files of the newest state, of the one before, and of the last older one that the disk was waited for.

    Example:
        >>> [file.name for file in state_paths(Path("run/checkpoint.pt"))]
        ['checkpoint.pt', 'checkpoint-before.pt', 'checkpoint-synced.pt']
    """
    return path, path.with_stem(f"{path.stem}-before"), path.with_stem(f"{path.stem}-synced")


def save_checkpoint(path: Path, state: dict[str, Any], *, sync: bool = True, keep: bool = False) -> None:
    """Write the CRC-32 of what follows, then tensors and plain values as torch saves them; atomically.

    The state that was there is kept as the one before; a process that is killed leaves one of the two, or both.

    Args:
        path: The file of the newest state; see `state_paths`.
        state: Tensors and plain values.
        sync: Wait until the disk has it; else a power cut in the next seconds may damage it.
        keep: Keep the state that is there, because the disk has it, until this is asked again.
    Raises: StoreError: the file cannot be written.
    """
    buffer = io.BytesIO(bytes(_CHECK_BYTES))
    buffer.seek(_CHECK_BYTES)
    # The archive's own checksums take twice the time of all else, and say what this one says.
    with config.patch("save.compute_crc32", False):  # pyright: ignore[reportAttributeAccessIssue] -- made at run time
        torch.save(state, buffer)
    content = buffer.getbuffer()
    content[:_CHECK_BYTES] = _check(content[_CHECK_BYTES:])
    _, before, synced = state_paths(path)
    # A rename over another file makes ext4 write this one at once, in twice the time of all else: none is there, as the
    # state before is written over, and the newest takes its name.
    over = before if path.is_file() else None  # Else it is the only state.
    write_atomically(path, content, sync=sync, over=over, keep=synced if keep else before)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Read the newest intact state that `save_checkpoint` wrote; None if there is none.

    A damaged file is renamed to `checkpoint-damaged.pt`, so that the next save does not put it in the place of the
    intact state before it. This, and a file that cannot be read, is reported as a warning of this module's logger.
    """
    for place in state_paths(path):
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
    payload = content[_CHECK_BYTES:]
    if content[:_CHECK_BYTES] != _check(payload):
        return None
    try:
        state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    except pickle.UnpicklingError:  # It holds more than tensors and plain values.
        return None
    return state if isinstance(state, dict) else None


def _check(payload: bytes | memoryview) -> bytes:
    return zlib.crc32(payload).to_bytes(_CHECK_BYTES, "big")

"""The state of an unfinished run in one file: written atomically, checked before it is trusted."""

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from .store import write_atomically

_DIGEST_BYTES = 32


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the SHA-256 of what follows, then tensors and plain values as torch saves them; atomically.

    Raises: StoreError: the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    write_atomically(path, hashlib.sha256(content).digest() + content)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Read what `save_checkpoint` wrote; None where there is no intact file.

    torch does not check what it reads: a flipped bit must cost a run its progress, never its correctness.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != digest:
        return None
    state = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    return state if isinstance(state, dict) else None

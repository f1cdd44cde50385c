"""The state of an unfinished run in one file: written atomically, checked before it is trusted."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from .store import write_atomically


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values, atomically.

    Raises: StoreError: the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """Read what `save_checkpoint` wrote; None where there is no intact file.

    torch does not check the checksums inside the file when it reads them, so the zip module does: a flipped bit
    must cost a run its progress, never its correctness.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return None
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError):
        return None
    return state if isinstance(state, dict) else None

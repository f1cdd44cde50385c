"""The most memory a run has held: of the GPU where it trains on one, else of the process."""

import contextlib
import re
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def reset_peak(device: torch.device) -> None:
    """Forget the peaks so far. On a CPU this needs Linux; elsewhere peaks are those of the process's life."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            _CLEAR.write_text(_RESET_PEAK)


def measure_peak(device: torch.device) -> int:
    """Return the peak since `reset_peak`, in bytes; 0 where the system does not tell.

    On a GPU: what torch held in tensors, data included. On a CPU: the resident memory of the whole process, libraries
    and data included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return 1024 * int(found[1]) if found else 0

"""What the GPU scripts share: the machine's record, timing by CUDA events over rotating buffers, rows and tables."""

import contextlib
import json
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

Call = Callable[[int], object]
"""A call to time; its argument numbers the calls, so that each takes the next of the rotating buffers."""

SAMPLES = 25
SAMPLE_SECONDS = 1e-3


class Report:
    """Rows of one run: each is appended to a file of JSON lines at once, and kept for the table at the end."""

    def __init__(self, out: Path, seconds: float) -> None:
        require_cuda()
        out.parent.mkdir(parents=True, exist_ok=True)
        self._out, self._machine = out, machine()
        self._end = time.monotonic() + seconds
        self.rows: list[dict[str, Any]] = []
        self.left_out = 0

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        with self._out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**self._machine, **row}) + "\n")

    def has_time(self) -> bool:
        """Return whether the time for another row is left; count it as left out where not."""
        self.left_out += time.monotonic() >= self._end
        return time.monotonic() < self._end

    def close(self, lines: list[str]) -> None:
        print("\n".join(lines))
        print(
            f"{self._machine['gpu']}; {len(self.rows)} rows in {self._out}; left out for lack of time: {self.left_out}"
        )


def require_cuda() -> None:
    """Leave with one line where there is no CUDA device."""
    if not torch.cuda.is_available():
        sys.exit("no CUDA device here: nothing was measured")


def machine() -> dict[str, Any]:
    """Return what identifies a run: date, GPU, driver, versions and the command."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = "unknown"
    with contextlib.suppress(OSError):
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() or driver
    import triton

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": torch.cuda.get_device_name(),
        "driver": driver,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "command": shlex.join(["python", *sys.argv]),
    }


def buffer_count(bytes_each: int) -> int:
    """Return how many buffers to rotate so that together they hold four times the L2 cache, 2 at least."""
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(2, min(64, -(-4 * cache // max(bytes_each, 1))))


def time_call(call: Call) -> dict[str, float]:
    """Return the median and the quartiles of the seconds that one call takes on the device."""
    for number in range(3):
        call(number)
    # The host runs ahead of the device only where a call takes longer than its launch; small sizes time the launch.
    repeats = max(2, min(200, round(SAMPLE_SECONDS / max(_sample(call, 0, 2), 1e-7))))
    samples = [_sample(call, number * repeats, repeats) for number in range(SAMPLES)]
    low, median, high = statistics.quantiles(samples, n=4)
    return {"seconds": median, "seconds_low": low, "seconds_high": high}


def _sample(call: Call, first: int, repeats: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for number in range(first, first + repeats):
        call(number)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a plain table with aligned columns."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]

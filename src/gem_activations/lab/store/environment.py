"""What a run ran on: versions, hardware, git state, command. Stored with every run."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ...torch import backend_info

_PACKAGES = ("gem-activations", "torch", "numpy", "scikit-learn", "scipy", "polars")


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return a description of the running process, which trains on the device, as plain values.

    `git` holds the commit and whether files were changed, None outside a checkout; `time` is UTC.
    """
    package = f"{Path(__file__).parents[2]}{os.sep}"
    tracked = _git("ls-files", "--error-unmatch", Path(__file__).name) is not None  # An installed package is not.
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # Another backend gives other last bits; paths are those inside the package.
        "backends": {name: sentence.replace(package, "") for name, sentence in backend_info().items()},
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "git": {
            "commit": (_git("rev-parse", "HEAD") or "").strip(),
            "changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        }
        if tracked
        else None,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None

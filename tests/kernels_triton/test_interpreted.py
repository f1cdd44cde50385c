"""Run the tests of this folder in Triton's interpreter, on the CPU, in a process of their own.

Triton decides at its import whether kernels are interpreted, so that no other test may share that process.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__)


def test_the_kernels_in_the_interpreter():
    pytest.importorskip("triton", reason="Triton is not installed")
    tests = [
        str(HERE.with_name(f"test_{name}.py"))
        for name in ("values", "from_output", "higher_orders", "layouts", "gpu_checks", "scale")
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *tests, "-p", "no:cacheprovider", "-p", "no:xdist"],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=HERE.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    report = done.stdout + done.stderr
    assert done.returncode == 0, report[-6000:]
    counts = dict(re.findall(r"(\d+) (passed|skipped)", report.splitlines()[-1]))
    assert int(next(count for count, word in counts.items() if word == "passed")) > 100, report[-2000:]
    # Only the tensor of 2^31 elements stays for the GPU.
    assert [count for count, word in counts.items() if word == "skipped"] == ["1"], report[-2000:]

"""The checks that the GPU scripts make before they time anything."""

import importlib
from pathlib import Path

import pytest
import torch


@pytest.mark.usefixtures("poisoned")
def test_right_kernels_pass_and_wrong_ones_are_stopped(kernels, device, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    correctness = importlib.import_module("gpu_correctness")
    # The interpreter cuts to bfloat16 instead of rounding, which these checks do not allow.
    exact = (torch.float32, torch.float16) if kernels.INTERPRETED else correctness.DTYPES
    assert correctness.check_kernels((0, 37), device=device.type, dtypes=exact) > 100
    right = correctness.kernels.backward
    monkeypatch.setattr(correctness.kernels, "backward", lambda *arguments: right(*arguments) * 1.001)
    with pytest.raises(correctness.WrongKernelError, match="from input"):
        correctness.check_kernels((37,), device=device.type, dtypes=exact)

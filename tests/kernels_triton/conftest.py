"""The Triton kernels are tested on a GPU, or on the CPU in Triton's interpreter, which test_interpreted.py starts."""

import importlib

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def kernels():
    pytest.importorskip("triton", reason="Triton is not installed")
    return importlib.import_module("gem_activations.kernels.triton.launch")


@pytest.fixture(scope="session")
def device(kernels):
    if kernels.INTERPRETED:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device; test_interpreted.py runs this on the CPU, in Triton's interpreter")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def quiet_numpy():
    """The interpreter computes in NumPy, which warns of the infinities and NaN that a kernel meets on purpose."""
    with np.errstate(all="ignore"):
        yield

"""What every test of the PyTorch room starts from."""

import warnings

import pytest
import torch

from gem_activations.torch import gem


@pytest.fixture(autouse=True, scope="session")
def _told():
    # Where the kernels could not be built, the first call says so, once; the tests of the kernels hold it to that.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "gem_activations computes by the slower plain formula", RuntimeWarning)
        gem(torch.zeros(1))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(20260421)

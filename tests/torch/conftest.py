"""What every test of the PyTorch room starts from."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(20260421)

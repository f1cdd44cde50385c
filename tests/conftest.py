"""Fixtures of more than one room; those without PyTorch must be able to load this file."""

import pytest


@pytest.fixture
def poisoned():
    """Let PyTorch fill fresh memory with NaN, so that an element which no kernel writes is seen."""
    import torch

    fills = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = fills

"""Marks that let one warning of PyTorch's own pass in one test; every other warning is an error."""

import pytest

forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
"""The first use of forward mode loads PyTorch's table of decompositions, which calls its own deprecated function."""

"""Marks that let one warning of PyTorch's own pass in one test; every other warning is an error."""

import pytest

forward_mode = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
"""The first use of forward mode loads PyTorch's table of decompositions, which calls its own deprecated function."""

tracing = pytest.mark.filterwarnings("ignore:`torch.jit.trace(_method)?` is deprecated:DeprecationWarning")
"""torch.jit.trace still exists, and models traced with it still are in use."""

compiling = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
"""The default compiler loads a module of PyTorch's own that is decorated with a deprecated function."""

exporting = pytest.mark.filterwarnings(r"ignore:.isinstance\(treespec, LeafSpec\). is deprecated:FutureWarning")
"""What torch.export gives is copied by a class of PyTorch's own that it has deprecated."""

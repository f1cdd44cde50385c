"""Smooth activation functions made of rational arithmetic: the GEM family.

This module loads NumPy at most. `gem_activations.torch` holds the functions and modules for PyTorch,
`gem_activations.catalog` the table of every activation the project compares.
"""

from .errors import GemError
from .spec import GemSpec

__all__ = ["GemError", "GemSpec"]
__version__ = "0.2.0"

"""Smooth activation functions made of rational arithmetic: the GEM family.

This module loads NumPy at most. `gem_activations.torch` holds the functions and modules for PyTorch,
`gem_activations.catalog` the table of every activation the project compares.
"""

from typing import Any

from .errors import GemError
from .spec import GemSpec

__all__ = ["GemError", "GemSpec"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Say where the functions and modules are, for `from gem_activations import GEM` too."""
    if name in {"GEM", "EGEM", "SEGEM", "gem", "egem", "segem", "swap", "make_activation"}:
        # An AttributeError would be replaced by "cannot import name".
        raise ImportError(
            f"gem_activations has no {name}: import it from gem_activations.torch, or .jax or .keras if it is there"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The C library: elementwise kernels on raw pointers, for NumPy here and for any framework that has pointers.

`load` gives the library, or None where it cannot be used; `status` tells which and why. `Library` calls it with raw
pointers; the functions below call it with NumPy arrays. No framework is imported.
"""

from .arrays import backward, backward_from_output, forward, glu_backward, glu_forward, second
from .library import (
    ABI_VERSION,
    BACKWARD_SCALED,
    DTYPES,
    FORWARD_SCALED,
    OPERATIONS,
    Library,
    Operation,
    Scales,
    SpecHandle,
    spec_handle,
)
from .loader import Status, load, status

__all__ = [
    "ABI_VERSION",
    "BACKWARD_SCALED",
    "DTYPES",
    "FORWARD_SCALED",
    "OPERATIONS",
    "Library",
    "Operation",
    "Scales",
    "SpecHandle",
    "Status",
    "backward",
    "backward_from_output",
    "forward",
    "glu_backward",
    "glu_forward",
    "load",
    "second",
    "spec_handle",
    "status",
]

"""The family on CUDA tensors in Triton: value, gradient from the input or from the output, gated units.

The functions work on plain tensors, outside autograd; `gem_activations.torch` calls them. With TRITON_INTERPRET=1 in
the environment before Triton is imported, they run in Triton's interpreter on CPU tensors: slow, for tests.

Raises: MissingDependencyError (at import): Triton or PyTorch is not installed.
"""

from ...errors import MissingDependencyError

try:
    import torch as _torch  # noqa: F401  # pyright: ignore[reportUnusedImport]
    import triton as _triton  # noqa: F401  # pyright: ignore[reportUnusedImport]
except ModuleNotFoundError as error:
    raise MissingDependencyError(
        f"the Triton kernels need {error.name}, which is not installed; run: pip install torch triton"
    ) from error

from .launch import backward, forward, glu_backward, glu_forward, inverse, reason_not_served, second, third
from .scale import scaled_backward, scaled_forward

__all__ = [
    "backward",
    "forward",
    "glu_backward",
    "glu_forward",
    "inverse",
    "reason_not_served",
    "scaled_backward",
    "scaled_forward",
    "second",
    "third",
]

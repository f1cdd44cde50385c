"""The kernels on NumPy arrays: same formula, same bits as through any other front."""

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError, TensorError
from ...spec import GemSpec
from .library import DTYPES, OPERATIONS
from .loader import load, status

Array = NDArray[np.floating]


def forward(x: Array, spec: GemSpec, *, threads: int = 1) -> Array:
    """Return f(x).

    Args:
        x: Any shape; float16, float32 or float64.
        spec: The activation.
        threads: The largest number of threads, of an OpenMP runtime that is already in the process.
    Returns: A new array in C order, of the shape and dtype of x.
    Raises: TensorError: another dtype; BackendError: the C library is not available.
    Edge cases: As GemSpec: f(+inf) = +inf; f(-inf) is 0 for leak = 0, else -inf; NaN stays NaN.
    Example:
        >>> from gem_activations.kernels import cpu
        >>> if cpu.status().available:
        ...     assert cpu.forward(np.float32([-1, 0, 1, 2]), GemSpec()).tolist() == [0, 0, 0.5, 1.600000023841858]
    """
    return _run("forward", spec, threads, x)[0]


def backward(grad: Array, x: Array, spec: GemSpec, *, threads: int = 1) -> Array:
    """Return grad * f'(x); shapes and dtypes must agree. Raises and returns as `forward`."""
    return _run("backward", spec, threads, grad, x)[0]


def backward_from_output(grad: Array, y: Array, spec: GemSpec, *, threads: int = 1) -> Array:
    """Return grad * f'(x) from y = f(x); y <= 0 gives grad * leak. Raises and returns as `forward`."""
    return _run("backward_from_output", spec, threads, grad, y)[0]


def second(grad_grad: Array, grad: Array, x: Array, spec: GemSpec, *, threads: int = 1) -> tuple[Array, Array]:
    """Return grad_grad * f'(x) and grad_grad * grad * f''(x), the backward pass of `backward`. Raises as `forward`."""
    to_grad, to_x = _run("second", spec, threads, grad_grad, grad, x)
    return to_grad, to_x


def glu_forward(x: Array, gate: Array, spec: GemSpec, *, threads: int = 1) -> Array:
    """Return x * f(gate); shapes and dtypes must agree. Raises and returns as `forward`."""
    return _run("glu_forward", spec, threads, x, gate)[0]


def glu_backward(grad: Array, x: Array, gate: Array, spec: GemSpec, *, threads: int = 1) -> tuple[Array, Array]:
    """Return grad * f(gate) and grad * x * f'(gate); shapes and dtypes must agree. Raises as `forward`."""
    grad_x, grad_gate = _run("glu_backward", spec, threads, grad, x, gate)
    return grad_x, grad_gate


def _run(name: str, spec: GemSpec, threads: int, *arrays: Array) -> list[Array]:
    library = load()
    if library is None:
        raise BackendError(status().reason)
    inputs = [np.ascontiguousarray(array).reshape(np.shape(array)) for array in arrays]
    first = inputs[0]
    if first.dtype.name not in DTYPES or any((a.dtype, a.shape) != (first.dtype, first.shape) for a in inputs):
        kinds = ", ".join(f"{array.dtype}{list(array.shape)}" for array in inputs)
        raise TensorError(f"got {kinds}: expected arrays of one shape and one dtype: float16, float32 or float64")
    operation = OPERATIONS[name]
    outputs = [np.empty_like(first) for _ in range(operation.outputs)]
    addresses = [array.ctypes.data for array in (*outputs, *inputs)]
    library.call(operation, spec, DTYPES[first.dtype.name], first.size, threads, *addresses)
    return outputs

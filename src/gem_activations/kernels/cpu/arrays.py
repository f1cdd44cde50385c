"""The kernels on NumPy arrays: same formula, same bits as through any other front."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError, TensorError
from ...spec import GemSpec
from .library import DTYPES, Library, spec_handle
from .loader import load, status

Array = NDArray[np.floating]


def forward(x: Array, spec: GemSpec, *, threads: int = 1) -> Array:
    """Give f(x).

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
    library, arrays, outputs = _prepare(1, x)
    return _call(library.forward, spec, outputs, arrays, threads)[0]


def backward(grad: Array, x: Array, spec: GemSpec, *, threads: int = 1) -> Array:
    """Give grad * f'(x); shapes and dtypes must agree. Raises and returns as `forward`."""
    library, arrays, outputs = _prepare(1, grad, x)
    return _call(library.backward, spec, outputs, arrays, threads)[0]


def backward_from_output(grad: Array, y: Array, spec: GemSpec, *, threads: int = 1) -> Array:
    """Give grad * f'(x) from y = f(x); y <= 0 gives grad * leak. Raises and returns as `forward`."""
    library, arrays, outputs = _prepare(1, grad, y)
    return _call(library.backward_from_output, spec, outputs, arrays, threads)[0]


def second(grad: Array, x: Array, spec: GemSpec, *, threads: int = 1) -> Array:
    """Give grad * f''(x); shapes and dtypes must agree. Raises and returns as `forward`."""
    library, arrays, outputs = _prepare(1, grad, x)
    return _call(library.second, spec, outputs, arrays, threads)[0]


def glu_forward(x: Array, gate: Array, spec: GemSpec, *, threads: int = 1) -> Array:
    """Give x * f(gate); shapes and dtypes must agree. Raises and returns as `forward`."""
    library, arrays, outputs = _prepare(1, x, gate)
    return _call(library.glu_forward, spec, outputs, arrays, threads)[0]


def glu_backward(grad: Array, x: Array, gate: Array, spec: GemSpec, *, threads: int = 1) -> tuple[Array, Array]:
    """Give grad * f(gate) and grad * x * f'(gate); shapes and dtypes must agree. Raises as `forward`."""
    library, arrays, outputs = _prepare(2, grad, x, gate)
    grad_x, grad_gate = _call(library.glu_backward, spec, outputs, arrays, threads)
    return grad_x, grad_gate


def _prepare(outputs: int, *arrays: Array) -> tuple[Library, list[Array], list[Array]]:
    """Give the library, the arrays in C order, and new arrays for the results."""
    library = load()
    if library is None:
        raise BackendError(status().reason)
    dense = [np.ascontiguousarray(array).reshape(np.shape(array)) for array in arrays]
    first = dense[0]
    if first.dtype.name not in DTYPES or any((a.dtype, a.shape) != (first.dtype, first.shape) for a in dense):
        kinds = ", ".join(f"{array.dtype}{list(array.shape)}" for array in dense)
        raise TensorError(f"got {kinds}: expected arrays of one shape and one dtype: float16, float32 or float64")
    return library, dense, [np.empty_like(first) for _ in range(outputs)]


def _call(
    function: Callable[..., int], spec: GemSpec, outputs: list[Array], inputs: list[Array], threads: int
) -> list[Array]:
    addresses = [array.ctypes.data for array in (*outputs, *inputs)]
    code = function(spec_handle(spec), DTYPES[inputs[0].dtype.name], *addresses, inputs[0].size, threads)
    assert code == 0, code
    return outputs

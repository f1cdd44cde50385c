"""The functions of the C library as Python callables on addresses; source/gem.h is their documentation in C."""

import ctypes
import math
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from ...errors import BackendError
from ...spec import GemSpec
from .tables import GradientTable, gradient_table

ABI_VERSION = 1
"""GEM_ABI_VERSION of source/gem.h: a library with another one is refused."""

DTYPES = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}
"""The code of each dtype in the library's calls."""

ISAS = ("baseline", "avx2", "avx512")

# Pointers that a function takes: outputs, then inputs.
_POINTERS = {
    "forward": 2,
    "backward": 3,
    "backward_from_output": 3,
    "second": 3,
    "glu_forward": 3,
    "glu_backward": 5,
}


class SpecHandle(ctypes.Structure):
    """A GemSpec as the library reads it (gem_spec of source/gem.h); made by `spec_handle`."""

    _fields_ = (
        ("n", ctypes.c_int64),
        ("wide", ctypes.c_int64),
        ("scale_log2", ctypes.c_int64),
        ("inverse_scale", ctypes.c_double),
        ("eps", ctypes.c_double),
        ("limit", ctypes.c_double),
        ("leak", ctypes.c_double),
        ("table", ctypes.POINTER(GradientTable)),
        ("unit", ctypes.c_double),
    )


@lru_cache(maxsize=256)
def spec_handle(spec: GemSpec) -> SpecHandle:
    """Give the spec as the library reads it; the same object for an equal spec while it is among the last 256."""
    inverse_scale, eps, limit = spec.reduction
    scale_log2 = -round(math.log2(inverse_scale))
    # f(x) = 2^scale_log2 t^(2n+1) / eps is normal in float32 down to 2^-126, and t^(2n) should be so there.
    wide = spec.n > 8 or scale_log2 - math.log2(eps) > 63 / spec.n
    unit = eps ** (-1 / (2 * spec.n))
    handle = SpecHandle(spec.n, wide, scale_log2, inverse_scale, eps, limit, spec.leak, None, unit)
    table = gradient_table(spec.n, spec.leak)
    if table is not None:
        handle.table = ctypes.pointer(table)
    return handle


class Library:
    """The loaded C library.

    Each function takes a handle, a dtype code, the addresses of its outputs and then of its inputs, the number of
    elements and the largest number of threads, and returns 0, or a negative code on a bad dtype, count or handle:

        forward(handle, dtype, out, x, count, threads)                         out = f(x)
        backward(handle, dtype, out, grad, x, count, threads)                  out = grad f'(x)
        backward_from_output(handle, dtype, out, grad, y, count, threads)      the same from y = f(x)
        second(handle, dtype, out, grad, x, count, threads)                    out = grad f''(x)
        glu_forward(handle, dtype, out, x, gate, count, threads)               out = x f(gate)
        glu_backward(handle, dtype, grad_x, grad_gate, grad, x, gate, count, threads)

    The arrays are dense and of one dtype, in one order of elements. An output may be one of the inputs; other overlaps
    are not defined. Two outputs must differ. The caller answers for the addresses: nothing checks them.

    An element's value depends on its inputs and the instruction set, not on its position, the count or the threads.
    From 32,768 elements on, and in a process that has not been forked, up to `threads` threads of the OpenMP runtime
    that the process has already loaded (PyTorch's, for instance) share the work; without one the caller does it all.

    Args:
        path: The shared library.
    Raises: BackendError: the file is no library for this machine, or of another version.
    """

    forward: Callable[[SpecHandle, int, int, int, int, int], int]
    backward: Callable[[SpecHandle, int, int, int, int, int, int], int]
    backward_from_output: Callable[[SpecHandle, int, int, int, int, int, int], int]
    second: Callable[[SpecHandle, int, int, int, int, int, int], int]
    glu_forward: Callable[[SpecHandle, int, int, int, int, int, int], int]
    glu_backward: Callable[[SpecHandle, int, int, int, int, int, int, int, int], int]

    def __init__(self, path: Path) -> None:
        try:
            self._functions = ctypes.CDLL(str(path))
            version = self._functions.gem_abi_version()
            for name, pointers in _POINTERS.items():
                function = getattr(self._functions, f"gem_{name}")
                addresses = [ctypes.c_void_p] * pointers
                function.argtypes = [ctypes.POINTER(SpecHandle), ctypes.c_int, *addresses, ctypes.c_int64, ctypes.c_int]
                function.restype = ctypes.c_int
                setattr(self, name, function)
        except (OSError, AttributeError) as error:
            raise BackendError(f"{path} is not this package's kernel library for this machine: {error}") from None
        if version != ABI_VERSION:
            raise BackendError(f"{path} has version {version} of the kernel interface, expected {ABI_VERSION}")
        self.path = path

    @property
    def isa(self) -> str:
        """The instruction set in use: the best of baseline, avx2 and avx512 that the processor has."""
        return ISAS[self._functions.gem_isa()]

    def use_isa(self, name: str) -> None:
        """Compute with another instruction set from now on, in the whole process; for tests and measurements.

        Raises: BackendError: an unknown name, or the processor lacks it.
        """
        if name not in ISAS or self._functions.gem_set_isa(ISAS.index(name)) != 0:
            raise BackendError(f"isa={name!r}: this processor or build lacks it; expected one of {', '.join(ISAS)}")

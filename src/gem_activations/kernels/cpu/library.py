"""The functions of the C library as Python callables on addresses; source/gem.h is their documentation in C."""

import ctypes
import importlib.util
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import BackendError, SpecError
from ...spec import MAX_SCALE, MIN_SCALE, GemSpec
from .tables import GradientTable, gradient_table

ABI_VERSION = 6
"""GEM_ABI_VERSION of source/gem.h: a library with another one is refused."""

DTYPES = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3}
"""The code of each dtype in the library's calls."""

ISAS = ("baseline", "avx2", "avx512")


class Operation(NamedTuple):
    """What the library computes: its code in a call, and how many arrays it writes and reads."""

    code: int
    outputs: int
    inputs: int


OPERATIONS = {
    "forward": Operation(0, 1, 1),
    "backward": Operation(1, 1, 2),
    "backward_from_output": Operation(2, 1, 2),
    "second": Operation(3, 2, 3),
    "second_from_output": Operation(4, 2, 3),
    "third": Operation(5, 3, 5),
    "third_from_output": Operation(6, 3, 5),
    "tangent": Operation(7, 1, 4),
    "tangent_from_output": Operation(8, 1, 4),
    "inverse": Operation(9, 1, 1),
    "glu_forward": Operation(10, 1, 2),
    "glu_backward": Operation(11, 2, 3),
}
"""The operations of source/gem.h, which says what each computes."""
FORWARD_SCALED, BACKWARD_SCALED = Operation(12, 1, 1), Operation(13, 1, 2)
"""With scales from memory: behind the arrays comes the address of a Scales."""
_SCALE_ERROR = -7
_PACK = {arrays: struct.Struct(f"@P4q{arrays}P").pack for arrays in (2, 3, 4, 5, 8)}


class SpecHandle(ctypes.Structure):
    """A GemSpec as the library reads it (gem_spec of source/gem.h), and its address; made by `spec_handle`."""

    address: int
    choices: Any = None  # of a framework

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


class Scales(ctypes.Structure):
    """Scales that are learnt, as the library reads them: gem_scales of source/gem.h."""

    _fields_ = (
        ("log_scale", ctypes.c_void_p),
        ("gradient", ctypes.c_void_p),
        ("dtype", ctypes.c_int64),
        ("channels", ctypes.c_int64),
        ("inner", ctypes.c_int64),
    )


def spec_handle(spec: GemSpec) -> SpecHandle:
    """Return the spec as the library reads it; made once, and kept as `spec.handle`."""
    handle = spec.handle
    if handle is None:
        inverse_scale, eps, limit = spec.reduction
        scale_log2 = -round(math.log2(inverse_scale))
        # f(x) = 2^scale_log2 t^(2n+1) / eps is normal in float32 down to 2^-126, and t^(2n) should be so there.
        wide = spec.n > 8 or scale_log2 - math.log2(eps) > 63 / spec.n
        unit = eps ** (-1 / (2 * spec.n))
        handle = SpecHandle(spec.n, wide, scale_log2, inverse_scale, eps, limit, spec.leak, None, unit)
        table = gradient_table(spec.n, spec.leak)
        if table is not None:
            handle.table = ctypes.pointer(table)
        handle.address = ctypes.addressof(handle)
        object.__setattr__(spec, "handle", handle)
    return handle


class Library:
    """The loaded C library.

    The arrays of a call are dense and of one dtype, in one order of elements. An output may be one of the inputs; other
    overlaps are not defined. Outputs must differ. The caller answers for the addresses: nothing checks them.

    An element's value depends on its inputs and the instruction set, not on its position, the count or the threads.
    From 32,768 elements on, and in a process that has not been forked, up to `threads` threads of the OpenMP runtime
    that the process has already loaded (PyTorch's, for instance) share the work; without one the caller does it all.

    Args:
        path: The shared library.
    Raises: BackendError: the file is no library for this machine, or of another version.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._functions = ctypes.CDLL(str(path))
            version = self._functions.gem_abi_version()
            self._run = self._functions.gem_run
        except (OSError, AttributeError) as error:
            raise BackendError(f"{path} is not this package's kernel library for this machine: {error}") from None
        if version != ABI_VERSION:
            raise BackendError(f"{path} has version {version} of the kernel interface, expected {ABI_VERSION}")
        self._run.argtypes = [ctypes.c_char_p]
        self._run.restype = ctypes.c_int
        self.path = path

    def bind(self, *framework: Any) -> Any:
        """Return the module of source/module.c, whose functions take tensors, or None if it is not there.

        Args:
            framework: The types of its tensors and parameters; their DLPack exchange API; functions: an uninitialised
                tensor like another, the number of threads, whether gradients are recorded, whether a tensor is stored
                negated, copied on writing, overridden; the module that counts levels of forward-mode differentiation;
                a tuple of functions that tell whether something records calls.
        """
        try:
            found = importlib.util.spec_from_file_location("gem_kernels", self.path)
            module: Any = importlib.util.module_from_spec(found)  # pyright: ignore[reportArgumentType] -- refused in __init__
            module.bind(*framework)
        except (ImportError, ValueError, TypeError):  # TypeError: of a library that was built for another version.
            return None
        return module

    def call(self, operation: Operation, spec: GemSpec, dtype: int, count: int, threads: int, *arrays: int) -> None:
        """Run an operation on `count` elements.

        Args:
            operation: Of OPERATIONS.
            spec: The activation.
            dtype: Of DTYPES.
            count: Number of elements.
            threads: The largest number of threads.
            arrays: Addresses of the outputs, then of the inputs, then of the Scales of an operation that has some.
        Raises: BackendError: the library refuses the dtype, count or spec; nothing was written. SpecError: a scale is
            out of its range.
        """
        # A block of bytes for the whole call: ctypes charges for each argument, and a shared block would need a lock.
        handle = spec.handle or spec_handle(spec)
        block = _PACK[len(arrays)](handle.address, operation.code, dtype, count, threads, *arrays)
        code = self._run(block)
        if code == _SCALE_ERROR:
            raise SpecError(
                f"a scale that is a tensor has left the range {MIN_SCALE:g} to {MAX_SCALE:g}, or its eps = "
                f"scale^{2 * spec.n} the range of float64, or it is NaN; learn it at a lower rate"
            )
        if code:
            raise BackendError(f"the C library refused operation {operation.code} with code {code}; report it")

    @property
    def run_address(self) -> int:
        """The address of gem_run of source/gem.h, for other native code."""
        return ctypes.cast(self._run, ctypes.c_void_p).value or 0

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

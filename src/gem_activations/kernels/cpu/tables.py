"""The gradient from the output where leak > 0, as piecewise polynomials that source/table_64.h evaluates.

For leak = 0 the coefficients are committed: tools/make_gradient_tables.py. With a leak they depend on it, and are
fitted here, once for each order and leak, to the oracle in float64; the scale of the activation does not matter.
"""

import ctypes
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...spec import GemSpec

ROWS, COLUMNS = 8, 64
LARGEST_ERROR = 5e-6
"""Relative error of the polynomials, checked between the nodes; where it is larger, Newton's method serves."""

_TAIL = 1e-6  # of the gradient, relative to the constants that it tends to on either side
_SAMPLES = 25
_SMALLEST_LEAK = 1e-12  # the octaves between leak and 1 are too many anyway

Array = NDArray[np.float64]


class GradientTable(ctypes.Structure):
    """gem_table of source/gem.h, which says what the fields are."""

    _fields_ = (
        ("coefficients", ctypes.c_float * (ROWS * COLUMNS)),
        ("factors", ctypes.c_float * 2),
        ("period", ctypes.c_int32),
        ("low", ctypes.c_int32),
        ("split", ctypes.c_int32),
        ("high", ctypes.c_int32),
        ("log2_parts", ctypes.c_int32),
        ("skip", ctypes.c_int32),
        ("least", ctypes.c_int32),
    )


@lru_cache(maxsize=64)
def gradient_table(n: int, leak: float) -> GradientTable | None:
    """Return the table for n up to 8 and leak > 0, or None where it would not be exact enough."""
    if leak < _SMALLEST_LEAK or n > 8:
        return None
    unit = GemSpec(n, 1.0, leak)
    low, high = _octaves(unit)
    if high - low > COLUMNS:
        return None
    log2_parts = int(math.log2(COLUMNS // (high - low)))
    parts = 2**log2_parts
    # Below, z is the place within a part, from -1/2 to 1/2: what is left of the mantissa without its upper bits.
    starts = (np.ldexp(1 + np.arange(parts) / parts, np.arange(low, high)[:, None])).ravel()
    widths = np.ldexp(1 / parts, np.repeat(np.arange(low, high), parts))
    nodes = np.cos((np.arange(ROWS) + 0.5) * np.pi / ROWS) / 2
    coefficients = np.linalg.solve(_powers(nodes), _slopes(unit, starts, widths, nodes).T)
    between = np.linspace(-0.5, 0.5, _SAMPLES)
    error = _powers(between) @ coefficients / _slopes(unit, starts, widths, between).T - 1
    if np.abs(error).max() > LARGEST_ERROR:
        return None
    return _pack(coefficients, low, high, log2_parts)


def _octaves(unit: GemSpec) -> tuple[int, int]:
    """Return the powers of two of u = y / scale below which f' is leak, and from which it is 1, to within _TAIL."""
    n, leak = unit.n, unit.leak
    # Far below, f' - leak = (1 - leak) (2n+1) t^(2n) and u = leak t; far above, f' - 1 = (1 - leak) (2n-1) t^(-2n).
    near = (_TAIL * leak / ((1 - leak) * (2 * n + 1))) ** (1 / (2 * n))
    far = ((1 - leak) * (2 * n - 1) / _TAIL) ** (1 / (2 * n))
    low = math.floor(math.log2(leak * near))
    return low, max(math.ceil(math.log2(far)), low + 1)


def _slopes(unit: GemSpec, starts: Array, widths: Array, z: Array) -> Array:
    """Return f' at the place z of every part; one row a part."""
    return unit.derivative(unit.inverse(starts[:, None] + (z + 0.5) * widths[:, None]))


def _powers(z: Array) -> Array:
    return z[:, None] ** np.arange(ROWS)


def _pack(coefficients: NDArray[np.floating], low: int, high: int, log2_parts: int) -> GradientTable:
    """Return the table in memory that starts at a cache line: its rows are read as vectors."""
    memory = bytearray(ctypes.sizeof(GradientTable) + 64)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    table = GradientTable.from_buffer(memory, -address % 64)
    rows = np.zeros((ROWS, COLUMNS), np.float32)
    rows[:, : coefficients.shape[1]] = coefficients
    table.coefficients[:] = rows.ravel().tolist()
    # Every octave has parts, and the gradient is the polynomial itself.
    table.factors[1] = 1.0
    table.low = table.split = low
    table.high, table.log2_parts, table.skip = high, log2_parts, log2_parts
    table.least = low * 2**23
    return table

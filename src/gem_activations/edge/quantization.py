"""What a quantised activation is to compute, exactly: scales, zero points, and the rounded result of every input.

With t = q - in_zero and r = in_scale / out_scale, the result before rounding is

    y* = r t (t^(2n) + leak E) / (t^(2n) + E)  for t > 0,    leak r t  for t <= 0,    E = eps / in_scale^(2n),

a rational number, because scales are float32 and eps and leak float64 numbers.
"""

import math
import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import QuantizationError, TensorError
from ..spec import GemSpec

Rounding = Literal["away", "even"]
LEVELS = 1 << 17  # More than any difference of two int16 numbers: a result this large saturates whatever out_zero is.
_NEAR_TIE = 1e-9  # Far above 8n roundings of float64, which the result before rounding can be off by.


@dataclass(frozen=True)
class Quantization:
    """Scales and zero points around an activation: x = in_scale (q - in_zero), y = out_scale (result - out_zero).

    Args:
        in_scale: Real number of one step of the input, above 0; kept as the nearest float32 number, as runtimes do.
        in_zero: Input that stands for 0, within the range of `bits`.
        out_scale: As in_scale, of the output.
        out_zero: As in_zero, of the output.
        bits: 8 or 16, for int8 or int16 on both sides.
        rounding: "away" takes ties away from zero (TFLite, ExecuTorch), "even" to the even number before out_zero is
            added (ONNX).
    Raises: QuantizationError: a scale that is no finite number above 0 in float32, a zero point out of range, other
        bits or another rounding.
    Example:
        >>> Quantization(0.1, 0, 0.1, -128).low
        -128
    """

    in_scale: float
    in_zero: int
    out_scale: float
    out_zero: int
    bits: int = 8
    rounding: Rounding = "away"

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or self.bits not in (8, 16):
            raise QuantizationError(f"bits={self.bits!r}: expected 8 or 16, for int8 or int16")
        if self.rounding not in get_args(Rounding):
            raise QuantizationError(f"rounding={self.rounding!r}: expected 'away' or 'even'")
        for name in ("in_scale", "out_scale"):
            value = getattr(self, name)
            try:
                with np.errstate(over="ignore"):
                    scale = float(np.float32(value)) if isinstance(value, (int, float, np.number)) else math.nan
            except (TypeError, OverflowError):
                scale = math.nan
            if isinstance(value, bool) or not 0 < scale < math.inf:
                raise QuantizationError(f"{name}={value!r}: the scale must be a finite number above 0 in float32")
            object.__setattr__(self, name, scale)
        for name in ("in_zero", "out_zero"):
            value = getattr(self, name)
            try:
                zero = None if isinstance(value, bool) else operator.index(value)
            except TypeError:
                zero = None
            if zero is None or not self.low <= zero <= self.high:
                raise QuantizationError(
                    f"{name}={value!r}: the zero point must be a whole number from {self.low} to {self.high} "
                    f"for {self.bits} bits"
                )
            object.__setattr__(self, name, zero)

    @property
    def low(self) -> int:
        """Smallest number of the width: -128 or -32768."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """Largest number of the width: 127 or 32767."""
        return (1 << (self.bits - 1)) - 1

    @property
    def dtype(self) -> "np.dtype[Any]":
        """NumPy's dtype of inputs and outputs: int8 or int16."""
        return np.dtype(f"int{self.bits}")

    def inputs(self) -> NDArray[np.int64]:
        """Return every input, ascending: 256 or 65,536 numbers."""
        return np.arange(self.low, self.high + 1)

    def steps(self, q: ArrayLike) -> NDArray[np.int64]:
        """Return t = q - in_zero as int64. Raises: TensorError: q holds no integers, or one out of range."""
        array = np.asarray(q)
        if array.dtype.kind not in "iu":
            raise TensorError(f"expected integers of {self.bits} bits, got dtype {array.dtype}")
        if array.size and (array.min() < self.low or array.max() > self.high):
            raise TensorError(f"expected integers from {self.low} to {self.high}, got {array.min()} to {array.max()}")
        return array.astype(np.int64) - self.in_zero


def reference(spec: GemSpec, quantization: Quantization, q: ArrayLike) -> NDArray[Any]:
    """Return the exactly rounded result: what a correct integer implementation gives.

    Values far from a tie are rounded from float64, the others from exact rational arithmetic.

    Args:
        spec: The activation.
        quantization: Scales, zero points, width and rounding.
        q: Integers of any shape, within the range of the width.
    Returns: int8 or int16, the shape of q.
    Raises: TensorError: q holds no integers, or one out of range.
    Edge cases: Results outside the width saturate at its ends.
    Example:
        >>> from gem_activations import GemSpec
        >>> reference(GemSpec(n=2), Quantization(0.1, 0, 0.1, 0), [-5, 0, 5, 10, 20])
        array([ 0,  0,  0,  5, 19], dtype=int8)
    """
    levels = exact_levels(spec, quantization, quantization.steps(q)) + quantization.out_zero
    return np.clip(levels, quantization.low, quantization.high).astype(quantization.dtype)


def table(spec: GemSpec, quantization: Quantization) -> NDArray[np.int8]:
    """Return the 256 results of an int8 activation, exactly rounded: entry q + 128 belongs to the input q.

    Raises: QuantizationError: a width of 16 bits, whose table would have 131,072 bytes.
    Example:
        >>> from gem_activations import GemSpec
        >>> int(table(GemSpec(n=2), Quantization(0.1, 0, 0.1, 0))[128 + 20])
        19
    """
    if quantization.bits != 8:
        raise QuantizationError(f"bits={quantization.bits}: a table is for 8 bits; use `integer` for 16")
    return reference(spec, quantization, quantization.inputs())


def exact_levels(spec: GemSpec, quantization: Quantization, t: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return y* rounded, before out_zero and saturation; -LEVELS or LEVELS for what is beyond them."""
    ratio = quantization.in_scale / quantization.out_scale
    with np.errstate(all="ignore"):
        power = (spec.scale / quantization.in_scale / np.maximum(t, 1.0)) ** (2 * spec.n)
        y = ratio * t * np.where(t > 0, spec.leak + (1 - spec.leak) / (1 + power), spec.leak)
    y = np.clip(y, -LEVELS, LEVELS)
    size = np.abs(y)
    levels = np.copysign(np.floor(size + 0.5), y).astype(np.int64)
    near = np.abs(size - np.floor(size) - 0.5) <= _NEAR_TIE * (1 + size)
    # Near a tie, y* as a quotient of whole numbers, without reducing it: a division and a comparison round it.
    step, leak = Fraction(quantization.in_scale), Fraction(spec.leak)
    e, exact = Fraction(spec.eps) / step ** (2 * spec.n), step / Fraction(quantization.out_scale)
    for place in np.flatnonzero(near):
        steps = int(t.flat[place])
        above, below = exact.numerator * abs(steps), exact.denominator * leak.denominator
        if steps > 0:
            whole = steps ** (2 * spec.n) * e.denominator
            above *= whole * leak.denominator + leak.numerator * e.numerator
            below *= whole + e.numerator
        else:
            above *= leak.numerator
        level, rest = divmod(above, below)
        level += 2 * rest > below or (2 * rest == below and (quantization.rounding == "away" or level % 2 == 1))
        levels.flat[place] = level if steps > 0 else -level
    return levels

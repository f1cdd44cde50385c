"""The table-free layers q31 and q15: mantissas, exponents and one division, in unsigned integers.

    F = t^(2n) / (t^(2n) + E), E = eps / in_scale^(2n):  t^(2n) and E are mantissas of 32 (q31) or 16 (q15) bits with an
    exponent; their sum and the quotient need no more bits, and y = t F r is one product, shifted and rounded.

The rounding constant is not one half but whatever makes every input exact. `integer` searches it, and near neighbours
of the constants: each input allows an interval, and all 256 or 65,536 intervals are intersected. NumPy computes here
what the C header computes, bit for bit.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import QuantizationError
from ..spec import GemSpec
from .quantization import LEVELS, Quantization, reference

Method = Literal["q31", "q15"]
Division = Literal["udiv", "long", "newton"]
Words = NDArray[np.uint64]

_LIMIT = LEVELS - 1
_R_OFFSETS = (0, 1, -1, 2, -2, 3, -3, 4, -4)
_E_OFFSETS = (0, *(sign * 2**k for k in range(1, 6) for sign in (1, -1)))


@dataclass(frozen=True)
class Report:
    """How an integer layer compares with `reference`, over every input of its width.

    Attributes:
        inputs: Inputs tried: 256 or 65,536.
        inexact: Inputs whose result is not the exactly rounded one.
        largest_error: Largest difference, in LSB of the output.
    """

    inputs: int
    inexact: int
    largest_error: int


@dataclass(frozen=True)
class Constants:
    """The numbers that the C struct holds, in its order: E = e_man 2^e_exp, r = r_man 2^-shift, leak r likewise."""

    e_man: int
    l_man: int
    r_man: int
    n_man: int
    half_pos: int
    half_neg: int
    e_exp: int
    n: int
    shift: int
    n_shift: int
    in_zero: int
    out_zero: int
    low: int
    high: int


@dataclass(frozen=True)
class IntegerLayer:
    """An activation in integers: made by `integer`.

    Attributes:
        spec: The activation.
        quantization: Scales, zero points, width and rounding.
        method: "q31" or "q15".
        division: "udiv", "long" or "newton"; the first two give the same bits.
        constants: What the C struct holds.
        report: Exactness over all inputs.
    """

    spec: GemSpec
    quantization: Quantization
    method: Method
    division: Division
    constants: Constants
    report: Report

    def apply(self, q: ArrayLike) -> NDArray[Any]:
        """Return the results that the C code gives, bit for bit.

        Args:
            q: Integers of any shape, within the range of the width.
        Returns: int8 or int16, the shape of q.
        Raises: TensorError: q holds no integers, or one out of range.
        """
        t = self.quantization.steps(q)
        c, products = self.constants, _products(self.constants, t, self.method, self.division)
        up = (products + np.uint64(c.half_pos)) >> np.uint64(c.shift)
        down = (products + np.uint64(c.half_neg)) >> np.uint64(c.n_shift)
        size = np.minimum(np.where(t > 0, up, down), np.uint64(_LIMIT)).astype(np.int64)
        results = np.clip(np.where(t > 0, size, -size) + c.out_zero, c.low, c.high)
        return results.astype(self.quantization.dtype)

    def c_struct(self, name: str = "layer") -> str:
        """Return the C definition of the layer's constants, under a name. `gem-act c` writes it with the functions.

        Raises: QuantizationError: the name is no identifier of C.
        """
        from .header import layer_struct

        return layer_struct(self, name)


def integer(
    spec: GemSpec, quantization: Quantization, method: Method = "q31", division: Division = "udiv"
) -> IntegerLayer:
    """Make a table-free layer: find its constants, and compare it with `reference` on every input.

    Args:
        spec: The activation.
        quantization: Scales, zero points, width and rounding.
        method: "q31", or "q15", which needs no 64-bit product, is for 8 bits and is less often exact.
        division: Of q31: "udiv", two 32-bit divisions; "long", one of 64 by 32 bits, the same bits; "newton",
            multiplications alone, less often exact.
    Returns: The layer. Its report says how many results are not exactly rounded: none for nearly all settings of q31,
        else off by one LSB.
    Raises: QuantizationError: an unknown method or division, q15 with 16 bits or with Newton's division, or scales
        whose ratio, times the leak, needs shifts beyond those of the words.
    Example:
        >>> from gem_activations import GemSpec
        >>> layer = integer(GemSpec(n=2), Quantization(0.001, 0, 0.001, 0, bits=16))
        >>> layer.report
        Report(inputs=65536, inexact=0, largest_error=0)
        >>> layer.apply([-1000, 0, 1000, 2000])
        array([   0,    0,  500, 1882], dtype=int16)
    """
    if method not in get_args(Method):
        raise QuantizationError(f"method={method!r}: expected 'q31' or 'q15'")
    if division not in get_args(Division):
        raise QuantizationError(f"division={division!r}: expected 'udiv', 'long' or 'newton'")
    if method == "q15" and (quantization.bits != 8 or division == "newton"):
        asked = f"bits={quantization.bits}" if quantization.bits != 8 else f"division={division!r}"
        raise QuantizationError(f"{asked}: q15 is for 8 bits and divides in 32-bit integers; use method='q31'")
    first = _constants(spec, quantization, method)
    t = quantization.inputs() - quantization.in_zero
    wanted = reference(spec, quantization, quantization.inputs()).astype(np.int64)
    constants = _search(first, Fraction(spec.leak), t, wanted - quantization.out_zero, method, division)
    layer = IntegerLayer(spec, quantization, method, division, constants, Report(0, 0, 0))
    error = np.abs(layer.apply(quantization.inputs()) - wanted)
    report = Report(len(t), int(np.count_nonzero(error)), int(error.max()))
    return replace(layer, report=report)


def _constants(spec: GemSpec, quantization: Quantization, method: Method) -> Constants:
    bits = 32 if method == "q31" else 16
    step = Fraction(quantization.in_scale)
    ratio, leak = step / Fraction(quantization.out_scale), Fraction(spec.leak)
    e_man, e_exp = _mantissa(Fraction(spec.eps) / step ** (2 * spec.n), bits)
    r_man, r_exp = _mantissa(ratio, bits)
    n_man, n_exp = _mantissa(leak * ratio, bits) if leak else (0, -1)
    # In q15 the product keeps 8 bits more than the mantissa: see `_products`.
    shift, n_shift = -r_exp + (0 if method == "q31" else 8), -n_exp
    for name, value in (("in_scale / out_scale", shift), ("leak in_scale / out_scale", n_shift)):
        if not 1 <= value < 2 * bits:
            raise QuantizationError(
                f"{name} = {float(ratio * (leak if 'leak' in name else 1)):.3g} needs a shift by {value} in {method}, "
                f"expected 1 to {2 * bits - 1}; bring the scales nearer to each other"
            )
    # The largest product and a rounding constant of up to 2^shift must fit 32 bits.
    if method == "q15" and 255 * ((0xFFFF * r_man) >> 8) + (1 << shift) > 1 << 32:
        raise QuantizationError(
            f"in_scale / out_scale = {float(ratio):.3g} is too small for the 32-bit sums of q15; use method='q31'"
        )
    halves = 1 << (shift - 1), 1 << (n_shift - 1) if leak else 0
    fields = {"n": spec.n, "shift": shift, "n_shift": n_shift, "e_exp": e_exp}
    ends = {"low": quantization.low, "high": quantization.high}
    zeros = {"in_zero": quantization.in_zero, "out_zero": quantization.out_zero}
    l_man = int(leak * e_man)
    return Constants(e_man, l_man, r_man, n_man, *halves, **fields, **zeros, **ends)


def _mantissa(value: Fraction, bits: int) -> tuple[int, int]:
    """Return m and k with value nearly m 2^k, m of exactly `bits` bits."""
    exponent = value.numerator.bit_length() - value.denominator.bit_length() - bits
    mantissa = round(value / Fraction(2) ** exponent)
    while mantissa.bit_length() > bits:
        exponent += 1
        mantissa = round(value / Fraction(2) ** exponent)
    while mantissa.bit_length() < bits:
        exponent -= 1
        mantissa = round(value / Fraction(2) ** exponent)
    return mantissa, exponent


def _search(
    first: Constants, leak: Fraction, t: NDArray[np.int64], goal: NDArray[np.int64], method: Method, division: Division
) -> Constants:
    """Return the constants that make the fewest inputs inexact: none, if some constants have intervals that intersect.

    The two sides share no constant: E and r belong to t > 0, leak r to t <= 0.
    """
    found = first
    positive, sides = t > 0, []
    if positive.any():
        changes = [{"e_man": first.e_man + e, "r_man": first.r_man + r} for e, r in product(_E_OFFSETS, _R_OFFSETS)]
        sides.append(("half_pos", first.shift, first.high - first.out_zero, positive, changes))
    if first.n_man and not positive.all():
        changes = [{"n_man": first.n_man + n} for n in _R_OFFSETS]
        sides.append(("half_neg", first.n_shift, first.out_zero - first.low, ~positive, changes))
    for name, shift, most, side, changes in sides:
        fewest, best = len(t) + 1, {}
        for change in changes:
            constants = replace(first, **change)
            constants = replace(constants, l_man=int(leak * constants.e_man))
            products = _products(constants, t[side], method, division)
            half, misses = _best_half(products, np.abs(goal[side]), most, shift)
            if misses < fewest:
                fewest, best = misses, {**change, name: half}
            if not misses:
                break
        found = replace(found, **best)
    return replace(found, l_man=int(leak * found.e_man))


def _best_half(products: Words, goal: NDArray[np.int64], most: int, shift: int) -> tuple[int, int]:
    """Return the rounding constant that takes most products to their goals, and how many it misses.

    (product + half) >> shift is the goal for half from goal 2^shift - product to 2^shift - 1 more. A goal of `most`
    saturates: anything above it will do.
    """
    step = np.uint64(1 << shift)
    low = np.maximum((goal.astype(np.uint64) * step - products).astype(np.int64), 0)
    high = ((goal.astype(np.uint64) + np.uint64(1)) * step - np.uint64(1) - products).astype(np.int64)
    high = np.where(goal == most, (1 << shift) - 1, np.minimum(high, (1 << shift) - 1))
    possible = low <= high
    low, high = np.sort(low[possible]), np.sort(high[possible])
    usual = 1 << (shift - 1)
    if not len(low):
        return usual, len(goal)
    covered = np.arange(1, len(low) + 1) - np.searchsorted(high, low)
    best = low[covered == covered.max()]
    start = int(best[np.argmin(np.abs(best - usual))])
    end = int(high[np.searchsorted(high, start)])
    return min(max(usual, start), end), len(goal) - int(covered.max())


def _products(constants: Constants, t: NDArray[np.int64], method: Method, division: Division) -> Words:
    """Return what is shifted right to give the size of y: t F r for t > 0, -t leak r for t <= 0."""
    negative = (np.abs(t) * constants.n_man).astype(np.uint64)
    bits = np.uint64(32 if method == "q31" else 16)
    m = np.maximum(t, 1).astype(np.uint64)
    m, x = _normalise(m * m, np.zeros(t.shape, np.int64), bits)
    base, base_x = m, x
    for bit in f"{constants.n:b}"[1:]:
        m, x = _normalise((m * m) >> bits, 2 * x + int(bits), bits)
        if bit == "1":
            m, x = _normalise((m * base) >> bits, x + base_x + int(bits), bits)
    d = x - constants.e_exp
    down = np.minimum(np.abs(d), 63).astype(np.uint64)
    m = np.where(d < 0, m >> down, m)
    e = np.where(d < 0, np.uint64(constants.e_man), np.uint64(constants.e_man) >> down)
    leak = np.where(d < 0, np.uint64(constants.l_man), np.uint64(constants.l_man) >> down)
    num, den = m + leak, m + e
    carry = den >> bits  # 0 or 1
    num, den = num >> carry, den >> carry
    one = np.uint64((1 << int(bits)) - 1)
    if division == "newton":
        inverse = np.uint64(3031741620) - ((den * np.uint64(2021161081)) >> bits)
        for _ in range(3):
            inverse = (inverse * (np.uint64(1 << 31) - ((den * inverse) >> bits))) >> np.uint64(30)
        # Without this bound a quotient near 1 wraps to 0.
        g = np.where(num >= den, one, np.minimum((num * inverse) >> np.uint64(30), one))
    else:
        g = np.minimum((num << bits) // den, one)
    h = (g * np.uint64(constants.r_man)) >> np.uint64(32 if method == "q31" else 8)
    return np.where(t > 0, np.maximum(t, 0).astype(np.uint64) * h, negative)


def _normalise(m: Words, x: NDArray[np.int64], bits: np.uint64) -> tuple[Words, NDArray[np.int64]]:
    """Shift m, which is not 0, until its top bit of `bits` is set; x is its exponent."""
    # Below 2^53 a float64 is exact, so that its exponent is the number's length in bits.
    zeros = int(bits) - np.frexp(m.astype(np.float64))[1].astype(np.int64)
    return m << zeros.astype(np.uint64), x - zeros

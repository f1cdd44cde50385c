"""The formula that exporters see: it stays finite and accurate if a converter makes the whole graph float16.

With t = x/p and p near the scale a, x^(2n) / (x^(2n) + eps) is multiplied through by max(t, 1)^(-2n):

    F = P / (P + e Q),   P = min(t, 1)^(2n),   Q = (1 / max(t, 1))^(2n),   e = (a/p)^(2n).

No number but x and t leaves [0, 1] by more than a few powers of two, nothing is divided by 0, and gradients are finite
up to x = 1e30. Inductor's code is faster with `formula.value`, which overflows float16.

The operators are chosen for what tools do to them. ONNX Runtime's static int8 quantisation spoils a power or a sum that
it quantises, and leaves Pow, Div and Sub alone; so that e Q is added by subtracting its negative. Its float16 converter
makes an invalid file of a Min and a Max of one tensor, but takes Clip. PyTorch's ONNX exporter drops a product by a
number within 1e-5 of 1, and a sum with a number up to 1e-8: there is neither.
"""

import math
from fractions import Fraction

from torch import Tensor

from ..spec import GemSpec

_MANTISSA = 11  # Bits of float16: p is a number of that format if it is in its range.
_EXACT_ORDERS = 8  # Up to here p is a power of two and x/p exact; e lies within 2^-n .. 2^n, which float16 holds.


def value(wide: Tensor, spec: GemSpec) -> Tensor:
    """Return f(x) for x of float32 or float64; any shape, same dtype."""
    unit, eps = coordinates(spec)
    positive = wide.relu()
    t = positive if unit == 1 else positive * (1 / unit) if spec.n <= _EXACT_ORDERS else positive / unit
    return _gated(wide, positive, t, spec.n, eps, spec.leak)


def scaled_value(wide: Tensor, scale: Tensor, n: int, leak: float) -> Tensor:
    """Return f(x) with scales that are a tensor, which broadcasts with x."""
    positive = wide.relu()
    return _gated(wide, positive, positive / scale, n, 1.0, leak)


def _gated(wide: Tensor, positive: Tensor, t: Tensor, n: int, eps: float, leak: float) -> Tensor:
    low = t.clamp(0.0, 1.0)
    # max(t, 1). A second clamp would count the gradient twice where t is 1.
    high = t - low - (-1.0)
    below, above = _power(low, n), _power(1 / high, n)
    total = below - above / (-1 / eps)
    if leak:
        return wide * ((below - above / (-1 / (eps * leak))) / total)
    return positive * (below / total)


def coordinates(spec: GemSpec) -> tuple[float, float]:
    """Return p and e = eps / p^(2n): p is near the scale, a power of two unless n is large."""
    if spec.n <= _EXACT_ORDERS:
        return 1 / spec.reduction.inverse_scale, spec.reduction.eps
    mantissa, exponent = math.frexp(spec.scale)
    unit = math.ldexp(round(mantissa * 2**_MANTISSA), exponent - _MANTISSA)
    return unit, float(Fraction(spec.eps) / Fraction(unit) ** (2 * spec.n))


def _power(t: Tensor, n: int) -> Tensor:
    """Return t^(2n) in squares and cubes, which runtimes have code for; by their own power if n is large."""
    if n > _EXACT_ORDERS:
        return t.pow(2 * n)
    while n % 3 == 0:
        t, n = t.pow(3), n // 3
    root = t
    for digit in f"{n:b}"[1:]:
        t = t.pow(2) if digit == "0" else t.pow(2) * root
    return t.pow(2)

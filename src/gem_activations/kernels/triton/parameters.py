"""What a kernel is compiled for: a member of the family, and how many steps its inverse needs.

The inverse for leak 0 is h in (0, 1] with h^(2n+1) + q h = 1, where q is a power of the output and the gate is F = q h.
Halley's method starts from a polynomial in s = (q - 1) / (q + 1), which runs over -1 .. 1: h (1 + q) is smooth there
and lies between 1 and 2. tests/kernels_triton checks the bounds.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

from ...spec import GemSpec


class Member(NamedTuple):
    """A member of the family in the coordinates of `GemSpec.reduction`; one compile-time constant of the kernels.

    `limit` bounds t = x * inverse_scale; `factor` is eps^(-1/(2n+1)) in the original coordinates.
    """

    n: int
    eps: float
    leak: float
    inverse_scale: float
    limit: float
    factor: float
    refined: bool
    steps: int
    halvings: int


@lru_cache(maxsize=256)
def member(spec: GemSpec, bits: int) -> Member:
    """Return the constants of `spec` for kernels on numbers of 16, 32 or 64 bits."""
    inverse_scale, eps, limit = spec.reduction
    order = 2 * spec.n + 1
    # With a leak the output is scaled by 1 / (1 - leak) before the gate's power is taken from it.
    factor = spec.eps ** (-1 / order) * (1 - spec.leak) ** (-(order - 1) / order)
    halvings = 8 if spec.leak and spec.n > 8 else 0
    return Member(spec.n, eps, spec.leak, inverse_scale, limit, factor, bits > 16, _steps(spec, bits), halvings)


def _steps(spec: GemSpec, bits: int) -> int:
    """Return the number of Halley steps after which the gradient is as accurate as the format: 1e-6 for float32."""
    if spec.leak:
        return (2 if spec.n <= 2 else 3 if spec.n <= 4 else 4 if spec.n <= 16 else 5) + (bits == 64)
    if spec.n == 1 and bits == 16:
        return 0
    return (1 if spec.n <= 4 else 2 if spec.n <= 16 else 3 if spec.n <= 32 else 4) + (bits == 64)


@lru_cache(maxsize=64)
def start_polynomial(n: int) -> tuple[float, ...]:
    """Return the coefficients of h (1 + q) as a polynomial in s, of degree 12, the highest power first.

    Interpolation at Chebyshev's points; the relative error is 6.8e-5, 1.2e-3, 4.0e-3, 7.4e-3 for n = 1, 2, 3, 4.
    """
    fit = Chebyshev.interpolate(lambda s: _exact_root(s, n), 12)
    return tuple(float(coefficient) for coefficient in fit.convert(kind=Polynomial).coef[::-1])


def _exact_root(s: np.ndarray, n: int) -> np.ndarray:
    """Return h (1 + q) in float64 at q = (1 + s) / (1 - s)."""
    q = (1 + s) / (1 - s)
    h = np.minimum(1.0, 1 / q)
    # Newton's method from above on a convex function: it descends, and 300 steps are more than any n needs.
    for _ in range(300):
        h = h - (h ** (2 * n + 1) + q * h - 1) / ((2 * n + 1) * h ** (2 * n) + q)
    return h * (1 + q)

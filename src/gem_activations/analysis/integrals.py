"""Rigorous integrals of analytic functions over a bounded interval."""

import heapq
from collections.abc import Callable
from fractions import Fraction

import flint
from flint import acb, arb

Weight = Callable[[acb, bool], acb]
_PRECISION = 160
_TOLERANCE_BITS = 110
_SAMPLES = 16
_EVALUATIONS = 60_000
_BOXES = 3_000


def integral(weight: Weight, low: arb, high: arb) -> arb:
    """Enclose a real integral over [low, high].

    FLINT's adaptive Gauss-Legendre quadrature with error bounds; where that reaches its limit of work, the sum of
    enclosures over a subdivision, which is wide. Infinite where the integrand is not bounded on the boxes of that.

    Args:
        weight: The integrand at a complex ball, and whether it has to refuse a ball on which it is not analytic.
    """
    with flint.ctx.workprec(_PRECISION):
        left, right = low.mid(), high.mid()
        parts = [arb(k) / _SAMPLES for k in range(_SAMPLES + 1)] + [arb(2) ** -k for k in range(5, 65, 5)]
        points = [end for part in parts for end in (left + (right - left) * part, right + (left - right) * part)]
        sizes = [abs(weight(acb(point), False).real).mid() for point in points]
        size = max((s for s in sizes if s.is_finite()), default=arb(1))
        # The samples only choose the accuracy that is asked for; the integral is enclosed whatever they are.
        tolerance = arb(2) ** -_TOLERANCE_BITS
        goal = tolerance * size * abs(right - left) if size > 0 else tolerance
        value = acb.integral(weight, low, high, rel_tol=tolerance, abs_tol=goal, eval_limit=_EVALUATIONS).real
        return value if value.is_finite() else _by_boxes(weight, low, high)


def _by_boxes(weight: Weight, low: arb, high: arb) -> arb:
    """Sum (enclosure of the integrand) * (width) over boxes, the widest product halved first.

    Holds for every integrable function whose ball arithmetic encloses it: no smoothness is used.
    """
    width = high - low

    def box(first: Fraction, last: Fraction) -> tuple[float, Fraction, Fraction, arb]:
        ends = [low + width * arb(flint.fmpq(f.numerator, f.denominator)) for f in (first, last)]
        part = weight(acb(ends[0].union(ends[1])), False).real * (ends[1] - ends[0])
        doubt = float(part.rad()) if part.is_finite() else float("inf")
        # Among the infinite ones the longest first.
        return -doubt, -(last - first), first, part

    heap = [box(Fraction(0), Fraction(1))]
    for _ in range(_BOXES):
        _, negative_length, first, _ = heapq.heappop(heap)
        middle, last = first - negative_length / 2, first - negative_length
        heapq.heappush(heap, box(first, middle))
        heapq.heappush(heap, box(middle, last))
    total = arb(0)
    for _, _, _, part in heap:
        total += part
    return total

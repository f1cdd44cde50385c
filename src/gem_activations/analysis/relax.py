"""Bounds for verification: the range of an activation on an interval, and a line below and a line above it.

The lines come from a sampled guess, their offsets from a proof. Between its inflections f is convex or concave. With s
the slope of a line, f(x) - s x is least at the ends of a cell on which f is concave; on a convex cell with f' - s at
most 0 at t1 and at least 0 at t2 it is at least the smaller of its value at t2 and that of the tangent at t1 in t2.
Balls carry the values, and the last step rounds outward to float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isfinite, nextafter

import numpy as np
import sympy as sp
from flint import arb
from numpy.typing import ArrayLike, NDArray

from .balls import Tape, X, constant_ball, tape
from .exact import Number, compare, exact
from .gaussian import offset_at_infinity, slope_at_infinity
from .proofs import CertificateError
from .signs import sign_map
from .source import Target, read

_SAMPLES = np.linspace(-1, 1, 65)
_HALVINGS = 60


@dataclass(frozen=True)
class Relaxation:
    """Bounds of f on intervals [low, high], arrays of one shape, each sound as it stands in float64.

    Attributes:
        minimum, maximum: minimum <= f(x) <= maximum.
        lower_slope, lower_offset: lower_slope x + lower_offset <= f(x), in exact arithmetic.
        upper_slope, upper_offset: f(x) <= upper_slope x + upper_offset. An offset is infinite if no line was found.
    """

    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    lower_slope: NDArray[np.float64]
    lower_offset: NDArray[np.float64]
    upper_slope: NDArray[np.float64]
    upper_offset: NDArray[np.float64]


@dataclass(frozen=True)
class _Cell:
    """An interval on which f is analytic, and convex (sign 1), concave (-1) or affine (0)."""

    low: arb
    high: arb
    sign: int
    f: Tape
    slope: Tape


@dataclass(frozen=True)
class _Shape:
    """The cells of f, and its asymptotes at -inf and at inf as (slope, offset), exact."""

    cells: tuple[_Cell, ...]
    ends: tuple[tuple[Number, Number | None], tuple[Number, Number | None]]


def relax(target: Target, low: ArrayLike, high: ArrayLike) -> Relaxation:
    """Bound an activation on intervals by constants and by lines, rounded outward.

    The line below is nearly the highest at the middle of the interval, which makes the area below it the largest; so
    for the line above. Some ten milliseconds for each interval, and the proofs of the inflections once.

    Args:
        target: As for `certify`.
        low, high: Ends of the intervals, broadcast together; infinite ones are allowed.
    Returns: The bounds, with the shape of low and high together.
    Raises: CertificateError: low > high or NaN, or the inflections or asymptotes of the activation are not proved.
    Example:
        >>> bounds = relax("relu", [-1.0, 0.5], [2.0, 1.0])
        >>> print(bounds.maximum, bounds.upper_slope, bounds.upper_offset)
        [2. 1.] [0.66666667 1.        ] [0.66666667 0.        ]
    """
    lows, highs = np.broadcast_arrays(np.asarray(low, np.float64), np.asarray(high, np.float64))
    wrong = ~(lows <= highs)
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        low, high = lows.flat[index], highs.flat[index]
        raise CertificateError(f"the interval [{low}, {high}] is empty or has NaN: expected low <= high")
    if ((lows == inf) | (highs == -inf)).any():
        raise CertificateError("an interval holds an infinite point alone; expected low < inf and high > -inf")
    shape = _shape(target)
    rows = [_bounds(shape, float(a), float(b)) for a, b in zip(lows.flat, highs.flat, strict=True)]
    return Relaxation(*(np.array(column, np.float64).reshape(lows.shape) for column in np.array(rows).reshape(-1, 6).T))


@lru_cache(maxsize=64)
def _shape(target: Target) -> _Shape:
    formula = read(target)
    cells = []
    for piece in formula.pieces:
        signs = sign_map(piece.derivative(2), piece.low, piece.high)
        fences = [constant_ball(piece.low), *(zero.ball for zero in signs.zeros), constant_ball(piece.high)]
        f, slope = tape(piece.expression), tape(piece.derivative(1))
        cells += [_Cell(a, b, sign, f, slope) for a, b, sign in zip(fences, fences[1:], signs.signs, strict=False)]
    ends = []
    for outer in (formula.pieces[0].expression.subs(X, -X), formula.pieces[-1].expression):
        slope = slope_at_infinity(outer)
        ends.append((exact(slope), exact(offset_at_infinity(outer, slope)) if slope.is_finite else None))
    (left, offset), right = ends
    return _Shape(tuple(cells), ((-left, offset), right))


def _bounds(shape: _Shape, low: float, high: float) -> tuple[float, ...]:
    minimum, maximum = _offset(shape, low, high, 0.0, 1), 0.0 - _offset(shape, low, high, 0.0, -1)
    if low == high:
        return minimum, maximum, 0.0, minimum, 0.0, maximum
    middle = low / 2 + high / 2 if isfinite(low) and isfinite(high) else low if isfinite(low) else min(high, 0.0)
    lines = []
    for side in (1, -1):
        best = (-inf, 0.0, -inf)
        for slope in sorted({0.0, *_slopes(shape, low, high, side)}, key=abs):
            offset = _offset(shape, low, high, slope, side)
            best = max(best, (offset + side * slope * middle, slope, offset), key=lambda line: line[0])
        lines += [best[1], side * best[2] + 0.0]
    return minimum, maximum, *lines


def _slopes(shape: _Shape, low: float, high: float, side: int) -> Iterator[float]:
    """Guess slopes of good lines below f (side 1) or above it (-1); no proof rests on them."""
    for end, (slope, _) in zip((low, high), shape.ends, strict=True):
        if not isfinite(end) and slope.finite:
            near = float(slope.ball.mid())
            yield from (near, nextafter(near, inf), nextafter(near, -inf))
    if not (isfinite(low) and isfinite(high)):
        return
    a, b = arb(low), arb(high)
    chord = float(((_value(shape, b) - _value(shape, a)) / (b - a)).mid())
    middle, half = low / 2 + high / 2, high / 2 - low / 2
    bends = [float(c.low.mid()) for c in shape.cells if c.low.is_finite() and c.low > a and c.low < b]
    points = np.unique(np.clip(np.concatenate([middle + half * _SAMPLES, [middle], bends]), low, high))
    with np.errstate(all="ignore"):
        heights = side * np.array([float(_value(shape, arb(float(x))).mid()) for x in points])
        left, right = points <= middle, points >= middle
        gaps = points[right][None] - points[left][:, None]
        slopes = (heights[right][None] - heights[left][:, None]) / gaps
        levels = heights[left][:, None] + slopes * (middle - points[left][:, None])
        levels = np.where((gaps > 0) & np.isfinite(levels), levels, inf)
    tangent = float(next(c for c in shape.cells if not c.high < middle).slope(arb(middle)).mid())
    for slope in (chord, side * float(slopes.flat[levels.argmin()]), tangent):
        if isfinite(slope):
            yield slope


def _value(shape: _Shape, x: arb) -> arb:
    return next(cell for cell in shape.cells if not cell.high < x).f(x)


def _offset(shape: _Shape, low: float, high: float, slope: float, side: int) -> float:
    """Return a float64 at most the infimum of side (f(x) - slope x) on [low, high]."""
    found = [_least(shape, cell, low, high, slope, side) for cell in shape.cells]
    return min((value for value in found if value is not None), default=-inf)


def _least(shape: _Shape, cell: _Cell, low: float, high: float, slope: float, side: int) -> float | None:
    a, b, s = cell.low.max(arb(low)), cell.high.min(arb(high)), arb(slope)
    if b < a:
        return None

    def g(x: arb) -> arb:
        return side * (cell.f(x) - s * x)

    def dg(x: arb) -> arb:
        return side * (cell.slope(x) - s)

    def far(right: bool) -> arb:
        """Return the limit of side (f(x) - slope x) at an infinite end."""
        rise, offset = shape.ends[right]
        order = compare(rise, exact(sp.Rational(slope))) * (1 if right else -1) * side
        if order == 0 and offset is not None:
            return side * offset.ball
        return arb.pos_inf() if order > 0 else arb.neg_inf()

    ends = [g(end) if end.is_finite() else far(end > 0) for end in (a, b)]
    if cell.sign * side > 0:
        ends += _inside(g, dg, (a, b), (ends[0], ends[1]))
    return min(_down(end) for end in ends)


def _inside(
    g: Callable[[arb], arb], dg: Callable[[arb], arb], cell: tuple[arb, arb], ends: tuple[arb, arb]
) -> list[arb]:
    """Return lower bounds of a convex g inside a cell; none if it is least at an end, whose values are given."""
    a, b = cell
    if any(not x.is_finite() and end.is_finite() for x, end in zip(cell, ends, strict=True)):
        return []  # g tends to a number at an infinite end, so that its slope tends to 0 there and keeps its sign.
    low, high = (end if x.is_finite() else None for x, end in ((a, a.upper()), (b, b.lower())))
    if low is not None and high is not None and not low < high:
        return [g(a.union(b))]
    probes = [arb(2) ** k for k in range(0, 1100, 4)]
    if low is None:
        start = arb(0) if high is None else high
        low = next(((start - step).mid() for step in probes if dg((start - step).mid()) < 0), None)
    if high is None:
        start = arb(0) if low is None else low
        high = next(((start + step).mid() for step in probes if dg((start + step).mid()) > 0), None)
    if low is None or high is None:
        return [arb.neg_inf()]
    first, last = dg(low), dg(high)
    if first >= 0 or last <= 0:
        return []
    if not (first < 0 and last > 0):  # The slope at an end cannot be told from 0: the tangents there are bounds.
        return [g(low) + first.min(arb(0)) * (high - low), g(high) - last.max(arb(0)) * (high - low)]
    low, high = _bisect(dg, low, high)
    return [g(high), g(low) + dg(low).min(arb(0)) * (high - low)]


def _bisect(dg: Callable[[arb], arb], low: arb, high: arb) -> tuple[arb, arb]:
    """Bring two points together between which the rising dg changes its sign."""
    for _ in range(_HALVINGS):
        middle = ((low + high) / 2).mid()
        if dg(middle) < 0:
            low = middle
        elif dg(middle) > 0:
            high = middle
    return low, high


def _down(value: arb) -> float:
    """Return a float64 at most every number of a ball."""
    if not value.is_finite():
        return inf if value > 0 else -inf
    bound = value.lower()
    near = float(bound)
    while arb(near) > bound:
        near = nextafter(near, -inf)
    return near

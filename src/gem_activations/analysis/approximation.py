"""How far an activation is from simpler functions: from ReLU on the whole line, from lines on an interval.

Distance to ReLU. For the family it is closed for every p. Elsewhere the difference D = f - ReLU is integrated piece by
piece with error bounds. On a half-line D decays like a power of x, and then x = 1/t makes the integrand analytic on a
bounded interval; or |D(x)| <= B exp(-r x), which `limits.bound_beyond` proves.

Bounds for verification: the range of f on an interval, and a line below and a line above it. The lines come from a
sampled guess, their offsets from a proof. Between its inflections f is convex or concave. With s the slope of a line,
f(x) - s x is least at the ends of a cell on which f is concave; on a convex cell with f' - s at most 0 at t1 and at
least 0 at t2 it is at least the smaller of its value at t2 and that of the tangent at t1 in t2. Balls carry the values,
and the last step rounds outward to float64.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from math import inf, isfinite, nextafter

import numpy as np
import sympy as sp
from flint import arb, arb_series
from numpy.typing import ArrayLike, NDArray

from .balls import Expr, Tape, X, constant_ball, decimals, integral, tape, whole_power
from .exact import LONGEST_EXACT, Number, compare, constant_sign, exact, factorise, tidy, without_root
from .formulas import Formula, Piece
from .gaussian import cut_ends, natural_unit, offset_at_infinity, rescaled, slope_at_infinity
from .limits import NoLimitError, bound_beyond, limit
from .proofs import CertificateError, Property, Proved, UndecidedError, Value, attempt, rests_on
from .signs import sign_map
from .smoothness import as_proved, supremum_of_magnitude
from .source import Target, read

_RATES = (sp.Integer(1), *(sp.Rational(1, 2**k) for k in range(1, 8)))


class _Diverges(Exception):  # noqa: N818
    """An integral that is proved to be infinite, and why."""


def distance(formula: Formula) -> list[Property]:
    """Prove the rows of group "distance"."""
    title = "L^infinity distance to ReLU, sup |f - ReLU|"
    rows = [
        attempt("distance", "distance_sup", title, lambda: as_proved(supremum_of_magnitude(difference(formula), 0))),
        *(attempt("distance", f"distance_l{p}", f"L^{p} distance to ReLU", partial(_norm, formula, p)) for p in (1, 2)),
    ]
    if formula.family is not None and formula.family[2] == 0:
        rows += _family(formula.family[0])
    return rows


def difference(formula: Formula) -> tuple[Piece, ...]:
    """Return f - ReLU as pieces, cut at 0."""
    return tuple(
        Piece(p.low, p.high, sp.cancel(p.expression - X) if p.expression.is_rational_function(X) else p.expression - X)
        if p.low.is_finite and constant_sign(p.low) >= 0
        else p
        for p in formula.split(sp.Integer(0))
    )


def _norm(formula: Formula, p: int) -> Proved:
    try:
        if formula.family is not None:
            n, eps, leak = formula.family
            if leak:
                raise _Diverges(f"f - ReLU = {leak} x for x < 0")
            if p * (2 * n - 1) <= 1:
                decay = f"|f - ReLU|^p falls like x^-{p * (2 * n - 1)}"
                raise _Diverges(f"{decay}; the norm is finite where p (2n - 1) > 1")
            power = eps ** sp.Rational(p + 1, 2 * n) * unit_integral(n, p)
            value = sp.powsimp(power ** sp.Rational(1, p))
            found = Number(value if len(str(value)) <= LONGEST_EXACT else None, constant_ball(value))
            return Proved(found.to_value(), (), "closed form, x = a (F / (1 - F))^(1/(2n))")
        # With x = u t and f(x) = u g(t) the integral is u^(p+1) times that of g.
        unit = natural_unit(formula)
        found, method = _power_integral(difference(rescaled(formula, unit)), p)
        total = found if unit == 1 else found.times(unit ** (p + 1))
        if total.exact is not None:
            return Proved(exact(tidy(total.exact ** sp.Rational(1, p))).to_value(), (), method)
        return Proved(Number(None, total.ball if p == 1 else total.ball.sqrt()).to_value(), (), method)
    except _Diverges as error:
        return Proved(Value("infinite", "oo", note=str(error)), (), "order of decay at infinity")


def unit_integral(n: int, p: int) -> Expr:
    """Return the integral of |f - ReLU|^p for eps = 1: B((p+1)/(2n), p - (p+1)/(2n)) / (2n)."""
    first = sp.Rational(p + 1, 2 * n)
    return sp.gammasimp(sp.gamma(first) * sp.gamma(p - first) / (2 * n * sp.gamma(p)))


def _family(n: int) -> list[Property]:
    sup = sp.Integer(2 * n - 1) ** sp.Rational(2 * n - 1, 2 * n) / (2 * n)
    condition = (
        f"finite where p (2n - 1) > 1, that is p > 1/{2 * n - 1}" if n > 1 else "finite for p > 1 only: L^1 diverges"
    )
    closed = (
        f"(norm)^p = a^(p+1) / {2 * n} * B((p+1)/{2 * n}, p - (p+1)/{2 * n}), a = eps^(1/{2 * n}); {condition}; "
        f"sup = {sup} a"
    )
    wanted = (
        f"for a wanted L^p distance d: eps = ({2 * n} d^p / B((p+1)/{2 * n}, p - (p+1)/{2 * n}))^({2 * n}/(p+1)); "
        f"for a wanted sup distance d: eps = {1 / sup ** (2 * n)} d^{2 * n}"
    )
    method = "substitution x = a (F / (1 - F))^(1/(2n)) in x (1 - F), a Beta integral; sup from f' exactly"
    return [
        Property("distance", key, title, Value("statement", note=note), (), method)
        for key, title, note in (
            ("distance_all_p", "L^p distance to ReLU for every p", closed),
            ("eps_for_distance", "eps that gives a wanted distance", wanted),
        )
    ]


def _power_integral(pieces: tuple[Piece, ...], p: int) -> tuple[Number, str]:
    """Return the integral of |D|^p over the line.

    Raises: _Diverges: with the reason; UndecidedError: no bound was proved.
    """
    doubts = []
    for far, sign in ((pieces[0].expression.subs(X, -X), "-"), (pieces[-1].expression, "+")):
        try:
            _require_decay(far, p, sign)
        except UndecidedError as error:  # At the other end the integral may be proved to diverge.
            doubts.append(error)
    if doubts:
        raise doubts[0]
    bounded = [piece.expression.is_polynomial(X) and piece.low.is_finite and piece.high.is_finite for piece in pieces]
    if all(piece.expression == 0 or fits for piece, fits in zip(pieces, bounded, strict=True)):
        parts = [part for piece in pieces for part in _one_sign(piece)]
        if all(low.exact is not None and high.exact is not None for _, low, high in parts):
            total = sum((sp.Abs(sp.integrate(e**p, (X, low.exact, high.exact))) for e, low, high in parts),
                        sp.Integer(0))  # fmt: skip
            return exact(tidy(total)), "exact integration of polynomials"
    total = arb(0)
    for piece in pieces:
        # An even power is analytic across the zeros of D; elsewhere |D| is integrated between them.
        parts = _one_sign(piece) if p % 2 else [(piece.expression, exact(piece.low), exact(piece.high))]
        for expression, low, high in parts:
            total += abs(_integral(expression, low, high, p))
    return Number(None, total), "FLINT integration with error bounds; tails by x = 1/t or an exponential bound"


def _require_decay(far: Expr, p: int, sign: str) -> None:
    try:
        end = limit(far, sp.oo)
    except NoLimitError:
        # A multiple of x^a, a >= 0, that is almost periodic and not 0, leads: its powers have no integral.
        raise _Diverges(f"f - ReLU oscillates at {sign}inf and does not tend to 0") from None
    if end != 0:
        raise _Diverges(f"f - ReLU tends to {end} at {sign}inf")
    order = _order(far)
    if order is None or order * p > 1:
        # With order 2 or more, x D tends to 0; that alone does not bound |D| by a summable power.
        if order is not None and not limit(far * X**order, sp.oo).is_finite and (order - 1) * p <= 1:
            raise UndecidedError(f"f - ReLU falls slower than |x|^-{order} at {sign}inf, perhaps too slowly")
        return
    words = "like" if limit(far * X**order, sp.oo).is_finite else "more slowly than"
    raise _Diverges(f"|f - ReLU|^{p} falls {words} |x|^-{order * p} at {sign}inf")


def _order(far: Expr) -> int | None:
    """Return the least k where x^k D does not tend to 0 at infinity; None if D falls faster than x^-4."""
    for k in range(1, 5):
        if limit(far * X**k, sp.oo) != 0:
            return k
    return None


_Part = tuple[Expr, Number, Number]


def _one_sign(piece: Piece) -> list[_Part]:
    """Return (D, low, high) between the zeros of D; none for D = 0."""
    if piece.expression == 0:
        return []
    zeros = sign_map(piece.expression, piece.low, piece.high).zeros
    fences = [exact(piece.low), *zeros, exact(piece.high)]
    return [(piece.expression, low, high) for low, high in itertools.pairwise(fences)]


def _integral(expression: Expr, low: Number, high: Number, p: int) -> arb:
    if expression == 0:
        return arb(0)
    if low.exact == -sp.oo and high.exact == sp.oo:
        zero = exact(0)
        return _integral(expression, low, zero, p) + _integral(expression, zero, high, p)
    if low.exact == -sp.oo:
        return _integral(expression.subs(X, -X), -high, exact(sp.oo), p)
    if high.exact != sp.oo:
        return _ball_integral(expression**p, low, high)
    if _order(expression) is None:
        return _exponential_tail(expression, low, p)
    # A power of x: with x = 1/t the rest is an integral over a bounded interval.
    cut = low if low.ball > 1 else exact(1)
    near = arb(0) if low.ball > 1 else _ball_integral(expression**p, low, cut)
    t = sp.Symbol("t", positive=True)
    mirrored = sp.cancel(sp.simplify(_conjugate(expression).subs(X, 1 / t) ** p / t**2)).subs(t, X)
    inverse = Number(None, 1 / cut.ball) if cut.exact is None else exact(1 / cut.exact)
    return near + _ball_integral(mirrored, exact(0), inverse)


def _conjugate(expression: Expr) -> Expr:
    """Write a factor a + b sqrt(c) that tends to 0 as (a^2 - b^2 c) / (a - b sqrt(c)), which does not cancel."""
    product = factorise(expression)
    result = product.scale
    for factor in product.factors:
        parts = without_root(factor)
        if parts is not None and limit(factor.expression, sp.oo) == 0:
            result *= (parts[2] / (parts[0] - parts[1])) ** factor.multiplicity
        else:
            result *= factor.expression**factor.multiplicity
    return result


def _exponential_tail(f: Expr, low: Number, p: int) -> arb:
    for rate in _RATES:
        start = max(int(128 / rate), int(low.ball.upper().ceil().unique_fmpz() or 0) + 1)
        try:
            bound = bound_beyond(f * sp.exp(rate * X), start)
        except UndecidedError:
            continue
        r = constant_ball(rate)
        rest = whole_power(bound * (-r * start).exp(), p) / (p * r)
        return _ball_integral(f**p, low, exact(start)) + arb(0, rest.upper())
    raise UndecidedError(f"no exponential bound of {f} was proved")


def _ball_integral(integrand: Expr, low: Number, high: Number) -> arb:
    (start, end), left_out = (low.ball, high.ball), arb(0)
    if low.exact is not None and high.exact is not None:
        (start, end), left_out = cut_ends(integrand, low.exact, high.exact, lambda _: arb_series([1]))
    value = integral(tape(integrand), start, end) + left_out
    if not value.is_finite():
        raise UndecidedError(f"the integral of {integrand} was not bounded")
    ends = {"low": decimals(low.ball), "high": decimals(high.ball)}
    rests_on("integral", of=str(integrand), **ends, weight="1", value=decimals(value))
    return value


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

"""Expectations under a normal law, each a ball that holds the true value, and the asymptotes that they use.

Polynomial pieces have closed forms in erf and exp. On the others the integrand is analytic, and FLINT integrates it
with error bounds (`acb.integral`); what lies beyond `REACH` standard deviations is bounded by B exp(r x).
If f comes within 2^-180 of a line before that, the line takes its place there.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import flint
import sympy as sp
from flint import acb, arb, arb_series

from .balls import Expr, X, constant_ball, decimals, integral, sign_of, tape
from .exact import Number, constant_sign, enormous, exact, tidy
from .formulas import Formula, Piece
from .limits import bound_beyond, limit, powers_beyond
from .proofs import UndecidedError, remembered, rests_on

_STARTS = (2, 4, 8, 16, 32, 128, 512, 2048)
_NEGLIGIBLE = arb(2) ** -180
_WIDEST_UNIT = 4  # Units between 2^-4 and 2^4 are left at 1.


class InfiniteError(UndecidedError):
    """An integral that is proved to be infinite."""


@dataclass(frozen=True)
class Line:
    """f(x) = slope x + offset + D(x), |D(x)| <= error for x >= start; for the derivative, slope is 0."""

    slope: Expr
    offset: Expr
    start: int
    error: arb


def slope_at_infinity(expression: Expr) -> Expr:
    """Return the limit of f(x) / x at infinity. Raises: UndecidedError: as `limit`."""
    return limit(sp.cancel(expression / X) if expression.is_rational_function(X) else expression / X, sp.oo)


def offset_at_infinity(expression: Expr, slope: Expr) -> Expr:
    """Return the limit of f(x) - slope x at infinity. Raises: UndecidedError: as `limit`."""
    rest = expression - slope * X
    return limit(sp.cancel(rest) if expression.is_rational_function(X) else rest, sp.oo)


@remembered
def line_beyond(expression: Expr, order: int) -> Line | None:
    """Return the asymptote of f (order 0) or f' (order 1) at infinity, where f is within 2^-180 of it soon.

    None if f has no asymptote, comes near it slowly, or the proof is not closed.
    """
    try:
        slope = slope_at_infinity(expression)
        if not slope.is_finite:
            return None
        line = (slope, offset_at_infinity(expression, slope)) if order == 0 else (sp.Integer(0), slope)
    except UndecidedError:
        return None
    if not line[1].is_finite:
        return None
    rest = sp.diff(expression, X, order) - line[0] * X - line[1]
    code = tape(rest)
    for start in _STARTS:
        if abs(code(arb(start))) < _NEGLIGIBLE:
            with suppress(UndecidedError):
                return Line(*line, start, bound_beyond(rest, start))
    return None


def natural_unit(formula: Formula) -> Expr:
    """Return the power of 2 nearest the width on which f bends; 1 if that is within 2^-4 and 2^4, or unknown.

    A guess that chooses a scale for the proofs; no proof rests on it.
    """
    if formula.family is not None:
        n, eps, _ = formula.family
        widths = [constant_ball(eps).log() / (2 * n)]
    else:
        widths = [w for piece in formula.pieces for w in _widths(piece.expression)]
    powers = [round(float(w / arb.const_log2())) for w in widths if w.is_finite()]
    for power in (min(powers, default=0), max(powers, default=0)):
        if abs(power) > _WIDEST_UNIT:
            return sp.Integer(2) ** power
    return sp.Integer(1)


def _widths(expression: Expr) -> list[arb]:
    """Return logarithms of the lengths 1/|c| of functions of c x, and sqrt(b/a) of roots of a x^2 + b."""
    found = []
    for node in expression.atoms(sp.Function):
        slope = sp.diff(node.args[0], X)
        if slope != 0 and not slope.has(X):
            found.append(-abs(constant_ball(slope)).log())
    for node in expression.atoms(sp.Pow):
        if node.exp.is_Rational and node.exp.q == 2 and node.base.is_polynomial(X):
            polynomial = sp.Poly(node.base, X)
            if polynomial.degree() == 2 and polynomial.nth(0) != 0:
                found.append(abs(constant_ball(polynomial.nth(0) / polynomial.nth(2))).log() / 2)
    return found


def rescaled(formula: Formula, unit: Expr) -> Formula:
    """Return g(t) = f(unit t) / unit, whose derivative is f' at unit t; titles and claims of the family are dropped."""
    if unit == 1:
        return formula
    pieces: list[Piece] = []
    for p in formula.pieces:
        inner = p.expression.subs(X, unit * X) / unit
        shorter = sp.cancel(inner) if inner.is_rational_function(X) else sp.expand(inner)
        pieces.append(Piece(p.low / unit, p.high / unit, shorter))
    heights = tuple(value / unit for value in formula.at_joints)
    return replace(formula, pieces=tuple(pieces), at_joints=heights, scheme=None, family=None)


REACH = 18
_RATES = (4, 8)  # Of the exponential that bounds a tail, in units of 1 / deviation; REACH is far beyond them.
_DOUBLINGS = 6
_WIDTHS, _WEIGHTS = (8, 16, 32), 14
_SHARP = 64  # Bits; other closed forms than the ones in erfc lose none.


def expectation(formula: Formula, integrands: Sequence[Expr], growth: int, variance: Expr) -> Number:
    """Return E h(x) for x ~ N(0, variance), h given by one expression in x on each piece of the formula.

    Args:
        growth: 0, 1 or 2 if h is f'^2, f or f^2; 4 if it is x^2 f^2. It chooses the bound of the tails.
        variance: Exact, above 0.
    Returns: oo for a square that is not integrable at a singular end of a piece.
    Raises: UndecidedError: a tail has no proved bound, and a piece has no closed form.
    """
    in_deviation = closed_expectation(formula, integrands)
    if in_deviation is not None:
        closed = in_deviation.subs(X, sp.sqrt(variance))
        if closed.has(sp.erfc):
            found = exact(sp.expand(closed))
            if found.ball.rel_accuracy_bits() > _SHARP:  # At extreme variances exp(large) erfc(large) cancels.
                return found
        elif not enormous(closed):
            return exact(tidy(closed))
    try:
        return Number(None, enclose(formula, integrands, growth, constant_ball(variance)))
    except InfiniteError:
        if growth == 1:
            raise
        return exact(sp.oo)


def closed_expectation(formula: Formula, integrands: Sequence[Expr]) -> Expr | None:
    """Return the closed form of an expectation, in which x stands for the deviation; None if none is known."""
    parts: list[Any] = [_closed(piece, h) for piece, h in zip(formula.pieces, integrands, strict=True)]
    return None if None in parts else sp.Add(*parts)


def enclose(formula: Formula, integrands: Sequence[Expr], growth: int, variance: arb) -> arb:
    """Return the expectation for a variance that is itself a ball; see `expectation`."""
    total, deviation = arb(0), variance.sqrt()
    for piece, integrand in zip(formula.pieces, integrands, strict=True):
        if integrand.is_polynomial(X):
            total += tape(closed_form(piece, integrand))(deviation)
            continue
        near = piece
        for right in (False, True):
            line = _line(piece, growth, right=right, deviation=deviation)
            if line is not None:
                total += _far(line, growth, deviation)
                cut = sp.Integer(line.start)
                near = replace(near, high=cut) if right else replace(near, low=-cut)
        total += _integral(near, integrand, deviation)
    return total


def _line(piece: Piece, growth: int, *, right: bool, deviation: arb) -> Line | None:
    """Return the asymptote at an infinite end of the piece if it is reached before the cut at `REACH` deviations."""
    end, other = (piece.high, -piece.low) if right else (-piece.low, piece.high)
    if end != sp.oo:
        return None
    line = line_beyond(piece.expression if right else piece.expression.subs(X, -X), 1 if growth == 0 else 0)
    if line is None or not arb(line.start) < deviation * REACH:
        return None
    return line if other == sp.oo or constant_ball(-other) < arb(line.start) else None


def _far(line: Line, growth: int, deviation: arb) -> arb:
    """Enclose the expectation over [start, inf): that of the asymptote's polynomial, and its distance from h.

    |h - P| is at most e (2 |l| + e) x^k with l the line, e the bound of |f - l|, and E|x|^m <= (1, s, s^2, 2 s^3).
    """
    straight = line.slope * X + line.offset
    slope, offset, error = abs(constant_ball(line.slope)), abs(constant_ball(line.offset)), line.error
    polynomial, doubt = {
        0: (straight**2, error * (2 * offset + error)),
        1: (straight, error),
        2: (straight**2, error * (2 * (slope * deviation + offset) + error)),
        4: (X**2 * straight**2, error * deviation**2 * (4 * slope * deviation + 2 * offset + error)),
    }[growth]
    closed = closed_form(Piece(sp.Integer(line.start), sp.oo, straight), sp.expand(polynomial))
    return tape(closed)(deviation) + arb(0, doubt.upper())


def _closed(piece: Piece, integrand: Expr) -> Expr | None:
    """Return `closed_form`, or that of an even rational function with poles at x^2 = -b only; None for any other.

    With b > 0, 1/(x^2 + b) is the integral of exp(-t (x^2 + b)) over t > 0, and E exp(-t x^2) is (1 + 2 t s^2)^(-1/2)
    for x ~ N(0, s^2), so that E 1/(x^2 + b) = sqrt(pi/(2b)) exp(b/(2 s^2)) erfc(sqrt(b/2)/s) / s. Derivatives in b give
    the higher powers, and a half-line from 0 has half of it.
    """
    if integrand.is_polynomial(X):
        return closed_form(piece, integrand)
    ends = (piece.low, piece.high)
    if ends == (-sp.oo, sp.oo) and (found := _of_exponentials(integrand)) is not None:
        return found
    if ends not in ((-sp.oo, sp.oo), (0, sp.oo), (-sp.oo, 0)) or not integrand.is_rational_function(X):
        return None
    square, width = sp.Dummy(positive=True), sp.Dummy(positive=True)
    quotient = sp.cancel(sp.together(integrand))
    if sp.cancel(quotient - quotient.subs(X, -X)) != 0:
        return None
    share = sp.Integer(1) if ends == (-sp.oo, sp.oo) else sp.Rational(1, 2)
    total = sp.Integer(0)
    for term in sp.Add.make_args(sp.apart(sp.cancel(quotient.subs(X, sp.sqrt(square))), square)):
        top, bottom = sp.fraction(term)
        if not bottom.has(square):
            total += closed_form(piece, sp.expand(term.subs(square, X**2)))
            continue
        constant, moving = bottom.as_independent(square, as_Add=False)
        base, power = moving.as_base_exp()
        line = sp.Poly(base, square)
        pole = line.nth(0) / line.nth(1) if line.degree() == 1 else sp.Integer(0)
        if top.has(square) or not (power.is_Integer and constant_sign(pole) > 0):
            return None
        scale = top / constant / line.nth(1) ** power
        mean = sp.sqrt(sp.pi / (2 * width)) * sp.exp(width / (2 * X**2)) * sp.erfc(sp.sqrt(width / 2) / X) / X
        higher = sp.diff(mean, width, power - 1) * (-1) ** (power - 1) / sp.factorial(power - 1)
        total += share * scale * higher.subs(width, pole)
    return total


def _of_exponentials(integrand: Expr) -> Expr | None:
    """Return E h(x), x ~ N(0, s^2), for a sum of terms x^m exp(a x), a real or imaginary: sin and cos are such sums.

    E x^m exp(a x) is the m-th derivative in a of E exp(a x) = exp(a^2 s^2 / 2). None for any other h.
    """
    total, rate = sp.Integer(0), sp.Symbol("a")
    turned = sp.expand(integrand.rewrite([sp.sin, sp.cos, sp.sinh, sp.cosh], sp.exp))
    for term in sp.Add.make_args(turned):
        factor, moving = term.as_independent(X)
        parts = sp.Mul.make_args(moving)
        powers = sp.Mul(*(part for part in parts if not isinstance(part, sp.exp)))
        exponents: list[Any] = [part.exp for part in parts if isinstance(part, sp.exp)]
        exponent: Any = sp.expand(sp.Add(*exponents))
        a: Any = exponent.coeff(X)
        if not powers.is_polynomial(X) or exponent != a * X or a.has(X) or not (a.is_real or (a / sp.I).is_real):
            return None
        for (power,), coefficient in sp.Poly(powers, X).terms():
            moment = sp.diff(sp.exp(rate**2 * X**2 / 2), rate, power).subs(rate, a)
            total += factor * coefficient * moment
    total = sp.expand(total)
    return None if total.has(sp.I) else total


def closed_form(piece: Piece, integrand: Expr) -> Expr:
    """Integrate a polynomial over the piece under N(0, s^2); the result is an expression in which x stands for s."""
    low, high = piece.low / X, piece.high / X
    if integrand == 0:
        return sp.Integer(0)
    total = sp.Integer(0)
    for (power,), coefficient in sp.Poly(integrand, X).terms():
        total += coefficient * X**power * _moment(int(power), low, high)
    return total


def _moment(power: int, low: Expr, high: Expr) -> Expr:
    """Return the integral of z^power phi(z) from low to high."""
    if power == 0:
        upper, lower = (
            sp.erf(end / sp.sqrt(2)) / 2 if _finite(end) else sp.S.Half * (1 if end.subs(X, 1) == sp.oo else -1)
            for end in (high, low)
        )
        return upper - lower
    root = sp.sqrt(2 * sp.pi)
    edges = [
        -(end ** (power - 1)) * (sp.exp(-(end**2) / 2) / root) if _finite(end) else sp.Integer(0) for end in (high, low)
    ]
    lower_moment = (power - 1) * _moment(power - 2, low, high) if power > 1 else sp.Integer(0)
    return lower_moment + edges[0] - edges[1]


def _finite(end: Expr) -> bool:
    return not end.has(sp.oo, -sp.oo)


def _integral(piece: Piece, integrand: Expr, deviation: arb) -> arb:
    """Enclose E h(x) over the piece: by FLINT up to a power of 2 beyond `REACH` deviations, bounds beyond that."""
    ends, rest = [], arb(0)
    for right in (False, True):
        end = piece.high if right else piece.low
        if end.is_finite:
            ends.append(end)
            continue
        far = integrand if right else integrand.subs(X, -X)
        other = piece.low if right else -piece.high
        begin = (deviation * REACH).max(constant_ball(other) + deviation) if other.is_finite else deviation * REACH
        start = sp.Integer(2) ** max(math.ceil(float(begin.upper().log()) / math.log(2)), 1)
        for _ in range(_DOUBLINGS):
            try:
                bound = _far_bound(far, int(start), deviation)
                break
            except UndecidedError:  # Not beyond the place from which on the terms fall.
                start *= 2
        else:
            raise UndecidedError(f"the growth of {far} is not bounded by an exponential of x")
        rest += bound
        ends.append(start if right else -start)
    (low, high), edge = cut_ends(integrand, ends[0], ends[1], lambda x: (x * x / (-2 * deviation**2)).exp())
    code = tape(integrand)

    def weighted(z: acb, analytic: bool) -> acb:
        return code(z * deviation, analytic) * (-z * z / 2).exp()

    for right in (False, True):  # Far out a box has the whole tail of a narrow law, unless balls do not bound h there.
        edge_of_law = deviation * (REACH if right else -REACH)
        if low < edge_of_law < high:
            height = abs(code(edge_of_law.union(high if right else low)))
            if height.is_finite():
                rest += height * (arb(REACH) / arb(2).sqrt()).erfc() / 2
                low, high = (low, edge_of_law) if right else (edge_of_law, high)
    total = integral(weighted, low / deviation, high / deviation)
    rests_on("integral", of=str(integrand), low=str(ends[0]), high=str(ends[1]), weight="normal", value=decimals(total))
    return (total + edge / deviation) / (2 * arb.pi()).sqrt() + arb(0, rest.upper())


def _far_bound(far: Expr, start: int, deviation: arb) -> arb:
    """Bound the expectation of |h| over [start, inf) by B exp(r x), r a few times 1 / deviation."""
    for times in _RATES:
        rate = sp.Integer(2) ** math.floor(math.log2(times / float(deviation)))
        try:
            bound = bound_beyond(far * sp.exp(-rate * X), start)
        except UndecidedError:
            continue
        r = constant_ball(rate)
        shifted = (arb(start) / deviation - r * deviation) / arb(2).sqrt()
        return bound * (r * r * deviation**2 / 2).exp() * shifted.erfc() / 2
    raise UndecidedError(f"the growth of {far} is not bounded by an exponential of x")


def cut_ends(integrand: Expr, low: Expr, high: Expr, weight: Callable[[Any], Any]) -> tuple[tuple[arb, arb], arb]:
    """Move ends at which balls do not bound the integrand inward, and enclose the weighted integrals left out.

    There the integrand is a sum of powers of the distance s, and the weight, a function of arb or arb_series, a Taylor
    polynomial in s with a remainder.
    """
    ends, left_out = [], arb(0)
    for end, inward in ((low, 1), (high, -1)):
        ball = constant_ball(end)
        if not tape(integrand)(ball + arb(0, arb(2) ** -300)).is_finite():
            powers, width = _near(integrand, end, inward)
            flint.ctx.cap = _WEIGHTS + 1
            around = weight(arb_series([ball + inward * width.union(arb(0)), inward], _WEIGHTS + 1))
            at_end = weight(arb_series([ball, inward], _WEIGHTS + 1))
            taylor = [*(at_end[j] for j in range(_WEIGHTS)), around[_WEIGHTS]]
            for power, coefficient in powers:
                for j, w in enumerate(taylor):
                    exponent = constant_ball(1 - power) + j
                    if not exponent > 0:
                        # Of the leading power, beside which the others are small, the integral is infinite.
                        diverges = constant_ball(powers[0][0]) >= 1 and sign_of(powers[0][1]) and sign_of(taylor[0])
                        error = InfiniteError if diverges else UndecidedError
                        raise error(f"{integrand} is not integrable at {end}")
                    left_out += coefficient * w * (exponent * width.log()).exp() / exponent
            ball += inward * width
        ends.append(ball)
    return (ends[0], ends[1]), left_out


def _near(integrand: Expr, end: Expr, inward: int) -> tuple[list[tuple[Expr, arb]], arb]:
    """Return the integrand as powers of 1 / s at distances s up to a width from a finite end, and the width."""
    for bits in _WIDTHS:
        try:
            return powers_beyond(integrand.subs(X, end + inward / X), 2**bits), arb(2) ** -bits
        except UndecidedError:
            continue
    raise UndecidedError(f"{integrand} is not expanded near its end {end}")

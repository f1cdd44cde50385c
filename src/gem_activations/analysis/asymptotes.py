"""Straight lines that a function approaches, with a proved bound on the distance from them; and the unit of x.

On [T, inf) the difference D of f from its asymptote falls in magnitude where D and D' have opposite signs there, which
`tails` proves; so |D| is at most |D(T)|. For an input of large variance this settles all but a neighbourhood of 0.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import sympy as sp
from flint import arb

from .balls import Expr, X, constant_ball, tape
from .formulas import Formula, Piece
from .limits import limit, tail_sign
from .values import UndecidedError

_STARTS = (2, 4, 8, 16, 32, 128, 512, 2048)
_NEGLIGIBLE = arb(2) ** -180
_WIDEST_UNIT = 4  # Units between 2^-4 and 2^4 are left at 1.


@dataclass(frozen=True)
class Line:
    """f(x) = slope x + offset + D(x), |D(x)| <= error for x >= start; for the derivative, slope is 0."""

    slope: Expr
    offset: Expr
    start: int
    error: arb


def slope_at_infinity(expression: Expr) -> Expr:
    """Give the limit of f(x) / x at infinity. Raises: UndecidedError: as `limit`."""
    return limit(sp.cancel(expression / X) if expression.is_rational_function(X) else expression / X, sp.oo)


def offset_at_infinity(expression: Expr, slope: Expr) -> Expr:
    """Give the limit of f(x) - slope x at infinity. Raises: UndecidedError: as `limit`."""
    rest = expression - slope * X
    return limit(sp.cancel(rest) if expression.is_rational_function(X) else rest, sp.oo)


@lru_cache(maxsize=256)
def line_beyond(expression: Expr, order: int) -> Line | None:
    """Give the asymptote of f (order 0) or f' (order 1) at infinity, where f is within 2^-180 of it soon.

    None where f has no asymptote, comes near it slowly, or the proof is not closed.
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
        # At the precision of the balls D is lost beside f, so that its bound is about 2^-240 of f.
        error = abs(code(arb(start)))
        if error.is_finite() and error < _NEGLIGIBLE and _falls(rest, start):
            return Line(*line, start, error)
    return None


def _falls(rest: Expr, start: int) -> bool:
    """Whether |rest| is proved to fall on [start, inf)."""
    try:
        return tail_sign(rest, start) * tail_sign(sp.diff(rest, X), start) <= 0
    except UndecidedError:
        return False


def natural_unit(formula: Formula) -> Expr:
    """Give the power of 2 nearest the width on which f bends; 1 where that is within 2^-4 and 2^4, or unknown.

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
    """Give logarithms of the lengths 1/|c| of functions of c x, and sqrt(b/a) of roots of a x^2 + b."""
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
    """Give g(t) = f(unit t) / unit, whose derivative is f' at unit t; titles and claims of the family are dropped."""
    if unit == 1:
        return formula
    pieces = tuple(
        Piece(p.low / unit, p.high / unit, _shorter(p.expression.subs(X, unit * X) / unit)) for p in formula.pieces
    )
    heights = tuple(value / unit for value in formula.at_joints)
    return replace(formula, pieces=pieces, at_joints=heights, scheme=None, family=None)


def _shorter(expression: Expr) -> Expr:
    return sp.cancel(expression) if expression.is_rational_function(X) else sp.expand(expression)


def exponent_of(unit: Expr) -> int:
    """Give k of a unit 2^k."""
    return int(math.log2(unit.p)) if unit.q == 1 else -int(math.log2(unit.q))

"""Expectations of a function of a normal variable, each a ball that holds the true value.

Polynomial pieces have closed forms in erf and exp. On the others the integrand is analytic, and FLINT integrates it
with error bounds (`acb.integral`); what lies beyond `REACH` standard deviations is bounded by |f(x)| <= A + L |x|.
"""

from collections.abc import Sequence

import sympy as sp
from flint import acb, arb

from .balls import constant_ball, integral, tape
from .expressions import Expr, X
from .extrema import supremum_of_magnitude
from .numbers import Number, exact, tidy
from .pieces import Formula, Piece
from .tails import UndecidedError

REACH = 18


def expectation(formula: Formula, integrands: Sequence[Expr], growth: int, variance: Expr) -> Number:
    """Give E h(x) for x ~ N(0, variance), h given by one expression in x on each piece of the formula.

    Args:
        growth: 0, 1 or 2 where h is f'^2, f or f^2; 4 where it is x^2 f^2. It chooses the bound of the tails.
        variance: Exact, above 0.
    Raises: UndecidedError: f is not Lipschitz continuous on a piece that has no closed form.
    """
    if all(integrand.is_polynomial(X) for integrand in integrands):
        parts = (closed_form(piece, h) for piece, h in zip(formula.pieces, integrands, strict=True))
        return exact(tidy(sum(parts, sp.Integer(0)).subs(X, sp.sqrt(variance))))
    return Number(None, enclose(formula, integrands, growth, constant_ball(variance)))


def enclose(formula: Formula, integrands: Sequence[Expr], growth: int, variance: arb) -> arb:
    """Give the expectation for a variance that is itself a ball; see `expectation`."""
    total, deviation = arb(0), variance.sqrt()
    for piece, integrand in zip(formula.pieces, integrands, strict=True):
        if integrand.is_polynomial(X):
            total += tape(closed_form(piece, integrand))(deviation)
        else:
            total += _integral(piece, integrand, deviation)
            total += arb(0, _tail(formula, piece, growth, deviation).upper())
    return total


def closed_form(piece: Piece, integrand: Expr) -> Expr:
    """Integrate a polynomial over the piece under N(0, s^2); the result is an expression in which x stands for s."""
    low, high = piece.low / X, piece.high / X
    if integrand == 0:
        return sp.Integer(0)
    total = sp.Integer(0)
    for (power,), coefficient in sp.Poly(integrand, X).terms():
        total += coefficient * X**power * _moment(int(power), low, high)
    return total


def _density(z: Expr) -> Expr:
    return sp.exp(-(z**2) / 2) / sp.sqrt(2 * sp.pi)


def _moment(power: int, low: Expr, high: Expr) -> Expr:
    """Give the integral of z^power phi(z) from low to high."""
    if power == 0:
        upper, lower = (_distribution(end) for end in (high, low))
        return upper - lower
    edges = [-(end ** (power - 1)) * _density(end) if _finite(end) else sp.Integer(0) for end in (high, low)]
    lower_moment = (power - 1) * _moment(power - 2, low, high) if power > 1 else sp.Integer(0)
    return lower_moment + edges[0] - edges[1]


def _finite(end: Expr) -> bool:
    return not end.has(sp.oo, -sp.oo)


def _distribution(end: Expr) -> Expr:
    if _finite(end):
        return sp.erf(end / sp.sqrt(2)) / 2
    return sp.Rational(1, 2) * (1 if end.subs(X, 1) == sp.oo else -1)


def _integral(piece: Piece, integrand: Expr, deviation: arb) -> arb:
    low, high = _ends(piece, deviation)
    code = tape(integrand)

    def weighted(z: acb, analytic: bool) -> acb:
        return code(z * deviation, analytic) * (-z * z / 2).exp()

    value = integral(weighted, low / deviation, high / deviation)
    if not value.is_finite():
        raise UndecidedError(f"the integral of {integrand} under the normal law did not converge")
    return value / (2 * arb.pi()).sqrt()


def _ends(piece: Piece, deviation: arb) -> tuple[arb, arb]:
    """Cut an infinite piece at REACH deviations, or one deviation inside it where it begins farther out."""
    low = constant_ball(piece.low) if piece.low.is_finite else arb.neg_inf()
    high = constant_ball(piece.high) if piece.high.is_finite else arb.pos_inf()
    edge = deviation * REACH
    if not high.is_finite():
        high = edge if not low.is_finite() else edge.max(low + deviation)
    if not low.is_finite():
        low = -edge if not piece.high.is_finite else (-edge).min(high - deviation)
    return low, high


def _tail(formula: Formula, piece: Piece, growth: int, deviation: arb) -> arb:
    """Bound the integral of |h| over |x| > REACH * deviation, with |f| <= A + L |x|."""
    if piece.low.is_finite and piece.high.is_finite:
        return arb(0)
    slope = supremum_of_magnitude(formula.pieces, 1).value
    if not (slope.finite and formula.continuous):
        raise UndecidedError("f is not Lipschitz continuous, so that its tails have no bound here")
    height, rise = abs(constant_ball(formula.at(sp.Integer(0)))), slope.ball * deviation
    # (a + b z)^2 <= 2 a^2 + 2 b^2 z^2; the truncated moments of the normal law are closed.
    t = arb(REACH)
    density, rest = (-t * t / 2).exp() / (2 * arb.pi()).sqrt(), (t / arb(2).sqrt()).erfc() / 2
    second, fourth = t * density + rest, (t**3 + 3 * t) * density + 3 * rest
    if growth == 0:
        return 2 * slope.ball**2 * rest
    if growth == 1:
        return 2 * (height * rest + rise * density)
    if growth == 2:
        return 4 * (height**2 * rest + rise**2 * second)
    return 4 * deviation**2 * (height**2 * second + rise**2 * fourth)

"""Signal propagation: moments of f and f' under N(0, q), gain, chi, and the rows of the variance map."""

from dataclasses import dataclass

import sympy as sp

from .expressions import Expr, X
from .gaussian import expectation
from .numbers import Number, exact, tidy
from .pieces import Formula
from .tails import UndecidedError
from .tower import identical
from .values import Property, Value
from .variance_map import fixed_points, ratio_course, squares, times_square, uniqueness

_METHOD = "FLINT integration with error bounds, tails bounded by the Lipschitz constant"
_CLOSED = "closed form of the truncated normal moments"


@dataclass(frozen=True)
class Moments:
    """E f, E f^2, E f'^2 and E x^2 f^2 for x ~ N(0, q)."""

    mean: Number
    second: Number
    slope: Number
    fourth: Number


def moments(formula: Formula, variance: Expr) -> Moments:
    """Give the moments as exact numbers or balls. Raises: UndecidedError, as `expectation`."""
    f, d = squares(formula, 0), squares(formula, 1)
    mean = exact(0) if is_odd(formula) else expectation(formula, [p.expression for p in formula.pieces], 1, variance)
    second = expectation(formula, f, 2, variance)
    slope = expectation(formula, d, 0, variance)
    fourth = expectation(formula, times_square(f), 4, variance)
    return Moments(mean, second, slope, fourth)


def is_odd(formula: Formula) -> bool:
    """Whether f(-x) = -f(x) is proved by algebra."""
    mirrored = [(-p.high, -p.low, -p.expression.subs(X, -X)) for p in reversed(formula.pieces)]
    return all(
        piece.low == low and piece.high == high and identical(piece.expression, expression)
        for piece, (low, high, expression) in zip(formula.pieces, mirrored, strict=True)
    )


def propagation(formula: Formula, variance: Expr = sp.S.One) -> list[Property]:
    """Prove the rows of group "propagation" for inputs of the given variance."""
    found = moments(formula, variance)
    law = f"for x ~ N(0, {variance})"
    method = _CLOSED if found.second.exact is not None else _METHOD
    gain, chi = _ratios(found, variance)
    rows = [
        _row("mean", f"E f(x) {law}", found.mean, "f is odd" if is_odd(formula) else method),
        _row("second_moment", f"E f(x)^2 {law}", found.second, method),
        _row("slope_moment", f"E f'(x)^2 {law}", found.slope, method),
        _row("gain", f"Gain, sqrt(q / E f^2) {law}", gain, method),
        _row("chi", f"chi, q E f'^2 / E f^2 {law}", chi, method),
    ]
    return [*rows, _slope(found, variance), *_map_rows(formula, found, variance)]


def _row(key: str, title: str, number: Number, method: str) -> Property:
    return Property("propagation", key, title, number.to_value(), (), method)


def _ratios(found: Moments, variance: Expr) -> tuple[Number, Number]:
    if found.second.exact is not None and found.slope.exact is not None:
        gain = tidy(sp.sqrt(variance / found.second.exact))
        return exact(gain), exact(tidy(variance * found.slope.exact / found.second.exact))
    q = exact(variance).ball
    return Number(None, (q / found.second.ball).sqrt()), Number(None, q * found.slope.ball / found.second.ball)


def _slope(found: Moments, variance: Expr) -> Property:
    # The density of N(0, q) has the q-derivative (x^2/q - 1) / (2q) times itself, so that f needs no derivative:
    # V'(q) = (E x^2 f^2 / q - E f^2) / (2q), and the slope under the gain is q V'(q) / V(q).
    title = f"Slope of the variance map at its fixed point q = {variance}, weights scaled by the gain"
    if found.fourth.exact is not None and found.second.exact is not None:
        slope = exact(tidy((found.fourth.exact / found.second.exact / variance - 1) / 2))
        return _row("map_slope", title, slope, _CLOSED)
    ball = (found.fourth.ball / found.second.ball / exact(variance).ball - 1) / 2
    return _row("map_slope", title, Number(None, ball), _METHOD)


def _map_rows(formula: Formula, found: Moments, variance: Expr) -> list[Property]:
    level = Number(None, found.second.ball / exact(variance).ball)
    if found.second.exact is not None:
        level = exact(tidy(found.second.exact / variance))
    rows = (
        ("fixed_points", "Fixed points above 0 of the variance map q -> E f(x)^2, x ~ N(0, q)", fixed_points),
        ("uniqueness", f"Uniqueness of q = {variance} under the gain", lambda course: uniqueness(course, level)),
    )
    made = []
    for key, title, prove in rows:
        try:
            value, where = prove(ratio_course(formula))
        except UndecidedError as error:
            value, where = Value("open", note=f"not closed: {error}"), ()
        made.append(Property("propagation", key, title, value, where, "course of V(q)/q, variation diminishing"))
    return made

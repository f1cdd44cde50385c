"""Signal propagation: moments of f and f' under N(0, q), gain, chi, and the fixed points of the variance map.

The variance map of a wide layer with weight variance s is q -> s V(q), V(q) = E f(x)^2 for x ~ N(0, q). With
h(x) = (f(x)^2 + f(-x)^2) / x^2, V(q) / q is the mean of h(sqrt(q) |z|) under the law with density z^2 phi(z). So V(q)/q
is monotone where h is, and then the map has at most one fixed point above 0, unless h is constant.
"""

from dataclasses import dataclass

import sympy as sp
from flint import arb

from .balls import constant_sign, sign_of
from .expressions import Expr, X
from .gaussian import enclose, expectation
from .numbers import Number, at, compare, exact, greatest, tidy
from .pieces import Formula
from .signs import sign_map
from .tails import UndecidedError, limit
from .tower import identical
from .values import Property, Value

_METHOD = "FLINT integration with error bounds, tails bounded by the Lipschitz constant"
_CLOSED = "closed form of the truncated normal moments"
_RELATIVE = arb(2) ** -60


@dataclass(frozen=True)
class Moments:
    """E f, E f^2, E f'^2 and E x^2 f^2 for x ~ N(0, q)."""

    mean: Number
    second: Number
    slope: Number
    fourth: Number


def moments(formula: Formula, variance: Expr) -> Moments:
    """Give the moments as exact numbers or balls. Raises: UndecidedError, as `expectation`."""
    f, d = _squares(formula, 0), _squares(formula, 1)
    mean = exact(0) if is_odd(formula) else expectation(formula, [p.expression for p in formula.pieces], 1, variance)
    second = expectation(formula, f, 2, variance)
    slope = expectation(formula, d, 0, variance)
    fourth = expectation(formula, _times_square(f), 4, variance)
    return Moments(mean, second, slope, fourth)


def _squares(formula: Formula, order: int) -> list[Expr]:
    squares = [piece.derivative(order) ** 2 for piece in formula.pieces]
    return [sp.expand(e) if e.is_polynomial(X) else e for e in squares]


def _times_square(parts: list[Expr]) -> list[Expr]:
    return [sp.expand(X**2 * e) if e.is_polynomial(X) else X**2 * e for e in parts]


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
    return rows + _fixed_points(formula, found, variance)


def _row(key: str, title: str, number: Number, method: str) -> Property:
    return Property("propagation", key, title, number.to_value(), (), method)


def _ratios(found: Moments, variance: Expr) -> tuple[Number, Number]:
    if found.second.exact is not None and found.slope.exact is not None:
        gain = tidy(sp.sqrt(variance / found.second.exact))
        return exact(gain), exact(tidy(variance * found.slope.exact / found.second.exact))
    q = exact(variance).ball
    return Number(None, (q / found.second.ball).sqrt()), Number(None, q * found.slope.ball / found.second.ball)


def _fixed_points(formula: Formula, found: Moments, variance: Expr) -> list[Property]:
    # The density of N(0, q) has the q-derivative (x^2/q - 1) / (2q) times itself, so that f needs no derivative:
    # V'(q) = (E x^2 f^2 / q - E f^2) / (2q), and the slope under the gain is q V'(q) / V(q).
    slope = Number(None, (found.fourth.ball / found.second.ball / exact(variance).ball - 1) / 2)
    if found.fourth.exact is not None and found.second.exact is not None:
        slope = exact(tidy((found.fourth.exact / found.second.exact / variance - 1) / 2))
    title = f"Slope of the variance map at its fixed point q = {variance}, weights scaled by the gain"
    rows = [_row("map_slope", title, slope, _CLOSED if slope.exact is not None else _METHOD)]
    title = "Fixed points above 0 of the variance map q -> E f(x)^2, x ~ N(0, q)"
    direction = None
    try:
        spread = ratio_bounds(formula)
        direction = spread.direction
        value, where, method = _unit_map(formula, spread)
    except UndecidedError as error:
        value, where, method = Value("open", note=f"not closed: {error}"), (), "monotonicity of V(q)/q"
    rows.append(Property("propagation", "fixed_points", title, value, where, method))
    rows.append(_uniqueness(direction, variance))
    return rows


def _uniqueness(direction: int | None, variance: Expr) -> Property:
    title = f"Uniqueness of q = {variance} under the gain"
    words = {
        None: Value("open", note="not closed: V(q)/q was not proved monotone (its pointwise bound h is not)"),
        0: Value("statement", note="every q is a fixed point: V(q)/q is constant"),
        1: Value("statement", note="the only one above 0, and repelling: V(q)/q rises"),
        -1: Value("statement", note="the only one above 0, and its slope is below 1: V(q)/q falls"),
    }
    return Property("propagation", "uniqueness", title, words[direction], (), "monotonicity of V(q)/q")


@dataclass(frozen=True)
class Spread:
    """What is known of V(q)/q: direction (1 rises, -1 falls, 0 constant, None unknown), extreme values of h / 2."""

    direction: int | None
    turning: tuple[Number, ...]


def ratio_bounds(formula: Formula) -> Spread:
    """Find whether V(q)/q is monotone on (0, inf), from the sign of the slope of h.

    Raises: UndecidedError: the sign of h' was not proved.
    """
    signs: set[int] = set()
    turning: list[Number] = []
    fences = sorted({abs(joint) for joint in formula.joints if joint != 0}, key=float)
    for low, high in zip([sp.Integer(0), *fences], [*fences, sp.oo], strict=True):
        found, zeros = _slope_signs(formula, low, high)
        signs |= found
        turning += zeros
    for fence in fences:
        signs.add(_jump(formula, fence))
    signs.discard(0)
    if len(signs) > 1:
        return Spread(None, () if fences else tuple(turning))
    return Spread(signs.pop() if signs else 0, ())


def _slope_signs(formula: Formula, low: Expr, high: Expr) -> tuple[set[int], list[Number]]:
    right, left = _branch(formula, low, high), _branch(formula, -high, -low).subs(X, -X)
    halves: set[int] = set()
    for f in (right, left):
        halves |= set(sign_map(f * (X * sp.diff(f, X) - f), low, high).signs)
    if halves <= {0, 1} or halves <= {0, -1}:
        return halves, []
    if identical(right - left, X):
        # f(x) - f(-x) = x turns the slope of h into (2f - x)(x f' - f) / x^3, up to a factor 2.
        return set(sign_map((2 * right - X) * (X * sp.diff(right, X) - right), low, high).signs), []
    both = X * (right * sp.diff(right, X) + left * sp.diff(left, X)) - right**2 - left**2
    found = sign_map(both, low, high)
    halved = (right**2 + left**2) / (2 * X**2)
    return set(found.signs), [at(halved, zero) for zero in found.zeros]


def _branch(formula: Formula, low: Expr, high: Expr) -> Expr:
    for piece in formula.pieces:
        if exact(piece.low).ball <= exact(low).ball and exact(piece.high).ball >= exact(high).ball:
            return piece.expression
    raise AssertionError("the fences hold every joint")


def _jump(formula: Formula, fence: Expr) -> int:
    change = sp.Integer(0)
    for joint, (before, after) in zip(formula.joints, formula.sides(0), strict=True):
        if joint == fence:
            change += after**2 - before**2
        elif joint == -fence:
            change += before**2 - after**2
    return constant_sign(change)


def _ratio_limits(formula: Formula) -> tuple[Number, Number]:
    """Give the limits of V(q)/q at q -> 0 and q -> inf."""
    middle = [p for p in formula.split(sp.Integer(0)) if p.low == 0 or p.high == 0]
    ends = [p.end(0, right=p.high == 0) for p in middle]
    slopes = [p.end(1, right=p.high == 0) for p in middle]
    near = sp.oo if any(end != 0 for end in ends) else tidy(sum(s**2 for s in slopes) / 2)
    first, last = formula.pieces[0].expression, formula.pieces[-1].expression
    far = [
        limit(sp.cancel(e / X) if e.is_rational_function(X) else e / X, s) for e, s in ((first, -sp.oo), (last, sp.oo))
    ]
    return exact(near), exact(tidy(sum(s**2 for s in far) / 2) if all(s.is_finite for s in far) else sp.oo)


def _unit_map(formula: Formula, spread: Spread) -> tuple[Value, tuple[Value, ...], str]:
    near, far = _ratio_limits(formula)
    if spread.direction is None:
        return _bounded_map([near, far, *spread.turning], bool(spread.turning))
    method = "V(q)/q is monotone, from its limits at 0 and infinity"
    if spread.direction == 0:
        if near.exact == 1:
            return Value("statement", note="every q"), (), method
        return Value("exact", "0", "0", "0", 0.0, f"V(q)/q = {near.to_value()} for every q"), (), method
    span = f"V(q)/q runs from {near.to_value()} (q -> 0) to {far.to_value()} (q -> inf)"
    if _side(near) * _side(far) >= 0:
        return Value("exact", "0", "0", "0", 0.0, span), (), method
    point = _solve(formula, rises=_side(far) > 0)
    squares = _squares(formula, 0)
    fourth, second = enclose(formula, _times_square(squares), 4, point), enclose(formula, squares, 2, point)
    slope = Number(None, (fourth / point - second) / (2 * point))
    where = Number(None, point).to_value(f"slope of the map there {slope.to_value()}")
    return Value("exact", "1", "1", "1", 1.0, span), (where,), method + "; bracketed by balls"


def _side(number: Number) -> int:
    return compare(number, exact(1))


def _bounded_map(bounds: list[Number], known: bool) -> tuple[Value, tuple[Value, ...], str]:
    """V(q)/q is a mean of h/2, so it lies between the least and the greatest value of h/2."""
    sides = {_side(bound) for bound in bounds}
    if not known or 0 in sides or len(sides) > 1:
        raise UndecidedError("h is not monotone, and its extreme values / 2 do not exclude 1")
    low, high = -greatest(-b for b in bounds), greatest(bounds)
    note = f"V(q)/q stays between {low.to_value()} and {high.to_value()}"
    return Value("exact", "0", "0", "0", 0.0, note), (), "extreme values of h, branch and bound"


def _solve(formula: Formula, *, rises: bool) -> arb:
    """Enclose the q with V(q) = q, which exists and is the only one: a bracket by regula falsi, then proved signs."""
    squares = _squares(formula, 0)

    def excess(q: arb) -> arb:
        return enclose(formula, squares, 2, q) / q - 1

    low, high = arb(1), arb(1)
    while sign_of(excess(low)) != (-1 if rises else 1):
        low /= 4
    while sign_of(excess(high)) != (1 if rises else -1):
        high *= 4
    at_low, at_high = excess(low).mid(), excess(high).mid()
    middle = low
    for _ in range(60):
        middle = ((low * at_high - high * at_low) / (at_high - at_low)).mid()
        value = excess(middle).mid()
        if abs(value) < _RELATIVE / 16:
            break
        if (value > 0) == (at_high > 0):
            high, at_high, at_low = middle, value, at_low / 2
        else:
            low, at_low, at_high = middle, value, at_high / 2
    left, right = middle * (1 - _RELATIVE), middle * (1 + _RELATIVE)
    if {sign_of(excess(left)), sign_of(excess(right))} != {-1, 1}:
        raise UndecidedError("the fixed point was not bracketed")
    return left.union(right)

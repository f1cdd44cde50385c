"""Where an analytic expression is zero, positive or negative on an interval, proved.

Every irreducible factor is settled by the strongest method that applies: exact roots of a polynomial in x or in one
exponential; for a + b sqrt(p), exact roots of the conjugate product; else branch and bound with balls, where a box is
dropped if the enclosure excludes zero and kept as one root if the derivative's enclosure excludes zero and the
ends have opposite signs. Half-lines are closed by dominance (`limits`). A zero that is known exactly, of any order m,
is fenced off by an interval on which the m-th derivative has no zero.
"""

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key
from typing import Any, cast

import sympy as sp
from flint import arb

from .balls import Expr, Tape, X, constant_ball, decimals, sign_of, tape, to_ball
from .exact import (
    Factor,
    Number,
    at,
    compare,
    constant_sign,
    exact,
    factor_powers,
    factorise,
    same,
    tidy,
    without_root,
)
from .limits import tail_sign
from .proofs import CertificateError, UndecidedError, remembered, rests_on

MOST_BOXES = 8_000
MOST_HALVINGS = 2_000
_ACCURATE = 64
_LONGEST_TAIL = 2**60
_FINE = 4096  # Up to here the start of a tail is doubled, beyond it grows by 2^8.
_HIGHEST_ORDER = 12


class PoleError(CertificateError):
    """A denominator of the expression is 0 inside the interval."""


@dataclass(frozen=True)
class SignMap:
    """Zeros of an expression inside an open interval, in rising order, and its sign before, between and after them."""

    zeros: tuple[Number, ...]
    signs: tuple[int, ...]
    method: str


@remembered
def sign_map(expression: Expr, low: Expr, high: Expr) -> SignMap:
    """Find all zeros and signs on the open interval (low, high), ends exact, +-oo allowed.

    Raises: PoleError: a pole inside; UndecidedError: the proof could not be closed.
    """
    product = factorise(expression)
    if product.sign == 0:
        return SignMap((), (0,), "exact algebra")
    zeros: list[Number] = []
    methods = set()
    for factor in product.factors:
        if factor.lifted.is_Symbol and factor.lifted != X and factor.lifted.is_positive:
            continue
        found, method = _exact_zeros(factor), "exact algebra"
        if found is None:
            found, method = _ball_zeros(factor.expression, low, high), "ball arithmetic, branch and bound"
        else:
            found = [zero for zero in found if _inside(zero, low, high)]
        if found and factor.multiplicity < 0:
            where = found[0].to_value()
            raise PoleError(f"a denominator of {expression} is 0 at x = {where}: a pole or a removable singularity")
        methods.add(method)
        zeros += found
    ordered: tuple[Number, ...] = ()
    for zero in sorted(zeros, key=cmp_to_key(compare)):
        if not ordered or not same(ordered[-1], zero):
            ordered = (*ordered, zero)
    signs = tuple(_sign_at(product.sign, product.factors, point) for point in _between(ordered, low, high))
    method = "; ".join(sorted(methods)) or "exact algebra"
    boxes = tuple((*decimals(zero.ball), "" if zero.exact is None else str(zero.exact)) for zero in ordered)
    rests_on("signs", of=str(expression), low=str(low), high=str(high), zeros=boxes, signs=signs, by=method)
    return SignMap(ordered, signs, method)


def _between(zeros: tuple[Number, ...], low: Expr, high: Expr) -> list[arb]:
    fences = [constant_ball(low), *(zero.ball for zero in zeros), constant_ball(high)]
    points = []
    for left, right in itertools.pairwise(fences):
        if left.is_finite() and right.is_finite():
            points.append(((left.upper() + right.lower()) / 2).mid())
        elif left.is_finite() or right.is_finite():
            points.append((left.upper() + 1).mid() if left.is_finite() else (right.lower() - 1).mid())
        else:
            points.append(arb(0))
    return points


def _sign_at(sign: int, factors: tuple[Factor, ...], point: arb) -> int:
    for factor in factors:
        if factor.multiplicity % 2:
            part = sign_of(tape(factor.expression)(point))
            if part is None:
                raise UndecidedError(f"the sign of {factor.expression} at {point.str(6)} is not decided")
            sign *= part
    return sign


def _inside(zero: Number, low: Expr, high: Expr) -> bool:
    sides = compare(zero, exact(low)), compare(zero, exact(high))
    if zero.exact is None and 0 in sides:
        raise UndecidedError(f"a zero cannot be told from an end of ({low}, {high})")
    return sides == (1, -1)


def _exact_zeros(factor: Factor) -> list[Number] | None:
    conjugate = without_root(factor)
    if conjugate is not None:
        zeros = _exact_zeros_of(conjugate[2])
        return None if zeros is None else [z for z in zeros if vanishes(conjugate, z)]
    functions = factor.generators
    if not functions:
        return _exact_zeros_of(factor.expression)
    if len(functions) > 1 or X in factor.lifted.free_symbols:
        return None
    symbol, function = next(iter(functions.items()))
    if not isinstance(function, sp.exp):
        return None
    rate = sp.cancel(function.args[0] / X)
    zeros = None if rate.has(X) else _exact_zeros_of(factor.lifted.xreplace({symbol: X}), factor)
    if zeros is None:
        return None
    found = []
    for zero in zeros:
        if zero.exact is not None and constant_sign(zero.exact) > 0:
            found.append(exact(tidy(sp.log(zero.exact) / rate)))
        elif zero.exact is None and sign_of(zero.ball) != -1:
            if not sign_of(zero.ball):
                raise UndecidedError(f"the sign of a root near {zero.ball.str(6)} is not decided")
            found.append(Number(None, zero.ball.log() / constant_ball(rate)))
    return found


def _exact_zeros_of(expression: Expr, factor: Factor | None = None) -> list[Number] | None:
    """Return the real zeros of a polynomial in X, None if its coefficients are too deep for exact roots."""
    if factor is not None:
        expression = expression.xreplace({s: v for s, v in factor.tower if not v.has(X)})
    if not expression.is_polynomial(X):
        return None
    zeros: list[Number] = []
    for part, _ in factor_powers(expression, X)[1]:
        found = _roots(sp.Poly(part, X))
        if found is None:
            return None
        zeros += found
    return zeros


def _roots(polynomial: sp.Poly) -> list[Number] | None:
    if polynomial.is_zero or constant_sign(polynomial.LC()) == 0:
        raise UndecidedError(f"the leading coefficient of {polynomial.as_expr()} is 0 in another spelling")
    degree = int(polynomial.degree())
    step = math.gcd(*(power for (power,) in polynomial.monoms()))
    inner = sp.Poly([polynomial.nth(k * step) for k in range(degree // step, -1, -1)], X)
    if inner.degree() == 1:
        slope, offset = inner.all_coeffs()
        return _real_powers(exact(tidy(-offset / slope)), step)
    if inner.degree() == 2:
        a, b, c = inner.all_coeffs()
        if constant_sign(b**2 - 4 * a * c) < 0:
            return []
        root = sp.sqrt(tidy(b**2 - 4 * a * c))
        pair = exact(tidy((-b - root) / (2 * a))), exact(tidy((-b + root) / (2 * a)))
        return [power for t in pair for power in _real_powers(t, step)]
    if not all(c.is_Rational for c in polynomial.all_coeffs()):
        return None
    intervals = cast(Any, inner.intervals(eps=sp.Rational(1, 10**6)))
    roots = [_refine(tape(inner.as_expr()), constant_ball(a), constant_ball(b)) for (a, b), _ in intervals]
    return [power for t in roots for power in _real_powers(t, step)]


def _real_powers(value: Number, step: int) -> list[Number]:
    """Return the real x with x^step = t."""
    if step == 1:
        return [value]
    sign = sign_of(value.ball) if value.exact is None else constant_sign(value.exact)
    if not sign:
        if value.exact is None:
            raise UndecidedError(f"the sign of a root near {value.ball.str(6)} is not decided")
        return [exact(0)]
    if sign < 0 and step % 2 == 0:
        return []
    if value.exact is None:
        root = Number(None, (abs(value.ball).log() / step).exp())
    else:
        root = exact((sign * value.exact) ** sp.Rational(1, step))
    return [-root, root] if step % 2 == 0 else [root if sign > 0 else -root]


def vanishes(parts: tuple[Expr, Expr, Expr], zero: Number) -> bool:
    """Whether A + B s is 0 at a zero of A^2 - B^2 s^2 = (A + B s) (A - B s), from (A, B s, A^2 - B^2 s^2)."""
    plain, root, _ = parts
    value = at(plain + root, zero)
    if value.exact is not None:
        return constant_sign(value.exact) == 0
    if sign_of(value.ball):
        return False
    # The product is 0 here: where its other half is not, this half is.
    if not sign_of(at(plain - root, zero).ball):
        raise UndecidedError(f"which of {plain + root} and {plain - root} vanishes at a common zero is not decided")
    return True


def _refine(function: Tape, low: arb, high: arb) -> Number:
    """Shrink an interval with exactly one simple root by interval Newton steps, after bisection if those stall."""
    box = low.union(high)
    first = sign_of(function(low)) or -(sign_of(function(high)) or 0)  # An end may lie on the root.
    for _ in range(MOST_HALVINGS):
        middle = box.mid()
        slope = function.jet(box, 1)[1]
        if sign_of(slope):
            newer = (middle - function(middle) / slope).intersection(box)
            if newer.rad() < box.rad() * 0.75:
                box = newer
                continue
            if newer.rel_accuracy_bits() > _ACCURATE or newer.rad() == 0:
                return Number(None, newer)
        sign = sign_of(function(middle))
        if sign is None or not first:
            # The value at the middle is lost in its own rounding: the box is as narrow as the precision allows.
            return Number(None, box)
        box = middle.union(box.upper()) if sign == first else box.lower().union(middle)
    return Number(None, box)


def _ball_zeros(expression: Expr, low: Expr, high: Expr) -> list[Number]:
    function = tape(expression)
    start = -_tail_start(expression.subs(X, -X), -high) if low == -sp.oo else low
    end = _tail_start(expression, low) if high == sp.oo else high
    zeros: list[Number] = []
    cursor = constant_ball(start)
    for point in sorted({start, end, sp.Integer(0)}, key=constant_ball):
        if constant_sign(point - start) < 0 or constant_sign(end - point) < 0:
            continue
        fence = _fence(expression, point, constant_ball(end) - constant_ball(start))
        if fence is None:
            continue
        middle = constant_ball(point)
        if _inside(exact(point), low, high):
            zeros.append(exact(point))
        if point != start:
            zeros += _isolate(function, cursor, middle - fence)
        cursor = middle + fence
    if cursor < constant_ball(end):
        zeros += _isolate(function, cursor, constant_ball(end))
    return zeros


def _tail_start(expression: Expr, low: Expr) -> sp.Integer:
    first = 2 if low == -sp.oo else max(2, int(sp.floor(low)) + 2)
    return sp.Integer(find_tail(expression, first)[0])


def _fence(expression: Expr, point: Expr, width: arb) -> arb | None:
    """Return a radius within which an exact zero at the point is the only one; None if the point is no zero."""
    order, derivative = 0, expression
    while constant_sign(derivative.subs(X, point)) == 0:
        order, derivative = order + 1, sp.diff(derivative, X)
        if order > _HIGHEST_ORDER:
            raise UndecidedError(f"{expression} is flat to order {order} at {point}")
    if order == 0:
        return None
    radius = width / 4
    for _ in range(200):
        around = constant_ball(point) + arb(0, radius.upper())
        if sign_of(tape(expression).taylor(around, order)[0]):
            return radius
        radius /= 2
    raise UndecidedError(f"the zero of {expression} at {point} could not be fenced off")


def _isolate(function: Tape, low: arb, high: arb) -> list[Number]:
    zeros: list[Number] = []
    stack = [(Fraction(0), Fraction(1))]
    width = high - low
    for _ in range(MOST_BOXES):
        if not stack:
            return zeros
        first, last = stack.pop()
        a, b = low + width * to_ball(first), low + width * to_ball(last)
        box = a.union(b)
        value, slope = function.jet(box, 1)
        if not sign_of(value) and not sign_of(slope):
            value, slope = function.taylor(box)
        if sign_of(value):
            continue
        ends = sign_of(function(a)), sign_of(function(b))
        if sign_of(slope) and None not in ends and 0 not in ends:
            if ends[0] != ends[1]:
                zeros.append(_refine(function, a, b))
            continue
        middle = (first + last) / 2
        if not sign_of(function(low + width * to_ball(middle))):
            middle = first + (last - first) * Fraction(7, 16)
        stack += [(middle, last), (first, middle)]
    raise UndecidedError(f"more than {MOST_BOXES} boxes were needed")


def find_tail(expression: Expr, first: int = 2) -> tuple[int, int]:
    """Return (start, sign) with the sign constant on [start, inf); 0 only for the zero function.

    Raises: UndecidedError: no start up to 2^60 could be proved.
    """
    start = first
    while start <= _LONGEST_TAIL:
        try:
            return start, tail_sign(expression, start)
        except UndecidedError:
            start *= 2 if start < _FINE else 2**8
    raise UndecidedError(f"the sign of {expression} near infinity could not be proved")

"""Limits of functions that are analytic at a point, or algebraic at infinity, from the first terms of a power series.

At a finite point top / bottom has the quotient of their first derivatives that do not vanish for its limit. An
algebraic function at infinity is written in s = x^(-1/step), which makes it analytic at s = 0 if every root is of
something above 0 there.
"""

import math
from functools import lru_cache

import sympy as sp

from .balls import FUNCTIONS, Expr, X, to_fraction
from .exact import constant_sign, tidy
from .values import UndecidedError

_HIGHEST_ORDER = 16
_MOST_OPERATIONS = 2_000


@lru_cache(maxsize=1024)
def limit_at(expression: Expr, point: Expr, *, from_right: bool) -> Expr:
    """Return the exact one-sided limit at a finite point, +-oo included.

    Raises: UndecidedError: the expression is no quotient of functions that are analytic at the point.
    """
    top, bottom = sp.fraction(sp.together(expression))
    if not (analytic_at(top, point) and analytic_at(bottom, point)):
        raise UndecidedError(f"the limit of {expression} at {point} was not proved: it is not analytic there")
    above, below = _leading(top, point), _leading(bottom, point)
    if above is None:
        return sp.Integer(0)
    if below is None:
        raise UndecidedError(f"the denominator of {expression} vanishes identically near {point}")
    gap = above[0] - below[0]
    if gap > 0:
        return sp.Integer(0)
    ratio = above[1] / below[1]
    if gap == 0:
        return tidy(ratio)
    return sp.oo * constant_sign(ratio) * (1 if from_right or gap % 2 == 0 else -1)


def analytic_at(expression: Expr, point: Expr) -> bool:
    """Whether the expression is proved analytic at a point: no denominator, root or logarithm is at its singularity."""
    for part in sp.preorder_traversal(expression):
        if isinstance(part, sp.Function) and part.has(X) and part.func not in FUNCTIONS:
            return False
        if isinstance(part, sp.log) and part.has(X):
            if constant_sign(part.args[0].subs(X, point)) <= 0:
                return False
        elif isinstance(part, sp.Pow) and part.base.has(X) and not (part.exp.is_Integer and part.exp >= 0):
            sign = constant_sign(part.base.subs(X, point))
            if sign == 0 or (sign < 0 and not part.exp.is_Integer):
                return False
    return True


def _leading(expression: Expr, point: Expr) -> tuple[int, Expr] | None:
    """Return (m, c) with the expression = c h^m + O(h^(m+1)) at point + h; None for the zero function."""
    if expression.is_polynomial(X):
        powers = sp.Poly(expression.subs(X, X + point) if point != 0 else expression, X).terms()
        for (power,), coefficient in reversed(powers):
            if constant_sign(coefficient):
                return int(power), coefficient
        return None
    derivative = expression
    for order in range(_HIGHEST_ORDER + 1):
        if derivative == 0:
            return None
        value = derivative.subs(X, point)
        if constant_sign(value):
            return order, value / sp.factorial(order)
        derivative = sp.diff(derivative, X)
        if sp.count_ops(derivative) > _MOST_OPERATIONS:
            raise UndecidedError(f"{expression} is flat to order {order} at {point}, or beyond; the search ends there")
    raise UndecidedError(f"{expression} is flat to order {_HIGHEST_ORDER} at {point}")


def algebraic_limit(expression: Expr) -> Expr | None:
    """Return the limit at infinity of an algebraic function of x; None where the expression is none, or is not real.

    Raises: UndecidedError: the function is flat to a high order at infinity.
    Example:
        >>> algebraic_limit(X * (sp.sqrt(X**2 + 1) - X))
        1/2
    """
    found = algebraic_lead(expression)
    if found is None:
        return None
    coefficient, power = found
    if power == 0:
        return tidy(coefficient)
    return sp.Integer(0) if power < 0 else sp.oo * constant_sign(coefficient)


@lru_cache(maxsize=1024)
def algebraic_lead(expression: Expr) -> tuple[Expr, Expr] | None:
    """Return (c, k) with the expression = x^k (c + o(1)) at infinity, c other than 0; (0, 0) for the zero function.

    None where the expression is no algebraic function of x, or is not real.
    Raises: UndecidedError: the function is flat to a high order at infinity.
    """
    if any(isinstance(part, sp.Function) and part.has(X) for part in sp.preorder_traversal(expression)):
        return None
    roots = [node for node in expression.atoms(sp.Pow) if node.has(X)]
    if not all(node.exp.is_Rational for node in roots):
        return None
    step = math.lcm(*(int(node.exp.q) for node in roots))
    mirrored = _mirror(expression, step)
    if mirrored is None:
        return None
    zero = sp.Integer(0)
    top, bottom = sp.fraction(sp.together(mirrored))
    if not (analytic_at(top, zero) and analytic_at(bottom, zero)):
        return None
    above, below = _leading(top, zero), _leading(bottom, zero)
    if below is None:
        return None
    if above is None:
        return zero, zero
    return above[1] / below[1], sp.Rational(below[0] - above[0], step)


def _mirror(node: Expr, step: int) -> Expr | None:
    """Write the node in s = x^(-1/step) > 0, with every root taken of a function that is above 0 at s = 0."""
    if not node.has(X):
        return node
    if node == X:
        return X**-step
    parts: list[Expr] = []
    for part in node.args[:1] if isinstance(node, sp.Pow) else node.args:
        mirrored = _mirror(part, step)
        if mirrored is None:
            return None
        parts.append(mirrored)
    if not isinstance(node, sp.Pow):
        return sp.cancel(sp.together(node.func(*parts))) if _rational(parts) else sp.together(node.func(*parts))
    if node.exp.is_Integer:
        return parts[0] ** node.exp
    if not parts[0].is_rational_function(X):
        return None
    top, bottom = (sp.Poly(part, X) for part in sp.fraction(sp.cancel(parts[0])))
    order = min(power for (power,) in top.monoms()) - min(power for (power,) in bottom.monoms())
    exponent = order * to_fraction(node.exp)
    inner = sp.cancel(parts[0] / X**order)
    if exponent.denominator != 1 or constant_sign(inner.subs(X, 0)) <= 0:
        return None
    return X ** int(exponent) * inner**node.exp


def _rational(parts: list[Expr]) -> bool:
    return all(part.is_rational_function(X) for part in parts)

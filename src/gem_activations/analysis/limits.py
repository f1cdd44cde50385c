"""Exact limits, by rules that are proved; a limit that they do not settle is refused, never taken from elsewhere.

At a finite point: leading terms of power series (`points`). At infinity: the dominant monomial of every factor
(`tails`), sums of limits that are not of opposite infinities, L'Hopital's rule, and the power series in 1/x of an
algebraic function. Where those fail at first, log(A) is written as G + log(A exp(-G)), exp(G) the dominant monomial of
A, and erf(g) as 1 - erfc(g) or erfc(-g) - 1, so that equal terms cancel.
"""

from collections.abc import Sequence
from functools import lru_cache

import sympy as sp

from .balls import Expr, X
from .exact import Factor, constant_sign, factorise, simplest
from .points import algebraic_lead, algebraic_limit, limit_at
from .tails import find_tail, is_elementary, lead
from .values import CertificateError, UndecidedError

_MOST_RULES = 12
_FUNCTIONS = (sp.erf, sp.erfc, sp.log)
_Monomial = tuple[Expr, Expr, Expr]  # (c, k, g) for c x^k exp(g).


@lru_cache(maxsize=1024)
def limit(expression: Expr, point: Expr, side: str = "+") -> Expr:
    """Give the exact limit, +-oo included.

    Args:
        point: A number (approached from `side`), oo or -oo.
    Raises: UndecidedError: the rules do not settle it, or there is no limit on the extended line.
    Example:
        >>> limit(sp.log(1 + sp.exp(X)) - X, sp.oo)
        0
    """
    if point == -sp.oo:
        return limit(expression.subs(X, -X), sp.oo)
    if point != sp.oo:
        return limit_at(expression, point, from_right=side == "+")
    for spelling in (expression, _separated(expression)):
        value = _direct(spelling, _MOST_RULES)
        if value is None:
            value = algebraic_limit(spelling)
        if value is not None:
            return simplest(value) if value.has(sp.Add) else value
    raise UndecidedError(f"the limit of {expression} at {point} was not proved")


def _direct(expression: Expr, rules: int) -> Expr | None:
    """Give the limit at infinity by at most so many nested rules; None where they do not settle it."""
    if not expression.has(X):
        return _settled(expression)
    if rules == 0:
        return None
    if expression.func in _FUNCTIONS:
        return _of_function(expression, rules)
    product = factorise(expression)
    if product.sign == 0:
        return sp.Integer(0)
    leads = {factor: _lead(factor) for factor in product.factors}
    simple = {factor: found for factor, found in leads.items() if found is not None}
    hard = [factor for factor in product.factors if factor not in simple]
    size = _leading_limit(product.scale, simple)
    if not hard or size is None:
        return size
    values = [size]
    for factor in hard:
        value = _of_sum(factor.expression, rules)
        if value is None or (value == 0 and factor.multiplicity < 0):
            return None
        values.append(value**factor.multiplicity)
    if not (0 in values and {sp.oo, -sp.oo} & set(values)):
        return sp.Mul(*values)
    if len(hard) > 1 or hard[0].multiplicity != 1:
        return None
    # L'Hopital's rule for weight * hard = hard / (1 / weight), both to 0 or both to infinity.
    weight = product.scale * sp.Mul(*(factor.expression**factor.multiplicity for factor in simple))
    return _direct(sp.diff(hard[0].expression, X) / sp.diff(1 / weight, X), rules - 1)


def _settled(value: Expr) -> Expr | None:
    """Give a constant, as 0 where it is 0 in another spelling; None where its sign is not decided."""
    if value.is_Rational or not value.is_finite:
        return value
    try:
        return value if constant_sign(value) else sp.Integer(0)
    except CertificateError:
        return None


def _of_function(expression: Expr, rules: int) -> Expr | None:
    inner = _direct(expression.args[0], rules - 1)
    if inner is None:
        return None
    if isinstance(expression, sp.log) and inner != sp.oo and (inner == 0 or constant_sign(inner) <= 0):
        return -sp.oo if inner == 0 else None
    return _settled(expression.func(inner))


def _of_sum(expression: Expr, rules: int) -> Expr | None:
    if expression.func in _FUNCTIONS:
        return _of_function(expression, rules)
    if not isinstance(expression, sp.Add):
        return algebraic_limit(expression)
    known = _all(expression.args, rules)
    if known is not None and {sp.oo, -sp.oo} <= set(known):
        return _of_difference(expression.args, known, rules)
    return None if known is None else _settled(sp.Add(*known))


def _all(expressions: Sequence[Expr], rules: int) -> list[Expr] | None:
    """Give the limits of all expressions; None where one is not settled."""
    known: list[Expr] = []
    for expression in expressions:
        value = _direct(expression, rules - 1)
        if value is None:
            return None
        known.append(value)
    return known


def _of_difference(terms: tuple[Expr, ...], limits: list[Expr], rules: int) -> Expr | None:
    """Give the limit of a sum with terms to oo and to -oo, from the ratios of all terms to one that is infinite."""
    for term, end in zip(terms, limits, strict=True):
        if end in (sp.oo, -sp.oo):
            ratios = _all([other / term for other in terms], rules)
            if ratios is not None and all(ratio.is_finite for ratio in ratios):
                sign = constant_sign(sp.Add(*ratios))
                return end * sign if sign else None
    return None


def _leading_limit(scale: Expr, leads: dict[Factor, _Monomial]) -> Expr | None:
    """Give the limit at infinity of a product from the dominant monomial of every factor."""
    size: Expr = scale
    power, exponent = sp.Integer(0), sp.Integer(0)
    try:
        for factor, found in leads.items():
            size *= found[0] ** factor.multiplicity
            power += found[1] * factor.multiplicity
            exponent += found[2] * factor.multiplicity
        exponent = sp.expand(exponent)
        settled = _finite_limit(exponent)
        if settled is not None:
            # x^power times a constant.
            size *= sp.exp(settled)
            return size if power == 0 else sp.Integer(0) if power < 0 else sp.oo * constant_sign(size)
        # x d/dx log of the monomial: where its limit is not 0, the monomial tends to 0 or to infinity.
        end = limit(sp.expand(power + X * sp.diff(exponent, X)), sp.oo)
    except UndecidedError:
        return None
    growth = constant_sign(end) if end.is_finite else (1 if end == sp.oo else -1)
    return None if growth == 0 else sp.Integer(0) if growth < 0 else sp.oo * constant_sign(size)


def _finite_limit(expression: Expr) -> Expr | None:
    """Give the limit at infinity where it is finite and proved, else None."""
    if not expression.has(X):
        return expression
    try:
        end = limit(expression, sp.oo)
    except UndecidedError:
        return None
    return end if end.is_finite else None


def _lead(factor: Factor) -> _Monomial | None:
    """Give (c, k, g) with the factor = x^k exp(g) (c + o(1)), c other than 0; None where that is not proved."""
    try:
        if is_algebraic(factor):
            found = algebraic_lead(factor.expression)
            return None if found is None or found[0] == 0 else (*found, sp.Integer(0))
        if not is_elementary(factor):
            return None
        dominant = lead(factor, find_tail(factor.expression)[0], 0)
    except UndecidedError:
        return None
    return None if dominant.coefficient is None else (dominant.coefficient, dominant.power, dominant.exponent)


def is_algebraic(factor: Factor) -> bool:
    """Whether a factor holds roots, and no function but roots."""
    return bool(factor.generators) and all(isinstance(function, sp.Pow) for function in factor.generators.values())


@lru_cache(maxsize=256)
def _separated(expression: Expr) -> Expr:
    """Write every log and erf as a leading part and a rest, as the module says: the same function."""
    swaps: dict[Expr, Expr] = {}
    for node in expression.atoms(sp.erf):
        end = _direct(node.args[0], _MOST_RULES)
        if end in (sp.oo, -sp.oo):
            swaps[node] = 1 - sp.erfc(node.args[0]) if end == sp.oo else sp.erfc(-node.args[0]) - 1
    for node in expression.atoms(sp.log):
        if node.has(X):
            exponent = _dominant_exponent(node.args[0])
            if exponent is not None:
                swaps[node] = exponent + sp.log(sp.expand(sp.expand(node.args[0]) * sp.exp(-exponent)))
    return sp.expand(expression.xreplace(swaps)) if swaps else expression


def _dominant_exponent(expression: Expr) -> Expr | None:
    product = factorise(expression)
    if not all(is_elementary(factor) for factor in product.factors):
        return None
    try:
        found = [(lead(f, find_tail(f.expression)[0], 0), f.multiplicity) for f in product.factors]
    except UndecidedError:
        return None
    exponent = sp.expand(sum((one.exponent * times for one, times in found), sp.Integer(0)))
    return exponent if exponent.has(X) else None

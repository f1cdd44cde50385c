"""Signs on a half-line [start, inf), proved by dominance.

For a polynomial in x and exponentials over x, one monomial m0 dominates at infinity. Every other monomial's ratio
r_i = m_i / m0 is positive, and decreasing from `start` on where its logarithmic derivative is negative there, a
statement of the same kind one level lower in the tower. So |sum of the others| / m0 is at most its value at `start`,
and if that is below |c0|, the sign of c0 is the sign of the whole on the half-line. A function with erf, log or roots
is settled from its derivative: with the sign of f' and the limit L of f known, f is monotone between f(start) and L.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import sympy as sp
from flint import arb

from .balls import constant_ball, constant_sign, hull, sign_of, tape, whole_power
from .expressions import Expr, X, arguments
from .tower import Factor, factorise, without_root
from .values import CertificateError

LONGEST_TAIL = 4096
_DEPTH = 4
_TERMS = 4


class UndecidedError(CertificateError):
    """A proof that could not be closed."""


@lru_cache(maxsize=1024)
def limit(expression: Expr, point: Expr, side: str = "+") -> Expr:
    """Give the exact limit, +-oo included.

    Args:
        point: A number (approached from `side`), oo or -oo.
    Raises: CertificateError: there is no limit on the extended line.
    """
    if point == -sp.oo:
        return limit(expression.subs(X, -X), sp.oo)
    if point == sp.oo:
        known = _direct(expression)
        if known is not None:
            return known
    try:
        value = sp.limit(expression, X, point, side)
    except (NotImplementedError, ValueError, TypeError, RecursionError) as error:
        raise CertificateError(f"cannot find the limit of {expression} at {point}: {error}") from None
    if isinstance(value, sp.AccumBounds) or value.has(sp.zoo, sp.nan, sp.I, sp.Limit):
        raise CertificateError(f"{expression} has no real limit at {point} (found {value})")
    return sp.simplify(value) if value.has(sp.Add) else value


def _direct(expression: Expr) -> Expr | None:
    """Give the limit at infinity by the rules of this module; None where they do not settle it."""
    if not expression.has(X):
        return expression
    if expression.func in (sp.erf, sp.log):
        inner = _direct(expression.args[0])
        if inner is None or expression.func is sp.erf:
            return None if inner is None else sp.erf(inner)
        return -sp.oo if inner == 0 else sp.log(inner)
    product = factorise(expression)
    simple = [factor for factor in product.factors if _is_elementary(factor)]
    hard = [factor for factor in product.factors if not _is_elementary(factor)]
    size = _leading_limit(product.scale, simple)
    if not hard or size is None:
        return size
    if len(hard) > 1 or hard[0].multiplicity != 1:
        return None
    other = _of_sum(hard[0].expression)
    if other is None:
        return None
    if other == sp.S.Zero and not size.is_finite:
        # L'Hopital's rule for weight * hard, with hard -> 0 and 1 / weight -> 0.
        weight = product.scale * sp.Mul(*(factor.expression**factor.multiplicity for factor in simple))
        return _direct(sp.diff(hard[0].expression, X) / sp.diff(1 / weight, X))
    return size * other if size != sp.S.Zero or other.is_finite else None


def _of_sum(expression: Expr) -> Expr | None:
    if expression.func in (sp.erf, sp.log):
        return _direct(expression)
    parts = [_direct(part) for part in expression.args] if isinstance(expression, sp.Add) else [None]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or {sp.oo, -sp.oo} <= set(known):
        return None
    return sp.Add(*known)


def _is_elementary(factor: Factor) -> bool:
    return all(isinstance(function, sp.exp) for function in factor.generators.values())


def _leading_limit(scale: Expr, factors: list[Factor]) -> Expr | None:
    """Give the limit at infinity of a product from the dominant monomial of every factor."""
    size: Expr = scale
    rate: Expr = 0
    try:
        for factor in factors:
            lead = _lead(factor, find_tail(factor.expression)[0], 0)
            if lead.coefficient is None:
                return None
            size *= lead.coefficient**factor.multiplicity
            rate += lead.rate * factor.multiplicity
    except UndecidedError:
        return None
    rate = sp.expand(sp.sympify(rate))
    end = limit(rate, sp.oo) if rate.has(X) else rate
    if rate.has(X) and end == 0:
        return None
    growth = constant_sign(end) if end.is_finite else (1 if end == sp.oo else -1)
    return size if growth == 0 else sp.Integer(0) if growth < 0 else sp.oo * constant_sign(size)


def find_tail(expression: Expr, first: int = 2) -> tuple[int, int]:
    """Give (start, sign) with the sign constant on [start, inf); 0 only for the zero function.

    Raises: UndecidedError: no start up to 4096 could be proved.
    """
    start = first
    while start <= LONGEST_TAIL:
        try:
            return start, tail_sign(expression, start)
        except UndecidedError:
            start *= 2
    raise UndecidedError(f"the sign of {expression} near infinity could not be proved")


@lru_cache(maxsize=4096)
def tail_sign(expression: Expr, start: int, depth: int = 0) -> int:
    """Give the sign that the expression keeps on [start, inf), start >= 1.

    Raises: UndecidedError: not proved from this start.
    """
    product = factorise(expression)
    sign = product.sign
    try:
        for factor in product.factors:
            if factor.multiplicity % 2:
                sign *= _factor_sign(factor, start, depth)
    except UndecidedError:
        if all(isinstance(f, (sp.exp, sp.Pow)) for factor in product.factors for f in factor.generators.values()):
            raise
        # A factor of a sum over a common denominator may be harder than the sum itself.
        return _from_derivative(expression, start, depth)
    return sign


def _factor_sign(factor: Factor, start: int, depth: int) -> int:
    if factor.lifted.is_Symbol and factor.lifted != X and factor.lifted.is_positive:
        return 1
    if _is_elementary(factor):
        return _lead(factor, start, depth).sign
    conjugate = without_root(factor)
    if conjugate is not None:
        return _conjugate_sign(conjugate, start, depth)
    return _from_derivative(factor.expression, start, depth)


def _conjugate_sign(parts: tuple[Expr, Expr, Expr], start: int, depth: int) -> int:
    plain, root, norm = (tail_sign(part, start, depth) for part in parts)
    if plain * root >= 0:
        return plain or root
    return plain * norm


def _from_derivative(expression: Expr, start: int, depth: int) -> int:
    if depth >= _DEPTH:
        raise UndecidedError(f"the sign of {expression} beyond {start} is not settled by {depth} derivatives")
    slope = tail_sign(sp.diff(expression, X), start, depth + 1)
    end = limit(expression, sp.oo)
    here = sign_of(tape(expression)(arb(start)))
    there = constant_sign(end) if end.is_finite else (1 if end == sp.oo else -1)
    if there == 0:
        return -slope
    # f runs from f(start) towards a limit of the sign `there`: only a start strictly on that side excludes a zero.
    if slope == there and here != there:
        raise UndecidedError(f"{expression} may change sign beyond {start}")
    return there


@dataclass(frozen=True)
class _Lead:
    """The dominant monomial: the sign of its coefficient, and x times its logarithmic derivative.

    `coefficient` is the exact coefficient where all other monomials are proved to vanish beside this one, else None.
    """

    sign: int
    coefficient: Expr | None
    rate: Expr


def _lead(factor: Factor, start: int, depth: int) -> _Lead:
    lifted, functions, constants = _near_one(factor, start)
    terms = sp.Poly(lifted, X, *functions).terms()
    sizes = [_enclose(c, constants) for _, c in terms]
    values = [arb(start), *(tape(function)(arb(start)) for function in functions.values())]
    lead = max(range(len(terms)), key=lambda k: _far(functions, terms[k][0], start))
    powers, coefficient = terms[lead]
    rest = arb(0)
    for k, (others, _) in enumerate(terms):
        if k == lead:
            continue
        rate = _rate(functions, [p - q for p, q in zip(others, powers, strict=True)])
        if not _negative(rate, start, depth):
            raise UndecidedError(f"{factor.expression}: no monomial dominates beyond {start}")
        rest += abs(sizes[k]) * _monomial(values, others) / _monomial(values, powers)
    sign = sign_of(sizes[lead])
    if sign is None or not rest < abs(sizes[lead]):
        raise UndecidedError(f"{factor.expression} may change sign beyond {start}")
    exact = sp.sympify(coefficient).xreplace(dict(factor.tower))
    known = not exact.free_symbols and all(_grows(function.args[0]) for function in functions.values())
    return _Lead(sign, exact if known else None, _rate(functions, powers))


def _grows(exponent: Expr) -> bool:
    # Only then does a ratio of monomials that falls also tend to 0.
    return exponent.is_polynomial(X) or not limit(exponent, sp.oo).is_finite


def _rate(functions: dict[sp.Symbol, Expr], powers: Sequence[int]) -> Expr:
    slopes = (b * sp.diff(f.args[0], X) for b, f in zip(powers[1:], functions.values(), strict=True))
    return sp.sympify(powers[0] + X * sum(slopes))


def _near_one(factor: Factor, start: int) -> tuple[Expr, dict[sp.Symbol, Expr], dict[sp.Symbol, arb]]:
    """Expand every exp(h) with h = c exp(g) -> 0 as its series to h^3 plus h^4 / 4! times [1, exp(h(start))]."""
    lifted, functions = factor.lifted, factor.generators
    constants = {symbol: constant_ball(value) for symbol, value in factor.tower if not value.has(X)}
    for symbol, function in list(functions.items()):
        exponent = function.args[0]
        if not exponent.has(sp.exp) or limit(exponent, sp.oo) != 0:
            continue
        power = _as_power(exponent, dict(factor.tower), functions)
        if tail_sign(sp.diff(exponent, X), start) * tail_sign(exponent, start) >= 0:
            raise UndecidedError(f"{exponent} does not shrink beyond {start}")
        remainder = sp.Dummy(positive=True)
        constants[remainder] = hull(arb(1), tape(function)(arb(start)))
        series = sum((power**j / sp.factorial(j) for j in range(_TERMS)), sp.Integer(0))
        del functions[symbol]
        lifted = sp.expand(lifted.subs(symbol, series + remainder * power**_TERMS / sp.factorial(_TERMS)))
    return lifted, functions, constants


def _as_power(exponent: Expr, tower: dict[sp.Symbol, Expr], functions: dict[sp.Symbol, Expr]) -> Expr:
    coefficient, inner = exponent.as_independent(X)
    if not (coefficient.is_Rational and isinstance(inner, sp.exp)):
        raise UndecidedError(f"exp({exponent}) tends to 1 and {exponent} is not a power of an exponential")
    for symbol, function in tower.items():
        if isinstance(function, sp.exp):
            ratio = sp.cancel(arguments(inner)[0] / arguments(function)[0])
            if ratio.is_Integer and ratio > 0:
                functions[symbol] = function
                return coefficient * symbol**ratio
    symbol = sp.Dummy(positive=True)
    functions[symbol] = inner
    return coefficient * symbol


def _enclose(coefficient: Expr, constants: dict[sp.Symbol, arb]) -> arb:
    symbols = sorted(coefficient.free_symbols, key=str)
    total = arb(0)
    for powers, number in sp.Poly(coefficient, *symbols).terms() if symbols else [((), coefficient)]:
        total += constant_ball(sp.sympify(number)) * _monomial([constants[s] for s in symbols], powers)
    return total


def _negative(rate: Expr, start: int, depth: int) -> bool:
    if not rate.has(X):
        return constant_sign(rate) < 0
    return tail_sign(rate, start, depth) < 0


def _monomial(values: list[arb], powers: tuple[int, ...]) -> arb:
    product = arb(1)
    for value, power in zip(values, powers, strict=True):
        product *= whole_power(value, power)
    return product


def _far(functions: dict[sp.Symbol, Expr], powers: tuple[int, ...], start: int) -> float:
    # Only a guess of which monomial leads; the proof does not rest on it.
    point = arb(start) * 4
    logarithm = powers[0] * point.log()
    for power, function in zip(powers[1:], functions.values(), strict=True):
        logarithm += power * tape(function.args[0])(point)
    return float(logarithm.mid().min(arb(10) ** 300).max(-(arb(10) ** 300)))

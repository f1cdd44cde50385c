"""Signs on a half-line [start, inf), proved by dominance.

For a polynomial in x and exponentials over x, one monomial m0 dominates at infinity. Every other monomial's ratio
r_i = m_i / m0 is positive, and decreasing from `start` on where its logarithmic derivative is negative there, a
statement of the same kind one level lower in the tower. So |sum of the others| / m0 is at most its value at `start`,
and if that is below |c0|, the sign of c0 is the sign of the whole on the half-line. A function with erf, log or roots
is settled from its derivative: with the sign of f' and the limit L of f known, f is monotone between f(start) and L.
"""

from functools import lru_cache

import sympy as sp
from flint import arb

from .balls import X, constant_ball, constant_sign, hull, sign_of, tape
from .tower import Factor, factorise, without_root
from .values import CertificateError

LONGEST_TAIL = 4096
_DEPTH = 4
_TERMS = 4


class UndecidedError(CertificateError):
    """A proof that could not be closed."""


@lru_cache(maxsize=512)
def limit(expression: sp.Expr, point: sp.Expr, side: str = "+") -> sp.Expr:
    """Give the exact limit, +-oo included.

    Args:
        point: A number (approached from `side`), oo or -oo.
    Raises: CertificateError: there is no limit on the extended line.
    """
    try:
        value = sp.limit(expression, X, point, side)
    except (NotImplementedError, ValueError, TypeError, RecursionError) as error:
        raise CertificateError(f"cannot find the limit of {expression} at {point}: {error}") from None
    if isinstance(value, sp.AccumBounds) or value.has(sp.zoo, sp.nan, sp.I, sp.Limit):
        raise CertificateError(f"{expression} has no real limit at {point} (found {value})")
    return sp.simplify(value) if value.has(sp.Add) else value


def find_tail(expression: sp.Expr, first: int = 2) -> tuple[int, int]:
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
def tail_sign(expression: sp.Expr, start: int, depth: int = 0) -> int:
    """Give the sign that the expression keeps on [start, inf), start >= 1.

    Raises: UndecidedError: not proved from this start.
    """
    product = factorise(expression)
    sign = product.sign
    for factor in product.factors:
        if factor.multiplicity % 2:
            sign *= _factor_sign(factor, start, depth)
    return sign


def _factor_sign(factor: Factor, start: int, depth: int) -> int:
    if factor.lifted.is_Symbol and factor.lifted != X and factor.lifted.is_positive:
        return 1
    if all(isinstance(function, sp.exp) for function in factor.generators.values()):
        return _dominance(factor, start, depth)
    conjugate = without_root(factor)
    if conjugate is not None:
        return _conjugate_sign(conjugate, start, depth)
    return _from_derivative(factor.expression, start, depth)


def _conjugate_sign(parts: tuple[sp.Expr, sp.Expr, sp.Expr], start: int, depth: int) -> int:
    plain, root, norm = (tail_sign(part, start, depth) for part in parts)
    if plain * root >= 0:
        return plain or root
    return plain * norm


def _from_derivative(expression: sp.Expr, start: int, depth: int) -> int:
    if depth >= _DEPTH:
        raise UndecidedError(f"the sign of {expression} beyond {start} is not settled by {depth} derivatives")
    slope = tail_sign(sp.diff(expression, X), start, depth + 1)
    end = limit(expression, sp.oo)
    here = sign_of(tape(expression)(arb(start)))
    there = constant_sign(end) if end.is_finite else (1 if end == sp.oo else -1)
    if there == 0:
        return -slope
    if slope == there and here not in (0, there):
        raise UndecidedError(f"{expression} may change sign beyond {start}")
    return there


def _dominance(factor: Factor, start: int, depth: int) -> int:
    lifted, functions, constants = _near_one(factor, start)
    names = [X, *functions]
    terms = [(powers, _enclose(c, constants)) for powers, c in sp.Poly(lifted, *names).terms()]
    values = [arb(start), *(tape(function)(arb(start)) for function in functions.values())]
    sizes = [_monomial(values, powers) for powers, _ in terms]
    lead = max(range(len(terms)), key=lambda k: _far(functions, terms[k][0], start))
    rest = arb(0)
    for k, (powers, coefficient) in enumerate(terms):
        if k == lead:
            continue
        shift = [p - q for p, q in zip(powers, terms[lead][0], strict=True)]
        rate = shift[0] + X * sum(b * sp.diff(f.args[0], X) for b, f in zip(shift[1:], functions.values(), strict=True))
        if not _negative(sp.sympify(rate), start, depth):
            raise UndecidedError(f"{factor.expression}: no monomial dominates beyond {start}")
        rest += abs(coefficient) * sizes[k] / sizes[lead]
    leading = terms[lead][1]
    sign = sign_of(leading)
    if sign is None or not rest < abs(leading):
        raise UndecidedError(f"{factor.expression} may change sign beyond {start}")
    return sign


def _near_one(factor: Factor, start: int) -> tuple[sp.Expr, dict[sp.Symbol, sp.Expr], dict[sp.Symbol, arb]]:
    """Expand every exp(h) with h = c exp(g) -> 0: sum of h^j / j! for j < J, plus h^J / J! times a number in [1, exp(h(start))]."""
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


def _as_power(exponent: sp.Expr, tower: dict[sp.Symbol, sp.Expr], functions: dict[sp.Symbol, sp.Expr]) -> sp.Expr:
    coefficient, inner = exponent.as_independent(X)
    if not (coefficient.is_Rational and isinstance(inner, sp.exp)):
        raise UndecidedError(f"exp({exponent}) tends to 1 and {exponent} is not a power of an exponential")
    for symbol, function in tower.items():
        if isinstance(function, sp.exp):
            ratio = sp.cancel(inner.args[0] / function.args[0])
            if ratio.is_Integer and ratio > 0:
                functions[symbol] = function
                return coefficient * symbol**ratio
    symbol = sp.Dummy(positive=True)
    functions[symbol] = inner
    return coefficient * symbol


def _enclose(coefficient: sp.Expr, constants: dict[sp.Symbol, arb]) -> arb:
    symbols = sorted(coefficient.free_symbols, key=str)
    total = arb(0)
    for powers, number in sp.Poly(coefficient, *symbols).terms() if symbols else [((), coefficient)]:
        total += constant_ball(sp.sympify(number)) * _monomial([constants[s] for s in symbols], powers)
    return total


def _negative(rate: sp.Expr, start: int, depth: int) -> bool:
    if not rate.has(X):
        return constant_sign(rate) < 0
    return tail_sign(rate, start, depth) < 0


def _monomial(values: list[arb], powers: tuple[int, ...]) -> arb:
    product = arb(1)
    for value, power in zip(values, powers, strict=True):
        product *= value**power
    return product


def _far(functions: dict[sp.Symbol, sp.Expr], powers: tuple[int, ...], start: int) -> float:
    # Only a guess of which monomial leads; the proof does not rest on it.
    point = arb(start) * 4
    logarithm = powers[0] * point.log()
    for power, function in zip(powers[1:], functions.values(), strict=True):
        logarithm += power * tape(function.args[0])(point)
    return float(logarithm.mid().min(arb(10) ** 300).max(-(arb(10) ** 300)))

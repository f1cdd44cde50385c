"""Signs on a half-line [start, inf), proved by dominance.

For a polynomial in x and exponentials over x, one monomial m0 dominates at infinity. Every other monomial's ratio
r_i = m_i / m0 is positive, and decreasing from `start` on where its logarithmic derivative is negative there, a
statement of the same kind one level lower in the tower. So |sum of the others| / m0 is at most its value at `start`,
and if that is below |c0|, the sign of c0 is the sign of the whole on the half-line. A function with erf, log or roots
is settled from its derivative: with the sign of f' and the limit L of f known, f is monotone between f(start) and L.
The limits come from `limits`, which rests on this module in turn: each step asks for something simpler, or gives up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import sympy as sp
from flint import arb

from .balls import Expr, X, arguments, constant_ball, hull, sign_of, tape, whole_power
from .exact import MOST_OPERATIONS, Factor, constant_sign, factorise, without_root
from .values import UndecidedError

LONGEST_TAIL = 2**60
_FINE = 4096  # Up to here the start of a tail is doubled, beyond it grows by 2^8.
_DEPTH = 4
_LONGEST_NAMED = 60
_TERMS = 4


def find_tail(expression: Expr, first: int = 2) -> tuple[int, int]:
    """Give (start, sign) with the sign constant on [start, inf); 0 only for the zero function.

    Raises: UndecidedError: no start up to 2^60 could be proved.
    """
    start = first
    while start <= LONGEST_TAIL:
        try:
            return start, tail_sign(expression, start)
        except UndecidedError:
            start *= 2 if start < _FINE else 2**8
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
            # An even power too must keep its sign: a double zero, or a pole, would be passed over else.
            part = _factor_sign(factor, start, depth)
            sign *= part if factor.multiplicity % 2 else part**2
    except UndecidedError:
        if all(isinstance(f, (sp.exp, sp.Pow)) for factor in product.factors for f in factor.generators.values()):
            raise
        # A factor of a sum over a common denominator may be harder than the sum itself.
        return _from_derivative(expression, start, depth)
    return sign


def is_elementary(factor: Factor) -> bool:
    """Whether a factor is a polynomial in x and exponentials."""
    return all(isinstance(function, sp.exp) for function in factor.generators.values())


def _factor_sign(factor: Factor, start: int, depth: int) -> int:
    if factor.lifted.is_Symbol and factor.lifted != X and factor.lifted.is_positive:
        return 1
    if is_elementary(factor):
        return lead(factor, start, depth).sign
    conjugate = without_root(factor)
    if conjugate is not None:
        return _conjugate_sign(conjugate, start, depth)
    return _from_derivative(factor.expression, start, depth)


def _limit(expression: Expr) -> Expr:
    from .limits import limit  # It rests on this module in turn.

    return limit(expression, sp.oo)


def _conjugate_sign(parts: tuple[Expr, Expr, Expr], start: int, depth: int) -> int:
    plain, root, norm = (tail_sign(part, start, depth) for part in parts)
    if plain * root >= 0:
        return plain or root
    return plain * norm


def _brief(expression: Expr) -> str:
    # A proof tries many starts: to write out a long expression for each failure would take longer than the proof.
    length = sp.count_ops(expression)
    return str(expression) if length <= _LONGEST_NAMED else f"an expression with {length} operations"


def _from_derivative(expression: Expr, start: int, depth: int) -> int:
    if sp.count_ops(expression) > MOST_OPERATIONS:
        raise UndecidedError(f"an expression with more than {MOST_OPERATIONS} operations was not differentiated")
    if depth >= _DEPTH:
        raise UndecidedError(f"the sign of {_brief(expression)} beyond {start} is not settled by {depth} derivatives")
    slope = tail_sign(sp.diff(expression, X), start, depth + 1)
    end = _limit(expression)
    here = sign_of(tape(expression)(arb(start)))
    there = constant_sign(end) if end.is_finite else (1 if end == sp.oo else -1)
    if there == 0:
        return -slope
    # f runs from f(start) towards a limit of the sign `there`: only a start strictly on that side excludes a zero.
    if slope == there and here != there:
        raise UndecidedError(f"{_brief(expression)} may change sign beyond {start}")
    return there


@dataclass(frozen=True)
class Lead:
    """The dominant monomial x^power exp(exponent) of a factor on a half-line, times its coefficient.

    Attributes:
        sign: Sign of the coefficient, and of the factor on the whole half-line.
        coefficient: The exact coefficient where every other monomial is proved to vanish beside this one, else None.
        power, exponent: The monomial.
    """

    sign: int
    coefficient: Expr | None
    power: Expr
    exponent: Expr


def lead(factor: Factor, start: int, depth: int) -> Lead:
    """Find the dominant monomial of a factor in x and exponentials, and prove that it dominates on [start, inf).

    Proved: the ratio of every other monomial to it falls there, and their sum at `start` is below its coefficient. All
    monomials are above 0, since x >= start >= 1.
    Raises: UndecidedError: not proved from this start.
    """
    lifted, functions, constants = _near_one(factor, start)
    terms = sp.Poly(lifted, X, *functions).terms()
    sizes = [_enclose(c, constants) for _, c in terms]
    values = [arb(start), *(tape(function)(arb(start)) for function in functions.values())]
    first = max(range(len(terms)), key=lambda k: _far(functions, terms[k][0], start))
    powers, coefficient = terms[first]
    rest, vanishing = arb(0), True
    for k, (others, _) in enumerate(terms):
        if k == first:
            continue
        rate = _rate(functions, [p - q for p, q in zip(others, powers, strict=True)])
        if not _negative(rate, start, depth):
            raise UndecidedError(f"{_brief(factor.expression)}: no monomial dominates beyond {start}")
        vanishing = vanishing and _to_zero(rate)
        rest += abs(sizes[k]) * _monomial(values, others) / _monomial(values, powers)
    sign = sign_of(sizes[first])
    if sign is None or not rest < abs(sizes[first]):
        raise UndecidedError(f"{_brief(factor.expression)} may change sign beyond {start}")
    exact = sp.sympify(coefficient).xreplace(dict(factor.tower))
    exponent = sum((b * f.args[0] for b, f in zip(powers[1:], functions.values(), strict=True)), sp.Integer(0))
    known = vanishing and not exact.free_symbols
    return Lead(sign, exact if known else None, sp.Integer(powers[0]), exponent)


def _to_zero(rate: Expr) -> bool:
    """Whether a monomial with x d/dx log = rate is proved to tend to 0; where the rate tends to 0 it may not."""
    if not rate.has(X):
        return constant_sign(rate) < 0
    try:
        end = _limit(sp.expand(rate))
    except UndecidedError:
        return False
    return end == -sp.oo or (end.is_finite and constant_sign(end) < 0)


def _rate(functions: dict[sp.Symbol, Expr], powers: Sequence[int]) -> Expr:
    slopes = (b * sp.diff(f.args[0], X) for b, f in zip(powers[1:], functions.values(), strict=True))
    return sp.sympify(powers[0] + X * sum(slopes))


def _near_one(factor: Factor, start: int) -> tuple[Expr, dict[sp.Symbol, Expr], dict[sp.Symbol, arb]]:
    """Expand every exp(h) with h = c exp(g) -> 0 as its series to h^3 plus h^4 / 4! times [1, exp(h(start))]."""
    lifted, functions = factor.lifted, factor.generators
    constants = {symbol: constant_ball(value) for symbol, value in factor.tower if not value.has(X)}
    for symbol, function in list(functions.items()):
        exponent = function.args[0]
        if not exponent.has(sp.exp) or _limit(exponent) != 0:
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

"""Signs on half-lines and exact limits, by rules that are proved; what they do not settle is refused.

A newcomer needs one idea: dominance. For a polynomial in x and exponentials over x, one monomial m0 is the largest at
infinity. The ratio m_i / m0 of every other one is positive, and it falls from `start` on if its logarithmic derivative
is negative there, which is a statement of the same kind about something simpler. So from `start` on the other monomials
together are at most their value at `start`, and if that is below the coefficient of m0, the sign of the whole is the
sign of that coefficient: a half-line is settled by finitely many balls. For example exp(x) - 1000 x is positive from 16
on: x exp(-x) falls beyond 1, and 1000 * 16 exp(-16) is below 1. A function with erf, log or roots is settled from its
derivative: f is monotone between f(start) and its limit.

A limit at infinity comes from the dominant monomial of every factor, sums of limits that are not of opposite
infinities, L'Hopital's rule, and for an algebraic function from its power series (algebraic.py). If those fail at
first, log(A) is written as G + log(A exp(-G)), exp(G) the dominant monomial of A, and erf(g) as 1 - erfc(g) or
erfc(-g) - 1, so that
equal terms cancel. At a finite point top/bottom has the quotient of the first derivatives that do not vanish for its
limit.

Signs ask for limits and limits for signs: each step asks for something simpler, or gives up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy as sp
from flint import arb
from sympy.polys.rings import PolyRing

from .algebraic import algebraic_lead, algebraic_limit, limit_at
from .balls import Expr, X, arguments, constant_ball, hull, sign_of, tape, whole_power
from .exact import Factor, constant_sign, factorise, simplest, without_root
from .proofs import remembered, rests_on
from .values import CertificateError, UndecidedError

_MOST_TO_DIFFERENTIATE = 800


LONGEST_TAIL = 2**60
_FINE = 4096  # Up to here the start of a tail is doubled, beyond it grows by 2^8.
_DEPTH = 4
_LONGEST_NAMED = 60
_TERMS = 4


def find_tail(expression: Expr, first: int = 2) -> tuple[int, int]:
    """Return (start, sign) with the sign constant on [start, inf); 0 only for the zero function.

    Raises: UndecidedError: no start up to 2^60 could be proved.
    """
    start = first
    while start <= LONGEST_TAIL:
        try:
            return start, tail_sign(expression, start)
        except UndecidedError:
            start *= 2 if start < _FINE else 2**8
    raise UndecidedError(f"the sign of {expression} near infinity could not be proved")


@remembered
def tail_sign(expression: Expr, start: int, depth: int = 0) -> int:
    """Return the sign that the expression keeps on [start, inf), start >= 1.

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
        sign = _from_derivative(expression, start, depth)
    rests_on("tail", of=str(expression), start=start, sign=sign)
    return sign


def is_elementary(factor: Factor) -> bool:
    """Whether a factor is a polynomial in x and exponentials."""
    return all(isinstance(function, sp.exp) for function in factor.generators.values())


def _factor_sign(factor: Factor, start: int, depth: int) -> int:
    if factor.lifted.is_Symbol and factor.lifted != X and factor.lifted.is_positive:
        return 1
    if is_elementary(factor):
        return dominant_term(factor, start, depth).sign
    conjugate = without_root(factor)
    if conjugate is not None:
        return _conjugate_sign(conjugate, start, depth)
    return _from_derivative(factor.expression, start, depth)


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
    if sp.count_ops(expression) > _MOST_TO_DIFFERENTIATE:
        raise UndecidedError(f"an expression with more than {_MOST_TO_DIFFERENTIATE} operations was not differentiated")
    if depth >= _DEPTH:
        raise UndecidedError(f"the sign of {_brief(expression)} beyond {start} is not settled by {depth} derivatives")
    slope = tail_sign(sp.diff(expression, X), start, depth + 1)
    end = limit(expression, sp.oo)
    here = sign_of(tape(expression)(arb(start)))
    there = constant_sign(end) if end.is_finite else (1 if end == sp.oo else -1)
    if there == 0:
        return -slope
    # f runs from f(start) towards a limit of the sign `there`: only a start strictly on that side excludes a zero.
    if slope == there and here != there:
        raise UndecidedError(f"{_brief(expression)} may change sign beyond {start}")
    return there


@dataclass(frozen=True)
class DominantTerm:
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


def dominant_term(factor: Factor, start: int, depth: int) -> DominantTerm:
    """Find the dominant monomial of a factor in x and exponentials, and prove that it dominates on [start, inf).

    Proved: the ratio of every other monomial to it falls there, and their sum at `start` is below its coefficient. All
    monomials are above 0, since x >= start >= 1.
    Raises: UndecidedError: not proved from this start.
    """
    functions, terms, remainders = _terms(factor)
    constants = {symbol: constant_ball(value) for symbol, value in factor.tower if not value.has(X)}
    for remainder, function in remainders:
        exponent = function.args[0]
        if tail_sign(sp.diff(exponent, X), start) * tail_sign(exponent, start) >= 0:
            raise UndecidedError(f"{exponent} does not shrink beyond {start}")
        constants[remainder] = hull(arb(1), tape(function)(arb(start)))
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
    return DominantTerm(sign, exact if known else None, sp.Integer(powers[0]), exponent)


def _to_zero(rate: Expr) -> bool:
    """Whether a monomial with x d/dx log = rate is proved to tend to 0; where the rate tends to 0 it may not."""
    if not rate.has(X):
        return constant_sign(rate) < 0
    try:
        end = limit(sp.expand(rate), sp.oo)
    except UndecidedError:
        return False
    return end == -sp.oo or (end.is_finite and constant_sign(end) < 0)


def _rate(functions: dict[sp.Symbol, Expr], powers: Sequence[int]) -> Expr:
    slopes = (b * sp.diff(f.args[0], X) for b, f in zip(powers[1:], functions.values(), strict=True))
    return sp.sympify(powers[0] + X * sum(slopes))


_Terms = tuple[dict[sp.Symbol, Expr], list[tuple[tuple[int, ...], Expr]], list[tuple[sp.Symbol, Expr]]]


@remembered
def _terms(factor: Factor) -> _Terms:
    """Return the functions of a factor, its monomials in x and them with their coefficients, and remainders of series.

    Every exp(h) with h = c exp(g) -> 0 is written as its series to h^3 plus h^4 / 4! times a remainder, which lies
    between 1 and exp(h) if h shrinks.
    """
    lifted, functions, remainders = factor.lifted, factor.generators, []
    for symbol, function in list(functions.items()):
        exponent = function.args[0]
        if not exponent.has(sp.exp) or limit(exponent, sp.oo) != 0:
            continue
        power = _as_power(exponent, dict(factor.tower), functions)
        remainder = sp.Dummy(positive=True)
        remainders.append((remainder, function))
        series = sum((power**j / sp.factorial(j) for j in range(_TERMS)), sp.Integer(0))
        series += remainder * power**_TERMS / sp.factorial(_TERMS)
        del functions[symbol]
        ring = PolyRing(sorted(lifted.free_symbols | series.free_symbols, key=str), sp.QQ)
        lifted = ring.from_expr(lifted).compose(ring(symbol), ring.from_expr(series)).as_expr()
    terms: Any = sp.Poly(lifted, X, *functions).terms()
    return functions, terms, remainders


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


_MOST_RULES = 12
_FUNCTIONS = (sp.erf, sp.erfc, sp.log)
_Monomial = tuple[Expr, Expr, Expr]  # (c, k, g) for c x^k exp(g).


@remembered
def limit(expression: Expr, point: Expr, side: str = "+") -> Expr:
    """Return the exact limit, +-oo included.

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
        value = limit_at(expression, point, from_right=side == "+")
        rests_on("limit", of=str(expression), at=f"{point}{side}", value=str(value), by="power series")
        return value
    for spelling in (expression, _separated(expression)):
        value = _direct(spelling, _MOST_RULES)
        if value is None:
            value = algebraic_limit(spelling)
        if value is not None:
            value = simplest(value) if value.has(sp.Add) else value
            rests_on("limit", of=str(expression), at="oo", value=str(value), by="dominant terms")
            return value
    raise UndecidedError(f"the limit of {expression} at {point} was not proved")


def _direct(expression: Expr, rules: int) -> Expr | None:
    """Return the limit at infinity by at most so many nested rules; None where they do not settle it."""
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
    """Return a constant, as 0 where it is 0 in another spelling; None where its sign is not decided."""
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
    """Return the limits of all expressions; None where one is not settled."""
    known: list[Expr] = []
    for expression in expressions:
        value = _direct(expression, rules - 1)
        if value is None:
            return None
        known.append(value)
    return known


def _of_difference(terms: tuple[Expr, ...], limits: list[Expr], rules: int) -> Expr | None:
    """Return the limit of a sum with terms to oo and to -oo, from the ratios of all terms to one that is infinite."""
    for term, end in zip(terms, limits, strict=True):
        if end in (sp.oo, -sp.oo):
            ratios = _all([other / term for other in terms], rules)
            if ratios is not None and all(ratio.is_finite for ratio in ratios):
                sign = constant_sign(sp.Add(*ratios))
                return end * sign if sign else None
    return None


def _leading_limit(scale: Expr, leads: dict[Factor, _Monomial]) -> Expr | None:
    """Return the limit at infinity of a product from the dominant monomial of every factor."""
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
    """Return the limit at infinity where it is finite and proved, else None."""
    if not expression.has(X):
        return expression
    try:
        end = limit(expression, sp.oo)
    except UndecidedError:
        return None
    return end if end.is_finite else None


def _lead(factor: Factor) -> _Monomial | None:
    """Return (c, k, g) with the factor = x^k exp(g) (c + o(1)), c other than 0; None where that is not proved."""
    try:
        if is_algebraic(factor):
            found = algebraic_lead(factor.expression)
            return None if found is None or found[0] == 0 else (*found, sp.Integer(0))
        if not is_elementary(factor):
            return None
        dominant = dominant_term(factor, find_tail(factor.expression)[0], 0)
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
        found = [(dominant_term(f, find_tail(f.expression)[0], 0), f.multiplicity) for f in product.factors]
    except UndecidedError:
        return None
    exponent = sp.expand(sum((one.exponent * times for one, times in found), sp.Integer(0)))
    return exponent if exponent.has(X) else None

"""Limits, and signs on half-lines, from sums of monomials whose coefficients are exact or balls.

A monomial is x^a (log x)^b exp(p), p itself a sum of monomials that tend to +-oo. Such sums are closed under addition,
multiplication, powers, exp, log, erf, atan and more: a function is split at its leading monomial, F(c (1 + h)) or
F(c + h) with h -> 0, and F is a Taylor polynomial in h plus a remainder, whose ball holds for all |h| <= eta. Here eta
is the sum of |coefficient| * monomial at `start`, since every monomial of h is proved to fall from there on: its
logarithmic derivative, a sum of simpler monomials, is negative. By the same argument all monomials beyond the first few
are gathered in one with a ball for its coefficient.

So a sign on a half-line is that of the leading coefficient, if the rest is smaller at `start`; and the limit is 0, the
coefficient or infinite, as the leading monomial says. sin(c x) and cos(c x) stay in coefficients, between -1 and 1: if
such a coefficient leads, there may be no limit.
"""

from collections.abc import Iterable, Sequence
from functools import cmp_to_key, lru_cache, reduce
from operator import add, mul
from typing import Any, NamedTuple

import sympy as sp
from flint import arb

from .balls import Expr, X, constant_ball, decimals, sign_of, tape, whole_power
from .exact import constant_sign
from .proofs import UndecidedError, remembered, rests_on

_STARTS, _LENGTHS, _LONGEST = (2**10, 2**60), (6, 14), 28
_LONGEST_COEFFICIENT = 60
_PROBES = 24


class NoLimitError(UndecidedError):
    """A function that is proved to have no limit: it oscillates, between bounds or to oo and -oo."""

    def __init__(self, what: str, unbounded: bool) -> None:
        super().__init__(what, unbounded)
        self.unbounded = unbounded

    def __str__(self) -> str:
        """Say it."""
        return f"no limit: {self.args[0]} oscillates"


class Monomial(NamedTuple):
    """x^power (log x)^logs exp(sum of coefficient * monomial over `exponent`)."""

    exponent: tuple[tuple["Monomial", Expr], ...]
    power: Expr
    logs: Expr


class Coefficient(NamedTuple):
    """A factor of a monomial: exact (constants, and sin and cos of multiples of x) or None, and its enclosure."""

    exact: Expr | None
    ball: arb

    @property
    def vanishes(self) -> bool:
        """Whether it is proved to be 0."""
        if self.exact is None or self.exact.has(X):
            return bool(self.ball.is_zero())
        return not sign_of(self.ball) and constant_sign(self.exact) == 0

    def through(self, function: Expr) -> "Coefficient":
        """Return a function of it, an expression in x."""
        if self.exact is None:
            return Coefficient(None, tape(function)(self.ball))
        return _known(function.subs(X, self.exact))


Term = tuple[Monomial, Coefficient]
Series = tuple[Term, ...]
_ZERO, _ONE = sp.Integer(0), sp.Integer(1)
_UNIT, _X, _LOG = (Monomial((), *powers) for powers in ((_ZERO, _ZERO), (_ONE, _ZERO), (_ZERO, _ONE)))


@remembered
def limit(expression: Expr, point: Expr, side: str = "+") -> Expr:
    """Return the exact limit, +-oo included.

    Args:
        point: A number (approached from `side`), oo or -oo.
    Raises: NoLimitError: there is proved to be none; UndecidedError: not proved.
    Example:
        >>> limit(sp.log(1 + sp.exp(X)) - X, sp.oo), limit(sp.tanh(X) / X, sp.Integer(0))
        (0, 1)
    """
    near = {sp.oo: X, -sp.oo: -X}.get(point, point + 1 / X if side == "+" else point - 1 / X)
    failure = ""
    for start in _STARTS:
        for length in (*_LENGTHS, _LONGEST):
            line = _HalfLine(start, length)
            try:
                value = _limit(line, line.expand(expression.subs(X, near)))
            except NoLimitError as error:
                raise NoLimitError(str(expression), error.unbounded) from None
            except UndecidedError as error:
                failure = str(error)
                continue
            at = f"{point}{side}" if point.is_finite else str(point)
            rests_on("limit", of=str(expression), at=at, value=str(value), by="monomials with remainders")
            return value
    raise UndecidedError(f"the limit of {expression} at {point} was not proved: {failure}")


@remembered
def alternates(expression: Expr, end: Expr) -> bool:
    """Whether an expression is proved to change its sign again and again on the way to oo or -oo.

    Two values of its leading coefficient of opposite signs prove it.
    """
    if not expression.has(sp.sin, sp.cos):
        return False
    for length in _LENGTHS:
        line = _HalfLine(_STARTS[0], length)
        try:
            series = line.expand(expression if end == sp.oo else expression.subs(X, -X))
            leads = bool(series) and (len(series) == 1 or line.order(series[1][0], series[0][0]) < 0)
        except UndecidedError:
            continue
        exact = series[0][1].exact if leads else None
        if exact is not None and {sign_of(value) for value in _samples(exact)} >= {1, -1}:
            rests_on("alternation", of=str(expression), at=str(end), leading=str(exact))
            return True
    return False


@remembered
def tail_sign(expression: Expr, start: int) -> int:
    """Return the sign that the expression keeps on [start, inf), start >= 2. Raises: UndecidedError: not proved."""
    failure = UndecidedError()
    for length in _LENGTHS:
        line = _HalfLine(start, length)
        try:
            sign = line.sign(line.expand(expression))
        except UndecidedError as error:
            failure = error
            continue
        rests_on("tail", of=str(expression), start=start, sign=sign)
        return sign
    raise failure


@remembered
def bound_beyond(expression: Expr, start: int) -> arb:
    """Bound |expression| on [start, inf), start >= 2. Raises: UndecidedError: not proved, or not bounded."""
    line = _HalfLine(start, _LENGTHS[0])
    series = line.expand(expression)
    bound = sum((abs(c.ball) for m, c in series if m == _UNIT), arb(0)) + line.bound(t for t in series if t[0] != _UNIT)
    rests_on("bound", of=str(expression), start=start, bound=decimals(bound)[1])
    return arb(bound.upper())


@remembered
def powers_beyond(expression: Expr, start: int) -> list[tuple[Expr, arb]]:
    """Return (power, coefficient) with the expression a sum of coefficient * x^power on [start, inf).

    Raises: UndecidedError: not proved from this start, or other functions than powers occur.
    """
    series = _HalfLine(start, _LENGTHS[1]).expand(expression)
    if any(monomial.exponent or monomial.logs for monomial, _ in series):
        raise UndecidedError(f"{expression} is no sum of powers")
    return [(monomial.power, coefficient.ball) for monomial, coefficient in series]


def _limit(line: "_HalfLine", series: Series) -> Expr:
    if not series or line.order(series[0][0], _UNIT) < 0:
        return _ZERO
    monomial, (exact, ball) = series[0]
    if len(series) > 1 and line.order(series[1][0], monomial) == 0:
        raise UndecidedError("two leading monomials are equal in different spellings")
    infinite = line.order(monomial, _UNIT) > 0
    if infinite and sign_of(ball):
        return sp.oo * sign_of(ball)
    if exact is None:
        raise UndecidedError("the leading coefficient is known as a ball only")
    if not exact.has(X):
        return exact
    values = _samples(exact)
    if {sign_of(v) for v in values} >= {1, -1} if infinite else not all(v.overlaps(values[0]) for v in values):
        raise NoLimitError("it", infinite)
    raise UndecidedError(f"the leading coefficient {exact} oscillates")


def _samples(coefficient: Expr) -> list[arb]:
    """Return some values of a polynomial in sines and cosines, near each of which it comes again and again."""
    return [tape(coefficient)(arb(k) / 4) for k in range(_PROBES)]


def _known(exact: Expr) -> Coefficient:
    if exact.has(X):
        return Coefficient(exact, _oscillating(exact))
    ball = constant_ball(exact)
    return Coefficient(None if sp.count_ops(exact) > _LONGEST_COEFFICIENT else exact, ball)


def _oscillating(node: Expr) -> arb:
    """Enclose a polynomial in sines and cosines for all x at once."""
    if not node.has(X):
        return constant_ball(node)
    if isinstance(node, (sp.Add, sp.Mul)):
        return reduce(add if isinstance(node, sp.Add) else mul, map(_oscillating, node.args))
    if isinstance(node, sp.Pow):
        power = whole_power(_oscillating(node.base), int(node.exp))
        return power if node.exp % 2 else arb(0).union(power.upper())
    return arb(0, 1)


def _times(left: Coefficient, right: Coefficient) -> Coefficient:
    if left.exact is None or right.exact is None:
        return Coefficient(None, left.ball * right.ball)
    product = left.exact * right.exact
    return _known(sp.expand(product) if product.has(sp.Add) else product)


def _sum(parts: Sequence[Coefficient]) -> Coefficient:
    exact = [part.exact for part in parts if part.exact is not None]
    if len(exact) < len(parts):
        return Coefficient(None, sum((part.ball for part in parts), arb(0)))
    found = sp.expand(sp.Add(*exact))
    if found.has(X):
        # Sines of multiples of x may cancel, which shows in powers of one sine and cosine.
        reduced = sp.expand(sp.expand_trig(found))
        for cosine in reduced.atoms(sp.cos):
            reduced = sp.expand(sp.rem(reduced, cosine**2 + sp.sin(cosine.args[0]) ** 2 - 1, cosine))
        found = found if reduced.has(X) else reduced
    return _known(found)


def _scaled(series: Series, factor: Expr | int) -> Series:
    return tuple((m, _times(c, _known(sp.sympify(factor)))) for m, c in series)


@lru_cache(maxsize=512)
def _derivatives(function: Expr, centre: Expr, count: int) -> tuple[Coefficient, ...]:
    """Return the first Taylor coefficients of a function of x at a centre."""
    found = []
    for order in range(count):
        found.append(_known(function.subs(X, centre) / sp.factorial(order)))
        function = sp.diff(function, X)
    return tuple(found)


class _HalfLine:
    """Functions on [start, oo), start >= 2, as sums of at most `length` monomials from the leading one on.

    Every method raises UndecidedError if a step is not proved from this start.
    """

    def __init__(self, start: int, length: int) -> None:
        self.start, self.length = arb(start), length
        self.expansions: dict[Expr, Series] = {}
        self.sizes: dict[Monomial, arb] = {}
        self.falling: dict[Monomial, bool] = {}

    def expand(self, node: Expr) -> Series:
        """Write a function of x as a sum of monomials."""
        if node not in self.expansions:
            self.expansions[node] = self._expand(node)
        return self.expansions[node]

    def sign(self, series: Series) -> int:
        """Return the sign that a sum keeps on the half-line."""
        if not series:
            return 0
        (first, lead), *rest = series
        sign = sign_of(lead.ball)
        others = self.bound([(self._times(m, first, -1), c) for m, c in rest if not sign or sign_of(c.ball) != sign])
        if not sign or not others < abs(lead.ball):
            raise UndecidedError("the leading monomial is not proved to dominate")
        return sign

    def _expand(self, node: Expr) -> Series:
        if not node.has(X):
            return self._collect([(_UNIT, _known(node))])
        if node == X:
            return ((_X, _known(_ONE)),)
        if isinstance(node, sp.Add):
            return self._collect([term for part in node.args for term in self.expand(part)])
        if isinstance(node, sp.Mul):
            return reduce(self._product, map(self.expand, node.args))
        if isinstance(node, sp.Pow):
            if node.exp.is_Rational:
                return self._power(self.expand(node.base), node.exp)
            return self._exponential(self.expand(node.exp * sp.log(node.base)))
        return self._of_function(node, self.expand(node.args[0]))

    def _of_function(self, node: Expr, inner: Series) -> Series:
        if node.func is sp.exp:
            return self._exponential(inner)
        if node.func is sp.log:
            return self._logarithm(inner)
        large, constant, small = self._split(inner)
        if not large:
            # The derivatives of tanh grow long.
            return self._tanh(inner) if node.func is sp.tanh else self._taylor(node.func(X), constant, small)
        if node.func not in (sp.sin, sp.cos):
            return self._far(node.func, inner)
        if small or any(m != _X or c.exact is None or c.exact.has(X) for m, c in large):
            return ((_UNIT, Coefficient(None, arb(0, 1))),)
        return ((_UNIT, _known(node.func(large[0][1].exact * X + constant))),)

    def _far(self, function: Any, inner: Series) -> Series:
        """Expand a function of g, which tends to +-oo, for |g| first."""
        sign, one = self.sign(inner), (_UNIT, _known(_ONE))
        g = _scaled(inner, sign)
        if function in (sp.sinh, sp.cosh):
            mirrored = self._exponential(_scaled(inner, -1))
            terms = (*self._exponential(inner), *_scaled(mirrored, 1 if function is sp.cosh else -1))
            return self._collect(_scaled(terms, sp.Rational(1, 2)))
        if function is sp.asinh:
            root = self._power(self._collect([*self._product(g, g), one]), sp.Rational(1, 2))
            value = self._logarithm(self._collect([*g, *root]))
        elif function is sp.atan:
            rest = self._taylor(sp.atan(X), _ZERO, self._power(g, -_ONE))
            value = self._collect([(_UNIT, _known(sp.pi / 2)), *_scaled(rest, -1)])
        elif function is sp.tanh:
            value = self._tanh(g)
        elif function in (sp.erf, sp.erfc):
            rest = self._erfc(g)
            if function is sp.erfc:
                return rest if sign > 0 else self._collect([(_UNIT, _known(2 * _ONE)), *_scaled(rest, -1)])
            value = self._collect([one, *_scaled(rest, -1)])
        else:
            raise UndecidedError(f"the behaviour of {function.__name__} at infinity is not known")
        return _scaled(value, sign)

    def _tanh(self, g: Series) -> Series:
        """Write tanh(g) as 1 - 2 / (exp(2 g) + 1), g not to -oo."""
        one = (_UNIT, _known(_ONE))
        rest = self._power(self._collect([*self._exponential(_scaled(g, 2)), one]), -_ONE)
        return self._collect([one, *_scaled(rest, -2)])

    def _erfc(self, g: Series) -> Series:
        """Write erfc(g), g > 0, as exp(-g^2) / (sqrt(pi) g) (1 - t + 3 t^2 - 15 t^3 + ...), t = 1 / (2 g^2).

        The error of this alternating sum is at most the first term left out.
        """
        square = self._product(g, g)
        t = _scaled(self._power(square, -_ONE), sp.Rational(1, 2))
        factors = [sp.factorial2(2 * order - 1) if order else _ONE for order in range(self.length + 1)]
        total: Series = ((_UNIT, Coefficient(None, constant_ball(factors[-1]) * arb(0, 1))),)
        for order in range(self.length - 1, -1, -1):
            total = self._collect([*self._product(t, total), (_UNIT, _known(factors[order] * (-1) ** order))])
        front = self._product(self._exponential(_scaled(square, -1)), self._power(g, -_ONE))
        return _scaled(self._product(front, total), 1 / sp.sqrt(sp.pi))

    def _split(self, series: Series) -> tuple[Series, Expr, Series]:
        """Return the terms to +-oo, the constant term, which must be exact, and the terms to 0."""
        large = tuple(term for term in series if self.order(term[0], _UNIT) > 0)
        small = tuple(term for term in series if self.order(term[0], _UNIT) < 0)
        constant = next((c.exact for m, c in series if m == _UNIT), _ZERO)
        if constant is None or constant.has(X):
            raise UndecidedError("a function of a number that is known as a ball only is not expanded")
        return large, constant, small

    def _exponential(self, series: Series) -> Series:
        large, constant, small = self._split(series)
        power, exponent = _ZERO, []
        for monomial, (exact, _) in large:
            if exact is None or exact.has(X):
                raise UndecidedError("the exponent of an exponential is not known exactly")
            if monomial == _LOG:
                power = exact
            else:
                exponent.append((monomial, exact))
        front = ((Monomial(tuple(exponent), power, _ZERO), _known(sp.exp(constant))),)
        return self._product(front, self._taylor(sp.exp(X), _ZERO, small))

    def _logarithm(self, series: Series) -> Series:
        (first, lead), rest = self._lead(series)
        if first.logs != 0 or not lead.ball > 0:
            raise UndecidedError("a logarithm of a logarithm, or of a number not proved above 0")
        terms = [
            (_UNIT, lead.through(sp.log(X))),
            (_LOG, _known(first.power)),
            *((m, _known(c)) for m, c in first.exponent),
        ]
        return self._collect([*terms, *self._taylor(sp.log(X), _ONE, rest)])

    def _power(self, series: Series, exponent: Expr) -> Series:
        if exponent.is_Integer and 0 < exponent <= 2 * self.length:
            result = series
            for bit in bin(int(exponent))[3:]:
                result = self._product(result, result)
                result = self._product(result, series) if bit == "1" else result
            return result
        (first, lead), rest = self._lead(series)
        if not (lead.ball > 0 or exponent.is_Integer):
            raise UndecidedError("a root of a number not proved above 0")
        powers = tuple((m, c * exponent) for m, c in first.exponent)
        front = ((Monomial(powers, first.power * exponent, first.logs * exponent), lead.through(X**exponent)),)
        return self._product(front, self._taylor(X**exponent, _ONE, rest))

    def _lead(self, series: Series) -> tuple[Term, Series]:
        """Return the leading term, its coefficient a constant other than 0, and the other terms over it."""
        if not series or not sign_of(series[0][1].ball):
            raise UndecidedError("a quotient, root or logarithm of a number that is not proved other than 0")
        (first, lead), *rest = series
        if lead.exact is not None and lead.exact.has(X):
            lead = Coefficient(None, lead.ball)
        inverse = lead.through(1 / X)
        return (first, lead), tuple((self._times(m, first, -1), _times(c, inverse)) for m, c in rest)

    def _taylor(self, function: Expr, centre: Expr, small: Series) -> Series:
        """Return F(centre + h) as its Taylor polynomial in h and a remainder, F an expression in x."""
        if not small:
            return self._collect([(_UNIT, _known(function.subs(X, centre)))])
        around = constant_ball(centre) + arb(0, self.bound(small).upper())
        remainder = tape(function).coefficients(around, self.length)[self.length]
        if not remainder.is_finite():
            raise UndecidedError(f"{function} is not bounded near {centre}")
        total = self._collect([(_UNIT, Coefficient(None, remainder))])
        for coefficient in reversed(_derivatives(function, centre, self.length)):
            total = self._collect([*self._product(small, total), (_UNIT, coefficient)])
        return total

    def _product(self, left: Series, right: Series) -> Series:
        return self._collect([(self._times(m, n), _times(c, d)) for m, c in left for n, d in right])

    def _collect(self, terms: Iterable[Term]) -> Series:
        """Add equal monomials, sort from the leading one, and gather the last ones in one term."""
        sums: dict[Monomial, list[Coefficient]] = {}
        for monomial, coefficient in terms:
            sums.setdefault(monomial, []).append(coefficient)
        found = [(m, parts[0] if len(parts) == 1 else _sum(parts)) for m, parts in sums.items()]
        found = [(m, c) for m, c in found if not c.vanishes]
        found.sort(key=cmp_to_key(lambda a, b: self.order(b[0], a[0])))
        if len(found) <= self.length:
            return tuple(found)
        kept, (last, lead), rest = found[: self.length - 1], found[self.length - 1], found[self.length :]
        bound = abs(lead.ball) + self.bound([(self._times(m, last, -1), c) for m, c in rest])
        return (*kept, (last, Coefficient(None, arb(0, bound.upper()))))

    def bound(self, terms: Iterable[Term]) -> arb:
        """Bound the sum of |terms| on the half-line by its value at the start: each monomial is proved to fall."""
        total = arb(0)
        for monomial, coefficient in terms:
            if not self._falls(monomial):
                raise UndecidedError("a monomial is not proved to fall from the start of the half-line")
            total += abs(coefficient.ball) * self._size(monomial)
        return total

    def _size(self, monomial: Monomial) -> arb:
        if monomial not in self.sizes:
            logarithm = self.start.log()
            exponent = constant_ball(monomial.power) * logarithm + constant_ball(monomial.logs) * logarithm.log()
            for inner, coefficient in monomial.exponent:
                exponent += constant_ball(coefficient) * self._size(inner)
            self.sizes[monomial] = exponent.exp()
        return self.sizes[monomial]

    def _falls(self, monomial: Monomial) -> bool:
        """Whether a monomial is proved to fall: the slope of its logarithm is negative on the half-line."""
        if monomial not in self.falling:
            # Here log x only grows: logs / log x is between 0 and its value at the start.
            edge = constant_ball(monomial.logs) / self.start.log()
            constant = Coefficient(None, constant_ball(monomial.power) + edge.union(arb(0)))
            rate = [(_UNIT, constant), *self._slope(monomial._replace(power=_ZERO, logs=_ZERO))]
            try:
                negative = self.sign(self._collect(rate)) < 0
            except UndecidedError:
                negative = False
            self.falling[monomial] = negative or (not monomial.exponent and monomial.power == 0 and monomial.logs < 0)
        return self.falling[monomial]

    def _slope(self, monomial: Monomial) -> list[Term]:
        """Return x d/dx log of a monomial as terms."""
        terms = [(_UNIT, _known(monomial.power)), (Monomial((), _ZERO, -_ONE), _known(monomial.logs))]
        for inner, coefficient in monomial.exponent:
            terms += [(self._times(inner, m), _times(_known(coefficient), c)) for m, c in self._slope(inner)]
        return [(m, c) for m, c in terms if c.exact != 0]

    def order(self, left: Monomial, right: Monomial) -> int:
        """Return the sign of log(left / right) at infinity; 0 for equal monomials."""
        if left == right:
            return 0
        ratio = self._times(left, right, -1)
        power = constant_sign(ratio.power)
        # x^power is exp(power log x): more than exp(sqrt(log x)), less than exp(sqrt(x)).
        if ratio.exponent and not (power and self.order(ratio.exponent[0][0], _LOG) < 0):
            return constant_sign(ratio.exponent[0][1])
        return power or constant_sign(ratio.logs)

    def _times(self, left: Monomial, right: Monomial, sign: int = 1) -> Monomial:
        """Return the product of two monomials, or their quotient (sign -1)."""
        sums = dict(left.exponent)
        for monomial, coefficient in right.exponent:
            sums[monomial] = sp.expand(sums.get(monomial, _ZERO) + sign * coefficient)
        exponent = [(m, c) for m, c in sums.items() if c != 0 and (c.is_Rational or constant_sign(c))]
        if len(exponent) > 1:
            exponent.sort(key=cmp_to_key(lambda a, b: self.order(b[0], a[0])))
        return Monomial(tuple(exponent), left.power + sign * right.power, left.logs + sign * right.logs)

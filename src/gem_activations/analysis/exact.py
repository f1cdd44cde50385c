"""Exact algebra: short spellings and signs of constants, numbers with their balls, factors of expressions.

A spelling never carries a proof: every number keeps its ball, and a spelling is taken only if its ball agrees. SymPy
may work for hours on a constant such as exp(-10^60) or 10^12 log(2), so those are left as they are. The sign of an
expression is that of its factors over a tower of generators (x, exponentials over x, roots, constants), which exact
algebra can often settle alone: a factor in x has exact roots, and so has a factor in one exponential.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import sympy as sp
from flint import arb
from sympy.polys.rings import PolyRing

from .balls import Expr, X, constant_ball, decimals, sign_of, tape, to_fraction
from .proofs import CertificateError, UndecidedError, Value, rests_on

_HIGHEST_MULTIPLE = 16
_LARGEST_BY_LOG = 10**4
_LARGEST = 10**8
_FUNCTIONS = (sp.exp, sp.log, sp.erf, sp.erfc, sp.tanh, sp.sinh, sp.cosh)


@lru_cache(maxsize=4096)
def enormous(expression: Expr) -> bool:
    """Whether SymPy may take very long over an expression: functions next to huge numbers, or huge powers.

    Example:
        >>> enormous(sp.exp(-(10**60))), enormous(sp.Rational(1, 10**60)), enormous(sp.log(2) / 3)
        (True, False, False)
    """
    powers = [node.exp for node in expression.atoms(sp.Pow) if node.exp.is_Rational]
    if any(abs(power.p) > _LARGEST_BY_LOG for power in powers):
        return True
    if not expression.has(*_FUNCTIONS):
        return False
    largest = max((max(abs(number.p), number.q) for number in expression.atoms(sp.Rational)), default=1)
    return largest > (_LARGEST_BY_LOG if expression.has(sp.log) else _LARGEST)


@lru_cache(maxsize=4096)
def tidy(expression: Expr) -> Expr:
    """Simplify a constant, keeping the shorter spelling; a spelling that its ball refutes is not taken."""
    if expression.is_Rational or not expression.is_number or expression.has(sp.oo, -sp.oo, sp.zoo, sp.nan):
        return expression
    if enormous(expression):
        return expression
    if expression.has(sp.erf, sp.erfc):
        found = [expression, sp.expand(expression)]
    else:
        found = [expression]
        for simplify in (sp.radsimp, lambda e: sp.simplify(sp.powsimp(sp.expand(e))), sp.factor):
            found.append(simplify(found[-1]))
    return min((e for e in found if _agrees(e, expression)), key=lambda e: (sp.count_ops(e), len(str(e))))


def _agrees(spelling: Expr, expression: Expr) -> bool:
    if spelling == expression:
        return True
    left, right = constant_ball(spelling), constant_ball(expression)
    return bool(left.overlaps(right)) or not right.is_finite()


@lru_cache(maxsize=512)
def plain(expression: Expr) -> Expr:
    """Write hyperbolic functions as exponentials, which reduce at logarithms."""
    return expression.rewrite([sp.tanh, sp.sinh, sp.cosh], sp.exp)


@lru_cache(maxsize=512)
def divided(expression: Expr) -> Expr:
    """Write P/Q as a polynomial plus R/Q, R of lower degree, in x or in the only exponential; else leave it.

    Example:
        >>> divided(X**3 / (X**2 + 1)), divided(sp.exp(2 * X) / (sp.exp(2 * X) + 1))
        (x - x/(x**2 + 1), 1 - 1/(exp(2*x) + 1))
    """
    functions = [node for node in expression.atoms(sp.exp) if node.has(X)]
    if len(functions) > 1:
        return expression
    variable = functions[0] if functions else X
    symbol = sp.Dummy("u")
    lifted = expression.xreplace({variable: symbol})
    if lifted.has(X, *_FUNCTIONS) or not lifted.is_rational_function(symbol):
        return expression
    top, bottom = sp.fraction(sp.cancel(lifted))
    whole, rest = sp.div(top, bottom, symbol)
    return (whole + rest / bottom).xreplace({symbol: variable})


@lru_cache(maxsize=512)
def half_angle(expression: Expr) -> tuple[Expr, Expr] | None:
    """Write a function of sin and cos of multiples of w x alone as (function of t = tan(w x / 2), w); else None.

    Example:
        >>> half_angle(1 + sp.sin(2 * X)), half_angle(X * sp.sin(X))
        (((x + 1)**2/(x**2 + 1), 2), None)
    """
    rates = [sp.diff(node.args[0], X) for node in expression.atoms(sp.sin, sp.cos) if node.has(X)]
    if not rates or any(rate.has(X) for rate in rates):
        return None
    ratios = [sp.cancel(rate / rates[0]) for rate in rates]
    if not all(ratio.is_Rational and abs(ratio.p) <= _HIGHEST_MULTIPLE for ratio in ratios):
        return None
    common = sp.Rational(math.gcd(*(int(r.p) for r in ratios)), math.lcm(*(int(r.q) for r in ratios)))
    rate, t = sp.Abs(rates[0] * common), sp.Dummy("t", real=True)
    turned = sp.expand_trig(sp.expand(expression.subs(X, X / rate)))
    found = turned.xreplace({sp.sin(X): 2 * t / (1 + t**2), sp.cos(X): (1 - t**2) / (1 + t**2)})
    if found.has(X) or not found.is_rational_function(t):
        return None
    return sp.factor(found).subs(t, X), rate


@lru_cache(maxsize=4096)
def simplest(expression: Expr) -> Expr:
    """Return SymPy's simplification, or the expression itself if that may take very long, or a ball refutes it."""
    if enormous(expression):
        return expression
    simple = sp.simplify(expression)
    return simple if not expression.is_number or _agrees(simple, expression) else expression


def constant_sign(expression: Expr) -> int:
    """Return the sign of a real constant, proving zero by exact algebra if the ball cannot exclude it.

    Raises: CertificateError: neither decides, or the constant is not real.
    """
    sign = sign_of(constant_ball(expression))
    if sign is not None:
        return sign
    simple = simplest(expression)
    if simple.is_zero:
        rests_on("algebra", claim=f"{expression} = 0", by="SymPy's simplify")
        return 0
    sign = sign_of(constant_ball(simple))
    if sign is None:
        raise CertificateError(f"cannot decide the sign of {expression}")
    return sign


LONGEST_EXACT = 130
WIDEST = "1e-12"


@dataclass(frozen=True)
class Number:
    """A real number, or +-oo: `exact` is None if only the ball is known."""

    exact: Expr | None
    ball: arb

    @property
    def finite(self) -> bool:
        """Whether the number is neither oo nor -oo."""
        return self.exact not in (sp.oo, -sp.oo)

    def __neg__(self) -> "Number":
        """Return the number with its sign changed."""
        return Number(None if self.exact is None else -self.exact, -self.ball)

    def times(self, factor: Expr) -> "Number":
        """Return the number times an exact constant other than 0."""
        if self.exact is not None:
            return exact(tidy(self.exact * factor))
        return Number(None, self.ball * constant_ball(factor))

    def magnitude(self) -> "Number":
        """Return the absolute value."""
        if not self.finite:
            return exact(sp.oo)
        if self.exact is not None:
            return exact(sp.Abs(self.exact)) if constant_sign(self.exact) < 0 else self
        return Number(None, abs(self.ball))

    def to_value(self, note: str = "") -> Value:
        """Write the number for a certificate: of kind "open" where the ball is wider than `WIDEST` relative to it.

        `approx` is None if the number lies outside the range of float64.
        """
        if not self.finite:
            return Value("infinite", str(self.exact), note=note)
        if not self.ball.is_finite():
            raise CertificateError("an enclosure is not finite")
        low, high = decimals(self.ball)
        middle = float(self.ball.mid())
        approx = middle if math.isfinite(middle) else None
        text = "" if self.exact is None else str(self.exact)
        if text and len(text) <= LONGEST_EXACT:
            return Value("exact", text, low, high, approx, note)
        width = 2 * self.ball.rad()
        if not width <= abs(self.ball.mid()) * arb(WIDEST):
            why = "the enclosure holds 0" if self.ball.contains(0) else f"the enclosure is wider than {WIDEST} of it"
            return Value("open", "", low, high, approx, f"not closed: {why}" + (f"; {note}" if note else ""))
        return Value("enclosure", "", low, high, approx, note)


def exact(expression: Expr | int) -> Number:
    """Return the number of an exact expression."""
    expression = sp.sympify(expression)
    return Number(expression, constant_ball(expression))


def compare(left: Number, right: Number) -> int:
    """Return the sign of left - right; 0 also if two balls of 256-bit arithmetic cannot be told apart."""
    if not (left.finite and right.finite):
        a, b = (0 if n.finite else 1 if n.exact == sp.oo else -1 for n in (left, right))
        return (a > b) - (a < b)
    sign = sign_of(left.ball - right.ball)
    if sign is not None:
        return sign
    if left.exact is not None and right.exact is not None:
        return constant_sign(left.exact - right.exact)
    return 0


def equal(left: Expr, right: Expr) -> bool:
    """Whether two exact values are proved equal, +-oo included."""
    if left.is_finite and right.is_finite:
        return constant_sign(left - right) == 0
    return left == right


def same(left: Number, right: Number) -> bool:
    """Whether two numbers are proved equal. Raises: UndecidedError: they lie too close to tell."""
    if compare(left, right):
        return False
    if left.exact is None or right.exact is None:
        if left.finite and right.finite and not left.ball.overlaps(right.ball):
            return False
        raise UndecidedError(f"two points near {float(left.ball.mid()):.6g} cannot be told apart")
    return True


def greatest(numbers: Iterable[Number]) -> Number:
    """Return the greatest number: exact if that is proved, else a ball around those that cannot be told apart."""
    found = list(numbers)
    best = found[0]
    for number in found[1:]:
        order = compare(number, best)
        if order > 0:
            best = number
        elif order == 0 and (best.exact is None or number.exact is None):
            best = Number(None, best.ball.union(number.ball))
    return best


def at(expression: Expr, point: Number) -> Number:
    """Evaluate an expression in x at a finite point."""
    if point.exact is not None:
        return exact(tidy(plain(expression).subs(X, point.exact)))
    value = tape(expression)(point.ball)
    return Number(None, value)


MOST_OPERATIONS = 6_000
_HIGH_DEGREE, _LONGEST_NUMBER = 32, 10**100
_MOST_GENERATORS, _MOST_TERMS = 7, 40
_LARGEST_RATIO = 64  # exp(10^12 x) beside exp(x) stays a generator of its own, not the power 10^12 of the other.


class Factor(NamedTuple):
    """One irreducible factor of a numerator or denominator, as a polynomial in the tower and as a function of x."""

    lifted: Expr  # In X and the tower's symbols.
    expression: Expr
    multiplicity: int  # Below 0 for a factor of the denominator.
    tower: tuple[
        tuple[sp.Symbol, Expr], ...
    ]  # Each symbol with the function of X, or the constant, that it stands for.

    @property
    def generators(self) -> dict[sp.Symbol, Expr]:
        """The symbols in this factor that stand for functions of x."""
        return {s: f for s, f in self.tower if s in self.lifted.free_symbols and f.has(X)}


class Product(NamedTuple):
    """An expression as scale * product of factors; `scale` is an exact constant, 0 for the zero function."""

    scale: Expr
    sign: int
    factors: tuple[Factor, ...]


class _Lifter:
    """Replaces every exponential, root and irrational constant by a symbol."""

    def __init__(self, expression: Expr) -> None:
        self.symbols: dict[Expr, sp.Symbol] = {}
        exponents = [sp.expand(node.args[0]) for node in expression.atoms(sp.exp) if node.has(X)]
        # Powers of one exponential need no symbol for each term of its exponent.
        self.split = not all(sp.cancel(other / exponents[0]).is_Rational for other in exponents[1:])

    def lift(self, node: Expr) -> Expr:
        if node == X or node.is_Rational:
            return node
        if isinstance(node, (sp.Add, sp.Mul)):
            return node.func(*(self.lift(part) for part in node.args))
        if isinstance(node, sp.exp):
            exponent = sp.expand(node.args[0])
            return sp.Mul(*(self._exponential(e) for e in (sp.Add.make_args(exponent) if self.split else [exponent])))
        if isinstance(node, sp.Pow) and node.exp.is_Integer:
            return self.lift(node.base) ** node.exp
        if isinstance(node, sp.Pow) and node.exp.is_Rational:
            exponent = to_fraction(node.exp)
            return self._symbol(node.base ** sp.Rational(1, exponent.denominator)) ** exponent.numerator
        return self._symbol(node)

    def _exponential(self, term: Expr) -> Expr:
        for known, symbol in self.symbols.items():
            if isinstance(known, sp.exp):
                ratio = sp.cancel(term / known.args[0])
                if ratio.is_Rational and max(abs(ratio.p), ratio.q) <= _LARGEST_RATIO:
                    return symbol**ratio
        return self._symbol(sp.exp(term))

    def _symbol(self, function: Expr) -> sp.Symbol:
        if function not in self.symbols:
            # A root is positive where it is used: every piece is first proved analytic, so that no base vanishes.
            positive = isinstance(function, (sp.exp, sp.Pow)) or (not function.has(X) and constant_sign(function) > 0)
            self.symbols[function] = sp.Dummy(f"u{len(self.symbols)}", positive=positive or None, real=True)
        return self.symbols[function]

    def whole(self, lifted: Expr) -> Expr:
        """Rescale the exponential symbols so that every power of them is whole."""
        for function, symbol in list(self.symbols.items()):
            powers = [power.exp for power in lifted.atoms(sp.Pow) if power.base == symbol]
            common = math.lcm(*(int(power.q) for power in powers if power.is_Rational))
            if common > 1 and isinstance(function, sp.exp):
                del self.symbols[function]
                exponent: Expr = function.exp
                finer = self._symbol(sp.exp(exponent / common))
                lifted = lifted.subs(symbol, finer**common)
        return lifted

    def reduce(self, lifted: Expr) -> Expr:
        """Use s^2 = p for every square root s of a polynomial p in x."""
        for function, symbol in list(self.symbols.items()):
            if isinstance(function, sp.Pow) and function.exp == sp.Rational(1, 2) and function.base.is_polynomial(X):
                lifted = sp.rem(lifted, symbol**2 - self.lift(function.base), symbol)
        return lifted


@lru_cache(maxsize=512)
def factorise(expression: Expr) -> Product:
    """Write an expression as a product of polynomials over its tower of generators, irreducible ones but for long ones.

    Raises: UndecidedError: it is too large for that.
    """
    parts, lifter = _parts(expression)
    tower = tuple((symbol, function) for function, symbol in lifter.symbols.items())
    back = dict(tower)
    scale, powers = sp.Integer(1), Counter[Expr]()
    for part, times in parts:
        constant, pairs = factor_powers(part)
        scale *= constant**times
        for lifted, multiplicity in pairs:
            powers[lifted] += multiplicity * times
    factors = []
    for lifted, multiplicity in powers.items():
        function = lifted.xreplace(back)
        if not function.has(X):
            scale *= function**multiplicity
        elif multiplicity:
            factors.append(Factor(lifted, function, multiplicity, tower))
    sign = constant_sign(scale)
    return Product(scale, sign, tuple(factors) if sign else ())


def _parts(expression: Expr) -> tuple[list[tuple[Expr, int]], _Lifter]:
    """Write an expression as a product of powers of polynomials over its tower of generators."""
    if sp.count_ops(expression) > MOST_OPERATIONS:
        raise UndecidedError(f"an expression with more than {MOST_OPERATIONS} operations was not factored")
    lifter = _Lifter(plain(expression))
    lifted = lifter.whole(lifter.lift(plain(expression)))
    if len(lifter.symbols) > _MOST_GENERATORS:
        raise UndecidedError(f"an expression in more than {_MOST_GENERATORS} functions and constants was not factored")
    if len(lifted.free_symbols) > 1 and any(max(abs(r.p), r.q) > _LONGEST_NUMBER for r in lifted.atoms(sp.Rational)):
        raise UndecidedError("an expression in several functions, with a number beyond 10^100, was not factored")
    parts: list[tuple[Expr, int]] = []
    for node in sp.Mul.make_args(lifted):
        base, power = node.args if isinstance(node, sp.Pow) and node.exp.is_Integer else (node, 1)
        top, bottom = sp.fraction(sp.cancel(sp.together(base))) if not base.is_polynomial() else (base, sp.Integer(1))
        parts += [(lifter.reduce(top), int(power)), (lifter.reduce(bottom), -int(power))]
    return [(part, power) for part, power in parts if part != 1], lifter


def derivative_of_product(expression: Expr) -> Expr:
    """Differentiate an expression as a product of powers of polynomials over its tower, which keeps the result short.

    From (p^a q^b ...)' = p^(a-1) q^(b-1) ... (a p' q ... + b p q' ... + ...); an expression whose generators have no
    polynomials for derivatives is differentiated as it stands.
    """
    parts, lifter = _parts(expression)
    functions = [(function, symbol) for function, symbol in lifter.symbols.items() if function.has(X)]
    slopes = {symbol: lifter.lift(sp.expand(sp.diff(function, X))) for function, symbol in functions}
    symbols = [X, *lifter.symbols.values()]
    if not all(slope.is_polynomial(*symbols) for slope in slopes.values()):
        return sp.diff(expression, X)
    ring = PolyRing(symbols, sp.QQ)
    generators = dict(zip(symbols, ring.gens, strict=True))
    polynomials = [ring.from_expr(part) for part, _ in parts]
    rates = [(generators[X], ring.one), *((generators[s], ring.from_expr(slope)) for s, slope in slopes.items())]
    total = ring.zero
    for index, (_, power) in enumerate(parts):
        term = sum((polynomials[index].diff(symbol) * rate for symbol, rate in rates), ring.zero) * power
        for other, polynomial in enumerate(polynomials):
            term = term * polynomial if other != index else term
        total += term
    product = sp.Mul(total.as_expr(), *(part ** (power - 1) for part, power in parts))
    return product.xreplace({symbol: function for function, symbol in lifter.symbols.items()})


def factor_powers(polynomial: Expr, *generators: Expr) -> tuple[Expr, list[tuple[Expr, int]]]:
    """Return (constant, [(factor, multiplicity)]); x^m P(x^g) of a high degree is factored as a polynomial in x^g.

    Of such a polynomial a factor may still be reducible, but has no double zero. A long polynomial in three symbols or
    more is left whole, since its factors would take too long to find. Without generators, the variables of the
    polynomial, all its symbols and irrational constants are.
    """
    symbols = polynomial.free_symbols
    if len(symbols) > 2 and len(sp.Poly(polynomial, *symbols).terms()) > _MOST_TERMS:
        return sp.Integer(1), [(polynomial, 1)]
    powers = [power for (power,) in sp.Poly(polynomial, X).monoms()] if polynomial.has(X) else [0]
    least = min(powers)
    step = math.gcd(*(power - least for power in powers))
    if max(powers) < _HIGH_DEGREE or step < 2:
        return sp.factor_list(polynomial, *generators)
    inner = sum(c * X ** ((power - least) // step) for (power,), c in sp.Poly(polynomial, X).terms())
    constant, pairs = sp.factor_list(inner, *generators)
    return constant, ([(X, least)] if least else []) + [(part.subs(X, X**step), times) for part, times in pairs]


def without_root(factor: Factor) -> tuple[Expr, Expr, Expr] | None:
    """Return (A, B s, A^2 - B^2 s^2) for a factor A + B s with s a square root and A, B free of it; None otherwise.

    A zero of A + B s is a zero of the third, which holds no root.
    """
    roots = [(s, f) for s, f in factor.generators.items() if isinstance(f, sp.Pow) and f.exp == sp.Rational(1, 2)]
    if len(roots) != 1 or len(factor.generators) != 1:
        return None
    symbol, root = roots[0]
    polynomial = sp.Poly(factor.lifted, symbol)
    if polynomial.degree() != 1:
        return None
    back = dict(factor.tower)
    slope, offset = (sp.sympify(c).xreplace(back) for c in polynomial.all_coeffs())
    return offset, slope * root, sp.expand(offset**2 - slope**2 * root.base)


def identical(left: Expr, right: Expr) -> bool:
    """Whether two expressions are proved equal as functions of x; a ball at one point refutes most that are not."""
    if left == right:
        return True
    probes = [(left - right).subs(X, probe) for probe in (sp.Rational(13, 17), -sp.Rational(13, 17))]
    difference = constant_ball(probes[0] if not probes[0].has(sp.I) else probes[1])  # Roots are real on one side only.
    if difference.is_finite() and not difference.contains(0):
        return False
    if factorise(left - right).sign and simplest(left - right) != 0:
        return False
    rests_on("algebra", claim=f"{left} = {right}", by="SymPy's factor_list or simplify")
    return True

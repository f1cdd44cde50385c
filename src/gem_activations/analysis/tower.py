"""Expressions as polynomials in a tower of generators: x, exponentials over x, roots, and constants.

The sign of a derivative is then the sign of its polynomial factors, which exact algebra can often settle alone:
a factor in x has exact roots, and so has a factor in one exponential.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from .balls import Expr, X, arguments, constant_ball, to_fraction
from .constants import constant_sign
from .spelling import simplest
from .values import UndecidedError

MOST_OPERATIONS = 800
_HIGH_DEGREE, _LONGEST_NUMBER = 32, 10**100
_MOST_GENERATORS, _MOST_TERMS = 7, 40
_LARGEST_RATIO = 64  # exp(10^12 x) beside exp(x) stays a generator of its own, not the power 10^12 of the other.


@dataclass(frozen=True)
class Factor:
    """One irreducible factor of a numerator or denominator, as a polynomial in the tower and as a function of x.

    Attributes:
        lifted: Polynomial in X and the tower's symbols.
        expression: The same function, in X alone.
        multiplicity: Power in the product, below 0 for a factor of the denominator.
        tower: Symbol -> the function of X, or the constant, that it stands for.
    """

    lifted: Expr
    expression: Expr
    multiplicity: int
    tower: tuple[tuple[sp.Symbol, Expr], ...]

    @property
    def generators(self) -> dict[sp.Symbol, Expr]:
        """The symbols in this factor that stand for functions of x."""
        return {s: f for s, f in self.tower if s in self.lifted.free_symbols and f.has(X)}


@dataclass(frozen=True)
class Product:
    """An expression as scale * product of factors; `scale` is an exact constant, 0 for the zero function."""

    scale: Expr
    sign: int
    factors: tuple[Factor, ...]


class _Lifter:
    """Replaces every exponential, root and irrational constant by a symbol."""

    def __init__(self) -> None:
        self.symbols: dict[Expr, sp.Symbol] = {}

    def lift(self, node: Expr) -> Expr:
        if node == X or node.is_Rational:
            return node
        if isinstance(node, (sp.Add, sp.Mul)):
            return node.func(*(self.lift(part) for part in node.args))
        if isinstance(node, sp.exp):
            return sp.Mul(*(self._exponential(term) for term in sp.Add.make_args(sp.expand(node.args[0]))))
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
                finer = self._symbol(sp.exp(arguments(function)[0] / common))
                lifted = lifted.subs(symbol, finer**common)
        return lifted

    def reduce(self, lifted: Expr) -> Expr:
        """Use s^2 = p for every square root s of a polynomial p in x."""
        for function, symbol in self.symbols.items():
            if isinstance(function, sp.Pow) and function.exp == sp.Rational(1, 2) and function.base.is_polynomial(X):
                lifted = sp.rem(lifted, symbol**2 - function.base, symbol)
        return lifted


@lru_cache(maxsize=512)
def factorise(expression: Expr) -> Product:
    """Write an expression as a product of irreducible polynomials over its tower of generators.

    Raises: UndecidedError: it is too large to be factored in reasonable time.
    """
    if sp.count_ops(expression) > MOST_OPERATIONS:
        raise UndecidedError(f"an expression with more than {MOST_OPERATIONS} operations was not factored")
    lifter = _Lifter()
    lifted = lifter.whole(lifter.lift(expression.rewrite([sp.tanh, sp.sinh, sp.cosh], sp.exp)))
    if len(lifter.symbols) > _MOST_GENERATORS:
        raise UndecidedError(f"an expression in more than {_MOST_GENERATORS} functions and constants was not factored")
    if len(lifted.free_symbols) > 1 and any(max(abs(r.p), r.q) > _LONGEST_NUMBER for r in lifted.atoms(sp.Rational)):
        raise UndecidedError("an expression in several functions, with a number beyond 10^100, was not factored")
    numerator, denominator = (lifter.reduce(part) for part in sp.fraction(sp.cancel(sp.together(lifted))))
    tower = tuple((symbol, function) for function, symbol in lifter.symbols.items())
    back = dict(tower)
    scale, factors = sp.Integer(1), []
    for part, direction in ((numerator, 1), (denominator, -1)):
        constant, pairs = factor_powers(part)
        scale *= constant**direction
        for lifted_factor, multiplicity in pairs:
            function = lifted_factor.xreplace(back)
            if function.has(X):
                factors.append(Factor(lifted_factor, function, direction * multiplicity, tower))
            else:
                scale *= function ** (direction * multiplicity)
    sign = constant_sign(scale)
    return Product(scale, sign, tuple(factors) if sign else ())


def factor_powers(polynomial: Expr, *generators: Expr) -> tuple[Expr, list[tuple[Expr, int]]]:
    """Give (constant, [(factor, multiplicity)]); x^m P(x^g) of a high degree is factored as a polynomial in x^g.

    Of such a polynomial a factor may still be reducible, but has no double zero.

    Args:
        generators: The variables of the polynomial; none stands for all its symbols and irrational constants.
    Raises: UndecidedError: a polynomial in three symbols or more is too long to be factored in reasonable time.
    """
    symbols = polynomial.free_symbols
    if len(symbols) > 2 and len(sp.Poly(polynomial, *symbols).terms()) > _MOST_TERMS:
        raise UndecidedError(f"a polynomial in {len(symbols)} symbols with more than {_MOST_TERMS} terms")
    powers = [power for (power,) in sp.Poly(polynomial, X).monoms()] if polynomial.has(X) else [0]
    least = min(powers)
    step = math.gcd(*(power - least for power in powers))
    if max(powers) < _HIGH_DEGREE or step < 2:
        return sp.factor_list(polynomial, *generators)
    inner = sum(c * X ** ((power - least) // step) for (power,), c in sp.Poly(polynomial, X).terms())
    constant, pairs = sp.factor_list(inner, *generators)
    return constant, ([(X, least)] if least else []) + [(part.subs(X, X**step), times) for part, times in pairs]


def without_root(factor: Factor) -> tuple[Expr, Expr, Expr] | None:
    """Give (A, B s, A^2 - B^2 s^2) for a factor A + B s with s a square root and A, B free of it; None otherwise.

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
    probe = sp.Rational(13, 17)
    difference = constant_ball((left - right).subs(X, probe))
    if difference.is_finite() and not difference.contains(0):
        return False
    return factorise(left - right).sign == 0 or simplest(left - right) == 0

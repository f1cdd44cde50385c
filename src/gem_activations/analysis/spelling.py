"""Short spellings of exact constants, and the limits within which SymPy is asked for them.

A spelling never carries a proof: every number keeps its ball, and a spelling is taken only where its ball agrees. SymPy
may work for hours on a constant such as exp(-10^60) or 10^12 log(2), so those are left as they are.
"""

from functools import lru_cache

import sympy as sp

from .balls import Expr, X, constant_ball

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
    if expression.has(sp.erf):
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


@lru_cache(maxsize=4096)
def simplest(expression: Expr) -> Expr:
    """Give SymPy's simplification, or the expression itself where that may take very long, or a ball refutes it."""
    if enormous(expression):
        return expression
    simple = sp.simplify(expression)
    return simple if not expression.is_number or _agrees(simple, expression) else expression

"""Real numbers of a proof: an exact expression where there is one, and always a ball around it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import sympy as sp
from flint import arb

from .balls import Expr, X, constant_ball, decimals, sign_of, tape
from .constants import constant_sign
from .spelling import plain, tidy
from .values import CertificateError, UndecidedError, Value

LONGEST_EXACT = 90
WIDEST = "1e-12"


@dataclass(frozen=True)
class Number:
    """A real number, or +-oo: `exact` is None where only the ball is known."""

    exact: Expr | None
    ball: arb

    @property
    def finite(self) -> bool:
        """Whether the number is neither oo nor -oo."""
        return self.exact not in (sp.oo, -sp.oo)

    def __neg__(self) -> "Number":
        """Give the number with its sign changed."""
        return Number(None if self.exact is None else -self.exact, -self.ball)

    def times(self, factor: Expr) -> "Number":
        """Give the number times an exact constant other than 0."""
        if self.exact is not None:
            return exact(tidy(self.exact * factor))
        return Number(None, self.ball * constant_ball(factor))

    def magnitude(self) -> "Number":
        """Give the absolute value."""
        if not self.finite:
            return exact(sp.oo)
        if self.exact is not None:
            return exact(sp.Abs(self.exact)) if constant_sign(self.exact) < 0 else self
        return Number(None, abs(self.ball))

    def to_value(self, note: str = "") -> Value:
        """Write the number for a certificate: of kind "open" where the ball is wider than `WIDEST` relative to it.

        `approx` is None where the number lies outside the range of float64.
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
    """Give the number of an exact expression."""
    expression = sp.sympify(expression)
    return Number(expression, constant_ball(expression))


def compare(left: Number, right: Number) -> int:
    """Give the sign of left - right; 0 also where two balls of 256-bit arithmetic cannot be told apart."""
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
    """Whether two numbers are proved equal.

    Raises: UndecidedError: they lie too close to tell.
    """
    if compare(left, right):
        return False
    if left.exact is None or right.exact is None:
        if left.finite and right.finite and not left.ball.overlaps(right.ball):
            return False
        raise UndecidedError(f"two points near {float(left.ball.mid()):.6g} cannot be told apart")
    return True


def greatest(numbers: Iterable[Number]) -> Number:
    """Give the greatest number: exact where that is proved, a ball around those that cannot be told apart else."""
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

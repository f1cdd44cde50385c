"""Signal propagation: moments of f and f' under N(0, q), gain, chi, and the rows of the variance map."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import sympy as sp

from .balls import Expr, X
from .exact import Number, divided, exact, identical, tidy
from .formulas import Formula
from .gaussian import expectation, natural_unit, rescaled
from .values import CertificateError, Property, Value
from .variance_map import fixed_points, ratio_course, squares, times_square, uniqueness

_METHOD = "FLINT integration with error bounds, tails bounded by the Lipschitz constant"
_CLOSED = "closed form of the truncated normal moments"


@dataclass(frozen=True)
class Moments:
    """E f, E f^2, E f'^2 and E x^2 f^2 for x ~ N(0, q) as exact numbers or balls, each found when it is asked for.

    With x = u t for the natural unit u of the formula, f(x) = u g(t) and t ~ N(0, q/u^2): the moments are those of g,
    times powers of u. Reading one raises UndecidedError, as `expectation`.
    """

    formula: Formula
    variance: Expr

    @cached_property
    def unit(self) -> Expr:
        """The unit u of x, 1 but for extreme parameters."""
        return natural_unit(self.formula)

    @cached_property
    def scaled(self) -> Formula:
        """g(t) = f(u t) / u, quotients divided, which balls enclose better."""
        found = rescaled(self.formula, self.unit)
        return replace(found, pieces=tuple(replace(p, expression=divided(p.expression)) for p in found.pieces))

    def _moment(self, integrands: list[Expr], growth: int, power: int) -> Number:
        found = expectation(self.scaled, integrands, growth, self.variance / self.unit**2)
        return found if self.unit == 1 else found.times(self.unit**power)

    @cached_property
    def mean(self) -> Number:
        """E f(x)."""
        if is_odd(self.formula):
            return exact(0)
        return self._moment([p.expression for p in self.scaled.pieces], 1, 1)

    @cached_property
    def second(self) -> Number:
        """E f(x)^2."""
        return self._moment(squares(self.scaled, 0), 2, 2)

    @cached_property
    def slope(self) -> Number:
        """E f'(x)^2."""
        return self._moment(squares(self.scaled, 1), 0, 0)

    @cached_property
    def fourth(self) -> Number:
        """E x^2 f(x)^2."""
        return self._moment(times_square(squares(self.scaled, 0)), 4, 4)


def is_odd(formula: Formula) -> bool:
    """Whether f(-x) = -f(x) is proved by algebra."""
    mirrored = [(-p.high, -p.low, -p.expression.subs(X, -X)) for p in reversed(formula.pieces)]
    return all(
        piece.low == low and piece.high == high and identical(piece.expression, expression)
        for piece, (low, high, expression) in zip(formula.pieces, mirrored, strict=True)
    )


def propagation(formula: Formula, variance: Expr = sp.S.One) -> list[Property]:
    """Prove the rows of group "propagation" for inputs of the given variance."""
    found = Moments(formula, variance)
    law = f"for x ~ N(0, {variance})"
    at_one = f"Slope of the variance map at its fixed point q = {variance}, weights scaled by the gain"
    rows: list[tuple[str, str, Callable[[], Number]]] = [
        ("mean", f"E f(x) {law}", lambda: found.mean),
        ("second_moment", f"E f(x)^2 {law}", lambda: found.second),
        ("slope_moment", f"E f'(x)^2 {law}", lambda: found.slope),
        ("gain", f"Gain, sqrt(q / E f^2) {law}", lambda: _gain(found)),
        ("chi", f"chi, q E f'^2 / E f^2 {law}", lambda: _chi(found)),
        ("map_slope", at_one, lambda: _slope(found)),
    ]
    return [*(_row(formula, *row) for row in rows), *_map_rows(found, variance)]


def _row(formula: Formula, key: str, title: str, find: Callable[[], Number]) -> Property:
    try:
        number = find()
        value = number.to_value()
    except CertificateError as error:
        return Property("propagation", key, title, Value("open", note=f"not closed: {error}"))
    if key == "mean" and number.exact == 0 and is_odd(formula):
        return Property("propagation", key, title, value, (), "f is odd")
    return Property("propagation", key, title, value, (), _METHOD if number.exact is None else _CLOSED)


def _gain(found: Moments) -> Number:
    if found.second.exact is not None:
        return exact(tidy(sp.sqrt(found.variance / found.second.exact)))
    return Number(None, (exact(found.variance).ball / found.second.ball).sqrt())


def _chi(found: Moments) -> Number:
    if found.second.exact is not None and found.slope.exact is not None:
        return exact(tidy(found.variance * found.slope.exact / found.second.exact))
    return Number(None, exact(found.variance).ball * found.slope.ball / found.second.ball)


def _slope(found: Moments) -> Number:
    # The density of N(0, q) has the q-derivative (x^2/q - 1) / (2q) times itself, so that f needs no derivative:
    # V'(q) = (E x^2 f^2 / q - E f^2) / (2q), and the slope under the gain is q V'(q) / V(q).
    if found.fourth.exact is not None and found.second.exact is not None:
        return exact(tidy((found.fourth.exact / found.second.exact / found.variance - 1) / 2))
    return Number(None, (found.fourth.ball / found.second.ball / exact(found.variance).ball - 1) / 2)


def _map_rows(found: Moments, variance: Expr) -> list[Property]:
    def level() -> Number:
        if found.second.exact is not None:
            return exact(tidy(found.second.exact / variance))
        return Number(None, found.second.ball / exact(variance).ball)

    rows = (
        (
            "fixed_points",
            "Fixed points above 0 of the variance map q -> E f(x)^2, x ~ N(0, q)",
            lambda course: fixed_points(course, found.unit),
        ),
        ("uniqueness", f"Uniqueness of q = {variance} under the gain", lambda course: uniqueness(course, level())),
    )
    made = []
    for key, title, prove in rows:
        try:
            value, where = prove(ratio_course(found.scaled))
        except CertificateError as error:
            value, where = Value("open", note=f"not closed: {error}"), ()
        made.append(Property("propagation", key, title, value, where, "course of V(q)/q, variation diminishing"))
    return made

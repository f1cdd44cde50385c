"""From SymPy expressions to FLINT balls: rigorous values, derivatives, integrals and decimal enclosures.

A `Tape` is an expression in `X`, the variable of every formula, as straight-line code. It runs on real balls, on
complex balls (for integration) and on power series of real balls (for derivatives of any order at once); every result
encloses the true value.
"""

import heapq
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, reduce
from math import factorial
from operator import add, mul
from typing import Any, TypeAlias

import flint
import sympy as sp
from flint import acb, arb, arb_series

from .proofs import CertificateError

Expr: TypeAlias = Any
X = sp.Symbol("x", real=True)


def to_fraction(number: Expr) -> Fraction:
    """Return a SymPy rational as a fraction."""
    return Fraction(int(number.p), int(number.q))


def to_ball(number: Fraction) -> arb:
    """Enclose a fraction."""
    return arb(flint.fmpq(number.numerator, number.denominator))


PRECISION = 256
DIGITS = 20
_PRECISIONS = (PRECISION, 1024, 4096)
_ACCURATE = 128  # Bits that a constant's ball should have; cancellation may ask for a higher precision.
_TAYLOR_TERMS = 8
flint.ctx.prec = PRECISION

FUNCTIONS: dict[Any, Callable[[Any, bool], Any]] = {
    sp.exp: lambda value, _: value.exp(),
    sp.log: lambda value, analytic: value.log(analytic=analytic) if isinstance(value, acb) else value.log(),
    sp.erf: lambda value, _: value.erf(),
    sp.erfc: lambda value, _: value.erfc(),
    sp.tanh: lambda value, _: 1 - 2 / ((2 * value).exp() + 1) if isinstance(value, arb_series) else value.tanh(),
    sp.sinh: lambda value, _: (value.exp() - (-value).exp()) / 2,
    sp.cosh: lambda value, _: (value.exp() + (-value).exp()) / 2,
    sp.sin: lambda value, _: value.sin(),
    sp.cos: lambda value, _: value.cos(),
    sp.atan: lambda value, analytic: _atan(value, analytic),
    sp.asinh: lambda value, analytic: _asinh(value, analytic),
}
_CONSTANTS = {sp.pi: arb.pi, sp.E: arb.const_e, sp.EulerGamma: arb.const_euler}


class Tape:
    """An expression with no free symbol but `X` as a list of steps, each a ball operation on earlier results.

    Raises: CertificateError: the expression holds a function that the analysis does not know.
    Example:
        >>> Tape(X**2 + sp.Rational(1, 2))(arb(2)).str(5, radius=False)
        '4.5000'
    """

    def __init__(self, expression: Expr) -> None:
        self._places: dict[sp.Basic, int] = {X: 0}
        self._code: list[tuple[Callable[..., Any] | None, Any]] = []
        self._result = self._place(expression)

    def __call__(self, x: Any, analytic: bool = False) -> Any:
        """Return the value at a ball; `analytic` asks complex roots and logarithms to refuse their branch cuts."""
        values = [x]
        for operation, argument in self._code:
            values.append(argument if operation is None else operation(values, argument, analytic))
        return values[self._result]

    def jet(self, x: arb, order: int) -> list[arb]:
        """Return balls around f, f', ..., f^(order), each valid for every point of the ball x."""
        return [c * factorial(k) for k, c in enumerate(self.coefficients(x, order))]

    def taylor(self, box: arb, order: int = 0) -> tuple[arb, arb]:
        """Return balls around f^(order) and f^(order+1) on a box, from the Taylor polynomial at its middle.

        The remainder is the next Taylor coefficient over the whole box, so that the excess width falls with a high
        power of the width of the box.
        """
        terms = order + _TAYLOR_TERMS
        middle = box.mid()
        coefficients = self.coefficients(middle, terms - 1)
        coefficients.append(self.coefficients(box, terms)[terms])
        value, slope, offset = arb(0), arb(0), box - middle
        for k in range(terms, order, -1):
            value = value * offset + coefficients[k] * (factorial(k) // factorial(k - order))
            slope = slope * offset + coefficients[k] * (factorial(k) // factorial(k - order - 1))
        return value * offset + coefficients[order] * factorial(order), slope

    def coefficients(self, x: arb, order: int) -> list[arb]:
        """Return balls around the Taylor coefficients f^(k) / k! up to the order, valid for every point of the ball."""
        flint.ctx.cap = order + 1
        try:
            series = self(arb_series([x, 1], order + 1))
        except (ValueError, ZeroDivisionError):  # A denominator's enclosure holds 0.
            return [arb.nan()] * (order + 1)
        if isinstance(series, arb):
            return [series] + [arb(0)] * order
        # A quotient whose leading zeros cancel is known to a lower order, and reads as 0 beyond that.
        return [series[k] if k < series.prec else arb.nan() for k in range(order + 1)]

    def _emit(self, operation: Callable[..., Any] | None, argument: Any) -> int:
        self._code.append((operation, argument))
        return len(self._code)

    def _place(self, node: sp.Basic) -> int:
        if node not in self._places:
            self._places[node] = self._compile(node)
        return self._places[node]

    def _compile(self, node: sp.Basic) -> int:
        if not node.has(X):
            return self._emit(None, constant_ball(node))
        if isinstance(node, (sp.Add, sp.Mul)):
            return self._emit(
                _add if isinstance(node, sp.Add) else _multiply, [self._place(part) for part in node.args]
            )
        if isinstance(node, sp.Pow):
            base, exponent = node.base, node.exp
            if exponent.is_Rational:
                return self._emit(_power, (self._place(base), to_fraction(exponent)))
            return self._place(sp.exp(exponent * sp.log(base), evaluate=False))
        if node.func in FUNCTIONS:
            place, function = self._place(node.args[0]), FUNCTIONS[node.func]
            return self._emit(lambda values, _, analytic: function(values[place], analytic), None)
        raise CertificateError(f"the analysis does not know the function {node.func.__name__} in {node}")


def _add(values: list[Any], places: list[int], _: bool) -> Any:
    return reduce(add, [values[place] for place in places])


def _multiply(values: list[Any], places: list[int], _: bool) -> Any:
    return reduce(mul, [values[place] for place in places])


def _power(values: list[Any], argument: tuple[int, Fraction], analytic: bool) -> Any:
    place, exponent = argument
    base, whole = values[place], exponent.numerator
    if exponent.denominator == 2:
        base = base.sqrt(analytic=analytic) if isinstance(base, acb) else base.sqrt()
    elif exponent.denominator > 2:
        logarithm = FUNCTIONS[sp.log](base, analytic)
        return (logarithm * to_ball(exponent)).exp()
    return whole_power(base, whole) if whole >= 0 else 1 / whole_power(base, -whole)


def whole_power(base: Any, power: int) -> Any:
    """Return base^power, power >= 0, by repeated squaring; FLINT's own power goes through a logarithm at times."""
    result = None
    while power:
        if power % 2:
            result = base if result is None else result * base
        base, power = base * base, power // 2
    return arb(1) if result is None else result


def _atan(value: Any, analytic: bool) -> Any:
    if not isinstance(value, acb):
        return value.atan()
    turned = value * acb(0, 1)  # By logarithms, which can refuse their branch cuts.
    return ((1 + turned).log(analytic=analytic) - (1 - turned).log(analytic=analytic)) * acb(0, -0.5)


def _asinh(value: Any, analytic: bool) -> Any:
    if isinstance(value, arb):
        return value.asinh()
    root = _power([value * value + 1], (0, Fraction(1, 2)), analytic)
    return FUNCTIONS[sp.log](value + root, analytic)


@lru_cache(maxsize=4096)
def constant_ball(expression: Expr) -> arb:
    """Enclose a real constant expression, with a higher precision if its terms cancel.

    Raises: CertificateError: it has a free symbol, or an unknown function.
    """
    if expression.is_Rational:
        return to_ball(to_fraction(expression))
    if expression in (sp.oo, -sp.oo):
        return arb.pos_inf() if expression == sp.oo else arb.neg_inf()
    ball = arb.nan()
    for precision in _PRECISIONS:
        with flint.ctx.workprec(precision):
            ball = _enclose(expression, precision)
        if ball.rel_accuracy_bits() >= _ACCURATE or not ball.is_finite():
            break
    return ball


@lru_cache(maxsize=4096)
def _enclose(expression: Expr, precision: int) -> arb:
    if expression.is_Rational:
        return to_ball(to_fraction(expression))
    if expression in _CONSTANTS:
        return _CONSTANTS[expression]()
    if expression.is_Float:
        raise CertificateError(f"{expression} is a rounded number; write exact rationals, for example 1/3 or 0.01")
    if isinstance(expression, (sp.Add, sp.Mul)):
        return reduce(add if isinstance(expression, sp.Add) else mul, [_enclose(e, precision) for e in expression.args])
    if isinstance(expression, sp.Pow):
        base, exponent = expression.base, expression.exp
        if exponent.is_Rational:
            return _power([_enclose(base, precision)], (0, to_fraction(exponent)), False)
        return (_enclose(exponent, precision) * _enclose(base, precision).log()).exp()
    if expression.func in FUNCTIONS:
        return FUNCTIONS[expression.func](_enclose(expression.args[0], precision), False)
    if expression.func in (sp.gamma, sp.beta):
        balls = [constant_ball(part) for part in expression.args]
        top = balls[0].gamma()
        return top if len(balls) == 1 else top * balls[1].gamma() / (balls[0] + balls[1]).gamma()
    raise CertificateError(f"the analysis does not know the constant {expression}")


@lru_cache(maxsize=1024)
def tape(expression: Expr) -> Tape:
    """Compile an expression once."""
    return Tape(expression)


def sign_of(ball: arb) -> int | None:
    """Return -1, 0 or 1 if the ball proves it, else None."""
    if not ball.is_finite():
        return None
    return 1 if ball > 0 else -1 if ball < 0 else 0 if ball.is_zero() else None


def decimals(ball: arb) -> tuple[str, str]:
    """Return two decimal strings around a finite ball, rounded outwards at about 20 significant digits."""
    middle, radius, exponent = (int(part) for part in ball.mid_rad_10exp(DIGITS))
    excess = max(len(str(max(abs(middle), radius))) - DIGITS, 0)
    scale = 10**excess
    low, high = (middle - radius) // scale, -(-(middle + radius) // scale)
    return _decimal(low, exponent + excess), _decimal(high, exponent + excess)


def _decimal(digits: int, exponent: int) -> str:
    if digits == 0:
        return "0"
    while digits % 10 == 0:
        digits, exponent = digits // 10, exponent + 1
    sign, text = "-" if digits < 0 else "", str(abs(digits))
    point = len(text) + exponent
    if -5 < point <= 0:
        return f"{sign}0.{'0' * -point}{text}"
    if 0 < point < len(text):
        return f"{sign}{text[:point]}.{text[point:]}"
    if len(text) <= point <= 18:
        return f"{sign}{text}{'0' * (point - len(text))}"
    mantissa = text if len(text) == 1 else f"{text[0]}.{text[1:]}"
    return f"{sign}{mantissa}e{point - 1}"


Weight = Callable[[acb, bool], acb]
_PRECISION = 160
_TOLERANCE_BITS = 110
_SAMPLES = 16
_EVALUATIONS = 60_000
_BOXES = 3_000


def integral(weight: Weight, low: arb, high: arb) -> arb:
    """Enclose a real integral over [low, high].

    FLINT's adaptive Gauss-Legendre quadrature with error bounds; if that reaches its limit of work, the sum of
    enclosures over a subdivision, which is wide. Infinite if the integrand is not bounded on the boxes of that. The
    integrand takes a complex ball, and whether it has to refuse a ball on which it is not analytic.
    """
    with flint.ctx.workprec(_PRECISION):
        left, right = low.mid(), high.mid()
        parts = [arb(k) / _SAMPLES for k in range(_SAMPLES + 1)] + [arb(2) ** -k for k in range(5, 65, 5)]
        points = [end for part in parts for end in (left + (right - left) * part, right + (left - right) * part)]
        sizes = [abs(weight(acb(point), False).real).mid() for point in points]
        size = max((s for s in sizes if s.is_finite()), default=arb(1))
        # The samples only choose the accuracy that is asked for; the integral is enclosed whatever they are.
        tolerance = arb(2) ** -_TOLERANCE_BITS
        goal = tolerance * size * abs(right - left) if size > 0 else tolerance
        failures: list[BaseException] = []

        def guarded(x: acb, analytic: bool) -> acb:  # FLINT would go on after an exception.
            try:
                return acb("nan") if failures else weight(x, analytic)
            except BaseException as error:
                failures.append(error)
                return acb("nan")

        value = acb.integral(guarded, low, high, rel_tol=tolerance, abs_tol=goal, eval_limit=_EVALUATIONS).real
        if failures:
            raise failures[0]
        return value if value.is_finite() else _by_boxes(weight, low, high)


def _by_boxes(weight: Weight, low: arb, high: arb) -> arb:
    """Sum (enclosure of the integrand) * (width) over boxes, the widest product halved first.

    Holds for every integrable function whose ball arithmetic encloses it: no smoothness is used.
    """
    width = high - low

    def box(first: Fraction, last: Fraction) -> tuple[float, Fraction, Fraction, arb]:
        ends = [low + width * to_ball(f) for f in (first, last)]
        part = weight(acb(ends[0].union(ends[1])), False).real * (ends[1] - ends[0])
        doubt = float(part.rad()) if part.is_finite() else float("inf")
        # Among the infinite ones the longest first.
        return -doubt, -(last - first), first, part

    heap = [box(Fraction(0), Fraction(1))]
    for _ in range(_BOXES):
        _, negative_length, first, _ = heapq.heappop(heap)
        middle, last = first - negative_length / 2, first - negative_length
        heapq.heappush(heap, box(first, middle))
        heapq.heappush(heap, box(middle, last))
    return sum((part for *_, part in heap), arb(0))

"""Signal propagation: moments of f and f' under N(0, q), gain, chi, and the variance map.

The map is q -> s V(q), V(q) = E f(x)^2 for x ~ N(0, q), of a wide layer whose weights have variance s.

With h(x) = (f(x)^2 + f(-x)^2) / x^2, V(q)/q is half the mean of h(sqrt(q) |z|) under the law with density
2 z^2 phi(z) on z > 0. In x the kernel is x^2 q^(-3/2) exp(-x^2 / (2q)), which is strictly totally positive, so it
diminishes variation (S. Karlin, Total Positivity, 1968): V(q)/q - c has no more zeros on (0, inf) than h/2 - c has
changes of sign, and if it has as many, their signs come in the same order. The changes of sign of h/2 - c are read
off the values of h/2 at 0, at its turning points, on both sides of joints, and at infinity.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, cmp_to_key, partial
from itertools import groupby, pairwise

import sympy as sp
from flint import arb

from .balls import Expr, X, constant_ball, sign_of
from .exact import Number, at, compare, divided, equal, exact, identical, tidy
from .formulas import Formula
from .gaussian import closed_expectation, enclose, expectation, natural_unit, rescaled, slope_at_infinity
from .proofs import Property, Proved, UndecidedError, Value, attempt, remembered
from .signs import sign_map

_RELATIVE = arb(2) ** -60
# Of log q, from near to far and back to what lies between.
_SAMPLES = [0.0, *(side * t for t in (*range(1, 8), *(2**k for k in range(3, 9))) for side in (1.0, -1.0)),
            *(side * t for t in (0.5, 0.25, 1.5, 0.125, 2.5, 3.5) for side in (1.0, -1.0))]  # fmt: skip
_BY_SIZE = cmp_to_key(lambda a, b: compare(exact(a), exact(b)))


@dataclass(frozen=True)
class Course:
    """The course of h/2 from 0 to infinity: its values where it may turn, between which it is monotone.

    The values are its limit at 0, those at turning points and on both sides of joints, and its limit at infinity.
    """

    formula: Formula
    values: tuple[Number, ...]

    def changes(self, level: Number) -> list[int]:
        """Return the signs of h/2 - level in order, zeros and repetitions left out.

        Raises: UndecidedError: a value cannot be told from the level.
        """
        signs: list[int] = []
        for value in self.values:
            sign = compare(value, level)
            if sign == 0 and (value.exact is None or level.exact is None):
                raise UndecidedError("a turning value of h/2 cannot be told from the level")
            if sign and (not signs or signs[-1] != sign):
                signs.append(sign)
        return signs

    def __str__(self) -> str:
        """Write the limits and turning values."""
        first, *turning, last = (value.to_value() for value in self.values)
        through = f" through {', '.join(map(str, turning))}" if turning else ""
        return f"h/2 runs from {first} at 0{through} to {last} at infinity"


@remembered
def ratio_course(formula: Formula) -> Course:
    """Find the turning points of h. Raises: UndecidedError: the sign of h' was not proved."""
    fences = sorted({abs(joint) for joint in formula.joints if joint != 0}, key=_BY_SIZE)
    near, far = _ratio_limits(formula)
    values = [near]
    for low, high in pairwise([sp.Integer(0), *fences, sp.oo]):
        right, left = _branch(formula, low, high), _branch(formula, -high, -low).subs(X, -X)
        halved = (right**2 + left**2) / (2 * X**2)
        inner = [at(halved, zero) for zero in _turning_points(right, left, low, high)]
        values += [at(halved, exact(low))] if low != 0 else []
        values += inner
        values += [at(halved, exact(high))] if high != sp.oo else []
    return Course(formula, (*values, far))


def _turning_points(right: Expr, left: Expr, low: Expr, high: Expr) -> tuple[Number, ...]:
    halves: set[int] = set()
    for f in (right, left):
        halves |= set(sign_map(f * (X * sp.diff(f, X) - f), low, high).signs)
    if halves <= {0, 1} or halves <= {0, -1}:
        return ()
    if identical(right - left, X):
        # f(x) - f(-x) = x turns the slope of h into (2f - x)(x f' - f) / x^3, up to a factor 2.
        return sign_map((2 * right - X) * (X * sp.diff(right, X) - right), low, high).zeros
    slope = X * (right * sp.diff(right, X) + left * sp.diff(left, X)) - right**2 - left**2
    return sign_map(slope, low, high).zeros


def _branch(formula: Formula, low: Expr, high: Expr) -> Expr:
    for piece in formula.pieces:
        if compare(exact(piece.low), exact(low)) <= 0 <= compare(exact(piece.high), exact(high)):
            return piece.expression
    raise AssertionError("the fences hold every joint")


def _ratio_limits(formula: Formula) -> tuple[Number, Number]:
    """Return the limits of V(q)/q at q -> 0 and q -> inf."""
    middle = [p for p in formula.split(sp.Integer(0)) if p.low == 0 or p.high == 0]
    ends = [p.end(0, right=p.high == 0) for p in middle]
    slopes = [p.end(1, right=p.high == 0) for p in middle]
    near = sp.oo if not all(equal(end, sp.S.Zero) for end in ends) else tidy(sum(s**2 for s in slopes) / 2)
    ends = (formula.pieces[0].expression.subs(X, -X), formula.pieces[-1].expression)
    far = [slope_at_infinity(expression) for expression in ends]
    return exact(near), exact(tidy(sum(s**2 for s in far) / 2) if all(s.is_finite for s in far) else sp.oo)


def fixed_points(course: Course, unit: Expr = sp.S.One) -> tuple[Value, tuple[Value, ...]]:
    """Return the number of fixed points above 0 for weight variance 1, with each and the slope there.

    For a scaled function g(t) = f(u t) / u of the unit u, the fixed point times u^2 is that of f.

    Raises: UndecidedError: a fixed point was not enclosed.
    """
    changes = course.changes(exact(1))
    if not changes:
        return Value("statement", note="every q"), ()
    if len(changes) == 1:
        return Value("exact", "0", "0", "0", 0.0, str(course)), ()
    f = squares(course.formula, 0)
    where = []
    for point in _crossings(course.formula, arb(1), changes):
        fourth, second = enclose(course.formula, times_square(f), 4, point), enclose(course.formula, f, 2, point)
        slope = Number(None, (fourth / point - second) / (2 * point))
        where.append(Number(None, point).times(unit**2).to_value(f"slope of the map there {slope.to_value()}"))
    return exact(len(where)).to_value(str(course)), tuple(where)


def uniqueness(course: Course, level: Number, point: Number, unit: Expr = sp.S.One) -> tuple[Value, tuple[Value, ...]]:
    """Return whether V(q)/q takes the level, which it takes at a point, at one q only, or at which other q.

    Raises: UndecidedError: h/2 - level changes sign more than twice, or another q was not enclosed.
    """
    changes = course.changes(level)
    if not changes:
        return Value("statement", note="every q is a fixed point: V(q)/q is constant"), ()
    if len(changes) == 2:
        words = "repelling: V(q)/q rises there" if changes[-1] > 0 else "its slope is below 1: V(q)/q falls there"
        return Value("statement", note=f"the only fixed point above 0, and {words}"), ()
    others = [q for q in _crossings(course.formula, level.ball, changes, point.ball) if not q.overlaps(point.ball)]
    where = tuple(Number(None, q).times(unit**2).to_value() for q in others)
    if len(where) != len(changes) - 2:
        raise UndecidedError("the fixed points were not told apart")
    return Value("statement", note=f"one of {len(changes) - 1} fixed points above 0: {course}"), where


def by_signs(formula: Formula, level: Number, known: Expr | None = None) -> tuple[Value, tuple[Value, ...]]:
    """Return what `fixed_points` says, or `uniqueness` of the known q, from the signs of V(s^2) - level s^2, s > 0.

    Raises: UndecidedError: V has no closed form, or the signs were not proved.
    """
    second = closed_expectation(formula, squares(formula, 0))
    if second is None or second.has(sp.erf, sp.erfc) or level.exact is None:
        raise UndecidedError("V has no closed form whose signs are proved")
    excess = sp.expand(second - level.exact * X**2)
    signs = sign_map(excess, sp.Integer(0), sp.oo)
    if signs.signs == (0,):
        return Value("statement", note="every q"), ()
    points = [Number(None, z.ball**2) if z.exact is None else exact(tidy(z.exact**2)) for z in signs.zeros]
    if known is None:
        slope = sp.diff(second, X) / (2 * X)
        notes = [f"slope of the map there {at(slope, z).to_value()}" for z in signs.zeros]
        note = f"the zeros of V(q) - q for q = s^2, V(q) = {second.subs(X, sp.Symbol('s'))}"
        where = tuple(q.to_value(text) for q, text in zip(points, notes, strict=True))
        return exact(len(points)).to_value(note), where
    # V(q) - level q is 0 at the known q, so that a box around one zero that holds it is a box around it.
    others = [q for q in points if not q.ball.overlaps(constant_ball(known))]
    if len(others) != len(points) - 1:
        raise UndecidedError("the fixed points were not told apart")
    if not others:
        words = "repelling: V(q)/q rises there" if signs.signs[-1] > 0 else "its slope is below 1: V(q)/q falls there"
        if len(set(signs.signs)) == 1:
            words = "V(q)/q touches its level there"
        return Value("statement", note=f"the only fixed point above 0, and {words}"), ()
    return Value("statement", note=f"one of {len(points)} fixed points above 0"), tuple(q.to_value() for q in others)


def squares(formula: Formula, order: int) -> list[Expr]:
    """Return f^(order)^2 on each piece."""
    found = [divided(piece.derivative(order)) ** 2 for piece in formula.pieces]
    return [sp.expand(e) if e.is_polynomial(X) else e for e in found]


def times_square(parts: list[Expr]) -> list[Expr]:
    """Return x^2 times each expression."""
    return [sp.expand(X**2 * e) if e.is_polynomial(X) else X**2 * e for e in parts]


def _crossings(formula: Formula, level: arb, changes: list[int], known: arb | None = None) -> list[arb]:
    """Enclose every q with V(q)/q = level, if there are as many as `changes`, the signs of h/2 - level, allow.

    Samples over log q find a sequence of signs with as many changes; between two of them regula falsi on
    log(V(q)/q), which is close to a line, finds the zero, and proved signs on both sides enclose it.
    """
    f, found = squares(formula, 0), dict[float, arb]()

    def excess(logarithm: arb) -> arb:
        q = logarithm.exp()
        return (enclose(formula, f, 2, q) / q / level).log()

    def pattern() -> list[float]:
        """Return the first and last sample of each run of equal signs."""
        proved = [t for t in sorted(found) if sign_of(found[t])]
        runs = [list(run) for _, run in groupby(proved, key=lambda t: sign_of(found[t]))]
        return [t for run in runs for t in (run[0], run[-1])] if len(runs) == len(changes) else []

    for t in _SAMPLES:
        found[t] = excess(arb(t))
        if edges := pattern():
            break
    else:
        raise UndecidedError(f"V(q)/q was not seen to cross its level {len(changes) - 1} times")
    points = []
    for low, high in zip(edges[1:-1:2], edges[2::2], strict=True):
        at_known = known is not None and arb(low).exp() < known < arb(high).exp()
        points.append(
            known if at_known else _between(excess, (arb(low), found[low].mid()), (arb(high), found[high].mid()))
        )
    return points


def _between(excess: Callable[[arb], arb], left: tuple[arb, arb], right: tuple[arb, arb]) -> arb:
    (low, at_low), (high, at_high) = left, right
    middle = low
    for _ in range(80):
        middle = ((low * at_high - high * at_low) / (at_high - at_low)).mid()
        value = excess(middle).mid()
        if abs(value) < _RELATIVE / 64:
            break
        if (value > 0) == (at_high > 0):
            high, at_high, at_low = middle, value, at_low / 2
        else:
            low, at_low, at_high = middle, value, at_high / 2
    first, last = middle - _RELATIVE, middle + _RELATIVE
    if {sign_of(excess(first)), sign_of(excess(last))} != {-1, 1}:
        raise UndecidedError("the fixed point was not bracketed")
    return first.union(last).exp()


_METHOD = "FLINT integration with error bounds, tails bounded"
_CLOSED = (
    "closed form of the truncated normal moments",
    "closed form: partial fractions in x^2, with E 1/(x^2 + b) by erfc",
)


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
    moments = [
        attempt("propagation", key, title, partial(_moment_row, formula, key, find)) for key, title, find in rows
    ]
    return [*moments, *_map_rows(found, variance)]


def _moment_row(formula: Formula, key: str, find: Callable[[], Number]) -> Proved:
    number = find()
    if not number.finite:
        note = "its square is not integrable at a joint" if key == "slope_moment" else ""
        return Proved(number.to_value(note), (), "leading power at the joint")
    method = _METHOD if number.exact is None else _CLOSED[number.exact.has(sp.erfc)]
    if key == "mean" and number.exact == 0 and is_odd(formula):
        method = "f is odd"
    return Proved(number.to_value(), (), method)


def _gain(found: Moments) -> Number:
    if not found.second.finite:
        raise UndecidedError("E f(x)^2 is infinite, so that no gain scales it")
    if found.second.exact is not None:
        return exact(tidy(sp.sqrt(found.variance / found.second.exact)))
    return Number(None, (exact(found.variance).ball / found.second.ball).sqrt())


def _chi(found: Moments) -> Number:
    if not found.slope.finite and found.second.finite:
        return exact(sp.oo)
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

    def prove(
        settle: Callable[[Course], tuple[Value, tuple[Value, ...]]], level: Callable[[], Number], known: Expr | None
    ) -> Proved:
        try:
            return Proved(*settle(ratio_course(found.scaled)), "course of V(q)/q, variation diminishing")
        except UndecidedError as error:
            if found.unit != 1:
                raise
            try:
                return Proved(*by_signs(found.formula, level(), known), "signs of the closed form of V")
            except UndecidedError:
                raise error from None

    fixed = "Fixed points above 0 of the variance map q -> E f(x)^2, x ~ N(0, q)"
    unique = f"Uniqueness of q = {variance} under the gain"
    return [
        attempt(
            "propagation",
            "fixed_points",
            fixed,
            lambda: prove(lambda course: fixed_points(course, found.unit), lambda: exact(1), None),
        ),
        attempt(
            "propagation",
            "uniqueness",
            unique,
            lambda: prove(
                lambda course: uniqueness(course, level(), exact(variance / found.unit**2), found.unit), level, variance
            ),
        ),
    ]

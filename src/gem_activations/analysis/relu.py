"""How a function compares with ReLU: its gate f(x) / x as a distribution function, and its L^p distance.

For the family the distance is closed for every p. Elsewhere the difference D = f - ReLU is integrated piece by piece
with error bounds. On a half-line D decays like a power of x, and then x = 1/t makes the integrand analytic on a bounded
interval; or |D(x)| <= |D(T)| exp(-r (x - T)) for x >= T, if D' + r D and D have opposite signs on [T, inf), which
`limits.tail_sign` proves.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import sympy as sp
from flint import arb, arb_series
from sympy import stats

from .balls import Expr, X, arguments, constant_ball, decimals, integral, sign_of, tape, whole_power
from .exact import LONGEST_EXACT, Number, constant_sign, equal, exact, factorise, tidy, without_root
from .formulas import Formula, Piece
from .gaussian import cut_ends, natural_unit, rescaled
from .limits import NoLimitError, limit, tail_sign
from .proofs import Property, Proved, UndecidedError, Value, attempt, rests_on
from .signs import sign_map
from .smoothness import as_proved, limit_row, supremum_of_magnitude

_POSITIVE = sp.Symbol("x", positive=True)


def gate(formula: Formula) -> list[Property]:
    """Prove the rows of group "gate"."""
    title, cdf = "The gate f(x)/x is a CDF", "gate_cdf"
    no_gate = attempt("gate", cdf, title, lambda: _require_gate(formula))
    if no_gate.value.note:
        return [no_gate]
    pieces = [
        replace(piece, expression=sp.cancel(over) if over.is_rational_function(X) else over)
        for piece in formula.split(sp.Integer(0))
        for over in [piece.expression / X]
    ]
    limits = partial(limit, pieces[0].expression, -sp.oo), partial(limit, pieces[-1].expression, sp.oo)

    def end_of_gate(find: Callable[[], Expr]) -> Proved:
        return limit_row(lambda: Value("statement", note=str(find())))

    rows = [
        attempt("gate", f"gate_{key}", f"Limit of the gate at {end}", partial(end_of_gate, find))
        for key, end, find in (("left", "-inf", limits[0]), ("right", "+inf", limits[1]))
    ]

    def verdict() -> Proved:
        try:
            fault = _fault(pieces, limits[0](), limits[1]())
        except NoLimitError as error:
            fault = f"the gate has {error}"
        note = f"no: {fault}" if fault else "yes: rises from 0 to 1"
        return Proved(Value("statement", note=note), (), "signs and limits")

    rows.append(attempt("gate", cdf, title, verdict))
    floor = formula.family[2] if formula.family else sp.Integer(0)
    law = "Law of the gate"
    if floor:
        law = "(gate - leak) / (1 - leak)"
        pieces = [Piece(p.low, p.high, sp.cancel((p.expression - floor) / (1 - floor))) for p in pieces]
    if floor or rows[-1].value.note.startswith("yes"):
        rows.append(attempt("gate", "gate_law", law, lambda: _law(formula, pieces)))
    return rows


def _require_gate(formula: Formula) -> Proved:
    """Say why f / x is not a gate; an empty statement if it may be one."""
    kind, note = "absent", ""
    if not formula.continuous:
        note = "f is not continuous"
    elif not equal(formula.at(sp.Integer(0)), sp.S.Zero):
        note = f"f(0) = {formula.at(sp.Integer(0))}, so f(x) / x has a pole at 0"
    return Proved(Value(kind, note=note), (), "value at 0")


def _fault(pieces: list[Piece], left: Expr, right: Expr) -> str:
    if not equal(left, sp.S.Zero):
        return f"the gate tends to {left} at -inf, not to 0"
    if not equal(right, sp.S.One):
        return f"the gate tends to {right} at +inf, not to 1"
    for piece in pieces:
        f = sp.expand(piece.expression * X) if piece.expression.is_polynomial(X) else piece.expression * X
        signs = sign_map(X * sp.diff(f, X) - f, piece.low, piece.high)  # The sign of x^2 times the gate's slope.
        if -1 in signs.signs:
            return f"it falls somewhere on ({piece.low}, {piece.high})"
    for before, after in itertools.pairwise(pieces):
        if constant_sign(after.end(0, right=False) - before.end(0, right=True)) < 0:
            return f"it jumps down at x = {before.high}"
    return ""


def _law(formula: Formula, pieces: list[Piece]) -> Proved:
    def is_zero(branch: tuple[Expr, Expr]) -> bool:
        difference: Any = branch[0]
        powers: Any = sp.powdenest(difference)
        return sp.simplify(powers) == 0 or sp.simplify(difference.rewrite(sp.erf)) == 0

    for name, candidate in _candidates(formula):
        branches = [_difference(piece, candidate) for piece in pieces]
        # A constant whose ball leaves 0 out is proved not to be 0.
        if any(sample != 0 and sign_of(constant_ball(sample)) in (-1, 1) for _, sample in branches):
            continue
        if all(map(is_zero, branches)):
            return Proved(Value("statement", note=name), (), "symbolic identity")
        raise UndecidedError(f"{name} was neither proved nor refuted at one point of each branch")
    tried = "standard normal, standard logistic, standard Gumbel, uniform between two joints, point mass at 0"
    return Proved(Value("statement", note=f"none of: {tried}"), (), "symbolic identity")


def _candidates(formula: Formula) -> Iterator[tuple[str, Expr]]:
    if formula.family is not None:
        n, eps, _ = formula.family
        scale = eps ** sp.Rational(1, 2 * n)
        law = _cdf(stats.LogLogistic("Y", scale, 2 * n))(_POSITIVE)
        whole = sp.Piecewise((0, X < 0), (law.subs(_POSITIVE, X), True))
        yield f"log-logistic with shape {2 * n} and scale {scale}", whole
    yield "point mass at 0", sp.Piecewise((0, X < 0), (1, True))
    yield "standard normal", _cdf(stats.Normal("Z", 0, 1))(X)
    yield "standard logistic", _cdf(stats.Logistic("L", 0, 1))(X)
    yield "standard Gumbel (of maxima)", _cdf(stats.Gumbel("G", 1, 0))(X)
    if len(formula.joints) == 2:
        low, high = formula.joints
        yield f"uniform on [{low}, {high}]", _cdf(stats.Uniform("U", low, high))(X)


def _cdf(law: Expr) -> Callable[[Expr], Expr]:
    return stats.cdf(law)  # pyright: ignore[reportReturnType] -- SymPy's annotation says dict.


def _difference(piece: Piece, law: Expr) -> tuple[Expr, Expr]:
    """Return gate - law on the piece, in a positive symbol if the piece is a half-line from 0, and a point to try."""
    inner, low, high = sp.Dummy(positive=True), piece.low, piece.high
    point, sample = X, sp.Rational(1, 3)
    if (low, high) == (0, sp.oo):
        point, sample = inner, sp.Integer(1)
    elif (low, high) == (-sp.oo, 0):
        point, sample = -inner, sp.Integer(1)
    elif low.is_finite:
        sample = (low * 2 + high) / 3 if high.is_finite else low + 1
    elif high.is_finite:
        sample = high - 1
    if isinstance(law, sp.Piecewise):
        here = -sample if point == -inner else sample
        law = next(branch for branch, condition in arguments(law) if condition.subs(X, here) == sp.true)
    difference = (piece.expression - law).subs(X, point)
    return difference, difference.subs({inner: sample, X: sample})


_RATES = (sp.Integer(1), *(sp.Rational(1, 2**k) for k in range(1, 8)))
_T = sp.Symbol("t", positive=True)


@dataclass(frozen=True)
class _Diverges(Exception):  # noqa: N818
    reason: str


def distance(formula: Formula) -> list[Property]:
    """Prove the rows of group "distance"."""
    title = "L^infinity distance to ReLU, sup |f - ReLU|"
    rows = [
        attempt("distance", "distance_sup", title, lambda: as_proved(supremum_of_magnitude(difference(formula), 0))),
        *(attempt("distance", f"distance_l{p}", f"L^{p} distance to ReLU", partial(_norm, formula, p)) for p in (1, 2)),
    ]
    if formula.family is not None and formula.family[2] == 0:
        rows += _family(formula.family[0])
    return rows


def difference(formula: Formula) -> tuple[Piece, ...]:
    """Return f - ReLU as pieces, cut at 0."""
    return tuple(
        Piece(p.low, p.high, sp.cancel(p.expression - X) if p.expression.is_rational_function(X) else p.expression - X)
        if p.low.is_finite and constant_sign(p.low) >= 0
        else p
        for p in formula.split(sp.Integer(0))
    )


def _norm(formula: Formula, p: int) -> Proved:
    try:
        if formula.family is not None:
            closed = _closed_norm(formula.family, p).to_value()
            return Proved(closed, (), "closed form, x = a (F / (1 - F))^(1/(2n))")
        # With x = u t and f(x) = u g(t) the integral is u^(p+1) times that of g.
        unit = natural_unit(formula)
        found, method = _power_integral(difference(rescaled(formula, unit)), p)
        total = found if unit == 1 else found.times(unit ** (p + 1))
        if total.exact is not None:
            return Proved(exact(tidy(total.exact ** sp.Rational(1, p))).to_value(), (), method)
        return Proved(Number(None, total.ball if p == 1 else total.ball.sqrt()).to_value(), (), method)
    except _Diverges as error:
        return Proved(Value("infinite", "oo", note=error.reason), (), "order of decay at infinity")


def _closed_norm(family: tuple[int, sp.Rational, sp.Rational], p: int) -> Number:
    n, eps, leak = family
    if leak:
        raise _Diverges(f"f - ReLU = {leak} x for x < 0")
    if p * (2 * n - 1) <= 1:
        raise _Diverges(f"|f - ReLU|^p falls like x^-{p * (2 * n - 1)}; the norm is finite where p (2n - 1) > 1")
    power = eps ** sp.Rational(p + 1, 2 * n) * unit_integral(n, p)
    value = sp.powsimp(power ** sp.Rational(1, p))
    return Number(value if len(str(value)) <= LONGEST_EXACT else None, constant_ball(value))


def unit_integral(n: int, p: int) -> Expr:
    """Return the integral of |f - ReLU|^p for eps = 1: B((p+1)/(2n), p - (p+1)/(2n)) / (2n)."""
    first = sp.Rational(p + 1, 2 * n)
    return sp.gammasimp(sp.gamma(first) * sp.gamma(p - first) / (2 * n * sp.gamma(p)))


def _family(n: int) -> list[Property]:
    sup = sp.Integer(2 * n - 1) ** sp.Rational(2 * n - 1, 2 * n) / (2 * n)
    condition = (
        f"finite where p (2n - 1) > 1, that is p > 1/{2 * n - 1}" if n > 1 else "finite for p > 1 only: L^1 diverges"
    )
    closed = (
        f"(norm)^p = a^(p+1) / {2 * n} * B((p+1)/{2 * n}, p - (p+1)/{2 * n}), a = eps^(1/{2 * n}); {condition}; "
        f"sup = {sup} a"
    )
    wanted = (
        f"for a wanted L^p distance d: eps = ({2 * n} d^p / B((p+1)/{2 * n}, p - (p+1)/{2 * n}))^({2 * n}/(p+1)); "
        f"for a wanted sup distance d: eps = {1 / sup ** (2 * n)} d^{2 * n}"
    )
    method = "substitution x = a (F / (1 - F))^(1/(2n)) in x (1 - F), a Beta integral; sup from f' exactly"
    return [
        Property("distance", key, title, Value("statement", note=note), (), method)
        for key, title, note in (
            ("distance_all_p", "L^p distance to ReLU for every p", closed),
            ("eps_for_distance", "eps that gives a wanted distance", wanted),
        )
    ]


def _power_integral(pieces: tuple[Piece, ...], p: int) -> tuple[Number, str]:
    """Return the integral of |D|^p over the line.

    Raises: _Diverges: with the reason; UndecidedError: no bound was proved.
    """
    doubts = []
    for far, sign in ((pieces[0].expression.subs(X, -X), "-"), (pieces[-1].expression, "+")):
        try:
            _require_decay(far, p, sign)
        except UndecidedError as error:  # At the other end the integral may be proved to diverge.
            doubts.append(error)
    if doubts:
        raise doubts[0]
    bounded = [piece.expression.is_polynomial(X) and piece.low.is_finite and piece.high.is_finite for piece in pieces]
    if all(piece.expression == 0 or fits for piece, fits in zip(pieces, bounded, strict=True)):
        parts = [part for piece in pieces for part in _one_sign(piece)]
        if all(low.exact is not None and high.exact is not None for _, low, high in parts):
            total = sum((sp.Abs(sp.integrate(e**p, (X, low.exact, high.exact))) for e, low, high in parts),
                        sp.Integer(0))  # fmt: skip
            return exact(tidy(total)), "exact integration of polynomials"
    total = arb(0)
    for piece in pieces:
        # An even power is analytic across the zeros of D; elsewhere |D| is integrated between them.
        parts = _one_sign(piece) if p % 2 else [(piece.expression, exact(piece.low), exact(piece.high))]
        for expression, low, high in parts:
            total += abs(_integral(expression, low, high, p))
    return Number(None, total), "FLINT integration with error bounds; tails by x = 1/t or an exponential bound"


def _require_decay(far: Expr, p: int, sign: str) -> None:
    try:
        end = limit(far, sp.oo)
    except NoLimitError:
        # A multiple of x^a, a >= 0, that is almost periodic and not 0, leads: its powers have no integral.
        raise _Diverges(f"f - ReLU oscillates at {sign}inf and does not tend to 0") from None
    if end != 0:
        raise _Diverges(f"f - ReLU tends to {end} at {sign}inf")
    order = _order(far)
    if order is None or order * p > 1:
        # With order 2 or more, x D tends to 0; that alone does not bound |D| by a summable power.
        if order is not None and not limit(far * X**order, sp.oo).is_finite and (order - 1) * p <= 1:
            raise UndecidedError(f"f - ReLU falls slower than |x|^-{order} at {sign}inf, perhaps too slowly")
        return
    words = "like" if limit(far * X**order, sp.oo).is_finite else "more slowly than"
    raise _Diverges(f"|f - ReLU|^{p} falls {words} |x|^-{order * p} at {sign}inf")


def _order(far: Expr) -> int | None:
    """Return the least k where x^k D does not tend to 0 at infinity; None where D falls faster than x^-4."""
    for k in range(1, 5):
        if limit(far * X**k, sp.oo) != 0:
            return k
    return None


_Part = tuple[Expr, Number, Number]


def _one_sign(piece: Piece) -> list[_Part]:
    """Return (D, low, high) between the zeros of D; none for D = 0."""
    if piece.expression == 0:
        return []
    zeros = sign_map(piece.expression, piece.low, piece.high).zeros
    fences = [exact(piece.low), *zeros, exact(piece.high)]
    return [(piece.expression, low, high) for low, high in itertools.pairwise(fences)]


def _integral(expression: Expr, low: Number, high: Number, p: int) -> arb:
    if expression == 0:
        return arb(0)
    if low.exact == -sp.oo and high.exact == sp.oo:
        zero = exact(0)
        return _integral(expression, low, zero, p) + _integral(expression, zero, high, p)
    if low.exact == -sp.oo:
        return _integral(expression.subs(X, -X), -high, exact(sp.oo), p)
    if high.exact != sp.oo:
        return _ball_integral(expression**p, low, high)
    if _order(expression) is not None:
        return _power_tail(expression, low, p)
    return _exponential_tail(expression, low, p)


def _power_tail(expression: Expr, low: Number, p: int) -> arb:
    cut = low if low.ball > 1 else exact(1)
    near = arb(0) if low.ball > 1 else _ball_integral(expression**p, low, cut)
    mirrored = _conjugate(expression).subs(X, 1 / _T) ** p / _T**2
    mirrored = sp.cancel(sp.simplify(mirrored)).subs(_T, X)
    inverse = Number(None, 1 / cut.ball) if cut.exact is None else exact(1 / cut.exact)
    return near + _ball_integral(mirrored, exact(0), inverse)


def _conjugate(expression: Expr) -> Expr:
    """Write a factor a + b sqrt(c) that tends to 0 as (a^2 - b^2 c) / (a - b sqrt(c)), which does not cancel."""
    product = factorise(expression)
    result = product.scale
    for factor in product.factors:
        parts = without_root(factor)
        if parts is not None and limit(factor.expression, sp.oo) == 0:
            result *= (parts[2] / (parts[0] - parts[1])) ** factor.multiplicity
        else:
            result *= factor.expression**factor.multiplicity
    return result


def _exponential_tail(f: Expr, low: Number, p: int) -> arb:
    """Integrate |D|^p over [low, inf): with D' + r D against D in sign from T on, |D| <= |D(T)| exp(-r (x - T))."""
    for rate in _RATES:
        start = max(int(128 / rate), int(low.ball.upper().ceil().unique_fmpz() or 0) + 1)
        try:
            sign, slope = tail_sign(f, start), tail_sign(sp.diff(f, X) + rate * f, start)
        except UndecidedError:
            continue
        if sign == -slope:
            rest = whole_power(abs(tape(f)(arb(start))), p) / (p * constant_ball(rate))
            return _ball_integral(f**p, low, exact(start)) + arb(0, rest.upper())
    raise UndecidedError(f"no exponential bound of {f} was proved")


def _ball_integral(integrand: Expr, low: Number, high: Number) -> arb:
    (start, end), left_out = (low.ball, high.ball), arb(0)
    if low.exact is not None and high.exact is not None:
        (start, end), left_out = cut_ends(integrand, low.exact, high.exact, lambda _: arb_series([1]))
    value = integral(tape(integrand), start, end) + left_out
    if not value.is_finite():
        raise UndecidedError(f"the integral of {integrand} was not bounded")
    rests_on(
        "integral",
        of=str(integrand),
        low=decimals(low.ball),
        high=decimals(high.ball),
        weight="1",
        value=decimals(value),
    )
    return value

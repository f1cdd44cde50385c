"""Suprema and infima of piecewise functions, and what stands on them: bounds, differentiability, smoothness constants.

Extrema follow from the signs of derivatives. A function that oscillates on the way to infinity is settled in one
period, by the tangent of half the angle, or by a bound far out. The class of a function follows from one-sided
derivatives at its joints.
"""

import itertools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cmp_to_key, partial
from typing import NamedTuple

import sympy as sp
from flint import arb

from .balls import Expr, X, constant_ball
from .exact import Number, at, compare, constant_sign, equal, exact, greatest, half_angle, identical, tidy
from .formulas import Formula, Piece, line, member
from .gaussian import offset_at_infinity, slope_at_infinity
from .limits import NoLimitError, alternates, bound_beyond, limit
from .proofs import CertificateError, Property, Proved, UndecidedError, Value, attempt, remembered, within_share
from .signs import sign_map

_ENDLESS_STARTS = (8, 32, 128)


class Taken(NamedTuple):
    """A value that a function takes or tends to, at a point, or on a stretch from the point until another.

    `how` is "" for a value taken at the point, "limit", "from the left", "from the right" or "throughout ...".
    """

    value: Number
    point: Number
    how: str
    until: Number | None = None


@dataclass(frozen=True)
class Extremum:
    """A supremum or infimum, exact if possible, +-oo if there is none, and where it is taken, in rising order."""

    value: Number
    where: tuple[Taken, ...]
    method: str


def as_proved(found: Extremum, note: str = "") -> Proved:
    """Write an extremum for its row, with the points where it is taken."""
    where = tuple(
        Value("statement", note=taken.how) if taken.until is not None else taken.point.to_value(taken.how)
        for taken in found.where
    )
    return Proved(found.value.to_value(note), where, found.method)


def supremum(pieces: tuple[Piece, ...], order: int = 0) -> Extremum:
    """Return sup f^(order) over the line, one-sided limits at joints included.

    Raises: UndecidedError: a proof could not be closed. PoleError: a pole inside a piece.
    """
    return _greatest(pieces, order, lambda value: value, sp.oo)


def infimum(pieces: tuple[Piece, ...], order: int = 0) -> Extremum:
    """Return inf f^(order) over the line; see `supremum`."""
    found = _greatest(pieces, order, operator.neg, -sp.oo)
    return replace(found, value=-found.value)


def supremum_of_magnitude(pieces: tuple[Piece, ...], order: int) -> Extremum:
    """Return sup |f^(order)| over the line; see `supremum`."""
    return _greatest(pieces, order, Number.magnitude, sp.oo, -sp.oo)


def _greatest(pieces: tuple[Piece, ...], order: int, measure: Callable[[Number], Number], *infinite: Expr) -> Extremum:
    """Return sup measure(f^(order)), which is oo if f^(order) has one of the infinite limits at an end of a piece."""
    found, methods = _infinite_ends(pieces, order, infinite), {"exact limit"}
    if not found:
        found, methods = _candidates(pieces, order)
    found = [taken._replace(value=measure(taken.value)) for taken in found]
    best = greatest(taken.value for taken in found)
    if best.exact == -sp.oo:
        # A function with a finite value has no supremum -oo: a stationary point was lost.
        raise CertificateError("the points found give an extremum that no function has")
    chosen = [taken for taken in found if compare(taken.value, best) == 0]
    stretches = [(taken.point, taken.until) for taken in chosen if taken.until is not None]
    where: list[Taken] = []
    for taken in sorted(chosen, key=cmp_to_key(lambda a, b: compare(a.point, b.point))):
        if taken.until is None:
            if any(compare(low, taken.point) <= 0 <= compare(high, taken.point) for low, high in stretches):
                continue
            if where and taken.point.exact == where[-1].point.exact is not None:
                where[-1] = taken._replace(how=taken.how if taken.how == where[-1].how else "")
                continue
        where.append(taken)
    return Extremum(best, tuple(where), "; ".join(sorted(methods)))


def _infinite_ends(pieces: tuple[Piece, ...], order: int, wanted: tuple[Expr, ...]) -> list[Taken]:
    """Return the ends of pieces at which f^(order) tends to one of oo and -oo, or oscillates to it."""
    found = []
    for piece, right in itertools.product(pieces, (False, True)):
        point = piece.high if right else piece.low
        try:
            value, how = piece.end(order, right), _side(point, right)
        except NoLimitError as error:
            value, how = wanted[0] if error.unbounded else sp.nan, "the limit superior or inferior"
        except UndecidedError:
            continue
        if value in wanted:
            found.append(Taken(exact(value), exact(point), how))
    return found


def _side(point: Expr, right: bool) -> str:
    return ("from the left" if right else "from the right") if point.is_finite else "limit"


def _candidates(pieces: tuple[Piece, ...], order: int) -> tuple[list[Taken], set[str]]:
    found: list[Taken] = []
    methods: set[str] = set()
    for piece in pieces:
        expression = piece.derivative(order)
        if not expression.has(X):
            how = f"throughout ({piece.low}, {piece.high})"
            found.append(Taken(exact(expression), exact(piece.low), how, exact(piece.high)))
            continue
        turned = half_angle(expression) if sp.oo in (piece.high, -piece.low) else None
        if turned is not None:
            # As t = tan(w x / 2) runs through the line, x runs through one period.
            inner, methods_of_period = _candidates((Piece(-sp.oo, sp.oo, turned[0]),), 0)
            how = f"and at every multiple of {tidy(2 * sp.pi / turned[1])} from there"
            found += [Taken(c.value, at_angle(c.point, turned[1]), how) for c in inner]
            methods |= {f"{method}, in tan({turned[1] * X / 2})" for method in methods_of_period}
            continue
        inner, method = _of_piece(piece, order)
        found += inner
        methods.add(method)
    return found, methods or {"exact algebra"}


def _of_piece(piece: Piece, order: int) -> tuple[list[Taken], str]:
    """Return the values at the ends of a piece and at stationary points; far out a bound, if there are infinitely many.

    The bound is a ball, so that an extremum is left open unless another value is beyond it.
    """
    expression, found = piece.derivative(order), []
    limits: dict[Expr, Expr] = {}
    endless = any(alternates(piece.derivative(order + 1), end) for end in (piece.low, piece.high) if not end.is_finite)
    for right in (False, True):
        point = piece.high if right else piece.low
        try:
            limits[point] = piece.end(order, right)
        except NoLimitError:
            if not endless:
                raise
            continue
        found.append(Taken(exact(limits[point]), exact(point), _side(point, right)))
    if not endless:
        shape = sign_map(piece.derivative(order + 1), piece.low, piece.high)
        return [*found, *(Taken(at(expression, zero), zero, "") for zero in shape.zeros)], shape.method
    inner: list[Taken] = []
    far: list[Taken] = []
    method = ""
    beyond = sum(int(sp.ceiling(abs(end))) for end in (piece.low, piece.high) if end.is_finite)
    for start in (beyond + first for first in _ENDLESS_STARTS):
        low, high = (end if end.is_finite else sp.Integer(start) * sp.sign(end) for end in (piece.low, piece.high))
        shape = sign_map(piece.derivative(order + 1), low, high)
        method = f"{shape.method}, bounds far out"
        inner = [Taken(at(expression, zero), zero, "") for zero in shape.zeros]
        values, far = [c.value for c in (*inner, *found) if c.value.finite], []
        for end in (piece.low, piece.high):
            if not end.is_finite:
                centre = limits.get(end, sp.Integer(0))
                bound = bound_beyond(expression.subs(X, X if end > 0 else -X) - centre, start)
                far.append(Taken(Number(None, constant_ball(centre) + arb(0, bound)), exact(end), "far out"))
        if all({compare(value, c.value) for value in values} >= {1, -1} for c in far):
            break
    return [*found, *inner, *far], method


def at_angle(t: Number, rate: Expr) -> Number:
    """Return x with tan(rate x / 2) = t, within one period around 0."""
    if t.exact is not None:
        return exact(tidy(2 * sp.atan(t.exact) / rate))
    return Number(None, 2 * t.ball.atan() / constant_ball(rate))


MOST_ORDERS = 140
_HIGHEST_DERIVATIVE, _SMOOTH_DERIVATIVES = 17, 6  # Of the family, up to n = 8; of analytic functions.
_ANALYTIC = "infinity: f is C^infinity, analytic on the line"
_AT_JOINTS = "exact one-sided derivatives at every joint"
_N, _EPS, _LEAK = 8, sp.Symbol("eps", positive=True), sp.Symbol("leak", nonnegative=True)


class Break(NamedTuple):
    """The first derivative that is discontinuous at a joint: its order, and its value on either side."""

    joint: Expr
    order: int
    left: Expr
    right: Expr


def one_sided(expression: Expr, point: Expr, side: str = "+") -> Iterator[Expr]:
    """Return the limits of f, f', f'', ... at one side of a point, exactly; symbols in the expression stay symbols.

    A rational function is expanded by dividing power series, anything else by repeated differentiation.
    Example:
        >>> from itertools import islice
        >>> list(islice(one_sided(X**3 / (X**2 + 1), sp.Integer(0)), 5))
        [0, 0, 0, 6, 0]
    """
    top, bottom = sp.fraction(sp.together(expression.subs(X, X + point)))
    if top.is_polynomial(X) and bottom.is_polynomial(X) and sp.Poly(bottom, X).nth(0) != 0:
        above, below, coefficients = sp.Poly(top, X), sp.Poly(bottom, X), list[Expr]()
        while True:
            k = len(coefficients)
            taken = sum(below.nth(j) * coefficients[k - j] for j in range(1, min(k, int(below.degree())) + 1))
            coefficients.append(sp.cancel((above.nth(k) - taken) / below.nth(0)))
            yield sp.factor(coefficients[k] * sp.factorial(k))
    while True:
        value = expression.subs(X, point)
        yield tidy(value) if value.is_finite else limit(expression, point, side)
        expression = sp.diff(expression, X)


@remembered
def breaks(formula: Formula) -> list[Break | None]:
    """Return the first break at each joint; None if two pieces continue each other analytically.

    Raises: UndecidedError: more than 140 derivatives agree.
    """
    found: list[Break | None] = []
    for left, right, value in zip(formula.pieces, formula.pieces[1:], formula.at_joints, strict=False):
        joint = left.high
        analytic = singularities(left).get(joint, True) and singularities(right).get(joint, True)
        if analytic and identical(left.expression, right.expression) and equal(left.end(0, right=True), value):
            found.append(None)
            continue
        before_it, after_it = one_sided(left.expression, joint, "-"), one_sided(right.expression, joint)
        for before, after, order in zip(before_it, after_it, range(MOST_ORDERS), strict=False):
            if not equal(before, after) or (order == 0 and not equal(before, value)):
                found.append(Break(joint, order, before, after))
                break
        else:
            raise UndecidedError(f"{MOST_ORDERS} derivatives agree at x = {joint}")
    return found


@remembered
def singularities(piece: Piece) -> dict[Expr, bool]:
    """Return the points of a closed piece at which a quotient, root or logarithm has its singularity.

    Each with whether it is a pole at most: a quotient of analytic functions; elsewhere it is analytic.

    Raises: CertificateError: a logarithm or root of a negative number; a singularity without an exact form.
    """
    found: dict[Expr, bool] = {}

    def visit(node: Expr, rational: bool) -> set[Expr]:
        whole = isinstance(node, sp.Pow) and node.exp.is_Integer
        arithmetic = rational and (whole or isinstance(node, (sp.Add, sp.Mul)))
        points = {point for part in node.args for point in visit(part, arithmetic)}
        if isinstance(node, sp.log) or (isinstance(node, sp.Pow) and not (whole and node.exp > 0) and node.base.has(X)):
            inside, ends = node.args[0], [end for end in (piece.low, piece.high) if end.is_finite]
            at_ends = [inside.subs(X, end) for end in ends]
            if points - set(ends) or not all(value.is_finite for value in at_ends):
                raise CertificateError(
                    f"{piece.expression} has a singularity inside the quotient, root or logarithm {node}"
                )
            signs = sign_map(inside, piece.low, piece.high)
            if not whole and -1 in signs.signs:
                raise CertificateError(f"{piece.expression} is not real on ({piece.low}, {piece.high}): {inside} < 0")
            here = [zero.exact for zero in signs.zeros]
            if None in here:
                raise CertificateError(f"{piece.expression} has a singularity where {inside} = 0, at no exact point")
            here += [end for end, value in zip(ends, at_ends, strict=True) if not constant_sign(value)]
            for point in here:
                found[point] = found.get(point, True) and rational and whole
            points |= set(here)
        return points

    visit(piece.expression, True)
    return found


def family_jump(n: int) -> Expr:
    """Return the jump of the (2n+1)-th derivative at 0 for symbolic eps and leak, after proving all lower ones equal.

    Raises: CertificateError: the proof fails.
    """
    right = one_sided(member(n, _EPS, _LEAK), sp.Integer(0))
    left = one_sided(_LEAK * X, sp.Integer(0))
    for order, before, after in zip(range(2 * n + 2), left, right, strict=False):
        jump = sp.factor(after - before)
        if order <= 2 * n and jump != 0:
            raise CertificateError(f"the derivative of order {order} jumps by {jump} at 0")
        if order == 2 * n + 1:
            return jump
    raise AssertionError("unreachable")


def smoothness(formula: Formula) -> list[Property]:
    """Prove the rows of group "class"."""
    rows = [
        attempt("class", "order", "Largest k with f in C^k", lambda: _order(formula)),
        attempt("class", "branches", "Each branch", lambda: _branches(formula)),
    ]
    if rows[0].value.note != _ANALYTIC:
        order = int(rows[0].value.exact or -1)
        title = f"Largest jump of the derivative of order {order + 1}" if order >= 0 else "Largest jump of f"
        rows.append(attempt("class", "jump", title, lambda: _jump(formula)))
    if formula.family is not None and rows[0].value.note != _ANALYTIC:
        n = formula.family[0]
        rows.append(attempt("class", "family_theorem", "Class of the family", lambda: _theorem(n)))
    return rows


def _order(formula: Formula) -> Proved:
    found = [b.order for b in breaks(formula) if b is not None]
    if not found:
        method = "one analytic piece" if len(formula.pieces) == 1 else "the pieces continue each other analytically"
        return Proved(Value("statement", note=_ANALYTIC), (), method)
    if min(found) == 0:
        return Proved(Value("absent", note="f is not continuous"), (), _AT_JOINTS)
    return Proved(exact(min(found) - 1).to_value(), (), _AT_JOINTS)


def _branches(formula: Formula) -> Proved:
    points = {point: pole for piece in formula.pieces for point, pole in singularities(piece).items()}
    note = f"{len(formula.pieces)} piece(s), each C^infinity (analytic) up to and including its ends"
    method = "no denominator, root or logarithm vanishes on a closed piece"
    if points:
        note = f"{len(formula.pieces)} piece(s), each C^infinity (analytic) inside"
        for point, pole in points.items():
            note += f"; {'a quotient continued by its limit' if pole else 'a root or logarithm of 0'} at x = {point}"
        method = "signs of denominators and of what roots and logarithms are taken of"
    return Proved(Value("statement", note=note), (), method)


def _jump(formula: Formula) -> Proved:
    found = [b for b in breaks(formula) if b is not None]
    first = [b for b in found if b.order == min(other.order for other in found)]
    where = tuple(
        exact(b.joint).to_value(f"from {b.left} to {b.right}, a jump of {tidy(b.right - b.left)}") for b in first
    )
    largest = max((exact(tidy(sp.Abs(b.right - b.left))) for b in first), key=cmp_to_key(compare))
    return Proved(largest.to_value(), where, _AT_JOINTS)


def _theorem(n: int) -> Proved:
    orders = sorted({*range(1, _N + 1), n} if n <= 2 * _N else set(range(1, _N + 1)))
    claim = all(sp.simplify(family_jump(m) - (1 - _LEAK) * sp.factorial(2 * m + 1) / _EPS) == 0 for m in orders)
    if not claim:
        raise CertificateError("the jump at 0 is not (1 - leak) (2n+1)! / eps")
    note = (
        "for every eps > 0 and leak: f is exactly C^(2n), and the derivative of order 2n+1 jumps at 0 by "
        f"(1 - leak) (2n+1)! / eps (n = {', '.join(map(str, orders))})"
    )
    return Proved(Value("statement", note=note), (), "power series of f at 0+ with symbolic eps and leak")


def boundedness(formula: Formula) -> list[Property]:
    """Prove the rows of group "bounds"."""
    rows = [
        attempt("bounds", "infimum", "inf f", lambda: as_proved(infimum(formula.pieces))),
        attempt("bounds", "supremum", "sup f", lambda: as_proved(supremum(formula.pieces))),
    ]
    for key, end, piece in (("left", -sp.oo, formula.pieces[0]), ("right", sp.oo, formula.pieces[-1])):
        for row, title, prove in (
            ("limit", "lim f at", lambda f, end: exact(limit(f, end)).to_value()),
            ("asymptote", "Asymptote at", _asymptote),
        ):
            find = partial(limit_row, partial(prove, piece.expression, end))
            rows.append(attempt("bounds", f"{row}_{key}", f"{title} {'-' if end < 0 else '+'}inf", find))
    return rows


def limit_row(find: Callable[[], Value]) -> Proved:
    """Return the row of a limit, absent if there is proved to be none."""
    try:
        return Proved(find(), (), "exact limit")
    except NoLimitError as error:
        return Proved(Value("absent", note=str(error)), (), "leading term, almost periodic")


def _asymptote(expression: Expr, end: Expr) -> Value:
    mirrored = expression if end == sp.oo else expression.subs(X, -X)
    slope = slope_at_infinity(mirrored)
    if not slope.is_finite:
        return Value("absent", note="f grows faster than every line")
    offset = offset_at_infinity(mirrored, slope)
    slope = slope if end == sp.oo else -slope
    if not offset.is_finite:
        return Value("absent", note=f"f / x tends to {slope}, f - ({slope}) x has no finite limit")
    return Value("statement", note=f"y = {tidy(slope * X + offset) if slope else offset}")


def smoothness_constants(formula: Formula) -> list[Property]:
    """Prove the rows of group "smoothness": inf f', and sup |f^(k)| as long as f^(k-1) is continuous."""
    lipschitz = _magnitude(formula, 1, "lipschitz", "Lipschitz constant, sup |f'|")
    note = "where f' exists; f jumps elsewhere" if lipschitz.value.kind == "absent" else ""
    rows = [
        lipschitz,
        attempt("smoothness", "slope_infimum", "inf f'", lambda: as_proved(infimum(formula.pieces, 1), note)),
        _magnitude(formula, 2, "gradient_lipschitz", "Lipschitz constant of the gradient, sup |f''|"),
    ]
    if formula.family is not None:
        last = min(2 * formula.family[0] + 1, _HIGHEST_DERIVATIVE)
    else:
        try:
            last = min(
                [_SMOOTH_DERIVATIVES, *within_share(lambda: [b.order for b in breaks(formula) if b is not None])]
            )
        except CertificateError:
            last = 2  # The row on the class says why.
    for k in range(3, last + 1):
        rows.append(_magnitude(formula, k, f"derivative_{k}", f"sup |f^({k})|, derivative of order {k}"))
    return rows


def _magnitude(formula: Formula, k: int, key: str, title: str) -> Property:
    """Return the row of sup |f^(k)|; the family's of a high order is a^(1-k) (1 - leak) times that of GEM."""

    def prove() -> Proved:
        jumps = [str(b.joint) for b in breaks(formula) if b is not None and b.order < k]
        if jumps:
            what = "f" if k == 1 else "f'"
            note = f"infinite: {what} jumps at x = {', '.join(jumps)}"
            return Proved(Value("absent", note=note), (), "exact one-sided derivatives")
        if k <= 2 or formula.family is None:
            return as_proved(supremum_of_magnitude(formula.pieces, k))
        n, eps, leak = formula.family
        found = supremum_of_magnitude(line(0, 0, member(n, sp.S.One, sp.S.Zero)), k)
        width = eps ** sp.Rational(1, 2 * n)
        where = tuple(
            taken if taken.point.exact == 0 else taken._replace(point=taken.point.times(width)) for taken in found.where
        )
        value = found.value.times((1 - leak) * width ** (1 - k))
        return as_proved(replace(found, value=value, where=where), f"(1 - leak) a^{1 - k} times that of GEM")

    return attempt("smoothness", key, title, prove)

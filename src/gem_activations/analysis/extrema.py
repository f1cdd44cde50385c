"""Suprema and infima of piecewise functions, from the signs of their derivatives.

A function that oscillates on the way to infinity is settled in one period, by the tangent of half the angle, or by a
bound far out.
"""

from dataclasses import dataclass, replace
from functools import cmp_to_key

import sympy as sp
from flint import arb

from .balls import Expr, X, constant_ball
from .exact import Number, at, compare, exact, greatest, half_angle, tidy
from .formulas import Piece
from .limits import NoLimitError, alternates, bound_beyond
from .proofs import Proved
from .signs import sign_map
from .values import CertificateError, UndecidedError, Value

_ENDLESS_STARTS = (8, 32, 128)


@dataclass(frozen=True)
class Extremum:
    """A supremum or infimum.

    Attributes:
        value: The bound, exact where possible, +-oo where there is none.
        points: Where it is taken, in rising order; an infinite point is a limit.
        attained: For each point, "" for a value taken there, "limit", "from the left" or "from the right".
        method: How it was found.
    """

    value: Number
    points: tuple[Number, ...]
    attained: tuple[str, ...]
    method: str


def as_proved(found: Extremum, note: str = "") -> Proved:
    """Write an extremum for its row, with the points where it is taken."""
    where = tuple(
        Value("statement", note=how) if how.startswith("throughout") else point.to_value(how)
        for point, how in zip(found.points, found.attained, strict=True)
    )
    return Proved(found.value.to_value(note), where, found.method)


@dataclass(frozen=True)
class _Candidate:
    value: Number
    point: Number
    how: str
    until: Number | None = None


def supremum(pieces: tuple[Piece, ...], order: int = 0) -> Extremum:
    """Return sup f^(order) over the line, one-sided limits at joints included.

    Raises: UndecidedError: a proof could not be closed. PoleError: a pole inside a piece.
    """
    if infinite := _infinite(pieces, order, sp.oo):
        return infinite
    found, methods = _candidates(pieces, order)
    best = greatest(candidate.value for candidate in found)
    _require_possible(best, -sp.oo)
    return _collect(best, found, methods)


def infimum(pieces: tuple[Piece, ...], order: int = 0) -> Extremum:
    """Return inf f^(order) over the line; see `supremum`."""
    if infinite := _infinite(pieces, order, -sp.oo):
        return infinite
    found, methods = _candidates(pieces, order)
    best = -greatest(-candidate.value for candidate in found)
    _require_possible(best, sp.oo)
    return _collect(best, found, methods)


def supremum_of_magnitude(pieces: tuple[Piece, ...], order: int) -> Extremum:
    """Return sup |f^(order)| over the line; see `supremum`."""
    if infinite := _infinite(pieces, order, sp.oo, -sp.oo):
        return replace(infinite, value=exact(sp.oo))
    found, methods = _candidates(pieces, order)
    sizes = [_Candidate(c.value.magnitude(), c.point, c.how, c.until) for c in found]
    return _collect(greatest(c.value for c in sizes), sizes, methods)


def _infinite(pieces: tuple[Piece, ...], order: int, *wanted: Expr) -> Extremum | None:
    """Return an infinite extremum that f^(order) tends to at an end of a piece, or oscillates to; None if it does not.

    Args:
        wanted: Of oo and -oo, the limits to look for.
    """
    found = []
    for piece in pieces:
        for right in (False, True):
            point = piece.high if right else piece.low
            try:
                value = piece.end(order, right)
                how = ("from the left" if right else "from the right") if point.is_finite else "limit"
            except NoLimitError as error:
                value, how = wanted[0] if error.unbounded else sp.nan, "the limit superior or inferior"
            except UndecidedError:
                continue
            if value in wanted:
                found.append(_Candidate(exact(wanted[0]), exact(point), how))
    return _collect(exact(wanted[0]), found, {"exact limit"}) if found else None


def _require_possible(best: Number, impossible: Expr) -> None:
    # A function with a finite value has no infimum oo and no supremum -oo: a stationary point was lost.
    if best.exact == impossible:
        raise CertificateError(f"the points found give an extremum of {impossible}, which no function has")


def _collect(best: Number, found: list[_Candidate], methods: set[str]) -> Extremum:
    chosen = [c for c in found if compare(c.value, best) == 0]
    stretches = [c for c in chosen if c.until is not None]
    merged: list[_Candidate] = []
    for candidate in sorted(chosen, key=cmp_to_key(lambda a, b: compare(a.point, b.point))):
        if candidate.until is None and any(_covers(stretch, candidate.point) for stretch in stretches):
            continue
        if merged and candidate.until is None and candidate.point.exact == merged[-1].point.exact is not None:
            how = merged[-1].how if merged[-1].how == candidate.how else ""
            merged[-1] = _Candidate(candidate.value, candidate.point, how)
        else:
            merged.append(candidate)
    points, how = tuple(c.point for c in merged), tuple(c.how for c in merged)
    return Extremum(best, points, how, "; ".join(sorted(methods)))


def _covers(stretch: _Candidate, point: Number) -> bool:
    high = stretch.until
    return high is not None and compare(stretch.point, point) <= 0 and compare(point, high) <= 0


def _candidates(pieces: tuple[Piece, ...], order: int) -> tuple[list[_Candidate], set[str]]:
    found: list[_Candidate] = []
    methods: set[str] = set()
    for piece in pieces:
        expression = piece.derivative(order)
        if not expression.has(X):
            how = f"throughout ({piece.low}, {piece.high})"
            found.append(_Candidate(exact(expression), exact(piece.low), how, exact(piece.high)))
            continue
        turned = half_angle(expression) if sp.oo in (piece.high, -piece.low) else None
        if turned is not None:
            # As t = tan(w x / 2) runs through the line, x runs through one period.
            inner, methods_of_period = _candidates((Piece(-sp.oo, sp.oo, turned[0]),), 0)
            how = f"and at every multiple of {tidy(2 * sp.pi / turned[1])} from there"
            found += [_Candidate(c.value, at_angle(c.point, turned[1]), how) for c in inner]
            methods |= {f"{method}, in tan({turned[1] * X / 2})" for method in methods_of_period}
            continue
        inner, method = _of_piece(piece, order)
        found += inner
        methods.add(method)
    return found, methods or {"exact algebra"}


def _of_piece(piece: Piece, order: int) -> tuple[list[_Candidate], str]:
    """Return the values at the ends of a piece and at stationary points; far out a bound, if there are infinitely many.

    The bound is a ball, so that an extremum is left open unless another value is beyond it.
    """
    expression, found = piece.derivative(order), []
    limits: dict[Expr, Expr] = {}
    endless = any(alternates(piece.derivative(order + 1), end) for end in (piece.low, piece.high) if not end.is_finite)
    for right in (False, True):
        point = piece.high if right else piece.low
        how = ("from the left" if right else "from the right") if point.is_finite else "limit"
        try:
            limits[point] = piece.end(order, right)
        except NoLimitError:
            if not endless:
                raise
            continue
        found.append(_Candidate(exact(limits[point]), exact(point), how))
    if not endless:
        shape = sign_map(piece.derivative(order + 1), piece.low, piece.high)
        return [*found, *(_Candidate(at(expression, zero), zero, "") for zero in shape.zeros)], shape.method
    inner: list[_Candidate] = []
    far: list[_Candidate] = []
    method = ""
    beyond = sum(int(sp.ceiling(abs(end))) for end in (piece.low, piece.high) if end.is_finite)
    for start in (beyond + first for first in _ENDLESS_STARTS):
        low, high = (end if end.is_finite else sp.Integer(start) * sp.sign(end) for end in (piece.low, piece.high))
        shape = sign_map(piece.derivative(order + 1), low, high)
        method = f"{shape.method}, bounds far out"
        inner = [_Candidate(at(expression, zero), zero, "") for zero in shape.zeros]
        values, far = [c.value for c in (*inner, *found) if c.value.finite], []
        for end in (piece.low, piece.high):
            if not end.is_finite:
                centre = limits.get(end, sp.Integer(0))
                bound = bound_beyond(expression.subs(X, X if end > 0 else -X) - centre, start)
                far.append(_Candidate(Number(None, constant_ball(centre) + arb(0, bound)), exact(end), "far out"))
        if all({compare(value, c.value) for value in values} >= {1, -1} for c in far):
            break
    return [*found, *inner, *far], method


def at_angle(t: Number, rate: Expr) -> Number:
    """Return x with tan(rate x / 2) = t, within one period around 0."""
    if t.exact is not None:
        return exact(tidy(2 * sp.atan(t.exact) / rate))
    return Number(None, 2 * t.ball.atan() / constant_ball(rate))

"""Suprema and infima of piecewise analytic functions over the real line, with the points that give them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cmp_to_key

import sympy as sp

from .balls import Expr, X
from .exact import Number, at, compare, exact, greatest
from .formulas import Piece
from .signs import sign_map
from .values import CertificateError, Property, UndecidedError, Value


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


def extremum_row(group: str, key: str, title: str, find: Callable[[], Extremum]) -> Property:
    """Give the row of an extremum with the points where it is taken; of kind "open" where the proof is not closed."""
    try:
        found = find()
    except UndecidedError as error:
        return Property(group, key, title, Value("open", note=f"not closed: {error}"))
    where = tuple(
        Value("statement", note=how) if how.startswith("throughout") else point.to_value(how)
        for point, how in zip(found.points, found.attained, strict=True)
    )
    return Property(group, key, title, found.value.to_value(), where, found.method)


@dataclass(frozen=True)
class _Candidate:
    value: Number
    point: Number
    how: str
    until: Number | None = None


def supremum(pieces: tuple[Piece, ...], order: int = 0) -> Extremum:
    """Give sup f^(order) over the line, one-sided limits at joints included.

    Raises: UndecidedError: a proof could not be closed. PoleError: a pole inside a piece.
    """
    found, methods = _candidates(pieces, order)
    best = greatest(candidate.value for candidate in found)
    _require_possible(best, -sp.oo)
    return _collect(best, found, methods)


def infimum(pieces: tuple[Piece, ...], order: int = 0) -> Extremum:
    """Give inf f^(order) over the line; see `supremum`."""
    found, methods = _candidates(pieces, order)
    best = -greatest(-candidate.value for candidate in found)
    _require_possible(best, sp.oo)
    return _collect(best, found, methods)


def supremum_of_magnitude(pieces: tuple[Piece, ...], order: int) -> Extremum:
    """Give sup |f^(order)| over the line; see `supremum`."""
    found, methods = _candidates(pieces, order)
    sizes = [_Candidate(c.value.magnitude(), c.point, c.how, c.until) for c in found]
    return _collect(greatest(c.value for c in sizes), sizes, methods)


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
        for right in (False, True):
            point = piece.high if right else piece.low
            how = ("from the left" if right else "from the right") if point.is_finite else "limit"
            found.append(_Candidate(exact(piece.end(order, right)), exact(point), how))
        shape = sign_map(piece.derivative(order + 1), piece.low, piece.high)
        methods.add(shape.method)
        found += [_Candidate(at(expression, zero), zero, "") for zero in shape.zeros]
    return found, methods or {"exact algebra"}

"""An activation as exact analytic pieces on the real line, and what differentiation does to them."""

import itertools
from dataclasses import dataclass
from functools import cached_property, lru_cache

import sympy as sp

from .balls import Expr, X
from .exact import constant_sign, equal, tidy
from .limits import limit


@dataclass(frozen=True)
class Piece:
    """One analytic expression on the open interval (low, high); ends exact, +-oo allowed."""

    low: Expr
    high: Expr
    expression: Expr

    def derivative(self, order: int) -> Expr:
        """Give the expression of the order-th derivative."""
        return _derivative(self.expression, order)

    def end(self, order: int, right: bool) -> Expr:
        """Give the one-sided limit of the order-th derivative at an end of the interval, exact or +-oo."""
        point = self.high if right else self.low
        expression = self.derivative(order)
        if not point.is_finite:
            return limit(expression, point)
        value = expression.subs(X, point)
        if value.is_finite and value.is_real:
            return tidy(value)
        return limit(expression, point, "-" if right else "+")


@dataclass(frozen=True)
class Formula:
    """A function on the real line, ready for proofs.

    Attributes:
        name: Canonical string, or the expression.
        title: Name as the literature writes it.
        pieces: The pieces from left to right; they cover the line but for the joints between them.
        at_joints: f at each joint, in order.
        reading: Remarks on the definition.
        scheme: Steps (symbol, expression) shared by value and gradient, then f and f', where a hand-written
            evaluation scheme beats the derived one; None otherwise. It is proved equal to the pieces.
        family: (n, eps, leak), exact, for a member of the GEM family.
    """

    name: str
    title: str
    pieces: tuple[Piece, ...]
    at_joints: tuple[Expr, ...]
    reading: str = ""
    scheme: "Scheme | None" = None
    family: tuple[int, sp.Rational, sp.Rational] | None = None

    @cached_property
    def joints(self) -> tuple[Expr, ...]:
        """The finite points between pieces."""
        return tuple(piece.high for piece in self.pieces[:-1])

    @cached_property
    def continuous(self) -> bool:
        """Whether f is continuous on the line."""
        sides = zip(self.sides(0), self.at_joints, strict=True)
        return all(equal(left, value) and equal(right, value) for (left, right), value in sides)

    def sides(self, order: int) -> list[tuple[Expr, Expr]]:
        """Give the limits of the order-th derivative from the left and from the right of each joint."""
        pairs = zip(self.pieces, self.pieces[1:], strict=False)
        return [(left.end(order, right=True), right.end(order, right=False)) for left, right in pairs]

    def at(self, point: Expr) -> Expr:
        """Give the exact value f(point)."""
        for joint, value in zip(self.joints, self.at_joints, strict=True):
            if point == joint:
                return value
        piece = next(p for p in self.pieces if not p.high.is_finite or constant_sign(p.high - point) > 0)
        return tidy(piece.expression.subs(X, point))

    def split(self, *points: Expr) -> tuple[Piece, ...]:
        """Give the pieces cut further at the given points."""
        pieces: list[Piece] = []
        for piece in self.pieces:
            cuts = [p for p in points if _strictly(piece.low, p) and _strictly(p, piece.high)]
            fences = [piece.low, *sorted(cuts), piece.high]
            pieces += [Piece(a, b, piece.expression) for a, b in itertools.pairwise(fences)]
        return tuple(pieces)


@dataclass(frozen=True)
class Scheme:
    """Straight-line code of the costliest piece: shared steps, then the value and the gradient in their symbols."""

    steps: tuple[tuple[sp.Symbol, Expr], ...]
    value: Expr
    gradient: Expr
    remark: str


def _strictly(low: Expr, high: Expr) -> bool:
    if not (low.is_finite and high.is_finite):
        return low == -sp.oo or high == sp.oo
    return constant_sign(high - low) > 0


@lru_cache(maxsize=1024)
def _derivative(expression: Expr, order: int) -> Expr:
    return expression if order == 0 else sp.diff(_derivative(expression, order - 1), X)


def line(*parts: Expr) -> tuple[Piece, ...]:
    """Give pieces from expression, joint, expression, joint, ..., expression."""
    fences = [-sp.oo, *(sp.sympify(p) for p in parts[1::2]), sp.oo]
    return tuple(
        Piece(low, high, sp.sympify(expression))
        for low, high, expression in zip(fences, fences[1:], parts[::2], strict=False)
    )

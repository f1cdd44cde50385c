"""Stationary points, dead regions, inflection points, monotonicity, convexity: the sign structure of f' and f''.

Invertibility, and the conditioning of x and of the gradient as functions of the output y = f(x).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import sympy as sp

from .balls import Expr, X
from .exact import Number, at, constant_sign, equal, exact, tidy
from .formulas import Formula, Piece
from .signs import Extremum, extremum_row, infimum, sign_map, supremum, supremum_of_magnitude
from .smoothness import breaks
from .values import CertificateError, Property, UndecidedError, Value

_KINDS = {(-1, 1): "local minimum", (1, -1): "local maximum", (1, 1): "saddle, f rises on both sides",
          (-1, -1): "saddle, f falls on both sides"}  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """A point between two open intervals of constant sign of f^(k).

    Attributes:
        point: Where.
        left, right: The sign of f^(k) beside the point.
        joint: Whether two pieces meet here.
        jump: Sign of the jump of f^(k-1) here; 0 where that is continuous.
        vanishes: Whether f^(k) exists here and is 0.
    """

    point: Number
    left: int
    right: int
    joint: bool
    jump: int
    vanishes: bool


@dataclass(frozen=True)
class Structure:
    """The sign of f^(k) on the line: intervals, the marks between them, and the method."""

    cells: tuple[tuple[Number, Number, int], ...]
    marks: tuple[Mark, ...]
    method: str

    @property
    def signs(self) -> set[int]:
        """All signs that occur, jumps of the derivative below included."""
        return {sign for _, _, sign in self.cells} | {mark.jump for mark in self.marks}


def structure(formula: Formula, order: int) -> Structure:
    """Find the sign of f^(order) everywhere, order 1 or 2.

    Raises: UndecidedError: a proof could not be closed.
    """
    cells: list[tuple[Number, Number, int]] = []
    methods: set[str] = set()
    inner: list[Number] = []
    for piece in formula.pieces:
        signs = sign_map(piece.derivative(order), piece.low, piece.high)
        methods.add(signs.method)
        fences = [exact(piece.low), *signs.zeros, exact(piece.high)]
        cells += list(zip(fences, fences[1:], signs.signs, strict=False))
        inner += signs.zeros
    below, here = formula.sides(order - 1), formula.sides(order)
    marks = []
    for (_, point, left), (_, _, right) in itertools.pairwise(cells):
        index = next((k for k, joint in enumerate(formula.joints) if point.exact == joint), None)
        if index is None or point in inner:
            marks.append(Mark(point, left, right, joint=False, jump=0, vanishes=True))
            continue
        jump = at(below[index][1] - below[index][0], point)
        sign = _jump_sign(jump)
        flat = sign == 0 and all(equal(side, sp.S.Zero) for side in here[index])
        flat = flat and _smooth_below(formula, index, order)
        marks.append(Mark(point, left, right, joint=True, jump=sign, vanishes=flat))
    return Structure(tuple(cells), tuple(marks), "; ".join(sorted(methods)))


def _jump_sign(jump: Number) -> int:
    if jump.exact is None or jump.exact is sp.nan:
        raise UndecidedError("the sign of a jump is not decided")
    return constant_sign(jump.exact) if jump.finite else 1 if jump.exact == sp.oo else -1


def _smooth_below(formula: Formula, index: int, order: int) -> bool:
    broken = breaks(formula)[index]
    return broken is None or broken.order >= order


def stationarity(formula: Formula) -> list[Property]:
    """Prove the rows of group "stationarity"."""
    first, second = structure(formula, 1), structure(formula, 2)
    return [
        _stationary_points(formula, first),
        _dead_regions(first),
        _kinks(formula, first),
        _inflections(formula, second),
        _statement("monotonicity", "Monotone", _monotone(first), first.method),
        _statement("convexity", "Convex or concave", _convex(formula, second), second.method),
    ]


def _statement(key: str, title: str, note: str, method: str) -> Property:
    return Property("stationarity", key, title, Value("statement", note=note), (), method)


def _count(key: str, title: str, where: list[Value], method: str) -> Property:
    return Property("stationarity", key, title, exact(len(where)).to_value(), tuple(where), method)


def _stationary_points(formula: Formula, found: Structure) -> Property:
    points = []
    for mark in found.marks:
        if mark.vanishes and 0 not in (mark.left, mark.right):
            value = _height(formula, mark.point)
            points.append(mark.point.to_value(f"{_KINDS[mark.left, mark.right]}, f = {value}"))
    return _count("stationary_points", "Isolated stationary points", points, found.method)


def _height(formula: Formula, point: Number) -> str:
    if point.exact is not None:
        value = exact(formula.at(point.exact)).to_value()
        return value.exact if value.kind == "exact" and len(value.exact) <= 12 else _digits(value)
    piece = next(p for p in formula.pieces if p.high == sp.oo or point.ball < exact(p.high).ball)
    return _digits(at(piece.expression, point).to_value())


def _dead_regions(found: Structure) -> Property:
    regions = []
    kinks = {mark.point.exact for mark in found.marks if mark.joint and not mark.vanishes}
    for low, high, sign in found.cells:
        if sign == 0:
            left = "(" if low.exact in (-sp.oo, *kinks) else "["
            right = ")" if high.exact in (sp.oo, *kinks) else "]"
            measure = f"measure {_length(low, high)}" if low.finite and high.finite else "a half-line, measure inf"
            regions.append(Value("statement", note=f"{left}{low.exact}, {high.exact}{right}, {measure}"))
    row = _count("dead_regions", "Intervals with f' = 0 (dead regions)", regions, found.method)
    return row if regions else replace(row, value=replace(row.value, note="none"))


def _length(low: Number, high: Number) -> Expr:
    if low.exact is None or high.exact is None:
        raise CertificateError("the end of a dead region has no exact form")
    return tidy(high.exact - low.exact)


def _kinks(formula: Formula, found: Structure) -> Property:
    sides, points = formula.sides(1), []
    for mark, (before, after) in zip((m for m in found.marks if m.joint), sides, strict=True):
        if mark.jump == 0 and equal(before, after):
            continue
        kind = "f jumps" if mark.jump else f"f' from {before} to {after}"
        extremum = _KINDS.get((mark.left, mark.right), "") if not mark.jump and mark.left != mark.right else ""
        points.append(mark.point.to_value(f"{kind}{', ' + extremum if extremum else ''}"))
    return _count("kinks", "Points where f' does not exist", points, "exact one-sided derivatives")


def _inflections(formula: Formula, found: Structure) -> Property:
    points = []
    for mark in found.marks:
        if mark.left * mark.right == -1 and mark.jump == 0 and formula.continuous:
            bend = "convex to concave" if mark.left > 0 else "concave to convex"
            points.append(mark.point.to_value(bend))
    return _count("inflection_points", "Inflection points", points, found.method)


def _monotone(found: Structure) -> str:
    signs = found.signs
    strict = all(sign != 0 for _, _, sign in found.cells)
    if -1 not in signs:
        return "strictly increasing" if strict else "non-decreasing"
    if 1 not in signs:
        return "strictly decreasing" if strict else "non-increasing"
    return "not monotone"


def _convex(formula: Formula, found: Structure) -> str:
    if not formula.continuous:
        return "neither (f is not continuous)"
    signs = found.signs
    if signs == {0}:
        return "affine"
    if -1 not in signs:
        return "convex"
    return "concave" if 1 not in signs else "neither"


def _digits(value: Value) -> str:
    # Beyond the range of float64 there is no short form.
    return f"{value.approx:.12g}" if value.approx is not None else value.exact or f"[{value.low}, {value.high}]"


def inverse(formula: Formula) -> list[Property]:
    """Prove the rows of group "inverse"."""
    found = structure(formula, 1)
    signs = found.signs
    if not formula.continuous:
        return _with_jumps(formula, found)
    if {1, -1} <= signs:
        return [
            _row("invertible", "Invertible", Value("statement", note="no: f is not monotone"), found.method),
            _of_output(Value("absent", note="f is not monotone: two inputs with one output")),
        ]
    dead = [(low, high) for low, high, sign in found.cells if sign == 0]
    rising = _merge([(low.exact, high.exact) for low, high, sign in found.cells if sign])
    rows = [_row("invertible", "Invertible", _where(formula, rising, bool(dead)), found.method)]
    pieces = tuple(p for p in formula.split(sp.Integer(0)) if p.derivative(1) != 0)
    rows.append(_sensitivity(pieces))
    if formula.at(sp.Integer(0)) == 0:
        rows += _relative(pieces)
    if formula.family is not None and formula.family[2] == 0:
        rows.append(_theorem())
    return rows


def _with_jumps(formula: Formula, found: Structure) -> list[Property]:
    """Give the rows of a discontinuous function: constant somewhere, strictly monotone, or left open."""
    dead = ", ".join(f"({low.exact}, {high.exact})" for low, high, sign in found.cells if sign == 0)
    if dead:
        why = f"f is constant on {dead}"
        note = Value("statement", note=f"no: {why}"), Value("absent", note=f"{why}: many inputs with one output")
    elif {1, -1} <= found.signs:
        open_row = Value("open", note="not closed: f jumps and is not monotone; its stretches are not compared")
        note = open_row, open_row
    else:
        # f at a joint is one of its two limits, so strict monotonicity of the stretches and jumps is that of f.
        note = (
            _image_with_gaps(formula),
            Value("statement", note="yes, through the inverse; f jumps, so no bound is given"),
        )
    return [_row("invertible", "Invertible", note[0], found.method), _of_output(note[1])]


def _image_with_gaps(formula: Formula) -> Value:
    low, high = infimum(formula.pieces).value.to_value(), supremum(formula.pieces).value.to_value()
    gaps = []
    for below, above in formula.sides(0):
        if not equal(below, above):
            first, last = (below, above) if constant_sign(above - below) > 0 else (above, below)
            gaps.append(f"{first} and {last}")
    note = f"yes, on its image; the outputs run from {low} to {high}, but for gaps between {', '.join(gaps)}"
    return Value("statement", note=note)


def _of_output(value: Value) -> Property:
    return _row("gradient_of_output", "f' is a function of y = f(x)", value, "")


def _row(key: str, title: str, value: Value, method: str) -> Property:
    return Property("inverse", key, title, value, (), method)


def _merge(cells: list[tuple[Expr | None, Expr | None]]) -> list[tuple[Expr, Expr]]:
    merged: list[tuple[Expr, Expr]] = []
    for low, high in cells:
        if low is None or high is None:
            raise CertificateError("a stretch of a monotone function has an end without an exact form")
        if merged and merged[-1][1] == low:
            merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return merged


def _where(formula: Formula, rising: list[tuple[Expr, Expr]], dead: bool) -> Value:
    low, high = infimum(formula.pieces).value.to_value(), supremum(formula.pieces).value.to_value()
    image = f"{low} to {high}"
    if not dead:
        return Value("statement", note=f"yes, on the whole line; the outputs run from {image}")
    parts = ", ".join(f"{'(' if a == -sp.oo else '['}{a}, {b}{')' if b == sp.oo else ']'}" for a, b in rising)
    return Value("statement", note=f"only where f' is not 0: on {parts}; the outputs run from {image}")


def _sensitivity(pieces: tuple[Piece, ...]) -> Property:
    title = "sup |f''/f'|, the change of the gradient per unit of output"
    ratios = tuple(Piece(p.low, p.high, _reduce(p.derivative(2) / p.derivative(1))) for p in pieces)
    return _bound("gradient_sensitivity", title, lambda: supremum_of_magnitude(ratios, 0))


def _relative(pieces: tuple[Piece, ...]) -> list[Property]:
    inputs = tuple(Piece(p.low, p.high, _reduce(p.expression / (X * p.derivative(1)))) for p in pieces)
    ratio, elasticity = "(dx/x) / (dy/y) = f / (x f')", "(df'/f') / (dy/y) = f f'' / f'^2"
    slopes = tuple(Piece(p.low, p.high, _reduce(p.expression * p.derivative(2) / p.derivative(1) ** 2)) for p in pieces)
    return [
        _bound("input_conditioning_min", f"inf of {ratio}", lambda: infimum(inputs)),
        _bound("input_conditioning_max", f"sup of {ratio}", lambda: supremum(inputs)),
        _bound("gradient_conditioning", f"sup |{elasticity}|", lambda: supremum_of_magnitude(slopes, 0)),
    ]


def _reduce(expression: Expr) -> Expr:
    plain = expression.rewrite([sp.tanh], sp.exp)
    return sp.cancel(plain) if plain.is_rational_function(X) else sp.together(plain)


def _bound(key: str, title: str, find: Callable[[], Extremum]) -> Property:
    return extremum_row("inverse", key, title, find)


def _theorem() -> Property:
    n, eps, x, gate = sp.symbols("n eps x F", positive=True)
    rise = x ** (2 * n) / (x ** (2 * n) + eps)
    value = x * rise
    logarithmic = sp.simplify(x * sp.diff(value, x) / value - (1 + 2 * n * (1 - rise)))
    slope = rise * (1 + 2 * n * (1 - rise))
    identity = sp.simplify(sp.diff(value, x) - slope)
    if logarithmic != 0 or identity != 0:
        raise CertificateError("x f'/f is not 1 + 2n (1 - F)")
    chain = sp.factor((1 + 2 * n * (1 - gate)) - 1), sp.factor(2 * n + 1 - (1 + 2 * n * (1 - gate)))
    note = (
        "for every n, eps and x > 0: x f'/f = 1 + 2n (1 - F), between 1 and 2n + 1 "
        f"(the gaps are {chain[0]} and {chain[1]}, 0 < F < 1), so dx/x = (dy/y) / (1 + 2n (1 - F)): "
        "rounding in y is never amplified in x"
    )
    method = "symbolic identity in n, eps and x"
    return Property(
        "inverse", "family_conditioning", "Conditioning of the family", Value("statement", note=note), (), method
    )

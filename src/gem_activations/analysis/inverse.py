"""Invertibility, and the conditioning of x and of the gradient as functions of the output y = f(x)."""

from collections.abc import Callable

import sympy as sp

from .balls import Expr, X
from .exact import constant_sign, equal
from .formulas import Formula, Piece
from .signs import Extremum, extremum_row, infimum, supremum, supremum_of_magnitude
from .stationarity import Structure, structure
from .values import CertificateError, Property, Value


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

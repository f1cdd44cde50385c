"""The shape of a function: signs of f' and f'', stationary points, dead regions, what its output tells of x, its gate.

The gate is f(x) / x; that of the family, of GELU and of SiLU is a distribution function.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import sympy as sp

from .balls import Expr, X, constant_ball, sign_of
from .exact import Number, at, compare, constant_sign, equal, exact, half_angle, tidy
from .formulas import Formula, Piece
from .limits import NoLimitError, alternates, limit
from .proofs import CertificateError, Property, Proved, UndecidedError, Value, attempt, remembered, within_share
from .signs import sign_map
from .smoothness import as_proved, breaks, infimum, limit_row, supremum, supremum_of_magnitude

_KINDS = {(-1, 1): "local minimum", (1, -1): "local maximum", (1, 1): "saddle, f rises on both sides",
          (-1, -1): "saddle, f falls on both sides"}  # fmt: skip


class Mark(NamedTuple):
    """A point between two open intervals of constant sign of f^(k), its `left` and `right`."""

    point: Number
    left: int
    right: int
    joint: bool  # Two pieces meet here.
    jump: int  # Sign of the jump of f^(k-1), 0 if that is continuous.
    vanishes: bool  # f^(k) exists here and is 0.


@dataclass(frozen=True)
class Structure:
    """The sign of f^(k) on the line: intervals, the marks between them, and the method.

    Of a function that oscillates for ever there is one cell for each sign, over the whole line, and no mark; `endless`
    says so, if f^(k) has infinitely many zeros.
    """

    cells: tuple[tuple[Number, Number, int], ...]
    marks: tuple[Mark, ...]
    method: str
    endless: str = ""

    @property
    def signs(self) -> set[int]:
        """All signs that occur, jumps of the derivative below included."""
        return {sign for _, _, sign in self.cells} | {mark.jump for mark in self.marks}


@remembered
def structure(formula: Formula, order: int) -> Structure:
    """Find the sign of f^(order) everywhere, order 1 or 2. Raises: UndecidedError: a proof could not be closed."""
    if not formula.joints and (oscillating := _oscillation(formula.pieces[0].derivative(order))):
        return oscillating
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
        if jump.exact is None or jump.exact is sp.nan:
            raise UndecidedError("the sign of a jump is not decided")
        sign = compare(jump, exact(0))
        flat = sign == 0 and all(equal(side, sp.S.Zero) for side in here[index])
        flat = flat and ((broken := breaks(formula)[index]) is None or broken.order >= order)
        marks.append(Mark(point, left, right, joint=True, jump=sign, vanishes=flat))
    return Structure(tuple(cells), tuple(marks), "; ".join(sorted(methods)))


def _oscillation(expression: Expr) -> Structure | None:
    """Return the signs of an analytic function that is periodic, or changes its sign for ever; None for any other."""
    turned, endless = half_angle(expression), ""
    if turned is not None:
        period = sign_map(turned[0], -sp.oo, sp.oo)
        signs, method = set(period.signs), f"{period.method}, in tan({turned[1] * X / 2})"
        if signs == {0}:
            return None
        if period.zeros or limit(turned[0], sp.oo) == 0:  # At tan = oo, half a period from x = 0.
            endless = f"again in every period of {tidy(2 * sp.pi / turned[1])}"
    else:
        ends = [end for end in (-sp.oo, sp.oo) if alternates(expression, end)]
        if not ends:
            return None
        signs, method = {1, -1}, "leading term, almost periodic"
        endless = f"again and again on the way to {' and '.join(map(str, ends))}"
    return Structure(tuple((exact(-sp.oo), exact(sp.oo), sign) for sign in sorted(signs)), (), method, endless)


def stationarity(formula: Formula) -> list[Property]:
    """Prove the rows of group "stationarity"."""
    rows: list[tuple[str, str, Callable[[Formula], Proved]]] = [
        ("stationary_points", "Isolated stationary points", _stationary_points),
        ("dead_regions", "Intervals with f' = 0 (dead regions)", _dead_regions),
        ("kinks", "Points where f' does not exist", _kinks),
        ("inflection_points", "Inflection points", _inflections),
        ("monotonicity", "Monotone", _monotone),
        ("convexity", "Convex or concave", _convex),
    ]
    return [attempt("stationarity", key, title, partial(prove, formula)) for key, title, prove in rows]


def _count(where: list[Value], method: str) -> Proved:
    return Proved(exact(len(where)).to_value(), tuple(where), method)


def _stationary_points(formula: Formula) -> Proved:
    found, points = structure(formula, 1), []
    if found.endless:
        return Proved(Value("infinite", "oo", note=found.endless), (), found.method)
    for mark in found.marks:
        if mark.vanishes and 0 not in (mark.left, mark.right):
            value = _height(formula, mark.point)
            points.append(mark.point.to_value(f"{_KINDS[mark.left, mark.right]}, f = {value}"))
    return _count(points, found.method)


def _height(formula: Formula, point: Number) -> str:
    if point.exact is not None:
        value = exact(formula.at(point.exact)).to_value()
        if value.kind == "exact" and len(value.exact) <= 12:
            return value.exact
    else:
        piece = next(p for p in formula.pieces if p.high == sp.oo or point.ball < exact(p.high).ball)
        value = at(piece.expression, point).to_value()
    # Beyond the range of float64 there is no short form.
    return f"{value.approx:.12g}" if value.approx is not None else value.exact or f"[{value.low}, {value.high}]"


def _dead_regions(formula: Formula) -> Proved:
    found, regions = structure(formula, 1), []
    kinks = {mark.point.exact for mark in found.marks if mark.joint and not mark.vanishes}
    for low, high, sign in found.cells:
        if sign == 0:
            first, last = low.exact, high.exact
            if first is None or last is None:
                raise CertificateError("the end of a dead region has no exact form")
            length = tidy(last - first)
            left = "(" if first in (-sp.oo, *kinks) else "["
            right = ")" if last in (sp.oo, *kinks) else "]"
            measure = f"measure {length}" if length.is_finite else "a half-line, measure inf"
            regions.append(Value("statement", note=f"{left}{first}, {last}{right}, {measure}"))
    proved = _count(regions, found.method)
    return proved if regions else proved._replace(value=replace(proved.value, note="none"))


def _kinks(formula: Formula) -> Proved:
    sides, points = formula.sides(1), []
    marks = [mark for mark in structure(formula, 1).marks if mark.joint] if sides else []
    for mark, (before, after) in zip(marks, sides, strict=True):
        if mark.jump == 0 and equal(before, after):
            continue
        kind = "f jumps" if mark.jump else f"f' from {before} to {after}"
        extremum = _KINDS.get((mark.left, mark.right), "") if not mark.jump and mark.left != mark.right else ""
        points.append(mark.point.to_value(f"{kind}{', ' + extremum if extremum else ''}"))
    return _count(points, "exact one-sided derivatives")


def _inflections(formula: Formula) -> Proved:
    found, points = structure(formula, 2), []
    if found.endless and {1, -1} <= found.signs:
        return Proved(Value("infinite", "oo", note=found.endless), (), found.method)
    for mark in found.marks:
        if mark.left * mark.right == -1 and mark.jump == 0 and formula.continuous:
            points.append(mark.point.to_value("convex to concave" if mark.left > 0 else "concave to convex"))
    return _count(points, found.method)


def _monotone(formula: Formula) -> Proved:
    found = structure(formula, 1)
    strict = all(sign != 0 for _, _, sign in found.cells)
    if -1 not in found.signs:
        note = "strictly increasing" if strict else "non-decreasing"
    elif 1 not in found.signs:
        note = "strictly decreasing" if strict else "non-increasing"
    else:
        note = "not monotone"
    return Proved(Value("statement", note=note), (), found.method)


def _convex(formula: Formula) -> Proved:
    found = structure(formula, 2)
    if not formula.continuous:
        note = "neither (f is not continuous)"
    elif found.signs == {0}:
        note = "affine"
    elif -1 not in found.signs:
        note = "convex"
    else:
        note = "concave" if 1 not in found.signs else "neither"
    return Proved(Value("statement", note=note), (), found.method)


def inverse(formula: Formula) -> list[Property]:
    """Prove the rows of group "inverse"."""

    def row(key: str, title: str, prove: Callable[[], Proved]) -> Property:
        return attempt("inverse", key, title, prove)

    try:
        found = within_share(lambda: structure(formula, 1))
        moving = found.signs - {0}
        one_way = within_share(lambda: formula.continuous) and not {1, -1} <= moving
    except CertificateError as error:
        return [Property("inverse", "invertible", "Invertible", Value("open", note=f"not closed: {error}"))]
    rows = [row("invertible", "Invertible", lambda: _invertible(formula, found))]
    if not one_way:
        return [*rows, row("gradient_of_output", "f' is a function of y = f(x)", lambda: _of_output(formula, found))]
    live = tuple(p for p in formula.split(sp.Integer(0)) if p.derivative(1) != 0)
    f, df, ddf = ([p.derivative(k) for p in live] for k in range(3))
    title = "sup |f''/f'|, the change of the gradient per unit of output"
    rows.append(row("gradient_sensitivity", title, lambda: _gradient_bound(formula, _ratios(live, ddf, df))))
    if formula.at(sp.Integer(0)) == 0:
        inputs = "(dx/x) / (dy/y) = f / (x f')"
        slopes = [X * slope for slope in df]
        bends, squares = [a * b for a, b in zip(f, ddf, strict=True)], [slope**2 for slope in df]
        rows += [
            row("input_conditioning_min", f"inf of {inputs}", lambda: as_proved(infimum(_ratios(live, f, slopes)))),
            row("input_conditioning_max", f"sup of {inputs}", lambda: as_proved(supremum(_ratios(live, f, slopes)))),
            row(
                "gradient_conditioning",
                "sup |(df'/f') / (dy/y) = f f'' / f'^2|",
                lambda: _gradient_bound(formula, _ratios(live, bends, squares)),
            ),
        ]
    if formula.family is not None and formula.family[2] == 0:
        rows.append(row("family_conditioning", "Conditioning of the family", _theorem))
    return rows


def _invertible(formula: Formula, found: Structure) -> Proved:
    if not formula.continuous:
        return _invertible_with_jumps(formula, found)
    if {1, -1} <= found.signs:
        return Proved(Value("statement", note="no: f is not monotone"), (), found.method)
    low, high = infimum(formula.pieces).value.to_value(), supremum(formula.pieces).value.to_value()
    moving = [(low.exact, high.exact) for low, high, sign in found.cells if sign]
    stretches: list[tuple[Expr, Expr]] = []
    for first, last in moving:
        if first is None or last is None:
            raise CertificateError("a stretch of a monotone function has an end without an exact form")
        joined = bool(stretches) and stretches[-1][1] == first
        stretches = [*stretches[:-1], (stretches[-1][0], last)] if joined else [*stretches, (first, last)]
    if len(moving) == len(found.cells):
        return Proved(
            Value("statement", note=f"yes, on the whole line; the outputs run from {low} to {high}"), (), found.method
        )
    # f has one value on a stretch where it is constant: of the two ends beside it only the left one is kept.
    parts = [
        f"{'(' if index or a == -sp.oo else '['}{a}, {b}{')' if b == sp.oo else ']'}"
        for index, (a, b) in enumerate(stretches)
    ]
    note = f"only where f' is not 0: on {' and '.join(parts)}; the outputs run from {low} to {high}"
    return Proved(Value("statement", note=note), (), found.method)


def _invertible_with_jumps(formula: Formula, found: Structure) -> Proved:
    if dead := _constant_on(found):
        return Proved(Value("statement", note=f"no: f is constant on {dead}"), (), found.method)
    # f at a joint is one of its two limits, so strict monotonicity of the stretches and jumps is that of f.
    low, high = infimum(formula.pieces).value.to_value(), supremum(formula.pieces).value.to_value()
    gaps = []
    for below, above in formula.sides(0):
        if not equal(below, above):
            first, last = (below, above) if constant_sign(above - below) > 0 else (above, below)
            gaps.append(f"{first} and {last}")
    note = f"yes, on its image; the outputs run from {low} to {high}, but for gaps between {', '.join(gaps)}"
    return Proved(Value("statement", note=note), (), found.method)


def _constant_on(found: Structure) -> str:
    """Return the intervals on which a discontinuous function is constant, "" if it is strictly monotone."""
    dead = ", ".join(f"({low.exact}, {high.exact})" for low, high, sign in found.cells if sign == 0)
    if not dead and {1, -1} <= found.signs:
        raise UndecidedError("f jumps and is not monotone; its stretches are not compared")
    return dead


def _of_output(formula: Formula, found: Structure) -> Proved:
    if formula.continuous:
        return Proved(Value("absent", note="f is not monotone: two inputs with one output"))
    if dead := _constant_on(found):
        return Proved(Value("absent", note=f"f is constant on {dead}: many inputs with one output"))
    return Proved(Value("statement", note="yes, through the inverse; f jumps, so no bound is given"))


def _ratios(live: tuple[Piece, ...], tops: list[Expr], bottoms: list[Expr]) -> tuple[Piece, ...]:
    """Return top / bottom on each piece, in a form that the limits at its ends can be read from."""
    made = []
    for piece, top, bottom in zip(live, tops, bottoms, strict=True):
        plain = (top / bottom).rewrite([sp.tanh], sp.exp)
        made.append(
            Piece(piece.low, piece.high, sp.cancel(plain) if plain.is_rational_function(X) else sp.together(plain))
        )
    return tuple(made)


def _gradient_bound(formula: Formula, ratios: tuple[Piece, ...]) -> Proved:
    """Bound how fast f' changes with y = f(x): not at all if f' jumps between two pieces on which f is not constant."""
    live = [piece.derivative(1) != 0 for piece in formula.pieces]
    for index, (before, after) in enumerate(formula.sides(1)):
        if live[index] and live[index + 1] and not equal(before, after):
            note = f"f' jumps from {before} to {after} at x = {formula.joints[index]}"
            return Proved(Value("infinite", "oo", note=note), (), "exact one-sided derivatives")
    return as_proved(supremum_of_magnitude(ratios, 0))


def _theorem() -> Proved:
    n, eps, x, gate = sp.symbols("n eps x F", positive=True)
    rise = x ** (2 * n) / (x ** (2 * n) + eps)
    slope = sp.diff(x * rise, x)
    factor = 1 + 2 * n * (1 - rise)
    if sp.simplify(slope / rise - factor) != 0 or sp.simplify(slope - rise * factor) != 0:
        raise CertificateError("x f'/f is not 1 + 2n (1 - F)")
    gaps = (sp.factor(gap.subs(rise, gate)) for gap in (factor - 1, 2 * n + 1 - factor))
    note = (
        "for every n, eps and x > 0: x f'/f = 1 + 2n (1 - F), between 1 and 2n + 1 "
        f"(the gaps are {' and '.join(map(str, gaps))}, 0 < F < 1), so dx/x = (dy/y) / (1 + 2n (1 - F)): "
        "rounding in y is never amplified in x"
    )
    return Proved(Value("statement", note=note), (), "symbolic identity in n, eps and x")


def gate(formula: Formula) -> list[Property]:
    """Prove the rows of group "gate": what f(x) / x tends to, whether it is a distribution function, and which."""
    title, cdf = "The gate f(x)/x is a CDF", "gate_cdf"

    def no_gate() -> Proved:
        note, at_0 = "", formula.at(sp.Integer(0))
        if not formula.continuous:
            note = "f is not continuous"
        elif not equal(at_0, sp.S.Zero):
            note = f"f(0) = {at_0}, so f(x) / x has a pole at 0"
        return Proved(Value("absent", note=note), (), "value at 0")

    refused = attempt("gate", cdf, title, no_gate)
    if refused.value.note:
        return [refused]
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
    for name, law in _laws(formula):
        differences = [piece.expression - law(piece) for piece in pieces]
        samples = [difference.subs(X, piece.inside) for difference, piece in zip(differences, pieces, strict=True)]
        # A constant whose ball leaves 0 out is proved not to be 0.
        if any(sample != 0 and sign_of(constant_ball(sample)) in (-1, 1) for sample in samples):
            continue
        if all(sp.simplify(d) == 0 or sp.simplify(d.rewrite(sp.erf)) == 0 for d in differences):
            return Proved(Value("statement", note=name), (), "symbolic identity")
        raise UndecidedError(f"{name} was neither proved nor refuted at one point of each branch")
    tried = "standard normal, standard logistic, standard Gumbel, uniform between two joints, point mass at 0"
    return Proved(Value("statement", note=f"none of: {tried}"), (), "symbolic identity")


def _laws(formula: Formula) -> Iterator[tuple[str, Callable[[Piece], Expr]]]:
    """Return names of laws, and the distribution function of each on a piece that ends at 0 and at every joint."""

    def between(low: Expr, high: Expr, rising: Expr) -> Callable[[Piece], Expr]:
        """Return the function that rises between two points."""

        def law(piece: Piece) -> Expr:
            if constant_sign(piece.inside - low) < 0:
                return sp.Integer(0)
            return rising if high == sp.oo or constant_sign(piece.inside - high) < 0 else sp.Integer(1)

        return law

    if formula.family is not None:
        n, eps, _ = formula.family
        scale = eps ** sp.Rational(1, 2 * n)
        yield (
            f"log-logistic with shape {2 * n} and scale {scale}",
            between(0, sp.oo, X ** (2 * n) / (X ** (2 * n) + eps)),
        )
    yield "point mass at 0", between(0, 0, sp.Integer(1))
    yield "standard normal", lambda _: (1 + sp.erf(X / sp.sqrt(2))) / 2
    yield "standard logistic", lambda _: 1 / (1 + sp.exp(-X))
    yield "standard Gumbel (of maxima)", lambda _: sp.exp(-sp.exp(-X))
    if len(formula.joints) == 2:
        low, high = formula.joints
        yield f"uniform on [{low}, {high}]", between(low, high, (X - low) / (high - low))

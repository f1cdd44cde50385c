"""The differentiability class of a function from its exact one-sided derivatives at the joints of its pieces.

Boundedness and smoothness constants: suprema and infima of f, f' and f'', limits and asymptotes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cmp_to_key

import sympy as sp

from .balls import Expr, X
from .exact import compare, constant_sign, equal, exact, identical, tidy
from .formulas import Formula, Piece, member
from .gaussian import offset_at_infinity, slope_at_infinity
from .limits import limit
from .signs import PoleError, extremum_row, infimum, sign_map, supremum, supremum_of_magnitude
from .values import CertificateError, Property, UndecidedError, Value

MOST_ORDERS = 140
_N, _EPS, _LEAK = 8, sp.Symbol("eps", positive=True), sp.Symbol("leak", nonnegative=True)


@dataclass(frozen=True)
class Break:
    """The first derivative that is discontinuous at a joint: its order, and its value on either side."""

    joint: Expr
    order: int
    left: Expr
    right: Expr


def one_sided(expression: Expr, point: Expr) -> Iterator[Expr]:
    """Give f, f', f'', ... at a point where the expression is analytic, exactly; symbols in it stay symbols.

    A rational function is expanded by dividing power series, anything else by repeated differentiation.
    Example:
        >>> from itertools import islice
        >>> list(islice(one_sided(X**3 / (X**2 + 1), sp.Integer(0)), 5))
        [0, 0, 0, 6, 0]
    """
    top, bottom = sp.fraction(sp.together(expression.subs(X, X + point)))
    if top.is_polynomial(X) and bottom.is_polynomial(X):
        yield from _series(sp.Poly(top, X), sp.Poly(bottom, X))
        return
    while True:
        yield tidy(expression.subs(X, point))
        expression = sp.diff(expression, X)


def _series(top: sp.Poly, bottom: sp.Poly) -> Iterator[Expr]:
    if bottom.nth(0) == 0:
        raise CertificateError(f"{top.as_expr() / bottom.as_expr()} has a denominator that is 0 at 0")
    coefficients: list[Expr] = []
    while True:
        k = len(coefficients)
        taken = sum(bottom.nth(j) * coefficients[k - j] for j in range(1, min(k, int(bottom.degree())) + 1))
        coefficients.append(sp.cancel((top.nth(k) - taken) / bottom.nth(0)))
        yield sp.factor(coefficients[k] * sp.factorial(k))


def breaks(formula: Formula) -> list[Break | None]:
    """Give the first break at each joint; None where two pieces continue each other analytically.

    Raises: UndecidedError: more than 140 derivatives agree.
    """
    return [
        _first_break(left, right, value)
        for left, right, value in zip(formula.pieces, formula.pieces[1:], formula.at_joints, strict=False)
    ]


def _first_break(left: Piece, right: Piece, value: Expr) -> Break | None:
    joint = left.high
    if identical(left.expression, right.expression) and equal(left.end(0, right=True), value):
        return None
    sides = zip(one_sided(left.expression, joint), one_sided(right.expression, joint), range(MOST_ORDERS), strict=False)
    for before, after, order in sides:
        if not equal(before, after) or (order == 0 and not equal(before, value)):
            return Break(joint, order, before, after)
    raise UndecidedError(f"{MOST_ORDERS} derivatives agree at x = {joint}")


def require_analytic(piece: Piece) -> None:
    """Prove that a piece is analytic on its interval, its finite ends included.

    Raises: CertificateError: a pole, a logarithm or root of a number that is not above 0, or an end at infinity.
    """
    for part in sp.preorder_traversal(piece.expression):
        inside = None
        if isinstance(part, sp.log):
            inside = part.args[0]
        elif isinstance(part, sp.Pow) and (not part.exp.is_Integer or part.exp < 0) and part.base.has(X):
            inside = part.base
        if inside is None:
            continue
        try:
            signs = sign_map(inside, piece.low, piece.high)
        except PoleError as error:
            raise CertificateError(str(error)) from None
        whole = isinstance(part, sp.Pow) and part.exp.is_Integer
        ends = [constant_sign(inside.subs(X, end)) for end in (piece.low, piece.high) if end.is_finite]
        if signs.zeros or 0 in ends:
            where = signs.zeros[0].to_value() if signs.zeros else f"an end of ({piece.low}, {piece.high})"
            what = "a root or logarithm has its singularity there"
            if whole:
                what = "a pole, or a removable singularity, which must be written without the quotient"
            raise CertificateError(f"{piece.expression} is not analytic at x = {where}, where {inside} = 0: {what}")
        if not whole and signs.signs[0] < 0:
            raise CertificateError(f"{piece.expression} is not real on ({piece.low}, {piece.high}): {inside} < 0")


def family_jump(n: int) -> Expr:
    """Give the jump of the (2n+1)-th derivative at 0 for symbolic eps and leak, after proving all lower ones equal.

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
    for piece in formula.pieces:
        require_analytic(piece)
    found = [b for b in breaks(formula) if b is not None]
    method = "exact one-sided derivatives at every joint"
    if not found:
        whole = Value("statement", note="infinity: f is C^infinity, analytic on the line")
        return [
            Property("class", "order", "Largest k with f in C^k", whole, (), "one analytic piece"),
            _branches(formula),
        ]
    order = min(b.order for b in found) - 1
    rows = [Property("class", "order", "Largest k with f in C^k", _order(order), (), method), _branches(formula)]
    first = [b for b in found if b.order == order + 1]
    where = tuple(
        exact(b.joint).to_value(f"from {b.left} to {b.right}, a jump of {tidy(b.right - b.left)}") for b in first
    )
    largest = max((exact(tidy(sp.Abs(b.right - b.left))) for b in first), key=cmp_to_key(compare))
    title = f"Largest jump of the derivative of order {order + 1}" if order >= 0 else "Largest jump of f"
    rows.append(Property("class", "jump", title, largest.to_value(), where, method))
    if formula.family is not None:
        rows.append(_theorem(formula.family[0]))
    return rows


def _order(order: int) -> Value:
    if order < 0:
        return Value("absent", note="f is not continuous")
    return exact(sp.Integer(order)).to_value()


def _branches(formula: Formula) -> Property:
    note = f"{len(formula.pieces)} piece(s), each C^infinity (analytic) up to and including its ends"
    method = "no denominator, root or logarithm vanishes on a closed piece"
    return Property("class", "branches", "Each branch", Value("statement", note=note), (), method)


def _theorem(n: int) -> Property:
    orders = sorted({*range(1, _N + 1), n} if n <= 2 * _N else set(range(1, _N + 1)))
    claim = all(sp.simplify(family_jump(m) - (1 - _LEAK) * sp.factorial(2 * m + 1) / _EPS) == 0 for m in orders)
    if not claim:
        raise CertificateError("the jump at 0 is not (1 - leak) (2n+1)! / eps")
    text = ", ".join(map(str, orders))
    note = (
        "for every eps > 0 and leak: f is exactly C^(2n), and the derivative of order 2n+1 jumps at 0 by "
        f"(1 - leak) (2n+1)! / eps (n = {text})"
    )
    method = "power series of f at 0+ with symbolic eps and leak"
    return Property("class", "family_theorem", "Class of the family", Value("statement", note=note), (), method)


def boundedness(formula: Formula) -> list[Property]:
    """Prove the rows of group "bounds"."""
    rows = [
        extremum_row("bounds", "infimum", "inf f", lambda: infimum(formula.pieces)),
        extremum_row("bounds", "supremum", "sup f", lambda: supremum(formula.pieces)),
    ]
    for key, end, piece in (("left", -sp.oo, formula.pieces[0]), ("right", sp.oo, formula.pieces[-1])):
        value = limit(piece.expression, end)
        sign = "-" if end == -sp.oo else "+"
        rows.append(
            Property("bounds", f"limit_{key}", f"lim f at {sign}inf", exact(value).to_value(), (), "exact limit")
        )
        rows.append(
            Property(
                "bounds",
                f"asymptote_{key}",
                f"Asymptote at {sign}inf",
                _asymptote(piece.expression, end),
                (),
                "exact limit",
            )
        )
    return rows


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
    """Prove the rows of group "smoothness": Lipschitz constants of f and f', infimum of f'."""
    return [_lipschitz(formula), _slope(formula), _gradient_lipschitz(formula)]


def _lipschitz(formula: Formula) -> Property:
    title = "Lipschitz constant, sup |f'|"
    if not formula.continuous:
        return _absent("lipschitz", title, _jumps(formula, 0, "f"))
    return extremum_row("smoothness", "lipschitz", title, lambda: supremum_of_magnitude(formula.pieces, 1))


def _slope(formula: Formula) -> Property:
    row = extremum_row("smoothness", "slope_infimum", "inf f'", lambda: infimum(formula.pieces, 1))
    if formula.continuous:
        return row
    return replace(row, value=replace(row.value, note="where f' exists; f jumps elsewhere"))


def _gradient_lipschitz(formula: Formula) -> Property:
    title = "Lipschitz constant of the gradient, sup |f''|"
    if any(b is not None and b.order <= 1 for b in breaks(formula)):
        return _absent("gradient_lipschitz", title, _jumps(formula, 1, "f'"))
    return extremum_row("smoothness", "gradient_lipschitz", title, lambda: supremum_of_magnitude(formula.pieces, 2))


def _jumps(formula: Formula, order: int, what: str) -> str:
    joints = [str(b.joint) for b in breaks(formula) if b is not None and b.order <= order]
    return f"infinite: {what} jumps at x = {', '.join(joints)}"


def _absent(key: str, title: str, reason: str) -> Property:
    return Property("smoothness", key, title, Value("absent", note=reason), (), "exact one-sided derivatives")

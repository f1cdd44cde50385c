"""Boundedness and smoothness constants: suprema and infima of f, f' and f'', limits and asymptotes."""

from dataclasses import replace

import sympy as sp

from .asymptotes import offset_at_infinity, slope_at_infinity
from .balls import Expr, X
from .exact import exact, tidy
from .formulas import Formula
from .limits import limit
from .signs import extremum_row, infimum, supremum, supremum_of_magnitude
from .smoothness import breaks
from .values import Property, Value


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

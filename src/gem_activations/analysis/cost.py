"""Arithmetic cost, counted by walking the straight-line code of value and gradient.

Scheme: common subexpressions are computed once; a whole power is taken by repeated squaring; a constant expression
is free, and dividing by it is a multiplication; a change of sign is part of an addition. The costliest piece counts,
and one comparison for each joint. Where a member has its own scheme it is first proved equal to the pieces.
"""

from collections import Counter
from collections.abc import Iterable

import sympy as sp

from .balls import Expr, to_fraction
from .exact import enormous
from .pieces import Formula, Piece, Scheme
from .values import CertificateError, Property, Value

_KINDS: tuple[str, ...] = ("additions", "multiplications", "divisions", "roots", "transcendental calls")


def cost(formula: Formula) -> list[Property]:
    """Count the rows of group "cost"."""
    if formula.scheme is not None:
        _prove(formula.scheme, formula.pieces[-1])
        value, gradient = _of_scheme(formula.scheme)
        method = f"walk of a stated scheme ({formula.scheme.remark}), proved equal to the formula"
    else:
        value, gradient = max((_of_piece(piece) for piece in formula.pieces), key=lambda pair: _weight(*pair))
        method = "walk of the formula after common-subexpression elimination, costliest piece"
    comparisons = len(formula.joints)
    return [
        _row("cost_value", "Value", value, comparisons, method),
        _row("cost_gradient", "Gradient, beyond the value's steps", gradient, 0, method),
    ]


def _row(key: str, title: str, counted: Counter[str], comparisons: int, method: str) -> Property:
    parts = [f"{counted[kind]} {kind if counted[kind] != 1 else kind[:-1]}" for kind in _KINDS if counted[kind]]
    if comparisons:
        parts.append(f"{comparisons} comparison{'s' if comparisons > 1 else ''}")
    return Property("cost", key, title, Value("statement", note=", ".join(parts) or "nothing"), (), method)


def _weight(value: Counter[str], gradient: Counter[str]) -> int:
    weights = dict(zip(_KINDS, (1, 1, 4, 4, 16), strict=True))
    return sum(weights[kind] * count for kind, count in (value + gradient).items())


def _prove(scheme: Scheme, piece: Piece) -> None:
    value, gradient = scheme.value, scheme.gradient
    for symbol, step in reversed(scheme.steps):
        value, gradient = value.subs(symbol, step), gradient.subs(symbol, step)
    for ours, theirs in ((value, piece.expression), (gradient, piece.derivative(1))):
        if sp.simplify((ours - theirs).rewrite([sp.tanh], sp.exp)) != 0:
            raise CertificateError(f"the evaluation scheme {ours} is not {theirs}")


def _of_scheme(scheme: Scheme) -> tuple[Counter[str], Counter[str]]:
    steps = [step for _, step in scheme.steps]
    return _count([*steps, scheme.value]), _count([scheme.gradient])


def _of_piece(piece: Piece) -> tuple[Counter[str], Counter[str]]:
    value = _count(_straight([piece.expression]))
    derivative = piece.derivative(1)
    # SymPy would factor exp(10^12 x) as a polynomial of that degree in exp(x).
    spellings = (derivative,) if enormous(derivative) else (derivative, sp.factor(derivative), sp.together(derivative))
    both = min((_count(_straight([piece.expression, d])) for d in spellings), key=lambda c: _weight(c, Counter()))
    return value, both - value


def _straight(expressions: list[Expr]) -> list[Expr]:
    steps, results = sp.cse(expressions, order="none")
    return [step for _, step in steps] + list(results)


def _count(steps: Iterable[Expr]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for step in steps:
        _walk(step, counted)
    return counted


def _walk(node: Expr, counted: Counter[str]) -> None:
    if not node.free_symbols or node.is_Symbol:
        return
    if isinstance(node, sp.Pow):
        _power(node, counted)
        return
    for part in node.args:
        if not (isinstance(node, sp.Mul) and isinstance(part, sp.Pow) and part.exp == -1):
            _walk(part, counted)
        else:
            _walk(part.base, counted)
    if isinstance(node, sp.Add):
        counted["additions"] += len(node.args) - 1
    elif isinstance(node, sp.Mul):
        _product(node, counted)
    else:
        counted["transcendental calls"] += 1


def _product(node: sp.Mul, counted: Counter[str]) -> None:
    constant, rest = node.as_coeff_Mul()
    parts = list(rest.args) if isinstance(rest, sp.Mul) else [rest]
    free = [part for part in parts if not part.free_symbols]
    moving = [part for part in parts if part.free_symbols]
    below = [part for part in moving if isinstance(part, sp.Pow) and part.exp.is_Rational and part.exp < 0]
    above = len(moving) - len(below) + (1 if free or abs(constant) != 1 else 0)
    counted["divisions"] += sum(1 for part in below if part.exp == -1)
    counted["multiplications"] += max(above - 1, 0) + sum(1 for part in below if part.exp != -1 and above)
    if not above and below and below[0].exp != -1:
        counted["multiplications"] += max(len(below) - 1, 0)


def _power(node: sp.Pow, counted: Counter[str]) -> None:
    _walk(node.base, counted)
    if not node.exp.is_Rational:
        counted["transcendental calls"] += 1
        return
    exponent = to_fraction(node.exp)
    if exponent.denominator == 2:
        counted["roots"] += 1
    elif exponent.denominator > 2:
        counted["transcendental calls"] += 1
    whole = abs(exponent.numerator)
    counted["multiplications"] += whole.bit_length() - 1 + whole.bit_count() - 1
    if exponent < 0:
        counted["divisions"] += 1

"""What a user may ask a certificate of: a catalog string, a spec, a SymPy expression in one real variable, or text.

Text such as `x*sin(x)` or `max(x, 0)^2` is read by Python's own parser; of its tree a few kinds of node are taken, and
none is ever run.
"""

import ast
import itertools
import operator
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cmp_to_key
from typing import Any

import sympy as sp

from ..catalog import Activation, parse
from ..errors import ActivationNameError
from ..spec import GemSpec
from .balls import FUNCTIONS, Expr, X
from .exact import compare, constant_sign, equal, exact, factorise, tidy
from .formulas import Formula, Piece, formula
from .proofs import CertificateError
from .smoothness import singularities

HIGHEST_POWER = 200
# What a SymPy symbol must not be declared to be, lest Abs(x) became x before we see it.
_NARROWING = ("positive", "negative", "nonnegative", "nonpositive", "zero", "integer", "rational", "algebraic")

Target = GemSpec | Activation | str | Expr


def read(target: Target) -> Formula:
    """Turn what the user named into pieces, each proved analytic.

    Raises: ActivationNameError, SpecError: as `catalog.parse`. CertificateError: an expression with free symbols, with
        rounded numbers, with functions that the analysis does not know, with poles, or not defined on the whole line.
    Example:
        >>> x = sp.Symbol("x")
        >>> [str(piece.expression) for piece in read(x * sp.Abs(x)).pieces]
        ['-x**2', 'x**2']
    """
    named: Any = parse_target(str(target)) if isinstance(target, GemSpec | str) else target
    found = formula(named) if isinstance(named, Activation) else _from_expression(named)
    return _cut(replace(found, pieces=tuple(_constant_or_same(piece) for piece in found.pieces)))


def parse_target(text: str) -> Activation | Expr:
    """Return the activation that a string of the catalog names, else the expression in x that it writes.

    Raises: ActivationNameError, SpecError: as `catalog.parse`, for a text without x. CertificateError: as
        `parse_expression`.
    """
    try:
        return parse(text)
    except ActivationNameError:
        if not re.search(r"(?<![A-Za-z_])x(?![A-Za-z_])", text):
            raise
    return parse_expression(text)


def _constant_or_same(piece: Piece) -> Piece:
    """Return the piece with its expression as a constant if it is one in another spelling."""
    if not piece.expression.has(X) or factorise(piece.derivative(1)).sign:
        return piece
    return replace(piece, expression=tidy(piece.expression.subs(X, piece.inside)))


def _cut(found: Formula) -> Formula:
    """Cut the pieces where a root or logarithm has its singularity, and where a quotient is 0/0: it has its limit."""
    pieces: list[Piece] = []
    values: list[Expr] = []
    for piece, at_end in zip(found.pieces, (*found.at_joints, None), strict=True):
        ends = (piece.low, piece.high)
        inner = [exact(point) for point in singularities(piece) if point not in ends]
        fences = [ends[0], *(point.exact for point in sorted(inner, key=cmp_to_key(compare))), ends[1]]
        parts = [Piece(low, high, piece.expression) for low, high in itertools.pairwise(fences)]
        for left, right in itertools.pairwise(parts):
            before, after = left.end(0, right=True), right.end(0, right=False)
            if not (before.is_finite and after.is_finite):
                raise CertificateError(f"{found.name} has a pole at x = {left.high}")
            if not equal(before, after):
                raise CertificateError(f"{found.name} is not defined at x = {left.high}, between {before} and {after}")
            values.append(before)
        pieces += parts
        values += [] if at_end is None else [at_end]
    return replace(found, pieces=tuple(pieces), at_joints=tuple(values))


def _from_expression(target: sp.Expr) -> Formula:
    if not isinstance(target, sp.Expr):
        raise CertificateError(
            f"{target!r} is not an activation; expected a name such as 'gelu', a GemSpec or a SymPy expression"
        )
    symbols = sorted(target.free_symbols, key=str)
    if len(symbols) != 1:
        names = ", ".join(map(str, symbols)) or "none"
        raise CertificateError(f"{target} must have one free symbol, its input; it has {names}. Give the others values")
    if target.atoms(sp.Float):
        raise CertificateError(f"{target} holds rounded numbers; write exact ones, such as Rational(1, 10) for 0.1")
    _require_real_line(symbols[0])
    expression: Any = _without_hidden_zeros(target.subs(symbols[0], X)).replace(
        lambda node: (
            isinstance(node, sp.Pow) and node.exp.has(X) and not node.base.has(X) and constant_sign(node.base) > 0
        ),
        lambda node: sp.exp(sp.expand(node.exp * sp.expand_log(sp.log(node.base), force=True))),
    )
    if not expression.has(X):
        raise CertificateError(f"{target} is the constant {expression}; it must depend on its input")
    if expression.has(sp.I, sp.zoo, sp.nan) or any(_is_complex(node) for node in expression.atoms(sp.Pow)):
        raise CertificateError(f"{target} is not a real function of a real variable")
    pieces, values = _split(expression)
    for piece in pieces:
        _require_known(piece.expression)
    result = Formula(str(target), str(target), tuple(pieces), tuple(values))
    for joint, value, (left, right) in zip(result.joints, values, result.sides(0), strict=True):
        if not (left.is_finite and right.is_finite):
            raise CertificateError(f"{target} has a pole at x = {joint}")
        if not (equal(value, left) or equal(value, right)):
            raise CertificateError(f"{target} has an isolated value {value} at x = {joint}, between {left} and {right}")
    return result


def _require_real_line(symbol: Expr) -> None:
    narrowed = [name for name in _NARROWING if getattr(symbol, f"is_{name}") is not None]
    if narrowed or symbol.is_real is False:
        raise CertificateError(
            f"the symbol {symbol} is not declared over the whole real line ({', '.join(narrowed) or 'not real'}), so "
            f"SymPy may have simplified the expression; use Symbol('{symbol}') or Symbol('{symbol}', real=True)"
        )


def _without_hidden_zeros(expression: Expr) -> Expr:
    """Replace every constant sum that is proved to be 0 in another spelling."""

    def is_hidden_zero(node: Expr) -> bool:
        if not (isinstance(node, sp.Add) and node.is_number):
            return False
        try:
            return constant_sign(node) == 0
        except CertificateError:
            return False

    return expression.replace(is_hidden_zero, lambda _: sp.Integer(0))


def _is_complex(node: sp.Pow) -> bool:
    base, exponent = node.base, node.exp
    if base.has(X) or exponent.is_Integer:
        return False
    return not base.is_extended_positive and not (base.is_number and constant_sign(base) > 0)


def _require_known(expression: sp.Expr) -> None:
    for part in sp.preorder_traversal(expression):
        if isinstance(part, sp.Pow) and part.has(X):
            power: Expr = part.exp
            if power.is_Rational and abs(power.p) > HIGHEST_POWER:
                raise CertificateError(f"the power {power} is above {HIGHEST_POWER}, the highest that is analysed")
        if isinstance(part, sp.Function) and part.func not in FUNCTIONS:
            known = ", ".join(sorted(f.__name__ for f in FUNCTIONS))
            raise CertificateError(f"the analysis does not know the function {part.func.__name__}; it knows {known}")


def _split(expression: sp.Expr) -> tuple[list[Piece], list[Expr]]:
    """Return the pieces from left to right and f at the joints."""
    folded = sp.piecewise_fold(expression.rewrite(sp.Piecewise))
    if not isinstance(folded, sp.Piecewise):
        return [Piece(-sp.oo, sp.oo, folded)], []
    try:
        pairs = folded.as_expr_set_pairs(sp.S.Reals)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise CertificateError(f"the conditions of {expression} cannot be turned into intervals: {error}") from None
    spans: list[tuple[sp.Interval, Expr]] = []
    points: dict[Expr, Expr] = {}
    for part, where in pairs:
        for span in where.args if isinstance(where, sp.Union) else [where]:
            if isinstance(span, sp.FiniteSet):
                points |= {point: tidy(part.subs(X, point)) for point in span.args}
            elif isinstance(span, sp.Interval):
                spans.append((span, part))
            else:
                raise CertificateError(f"{expression} is split on {span}, which is not an interval")
    return _order(expression, spans, points)


def _order(
    expression: Expr, spans: list[tuple[sp.Interval, Expr]], points: dict[Expr, Expr]
) -> tuple[list[Piece], list[Expr]]:
    spans.sort(key=cmp_to_key(lambda a, b: compare(exact(a[0].start), exact(b[0].start))))
    ends = [-sp.oo, *(span.end for span, _ in spans)]
    starts = [*(span.start for span, _ in spans), sp.oo]
    if ends != starts:
        raise CertificateError(f"{expression} is not defined on the whole line")
    pieces = [Piece(span.start, span.end, part) for span, part in spans]
    values = []
    for (left, low), (right, high) in itertools.pairwise(spans):
        joint = left.end
        if joint in points:
            values.append(points[joint])
        elif left.contains(joint) == sp.true:
            values.append(tidy(low.subs(X, joint)))
        elif right.contains(joint) == sp.true:
            values.append(tidy(high.subs(X, joint)))
        else:
            raise CertificateError(f"{expression} is not defined at x = {joint}")
    return pieces, values


LONGEST = 1_000
_DEEPEST = 50
_HIGHEST_EXPONENT = 1_000
_LONGEST_NUMBER = 60
_MOST_BITS = 2_000
_LETTERS = re.compile(r"[\w\s.+\-*/^(),<>=]*", re.ASCII)
_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_INPUT = sp.Symbol("x", real=True)
_NAMES: dict[str, Expr] = {"x": _INPUT, "pi": sp.pi, "e": sp.E}
_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    **{f.__name__: (1, f) for f in (sp.exp, sp.log, sp.erf, sp.erfc, sp.tanh, sp.sinh, sp.cosh)},
    **{f.__name__: (1, f) for f in (sp.sin, sp.cos, sp.atan, sp.asinh)},
    "sqrt": (1, sp.sqrt),
    "abs": (1, sp.Abs),
    "relu": (1, lambda value: sp.Max(value, 0)),
    "sigmoid": (1, lambda value: 1 / (1 + sp.exp(-value))),
    "softplus": (1, lambda value: sp.log(1 + sp.exp(value))),
    "max": (2, sp.Max),
    "min": (2, sp.Min),
}
_OPERATIONS: dict[type, Callable[..., Any]] = {
    **{
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.Pow: operator.pow,
    },
    **{ast.Lt: sp.Lt, ast.LtE: sp.Le, ast.Gt: sp.Gt, ast.GtE: sp.Ge},
    **{ast.UAdd: operator.pos, ast.USub: operator.neg},
}


def parse_expression(text: str) -> Expr:
    """Return the SymPy expression that a text stands for, in the real symbol x.

    Args:
        text: At most 1,000 characters, with Python's precedence; ^ is ** and numbers are exact: 0.1 is 1/10. Functions:
            abs, asinh, atan, cos, cosh, erf, erfc, exp, log, max, min, relu, sigmoid, sin, sinh, softplus, sqrt, tanh,
            and piecewise of (value, condition) pairs. Numbers are also pi and e.
    Raises: CertificateError: the text is nothing of this, or too long.
    Example:
        >>> parse_expression("x^3 / (0.5 + x^2)"), parse_expression("Piecewise((x, x < 1), (2*x - 1, True))")
        (x**3/(x**2 + 1/2), Piecewise((x, x < 1), (2*x - 1, True)))
    """
    if len(text) > LONGEST:
        raise CertificateError(f"an expression of {len(text)} characters; at most {LONGEST} are read")
    known = _LETTERS.match(text)
    if known is None or known.end() < len(text):
        rest = text[known.end() if known else 0 :]
        raise CertificateError(f"the expression {text!r} cannot be read at {rest[:20]!r}")
    if max(itertools.accumulate((letter == "(") - (letter == ")") for letter in text), default=0) > _DEEPEST:
        raise CertificateError(f"the expression {text!r} is nested more than {_DEEPEST} deep")
    plain = " ".join(text.replace("^", "**").split())
    try:
        return _Reader(plain).visit(ast.parse(plain, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise CertificateError(f"the expression {text!r} cannot be read: {error.args[0]}") from None


class _Reader(ast.NodeVisitor):
    """The value of a syntax tree; what has no method here is refused, and nothing is ever run."""

    def __init__(self, text: str) -> None:
        self.text = text

    def error(self, problem: str, at: ast.expr) -> CertificateError:
        return CertificateError(f"the expression {self.text!r} {problem} at {self.text[at.col_offset :][:20]!r}")

    def generic_visit(self, node: Any) -> Any:
        raise self.error("cannot be read", node)

    def visit_Constant(self, node: ast.Constant) -> Expr:
        number = ast.get_source_segment(self.text, node) or ""
        if not _NUMBER.fullmatch(number):
            return self.generic_visit(node)
        digits, _, power = number.lower().partition("e")
        if len(digits) > _LONGEST_NUMBER or abs(int(power or 0)) > _LONGEST_NUMBER:
            raise self.error(f"has a number of more than {_LONGEST_NUMBER} digits", node)
        return sp.Rational(number)

    def visit_Name(self, node: ast.Name) -> Expr:
        if node.id.lower() in (*_FUNCTIONS, "piecewise"):
            raise self.error(f"gives {node.id} no argument", node)
        if node.id.lower() not in _NAMES:
            known = ", ".join(sorted([*_NAMES, *_FUNCTIONS, "piecewise"]))
            raise self.error(f"has the unknown name {node.id!r}; known are {known};", node)
        return _NAMES[node.id.lower()]

    def visit_UnaryOp(self, node: ast.UnaryOp) -> Expr:
        operation = _OPERATIONS.get(type(node.op))
        return operation(self.visit(node.operand)) if operation else self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> Expr:
        operation = _OPERATIONS.get(type(node.op))
        if operation is None:
            return self.generic_visit(node)
        left, right = self.visit(node.left), self.visit(node.right)
        if isinstance(node.op, ast.Pow):
            if right.is_Rational and max(abs(right.p), right.q) > _HIGHEST_EXPONENT:
                raise self.error(f"has a power beyond {_HIGHEST_EXPONENT}", node.right)
            numbers = left.is_Rational and right.is_Rational
            if numbers and abs(right) * int(left.p * left.q).bit_length() > _MOST_BITS:
                raise self.error("has a power of too many digits", node.right)
        if (isinstance(node.op, ast.Div) and right == 0) or (
            isinstance(node.op, ast.Pow) and left == 0 and right.is_negative
        ):
            raise self.error("divides by 0", node.right)
        return operation(left, right)

    def visit_Call(self, node: ast.Call) -> Expr:
        name = node.func.id.lower() if isinstance(node.func, ast.Name) and not node.keywords else ""
        if name == "piecewise" and node.args:
            return sp.Piecewise(*map(self.pair, node.args))
        if name not in _FUNCTIONS:
            return self.generic_visit(node) if not name or name in _NAMES else self.visit(node.func)
        least, function = _FUNCTIONS[name]
        values = [self.visit(part) for part in node.args]
        if len(values) < least or (least == 1 and len(values) > 1):
            raise self.error(f"gives {name} {len(values)} argument(s)", node)
        return function(*values)

    def pair(self, node: ast.expr) -> tuple[Expr, Any]:
        match node:
            case ast.Tuple(elts=[value, ast.Constant(value=True) | ast.Name(id="true")]):
                return self.visit(value), sp.true
            case ast.Tuple(elts=[value, ast.Compare(left, [order], [right])]) if type(order) in _OPERATIONS:
                return self.visit(value), _OPERATIONS[type(order)](self.visit(left), self.visit(right))
        raise self.error("lacks a value and a comparison", node)

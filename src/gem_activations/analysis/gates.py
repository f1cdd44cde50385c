"""The gate f(x) / x: whether it is the cumulative distribution function (CDF) of a law, and of which."""

import itertools
from collections.abc import Callable, Iterator

import sympy as sp
from sympy import stats

from .balls import Expr, X, arguments, constant_ball, sign_of
from .exact import constant_sign, equal
from .formulas import Formula, Piece
from .limits import limit
from .signs import sign_map
from .values import Property, Value

_POSITIVE = sp.Symbol("x", positive=True)
_EPS = sp.Symbol("eps", positive=True)


def gate(formula: Formula) -> list[Property]:
    """Prove the rows of group "gate"."""
    if not formula.continuous or not equal(formula.at(sp.Integer(0)), sp.S.Zero):
        why = (
            f"f(0) = {formula.at(sp.Integer(0))}, so f(x) / x has a pole at 0"
            if formula.continuous
            else "f is not continuous"
        )
        return [_row("gate_cdf", "The gate f(x)/x is a CDF", Value("absent", note=why), "value at 0")]
    pieces = _gate_pieces(formula)
    left, right = _limits(formula)
    rows = [
        _row("gate_left", "Limit of the gate at -inf", Value("statement", note=str(left)), "exact limit"),
        _row("gate_right", "Limit of the gate at +inf", Value("statement", note=str(right)), "exact limit"),
    ]
    fault = _fault(pieces, left, right)
    floor = formula.family[2] if formula.family else sp.Integer(0)
    if fault and floor:
        lifted = [Piece(p.low, p.high, sp.cancel((p.expression - floor) / (1 - floor))) for p in pieces]
        rows.append(
            _row("gate_cdf", "The gate f(x)/x is a CDF", Value("statement", note=f"no: {fault}"), "signs and limits")
        )
        rows.append(_row("gate_law", "(gate - leak) / (1 - leak)", _law(formula, lifted), "symbolic identity"))
        return rows
    verdict = f"no: {fault}" if fault else "yes: rises from 0 to 1"
    rows.append(_row("gate_cdf", "The gate f(x)/x is a CDF", Value("statement", note=verdict), "signs and limits"))
    if not fault:
        rows.append(_row("gate_law", "Law of the gate", _law(formula, pieces), "symbolic identity"))
    return rows


def _row(key: str, title: str, value: Value, method: str) -> Property:
    return Property("gate", key, title, value, (), method)


def _gate_pieces(formula: Formula) -> list[Piece]:
    return [Piece(p.low, p.high, sp.cancel(p.expression / X) if p.expression.is_polynomial(X) else p.expression / X)
            for p in formula.split(sp.Integer(0))]  # fmt: skip


def _limits(formula: Formula) -> tuple[Expr, Expr]:
    ends = ((formula.pieces[0].expression, -sp.oo), (formula.pieces[-1].expression, sp.oo))
    return tuple(limit(sp.cancel(e / X) if e.is_rational_function(X) else e / X, end) for e, end in ends)  # pyright: ignore[reportReturnType]


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


def _law(formula: Formula, pieces: list[Piece]) -> Value:
    for name, candidate in _candidates(formula):
        branches = [_difference(piece, candidate) for piece in pieces]
        if any(_differs(sample) for _, sample in branches):
            continue
        if all(_is_zero(difference) for difference, _ in branches):
            return Value("statement", note=name)
        return Value("open", note=f"not closed: {name} was neither proved nor refuted at one point of each branch")
    tried = "standard normal, standard logistic, standard Gumbel, uniform between two joints, point mass at 0"
    return Value("statement", note=f"none of: {tried}")


def _candidates(formula: Formula) -> Iterator[tuple[str, Expr]]:
    if formula.family is not None:
        n, eps, _ = formula.family
        scale = eps ** sp.Rational(1, 2 * n)
        yield f"log-logistic with shape {2 * n} and scale {scale}", _log_logistic(n, eps)
    yield "point mass at 0", sp.Piecewise((0, X < 0), (1, True))
    yield "standard normal", _cdf(stats.Normal("Z", 0, 1))(X)
    yield "standard logistic", _cdf(stats.Logistic("L", 0, 1))(X)
    yield "standard Gumbel (of maxima)", _cdf(stats.Gumbel("G", 1, 0))(X)
    if len(formula.joints) == 2:
        low, high = formula.joints
        yield f"uniform on [{low}, {high}]", _cdf(stats.Uniform("U", low, high))(X)


def _cdf(law: Expr) -> Callable[[Expr], Expr]:
    return stats.cdf(law)  # pyright: ignore[reportReturnType] -- SymPy's annotation says dict.


def _log_logistic(n: int, eps: Expr) -> Expr:
    law = _cdf(stats.LogLogistic("Y", eps ** sp.Rational(1, 2 * n), 2 * n))(_POSITIVE)
    return sp.Piecewise((0, X < 0), (law.subs(_POSITIVE, X), True))


def _difference(piece: Piece, law: Expr) -> tuple[Expr, Expr]:
    """Give gate - law on the piece, in a positive symbol where the piece is a half-line from 0, and a point to try."""
    inner = sp.Dummy(positive=True)
    if piece.low == 0 and piece.high == sp.oo:
        point, sample, here = inner, sp.Integer(1), sp.Integer(1)
    elif piece.high == 0 and piece.low == -sp.oo:
        point, sample, here = -inner, sp.Integer(1), sp.Integer(-1)
    else:
        point = X
        sample = here = _middle(piece)
    difference = (piece.expression - _branch(law, here)).subs(X, point)
    return difference, difference.subs({inner: sample, X: sample})


def _differs(value: Expr) -> bool:
    """Whether a constant is proved not to be 0 by its ball."""
    return value != 0 and sign_of(constant_ball(value)) in (-1, 1)


def _is_zero(difference: Expr) -> bool:
    return sp.simplify(sp.powdenest(difference)) == 0 or sp.simplify(difference.rewrite(sp.erf)) == 0


def _middle(piece: Piece) -> Expr:
    if piece.low.is_finite and piece.high.is_finite:
        return (piece.low * 2 + piece.high) / 3
    return piece.low + 1 if piece.low.is_finite else piece.high - 1 if piece.high.is_finite else sp.Rational(1, 3)


def _branch(law: Expr, sample: Expr) -> Expr:
    if not isinstance(law, sp.Piecewise):
        return law
    return next(expression for expression, condition in arguments(law) if condition.subs(X, sample) == sp.true)


def family_is_log_logistic(n: int) -> bool:
    """Whether F is the log-logistic CDF of shape 2n and scale eps^(1/(2n)), for symbolic eps."""
    law = _cdf(stats.LogLogistic("Y", _EPS ** sp.Rational(1, 2 * n), 2 * n))(_POSITIVE)
    return sp.simplify(_POSITIVE ** (2 * n) / (_POSITIVE ** (2 * n) + _EPS) - law) == 0

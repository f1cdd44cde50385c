"""An activation as exact analytic pieces; the symbolic form of every activation of the catalog; its arithmetic cost.

The tests hold each form against the catalog's float64 reference, so that the two cannot drift apart.

Cost: common subexpressions are computed once; a whole power is taken by repeated squaring; a constant expression is
free, and dividing by it is a multiplication; a change of sign is part of an addition. The costliest piece counts, and
one comparison for each joint. A scheme of a member's own is first proved equal to the pieces.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import sympy as sp

from ..catalog import Activation
from .balls import Expr, X, to_fraction
from .exact import constant_sign, derivative_of_product, enormous, equal, tidy
from .limits import limit
from .proofs import CertificateError, Property, Proved, Value, attempt


@dataclass(frozen=True)
class Piece:
    """One analytic expression on the open interval (low, high); ends exact, +-oo allowed."""

    low: Expr
    high: Expr
    expression: Expr

    @property
    def inside(self) -> Expr:
        """A point of the interval."""
        if self.low.is_finite and self.high.is_finite:
            return (self.low + self.high) / 2
        return self.low + 1 if self.low.is_finite else self.high - 1 if self.high.is_finite else sp.Integer(0)

    def derivative(self, order: int) -> Expr:
        """Return the expression of the order-th derivative."""
        return _derivative(self.expression, order)

    def end(self, order: int, right: bool) -> Expr:
        """Return the one-sided limit of the order-th derivative at an end of the interval, exact or +-oo."""
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
        """Return the limits of the order-th derivative from the left and from the right of each joint."""
        pairs = zip(self.pieces, self.pieces[1:], strict=False)
        return [(left.end(order, right=True), right.end(order, right=False)) for left, right in pairs]

    def at(self, point: Expr) -> Expr:
        """Return the exact value f(point)."""
        for joint, value in zip(self.joints, self.at_joints, strict=True):
            if point == joint:
                return value
        piece = next(p for p in self.pieces if not p.high.is_finite or constant_sign(p.high - point) > 0)
        return tidy(piece.expression.subs(X, point))

    def split(self, *points: Expr) -> tuple[Piece, ...]:
        """Return the pieces cut further at the given points."""
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
    if order == 0:
        return expression
    below = _derivative(expression, order - 1)
    return derivative_of_product(below) if order > 2 else sp.diff(below, X)


def line(*parts: Expr) -> tuple[Piece, ...]:
    """Return pieces from expression, joint, expression, joint, ..., expression."""
    fences = [-sp.oo, *(sp.sympify(p) for p in parts[1::2]), sp.oo]
    return tuple(
        Piece(low, high, sp.sympify(expression))
        for low, high, expression in zip(fences, fences[1:], parts[::2], strict=False)
    )


_R = sp.Rational
_S = sp.Symbol("s", real=True)
_T = sp.Symbol("t", real=True)
_SIGMOID = 1 / (1 + sp.exp(-X))
_READING = "The definition is this project's reading of the paper: eps is added to x^(2n), and leak floors the gate."


def formula(activation: Activation) -> Formula:
    """Return the pieces of an activation of the catalog.

    Raises: CertificateError: the catalog names it, but its symbolic form is not written here.
    Example:
        >>> from gem_activations.catalog import parse
        >>> [str(piece.expression) for piece in formula(parse("leaky_relu")).pieces]
        ['x/100', 'x']
    """
    if activation.name not in _BUILDERS:
        raise CertificateError(f"{activation.name} has no symbolic form in analysis/formulas.py; add one")
    arguments = {key: _R(value.numerator, value.denominator) for key, value in activation.arguments}
    pieces, extra = _BUILDERS[activation.name](**arguments)
    at_joints = extra.pop("at_joints", None)
    if at_joints is None:
        at_joints = tuple(piece.end(0, right=True) for piece in pieces[:-1])
    return Formula(str(activation), activation.entry.title, pieces, at_joints, **extra)


def member(n: int, eps: Expr, leak: Expr) -> Expr:
    """Return x (leak + (1 - leak) x^(2n) / (x^(2n) + eps)), the positive branch of a member, as one fraction."""
    return X * (X ** (2 * n) + leak * eps) / (X ** (2 * n) + eps)


_Built = tuple[tuple[Piece, ...], dict[str, Any]]


def _family(n: Expr, eps: Expr = sp.S.One, leak: Expr = sp.S.Zero) -> _Built:
    order = int(n)
    power, gate = sp.Symbol("p", real=True), sp.Symbol("F", real=True)
    steps: list[tuple[sp.Symbol, Expr]] = [(power, X ** (2 * order)), (gate, power / (power + eps))]
    value, gradient = X * gate, gate * (1 + 2 * order * (1 - gate))
    if leak:
        value, gradient = X * (leak + (1 - leak) * gate), leak + (1 - leak) * gradient
    scheme = Scheme(tuple(steps), value, gradient, "gate first; the gradient is a quadratic polynomial in the gate")
    return line(leak * X, 0, member(order, eps, leak)), {
        "scheme": scheme, "family": (order, eps, leak), "reading": _READING,
    }  # fmt: skip


def _linear(slope: Expr, reading: str = "") -> _Built:
    return line(slope * X, 0, X), {"reading": reading}


def _whole(expression: Expr, shared: Expr, gradient: Expr) -> _Built:
    return line(expression), {
        "scheme": Scheme(((_S, shared),), _S, gradient, "the gradient is a polynomial in the value")
    }


_ALPHA, _SCALE = _R("1.6732632423543772"), _R("1.0507009873554805")  # Of SELU.


def _hardtanh(min_val: Expr, max_val: Expr) -> _Built:
    if not min_val < max_val:
        raise CertificateError(f"hardtanh needs min_val < max_val, not {min_val} and {max_val}")
    return line(min_val, min_val, X, max_val, max_val), {}


def _positive(name: str, value: Expr) -> Expr:
    if not value > 0:
        raise CertificateError(f"{name} = {value}: the certificate needs a number above 0")
    return value


def _exponential(alpha: Expr, width: Expr) -> _Built:
    return line(alpha * (sp.exp(X / width) - 1), 0, X), {}


_BUILDERS: dict[str, Callable[..., _Built]] = {
    "gem": _family,
    "egem": _family,
    "segem": _family,
    "relu": lambda: _linear(sp.Integer(0)),
    "leaky_relu": lambda negative_slope: _linear(negative_slope),
    "prelu": lambda init: _linear(init, "Evaluation at the initial slope; the slope is learnt."),
    "rrelu": lambda lower, upper: _linear(
        (lower + upper) / 2, "Evaluation form: the slope is the mean of the training law."
    ),
    "gelu": lambda: (line(X * (1 + sp.erf(X / sp.sqrt(2))) / 2), {}),
    "gelu_tanh": lambda: (
        line(X * (1 + sp.tanh(sp.sqrt(2 / sp.pi) * (X + _R(44715, 10**6) * X**3))) / 2), {}
    ),
    "silu": lambda: (line(X * _SIGMOID), {"scheme": Scheme(
        ((_S, _SIGMOID),), X * _S, _S * (1 + X * (1 - _S)), "gate first, shared by the gradient"
    )}),
    "mish": lambda: (line(X * sp.tanh(sp.log(1 + sp.exp(X)))), {}),
    "elu": lambda alpha: _exponential(alpha, sp.Integer(1)),
    "celu": lambda alpha: _exponential(alpha, _positive("alpha", alpha)),
    "selu": lambda: (line(_SCALE * _ALPHA * (sp.exp(X) - 1), 0, _SCALE * X), {
        "reading": "alpha and scale are the float64 constants of the usual implementations, taken as exact decimals."
    }),
    "relu6": lambda: (line(0, 0, X, 6, 6), {}),
    "hardswish": lambda: (line(0, -3, X * (X + 3) / 6, 3, X), {}),
    "hardsigmoid": lambda: (line(0, -3, (X + 3) / 6, 3, 1), {}),
    "hardtanh": _hardtanh,
    "hardshrink": lambda lambd: (
        line(X, -_positive("lambd", lambd), 0, lambd, X), {"at_joints": (sp.Integer(0), sp.Integer(0))}
    ),
    "softshrink": lambda lambd: (line(X + _positive("lambd", lambd), -lambd, 0, lambd, X - lambd), {}),
    "tanhshrink": lambda: (
        line(X - sp.tanh(X)), {"scheme": Scheme(((_T, sp.tanh(X)),), X - _T, _T**2, "tanh is shared")}
    ),
    "softplus": lambda beta: (line(sp.log(1 + sp.exp(_positive("beta", beta) * X)) / beta), {}),
    "softsign": lambda: (line(X / (1 - X), 0, X / (1 + X)), {}),
    "sigmoid": lambda: _whole(_SIGMOID, _SIGMOID, _S * (1 - _S)),
    "logsigmoid": lambda: (line(-sp.log(1 + sp.exp(-X))), {}),
    "tanh": lambda: _whole(sp.tanh(X), sp.tanh(X), 1 - _S**2),
    "squareplus": lambda b: (line((X + sp.sqrt(X**2 + _positive("b", b))) / 2), {}),
    "smelu": lambda beta: (line(0, -_positive("beta", beta), (X + beta) ** 2 / (4 * beta), beta, X), {}),
    "relu2": lambda: (line(0, 0, X**2), {}),
    "telu": lambda: (line(X * sp.tanh(sp.exp(X))), {}),
    "golu": lambda: (line(X * sp.exp(-sp.exp(-X))), {}),
    "isrlu": lambda alpha: (line(X / sp.sqrt(1 + _positive("alpha", alpha) * X**2), 0, X), {}),
    "serf": lambda: (line(X * sp.erf(sp.log(1 + sp.exp(X)))), {}),
    "logish": lambda: (line(X * sp.log(1 + _SIGMOID)), {}),
    "phish": lambda: (line(X * sp.tanh(X * (1 + sp.erf(X / sp.sqrt(2))) / 2)), {}),
    "smish": lambda: (line(X * sp.tanh(sp.log(1 + _SIGMOID))), {}),
    "quick_gelu": lambda: (line(X / (1 + sp.exp(-_R(1702, 1000) * X))), {}),
    "starrelu": lambda scale, bias: (
        line(bias, 0, scale * X**2 + bias), {"reading": "Evaluation at the initial numbers; both are learnt."}
    ),
}  # fmt: skip


_KINDS: tuple[str, ...] = ("additions", "multiplications", "divisions", "roots", "transcendental calls")


def cost(formula: Formula) -> list[Property]:
    """Count the rows of group "cost"."""
    if (scheme := formula.scheme) is not None:
        value, gradient, piece = scheme.value, scheme.gradient, formula.pieces[-1]
        for symbol, step in reversed(scheme.steps):
            value, gradient = value.subs(symbol, step), gradient.subs(symbol, step)
        for ours, theirs in ((value, piece.expression), (gradient, piece.derivative(1))):
            if sp.simplify((ours - theirs).rewrite([sp.tanh], sp.exp)) != 0:
                raise CertificateError(f"the evaluation scheme {ours} is not {theirs}")

    def counted(part: int) -> Proved:
        if scheme is not None:
            both = _count(*(step for _, step in scheme.steps), scheme.value), _count(scheme.gradient)
            method = f"walk of a stated scheme ({scheme.remark}), proved equal to the formula"
        else:
            both = max((_of_piece(piece) for piece in formula.pieces), key=lambda pair: _weight(*pair))
            method = "walk of the formula after common-subexpression elimination, costliest piece"
        kinds = [(kind, both[part][kind]) for kind in _KINDS]
        if part == 0:
            kinds.append(("comparisons", len(formula.joints)))
        words = [f"{number} {kind if number != 1 else kind[:-1]}" for kind, number in kinds if number]
        return Proved(Value("statement", note=", ".join(words) or "nothing"), (), method)

    rows = (("cost_value", "Value", 0), ("cost_gradient", "Gradient, beyond the value's steps", 1))
    return [attempt("cost", key, title, partial(counted, part)) for key, title, part in rows]


def _weight(value: Counter[str], gradient: Counter[str]) -> int:
    weights = dict(zip(_KINDS, (1, 1, 4, 4, 16), strict=True))
    return sum(weights[kind] * count for kind, count in (value + gradient).items())


def _of_piece(piece: Piece) -> tuple[Counter[str], Counter[str]]:
    def straight(*expressions: Expr) -> Counter[str]:
        steps, results = sp.cse(expressions, order="none")
        return _count(*(step for _, step in steps), *results)

    value, derivative = straight(piece.expression), piece.derivative(1)
    # SymPy would factor exp(10^12 x) as a polynomial of that degree in exp(x).
    spellings = (derivative,) if enormous(derivative) else (derivative, sp.factor(derivative), sp.together(derivative))
    both = min((straight(piece.expression, d) for d in spellings), key=lambda c: _weight(c, Counter()))
    return value, both - value


def _count(*steps: Expr) -> Counter[str]:
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

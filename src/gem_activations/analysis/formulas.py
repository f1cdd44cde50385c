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
        scheme: Steps (symbol, expression) shared by value and gradient, then f and f', if a hand-written
            evaluation scheme beats the derived one; None otherwise. It is proved equal to the pieces.
        family: (n, eps, leak), exact, for a member of the GEM family.
    """

    name: str
    title: str
    pieces: tuple[Piece, ...]
    at_joints: tuple[Expr, ...]
    reading: str = ""
    scheme: "Scheme | None" = None
    family: tuple[int, Expr, Expr] | None = None

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


def member(n: int, eps: Expr, leak: Expr) -> Expr:
    """Return x (leak + (1 - leak) x^(2n) / (x^(2n) + eps)), the positive branch of a member, as one fraction."""
    return X * (X ** (2 * n) + leak * eps) / (X ** (2 * n) + eps)


_R = sp.Rational
_SIGMOID = 1 / (1 + sp.exp(-X))
_ALPHA, _SCALE = _R("1.6732632423543772"), _R("1.0507009873554805")  # Of SELU.
_BY_NAME: dict[str, Callable[..., tuple[Piece, ...]]] = {
    **dict.fromkeys(["gem", "egem", "segem"], lambda n, eps=sp.S.One, leak=sp.S.Zero: line(
        leak * X, 0, member(int(n), eps, leak)
    )),
    "relu": lambda: line(0, 0, X),
    "leaky_relu": lambda negative_slope: line(negative_slope * X, 0, X),
    "prelu": lambda init: line(init * X, 0, X),
    "rrelu": lambda lower, upper: line((lower + upper) / 2 * X, 0, X),
    "gelu": lambda: line(X * (1 + sp.erf(X / sp.sqrt(2))) / 2),
    "gelu_tanh": lambda: line(X * (1 + sp.tanh(sp.sqrt(2 / sp.pi) * (X + _R(44715, 10**6) * X**3))) / 2),
    "silu": lambda: line(X * _SIGMOID),
    "mish": lambda: line(X * sp.tanh(sp.log(1 + sp.exp(X)))),
    "elu": lambda alpha: line(alpha * (sp.exp(X) - 1), 0, X),
    "celu": lambda alpha: line(alpha * (sp.exp(X / alpha) - 1), 0, X),
    "selu": lambda: line(_SCALE * _ALPHA * (sp.exp(X) - 1), 0, _SCALE * X),
    "relu6": lambda: line(0, 0, X, 6, 6),
    "hardswish": lambda: line(0, -3, X * (X + 3) / 6, 3, X),
    "hardsigmoid": lambda: line(0, -3, (X + 3) / 6, 3, 1),
    "hardtanh": lambda min_val, max_val: line(min_val, min_val, X, max_val, max_val),
    "hardshrink": lambda lambd: line(X, -lambd, 0, lambd, X),
    "softshrink": lambda lambd: line(X + lambd, -lambd, 0, lambd, X - lambd),
    "tanhshrink": lambda: line(X - sp.tanh(X)),
    "softplus": lambda beta: line(sp.log(1 + sp.exp(beta * X)) / beta),
    "softsign": lambda: line(X / (1 - X), 0, X / (1 + X)),
    "sigmoid": lambda: line(_SIGMOID),
    "logsigmoid": lambda: line(-sp.log(1 + sp.exp(-X))),
    "tanh": lambda: line(sp.tanh(X)),
    "squareplus": lambda b: line((X + sp.sqrt(X**2 + b)) / 2),
    "smelu": lambda beta: line(0, -beta, (X + beta) ** 2 / (4 * beta), beta, X),
    "relu2": lambda: line(0, 0, X**2),
    "telu": lambda: line(X * sp.tanh(sp.exp(X))),
    "golu": lambda: line(X * sp.exp(-sp.exp(-X))),
    "isrlu": lambda alpha: line(X / sp.sqrt(1 + alpha * X**2), 0, X),
    "serf": lambda: line(X * sp.erf(sp.log(1 + sp.exp(X)))),
    "logish": lambda: line(X * sp.log(1 + _SIGMOID)),
    "phish": lambda: line(X * sp.tanh(X * (1 + sp.erf(X / sp.sqrt(2))) / 2)),
    "smish": lambda: line(X * sp.tanh(sp.log(1 + _SIGMOID))),
    "quick_gelu": lambda: line(X / (1 + sp.exp(-_R(1702, 1000) * X))),
    "starrelu": lambda scale, bias: line(bias, 0, scale * X**2 + bias),
}  # fmt: skip
_READINGS = {
    **dict.fromkeys(
        ["gem", "egem", "segem"],
        "The definition is this project's reading of the paper: eps is added to x^(2n), and leak floors the gate.",
    ),
    "prelu": "Evaluation at the initial slope; the slope is learnt.",
    "rrelu": "Evaluation form: the slope is the mean of the training law.",
    "selu": "alpha and scale are the float64 constants of the usual implementations, taken as exact decimals.",
    "starrelu": "Evaluation at the initial numbers; both are learnt.",
}
_S = sp.Symbol("s", real=True)
_SCHEMES = {
    "silu": Scheme(((_S, _SIGMOID),), X * _S, _S * (1 + X * (1 - _S)), "gate first, shared by the gradient"),
    "tanhshrink": Scheme(((_S, sp.tanh(X)),), X - _S, _S**2, "tanh is shared"),
    "sigmoid": Scheme(((_S, _SIGMOID),), _S, _S * (1 - _S), "the gradient is a polynomial in the value"),
    "tanh": Scheme(((_S, sp.tanh(X)),), _S, 1 - _S**2, "the gradient is a polynomial in the value"),
}


def formula(activation: Activation) -> Formula:
    """Return the pieces of an activation of the catalog.

    Raises: CertificateError: the catalog names it, but its symbolic form is not written here; or lambd is 0.
    Example:
        >>> from gem_activations.catalog import parse
        >>> [str(piece.expression) for piece in formula(parse("leaky_relu")).pieces]
        ['x/100', 'x']
    """
    name = activation.name
    if name not in _BY_NAME:
        raise CertificateError(f"{name} has no symbolic form in analysis/formulas.py; add one")
    arguments = {key: _R(value.numerator, value.denominator) for key, value in activation.arguments}
    if arguments.get("lambd") == 0:
        raise CertificateError(f"{activation}: the certificate needs lambd above 0")
    pieces = _BY_NAME[name](**arguments)
    at_joints = tuple(piece.end(0, right=True) for piece in pieces[:-1])
    if name == "hardshrink":
        at_joints = (sp.Integer(0), sp.Integer(0))
    family, scheme = None, _SCHEMES.get(name)
    if activation.spec is not None:
        n, eps, leak = family = int(arguments["n"]), arguments.get("eps", sp.S.One), arguments.get("leak", sp.S.Zero)
        power, gate = sp.Symbol("p", real=True), sp.Symbol("F", real=True)
        value, gradient = X * gate, gate * (1 + 2 * n * (1 - gate))
        if leak:
            value, gradient = X * (leak + (1 - leak) * gate), leak + (1 - leak) * gradient
        steps = ((power, X ** (2 * n)), (gate, power / (power + eps)))
        scheme = Scheme(steps, value, gradient, "gate first; the gradient is a quadratic polynomial in the gate")
    return Formula(str(activation), activation.entry.title, pieces, at_joints, _READINGS.get(name, ""), scheme, family)


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

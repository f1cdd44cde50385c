"""The symbolic form of every activation of the catalog, exact in its parameters.

The tests hold each against the catalog's float64 reference, so that the two cannot drift apart.
"""

from collections.abc import Callable
from typing import Any

import sympy as sp

from ..catalog import Activation
from .balls import Expr, X
from .pieces import Formula, Piece, Scheme, line
from .values import CertificateError

_R = sp.Rational
_S = sp.Symbol("s", real=True)
_T = sp.Symbol("t", real=True)
_SIGMOID = 1 / (1 + sp.exp(-X))
_READING = "The definition is this project's reading of the paper: eps is added to x^(2n), and leak floors the gate."


def formula(activation: Activation) -> Formula:
    """Give the pieces of an activation of the catalog.

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
    """Give x (leak + (1 - leak) x^(2n) / (x^(2n) + eps)), the positive branch of a member, as one fraction."""
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


def _gated(gate: Expr, shared: Expr, gradient: Expr) -> _Built:
    return line(X * gate), {"scheme": Scheme(((_S, shared),), X * _S, gradient, "gate first, shared by the gradient")}


def _whole(expression: Expr, shared: Expr, gradient: Expr) -> _Built:
    return line(expression), {
        "scheme": Scheme(((_S, shared),), _S, gradient, "the gradient is a polynomial in the value")
    }


def _rrelu(lower: Expr, upper: Expr) -> _Built:
    return _linear((lower + upper) / 2, "Evaluation form: the slope is the mean of the training law.")


def _selu() -> _Built:
    alpha, scale = _R("1.6732632423543772"), _R("1.0507009873554805")
    return line(scale * alpha * (sp.exp(X) - 1), 0, scale * X), {
        "reading": "alpha and scale are the float64 constants of the usual implementations, taken as exact decimals."
    }


def _hardtanh(min_val: Expr, max_val: Expr) -> _Built:
    if not min_val < max_val:
        raise CertificateError(f"hardtanh needs min_val < max_val, not {min_val} and {max_val}")
    return line(min_val, min_val, X, max_val, max_val), {}


def _positive(name: str, value: Expr) -> Expr:
    if not value > 0:
        raise CertificateError(f"{name} = {value}: the certificate needs a number above 0")
    return value


def _hardshrink(lambd: Expr) -> _Built:
    _positive("lambd", lambd)
    return line(X, -lambd, 0, lambd, X), {"at_joints": (sp.Integer(0), sp.Integer(0))}


def _softshrink(lambd: Expr) -> _Built:
    return line(X + _positive("lambd", lambd), -lambd, 0, lambd, X - lambd), {}


def _smelu(beta: Expr) -> _Built:
    return line(0, -_positive("beta", beta), (X + beta) ** 2 / (4 * beta), beta, X), {}


def _exponential(alpha: Expr, width: Expr) -> _Built:
    return line(alpha * (sp.exp(X / width) - 1), 0, X), {}


def _isrlu(alpha: Expr) -> _Built:
    return line(X / sp.sqrt(1 + _positive("alpha", alpha) * X**2), 0, X), {}


def _gelu() -> _Built:
    return line(X * (1 + sp.erf(X / sp.sqrt(2))) / 2), {}


def _gelu_tanh() -> _Built:
    inner = sp.sqrt(2 / sp.pi) * (X + _R(44715, 10**6) * X**3)
    return line(X * (1 + sp.tanh(inner)) / 2), {}


def _softplus(beta: Expr) -> _Built:
    return line(sp.log(1 + sp.exp(_positive("beta", beta) * X)) / beta), {}


_BUILDERS: dict[str, Callable[..., _Built]] = {
    "gem": _family,
    "egem": _family,
    "segem": _family,
    "relu": lambda: _linear(sp.Integer(0)),
    "leaky_relu": lambda negative_slope: _linear(negative_slope),
    "prelu": lambda init: _linear(init, "Evaluation at the initial slope; the slope is learnt."),
    "rrelu": _rrelu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda: _gated(_SIGMOID, _SIGMOID, _S * (1 + X * (1 - _S))),
    "mish": lambda: (line(X * sp.tanh(sp.log(1 + sp.exp(X)))), {}),
    "elu": lambda alpha: _exponential(alpha, sp.Integer(1)),
    "celu": lambda alpha: _exponential(alpha, _positive("alpha", alpha)),
    "selu": _selu,
    "relu6": lambda: (line(0, 0, X, 6, 6), {}),
    "hardswish": lambda: (line(0, -3, X * (X + 3) / 6, 3, X), {}),
    "hardsigmoid": lambda: (line(0, -3, (X + 3) / 6, 3, 1), {}),
    "hardtanh": _hardtanh,
    "hardshrink": _hardshrink,
    "softshrink": _softshrink,
    "tanhshrink": lambda: (
        line(X - sp.tanh(X)), {"scheme": Scheme(((_T, sp.tanh(X)),), X - _T, _T**2, "tanh is shared")}
    ),
    "softplus": _softplus,
    "softsign": lambda: (line(X / (1 - X), 0, X / (1 + X)), {}),
    "sigmoid": lambda: _whole(_SIGMOID, _SIGMOID, _S * (1 - _S)),
    "logsigmoid": lambda: (line(-sp.log(1 + sp.exp(-X))), {}),
    "tanh": lambda: _whole(sp.tanh(X), sp.tanh(X), 1 - _S**2),
    "squareplus": lambda b: (line((X + sp.sqrt(X**2 + _positive("b", b))) / 2), {}),
    "smelu": _smelu,
    "relu2": lambda: (line(0, 0, X**2), {}),
    "telu": lambda: (line(X * sp.tanh(sp.exp(X))), {}),
    "golu": lambda: (line(X * sp.exp(-sp.exp(-X))), {}),
    "isrlu": _isrlu,
    "serf": lambda: (line(X * sp.erf(sp.log(1 + sp.exp(X)))), {}),
    "logish": lambda: (line(X * sp.log(1 + _SIGMOID)), {}),
    "phish": lambda: (line(X * sp.tanh(X * (1 + sp.erf(X / sp.sqrt(2))) / 2)), {}),
    "smish": lambda: (line(X * sp.tanh(sp.log(1 + _SIGMOID))), {}),
    "quick_gelu": lambda: (line(X / (1 + sp.exp(-_R(1702, 1000) * X))), {}),
    "starrelu": lambda scale, bias: (
        line(bias, 0, scale * X**2 + bias), {"reading": "Evaluation at the initial numbers; both are learnt."}
    ),
}  # fmt: skip

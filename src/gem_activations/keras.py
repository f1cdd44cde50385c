"""The GEM family for Keras 3, on TensorFlow, JAX and PyTorch: activation functions and layers.

Importing this module registers them, so that `keras.saving.load_model` finds them. A function with its defaults can be
given as `activation=gem`; a layer can stand for one with other parameters: `Dense(64, activation=GEM(n=2))`.

Example:
    >>> import keras
    >>> from gem_activations.keras import GEM, gem
    >>> model = keras.Sequential([keras.layers.Dense(8, activation=gem), keras.layers.Dense(8), GEM(n=2)])
    >>> [round(float(y), 4) for y in gem([0.5, 1.0, 2.0])]
    [0.1, 0.5, 1.6]
"""

import contextlib
import math
from collections.abc import Iterator
from contextvars import ContextVar
from fractions import Fraction
from typing import Any

import numpy as np

from .errors import BackendError, TensorError
from .extras import framework
from .spec import GemSpec

_CHOICE = "set the environment variable KERAS_BACKEND to tensorflow, jax or torch, whichever is installed"

with framework("keras", at_least="3.12", hint=f"install it, or {_CHOICE}"):
    try:
        import keras
        from keras import ops
    except ValueError as error:  # A backend that Keras does not know.
        raise BackendError(f"keras cannot be imported ({error}); {_CHOICE}") from error

__all__ = ["EGEM", "GEM", "SEGEM", "activate", "egem", "gem", "int8_form", "segem"]

_by_lookup: ContextVar[bool] = ContextVar("_by_lookup", default=False)

_EXACT_ORDERS = 8  # Up to here p is a power of two, and x/p is exact.
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_register = keras.saving.register_keras_serializable(package="gem_activations")


@_register
def gem(x: Any, n: int = 1) -> Any:
    """Apply GEM, x^(2n+1) / (1 + x^(2n)) for x > 0, else 0, elementwise.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
    Returns: A tensor of the backend, same shape and dtype as x.
    Raises: SpecError: n out of its range; TensorError: an integer, boolean or complex tensor, or no tensor.
    Edge cases: f(+inf) = +inf, f(-inf) = 0, f(NaN) = NaN, f'(0) = 0. TensorFlow and JAX take subnormal numbers for 0 on
        the CPU.
    Source: Krause 2026, arXiv:2604.21677; https://gem-activations.github.io/gem-activations/mathematics.html.
    Example:
        >>> float(gem(2.0))
        1.6...
    """
    return activate(x, GemSpec(n))


@_register
def egem(x: Any, n: int = 1, *, eps: float | None = None, scale: float | None = None) -> Any:
    """Apply E-GEM, x^(2n+1) / (eps + x^(2n)) for x > 0, else 0, elementwise.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0, 1e-4 by default: the gate is 1/2 at x = eps^(1/(2n)); eps -> 0 gives
            ReLU. That eps is added to x^(2n) is our reading of the paper.
        scale: In place of eps: the input at which the gate is 1/2, eps = scale^(2n), which is the other reading.
    Returns: A tensor of the backend, same shape and dtype as x.
    Raises: SpecError: n or eps out of its range; TensorError: an integer, boolean or complex tensor, or no tensor.
    Edge cases: As for `gem`.
    Source: Krause 2026, arXiv:2604.21677; https://gem-activations.github.io/gem-activations/mathematics.html.
    Example:
        >>> float(egem(2.0, eps=4.0))
        1.0
    """
    return activate(x, GemSpec.of(n, eps, scale=scale))


@_register
def segem(x: Any, n: int = 1, *, eps: float | None = None, leak: float = 0.01, scale: float | None = None) -> Any:
    """Apply SE-GEM, x (leak + (1 - leak) F(x)) elementwise, with F(x) = x^(2n) / (eps + x^(2n)) for x > 0, else 0.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0, 1e-4 by default; eps -> 0 gives LeakyReLU(leak).
        leak: Floor of the gate, slope for x < 0 and lower bound of the derivative, 0 <= leak < 1. That the gate is
            floored is our reading of the paper.
        scale: In place of eps: the input at which the gate is halfway, eps = scale^(2n).
    Returns: A tensor of the backend, same shape and dtype as x.
    Raises: SpecError: a parameter out of its range; TensorError: an integer, boolean or complex tensor, or no tensor.
    Edge cases: f(+inf) = +inf, f(-inf) = -inf, f(NaN) = NaN, f'(0) = leak.
    Source: Krause 2026, arXiv:2604.21677; https://gem-activations.github.io/gem-activations/mathematics.html.
    Example:
        >>> float(segem(-2.0, leak=0.25))
        -0.5
    """
    return activate(x, GemSpec.of(n, eps, leak, scale))


def activate(x: Any, spec: GemSpec) -> Any:
    """Apply the activation that `spec` describes: what the functions and layers call.

    Args:
        x: A tensor of the backend, a symbolic tensor of Keras, or what converts to a tensor; any shape; float16,
            bfloat16, float32 or float64.
        spec: A member of the family.
    Returns: A tensor of the backend, same shape and dtype as x.
    Raises: TensorError: an integer, boolean or complex tensor, or no tensor.
    Edge cases: As for `gem` and `segem`.
    Example:
        >>> round(float(activate(1.0, GemSpec.from_scale(1, 0.5))), 4)
        0.8
    """
    try:
        x = ops.convert_to_tensor(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _no_tensor(x) from error
    dtype = _dtype(x)
    wide = "float64" if dtype == "float64" else "float32"
    return ops.cast(_value(ops.cast(x, wide), spec), dtype)


def _dtype(x: Any) -> str:
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype not in _DTYPES:
        raise TensorError(f"expected a tensor of dtype {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}, got {dtype}")
    return dtype


def _no_tensor(x: Any) -> TensorError:
    kind = f"ndarray of dtype {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
    return TensorError(f"expected a tensor of floating-point numbers, got {kind}")


def _value(x: Any, spec: GemSpec) -> Any:
    """Return f(x) in operations that each backend differentiates, to any order, without NaN at 0 or infinity.

    With t = x/p and p near the scale, the gate is multiplied through by max(t, 1)^(-2n),

        F = P / (P + e Q),   P = min(t, 1)^(2n),   Q = max(t, 1)^(-2n),   e = (a/p)^(2n),

    so that a converter can make the graph float16: no number but x and t leaves that range.
    """
    if _by_lookup.get():
        return _value_by_lookup(x, spec)
    n, exact = spec.n, spec.n <= _EXACT_ORDERS
    mantissa, exponent = math.frexp(spec.scale)
    # The 11 bits of float16, whatever the exponent.
    unit = 1 / spec.reduction.inverse_scale if exact else math.ldexp(round(mantissa * 2**11), exponent - 11)
    eps = float(Fraction(spec.eps) / Fraction(unit) ** (2 * n))
    positive: Any = ops.relu(x)
    t: Any = positive if unit == 1 else positive * (1 / unit) if exact else positive / unit
    # Beyond, F rounds to 1, and f grows as x itself: no gradient meets infinity times 0.
    bits = 54 if keras.backend.standardize_dtype(x.dtype) == "float64" else 26
    limit = (max(eps, 1.0) * 2.0**bits) ** (1 / (2 * n))
    t = ops.where(t < limit, t, limit)
    low: Any = ops.where(t < 1.0, t, 1.0)
    # The divisor is max(t, 1). TensorFlow's reciprocal, which it would take for 1 / max(t, 1), is less exact.
    ratio: Any = low / (t - low + 1.0)
    power: Any = _power(ratio, 2 * n) if exact else ops.power(ratio, 2.0 * n)
    below: Any = ops.where(t < 1.0, power, 1.0)
    above: Any = ops.where(t < 1.0, 1.0, power)
    above = above * eps
    if not spec.leak:
        return positive * (below / (below + above))
    return ops.where(x > 0, positive * ((below + above * spec.leak) / (below + above)), x * spec.leak)


@contextlib.contextmanager
def int8_form() -> Iterator[None]:
    """Within it, graphs are traced in operations that TFLite quantises well: convert to int8 and 16x8 inside.

    TFLite quantises every operation by itself, keeps the scale of a minimum at that of its argument, and has no
    division in 16 bits. So the powers stay below 1, and reciprocals are made of exponentials and logarithms, which
    it looks up.
    Values are off by some ulps more than otherwise. Nothing else changes: the model and its weights are the same.

    Example:
        >>> with int8_form():
        ...     y = gem(1.0)
        >>> round(float(y), 5)
        0.5
    """
    token = _by_lookup.set(True)
    try:
        yield
    finally:
        _by_lookup.reset(token)


def _value_by_lookup(x: Any, spec: GemSpec) -> Any:
    """Return f(x) with t = x/p, P = min(t, 3/4)^(2n), Q = max(t, 3/4)^(-2n); ReLU6 is a bound with its own scale."""
    inverse_scale, eps, _ = spec.reduction
    n, cut = spec.n, 0.75
    eps *= cut ** (2 * n)
    positive: Any = ops.relu(x)
    t: Any = positive if inverse_scale == 1 else positive * inverse_scale
    bounded: Any = ops.relu6(t * 8.0)
    low = bounded * 0.125
    power: Any = _power(low, 2 * n)
    logarithm: Any = ops.log(t - low + cut)
    rest: Any = ops.exp(logarithm * (-2.0 * n))
    logarithm = ops.log(power + rest * eps)
    # Twice the reciprocal: there is no negation in 16 bits either.
    double: Any = ops.exp(math.log(2.0) - logarithm)
    if not spec.leak:
        return positive * (power * 0.5 * double)
    return x * ((power * 0.5 + rest * (0.5 * eps * spec.leak)) * double)


def _power(t: Any, exponent: int) -> Any:
    """Return t^exponent by squaring: the backends' own powers are less exact."""
    result = None
    while exponent:
        if exponent & 1:
            result = t if result is None else result * t
        exponent >>= 1
        if exponent:
            t = t * t
    return result


class _Member(keras.layers.Layer):
    """A member of the family as a layer: fixed parameters and no weights."""

    _spec_fields: tuple[str, ...]

    def __init__(self, spec: GemSpec, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:  # noqa: ARG002 -- Keras's signature
        """Do nothing but say that it is done: there are no weights. A subclass may have some."""
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return f(inputs): same shape and dtype."""
        return activate(inputs, self.spec)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the input."""
        return input_shape

    def compute_output_spec(self, inputs: Any) -> Any:
        """Return a symbolic tensor of the shape and dtype of inputs. Raises: TensorError: as `call`."""
        if not hasattr(inputs, "dtype"):
            raise _no_tensor(inputs)
        return keras.KerasTensor(inputs.shape, _dtype(inputs))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make the same layer."""
        return {**super().get_config(), **{name: getattr(self.spec, name) for name in self._spec_fields}}


@_register
class GEM(_Member):
    """GEM as a layer: x^(2n+1) / (1 + x^(2n)) for x > 0, else 0.

    Args:
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        kwargs: Arguments of every Keras layer, such as name and dtype.
    Raises: SpecError: n out of its range; TensorError (at the call): an integer, boolean or complex tensor.
    Edge cases: as `gem_activations.keras.gem`.
    Example:
        >>> GEM(n=2).get_config()["n"]
        2
    """

    _spec_fields = ("n",)

    def __init__(self, n: int = 1, **kwargs: Any) -> None:
        super().__init__(GemSpec(n), **kwargs)


@_register
class EGEM(_Member):
    """E-GEM as a layer: x^(2n+1) / (eps + x^(2n)) for x > 0, else 0.

    Args:
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0, added to x^(2n), 1e-4 by default; eps -> 0 gives ReLU.
        scale: In place of eps: the input at which the gate is 1/2, eps = scale^(2n).
        kwargs: Arguments of every Keras layer, such as name and dtype.
    Raises: SpecError: n or eps out of its range; TensorError (at the call): an integer, boolean or complex tensor.
    Edge cases: as `gem_activations.keras.egem`.
    Example:
        >>> EGEM(eps=4.0).get_config()["eps"]
        4.0
    """

    _spec_fields = ("n", "eps")

    def __init__(self, n: int = 1, eps: float | None = None, *, scale: float | None = None, **kwargs: Any) -> None:
        super().__init__(GemSpec.of(n, eps, scale=scale), **kwargs)


@_register
class SEGEM(_Member):
    """SE-GEM as a layer: x (leak + (1 - leak) F(x)), with F(x) = x^(2n) / (eps + x^(2n)) for x > 0, else 0.

    Args:
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0, 1e-4 by default; eps -> 0 gives LeakyReLU(leak).
        leak: Floor of the gate, slope for x < 0 and lower bound of the derivative, 0 <= leak < 1.
        scale: In place of eps: the input at which the gate is halfway, eps = scale^(2n).
        kwargs: Arguments of every Keras layer, such as name and dtype.
    Raises: SpecError: a parameter out of its range; TensorError (at the call): an integer, boolean or complex tensor.
    Edge cases: as `gem_activations.keras.segem`.
    Example:
        >>> SEGEM(leak=0.25).get_config()["leak"]
        0.25
    """

    _spec_fields = ("n", "eps", "leak")

    def __init__(
        self, n: int = 1, eps: float | None = None, leak: float = 0.01, *, scale: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(GemSpec.of(n, eps, leak, scale), **kwargs)

"""The GEM family for JAX: pure functions under jit, vmap, and forward and reverse differentiation of any order.

They are functions of one array, so that Flax and Equinox modules take them where they take `jax.nn.gelu`; parameters
are bound by `functools.partial`. Under jit, n, eps and leak are constants.

Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from gem_activations.jax import gem
    >>> gem(jnp.array([-1.0, 0.0, 1.0, 2.0]))
    Array([0. , 0. , 0.5, 1.6], dtype=float32)
    >>> jax.vmap(jax.grad(gem))(jnp.array([-1.0, 0.0, 1.0]))
    Array([0., 0., 1.], dtype=float32)
"""

from functools import partial, reduce
from typing import Any

import numpy as np

from .errors import SpecError, TensorError
from .extras import framework
from .spec import GemSpec, Reduction

with framework("jax", at_least="0.8"):
    import jax
    import jax.numpy as jnp
    from jax import Array, lax
    from jax.core import Tracer
    from jax.typing import ArrayLike

__all__ = ["activate", "egem", "gem", "segem"]

_DTYPES = tuple(jnp.dtype(name) for name in ("float16", "bfloat16", "float32", "float64"))


def gem(x: ArrayLike, n: int = 1) -> Array:
    """Apply GEM, x^(2n+1) / (1 + x^(2n)) for x > 0, else 0, elementwise.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
    Returns: Same shape and dtype as x; weakly typed if x is, such as a Python number.
    Raises: SpecError: n out of its range, or traced; TensorError: an integer, boolean or complex array, or no array.
    Edge cases: f(+inf) = +inf, f(-inf) = 0, f(NaN) = NaN, f'(0) = 0. XLA takes subnormal numbers for 0 on the CPU.
    Source: Krause 2026, arXiv:2604.21677; https://gem-activations.github.io/gem-activations/mathematics.html.
    Example:
        >>> gem(jnp.float32(2.0), n=2)
        Array(1.882353, dtype=float32)
    """
    return activate(x, _spec(n, 1.0, 0.0))


def egem(x: ArrayLike, n: int = 1, *, eps: float | None = None, scale: float | None = None) -> Array:
    """Apply E-GEM, x^(2n+1) / (eps + x^(2n)) for x > 0, else 0, elementwise.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0, 1e-4 by default: the gate is 1/2 at x = eps^(1/(2n)); eps -> 0 gives
            ReLU. That eps is added to x^(2n) is our reading of the paper.
        scale: In place of eps: the input at which the gate is 1/2, eps = scale^(2n), which is the other reading.
    Returns: Same shape and dtype as x; weakly typed if x is, such as a Python number.
    Raises: SpecError: n or eps out of its range, or traced; TensorError: an integer, boolean or complex array, or no
        array.
    Edge cases: As for `gem`.
    Source: Krause 2026, arXiv:2604.21677; https://gem-activations.github.io/gem-activations/mathematics.html.
    Example:
        >>> egem(jnp.float32(2.0), eps=4.0)
        Array(1., dtype=float32)
    """
    return activate(x, _spec(n, eps, 0.0, scale))


def segem(
    x: ArrayLike, n: int = 1, *, eps: float | None = None, leak: float = 0.01, scale: float | None = None
) -> Array:
    """Apply SE-GEM, x (leak + (1 - leak) F(x)) elementwise, with F(x) = x^(2n) / (eps + x^(2n)) for x > 0, else 0.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0, 1e-4 by default; eps -> 0 gives LeakyReLU(leak).
        leak: Floor of the gate, slope for x < 0 and lower bound of the derivative, 0 <= leak < 1. That the gate is
            floored is our reading of the paper.
        scale: In place of eps: the input at which the gate is halfway, eps = scale^(2n).
    Returns: Same shape and dtype as x; weakly typed if x is, such as a Python number.
    Raises: SpecError: a parameter out of its range, or traced; TensorError: an integer, boolean or complex array, or
        no array.
    Edge cases: f(+inf) = +inf, f(-inf) = -inf, f(NaN) = NaN, f'(0) = leak.
    Source: Krause 2026, arXiv:2604.21677; https://gem-activations.github.io/gem-activations/mathematics.html.
    Example:
        >>> segem(jnp.float32(-2.0), leak=0.25)
        Array(-0.5, dtype=float32)
    """
    return activate(x, _spec(n, eps, leak, scale))


def activate(x: ArrayLike, spec: GemSpec) -> Array:
    """Apply the activation that `spec` describes: what `gem`, `egem` and `segem` call.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64.
        spec: A member of the family.
    Returns: Same shape and dtype as x; weakly typed if x is, such as a Python number.
    Raises: TensorError: an integer, boolean or complex array, or no array.
    Edge cases: As for `gem` and `segem`.
    Example:
        >>> activate(jnp.float32(1.0), GemSpec.from_scale(1, 0.5))
        Array(0.8, dtype=float32)
    """
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError, OverflowError) as error:
        kind = f"ndarray of dtype {x.dtype}" if isinstance(x, np.ndarray) else type(x).__name__
        raise TensorError(f"expected an array of floating-point numbers, got {kind}") from error
    if x.dtype not in _DTYPES:
        raise TensorError(f"expected an array of dtype float16, bfloat16, float32 or float64, got {x.dtype}")
    return _value_jitted(x, spec)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _value(x: Array, spec: GemSpec) -> Array:
    """Return f(x) = x (leak + (1 - leak) F(x)) in the dtype of x; any shape."""
    wide = _widen(x)
    _, power, denominator = _powers(wide, spec)
    gate = power / denominator
    if spec.leak:
        return _narrow(wide * (spec.leak + (1 - spec.leak) * gate), x)
    # The maximum keeps -inf * 0 from becoming NaN.
    return _narrow(jnp.maximum(wide, 0) * gate, x)


@_value.defjvp
def _value_jvp(spec: GemSpec, primals: Any, tangents: Any) -> tuple[Array, Array]:
    return _value(primals[0], spec), _derivative(primals[0], spec, 1) * tangents[0]


_value_jitted = jax.jit(_value, static_argnums=1)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _derivative(x: Array, spec: GemSpec, order: int) -> Array:
    """Return the derivative of an order >= 1 in the dtype of x: reverse mode keeps it, and nothing else.

    With t = x / scale it is F (1 + 2n (1 - F)) for order 1 and 2n F (1 - F) P(F) / (scale t)^(order - 1) from 2 on,
    with a polynomial P of integer coefficients, P = 1 + 2n - 4n F for order 2: a function of the gate and of powers
    of t that are not negative, so that x = inf meets no inf * 0. The derivative of a quotient, which JAX would form,
    squares the denominator, which leaves float32's range, and subtracts numbers that are nearly equal.
    """
    t, power, denominator = _powers(_widen(x), spec)
    inverse_scale, eps, limit = _reduction(spec)
    # On the CPU a quotient that value and derivatives share would be a kernel of its own, which writes it to memory for
    # all of them. A numerator for each order keeps the quotients apart; powers of two leave the result as it is.
    reciprocal = (2.0**order / denominator) * 2.0**-order
    gate, rest = power * reciprocal, eps * reciprocal
    if order == 1:
        return _narrow(spec.leak + (1 - spec.leak) * gate * (1 + 2 * spec.n * rest), x)
    zeros, polynomial = _polynomial(spec.n, order)
    exponent = 2 * spec.n * (zeros + 1) - (order - 1)
    factor = 2 * spec.n * (1 - spec.leak) * inverse_scale ** (order - 1)
    result = lax.integer_pow(t, exponent) * rest * lax.integer_pow(reciprocal, zeros + 1)
    result *= factor * reduce(lambda total, c: total * gate + c, polynomial[::-1])
    # NaN is in neither of these and stays; 0 to the power of 0 is 1.
    linear = (t >= limit) if exponent else (t >= limit) | (t <= 0)
    return _narrow(jnp.where(linear, 0, result), x)


@_derivative.defjvp
def _derivative_jvp(spec: GemSpec, order: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    (x,), (change,) = primals, tangents
    return _derivative(x, spec, order), _derivative(x, spec, order + 1) * change


def _polynomial(n: int, order: int) -> tuple[int, list[float]]:
    """Return how often F divides P, and the coefficients of what is left, the constant first.

    Since t dF/dt = 2n F (1 - F), the next P is (2n (1 - 2F) - (order - 1)) P + 2n F (1 - F) P'. From order 2n + 2 on it
    has factors F = t^(2n) / (t^(2n) + eps), which take the negative powers of t away.
    """
    coefficients = [1 + 2 * n, -4 * n]
    for lower in range(2, order):
        following = [0] * (len(coefficients) + 1)
        for k, c in enumerate(coefficients):
            following[k] += (2 * n * (k + 1) - (lower - 1)) * c
            following[k + 1] -= 2 * n * (k + 2) * c
        coefficients = following
    zeros = next(k for k, c in enumerate(coefficients) if c)
    return zeros, [float(c) for c in coefficients[zeros:]]


def _powers(x: Array, spec: GemSpec) -> tuple[Array, Array, Array]:
    """Return t = min(max(x, 0) / scale, limit), whose powers stay in the range of float32, t^(2n) and t^(2n) + eps."""
    inverse_scale, eps, limit = _reduction(spec)
    t = jnp.clip(x * inverse_scale, 0, limit)
    power = lax.integer_pow(t, 2 * spec.n)
    return t, power, power + eps


def _reduction(spec: GemSpec) -> Reduction:
    """Return `GemSpec.reduction`, scaled to eps >= 1 where the powers leave room for that.

    XLA flushes subnormal numbers to zero. With eps >= 1 a power that is flushed belongs to a gate that is subnormal.
    """
    inverse_scale, eps, limit = spec.reduction
    if eps >= 1 or spec.n > 32:
        return spec.reduction
    return Reduction(2 * inverse_scale, 4.0**spec.n * eps, 2 * limit)


def _widen(x: Array) -> Array:
    # `astype` would take the weak type of a Python number away.
    return x.astype(jnp.float32) if x.dtype.itemsize == 2 else x


def _narrow(wide: Array, x: Array) -> Array:
    return wide if wide.dtype == x.dtype else wide.astype(x.dtype)


def _spec(n: int, eps: float | None, leak: float, scale: float | None = None) -> GemSpec:
    for name, number in (("n", n), ("eps", eps), ("leak", leak), ("scale", scale)):
        # A parameter of Flax holds an array, and gives it by this method; a tracer may have None in its place.
        convert = getattr(number, "__jax_array__", None)
        if isinstance(convert() if convert else number, Tracer):
            raise SpecError(
                f"{name} is a traced value; n, eps and leak are constants of the function: bind them by "
                f"functools.partial, or name them in static_argnames of jax.jit"
            )
    return GemSpec.of(n, eps, leak, scale)

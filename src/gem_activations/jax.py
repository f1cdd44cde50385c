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

from functools import partial
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


def gem(x: ArrayLike, *, n: int = 1) -> Array:
    """Apply GEM, x^(2n+1) / (1 + x^(2n)) for x > 0, else 0, elementwise.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
    Returns: Same shape and dtype as x.
    Raises: SpecError: n out of its range, or traced; TensorError: an integer, boolean or complex array, or no array.
    Edge cases: f(+inf) = +inf, f(-inf) = 0, f(NaN) = NaN, f'(0) = 0. XLA takes subnormal numbers for 0 on the CPU.
    Source: Krause 2026, arXiv:2604.21677; docs/mathematics.md.
    Example:
        >>> gem(2.0, n=2)
        Array(1.882353, dtype=float32)
    """
    return activate(x, _spec(n, 1.0, 0.0))


def egem(x: ArrayLike, *, n: int = 1, eps: float = 1e-4) -> Array:
    """Apply E-GEM, x^(2n+1) / (eps + x^(2n)) for x > 0, else 0, elementwise.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0: the gate is 1/2 at x = eps^(1/(2n)); eps -> 0 gives ReLU. That eps is
            added to x^(2n) is our reading of the paper.
    Returns: Same shape and dtype as x.
    Raises: SpecError: n or eps out of its range, or traced; TensorError: an integer, boolean or complex array, or no
        array.
    Edge cases: As for `gem`.
    Source: Krause 2026, arXiv:2604.21677; docs/mathematics.md.
    Example:
        >>> egem(2.0, eps=4.0)
        Array(1., dtype=float32)
    """
    return activate(x, _spec(n, eps, 0.0))


def segem(x: ArrayLike, *, n: int = 1, eps: float = 1e-4, leak: float = 0.01) -> Array:
    """Apply SE-GEM, x (leak + (1 - leak) F(x)) elementwise, with F(x) = x^(2n) / (eps + x^(2n)) for x > 0, else 0.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0; eps -> 0 gives LeakyReLU(leak).
        leak: Floor of the gate, slope for x < 0 and lower bound of the derivative, 0 <= leak < 1. That the gate is
            floored is our reading of the paper.
    Returns: Same shape and dtype as x.
    Raises: SpecError: a parameter out of its range, or traced; TensorError: an integer, boolean or complex array, or
        no array.
    Edge cases: f(+inf) = +inf, f(-inf) = -inf, f(NaN) = NaN, f'(0) = leak.
    Source: Krause 2026, arXiv:2604.21677; docs/mathematics.md.
    Example:
        >>> segem(-2.0, leak=0.25)
        Array(-0.5, dtype=float32)
    """
    return activate(x, _spec(n, eps, leak))


def activate(x: ArrayLike, spec: GemSpec) -> Array:
    """Apply the activation that `spec` describes: what `gem`, `egem` and `segem` call.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64.
        spec: A member of the family.
    Returns: Same shape and dtype as x.
    Raises: TensorError: an integer, boolean or complex array, or no array.
    Edge cases: As for `gem` and `segem`.
    Example:
        >>> activate(1.0, GemSpec.from_scale(1, 0.5))
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
    """Give f(x) = x (leak + (1 - leak) F(x)) in the dtype of x; any shape."""
    wide = _widen(x)
    rise = _ratio(_coordinate(wide, spec), spec, 0)
    if spec.leak:
        return (wide * (spec.leak + (1 - spec.leak) * rise)).astype(x.dtype)
    # The maximum keeps -inf * 0 from becoming NaN.
    return (jnp.maximum(wide, 0) * rise).astype(x.dtype)


@_value.defjvp
def _value_jvp(spec: GemSpec, primals: Any, tangents: Any) -> tuple[Array, Array]:
    # The slope is a function of the gate alone, so that x = inf meets no inf * 0. It has the dtype of x: reverse mode
    # keeps it, and nothing else.
    (x,), (change,) = primals, tangents
    t = _coordinate(_widen(x), spec)
    rest = _reduction(spec).eps * _ratio(t, spec, 2 * spec.n)
    slope = spec.leak + (1 - spec.leak) * _rise_by_reciprocal(t, spec) * (1 + 2 * spec.n * rest)
    return _value(x, spec), slope.astype(x.dtype) * change


_value_jitted = jax.jit(_value, static_argnums=1)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _rise_by_reciprocal(t: Array, spec: GemSpec) -> Array:
    """Give F as t^(2n) times the reciprocal that 1 - F needs.

    A quotient that value and slope share would be a kernel of its own on the CPU, which writes it to memory for both.
    """
    return lax.integer_pow(t, 2 * spec.n) * _ratio(t, spec, 2 * spec.n)


@_rise_by_reciprocal.defjvp
def _rise_by_reciprocal_jvp(spec: GemSpec, primals: Any, tangents: Any) -> tuple[Array, Array]:
    return _rise_by_reciprocal(primals[0], spec), _ratio_jvp(spec, 0, primals, tangents)[1]


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _ratio(t: Array, spec: GemSpec, k: int) -> Array:
    """Give t^(2n-k) / (t^(2n) + eps) for 0 <= k <= 2n: F for k = 0, (1 - F) / eps for k = 2n."""
    return lax.integer_pow(t, 2 * spec.n - k) / (lax.integer_pow(t, 2 * spec.n) + _reduction(spec).eps)


@_ratio.defjvp
def _ratio_jvp(spec: GemSpec, k: int, primals: Any, tangents: Any) -> tuple[Array, Array]:
    # The ratios are closed under differentiation. The general rule for a quotient would square the denominator, which
    # leaves float32's range, and subtract numbers that are nearly equal.
    (t,), (change,) = primals, tangents
    order = 2 * spec.n
    if k < order:
        slope = _ratio(t, spec, k + 1) * (order * _reduction(spec).eps * _ratio(t, spec, order) - k)
    else:
        slope = -order * _ratio(t, spec, 1) * _ratio(t, spec, order)
    return _ratio(t, spec, k), slope * change


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _coordinate(x: Array, spec: GemSpec) -> Array:
    """Give t = min(max(x, 0) * inverse_scale, limit), whose powers do not leave the range of float32."""
    inverse_scale, _, limit = _reduction(spec)
    t = x * inverse_scale
    return lax.clamp(jnp.zeros((), t.dtype), t, jnp.asarray(limit, t.dtype))


@_coordinate.defjvp
def _coordinate_jvp(spec: GemSpec, primals: Any, tangents: Any) -> tuple[Array, Array]:
    # The general rule would give 0 at NaN; this one leaves what is multiplied with it, which is NaN.
    (x,), (change,) = primals, tangents
    inverse_scale, _, limit = _reduction(spec)
    clamped = (x <= 0) | (x * inverse_scale >= limit)
    return _coordinate(x, spec), jnp.where(clamped, 0, inverse_scale) * change


def _reduction(spec: GemSpec) -> Reduction:
    """Give `GemSpec.reduction`, scaled to eps >= 1 where the powers leave room for that.

    XLA flushes subnormal numbers to zero. With eps >= 1 a power that is flushed belongs to a gate that is subnormal.
    """
    inverse_scale, eps, limit = spec.reduction
    if eps >= 1 or spec.n > 32:
        return spec.reduction
    return Reduction(2 * inverse_scale, 4.0**spec.n * eps, 2 * limit)


def _widen(x: Array) -> Array:
    return x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)


def _spec(n: int, eps: float, leak: float) -> GemSpec:
    for name, number in (("n", n), ("eps", eps), ("leak", leak)):
        if _is_traced(number):
            raise SpecError(
                f"{name} is a traced value; n, eps and leak are constants of the function: bind them by "
                f"functools.partial, or name them in static_argnames of jax.jit"
            )
    return GemSpec(n, eps, leak)


def _is_traced(number: Any) -> bool:
    # A parameter of Flax holds an array, and gives it by this method; a tracer may have None in its place.
    convert = getattr(number, "__jax_array__", None)
    return isinstance(convert() if convert else number, Tracer)

"""Values, gradients and second derivatives in JAX: the oracle's bounds in every dtype, over all kinds of input.

XLA flushes subnormal numbers to zero on the CPU, which the floors say.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gem_activations import GemSpec
from gem_activations.jax import activate, egem, gem, segem

from ..golden.table import Golden, read
from ..sweeps import bit_patterns, sweep_float32, wide
from ..tolerances import (
    FLUSHED_FLOOR,
    HALF_ULPS,
    bend_floor,
    flushed_gradient_floor,
    gradient_ulps,
    value_ulps,
)
from ..ulps import smallest_normal, ulps_apart

DTYPES = ["float16", "bfloat16", "float32", "float64"]
WIDTHS = [1e-12, 1.0, 1e6]


@partial(jax.jit, static_argnums=1)
def value_and_gradient(x: Any, spec: GemSpec) -> tuple[Any, Any]:
    value, pull = jax.vjp(lambda x: activate(x, spec), x)
    return value, pull(jnp.ones_like(value))[0]


@partial(jax.jit, static_argnums=1)
def second_derivative(x: Any, spec: GemSpec) -> Any:
    return jax.vmap(jax.grad(jax.grad(lambda x: activate(x, spec))))(x)


def within(got: Any, want: Any, dtype: str, ulps: float, floor: float) -> bool:
    floor = 0.0 if dtype == "float16" else floor * smallest_normal(dtype)  # Float16 is computed in float32.
    return bool((ulps_apart(wide(got), want, dtype, floor) <= ulps).all())


@pytest.mark.parametrize("leak", [0.0, 0.01, 0.99])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 32])
def test_float32_over_all_finite_inputs(n, leak):
    for eps in WIDTHS:
        spec = GemSpec(n, eps, leak)
        x = sweep_float32(spec)
        value, gradient = value_and_gradient(x, spec)
        assert value.dtype == gradient.dtype == jnp.float32
        assert within(value, spec(x), "float32", value_ulps(n), FLUSHED_FLOOR), spec
        floor = flushed_gradient_floor(n)
        assert within(gradient, spec.derivative(x), "float32", gradient_ulps(n), floor), spec


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("leak", [0.0, 0.5])
@pytest.mark.parametrize("n", [1, 2, 8])
def test_every_16_bit_pattern(dtype, n, leak):
    x = bit_patterns(jnp.dtype(dtype))
    for eps in WIDTHS:
        spec = GemSpec(n, eps, leak)
        value, gradient = value_and_gradient(x, spec)
        assert value.dtype == gradient.dtype == dtype
        points = wide(x)
        with np.errstate(invalid="ignore"):  # A signalling NaN.
            assert within(value, spec(points), dtype, HALF_ULPS, FLUSHED_FLOOR), spec
            assert within(gradient, spec.derivative(points), dtype, HALF_ULPS, flushed_gradient_floor(n)), spec


@pytest.mark.parametrize("golden", read(), ids=str)
def test_float64_equals_mpmath_up_to_the_second_derivative(golden: Golden):
    spec = golden.spec
    with jax.enable_x64(True):
        value, slope = value_and_gradient(golden.x, spec)
        bend = second_derivative(golden.x, spec)
        assert value.dtype == slope.dtype == bend.dtype == jnp.float64
    assert within(value, golden.value, "float64", value_ulps(spec.n), FLUSHED_FLOOR)
    assert within(slope, golden.derivative, "float64", gradient_ulps(spec.n), flushed_gradient_floor(spec.n))
    rise = np.nan_to_num((spec.gate(golden.x) - spec.leak) / (1 - spec.leak))
    condition = (1 + 2 * spec.n + 4 * spec.n * rise) / np.abs(1 + 2 * spec.n - 4 * spec.n * rise)
    flushed = flushed_gradient_floor(spec.n) * 2 * spec.n / spec.scale * smallest_normal("float64")
    floor = max(bend_floor(spec.n) * spec.sup_second_derivative, flushed)
    error = ulps_apart(wide(bend), golden.second_derivative, "float64", floor)
    assert (error <= gradient_ulps(spec.n) * condition).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", [GemSpec(), GemSpec(8, 1e-12), GemSpec(2, 1e6), GemSpec(2, 1e-4, 0.01)], ids=str)
def test_zero_infinity_and_nan(dtype, spec):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.array([0.0, -0.0, jnp.inf, -jnp.inf, jnp.nan], dtype)
        value, gradient = value_and_gradient(x, spec)
        bend = second_derivative(x, spec)
        leak = float(jnp.asarray(spec.leak, dtype))
    below = -np.inf if spec.leak else 0.0
    np.testing.assert_array_equal(wide(value), [0.0, 0.0, np.inf, below, np.nan])
    np.testing.assert_array_equal(wide(gradient)[[0, 1, 3, 4]], [leak, leak, leak, np.nan])
    assert ulps_apart(wide(gradient)[2], 1.0, dtype) <= gradient_ulps(spec.n)
    np.testing.assert_array_equal(wide(bend), [0.0, 0.0, 0.0, 0.0, np.nan])


EXTREMES = [GemSpec(), GemSpec(2, 1e-12), GemSpec(8, 1e6, 0.3), GemSpec(64, 1e6)]
# Many, because leak and 1 - leak are rounded on their own and must not sum up to more than 1.
ROUNDED = [GemSpec(1, 1.0, float(leak)) for leak in np.linspace(0.05, 0.995, 12)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_finite_input_gives_nan_or_infinity(dtype):
    limits = jnp.finfo(dtype)
    tiny, largest = float(limits.smallest_normal), float(limits.max)
    steps = np.array([0.0, tiny / 4, tiny, 1.0, largest / 2, largest])
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.concatenate([steps, -steps]), dtype)
        for spec in EXTREMES + ROUNDED * (dtype == "float32"):
            value, gradient = value_and_gradient(x, spec)
            assert jnp.isfinite(value).all(), spec
            assert jnp.isfinite(gradient).all(), spec


def test_the_three_functions_are_members_of_one_family():
    x = np.linspace(-2, 3, 101, dtype=np.float32)
    for got, spec in (
        (gem(x, n=2), GemSpec(2)),
        (egem(x), GemSpec(1, 1e-4)),
        (egem(x, n=2, eps=0.5), GemSpec(2, 0.5)),
        (segem(x), GemSpec(1, 1e-4, 0.01)),
        (segem(x, n=3, eps=0.5, leak=0.2), GemSpec(3, 0.5, 0.2)),
    ):
        assert within(got, spec(x), "float32", value_ulps(spec.n), FLUSHED_FLOOR), spec


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", [GemSpec(3, 1e-4), GemSpec(2, 0.5, 0.2)], ids=str)
def test_strict_promotion_changes_nothing(dtype, spec):
    with jax.enable_x64(dtype == "float64"):
        x = jnp.linspace(-2, 3, 31, dtype=dtype)
        want = (*value_and_gradient(x, spec), second_derivative(x, spec))
        jax.clear_caches()
        with jax.numpy_dtype_promotion("strict"):
            got = (*value_and_gradient(x, spec), second_derivative(x, spec), activate(x, spec))
    for each, exact in zip(got, (*want, want[0]), strict=True):
        assert each.dtype == dtype
        np.testing.assert_array_equal(wide(each), wide(exact))


@pytest.mark.parametrize("function", [gem, egem, segem, jax.jit(gem), jax.grad(gem), jax.grad(jax.grad(segem))])
def test_a_python_number_stays_weakly_typed(function):
    """As for jax.nn.relu: what it is multiplied with keeps its dtype."""
    y = function(2.0)
    assert (y.dtype, y.weak_type) == (jnp.float32, True)
    assert (jnp.ones(2, jnp.bfloat16) * y).dtype == jnp.bfloat16
    assert not function(jnp.float32(2.0)).weak_type
    assert function(jnp.bfloat16(2.0)).dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3, 4)])
def test_any_shape(shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y = gem(x, n=2)
    assert y.shape == shape
    assert within(y, GemSpec(2)(x), "float32", value_ulps(2), FLUSHED_FLOOR)

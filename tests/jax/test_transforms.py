"""jit, grad, hessian, vmap, both modes of differentiation in any order, scan, checkpoint: values as in eager mode."""

from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.test_util import check_grads as assert_gradients

from gem_activations import GemSpec
from gem_activations.jax import activate, gem, segem

from ..tolerances import HIGHER_DERIVATIVE, SAME_MATHEMATICS, THIRD_BY_DIFFERENCES

SPECS = [GemSpec(), GemSpec(2, 1e-4), GemSpec(3, 10.0, 0.01)]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=str)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def points(spec):
    return jnp.asarray(np.concatenate([np.linspace(-2, 3, 23) * spec.scale, [0.0]]))


def assert_close(got, want):
    np.testing.assert_allclose(got, want, **SAME_MATHEMATICS)


@every_spec
def test_jit_vmap_and_their_gradients(spec):
    x = points(spec)
    f = partial(activate, spec=spec)
    assert_close(jax.jit(f)(x), spec(x))
    assert_close(jax.vmap(f)(x), spec(x))
    assert_close(jax.vmap(f, in_axes=1, out_axes=1)(x.reshape(4, 6)), spec(x.reshape(4, 6)))
    assert_close(jax.vmap(jax.grad(f))(x), spec.derivative(x))
    assert_close(jax.jit(jax.grad(lambda x: f(x).sum()))(x), spec.derivative(x))


@every_spec
def test_forward_mode_jacobians_and_hessian(spec):
    x = points(spec)
    f = partial(activate, spec=spec)
    value, tangent = jax.jvp(f, (x,), (jnp.full_like(x, 3.0),))
    assert_close(value, spec(x))
    assert_close(tangent, 3 * spec.derivative(x))
    for jacobian in (jax.jacfwd, jax.jacrev):
        assert_close(jax.jit(jacobian(f))(x), np.diag(spec.derivative(x)))
    want = np.diag(spec.second_derivative(x))
    hessian = jax.jit(jax.hessian(lambda x: f(x).sum()))(x)
    np.testing.assert_allclose(hessian, want, rtol=0, atol=HIGHER_DERIVATIVE * np.abs(want).max())


@every_spec
@pytest.mark.parametrize("modes", [(jax.grad, jax.jacfwd, jax.grad), (jax.jacfwd, jax.grad, jax.jacfwd)])
def test_third_derivative_by_mixed_modes_against_differences_of_the_second(spec, modes):
    # Beside the junction, where a difference would straddle the jump of the (2n+1)-th derivative.
    x = np.array([-1.3, -0.2, 0.2, 0.4, 0.9, 1.6, 4.0]) * spec.scale
    step = 1e-5 * spec.scale
    want = (spec.second_derivative(x + step) - spec.second_derivative(x - step)) / (2 * step)
    derivative = partial(activate, spec=spec)
    for transform in modes:
        derivative = transform(derivative)
    got = jax.jit(jax.vmap(derivative))(jnp.asarray(x))
    np.testing.assert_allclose(got, want, rtol=0, atol=THIRD_BY_DIFFERENCES * np.abs(want).max())


def test_fourth_derivative_equals_the_closed_form():
    # GEM with n = 1 is x - x / (1 + x^2) for x > 0; its fourth derivative is -24 x (x^4 - 10 x^2 + 5) / (1 + x^2)^5.
    x = jnp.linspace(0.1, 3, 30)
    derivative = gem
    for transform in (jax.grad, jax.jacfwd, jax.grad, jax.jacfwd):
        derivative = transform(derivative)
    want = -24 * x * (x**4 - 10 * x**2 + 5) / (1 + x**2) ** 5
    np.testing.assert_allclose(
        jax.jit(jax.vmap(derivative))(x), want, rtol=0, atol=HIGHER_DERIVATIVE * np.abs(want).max()
    )


@pytest.mark.parametrize("order", [3, 4, 5, 6, 8])
@pytest.mark.parametrize("spec", [*SPECS, GemSpec(1, 1e-4, 0.01), GemSpec(8, 1e-4)], ids=str)
def test_higher_derivatives_equal_mpmath(spec, order):
    """Of orders below and above 2n + 1, from which on they jump at 0; in the transition and far above it."""
    x = np.array([-1.0, 0.05, 0.3, 0.8, 1.0, 1.7, 6.0, 40.0]) * spec.scale
    with mpmath.workdps(80):
        leak, eps = mpmath.mpf(spec.leak), mpmath.mpf(spec.eps)
        power = 2 * spec.n

        def f(x):
            return x * (leak + (1 - leak) * (x**power / (x**power + eps) if x > 0 else 0))

        step = mpmath.mpf(10) ** -12 * spec.scale
        want = np.array([float(mpmath.diff(f, mpmath.mpf(each), order, h=step)) for each in x])
    derivative = partial(activate, spec=spec)
    for _ in range(order):
        derivative = jax.grad(derivative)
    got = jax.jit(jax.vmap(derivative))(jnp.asarray(x))
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=HIGHER_DERIVATIVE * np.abs(want).max())


@pytest.mark.parametrize("mode", ["fwd", "rev"])
@pytest.mark.parametrize("spec", [GemSpec(), GemSpec(2, 10.0, 0.01), GemSpec(3, 0.5)], ids=str)
def test_the_gradients_pass_jaxs_own_check(spec, mode):
    x = jnp.asarray([[-1.5, -0.4, 0.3], [0.7, 1.1, 2.5]]) * spec.scale
    assert_gradients(partial(activate, spec=spec), (x,), order=4, modes=[mode])


@pytest.mark.parametrize("spec", [*SPECS, GemSpec(16, 1e6), GemSpec(64)], ids=str)
def test_no_derivative_is_nan_at_zero_infinity_or_the_largest_number(spec):
    x = jnp.array([0.0, -0.0, jnp.inf, -jnp.inf, 3e38, -3e38, 1e-38], jnp.float32)
    derivative = partial(activate, spec=spec)
    for order in range(5):
        assert not jnp.isnan(jax.jit(jax.vmap(derivative))(x)).any(), order
        derivative = jax.grad(derivative)


def test_residuals_of_reverse_mode_are_one_array_of_the_dtype_of_x():
    for dtype in (jnp.bfloat16, jnp.float32):
        x = jnp.ones(1000, dtype)
        _, pull = jax.vjp(partial(segem, n=3), x)
        kept = [leaf for leaf in jax.tree.leaves(pull) if getattr(leaf, "size", 0) == x.size]
        assert [leaf.dtype for leaf in kept] == [dtype]


def test_scan_checkpoint_and_loops():
    weights = jnp.asarray(np.random.default_rng(0).standard_normal((5, 8, 8))) / 3

    def loss(weights, layer):
        return jax.lax.scan(lambda x, weight: (layer(x @ weight), None), jnp.ones(8), weights)[0].sum()

    layer = partial(segem, n=2, eps=0.1)
    value, gradient = jax.jit(jax.value_and_grad(lambda weights: loss(weights, layer)))(weights)
    again, same = jax.jit(jax.value_and_grad(lambda weights: loss(weights, jax.checkpoint(layer))))(weights)
    assert_close(value, again)
    assert_close(gradient, same)


def test_the_traced_parameters_are_constants_under_jit():
    f = jax.jit(segem, static_argnames=("n", "eps", "leak"))
    assert_close(f(jnp.linspace(-1, 2, 9), n=2, eps=0.5, leak=0.1), GemSpec(2, 0.5, 0.1)(np.linspace(-1, 2, 9)))

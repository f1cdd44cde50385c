"""The gradient from the output: tables and Newton's method, every instruction set and dtype, against the oracle."""

from functools import lru_cache

import numpy as np
import pytest

from gem_activations import GemSpec

from ..tolerances import GRADIENT_FROM_OUTPUT, HALF_GRADIENT_OF_ROUNDED_OUTPUT_ULPS
from ..ulps import smallest_normal, ulps_apart
from .calls import decode, encode, every_pattern, run

WIDTHS = [1e-12, 1e-4, 1.0, 10.0, 1e6]
LEAKS = [0.0, 1e-6, 0.01, 0.5, 0.99]
HALF_SPECS = [GemSpec(n, eps, leak) for n in (1, 2, 3, 4, 8) for eps in (1e-12, 1.0, 1e6) for leak in (0.0, 0.01)]
TINY = smallest_normal("float32")

every_order = pytest.mark.parametrize("n", [*range(1, 9), 20, 64])


@lru_cache
def outputs_and_slopes(spec: GemSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 outputs over all positive exponents, dense around the junction, and the exact gradients there."""
    generator = np.random.default_rng(spec.n)
    exponents = np.arange(-149, 128)[:, None]
    spread = np.ldexp(np.hstack([1 + generator.random((exponents.size, 4)), [[1.0, 2 - 2.0**-23]] * 277]), exponents)
    junction = spec.scale * np.exp(generator.uniform(-12, 5, 3000))
    y = np.concatenate([spread.ravel(), junction]).astype(np.float32)
    return y, spec.derivative(spec.inverse(y))


@every_order
def test_float32_over_all_outputs(library, n):
    for spec in [GemSpec(n, eps, leak) for eps in WIDTHS for leak in LEAKS]:
        y, want = outputs_and_slopes(spec)
        (got,) = run(library, "backward_from_output", spec, "float32", np.ones_like(y), y)
        normal = want >= TINY
        error = np.abs(got - want) / want
        assert error[normal].max() <= GRADIENT_FROM_OUTPUT["float32"], (spec, y[normal][error[normal].argmax()])
        assert (np.abs(got - want)[~normal] <= 1.01 * TINY).all(), spec


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_float32_on_every_mantissa_of_the_octaves_around_the_junction(library, n):
    """Each polynomial of the tables at 2^16 points: between them its error cannot change, it has degree 6."""
    spec = GemSpec(n)
    t = np.geomspace(2.0**-8, 2.0**8, 16 * 2**16)
    y = spec(t).astype(np.float32)
    # One step of Newton's method leads from t to the rounded output: the relative distance is below 2^-24.
    x = t - (spec(t) - y) / spec.derivative(t)
    (got,) = run(library, "backward_from_output", spec, "float32", np.ones_like(y), y)
    error = np.abs(got / spec.derivative(x) - 1)
    assert error.max() <= GRADIENT_FROM_OUTPUT["float32"], t[error.argmax()]


def test_float64_for_any_order_width_and_leak(library):
    """Newton's method has a fixed number of steps: it must suffice for every member."""
    generator = np.random.default_rng(0)
    for _ in range(150):
        n = int(generator.integers(1, 65))
        leak = float(generator.choice([0.0, generator.random() ** 4, 10.0 ** generator.uniform(-15, 0)]))
        spec = GemSpec.from_scale(n, 2.0 ** generator.uniform(-4, 4), leak)
        span = generator.choice([0.05, 1.0, 20.0])
        x = spec.scale * np.exp(span * generator.uniform(-1, 1, 500))
        x = x[spec(x) > 1e-290]
        y = spec(x)
        (got,) = run(library, "backward_from_output", spec, "float64", np.ones_like(y), y)
        # The rounding of y counts as one of x, and moves the slope by up to 1 + n/2 times as much.
        bound = GRADIENT_FROM_OUTPUT["float64"] * (1 + n / 2)
        assert np.abs(got / spec.derivative(x) - 1).max() <= bound, spec


@every_order
def test_float64_over_all_outputs(library, n):
    for spec in (GemSpec(n), GemSpec(n, 1e-4), GemSpec(n, 1e-4, 0.01), GemSpec(n, 1.0, 0.9)):
        y = np.geomspace(1e-290, 1e300, 5000)
        want = spec.derivative(spec.inverse(y))
        (got,) = run(library, "backward_from_output", spec, "float64", np.ones_like(y), y)
        assert np.abs(got / want - 1).max() <= GRADIENT_FROM_OUTPUT["float64"] * (1 + n / 2), spec


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("spec", HALF_SPECS, ids=str)
def test_every_half_pattern(library, spec, dtype):
    stored = every_pattern(dtype)
    stored = stored[decode(stored, dtype) > 0]
    (got,) = run(library, "backward_from_output", spec, dtype, encode(np.ones(stored.size), dtype), stored)
    want = half_slopes(spec, dtype)
    error = ulps_apart(decode(got, dtype), want, dtype, TINY)
    assert error.max() <= HALF_GRADIENT_OF_ROUNDED_OUTPUT_ULPS


@lru_cache
def half_slopes(spec: GemSpec, dtype: str) -> np.ndarray:
    y = decode(every_pattern(dtype), dtype)
    return spec.derivative(spec.inverse(y[y > 0]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("leak", [0.0, 0.25])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 64])
def test_infinities_zeros_negative_numbers_and_nan(library, dtype, leak, n):
    y = encode([np.inf, np.nan, -np.nan, 0.0, -0.0, -1.0, -1e-7, -np.inf], dtype)
    grad = encode(np.full(8, 2.0), dtype)
    (got,) = run(library, "backward_from_output", GemSpec(n, 1.0, leak), dtype, grad, y)
    np.testing.assert_array_equal(decode(got, dtype)[1:], [np.nan, np.nan, *[2 * leak] * 5])
    assert decode(got, dtype)[0] == pytest.approx(2.0, rel=1e-6)


def test_scales_far_from_one(library):
    """float32, where the output in units of the scale is far outside the range of float32 itself."""
    for n in range(1, 6):
        for scale in (2e-30, 1e-20, 1e20, 1e23, 1e25, 5e29):
            spec = GemSpec.from_scale(n, scale)
            y = np.geomspace(1e-45, 3e38, 2000).astype(np.float32)
            want = spec.derivative(spec.inverse(y))
            (got,) = run(library, "backward_from_output", spec, "float32", np.ones_like(y), y)
            normal = want >= TINY
            assert (np.abs(got / want - 1)[normal] <= GRADIENT_FROM_OUTPUT["float32"]).all(), spec
            assert (np.abs(got - want)[~normal] <= 1.01 * TINY).all(), spec

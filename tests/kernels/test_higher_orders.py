"""The passes of second and third order, from the input and from the output, against the oracle and against float64."""

import numpy as np
import pytest

from gem_activations import GemSpec

from ..tolerances import SECOND_FROM_OUTPUT, THIRD_IN_FLOAT32, half_second_from_output
from ..ulps import smallest_normal
from .calls import OPERATIONS, decode, encode, every_pattern, run

WIDTHS = [1e-12, 1e-4, 1.0, 1e6]
LEAKS = [0.0, 0.01, 0.9]

every_order = pytest.mark.parametrize("n", [*range(1, 9), 20, 64])


def outputs(spec: GemSpec) -> np.ndarray:
    """Return float32 outputs over all sizes at which f' is a normal number, dense around the junction."""
    x = spec.scale * np.concatenate([np.geomspace(1e-3, 1e3, 6000) ** (1 / spec.n), np.geomspace(1e-9, 1e9, 2000)])
    y = spec(x).astype(np.float32)
    y = y[np.isfinite(y) & (y > smallest_normal("float32"))]
    return y[spec.derivative(spec.inverse(y)) > 1e6 * smallest_normal("float32")]


def apart(got: np.ndarray, want: np.ndarray, sup: float) -> float:
    """Return the largest error of a second derivative: relative, or relative to sup |f''| where that is less."""
    error = np.abs(got - want)
    return np.minimum(error / np.maximum(np.abs(want), 1e-300), error / sup).max()


@every_order
def test_float32_from_the_output(library, n):
    for spec in [GemSpec(n, eps, leak) for eps in WIDTHS for leak in LEAKS]:
        y = outputs(spec)
        x, one = spec.inverse(y), np.ones_like(y)
        slope, bend = run(library, "second_from_output", spec, "float32", one, one, y)
        exact = spec.derivative(x)
        assert np.abs(slope / exact - 1).max() <= SECOND_FROM_OUTPUT["float32"], spec
        error = apart(bend * exact, spec.second_derivative(x), spec.sup_second_derivative)
        assert error <= SECOND_FROM_OUTPUT["float32"], spec
        (root,) = run(library, "inverse", spec, "float32", y)
        assert np.abs(root / x - 1).max() <= SECOND_FROM_OUTPUT["float32"] / 8, spec


@every_order
def test_float64_from_the_output(library, n):
    for spec in [GemSpec(n, eps, leak) for eps in WIDTHS for leak in LEAKS]:
        x = spec.scale * np.geomspace(0.1, 1e3, 1000) ** (1 / n)
        y, one = spec(x), np.ones_like(x)
        slope, bend = run(library, "second_from_output", spec, "float64", one, one, y)
        bound = SECOND_FROM_OUTPUT["float64"] * n
        assert np.abs(slope / spec.derivative(x) - 1).max() <= bound, spec
        assert apart(bend * spec.derivative(x), spec.second_derivative(x), spec.sup_second_derivative) <= bound, spec


@every_order
@pytest.mark.parametrize("kind", ["third", "third_from_output"])
def test_third_order_in_float32_is_that_of_float64(library, n, kind):
    """float64 is held to mpmath by the tests of autograd."""
    generator = np.random.default_rng(n)
    for spec in [GemSpec(n, eps, leak) for eps in WIDTHS for leak in LEAKS]:
        x = spec.scale * np.concatenate([np.geomspace(0.1, 100, 2000) ** (1 / n), -np.geomspace(0.1, 10, 100)])
        x = x.astype(np.float32)
        kept = x if kind == "third" else spec(x).astype(np.float32)
        if spec.leak == 0:
            kept = np.maximum(kept, 0)
        others = [generator.standard_normal(x.size).astype(np.float32) for _ in range(4)]
        others[1] *= np.float32(spec.scale)  # Of the size that makes every term count.
        wide = [array.astype(np.float64) for array in (*others, kept)]
        got = run(library, kind, spec, "float32", *others, kept)
        want = run(library, kind, spec, "float64", *wide)
        slope = spec.derivative(x.astype(float)) if kind == "third_from_output" else np.ones(x.size)
        # On its way to x what belongs to the output is multiplied by the slope, and is compared as such.
        for ours, exact, factor in zip(got, want, (1.0, slope, slope), strict=True):
            error = np.abs(ours - exact) * factor
            assert error.max() <= THIRD_IN_FLOAT32 * np.abs(exact * factor).max(), spec


@every_order
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("end", ["", "_from_output"])
def test_the_tangent_is_the_first_result_of_the_third_order_to_the_bit(library, n, dtype, end):
    generator = np.random.default_rng(n)
    for spec in [GemSpec(n, eps, leak) for eps in WIDTHS for leak in LEAKS]:
        a, b, grad, x = (encode(generator.standard_normal(1001), dtype) for _ in range(4))
        kept = encode(decode(x, dtype) * spec.scale, dtype)
        (got,) = run(library, f"tangent{end}", spec, dtype, a, b, grad, kept)
        want, *_ = run(library, f"third{end}", spec, dtype, a, b, grad, grad, kept)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "kind",
    ["second", "second_from_output", "third", "third_from_output", "tangent", "tangent_from_output", "inverse"],
)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_no_finite_input_gives_nan_and_nan_stays(library, kind, dtype):
    largest = {"float16": 65504.0, "bfloat16": 3e38, "float32": 3e38, "float64": 1e300}[dtype]
    x = np.concatenate([[0.0, largest], np.geomspace(1e-45, 1e30, 400)])
    kept = encode(np.concatenate([x, -x, [np.nan]]), dtype)
    others = [encode(np.zeros(kept.size), dtype)] * (OPERATIONS[kind].inputs - 1)
    for n in (1, 2, 4, 7, 20):
        for scale in (1e-20, 1e-4, 1.0, 1e20):
            for leak in (0.0, 0.3):
                results = run(library, kind, GemSpec.from_scale(n, scale if n < 7 else 1.0, leak), dtype, *others, kept)
                for result in results[-1:]:
                    assert np.isnan(decode(result, dtype)[-1])
                for result in results:
                    assert not np.isnan(decode(result, dtype)[:-1]).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_half_pattern(library, dtype):
    stored = every_pattern(dtype)
    stored = stored[(decode(stored, dtype) > 1e-3) & np.isfinite(decode(stored, dtype))]
    one = encode(np.ones(stored.size), dtype)
    wide = decode(stored, dtype)
    for spec in (GemSpec(1), GemSpec(2), GemSpec(3, 10.0), GemSpec(1, 1.0, 0.1)):
        slope, bend = (decode(array, dtype) for array in run(library, "second", spec, dtype, one, one, stored))
        bound = half_second_from_output(dtype)
        assert np.abs(slope - spec.derivative(wide)).max() <= bound * spec.lipschitz
        assert np.abs(bend - spec.second_derivative(wide)).max() <= bound * spec.sup_second_derivative
        results = run(library, "second_from_output", spec, dtype, one, one, stored)
        slope, bend = (decode(array, dtype) for array in results)
        x = spec.inverse(wide)
        assert np.abs(slope - spec.derivative(x)).max() <= bound * spec.lipschitz
        error = bend * spec.derivative(x) - spec.second_derivative(x)
        assert np.abs(error).max() <= bound * spec.sup_second_derivative

"""Values and gradients against the float64 oracle."""

import numpy as np
import pytest
import torch

from gem_activations import GemSpec
from gem_activations.torch import formula

from ..tolerances import (
    GRADIENT_FLOOR,
    HALF_GRADIENT_OF_ROUNDED_OUTPUT_ULPS,
    HALF_ULPS,
    triton_gradient_ulps,
    value_ulps,
)
from ..ulps import smallest_normal, ulps_apart

SPECS = (GemSpec(1), GemSpec(2, 1e-4), GemSpec(4, 1e6), GemSpec(1, 1e-4, 0.01))
EXTREMES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.2e-38]
BIT_PATTERNS = np.arange(-32768, 32768, dtype=np.int16)
FLOOR = GRADIENT_FLOOR * smallest_normal("float32")


def reals(spec, count=4000):
    """Numbers of all sizes and both signs, and a dense set around the transition."""
    wide = np.geomspace(smallest_normal("float32"), 3e38, count)
    near = spec.scale * np.geomspace(0.03, 30, count)
    return np.concatenate([wide, -wide, near]).astype(np.float32)


def on(device, values, dtype=torch.float32):
    return torch.tensor(values, device=device).to(dtype)


def wide(tensor):
    return tensor.double().cpu().numpy()


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("leak", [0.0, 0.01])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.usefixtures("poisoned")
def test_float32(kernels, device, n, leak):
    for eps in (1e-12, 1e-4, 1.0, 1e6):
        spec = GemSpec(n, eps, leak)
        x = reals(spec)
        y = wide(kernels.forward(on(device, x), spec))
        assert ulps_apart(y, spec(x), "float32", FLOOR).max() <= value_ulps(n), eps
        slope = wide(kernels.backward(torch.ones(x.shape, device=device), on(device, x), spec, False))
        # Where x^(2n) is subnormal, its lost bits remain, (2n+1) / eps times as large.
        floor = FLOOR * max(1.0, (2 * n + 1) / spec.reduction.eps)
        assert ulps_apart(slope, spec.derivative(x), "float32", floor).max() <= triton_gradient_ulps(n), eps


@pytest.mark.parametrize("spec", [*SPECS, GemSpec(3, 1.0, 0.5), GemSpec(64)], ids=str)
def test_extremes(kernels, device, spec):
    x = on(device, EXTREMES)
    ones = torch.ones_like(x)
    finite = np.isfinite(EXTREMES)
    value = wide(kernels.forward(x, spec))
    assert np.array_equal(value[~finite], spec(EXTREMES)[~finite], equal_nan=True)
    assert np.allclose(value[finite], spec(wide(x))[finite], rtol=1e-6, atol=1e-44)
    assert np.array_equal(np.signbit(value[:2]) & (value[:2] != 0), [False, False])
    for from_output in (False, True):
        slope = wide(kernels.backward(ones, x, spec, from_output))
        limits = [spec.leak, spec.leak, 1.0, spec.leak, np.nan]
        assert np.allclose(slope[:5], limits, rtol=1e-6, atol=0, equal_nan=True), from_output
        assert np.allclose(slope[5:], [spec.leak, spec.leak, 1.0, spec.leak, spec.leak], rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.usefixtures("poisoned")
def test_every_half_precision_pattern(kernels, device, spec, dtype):
    x = torch.tensor(BIT_PATTERNS).view(dtype).to(device)
    exact = wide(x)
    ones = torch.ones_like(x)
    for result, expected, allowed in (
        (kernels.forward(x, spec), spec(exact), HALF_ULPS),
        (kernels.backward(ones, x, spec, False), spec.derivative(exact), HALF_ULPS),
        (kernels.backward(ones, x, spec, True), _slope_at_output(spec, exact), HALF_GRADIENT_OF_ROUNDED_OUTPUT_ULPS),
    ):
        assert np.array_equal(np.isnan(wide(result)), np.isnan(expected))
        kept = np.isfinite(exact) & (np.abs(expected) < torch.finfo(dtype).max)
        if kernels.INTERPRETED and dtype is torch.bfloat16:
            # The interpreter misreads bfloat16's subnormal numbers, and cuts where a GPU rounds.
            kept &= (np.abs(exact) >= smallest_normal("bfloat16")) & (np.abs(expected) >= smallest_normal("bfloat16"))
        assert ulps_apart(wide(result)[kept], expected[kept], name_of(dtype)).max() <= allowed


def _slope_at_output(spec, y):
    """The oracle's gradient at an output; an output below 0, which leak 0 never gives, counts as 0."""
    return np.where(y > 0, spec.derivative(spec.inverse(np.maximum(y, 0))), np.where(np.isnan(y), np.nan, spec.leak))


@pytest.mark.parametrize("spec", [*SPECS, GemSpec(8, 1e-12), GemSpec(64, 1.0, 0.1)], ids=str)
@pytest.mark.usefixtures("poisoned")
def test_float64(kernels, device, spec):
    x = spec.scale * np.concatenate([np.geomspace(0.5, 2, 500), np.geomspace(0.1, 1e5, 500), [-1.0, 0.0]])
    wide_x = on(device, x, torch.float64)
    value = kernels.forward(wide_x, spec)
    assert ulps_apart(wide(value), spec(x), "float64").max() <= value_ulps(spec.n)
    slope = wide(kernels.backward(torch.ones_like(wide_x), wide_x, spec, False))
    assert ulps_apart(slope, spec.derivative(x), "float64").max() <= triton_gradient_ulps(spec.n)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_agrees_with_the_plain_formula(kernels, device, spec):
    x = on(device, reals(spec, 1000))
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(device)
    value = ulps_apart(wide(kernels.forward(x, spec)), wide(formula.value(x, spec)), "float32", FLOOR)
    assert value.max() <= 2 * value_ulps(spec.n)
    expected = wide(grad * formula.derivative(x, spec))
    slope = ulps_apart(wide(kernels.backward(grad, x, spec, False)), expected, "float32", 100 * FLOOR)
    assert slope.max() <= 2 * triton_gradient_ulps(spec.n)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("spec", SPECS[1:], ids=str)
@pytest.mark.usefixtures("poisoned")
def test_gated_unit(kernels, device, spec, dtype):
    generator = torch.Generator().manual_seed(1)
    grad, x, gate = (torch.randn(999, generator=generator).to(device, dtype) for _ in range(3))
    gate = gate * (2 * spec.scale)
    grad_x, grad_gate = kernels.glu_backward(grad, x, gate, spec)
    of_gate, slope = spec(wide(gate)), spec.derivative(wide(gate))
    # A half result is rounded once; the products before it leave a trace.
    allowed = triton_gradient_ulps(spec.n) if dtype.itemsize > 2 else HALF_ULPS
    for result, expected in (
        (kernels.glu_forward(x, gate, spec), wide(x) * of_gate),
        (grad_x, wide(grad) * of_gate),
        (grad_gate, wide(grad) * wide(x) * slope),
    ):
        assert ulps_apart(wide(result), expected, name_of(dtype), FLOOR).max() <= allowed

"""Values and gradients against the float64 oracle."""

import numpy as np
import pytest
import torch

from gem_activations import GemSpec
from gem_activations.torch import formula

NORMAL = 2.0**-126
HALVES = (torch.float16, torch.bfloat16)
SPECS = (GemSpec(1), GemSpec(2, 1e-4), GemSpec(4, 1e6), GemSpec(1, 1e-4, 0.01))
EXTREMES = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.2e-38]
BIT_PATTERNS = np.arange(-32768, 32768, dtype=np.int16)


def reals(spec, count=4000):
    """Numbers of all sizes and both signs, and a dense set around the transition."""
    wide = np.geomspace(NORMAL, 3e38, count)
    near = spec.scale * np.geomspace(0.03, 30, count)
    return np.concatenate([wide, -wide, near]).astype(np.float32)


def on(device, values, dtype=torch.float32):
    return torch.tensor(values, device=device).to(dtype)


def wide(tensor):
    return tensor.double().cpu().numpy()


def ulp(values, dtype):
    """The distance between neighbouring numbers of `dtype` at `values`; that of the smallest normal number below it."""
    info = torch.finfo(dtype)
    return 2.0 ** np.floor(np.log2(np.maximum(np.abs(values), info.smallest_normal))) * info.eps


@pytest.mark.parametrize("leak", [0.0, 0.01])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.usefixtures("poisoned")
def test_float32_value_is_within_2n_plus_2_ulp(kernels, device, n, leak):
    for eps in (1e-12, 1e-4, 1.0, 1e6):
        spec = GemSpec(n, eps, leak)
        x = reals(spec)
        expected = spec(x)
        # Where x^(2n) is subnormal, a value as small as 1e-34 has lost bits; the plain formula loses the same.
        kept = (np.abs(expected) > 1e-34) & (np.abs(expected) < 3.4e38) | (expected == 0)
        error = np.abs(wide(kernels.forward(on(device, x), spec)) - expected) / ulp(expected, torch.float32)
        assert error[kept].max() <= 2 * n + 2, eps


@pytest.mark.parametrize("leak", [0.0, 0.01])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
@pytest.mark.usefixtures("poisoned")
def test_float32_gradient_from_the_input(kernels, device, n, leak):
    for eps in (1e-12, 1e-4, 1.0, 1e6):
        spec = GemSpec(n, eps, leak)
        x = reals(spec)
        expected = spec.derivative(x)
        kept = (expected > 1e-34) | (expected == 0)
        slope = wide(kernels.backward(torch.ones(x.shape, device=device), on(device, x), spec, False))
        error = np.abs(slope - expected) / ulp(expected, torch.float32)
        assert error[kept].max() <= 4 * n + 8, eps


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


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.usefixtures("poisoned")
def test_every_half_precision_pattern(kernels, device, spec, dtype):
    x = torch.tensor(BIT_PATTERNS).view(dtype).to(device)
    exact = wide(x)
    ones = torch.ones_like(x)
    # The interpreter cuts a float32 to bfloat16 instead of rounding it, and misreads bfloat16's subnormal numbers.
    cuts = kernels.INTERPRETED and dtype is torch.bfloat16
    rounding = 1.0 if cuts else 0.51
    for result, expected, allowed in (
        (kernels.forward(x, spec), spec(exact), rounding),
        (kernels.backward(ones, x, spec, False), spec.derivative(exact), rounding),
        (kernels.backward(ones, x, spec, True), _slope_at_output(spec, exact), 2.0),
    ):
        assert np.array_equal(np.isnan(wide(result)), np.isnan(expected))
        kept = np.isfinite(exact) & (np.abs(expected) < torch.finfo(dtype).max)
        if cuts:
            kept &= (np.abs(exact) >= NORMAL) & (np.abs(expected) >= NORMAL)
        error = np.abs(wide(result) - expected) / ulp(expected, dtype)
        assert error[kept].max() <= allowed


def _slope_at_output(spec, y):
    """The oracle's gradient at an output; an output below 0, which leak 0 never gives, counts as 0."""
    return np.where(y > 0, spec.derivative(spec.inverse(np.maximum(y, 0))), np.where(np.isnan(y), np.nan, spec.leak))


@pytest.mark.parametrize("spec", [*SPECS, GemSpec(8, 1e-12), GemSpec(64, 1.0, 0.1)], ids=str)
@pytest.mark.usefixtures("poisoned")
def test_float64(kernels, device, spec):
    x = spec.scale * np.concatenate([np.geomspace(0.5, 2, 500), np.geomspace(0.1, 1e5, 500), [-1.0, 0.0]])
    wide_x = on(device, x, torch.float64)
    ones = torch.ones_like(wide_x)
    value = kernels.forward(wide_x, spec)
    assert np.allclose(wide(value), spec(x), rtol=1e-13, atol=0)
    assert np.allclose(wide(kernels.backward(ones, wide_x, spec, False)), spec.derivative(x), rtol=1e-13, atol=0)
    assert np.allclose(
        wide(kernels.backward(ones, value, spec, True)), _slope_at_output(spec, wide(value)), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_agrees_with_the_plain_formula(kernels, device, spec):
    x = on(device, reals(spec, 1000))
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(device)
    # Two float32 computations of one number, each within 2n + 2 units.
    close = {"rtol": (4 * spec.n + 4) * 2.0**-23, "atol": 1e-34}
    torch.testing.assert_close(kernels.forward(x, spec), formula.value(x, spec), **close)
    slope = grad * formula.derivative(x, spec)
    torch.testing.assert_close(kernels.backward(grad, x, spec, False), slope, **close)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("spec", SPECS[1:], ids=str)
@pytest.mark.usefixtures("poisoned")
def test_gated_unit(kernels, device, spec, dtype):
    generator = torch.Generator().manual_seed(1)
    grad, x, gate = (torch.randn(999, generator=generator).to(device, dtype) for _ in range(3))
    gate = gate * (2 * spec.scale)
    out = kernels.glu_forward(x, gate, spec)
    grad_x, grad_gate = kernels.glu_backward(grad, x, gate, spec)
    of_gate, slope = spec(wide(gate)), spec.derivative(wide(gate))
    units = {torch.float64: 100, torch.float32: 4 * spec.n + 10}.get(dtype, 1.01)
    for result, expected in (
        (out, wide(x) * of_gate),
        (grad_x, wide(grad) * of_gate),
        (grad_gate, wide(grad) * wide(x) * slope),
    ):
        # Below this, float16 is subnormal and the interpreter's bfloat16 as well.
        kept = (np.abs(expected) > 1e-4) | (expected == 0)
        error = np.abs(wide(result) - expected) / ulp(expected, dtype)
        assert error[kept].max() <= units

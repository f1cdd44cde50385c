"""The gradient taken from the output alone, against the oracle at the inverse of that output."""

import numpy as np
import pytest
import torch

from gem_activations import GemSpec

from ..tolerances import GRADIENT_FROM_OUTPUT, triton_high_order_gradient
from ..ulps import FORMATS, smallest_normal

NORMAL = smallest_normal("float32")


def worst_error(kernels, device, spec, y, dtype):
    """The largest relative error of the gradient over the outputs y, where the gradient is a normal number."""
    kept = torch.tensor(y, device=device).to(dtype)
    slope = kernels.backward(torch.ones_like(kept), kept, spec, True).double().cpu().numpy()
    expected = spec.derivative(spec.inverse(kept.double().cpu().numpy()))
    normal = expected > NORMAL
    return np.abs(slope[normal] / expected[normal] - 1).max()


def outputs(spec, count):
    """Outputs over float32's whole range, and a dense set where the gate opens."""
    near = spec(spec.scale * np.geomspace(0.03, 30, count))
    return np.concatenate([np.geomspace(NORMAL, 3e38, count), near[near > NORMAL]])


@pytest.mark.parametrize("leak", [0.0, 1e-8, 0.01, 0.3])
@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.usefixtures("poisoned")
def test_gradient_is_within_its_bound(kernels, device, n, leak):
    for eps in (1e-12, 1.0, 1e6):
        spec = GemSpec(n, eps, leak)
        for dtype in (torch.float32, torch.float64):
            error = worst_error(kernels, device, spec, outputs(spec, 700), dtype)
            assert error <= GRADIENT_FROM_OUTPUT[str(dtype).removeprefix("torch.")], (eps, dtype)


@pytest.mark.parametrize("leak", [1e-30, 1e-4, 0.1, 0.5, 0.9, 0.999, 1 - 1e-15])
def test_any_leak(kernels, device, leak):
    for n in (1, 2, 4, 5, 8):
        spec = GemSpec(n, 1e-4, leak)
        assert (
            worst_error(kernels, device, spec, outputs(spec, 500), torch.float32) <= GRADIENT_FROM_OUTPUT["float32"]
        ), n


@pytest.mark.parametrize("leak", [0.0, 1e-8, 0.1])
@pytest.mark.parametrize("n", [9, 12, 16, 17, 32, 33, 48, 64])
def test_large_orders(kernels, device, n, leak):
    spec = GemSpec(n, 1e-4, leak)
    y = spec(spec.scale * np.concatenate([np.geomspace(0.7, 1.4, 1000), np.geomspace(0.6, 1e3, 500)]))
    for dtype in (torch.float32, torch.float64):
        digits = FORMATS[str(dtype).removeprefix("torch.")][0]
        assert worst_error(kernels, device, spec, y, dtype) <= triton_high_order_gradient(n, digits), dtype


def test_outputs_below_zero_have_the_leak_as_gradient(kernels, device):
    y = torch.tensor([-1e30, -1.0, -1e-40, -0.0], device=device)
    for leak in (0.0, 0.25):
        slope = kernels.backward(torch.full_like(y, 3.0), y, GemSpec(1, 1.0, leak), True)
        assert torch.equal(slope, torch.full_like(y, 3.0 * leak))


def test_rough_logarithm_is_as_close_as_its_docstring_says():
    bits = np.geomspace(1.2e-38, 3e38, 100001).astype(np.float32).view(np.int32)
    m = ((bits & 0x007FFFFF) | 0x3F800000).view(np.float32).astype(np.float64)
    exact = np.log2(bits.view(np.float32).astype(np.float64))
    fit = np.polynomial.Chebyshev.interpolate(lambda m: np.log2(m) - (m - 1) - 127, 4, domain=[1, 2])
    coefficients = fit.convert(kind=np.polynomial.Polynomial, domain=[-1, 1]).coef
    assert np.allclose(coefficients, [-128.498353, 3.02921139, -2.07833517, 0.626032182, -0.0784406762], rtol=1e-7)
    assert np.abs(bits * 2.0**-23 + np.polyval(coefficients[::-1], m) - exact).max() <= 1.3e-4


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8])
def test_start_polynomial_is_as_close_as_its_docstring_says(n):
    pytest.importorskip("triton", reason="Triton is not installed")
    from gem_activations.kernels.triton.parameters import start_polynomial

    # The root h for a given G = q h is (1 - G)^(1 / (2n+1)): exact pairs without solving.
    gate = np.linspace(0.0005, 0.9995, 20001)
    h = (1 - gate) ** (1 / (2 * n + 1))
    q = gate / h
    coefficients = np.array(start_polynomial(n), dtype=np.float32)
    s = ((q - 1) / (q + 1)).astype(np.float32)
    error = np.polyval(coefficients, s) / (1 + q) / h - 1
    assert np.abs(error).max() <= {1: 7e-5, 2: 1.3e-3, 3: 4.1e-3, 4: 7.5e-3, 8: 1.7e-2}[n]

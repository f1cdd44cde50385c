"""The kernels of a learnt scale against the float64 oracle."""

import importlib

import numpy as np
import pytest
import torch

from gem_activations import GemSpec
from gem_activations.torch import EGEM

TOLERANCES = {torch.float32: 4e-6, torch.float64: 1e-13, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(scope="session")
def scaled(kernels):
    del kernels  # Skips where Triton is not installed.
    return importlib.import_module("gem_activations.kernels.triton.scale")


SHAPES = [(0,), (1,), (1000,), (70_001,), (7, 3), (300, 130), (0, 3), (3, 5, 7, 7), (2, 33, 5), (2, 3, 300, 300)]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("spec", [GemSpec(1, 0.25), GemSpec(2, 1e-4, 0.1), GemSpec(8, 10.0)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_both_gradients_are_those_of_the_oracle(scaled, device, spec, dtype, shape):
    noise = np.random.default_rng(2)
    for channels in {1, shape[1] if len(shape) > 1 else 1}:
        scales = spec.scale * (np.linspace(0.5, 2, channels) if channels > 1 else np.ones(1))
        x, grad = (torch.tensor(2 * spec.scale * noise.standard_normal(shape)).to(device, dtype) for _ in range(2))
        log_scale = torch.tensor(scales, device=device).log().to(torch.promote_types(dtype, torch.float32))
        wide, upstream = x.double().cpu().numpy(), grad.double().cpu().numpy()
        # f_a(x) = a f_1(x / a), and the gate is that of x / a.
        unit, across = GemSpec(spec.n, 1.0, spec.leak), scales.reshape(-1, *[1] * (len(shape) - 2))
        gate = (unit.gate(wide / across) - spec.leak) / (1 - spec.leak)
        terms = -2 * spec.n * (1 - spec.leak) * upstream * np.maximum(wide, 0) * gate * (1 - gate)
        y = scaled.scaled_forward(x, log_scale, spec).double().cpu().numpy()
        np.testing.assert_allclose(y, across * unit(wide / across), rtol=spec.n * TOLERANCES[dtype], atol=1e-7)
        by_x, by_scale = scaled.scaled_backward(grad, x, log_scale, spec)
        found, slope = by_x.double().cpu().numpy(), unit.derivative(wide / across)
        np.testing.assert_allclose(found, upstream * slope, rtol=spec.n * TOLERANCES[dtype], atol=1e-6)
        others = tuple(axis for axis in range(len(shape)) if channels == 1 or axis != 1)
        error = np.abs(by_scale.double().cpu().numpy() - terms.sum(others))
        assert (error <= 1e-5 * np.abs(terms).sum(others)).all()
        assert by_scale.shape == log_scale.shape
        assert by_scale.dtype == log_scale.dtype


def test_extremes_and_layouts(scaled, device):
    log_scale, spec = torch.tensor([0.5], device=device).log(), GemSpec(2)
    x = torch.tensor([np.inf, -np.inf, np.nan, 0.0, 3e38, -3e38, 1e-45], device=device)
    y = scaled.scaled_forward(x, log_scale, spec)
    assert y[0] == np.inf
    assert y[2].isnan()
    assert y[[1, 3, 5, 6]].eq(0).all()
    by_x, by_scale = scaled.scaled_backward(torch.ones_like(x), x.nan_to_num(0), log_scale, spec)
    assert by_x.isfinite().all()
    assert by_scale.isfinite().all()
    x = torch.randn(6, 5, 4, device=device)
    whole = scaled.scaled_backward(x, x, log_scale, GemSpec())
    turned = scaled.scaled_backward(x.mT.contiguous().mT, x, log_scale, GemSpec())
    assert all(torch.equal(one, other) for one, other in zip(whole, turned, strict=True))


@pytest.mark.parametrize("channels", [1, 5])
def test_a_module_takes_the_kernels_and_torchs_gradients_of_second_order(device, channels):
    twin = EGEM(n=2, scale=0.5, trainable=True, channels=channels, backend="plain").to(device, torch.float64)
    # Products of second order cancel, in torch's own float32 operations too: the largest entry is the measure.
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        module = EGEM(n=2, scale=0.5, trainable=True, channels=channels, backend="triton").to(device, dtype)
        values = torch.randn(8, 5, generator=torch.Generator().manual_seed(3)).to(device, dtype)
        for order in (1, 2):
            found = []
            for each in (module, twin):
                x = values.to(each.log_scale.dtype).requires_grad_()
                wanted = (x, each.log_scale)
                grads = torch.autograd.grad(each(x).square().sum(), wanted, create_graph=order == 2)
                if order == 2:
                    grads = torch.autograd.grad(sum(grad.square().sum() for grad in grads), wanted)
                found.append(grads)
            for one, exact in zip(*found, strict=True):
                assert (one.double() - exact).abs().max() <= tolerance * exact.abs().max()

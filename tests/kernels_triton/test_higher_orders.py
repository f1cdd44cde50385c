"""The passes of second and third order, from the input and from the output."""

import numpy as np
import pytest
import torch

from gem_activations import GemSpec
from gem_activations.torch import formula
from gem_activations.torch.backends import load_triton

from ..tolerances import SECOND_FROM_OUTPUT, TRITON_THIRD_IN_FLOAT32
from ..ulps import smallest_normal

SPECS = [GemSpec(n, eps, leak) for n in (1, 2, 3, 4, 8) for eps in (1e-4, 1.0) for leak in (0.0, 0.01)]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=str)


def apart(got, want, sup):
    error = np.abs(got - want)
    return np.minimum(error / np.maximum(np.abs(want), 1e-300), error / sup).max()


@every_spec
@pytest.mark.usefixtures("poisoned")
def test_second_order_in_float32(kernels, device, spec):
    x = spec.scale * np.concatenate([np.geomspace(1e-2, 1e3, 3000) ** (1 / spec.n), -np.geomspace(0.1, 10, 100)])
    inputs = torch.tensor(x, dtype=torch.float32, device=device)
    one = torch.ones_like(inputs)
    wide = inputs.double().cpu().numpy()
    slope, bend = (result.double().cpu().numpy() for result in kernels.second(one, one, inputs, spec, False))
    assert np.abs(slope / np.where(spec.derivative(wide) == 0, 1, spec.derivative(wide)) - 1)[:3000].max() <= 1e-5
    assert apart(bend, spec.second_derivative(wide), spec.sup_second_derivative) <= SECOND_FROM_OUTPUT["float32"]
    outputs = kernels.forward(inputs, spec)
    y = outputs.double().cpu().numpy()
    exact = np.where(y > 0, spec.inverse(np.maximum(y, 0)), -1.0)
    derivative = spec.derivative(exact)
    normal = derivative > 1e6 * smallest_normal("float32")
    slope, bend = (result.double().cpu().numpy() for result in kernels.second(one, one, outputs, spec, True))
    assert np.abs(slope - derivative)[normal].max() <= SECOND_FROM_OUTPUT["float32"] * spec.lipschitz
    error = apart((bend * derivative)[normal], spec.second_derivative(exact)[normal], spec.sup_second_derivative)
    assert error <= SECOND_FROM_OUTPUT["float32"]
    root = kernels.inverse(outputs, spec).double().cpu().numpy()
    assert np.abs(root / exact - 1)[normal & (y > 0)].max() <= SECOND_FROM_OUTPUT["float32"] / 4


@every_spec
@pytest.mark.parametrize("from_output", [False, True], ids=["from-input", "from-output"])
@pytest.mark.usefixtures("poisoned")
def test_third_order_is_that_of_the_formula(kernels, device, spec, from_output):
    generator = torch.Generator().manual_seed(0)
    x = spec.scale * torch.cat(
        [torch.logspace(-1, 2, 500, dtype=torch.float64) ** (1 / spec.n), -torch.ones(3).double()]
    )
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, TRITON_THIRD_IN_FLOAT32)):
        rounded = x.to(dtype)
        kept = formula.value(rounded, spec) if from_output else rounded
        others = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(4)]
        others[1] *= spec.scale
        a, b, grad_grad, grad, at = (tensor.to(device) for tensor in (*others, kept))
        tangent = load_triton()[0].tangent(a, b, grad, at, spec, from_output)
        got = *kernels.third(a, b, grad_grad, grad, at, spec, from_output), tangent
        of_x = formula.inverse(kept, spec) if from_output else kept.double()
        d1, d2, d3 = formula.derivatives(of_x, spec, from_output)
        a, b, grad_grad, grad = (tensor.double() for tensor in others)
        first = a * d1 + b * grad * d2
        want = first, b * grad_grad * d2, grad_grad * (a * d2 + b * grad * d3), first
        # On its way to x what belongs to the output is multiplied by the slope, and is compared as such.
        slope = formula.derivative(of_x, spec) if from_output else torch.ones_like(of_x)
        for ours, exact, factor in zip(
            got, want, (torch.ones_like(slope), slope, slope, torch.ones_like(slope)), strict=True
        ):
            error = (ours.cpu().double() - exact).abs() * factor
            assert error.max() <= bound * (exact * factor).abs().max(), dtype


@pytest.mark.parametrize("spec", [GemSpec(), GemSpec(3, 1e-4), GemSpec(2, 1e-4, 0.3)], ids=str)
def test_extremes(kernels, device, spec):
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-45, 1e-30, -1e30, 1e30, 3e38, torch.inf, torch.nan], device=device)
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    for from_output in (False, True):
        for results in (
            kernels.second(zero, one, x, spec, from_output),
            kernels.third(zero, zero, one, one, x, spec, from_output),
        ):
            for result in results:
                assert not result[:-2].isnan().any()
                assert result[-1].isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.usefixtures("poisoned")
def test_half_precision_and_layouts(kernels, device, dtype):
    spec = GemSpec(2)
    x = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).to(device, dtype).t()
    grad, grad_grad = torch.ones((), device=device, dtype=dtype).expand(x.shape), torch.full_like(x, 2.0)
    for from_output in (False, True):
        kept = kernels.forward(x, spec) if from_output else x
        at = formula.inverse(kept.cpu(), spec) if from_output else x.cpu().double()
        d1, d2, _ = formula.derivatives(at, spec, from_output)
        to_grad, to_kept = kernels.second(grad_grad, grad, kept, spec, from_output)
        assert to_grad.dtype == to_kept.dtype == dtype
        assert to_grad.stride() == x.stride()
        # The interpreter cuts to bfloat16 instead of rounding.
        close = {"rtol": 2 * torch.finfo(dtype).eps, "atol": 1e-4}
        torch.testing.assert_close(to_grad.cpu().double(), 2 * d1, **close)
        torch.testing.assert_close(to_kept.cpu().double(), 2 * d2, **close)

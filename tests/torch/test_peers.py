"""Checks as PyTorch's own suites make them, relu as control: samples, dtypes at every order, copy on write, nesting."""

import warnings

import pytest
import torch
from torch.nn import functional

from gem_activations import GemSpec
from gem_activations.kernels import cpu
from gem_activations.torch import GEM, GEMGLU, SEGEM, autograd, egem, gem, gem_glu, scale, segem
from gem_activations.torch import functional as ours
from gem_activations.torch.backends import load_cpu

from .known_warnings import forward_mode, tracing

FUNCTIONS = {
    "gem": gem,
    "egem": lambda x: egem(x, n=2, eps=0.5),
    "segem": lambda x: segem(x, eps=0.5),
    "gem_glu": lambda x: gem_glu(x, x, n=2),
    "relu": functional.relu,  # The control.
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_dtype = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)


@pytest.fixture(scope="module")
def samples():
    """PyTorch's samples for a unary elementwise function: sizes from none to a thousand, and odd strides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    (relu,) = (entry for entry in op_db if entry.name == "nn.functional.relu")
    return lambda dtype, requires_grad: [
        sample.input for sample in relu.sample_inputs("cpu", dtype, requires_grad=requires_grad)
    ]


@every_function
def test_samples_of_opinfo(samples, name):
    function = FUNCTIONS[name]
    for x in samples(torch.float32, True):
        y = function(x)
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        assert y.stride() == functional.relu(x).stride()
        out = function(x.detach().clone(memory_format=torch.preserve_format))
        torch.testing.assert_close(out, y.detach(), rtol=0, atol=0)
    for x in samples(torch.float64, True):
        if 0 < x.numel() < 50 and name != "relu":
            assert torch.autograd.gradcheck(function, (x,), check_batched_grad=True)
            assert torch.autograd.gradgradcheck(function, (x,), check_batched_grad=True)


@forward_mode
@every_dtype
@every_function
def test_every_transform_keeps_the_dtype_of_a_number(name, dtype):
    """0-d tensors, of which operations with Python numbers make float64 under some transforms."""
    function = FUNCTIONS[name]
    x = torch.tensor(0.7, dtype=dtype)
    rows = torch.tensor([0.3, 0.7, -0.2], dtype=dtype)
    func = torch.func
    results = {
        "grad": func.grad(function)(x),
        "jvp": func.jvp(function, (x,), (torch.ones_like(x),)),
        "jacfwd": func.jacfwd(function)(x),
        "jacrev": func.jacrev(function)(x),
        "hessian": func.hessian(function)(x),
        "grad of grad": func.grad(func.grad(function))(x),
        "vmap": func.vmap(function)(rows),
        "vmap of jacfwd": func.vmap(func.jacfwd(function))(rows),
        "vmap of hessian": func.vmap(func.hessian(function))(rows),
        "vmap of jvp of grad": func.vmap(lambda x: func.jvp(func.grad(function), (x,), (torch.ones_like(x),)))(rows),
    }
    for what, result in results.items():
        for tensor in result if isinstance(result, tuple) else (result,):
            assert tensor.dtype == dtype, what


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "relu"])
def test_third_derivatives_by_transforms(name):
    function = FUNCTIONS[name]
    x = torch.linspace(-1, 2, 7, dtype=torch.float64)
    third = torch.func.vmap(torch.func.grad(torch.func.jacfwd(torch.func.grad(function))))(x)
    leaf = x.clone().requires_grad_()
    got = function(leaf)
    for _ in range(3):
        (got,) = torch.autograd.grad(got.sum(), leaf, create_graph=True)
    torch.testing.assert_close(third, got.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.skipif(not cpu.status().available, reason=cpu.status().reason)
def test_transforms_compute_by_the_kernels():
    """The values have the bits of eager mode."""
    x = torch.randn(5, 40)
    assert torch.equal(torch.func.vmap(lambda x: egem(x, n=3))(x), egem(x, n=3))
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(egem(leaf, n=3, save="input").sum(), leaf)
    assert torch.equal(torch.func.vmap(torch.func.grad(lambda x: egem(x, n=3).sum()))(x), slope)


@every_function
def test_a_copy_on_write_input_stays_shared(name):
    source = torch.randn(64)
    copy = torch._lazy_clone(source)
    FUNCTIONS[name](copy)
    leaf = torch._lazy_clone(source).requires_grad_()
    upstream = torch._lazy_clone(source)
    FUNCTIONS[name](leaf).backward(upstream)
    for tensor in (copy, leaf, upstream):
        assert torch._C._is_cow_tensor(tensor)
        assert torch._C._data_address(tensor) == torch._C._data_address(source)


def test_writing_in_place_separates_a_copy_on_write_tensor():
    source = torch.randn(64)
    want, copy = source.clone(), torch._lazy_clone(source)
    gem(copy, inplace=True)
    assert torch.equal(source, want)
    assert torch.equal(copy, gem(want))


@pytest.mark.parametrize("module", [GEM(2), SEGEM(inplace=True)], ids=str)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_strided_nested_tensors(module):
    parts = [torch.randn(2, 3), torch.randn(4, 3)]
    nested = torch.nested.nested_tensor(parts, requires_grad=not module.inplace)
    y = module(nested)
    for got, part in zip(y.unbind(), parts, strict=True):
        torch.testing.assert_close(got.detach(), torch.from_numpy(module.spec(part)).float(), rtol=1e-6, atol=1e-7)
    if module.inplace:
        assert y is nested
        return
    sum(part.sum() for part in y.unbind()).backward()
    for got, part in zip(nested.grad.unbind(), parts, strict=True):
        torch.testing.assert_close(got, torch.from_numpy(module.spec.derivative(part)).float(), rtol=1e-5, atol=1e-7)


@tracing
def test_tracing_the_gated_layer_warns_of_nothing_else():
    layer = GEMGLU(4, 3, n=2)
    traced = torch.jit.trace(layer, (torch.randn(2, 4),))
    fresh = torch.randn(5, 4)
    torch.testing.assert_close(traced(fresh), layer(fresh))


def test_few_of_our_frames_are_between_a_call_and_the_kernel(monkeypatch):
    import traceback

    kernels = load_cpu()
    if kernels is None or kernels.module is None:
        pytest.skip("the C kernels are not built, or without the short way to them")
    depths = {"short_way": [], "call": [], "further": []}

    def note(owner, name):
        original = getattr(owner, name)

        def noted(*arguments):
            frames = [frame.filename for frame in traceback.extract_stack()]
            depths[name].append(sum("gem_activations" in name and "tests" not in name for name in frames))
            return original(*arguments)

        monkeypatch.setattr(owner, name, noted)

    note(ours, "short_way")
    note(cpu.Library, "call")
    note(autograd.DirectActivation, "further")
    note(autograd.DirectGradient, "further")
    note(scale, "short_way")
    note(scale.DirectScaled, "further")
    gem(torch.ones(3))
    x = torch.ones(3, requires_grad=True)
    (slope,) = torch.autograd.grad(gem(x), x, torch.ones(3), create_graph=True)
    slope.backward(torch.ones(3))  # Neither pass has a frame of ours.
    scale.activate_scaled(x, torch.zeros(1, requires_grad=True), 1).backward(torch.ones(3))
    assert depths == {"short_way": [2, 2, 1], "call": [], "further": []}
    gem(torch.ones(3, 2, requires_grad=True).t()).sum().backward()
    assert max(depths["call"]) <= 6  # And Library.call itself.
    assert len(depths["further"]) == 1


def test_a_spec_with_other_numbers_has_its_own_kernel():
    x = torch.ones(3)
    for spec in (GemSpec(1, 1.0), GemSpec(1, 3.0)):
        assert egem(x, eps=spec.eps)[0].item() == pytest.approx(float(spec(1.0)))

"""Shapes, strides, storages, subclasses and modes: the values, the memory format and the dtype that come out."""

import pytest
import torch

from gem_activations import GemSpec
from gem_activations.torch import GEM, egem, gem

from .routes import Route, every_route

SPEC = GemSpec(2, 1e-4, 0.01)


def with_gaps(*shape: int) -> torch.Tensor:
    """Return random values inside a storage whose other places are NaN."""
    wide = torch.full([*shape[:-1], 2 * shape[-1] + 1], torch.nan)
    view = wide[..., 1::2]
    return view.copy_(torch.randn(shape))


LAYOUTS = {
    "contiguous": lambda: torch.randn(4, 5),
    "empty": lambda: torch.randn(0, 3),
    "empty-inside": lambda: torch.randn(2, 0, 3).transpose(0, 2),
    "0-d": lambda: torch.tensor(0.7),
    "one-element": lambda: torch.randn(1, 1, 1),
    "odd-length": lambda: torch.randn(1025),
    "offset": lambda: torch.randn(40)[3:],
    "every-second": lambda: with_gaps(6, 7),
    "columns": lambda: with_gaps(5, 4, 6).select(1, 2),
    "transposed": lambda: torch.randn(3, 70).t(),
    "permuted": lambda: torch.randn(2, 3, 4, 5).permute(2, 0, 3, 1),
    "permuted-with-gaps": lambda: with_gaps(3, 4, 5).permute(2, 1, 0),
    "channels-last": lambda: torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    "channels-last-one-channel": lambda: torch.randn(2, 1, 4, 5).contiguous(memory_format=torch.channels_last),
    "channels-last-3d": lambda: torch.randn(2, 3, 4, 5, 2).contiguous(memory_format=torch.channels_last_3d),
    "expanded": lambda: torch.randn(3, 1).expand(3, 4),
    "expanded-scalar": lambda: torch.tensor(0.3).expand(2, 3),
    "overlapping": lambda: torch.randn(12).as_strided((4, 5), (2, 1)),
    "misaligned": lambda: torch.randn(17)[1:].view(4, 4),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@every_route
@every_layout
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_values_and_memory_format(route: Route, layout, dtype):
    torch.manual_seed(0)
    source = LAYOUTS[layout]()
    x = torch.empty_strided(source.shape, source.stride(), dtype=dtype).copy_(source) if _dense(source) else source
    with torch.no_grad():
        y = route(x, SPEC)
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    assert x.numel() == 0 or y.stride() == torch.relu(x).stride()
    assert torch.equal(y, route(x.contiguous().flatten(), SPEC).view(x.shape))
    assert torch.isfinite(y).all()
    assert x.numel() == 0 or y.data_ptr() != x.data_ptr()
    close = {"rtol": 4 * torch.finfo(x.dtype).eps, "atol": torch.finfo(x.dtype).smallest_normal}
    torch.testing.assert_close(y.double(), torch.as_tensor(SPEC(x.double().numpy())), **close)


@every_route
@every_layout
def test_gradients_and_their_memory_format(route: Route, layout):
    torch.manual_seed(0)
    source = LAYOUTS[layout]()
    x = source.detach().requires_grad_()
    y = route(x, SPEC)
    flat = source.contiguous().flatten().requires_grad_()
    # What arrives may be laid out as the output, contiguous, or one expanded number, as sum() gives it.
    for arriving in (torch.randn_like(y), torch.randn(y.shape), torch.ones(()).expand(y.shape)):
        (got,) = torch.autograd.grad(y, x, arriving, retain_graph=True)
        (want,) = torch.autograd.grad(route(flat, SPEC), flat, arriving.contiguous().flatten())
        assert torch.equal(got, want.view(x.shape))
    (got,) = torch.autograd.grad(y, x, torch.ones_like(y))
    want = torch.as_tensor(SPEC.derivative(source.detach().double().numpy())).float()
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-30)
    relu = torch.relu(x)
    assert x.numel() == 0 or got.stride() == torch.autograd.grad(relu, x, torch.ones_like(relu))[0].stride()


@pytest.mark.usefixtures("poisoned")
@every_route
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1, 7, 1000, 100_001])
def test_results_never_show_uninitialised_memory(route: Route, size, dtype):
    assert torch.empty(size, dtype=dtype).isnan().all()
    x = torch.randn(size).to(dtype)
    for source in (x, torch.stack([x, x], dim=1).t()):
        value, gradient = route.value_and_gradient(source, GemSpec())
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()


@every_route
def test_threads_do_not_change_a_bit(route: Route):
    x = torch.randn(300_001)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(route.value_and_gradient(x, SPEC))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_default_dtype_changes_nothing(default):
    x = torch.randn(100)
    want = egem(x, n=2)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        got = egem(x, n=2)
    finally:
        torch.set_default_dtype(before)
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


@every_route
def test_inference_mode_and_no_grad(route: Route):
    x = torch.randn(100, requires_grad=True)
    want = route(x, SPEC).detach()
    with torch.no_grad():
        assert torch.equal(route(x, SPEC), want)
        assert not route(x, SPEC).requires_grad
    with torch.inference_mode():
        y = route(x, SPEC)
        assert y.is_inference()
        assert torch.equal(route(y * 1, SPEC), route(want, SPEC))
    assert torch.equal(y, want)


class Tagged(torch.Tensor):
    """A subclass that PyTorch carries through operations by itself."""


def test_a_tensor_subclass_is_kept_and_has_the_values_and_gradient_of_a_tensor():
    x = torch.randn(30)
    tagged = x.clone().as_subclass(Tagged).requires_grad_()
    y = gem(tagged, n=2)
    assert type(y) is Tagged
    assert torch.equal(y.detach().as_subclass(torch.Tensor), gem(x, n=2))
    y.sum().backward()
    plain = x.clone().requires_grad_()
    gem(plain, n=2).sum().backward()
    assert tagged.grad is not None
    torch.testing.assert_close(tagged.grad.as_subclass(torch.Tensor), plain.grad)


def test_parameters_and_buffers_are_ordinary_tensors():
    parameter = torch.nn.Parameter(torch.randn(30))
    y = gem(parameter)
    assert type(y) is torch.Tensor
    y.sum().backward()
    assert parameter.grad is not None
    assert torch.isfinite(parameter.grad).all()
    buffer = torch.nn.Buffer(parameter.detach())
    assert torch.equal(gem(buffer), y.detach())


def test_a_nested_tensor_keeps_its_parts():
    parts = [torch.randn(2, 3), torch.randn(4, 3)]
    nested = torch.nested.nested_tensor(parts, layout=torch.jagged)
    for got, part in zip(GEM(2)(nested).unbind(), parts, strict=True):
        assert torch.equal(got, gem(part, n=2))


def test_an_input_is_not_changed():
    x = torch.randn(100)
    before = x.clone()
    gem(x)
    assert torch.equal(x, before)
    assert x._version == 0


def _dense(x: torch.Tensor) -> bool:
    """Return whether every place of the storage span belongs to one element, so that strides can be rebuilt."""
    return torch.empty_like(x).stride() == x.stride()

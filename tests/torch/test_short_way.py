"""The short ways to the kernels, in C and C++: they give the same bits as the long way, and decline what is special."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gem_activations import GemSpec
from gem_activations.errors import SpecError
from gem_activations.kernels.cpu import OPERATIONS, spec_handle
from gem_activations.torch import SEGEM, activate_scaled, autograd, functional, gem, scale, segem
from gem_activations.torch.backends import IN_PLACE, PLAINLY, load_cpu, load_nodes

from .known_warnings import tracing

SPEC = GemSpec(2, 0.5, 0.01)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


NODES = (autograd.DirectActivation, autograd.DirectGradient, scale.DirectScaled)


@pytest.fixture(params=["C", "C++"])
def kernels(request, monkeypatch):
    """Return the C library's backend while calls go to it by module.c, or by nodes.cpp."""
    kernels = load_cpu()
    if kernels is None:
        pytest.skip("the C kernels are not built")
    if kernels.module is None:
        pytest.skip("the C kernels were built without Python's headers, or for a Python without a stable ABI")
    if request.param == "C":
        monkeypatch.setattr(autograd, "load_nodes", lambda: (None, ""))
    elif load_nodes()[0] is None:
        pytest.skip(f"the nodes of autograd in C++: {load_nodes()[1]}")
    autograd.short_way.cache_clear()
    yield kernels
    autograd.short_way.cache_clear()
    for node in NODES:
        for owner, name in ((node, "forward"), (node._backward_cls, "apply")):
            if name in vars(owner):
                delattr(owner, name)


@pytest.fixture
def serves_all(request):
    """Return whether the short way has no need to decline what is copied on writing."""
    return request.node.callspec.params["kernels"] == "C++"


def compute(kernels, how, *tensors, name="forward", spec=SPEC):
    return kernels.compute(OPERATIONS[name].code, spec_handle(spec).address, how, *tensors)


def activate(kernels, x, log_scale=None):
    """Do what functions and modules do first."""
    if log_scale is None:
        return autograd.short_way()(autograd.DirectActivation.attach, autograd.choices(SPEC)["auto"], x)
    choices = scale._choices(SPEC.n, SPEC.leak, kernels)
    return autograd.short_way()(scale.DirectScaled.attach, choices, x, log_scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (2, 1, 5), (70_000,)], ids=str)
def test_every_operation_has_the_bits_of_the_long_way(kernels, name, dtype, shape, monkeypatch):
    torch.manual_seed(0)
    inputs = [torch.randn(shape).to(dtype) for _ in range(OPERATIONS[name].inputs)]
    short = compute(kernels, PLAINLY, *inputs, name=name)
    monkeypatch.setattr(kernels, "compute", lambda *_: None)
    long = kernels._run(OPERATIONS[name], SPEC, *inputs)
    short, long = ((result,) if isinstance(result, torch.Tensor) else result for result in (short, long))
    assert len(short) == len(long) == OPERATIONS[name].outputs
    for got, want in zip(short, long, strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_all_is_right_without_the_short_way(kernels, monkeypatch):
    x = torch.linspace(-2, 3, 24, requires_grad=True)
    log_scale = torch.tensor([-0.5], requires_grad=True)

    def everything():
        found = []
        for y in (segem(x, n=2, eps=0.5), activate_scaled(x, log_scale, 2, 0.01)):
            (grad,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
            found += [y, grad, *torch.autograd.grad(grad.square().sum(), x, retain_graph=True)]
        return [*found, *torch.autograd.grad((y * y).sum(), log_scale)]

    want = everything()
    monkeypatch.setattr(kernels, "compute", lambda *_: None)
    for module in (functional, scale):
        monkeypatch.setattr(module, "short_way", lambda: None)
    for node in NODES:
        monkeypatch.delattr(node, "forward", raising=False)
        monkeypatch.delattr(node._backward_cls, "apply", raising=False)
    for got, expected in zip(everything(), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


SPECIAL = {
    "transposed": lambda: torch.randn(3, 3).t(),
    "expanded": lambda: torch.randn(1).expand(3),
    "integer": lambda: torch.ones(3, dtype=torch.int32),
    "complex": lambda: torch.ones(3, dtype=torch.complex64),
    "eight bits": lambda: torch.ones(3).to(torch.float8_e5m2),
    "zeros that are not stored": lambda: torch._efficientzerotensor(3),
    "sparse": lambda: torch.ones(3).to_sparse(),
    "without data": lambda: torch.ones(3, device="meta"),
    "negated by a view": lambda: torch._neg_view(torch.ones(3)),
    "copied on writing": lambda: torch._lazy_clone(torch.ones(3)),
    "no tensor": lambda: [1.0],
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_tensors_are_declined(kernels, kind, serves_all):
    special, one = SPECIAL[kind](), torch.zeros(1)
    assert compute(kernels, PLAINLY, special) is None
    if kind == "copied on writing" and serves_all:
        for y in (activate(kernels, special), activate(kernels, special, one)):
            assert y is not None
        assert torch._C._is_cow_tensor(special)
        return
    assert activate(kernels, special) is None
    assert activate(kernels, special, one) is None
    if kind != "copied on writing":  # So few numbers may be copied.
        assert activate(kernels, torch.ones(2, 3), special) is None


def test_inputs_that_differ_are_declined(kernels):
    x = torch.ones(3)
    for other in (torch.ones(2), torch.ones(3, 1), torch.ones(3).double(), torch.ones(6)[::2]):
        assert compute(kernels, PLAINLY, x, other, name="backward") is None
        assert compute(kernels, PLAINLY, other, x, name="backward") is None


@pytest.mark.parametrize("by", ["x", "scale", "both"])
def test_autograd_is_seen(kernels, by):
    x, log_scale = torch.ones(3, requires_grad=by != "scale"), torch.zeros(1, requires_grad=by != "x")
    y = activate(kernels, x, log_scale)
    assert "Scaled" in y.grad_fn.name()
    y.sum().backward()
    with torch.no_grad():
        assert activate(kernels, x, log_scale).grad_fn is None
        for leaf, want in zip((x, log_scale), kernels.scaled_backward(torch.ones(3), x, log_scale, SPEC), strict=True):
            assert not leaf.requires_grad or torch.equal(leaf.grad, want)
    if by == "x":
        assert "Activation" in activate(kernels, x).grad_fn.name()
        with torch.no_grad():
            assert activate(kernels, x).grad_fn is None
    assert activate(kernels, torch.nn.Parameter(torch.ones(3))) is None


def test_in_place_the_input_is_the_output(kernels):
    x = torch.full((3,), 2.0)
    assert compute(kernels, IN_PLACE, x, spec=GemSpec()) is x
    assert x.tolist() == [1.600000023841858] * 3


def test_a_wrong_number_of_inputs_is_an_error(kernels):
    for arguments in ((), (0, 0, 0), (0, 0, 0, torch.ones(1), torch.ones(1)), (99, 0, 0, torch.ones(1))):
        with pytest.raises(TypeError, match="expected an operation"):
            kernels.compute(*arguments)


def test_a_spec_that_the_library_refuses_is_declined(kernels):
    assert kernels.compute(OPERATIONS["forward"].code, 0, PLAINLY, torch.ones(1)) is None


def test_no_reference_is_kept(kernels):
    x = torch.ones(3)
    before = sys.getrefcount(x)
    for how, name, count in ((PLAINLY, "forward", 1), (IN_PLACE, "forward", 1), (PLAINLY, "third", 5)):
        for _ in range(50):
            compute(kernels, how, *[x] * count, name=name)
    compute(kernels, PLAINLY, x, x.double(), name="backward")
    activate(kernels, x)
    activate(kernels, x, x)
    assert sys.getrefcount(x) == before


ROUTES = {
    "input": lambda x: segem(x, save="input"),
    "output": lambda x: segem(x, save="output"),
    "scaled": SEGEM(trainable=True),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.usefixtures("kernels")
def test_nodes_let_go_of_what_they_keep(route):
    import gc
    import weakref

    held = []
    grad = torch.ones(3)
    before = sys.getrefcount(grad), sys.getrefcount(None)
    gc.disable()  # No cycle is left to it.
    try:
        for _ in range(50):
            x = torch.ones(3, requires_grad=True)
            y = ROUTES[route](x)
            (slope,) = torch.autograd.grad(y, x, grad, create_graph=True)
            (second,) = torch.autograd.grad(slope.sum(), x)
            held += [weakref.ref(tensor) for tensor in (x, y, slope, second)]
            del x, y, slope, second
    finally:
        gc.enable()
    assert not any(ref() is not None for ref in held)
    assert sys.getrefcount(grad) == before[0]
    assert abs(sys.getrefcount(None) - before[1]) < 20


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.usefixtures("kernels")
def test_a_node_asks_once_for_what_was_kept(route):
    asked = []

    def unpack(tensor):
        asked.append(1)
        return tensor.double()  # Which the kernel declines.

    x = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        y = ROUTES[route](x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert len(asked) == 1 + (route == "scaled")
    torch.testing.assert_close(grad, torch.autograd.grad(segem(x).sum(), x)[0])


@pytest.mark.usefixtures("kernels")
def test_a_graph_is_used_once():
    x = torch.ones(3, requires_grad=True)
    y = gem(x)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()
    y = ROUTES["scaled"](x)
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()
    y = gem(x, save="output")
    with torch.no_grad():
        y.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@tracing
@pytest.mark.usefixtures("kernels")
def test_modes_and_tracers_see_what_is_computed():
    seen = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    class Operators(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    x = torch.tensor([-1.0, 2.0])
    for mode in (Functions(), Operators()):
        seen.clear()
        with mode:
            y = gem(x)
        assert len(seen) > 0
        torch.testing.assert_close(y, gem(x))
    for traced in (make_fx(lambda x: gem(x))(x), torch.jit.trace(lambda x: gem(x), (x,))):
        torch.testing.assert_close(traced(x + 1), gem(x + 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("spec", [GemSpec(), GemSpec(3, 1e-4), GemSpec(9, 3.0, 0.1)], ids=str)
def test_short_arrays_have_the_bits_of_long_ones(kernels, spec, dtype):
    """The library may compute them with other registers."""
    torch.manual_seed(0)
    x = (torch.randn(40_000) * torch.logspace(-30, 4, 40_000)).to(dtype)
    grad = torch.randn(40_000).to(dtype)
    log_scale = torch.zeros(1)
    passes = {
        "forward": (lambda x: kernels.forward(x, spec, False), (x,)),
        "backward": (lambda grad, x: kernels.backward(grad, x, spec, False), (grad, x)),
        "learnt forward": (lambda x: kernels.scaled_forward(x, log_scale, spec), (x,)),
        "learnt backward": (lambda grad, x: kernels.scaled_backward(grad, x, log_scale, spec)[0], (grad, x)),
    }
    for function, inputs in passes.values():
        parts = [function(*part) for part in zip(*(t.split(999) for t in inputs), strict=True)]
        torch.testing.assert_close(torch.cat(parts), function(*inputs), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.usefixtures("kernels")
def test_what_python_raises_in_a_backward_pass_comes_through(route):
    def unpack(_):
        raise ArithmeticError("no more")

    x = torch.ones(3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        y = ROUTES[route](x)
    with pytest.raises(ArithmeticError, match="no more"):
        y.sum().backward()


@pytest.mark.usefixtures("kernels")
def test_a_scale_out_of_range_is_an_error_in_the_backward_pass_too():
    x, log_scale = torch.ones(3, requires_grad=True), torch.zeros(1, requires_grad=True)
    y = activate_scaled(x, log_scale, 1)
    log_scale.data.fill_(1e4)
    with pytest.raises(SpecError, match="has left the range"):
        y.backward(torch.ones(3))


@pytest.mark.usefixtures("kernels")
def test_several_threads_use_one_graph():
    x = torch.linspace(-2, 3, 10_000, requires_grad=True)
    y, grad = gem(x, 2), torch.ones(10_000)
    want = torch.autograd.grad(y, x, grad, retain_graph=True)[0]
    found = []

    def differentiate():
        for _ in range(20):
            # Expanded, and so given to Python, in one of two.
            found.append(torch.autograd.grad(y, x, grad, retain_graph=True)[0])
            found.append(torch.autograd.grad(y, x, torch.ones(1).expand(10_000), retain_graph=True)[0])

    threads = [threading.Thread(target=differentiate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160
    assert all(torch.equal(each, want) for each in found)


@pytest.mark.skipif(load_nodes()[0] is None, reason=f"the nodes of autograd in C++: {load_nodes()[1]}")
def test_compiled_autograd_is_told_what_to_do():
    x = torch.ones(3, requires_grad=True)
    y = gem(x)
    with (
        torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")),
        pytest.raises(NotImplementedError, match="compile the model as well"),
    ):
        y.sum().backward()


def test_a_node_outlives_modules_that_are_loaded_anew():
    code = """
import gc, importlib, torch
from gem_activations.torch import autograd, functional, gem, modules, scale
x = torch.ones(4, requires_grad=True)
y = gem(x, save="input")
for module in (autograd, functional, scale, modules):
    importlib.reload(module)
del module
gc.collect()
y.backward(torch.ones(1).expand(4))  # Which Python computes.
print(x.grad.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1.0, 1.0, 1.0, 1.0]"


@pytest.mark.usefixtures("kernels")
def test_no_channels_need_no_scale():
    assert activate_scaled(torch.ones(3, 0), torch.zeros(0), 1).shape == (3, 0)


def test_nodes_of_another_build_are_refused(monkeypatch):
    for attributes, reason in (
        ({"torch_version": "1.0"}, "built for PyTorch 1.0"),
        ({"torch_version": torch.__version__, "kernel_interface": 0}, "built for version 0 of the kernel interface"),
    ):
        monkeypatch.setitem(sys.modules, "gem_activations.torch.nodes", SimpleNamespace(**attributes))
        assert load_nodes.__wrapped__() == (None, reason)


@pytest.mark.usefixtures("kernels")
def test_a_learnt_scale_adds_no_dimension_to_a_number():
    x, log_scale = torch.tensor(1.5, requires_grad=True), torch.tensor([-0.5], requires_grad=True)
    y = activate_scaled(x, log_scale, 1)
    (slope,) = torch.autograd.grad(y, x, create_graph=True)  # In torch operations, as what follows.
    plain = activate_scaled(x, log_scale, 1, backend="plain")
    assert y.shape == slope.shape == plain.shape == ()
    torch.testing.assert_close(y, plain)
    assert torch.func.vmap(lambda x: activate_scaled(x, log_scale, 1))(torch.ones(3)).shape == (3,)

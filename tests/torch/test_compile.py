"""torch.compile and torch.export: one graph, new shapes, forward and backward, the values of eager mode."""

import io
import os
import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from gem_activations import GemSpec
from gem_activations.torch import EGEM, GEM, SEGEM, activate, egem, gem, gem_glu, segem

from ..forked import Forked
from ..tolerances import GRADIENT_FLOOR, SAME_MATHEMATICS, traced_gradient_ulps, value_ulps
from ..ulps import smallest_normal, ulps_apart
from .known_warnings import compiling, forward_mode

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler"
)
FLOOR = GRADIENT_FLOOR * smallest_normal("float32")


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def compiled(function, backend="aot_eager", **options):
    return torch.compile(function, fullgraph=True, backend=backend, **options)


@compiling
@needs_compiler
def test_machine_code_for_new_shapes_has_the_values_and_gradients_of_the_oracle():
    specs = [GemSpec(), GemSpec(2, 1e-4, 0.01)]

    def both(x, z):
        return activate(x, specs[0]), activate(z, specs[1])

    counter = CompileCounterWithBackend("inductor")
    function = torch.compile(both, fullgraph=True, dynamic=True, backend=counter)
    counts = []
    for shape in [(40, 25), (7, 11), (3, 500)]:
        inputs = [(3 * torch.randn(shape)).requires_grad_() for _ in specs]
        values = function(*inputs)
        slopes = torch.autograd.grad(values, inputs, [torch.ones(shape)] * 2)
        counts.append(counter.frame_count)
        for x, y, slope, spec in zip(inputs, values, slopes, specs, strict=True):
            assert ulps_apart(y.detach(), spec(x.detach()), "float32").max() <= value_ulps(spec.n)
            error = ulps_apart(slope, spec.derivative(x.detach()), "float32", FLOOR)
            assert error.max() <= traced_gradient_ulps(spec.n)
    assert counts == counts[:1] * 3  # New shapes need no new graph.


@compiling
@needs_compiler
def test_machine_code_in_bfloat16_with_specials():
    x = torch.tensor([-torch.inf, -1.0, -0.0, 0.0, 1e-30, 0.5, 3.0, 1e30, torch.inf, torch.nan]).bfloat16()
    got = compiled(SEGEM(2), "inductor")(x)
    assert got.dtype == torch.bfloat16
    assert ulps_apart(got.float(), GemSpec(2, 1e-4, 0.01)(x.double()), "bfloat16").max() <= 1


@pytest.mark.parametrize(
    ("function", "dynamic"),
    [
        (lambda x: gem(x), None),
        (lambda x: egem(x, n=2), None),
        (lambda x: segem(x), True),
        (GEM(3), None),
        (EGEM(), None),
        (SEGEM(2, 0.1), True),
    ],
    ids=["gem", "egem(n=2)", "segem-dynamic", "GEM(3)", "EGEM", "SEGEM-dynamic"],
)
def test_every_function_and_module_is_one_graph(function, dynamic):
    graph = compiled(function, dynamic=dynamic)
    for shape in [(5, 7), (6, 2, 3)]:
        x = torch.randn(shape, requires_grad=True)
        y, want = graph(x), function(x)
        torch.testing.assert_close(y, want, rtol=1e-6, atol=1e-38)
        arriving = torch.randn(shape)
        got_slope, want_slope = (torch.autograd.grad(result, x, arriving)[0] for result in (y, want))
        torch.testing.assert_close(got_slope, want_slope, rtol=4e-6, atol=1e-6)


@pytest.mark.parametrize("dynamic", [None, True])
def test_parameters_that_change_between_calls(dynamic):
    graph = compiled(lambda x, n, eps, leak: segem(x, n=n, eps=eps, leak=leak), dynamic=dynamic)
    x = torch.randn(50, dtype=torch.float64)
    for n, eps, leak in [(1, 1e-4, 0.01), (2, 1e-3, 0.02), (5, 10.0, 0.3)]:
        torch.testing.assert_close(graph(x, n, eps, leak), segem(x, n=n, eps=eps, leak=leak), **SAME_MATHEMATICS)


def test_one_compiled_function_serves_modules_with_other_parameters():
    graph = compiled(lambda module, x: module(x))
    x = torch.randn(50, dtype=torch.float64)
    for module in (GEM(), GEM(2), EGEM(2, 0.1), SEGEM(1, 0.5)):
        torch.testing.assert_close(graph(module, x), module(x), **SAME_MATHEMATICS)


def test_in_place_modules_and_the_gated_unit_are_one_graph():
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    module = SEGEM(2, inplace=True)
    for function in (lambda x: module(x * 2), lambda x: gem_glu(x, x * 3, n=2)):
        got, want = compiled(function)(x), function(x)
        torch.testing.assert_close(got, want, **SAME_MATHEMATICS)
        slopes = [torch.autograd.grad(y.sum(), x)[0] for y in (got, want)]
        torch.testing.assert_close(*slopes, **SAME_MATHEMATICS)


def test_memory_format_under_the_compiler():
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    y = compiled(GEM(2))(x)
    assert y.stride() == x.stride()
    (slope,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert slope.stride() == x.stride()


def test_training_steps_compiled_and_not_give_the_same_weights():
    weights = []
    for wrap in (lambda model: model, compiled):
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(5, 8), EGEM(2, 0.1), torch.nn.Linear(8, 1)).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(16, 5, dtype=torch.float64)
        step = wrap(model)
        for _ in range(3):
            optimizer.zero_grad()
            step(x).square().mean().backward()
            optimizer.step()
        weights.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach())
    torch.testing.assert_close(*weights, **SAME_MATHEMATICS)


@pytest.mark.parametrize("module", [GEM(2), EGEM(), SEGEM(3, inplace=True)], ids=str)
def test_export_with_a_free_batch_dimension(module):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), module).double()
    batch = torch.export.Dim("batch")
    example = torch.randn(2, 3, dtype=torch.float64)
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    fresh = torch.randn(9, 3, dtype=torch.float64)
    torch.testing.assert_close(program.module()(fresh), model(fresh), **SAME_MATHEMATICS)
    assert not program.constants


def test_an_exported_program_survives_saving():
    program = torch.export.export(SEGEM(2), (torch.randn(4),))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    fresh = torch.randn(4)
    loaded = torch.export.load(buffer).module()
    assert torch.equal(loaded(fresh), program.module()(fresh))
    torch.testing.assert_close(loaded(fresh), SEGEM(2)(fresh), rtol=0, atol=1e-6)


def test_an_exported_program_can_be_trained():
    program = torch.export.export(EGEM(2, 0.1), (torch.randn(4, dtype=torch.float64),))
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(program.module()(x).sum(), x)
    torch.testing.assert_close(slope, torch.from_numpy(GemSpec(2, 0.1).derivative(x.detach())), **SAME_MATHEMATICS)


def test_a_compiled_function_is_differentiated_once_and_its_inside_twice():
    """As docs/kernels.md says; once PyTorch allows the first, that page and the benchmark can be simpler."""
    x, weight = torch.randn(64, dtype=torch.float64), torch.tensor(1.5, dtype=torch.float64, requires_grad=True)

    def slope_by_autograd(function):
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(function(leaf, weight).sum(), leaf, create_graph=True)[0]

    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        slope_by_autograd(compiled(lambda x, weight: gem(x * weight))).square().sum().backward()

    def penalty(x, weight):
        value, pull, *_ = torch.func.vjp(lambda x: gem(x * weight), x)
        return pull(torch.ones_like(value))[0].square().sum()

    want = slope_by_autograd(lambda x, weight: gem(x * weight)).square().sum()
    got = compiled(penalty)(x, weight)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad(got, weight), torch.autograd.grad(want, weight))


@needs_compiler
@pytest.mark.parametrize("make", [EGEM, lambda: GEM(n=2), SEGEM])
def test_a_compiled_step_that_differentiates_twice_is_the_eager_one(make):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), make(), torch.nn.Linear(8, 8), make(), torch.nn.Linear(8, 1))
    x = torch.rand(16, 3) * 2 - 1

    def loss(model, x):
        value, pull, *_ = torch.func.vjp(model, x)
        return (pull(torch.ones_like(value))[0].norm(dim=1) - 1).square().mean() + value.square().mean()

    expected = torch.autograd.grad(loss(model, x), list(model.parameters()))
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True)(model, x), list(model.parameters()))
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@forward_mode
@pytest.mark.parametrize("function", [gem, lambda x: gem(x, n=2), segem], ids=["gem", "gem(n=2)", "segem"])
def test_second_derivatives_in_compiled_code_by_every_route_but_vmap_of_hessian(function):
    """As docs/kernels.md says."""
    x = torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(4, 3)
    func = torch.func
    slope = func.grad(lambda point: function(point).sum())
    routes = [
        lambda x: func.hessian(lambda point: function(point).sum())(x[0]),
        lambda x: func.vmap(func.jacrev(slope))(x),
        lambda x: func.jvp(slope, (x,), (torch.ones_like(x),))[1],
        lambda x: func.vmap(lambda point: func.jvp(slope, (point,), (torch.ones_like(point),))[1])(x),
    ]
    for route in routes:
        torch.testing.assert_close(compiled(route)(x), route(x), **SAME_MATHEMATICS)


REFUSED = """
import sys, torch
from gem_activations.torch import gem
function = {"silu": torch.nn.functional.silu, "gem": gem}[sys.argv[1]]
hessian = torch.func.hessian(lambda point: function(point @ (torch.eye(3) + 1)).sum())
try:
    torch.compile(torch.func.vmap(hessian), fullgraph=True, backend="aot_eager")(torch.ones(4, 3))
except torch._dynamo.exc.TorchRuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["silu", "gem"])
def test_compiled_vmap_of_hessian_is_refused_by_torch_for_every_activation(name):
    """If it is not any more, docs/kernels.md says too little."""
    # In a process of its own: torch leaves suspended frames, which switch gradients off when they are collected.
    output, errors = Forked(REFUSED, name).communicate()
    assert "fake tensor" in output, errors

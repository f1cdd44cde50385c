"""torch.func, forward mode, tracers, autocast, meta and fake tensors, copies: values and gradients as in eager mode."""

import copy
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from gem_activations import GemError, GemSpec
from gem_activations.torch import EGEM, GEM, SEGEM, activate, egem, gem, gem_glu, segem

from ..tolerances import HIGHER_DERIVATIVE, SAME_MATHEMATICS, value_ulps
from ..ulps import ulps_apart
from .known_warnings import forward_mode, tracing

SPECS = [GemSpec(), GemSpec(2, 1e-4), GemSpec(3, 10.0, 0.01)]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=str)
MODULES = [GEM(), GEM(2), EGEM(3, 1e-2), SEGEM()]
every_module = pytest.mark.parametrize("module", MODULES, ids=str)


def points(spec: GemSpec) -> torch.Tensor:
    return torch.cat([torch.linspace(-2, 3, 23, dtype=torch.float64) * spec.scale, torch.zeros(1).double()])


def assert_close(got: torch.Tensor, want) -> None:
    np.testing.assert_allclose(got.detach(), np.asarray(want), **SAME_MATHEMATICS)


@every_spec
def test_grad_vjp_and_vmap_of_grad(spec):
    x = points(spec)
    assert_close(torch.func.grad(lambda x: activate(x, spec).sum())(x), spec.derivative(x))
    assert_close(torch.func.vmap(torch.func.grad(lambda x: activate(x, spec)))(x), spec.derivative(x))
    value, pull, *_ = torch.func.vjp(lambda x: activate(x, spec), x)
    assert_close(value, spec(x))
    assert_close(pull(2 * torch.ones_like(x))[0], 2 * spec.derivative(x))


@forward_mode
@every_spec
def test_jvp_jacobians_and_hessian(spec):
    x = points(spec)
    value, tangent, *_ = torch.func.jvp(lambda x: activate(x, spec), (x,), (torch.full_like(x, 3.0),))
    assert_close(value, spec(x))
    assert_close(tangent, 3 * spec.derivative(x))
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        assert_close(jacobian(lambda x: activate(x, spec))(x), np.diag(spec.derivative(x)))
    hessian = torch.func.hessian(lambda x: activate(x, spec).sum())(x)
    want = np.diag(spec.second_derivative(x))
    np.testing.assert_allclose(hessian, want, rtol=0, atol=HIGHER_DERIVATIVE * np.abs(want).max())


@every_spec
def test_vmap_over_any_dimension(spec):
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    for dimension in (0, 1, 2):
        got = torch.func.vmap(lambda x: activate(x, spec), in_dims=dimension, out_dims=dimension)(x)
        assert_close(got, spec(x))


def test_per_sample_gradients_of_a_model():
    weight = torch.randn(3, 4, dtype=torch.float64)
    x = torch.randn(6, 3, dtype=torch.float64)

    def loss(weight, sample):
        return segem(sample @ weight, n=2, eps=0.1).square().sum()

    rows = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weight, x)
    for row, sample in zip(rows, x, strict=True):
        parameter = weight.clone().requires_grad_()
        (want,) = torch.autograd.grad(loss(parameter, sample), parameter)
        assert_close(row, want)


def test_functionalize_and_inplace():
    x = torch.randn(9)
    got = torch.func.functionalize(lambda x: gem(x * 1, inplace=True))(x)
    torch.testing.assert_close(got, gem(x), rtol=1e-6, atol=0)


@every_spec
def test_functional_jacobians_over_an_eager_graph(spec):
    x = points(spec)
    got = torch.autograd.functional.jacobian(lambda x: activate(x, spec), x, vectorize=True)
    assert_close(got, np.diag(spec.derivative(x)))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx_records_operations_on_the_input(mode):
    traced = make_fx(lambda x: segem(x, n=2, eps=0.1), tracing_mode=mode)(torch.randn(7))
    fresh = torch.randn(7)
    assert ulps_apart(traced(fresh), GemSpec(2, 0.1, 0.01)(fresh), "float32").max() <= value_ulps(2)
    assert not [node for node in traced.graph.nodes if node.op == "get_attr"]  # No tensor is baked in.


def test_make_fx_records_the_backward_pass():
    spec = GemSpec(2)

    def slope(x):
        return torch.autograd.grad(activate(x, spec).sum(), x)[0]

    traced = make_fx(slope)(torch.randn(9, dtype=torch.float64, requires_grad=True))
    fresh = torch.randn(9, dtype=torch.float64)
    assert_close(traced(fresh), spec.derivative(fresh))


@tracing
@every_module
def test_jit_trace_records_operations_on_the_input(module):
    traced: Any = torch.jit.trace(module, (torch.randn(3, 5),))
    fresh = torch.randn(4, 6)
    assert ulps_apart(traced(fresh).detach(), module.spec(fresh), "float32").max() <= value_ulps(module.spec.n)


@every_module
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_meta_tensors(module, dtype):
    x = torch.empty(2, 3, 4, 5, dtype=dtype, device="meta").to(memory_format=torch.channels_last)
    y = module(x)
    assert (y.device.type, y.dtype, y.shape, y.stride()) == ("meta", dtype, x.shape, x.stride())


@every_module
def test_fake_tensors_forward_and_backward(module):
    with FakeTensorMode():
        x = torch.empty(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
        y = module(x)
        y.sum().backward()
    assert isinstance(y, FakeTensor)
    assert (y.dtype, y.shape, y.stride()) == (x.dtype, x.shape, x.stride())
    assert x.grad is not None
    assert x.grad.stride() == x.stride()


def test_a_fake_tensor_outside_its_mode_is_still_fake():
    x = FakeTensorMode().from_tensor(torch.randn(5))
    assert isinstance(gem(x), FakeTensor)
    assert isinstance(gem(x, inplace=True), FakeTensor)


def test_a_kernel_forced_onto_a_traced_tensor_is_a_clear_error():
    with pytest.raises(GemError, match="traced, transformed or fake"):
        gem(torch.empty(2, device="meta"), backend="cpu")


def test_autocast_follows_the_layer_before():
    linear = torch.nn.Linear(8, 16)
    x = torch.randn(4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = linear(x)
        y = egem(hidden, n=2, eps=0.1)
        assert hidden.dtype == y.dtype == torch.bfloat16
        assert egem(x).dtype == torch.float32
        y.float().sum().backward()
    assert torch.equal(y, egem(hidden.detach(), n=2, eps=0.1))
    leaf = hidden.detach().requires_grad_()
    (slope,) = torch.autograd.grad(egem(leaf, n=2, eps=0.1), leaf, torch.ones_like(leaf))
    torch.testing.assert_close(linear.bias.grad, slope.float().sum(0), rtol=2**-7, atol=2**-7)


def test_autocast_does_not_change_the_function_itself():
    x = torch.linspace(-3, 3, 500)
    want = gem(x, n=3)
    traced = make_fx(lambda x: gem(x, n=3))(x)
    want_traced = traced(x)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            assert torch.equal(gem(x, n=3), want)
            assert torch.equal(traced(x), want_traced)


@every_module
def test_copies_pickles_and_an_empty_state(module):
    x = torch.randn(20)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    twins = [
        copy.copy(module),
        copy.deepcopy(module),
        pickle.loads(pickle.dumps(module)),
        torch.load(buffer, weights_only=False),  # Our own module, saved a line above.
    ]
    for twin in twins:
        assert repr(twin) == repr(module)
        assert twin.spec == module.spec
        assert torch.equal(twin(x), module(x))
    assert dict(module.state_dict()) == {}
    assert list(module.parameters()) + list(module.buffers()) == []
    assert module.load_state_dict({}).missing_keys == []


@every_module
def test_a_module_in_a_model_moves_to_any_dtype_and_keeps_its_exact_parameters(module):
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), copy.deepcopy(module)).to(torch.bfloat16)
    assert model[1].spec == module.spec
    assert model(torch.randn(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert list(model.state_dict()) == ["0.weight", "0.bias"]


@every_spec
def test_float32_values_under_a_tracer_meet_the_bound_of_eager_mode(spec):
    x = torch.linspace(-3, 6, 5001) * spec.scale
    got = make_fx(lambda x: activate(x, spec))(x)(x)
    assert ulps_apart(got, spec(x), "float32").max() <= value_ulps(spec.n)


PULLED = {
    "gem": lambda x: gem(x, n=2),
    "egem from the output": lambda x: egem(x, eps=0.5, save="output"),
    "segem": lambda x: segem(x, eps=0.5),
    "gem_glu": lambda x: gem_glu(x, 1 - x, n=2),
    "softplus": torch.nn.functional.softplus,  # The control.
}


@pytest.mark.parametrize("name", PULLED)
@pytest.mark.parametrize("depth", [1, 2])
def test_a_pullback_called_outside_of_vjp_leads_to_what_is_differentiated_there(name, depth):
    """By then the level has ended at which the tensors that were kept are wrapped."""
    x = torch.randn(8, dtype=torch.float64)

    def pulled(function, x, depth):
        value, pull, *_ = torch.func.vjp(lambda x: pulled(function, x, depth - 1) if depth > 1 else function(x), x)
        return pull(torch.ones_like(value))[0]

    def loss(weight):
        return pulled(lambda x: PULLED[name](x * weight), x, depth).square().sum()

    weight = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, weight)
    with torch.no_grad():
        torch.testing.assert_close(loss(weight), loss(weight.detach()))


@forward_mode
@pytest.mark.parametrize("orders", ["fff", "frf", "rff", "ffr", "rfr"])
def test_third_derivatives_in_any_order_of_modes(orders):
    """Every function has a rule for tangents, and every rule is differentiated by both modes."""
    x = torch.linspace(-1, 2, 5, dtype=torch.float64)
    modes = {"f": torch.func.jacfwd, "r": torch.func.jacrev}
    for spec in (GemSpec(2, 0.5), GemSpec(2, 0.5, 0.1)):
        third = lambda x, spec=spec: activate(x, spec)  # noqa: E731 -- wrapped again and again
        for mode in orders:
            third = modes[mode](third)
        leaf = x.clone().requires_grad_()
        want = activate(leaf, spec)
        for _ in range(3):
            (want,) = torch.autograd.grad(want.sum(), leaf, create_graph=True)
        torch.testing.assert_close(torch.func.vmap(third)(x), want.detach(), rtol=1e-9, atol=1e-9)


@forward_mode
@pytest.mark.parametrize("dimensions", [(0, 0), (1, 1), (0, 1), (None, 0), (1, None)])
def test_batches_along_any_dimension_of_either_input(dimensions):
    x, gate = (torch.randn((4, 4) if d is not None else 4, dtype=torch.float64) for d in dimensions)

    def slopes(x, gate):
        return torch.func.jacfwd(torch.func.grad(lambda x, gate: gem_glu(x, gate, n=2).sum(), (0, 1)), (0, 1))(x, gate)

    got = torch.func.vmap(slopes, in_dims=dimensions)(x, gate)
    for k in range(4):
        row = [t if d is None else t.select(d, k) for t, d in zip((x, gate), dimensions, strict=True)]
        torch.testing.assert_close([[one[k] for one in pair] for pair in got], [list(pair) for pair in slopes(*row)])


def test_a_function_of_ones_own_with_a_rule_in_our_functions():
    """While the rule of an autograd function runs, PyTorch has forward mode switched off."""

    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_forward(x)
            return 2 * x

        @staticmethod
        def jvp(ctx, tangent):
            (x,) = ctx.saved_tensors
            return 2 * tangent + 0 * egem(x)

    x = torch.randn(3, dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        _, tangent = torch.autograd.forward_ad.unpack_dual(Doubled.apply(dual))
    assert torch.equal(tangent, 2 * torch.ones_like(x))

"""Derivatives of every order and mode, in float64: against finite differences and against mpmath."""

import mpmath
import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch.utils.checkpoint import checkpoint

from gem_activations import GemSpec
from gem_activations.kernels import cpu
from gem_activations.torch import activate, formula, gem_glu

from ..tolerances import GRADCHECK, HIGHER_DERIVATIVE, SAME_MATHEMATICS
from .known_warnings import forward_mode
from .routes import Route, every_route

needs_cpu_kernels = pytest.mark.skipif(not cpu.status().available, reason=cpu.status().reason)

# Finite differences with step 1e-6 need a transition much wider than that at 0; narrow ones are checked off 0.
WIDE = [GemSpec(), GemSpec(2), GemSpec(3, 10.0), GemSpec(8), GemSpec(1, 1.0, 0.01), GemSpec(2, 10.0, 0.5)]
NARROW = [GemSpec(1, 1e-4), GemSpec(2, 1e-6), GemSpec(1, 1e-4, 0.01), GemSpec(8, 1e-12)]
ALL = [*WIDE, *NARROW]

wide_specs = pytest.mark.parametrize("spec", WIDE, ids=str)
all_specs = pytest.mark.parametrize("spec", ALL, ids=str)


def around_junction(spec: GemSpec) -> torch.Tensor:
    ratios = [-2.0, -0.3, 0.2, 0.5, 0.8, 1.0, 1.25, 2.0, 6.0]
    zero = [0.0] if spec in WIDE else []
    return torch.tensor([*zero, *(ratio * spec.scale for ratio in ratios)], dtype=torch.float64, requires_grad=True)


def derivative_from_mpmath(spec: GemSpec, x: torch.Tensor, order: int) -> np.ndarray:
    with mpmath.workdps(60):
        n, eps, leak = spec.n, mpmath.mpf(spec.eps), mpmath.mpf(spec.leak)

        def right(t):
            return t * (leak + (1 - leak) * t ** (2 * n) / (t ** (2 * n) + eps))

        return np.array([float(mpmath.diff(right if t > 0 else lambda t: leak * t, t, order)) for t in x.tolist()])


@forward_mode
@every_route
@all_specs
def test_gradcheck_in_backward_forward_and_batched_mode(route: Route, spec):
    x = around_junction(spec)
    modes = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(lambda x: route(x, spec), (x,), **modes, **GRADCHECK)


@forward_mode
@every_route
@wide_specs
def test_gradgradcheck_in_both_modes_over_reverse(route: Route, spec):
    x = around_junction(spec)
    modes = {"check_fwd_over_rev": True, "check_batched_grad": True}
    assert torch.autograd.gradgradcheck(lambda x: route(x, spec), (x,), **modes, **GRADCHECK)


@every_route
@all_specs
@pytest.mark.parametrize("order", [2, 3, 4])
def test_higher_derivatives_through_autograd_equal_mpmath(route: Route, spec, order):
    x = around_junction(spec).detach()
    x = x[x != 0].requires_grad_()  # The left and the right derivative of order 2n + 1 differ at 0.
    got = route(x, spec)
    for _ in range(order):
        (got,) = torch.autograd.grad(got.sum(), x, create_graph=True)
    want = derivative_from_mpmath(spec, x, order)
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=0, atol=HIGHER_DERIVATIVE * np.abs(want).max())


@every_route
def test_derivatives_at_zero_are_finite_at_every_order(route: Route):
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    for spec in (GemSpec(), GemSpec(2), GemSpec(1, 1e-4, 0.01)):
        got = route(x, spec)
        seen = []
        for _ in range(3):
            (got,) = torch.autograd.grad(got.sum(), x, create_graph=True)
            seen.append(got[0].item())
        assert seen[:2] == [spec.leak, 0.0]
        assert np.isfinite(seen).all()


@forward_mode
@every_route
@all_specs
def test_forward_mode_equals_the_derivative(route: Route, spec):
    x = around_junction(spec).detach()
    tangent = torch.linspace(-2, 3, x.numel(), dtype=torch.float64)
    with forward_ad.dual_level():
        value, got = forward_ad.unpack_dual(route(forward_ad.make_dual(x, tangent), spec))
    np.testing.assert_allclose(value, spec(x), **SAME_MATHEMATICS)
    assert got is not None
    np.testing.assert_allclose(got, tangent.numpy() * spec.derivative(x), **SAME_MATHEMATICS)


@forward_mode
@every_route
@all_specs
def test_forward_mode_over_a_plain_backward_pass(route: Route, spec):
    x = around_junction(spec).detach()
    direction = torch.linspace(1, 2, x.numel(), dtype=torch.float64)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.clone().requires_grad_(), direction)
        y = route(dual, spec)
        (gradient,) = torch.autograd.grad(y, dual, torch.ones_like(x))
        slope, bend = forward_ad.unpack_dual(gradient)
    np.testing.assert_allclose(slope, spec.derivative(x), **SAME_MATHEMATICS)
    assert bend is not None
    want = direction.numpy() * spec.second_derivative(x)
    np.testing.assert_allclose(bend, want, rtol=0, atol=HIGHER_DERIVATIVE * np.abs(want).max())


@every_route
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_second_backward_keeps_the_dtype_and_is_right(route: Route, dtype):
    spec = GemSpec(2)
    x = torch.linspace(-1, 3, 41).to(dtype).requires_grad_()
    (slope,) = torch.autograd.grad(route(x, spec), x, torch.ones_like(x), create_graph=True)
    (bend,) = torch.autograd.grad(slope, x, torch.ones_like(x))
    assert slope.dtype == bend.dtype == dtype
    # From an output of 8 bits, the root is a few units off, and f'' changes by its own size over a/4.
    bound = 16 * torch.finfo(dtype).eps * spec.sup_second_derivative
    np.testing.assert_allclose(bend.double().numpy(), spec.second_derivative(x.detach().double()), rtol=0, atol=bound)


@every_route
def test_gradient_is_linear_in_what_arrives_and_skips_what_needs_none(route: Route):
    spec = GemSpec(2, 1e-4, 0.01)
    x = torch.randn(64, dtype=torch.float64, requires_grad=True)
    arriving = torch.randn(64, dtype=torch.float64)
    (got,) = torch.autograd.grad(route(x, spec), x, arriving)
    np.testing.assert_allclose(got, arriving.numpy() * spec.derivative(x.detach()), **SAME_MATHEMATICS)
    assert not route(x.detach(), spec).requires_grad


@every_route
def test_what_is_kept_for_the_backward_pass(route: Route):
    kept = []
    x = torch.randn(8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.data_ptr()) or tensor, lambda t: t):
        y = route(x, GemSpec())
    assert kept == [y.data_ptr() if route.keeps_output else x.data_ptr()]


@every_route
def test_saved_tensors_may_be_replaced_by_hooks(route: Route):
    spec = GemSpec(2, 1e-4, 0.01)
    x = torch.randn(100, requires_grad=True)
    _, want = route.value_and_gradient(x, spec)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.numpy(force=True).copy(), torch.from_numpy):
        y = route(x, spec)
    (got,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(got, want)
    with torch.autograd.graph.save_on_cpu():
        y = route(x, spec)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], want)


@every_route
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(route: Route, use_reentrant):
    spec = GemSpec(1, 1e-4, 0.01)
    weight = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)

    def block(x):
        return route(x @ weight, spec) @ weight

    want = torch.autograd.grad(block(x).square().sum(), (x, weight))
    checkpointed = checkpoint(block, x, use_reentrant=use_reentrant).square().sum()
    # The reentrant mode supports backward() only.
    checkpointed.backward()
    for tensor, gradient in zip((x, weight), want, strict=True):
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad, gradient, **SAME_MATHEMATICS)


@every_route
def test_backward_twice_through_a_retained_graph(route: Route):
    x = torch.randn(10, requires_grad=True)
    y = route(x, GemSpec()).sum()
    (first,) = torch.autograd.grad(y, x, retain_graph=True)
    assert torch.equal(torch.autograd.grad(y, x)[0], first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(y, x)


@every_route
def test_vmap_over_backward_passes_of_an_eager_forward_pass(route: Route):
    spec = GemSpec(2)
    x = torch.linspace(-1, 2, 5, dtype=torch.float64, requires_grad=True)
    y = route(x, spec)
    (rows,) = torch.autograd.grad(y, x, torch.eye(5, dtype=torch.float64), is_grads_batched=True)
    np.testing.assert_allclose(rows, np.diag(spec.derivative(x.detach())), **SAME_MATHEMATICS)


@pytest.mark.parametrize("over", ["torch.func", "is_grads_batched"])
@every_route
def test_vmap_over_backward_passes_keeps_the_graph_for_a_second_one(route: Route, over: str):
    spec = GemSpec(2, 0.5, 0.01)
    x = torch.linspace(-1, 2, 6, dtype=torch.float64, requires_grad=True)
    y, unit = route(x, spec), torch.eye(6, dtype=torch.float64)
    product = gem_glu(x, x, n=2, eps=0.5, leak=0.01, backend=route.options["backend"])
    for output, want in (
        (y, spec.second_derivative(x.detach())),
        (product, 2 * spec.derivative(x.detach()) + x.detach().numpy() * spec.second_derivative(x.detach())),
    ):
        if over == "torch.func":
            rows = torch.func.vmap(lambda row, of=output: torch.autograd.grad(of, x, row, create_graph=True)[0])(unit)
        else:
            (rows,) = torch.autograd.grad(output, x, unit, is_grads_batched=True, create_graph=True)
        (bend,) = torch.autograd.grad(rows.sum(), x, retain_graph=True)
        np.testing.assert_allclose(bend, want, rtol=HIGHER_DERIVATIVE, atol=HIGHER_DERIVATIVE)


PASSES = {
    "second order": lambda y, x: torch.autograd.grad(torch.autograd.grad(y.sum(), x, create_graph=True)[0].sum(), x),
    "third order": lambda y, x: torch.autograd.grad(nth_gradient(y, x, 2).sum(), x),
    "fourth order": lambda y, x: torch.autograd.grad(nth_gradient(y, x, 3).sum(), x),
    "batch of gradients": lambda y, x: torch.autograd.grad(
        y, x, torch.eye(x.numel(), dtype=x.dtype), is_grads_batched=True, create_graph=True
    ),
    "batch by torch.func": lambda y, x: torch.func.vmap(lambda row: torch.autograd.grad(y, x, row, create_graph=True))(
        torch.eye(x.numel(), dtype=x.dtype)
    ),
}


def nth_gradient(y: torch.Tensor, x: torch.Tensor, order: int) -> torch.Tensor:
    for _ in range(order):
        (y,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return y


@needs_cpu_kernels
@forward_mode
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("spec", [GemSpec(), GemSpec(6, 0.5), GemSpec(2, 0.5, 0.01)], ids=str)
def test_no_pass_solves_for_the_input_by_whole_tensors(monkeypatch, spec, name):
    """The plain formula's inverse is a loop in float64 over whole tensors; with the kernels, nothing reaches it."""

    def refuse(*_arguments):
        raise AssertionError("the loop was reached")

    monkeypatch.setattr(formula, "inverse", refuse)
    x = torch.linspace(-1, 2, 9, requires_grad=True)
    results = PASSES[name](activate(x, spec, save="output"), x)
    assert all(result.dtype == torch.float32 and result.isfinite().all() for result in results)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach().requires_grad_(), torch.ones_like(x))
        (gradient,) = torch.autograd.grad(activate(dual, spec, save="output").sum(), dual)
        assert forward_ad.unpack_dual(gradient).tangent.dtype == torch.float32
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.double(), lambda tensor: tensor):
        y = activate(x, spec, save="output")
    assert torch.autograd.grad(y.sum(), x)[0].dtype == torch.float32


@every_route
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_order_keeps_the_dtype(route: Route, dtype, order):
    x = torch.linspace(-1, 3, 41).to(dtype).requires_grad_()
    got = nth_gradient(route(x, GemSpec(2)), x, order)
    assert got.dtype == dtype
    if dtype == torch.float16 and route.keeps_output and order == 4:
        return  # By an output near 0 the third derivative of f' leaves the range of float16.
    wide = x.detach().double().requires_grad_()
    want = nth_gradient(route(wide, GemSpec(2)), wide, order)
    # From an output of 8 bits, the root is a few units off.
    assert (got - want).abs().max() <= 24 * torch.finfo(dtype).eps * want.abs().max()


@every_route
def test_forward_mode_over_two_backward_passes(route: Route):
    """Curvature's own tangents: a Hessian-vector product of a gradient."""
    spec = GemSpec(2, 0.5, 0.01)
    x = torch.linspace(-1, 2, 7, dtype=torch.float64)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.clone().requires_grad_(), torch.full_like(x, 2.0))
        second = nth_gradient(route(dual, spec), dual, 2)
        value, tangent = forward_ad.unpack_dual(second)
    leaf = x.clone().requires_grad_()
    want = nth_gradient(route(leaf, spec), leaf, 3).detach()
    np.testing.assert_allclose(value.detach(), spec.second_derivative(x), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(tangent.detach(), 2 * want, rtol=1e-9, atol=1e-9)


@needs_cpu_kernels
@pytest.mark.parametrize("spec", [GemSpec(), GemSpec(1, 1e-4), GemSpec(2), GemSpec(1, 1e-4, 0.01)], ids=str)
def test_the_steps_of_second_order_keep_no_more_than_softplus(spec):
    """What the graph of an Eikonal loss keeps: every distinct storage but the weights'."""

    def kept_bytes(activation):
        torch.manual_seed(0)
        weights = [torch.randn(16, 16, requires_grad=True) for _ in range(3)]
        x = torch.randn(64, 16, requires_grad=True)
        kept = {}

        def note(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor  # Alive, so that no address is used twice.
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            hidden = x
            for weight in weights:
                hidden = activation(hidden @ weight)
            (slope,) = torch.autograd.grad(hidden.sum(), x, create_graph=True)
            loss = (slope.square().sum(1).sqrt() - 1).square().mean()
        loss.backward()
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    softplus = kept_bytes(lambda x: torch.nn.functional.softplus(x, beta=100))
    assert kept_bytes(lambda x: activate(x, spec)) <= softplus

"""inplace=True: the storage, autograd's book-keeping, and a gradient as exact as without."""

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as forward_ad

from gem_activations import GemError, GemSpec
from gem_activations.torch import EGEM, GEM, SEGEM, activate, gem

from ..tolerances import SAME_MATHEMATICS, value_ulps
from ..ulps import ulps_apart
from .known_warnings import forward_mode
from .routes import Route, every_route

SPECS = [GemSpec(), GemSpec(2, 1e-4), GemSpec(3, 1e-4, 0.01)]
every_spec = pytest.mark.parametrize("spec", SPECS, ids=str)


def overwrite(route: Route, x: torch.Tensor, spec: GemSpec) -> torch.Tensor:
    return activate(x, spec, inplace=True, **{**route.options, "save": "auto"})


@every_route
@every_spec
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_it_returns_its_argument_with_the_values_of_the_other_mode(route: Route, spec, dtype):
    x = torch.randn(1000).to(dtype)
    want = route(x, spec)
    version, pointer = x._version, x.data_ptr()
    y = overwrite(route, x, spec)
    assert y is x
    assert y.data_ptr() == pointer
    assert x._version > version
    assert torch.equal(y, want)


@every_route
@every_spec
def test_gradient(route: Route, spec):
    x = torch.linspace(-2, 3, 501, dtype=torch.float64, requires_grad=True)
    y = overwrite(route, x * 1, spec)
    (got,) = torch.autograd.grad(y, x, torch.ones_like(y))
    np.testing.assert_allclose(got, spec.derivative(x.detach()), rtol=1e-12, atol=1e-14)


@forward_mode
@every_route
@every_spec
def test_second_derivative_and_forward_mode(route: Route, spec):
    x = torch.linspace(0.1, 2, 20, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(overwrite(route, x * 1, spec).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    np.testing.assert_allclose(bend, spec.second_derivative(x.detach()), rtol=1e-9, atol=1e-12)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach().clone(), torch.full_like(x, 2.0))
        _, tangent = forward_ad.unpack_dual(overwrite(route, dual, spec))
    assert tangent is not None
    np.testing.assert_allclose(tangent, 2 * spec.derivative(x.detach()), **SAME_MATHEMATICS)


@forward_mode
@every_route
def test_batched_tangents_pass_through(route: Route):
    spec = GemSpec(2)
    x = torch.linspace(-1, 2, 5, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: overwrite(route, x * 1, spec), x, vectorize=True, strategy="forward-mode"
    )
    np.testing.assert_allclose(jacobian, np.diag(spec.derivative(x)), **SAME_MATHEMATICS)


@every_route
def test_a_leaf_that_requires_grad_is_refused_and_left_alone(route: Route):
    x = torch.randn(6, requires_grad=True)
    before = x.detach().clone()
    with pytest.raises(RuntimeError, match=r"^a leaf Variable that requires grad is being used in an in-place"):
        overwrite(route, x, GemSpec())
    with pytest.raises(RuntimeError, match="a view of a leaf Variable that requires grad"):
        overwrite(route, x[:3], GemSpec())
    assert torch.equal(x.detach(), before)
    with torch.no_grad():
        overwrite(route, x, GemSpec())
    assert torch.equal(x.detach(), route(before, GemSpec()))


@every_route
def test_views_that_may_not_be_changed_are_refused_and_left_alone(route: Route):
    source = torch.randn(6, requires_grad=True) * 1
    before = source.detach().clone()
    with pytest.raises(RuntimeError, match="multiple views"):
        overwrite(route, source.chunk(2)[0], GemSpec())
    with torch.no_grad():
        hidden = source[:3]
    with pytest.raises(RuntimeError, match="no_grad"):
        overwrite(route, hidden, GemSpec())
    assert torch.equal(source.detach(), before)


@every_route
def test_a_view_is_overwritten_and_its_base_learns_of_it(route: Route):
    x = torch.randn(6, dtype=torch.float64, requires_grad=True)
    source = x * 1
    part = source[:3]
    y = overwrite(route, part, GemSpec())
    assert y.data_ptr() == source.data_ptr()
    (slope,) = torch.autograd.grad(source.sum(), x)
    expected = np.concatenate([GemSpec().derivative(x.detach()[:3]), np.ones(3)])
    np.testing.assert_allclose(slope, expected, **SAME_MATHEMATICS)


@every_route
def test_a_later_change_of_the_output_is_refused_in_the_backward_pass(route: Route):
    x = torch.randn(6, requires_grad=True)
    y = overwrite(route, x * 1, GemSpec())
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@every_route
def test_a_change_of_what_was_kept_is_refused_without_inplace_too(route: Route):
    x = torch.randn(6, requires_grad=True)
    source = x * 1
    y = route(source, GemSpec())
    (y if route.keeps_output else source).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@every_route
def test_an_input_that_another_node_kept_is_refused(route: Route):
    x = torch.randn(6, requires_grad=True)
    source = x * 1
    square = source.square()
    overwrite(route, source, GemSpec())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        square.sum().backward()


@every_route
def test_a_view_changes_its_base_and_nothing_beside_it(route: Route):
    spec = GemSpec(2)
    x = torch.linspace(-1, 2, 12, dtype=torch.float64, requires_grad=True)
    base = x * 1
    overwrite(route, base[::2], spec)
    want = x.detach().clone()
    want[::2] = route(want[::2].clone(), spec)
    assert torch.equal(base.detach(), want)
    (gradient,) = torch.autograd.grad(base.sum(), x)
    slope = np.ones(12)
    slope[::2] = spec.derivative(x.detach()[::2])
    np.testing.assert_allclose(gradient, slope, rtol=1e-12)


@every_route
def test_a_view_keeps_no_second_copy(route: Route):
    # What a linear layer gives for input of three dimensions is a view, too.
    base = torch.randn(2, 6, requires_grad=True) * 1
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        overwrite(route, base.view(3, 4), GemSpec())
    assert [tensor.data_ptr() for tensor in kept] == [base.data_ptr()]


@every_route
def test_a_view_that_is_a_leaf_is_refused_and_left_alone(route: Route):
    view = torch.ones(4).view(2, 2).requires_grad_()
    with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
        overwrite(route, view, GemSpec())
    assert torch.equal(view.detach(), torch.ones(2, 2))


@every_route
def test_overlapping_memory_is_refused(route: Route):
    with pytest.raises(RuntimeError, match="single memory location"):
        overwrite(route, torch.ones(1).expand(4), GemSpec())


def test_modules_and_functions_overwrite_where_asked():
    for module, spec in [
        (GEM(2, inplace=True), GemSpec(2)),
        (EGEM(1, 1e-4, inplace=True), GemSpec(1, 1e-4)),
        (SEGEM(inplace=True), GemSpec(1, 1e-4, 0.01)),
    ]:
        x = torch.randn(50)
        source = x.clone()
        assert module(x) is x
        assert ulps_apart(x, spec(source), "float32").max() <= value_ulps(spec.n)
    x = torch.randn(5)
    assert gem(x, inplace=True) is x


def test_keeping_an_input_that_is_overwritten_is_an_error():
    with pytest.raises(GemError, match=r"save='input' with inplace=True.*'output' or 'auto'"):
        gem(torch.ones(2), inplace=True, save="input")

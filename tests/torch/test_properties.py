"""What must hold for every parameter and input, searched by Hypothesis in float64 and float32."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gem_activations import GemSpec

from ..tolerances import value_ulps
from ..ulps import spacing
from .routes import Route, every_route

orders = st.integers(1, 8)
widths = st.floats(-12, 6).map(lambda exponent: 10.0**exponent)
leaks = st.just(0.0) | st.floats(1e-30, 0.99)
exponents = st.floats(-12, 12)
shapes = st.lists(st.integers(0, 4), max_size=4)
dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
# Tensors are small and the first call of an operation may be slow: no time is asserted.
quick = settings(max_examples=60)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@every_route
@given(shapes, dtypes, orders, widths, leaks)
@quick
def test_shape_dtype_and_device_are_those_of_the_input(route: Route, shape, dtype, n, eps, leak):
    x = torch.randn(shape).to(dtype)
    value, gradient = route.value_and_gradient(x, GemSpec(n, eps, leak))
    for result in (value, gradient):
        assert (result.shape, result.dtype, result.device) == (x.shape, x.dtype, x.device)


@every_route
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), orders, widths)
@quick
def test_without_a_leak_the_value_lies_between_0_and_relu(route: Route, x, n, eps):
    value = route(torch.tensor([x]), GemSpec(n, eps)).item()
    assert 0 <= value <= max(x, 0.0)


@every_route
@given(st.floats(width=32, allow_nan=False, allow_infinity=False), orders, widths, st.floats(0.001, 0.99))
@quick
def test_with_a_leak_the_value_lies_between_leaky_relu_and_relu(route: Route, x, n, eps, leak):
    value = route(torch.tensor([x]), GemSpec(n, eps, leak)).double().item()
    slack = value_ulps(n) * float(spacing(value, "float32"))
    if x > 0:
        assert leak * x - slack <= value <= x
    else:
        assert abs(value - leak * x) <= slack


@every_route
@given(exponents, st.floats(1e-6, 10), orders, widths, leaks)
@quick
def test_strictly_increasing_for_positive_inputs(route: Route, exponent, growth, n, eps, leak):
    # The slope of log f over log x is at least 1, so that a growth of 1e-6 is far above rounding.
    spec = GemSpec(n, eps, leak)
    x = spec.scale * 10.0**exponent
    low, high = route(tensor(x, x * (1 + growth)), spec).tolist()
    assert high > low > 0


@every_route
@given(st.floats(-3, 12), orders, widths, leaks)
@quick
def test_the_gradient_lies_between_the_leak_and_the_lipschitz_constant(route: Route, exponent, n, eps, leak):
    spec = GemSpec(n, eps, leak)
    x = spec.scale * 10.0**exponent
    _, gradient = route.value_and_gradient(tensor(x, -x), spec)
    assert leak <= gradient[0].item() * (1 + 1e-14)
    assert gradient[0].item() <= spec.lipschitz * (1 + 1e-13)
    assert gradient[1].item() == leak


@every_route
@given(exponents, orders, widths, leaks)
@quick
def test_eps_only_rescales_input_and_output(route: Route, exponent, n, eps, leak):
    spec, unit = GemSpec(n, eps, leak), GemSpec(n, 1.0, leak)
    t = 10.0**exponent
    value, gradient = route.value_and_gradient(tensor(t * spec.scale), spec)
    unit_value, unit_gradient = route.value_and_gradient(tensor(t), unit)
    # t times the scale is rounded, which the value amplifies by up to 2n + 1 and the gradient by up to 2n.
    assert math.isclose(value.item(), spec.scale * unit_value.item(), rel_tol=1e-13)
    assert math.isclose(gradient.item(), unit_gradient.item(), rel_tol=1e-12)


@every_route
@given(st.floats(-30, 30), orders, st.integers(-10, 10), leaks)
@quick
def test_a_power_of_two_as_scale_changes_no_bit(route: Route, logarithm, n, exponent, leak):
    factor = 2.0**exponent
    x = tensor(math.exp(logarithm))
    got = route(x * factor, GemSpec.from_scale(n, factor, leak))
    assert torch.equal(got, factor * route(x, GemSpec(n, 1.0, leak)))


@every_route
@given(st.floats(-1e6, 1e6), orders, widths)
@quick
def test_the_distance_to_relu_is_the_one_that_the_spec_states(route: Route, x, n, eps):
    spec = GemSpec(n, eps)
    distance = max(x, 0.0) - route(tensor(x), spec).item()
    assert 0 <= distance <= spec.distance_to_relu() * (1 + 1e-13) + 4 * math.ulp(x)


@every_route
def test_eps_to_0_gives_relu_and_leaky_relu(route: Route):
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    for n in (1, 2, 8):
        for leak in (0.0, 0.01):
            limit = torch.nn.functional.leaky_relu(x, leak)
            gaps = [
                (route(x, GemSpec.from_scale(n, scale, leak)) - limit).abs().max().item()
                for scale in (1e-1, 1e-2, 1e-4, 1e-8, 1e-16)
            ]
            assert gaps == sorted(gaps, reverse=True)
            assert gaps[-1] <= 1e-15


@every_route
@given(orders, widths, leaks)
@quick
def test_the_largest_gradient_is_taken_where_the_mathematics_puts_it(route: Route, n, eps, leak):
    spec = GemSpec(n, eps, leak)
    share = (2 * n + 1) / (4 * n)
    x = spec.scale * (share / (1 - share)) ** (1 / (2 * n))
    _, gradient = route.value_and_gradient(tensor(x, x * 0.9, x * 1.1), spec)
    assert math.isclose(gradient[0].item(), spec.lipschitz, rel_tol=1e-13)
    assert (gradient[1:] < gradient[0]).all()


@given(st.lists(st.floats(width=32), min_size=1, max_size=20), orders, widths, leaks)
@quick
def test_elements_do_not_touch_each_other(values, n, eps, leak):
    from gem_activations.torch import activate

    spec = GemSpec(n, eps, leak)
    together = activate(torch.tensor(values), spec)
    alone = torch.cat([activate(torch.tensor([value]), spec) for value in values])
    np.testing.assert_array_equal(together, alone)

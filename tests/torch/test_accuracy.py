"""Values and gradients of every backend: float64 against mpmath, float32 against the oracle, 16 bits exhaustively."""

from functools import lru_cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from gem_activations import GemSpec
from gem_activations.torch import formula

from ..golden.table import Golden, read
from ..tolerances import (
    GRADIENT_FLOOR,
    HALF_ULPS,
    INVERSE_ULPS,
    bend_floor,
    gradient_ulps,
    traced_gradient_ulps,
    value_ulps,
)
from ..ulps import smallest_normal, ulps_apart
from .routes import ROUTES, Route, every_route

ORDERS = range(1, 9)
WIDTHS = [1e-12, 1e-6, 1e-4, 1e-2, 1.0, 10.0, 1e3, 1e6]
LEAKS = [0.0, 0.01, 0.5, 0.99]
HALF_ORDERS = [1, 2, 3, 8]
HALF_WIDTHS = [1e-12, 1e-4, 1.0, 10.0, 1e6]

every_leak = pytest.mark.parametrize("leak", LEAKS)
every_half = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])


def sweep_float32(spec: GemSpec) -> torch.Tensor:
    """Return both signs of every exponent of float32, subnormal ones too, and many points around the junction."""
    generator = np.random.default_rng(spec.n)
    exponents = np.arange(-149, 128)[:, None]
    spread = np.ldexp(1 + generator.random((exponents.size, 32)), exponents)
    ends = np.ldexp([1.0, 2 - 2.0**-23], exponents)
    junction = spec.scale * np.exp(generator.uniform(-6, 6, 8000) / np.sqrt(spec.n))
    positive = np.concatenate([spread.ravel(), ends.ravel(), junction, [0.0]]).astype(np.float32)
    positive = positive[np.isfinite(positive)]
    return torch.from_numpy(np.concatenate([positive, -positive[::4]]))


def bit_patterns(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def wide(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().numpy()


# Routes are the parameter that changes fastest: each takes what was computed for the first.
@lru_cache(maxsize=len(WIDTHS))
def oracle(spec: GemSpec, dtype: torch.dtype) -> tuple[torch.Tensor, NDArray[np.float64], NDArray[np.float64]]:
    """Return the inputs of a dtype, and f and f' there in float64."""
    x = sweep_float32(spec) if dtype == torch.float32 else bit_patterns(dtype)
    return x, spec(wide(x)), spec.derivative(wide(x))


def assert_float32_within_bounds(route: Route, spec: GemSpec) -> None:
    x, expected, slope = oracle(spec, torch.float32)
    value, gradient = route.value_and_gradient(x, spec)
    error = ulps_apart(wide(value), expected, "float32")
    assert error.max() <= value_ulps(spec.n), (spec, x[error.argmax()])
    floor = route.gradient_floor(spec, "float32")
    error = ulps_apart(wide(gradient), slope, "float32", floor)
    assert error.max() <= route.gradient_ulps(spec.n, "float32"), (spec, x[error.argmax()])


@every_route
@every_leak
@pytest.mark.parametrize("n", ORDERS)
def test_float32_over_all_finite_inputs(route: Route, n, leak):
    for eps in WIDTHS:
        assert_float32_within_bounds(route, GemSpec(n, eps, leak))


@every_route
@pytest.mark.parametrize("n", [12, 19, 27, 64])
def test_float32_of_high_orders(route: Route, n):
    """The reduced eps is then so small that powers beside it leave float32, unless both are lifted."""
    for spec in (GemSpec(n, 2.0**-n), GemSpec(n, 1.0, 0.01), GemSpec(n, 1e-4), GemSpec(n, 1e6, 0.5)):
        assert_float32_within_bounds(route, spec)


@every_leak
@pytest.mark.parametrize("n", ORDERS)
def test_float32_gradient_that_a_transform_takes_from_the_formula(n, leak):
    for eps in WIDTHS:
        spec = GemSpec(n, eps, leak)
        x = sweep_float32(spec)
        gradient = torch.func.grad(lambda x, spec=spec: ROUTES[0](x, spec).sum())(x)
        floor = GRADIENT_FLOOR * smallest_normal("float32")
        error = ulps_apart(wide(gradient), spec.derivative(x), "float32", floor)
        assert error.max() <= traced_gradient_ulps(n), (spec, x[error.argmax()])


@every_route
@pytest.mark.parametrize("golden", read(), ids=str)
def test_float64_equals_mpmath(route: Route, golden: Golden):
    spec = golden.spec
    value, gradient = route.value_and_gradient(torch.from_numpy(golden.x), spec)
    assert ulps_apart(wide(value), golden.value, "float64").max() <= value_ulps(spec.n)
    error = ulps_apart(wide(gradient), golden.derivative, "float64", route.gradient_floor(spec, "float64"))
    assert error.max() <= route.gradient_ulps(spec.n, "float64"), golden.x[error.argmax()]


@pytest.mark.parametrize("golden", read(), ids=str)
def test_float64_second_derivative_equals_mpmath(golden: Golden):
    spec = golden.spec
    x = torch.from_numpy(golden.x).requires_grad_()
    (slope,) = torch.autograd.grad(ROUTES[0](x, spec).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    rise = np.nan_to_num((spec.gate(golden.x) - spec.leak) / (1 - spec.leak))
    condition = (1 + 2 * spec.n + 4 * spec.n * rise) / np.abs(1 + 2 * spec.n - 4 * spec.n * rise)
    floor = max(bend_floor(spec.n) * spec.sup_second_derivative, smallest_normal("float64"))
    error = ulps_apart(wide(bend), golden.second_derivative, "float64", floor)
    assert (error <= gradient_ulps(spec.n) * condition).all()


@every_leak
@pytest.mark.parametrize("n", [1, 2, 6, 8, 16, 64])
def test_inverse_finds_the_input_also_where_newtons_method_would_run_in_a_cycle(n, leak):
    # With leak > 0 and n >= 6, outputs near x = 1.05 a let the unguarded method alternate between two points.
    ratios = np.concatenate([np.linspace(0.7, 1.3, 4001), np.logspace(-12, 12, 500) ** (1 / n)])
    for eps in (1e-12, 1.0, 1e6):
        spec = GemSpec(n, eps, leak)
        x = torch.from_numpy(ratios * spec.scale)
        found = formula.inverse(formula.value(x, spec), spec)
        assert ulps_apart(wide(found), wide(x), "float64").max() <= INVERSE_ULPS


@every_route
@every_half
@pytest.mark.parametrize("leak", [0.0, 0.01, 0.5])
@pytest.mark.parametrize("n", HALF_ORDERS)
def test_every_16_bit_pattern(route: Route, dtype, n, leak):
    name = str(dtype).removeprefix("torch.")
    for eps in HALF_WIDTHS:
        spec = GemSpec(n, eps, leak)
        x, expected, slope = oracle(spec, dtype)
        value, gradient = route.value_and_gradient(x, spec)
        assert value.dtype == gradient.dtype == dtype
        error = ulps_apart(wide(value), expected, name)
        assert error.max() <= HALF_ULPS, (spec, x[error.argmax()])
        floor = 0.0 if not route.keeps_output else route.gradient_floor(spec, name)
        error = ulps_apart(wide(gradient), slope, name, floor)
        assert error.max() <= route.gradient_ulps(n, name), (spec, x[error.argmax()], error.max())


@every_half
@pytest.mark.parametrize("n", HALF_ORDERS)
def test_16_bit_gradient_is_the_slope_at_the_output_that_was_kept(dtype, n):
    name = str(dtype).removeprefix("torch.")
    x = bit_patterns(dtype)
    for spec in (GemSpec(n), GemSpec(n, 1e-4), GemSpec(n, 1e-4, 0.5)):
        value, gradient = ROUTES[1].value_and_gradient(x, spec)
        want = spec.derivative(spec.inverse(value.double()))
        below = (value <= 0).numpy()
        want[below] = spec.leak
        assert ulps_apart(wide(gradient), want, name).max() <= HALF_ULPS


@every_route
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("spec", [GemSpec(), GemSpec(8, 1e-12), GemSpec(2, 1e6), GemSpec(2, 1e-4, 0.01)], ids=str)
def test_zero_infinity_and_nan(route: Route, dtype, spec):
    x = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan], dtype=dtype)
    value, gradient = route.value_and_gradient(x, spec)
    below = -torch.inf if spec.leak else 0.0
    leak = torch.tensor(spec.leak, dtype=dtype).item()
    np.testing.assert_array_equal(wide(value), [0.0, 0.0, torch.inf, below, torch.nan])
    np.testing.assert_array_equal(wide(gradient)[[0, 1, 3, 4]], [leak, leak, leak, torch.nan])
    name = str(dtype).removeprefix("torch.")
    assert ulps_apart(wide(gradient)[2], 1.0, name) <= route.gradient_ulps(spec.n, name)


@every_route
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("n", [1, 2, 8])
def test_no_finite_input_gives_nan_or_infinity(route: Route, dtype, n):
    limits = torch.finfo(dtype)
    steps = [0.0, limits.smallest_normal / 4, limits.smallest_normal, 1.0, limits.max / 2, limits.max]
    x = torch.tensor(steps + [-step for step in steps], dtype=dtype)
    for eps in (1e-12, 1.0, 1e6):
        # Many, because leak and 1 - leak are rounded on their own and must not sum up to more than 1.
        for leak in np.linspace(0, 0.995, 20):
            value, gradient = route.value_and_gradient(x, GemSpec(n, eps, float(leak)))
            assert torch.isfinite(value).all(), (eps, leak)
            assert torch.isfinite(gradient).all(), (eps, leak)

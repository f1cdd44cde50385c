"""Values and derivatives of every kernel, instruction set and dtype against mpmath and the float64 oracle."""

import ctypes
import math

import numpy as np
import pytest

from gem_activations import GemSpec
from gem_activations.errors import SpecError
from gem_activations.kernels.cpu import BACKWARD_SCALED, DTYPES, FORWARD_SCALED, Scales

from ..golden.table import Golden, read
from ..tolerances import (
    GRADIENT_FLOOR,
    HALF_ULPS,
    bend_floor,
    gradient_ulps,
    oracle_bend_ulps,
    value_ulps,
)
from ..ulps import smallest_normal, ulps_apart
from .calls import OPERATIONS, bits, decode, encode, every_pattern, run

ORDERS = [*range(1, 10), 20, 64]
WIDTHS = [1e-12, 1e-4, 1.0, 10.0, 1e6]
LEAKS = [0.0, 0.01, 0.9]
HALF_SPECS = [GemSpec(n, eps, leak) for n in (1, 2, 3, 4, 8) for eps in (1e-12, 1.0, 1e6) for leak in (0.0, 0.01)]

every_half = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
every_order = pytest.mark.parametrize("n", ORDERS)


def sweep(spec: GemSpec) -> np.ndarray:
    """Return float32 inputs of both signs: every exponent, both ends of each, and many points around the junction."""
    generator = np.random.default_rng(spec.n)
    exponents = np.arange(-149, 128)[:, None]
    spread = np.ldexp(np.hstack([1 + generator.random((exponents.size, 6)), [[1.0, 2 - 2.0**-23]] * 277]), exponents)
    junction = spec.scale * np.exp(generator.uniform(-6, 6, 2000) / np.sqrt(spec.n))
    positive = np.concatenate([spread.ravel(), junction, [0.0]]).astype(np.float32)
    return np.concatenate([positive, -positive[::4]])


def specs(n: int) -> list[GemSpec]:
    return [GemSpec(n, eps, leak) for eps in WIDTHS for leak in LEAKS]


def bend_condition(spec: GemSpec, x: np.ndarray) -> np.ndarray:
    """Return the factor by which f'' amplifies a rounding of F, near the zero of 1 + 2n - 4n F."""
    rise = (spec.gate(x) - spec.leak) / (1 - spec.leak)
    return (1 + 2 * spec.n + 4 * spec.n * rise) / np.abs(1 + 2 * spec.n - 4 * spec.n * rise)


@every_order
def test_float32_value_and_slope(library, n):
    for spec in specs(n):
        x = sweep(spec)
        (y,) = run(library, "forward", spec, "float32", x)
        assert ulps_apart(y, spec(x), "float32").max() <= value_ulps(n), spec
        (slope,) = run(library, "backward", spec, "float32", np.ones_like(x), x)
        floor = GRADIENT_FLOOR * smallest_normal("float32")
        assert ulps_apart(slope, spec.derivative(x), "float32", floor).max() <= gradient_ulps(n), spec


@every_order
def test_float32_second_derivative(library, n):
    for spec in specs(n):
        x = sweep(spec)
        slope, bend = run(library, "second", spec, "float32", np.ones_like(x), np.ones_like(x), x)
        tiny = GRADIENT_FLOOR * smallest_normal("float32")
        assert ulps_apart(slope, spec.derivative(x), "float32", tiny).max() <= gradient_ulps(n), spec
        floor = smallest_normal("float32") * spec.reduction.inverse_scale * 2 * n + 2e-16 * spec.sup_second_derivative
        error = ulps_apart(bend, spec.second_derivative(x), "float32", floor)
        assert (error <= gradient_ulps(n) * bend_condition(spec, x)).all(), spec


@pytest.mark.parametrize("golden", read(), ids=str)
def test_float64_against_mpmath(library, golden: Golden):
    n, x, one = golden.spec.n, golden.x, np.ones_like(golden.x)
    (y,) = run(library, "forward", golden.spec, "float64", x)
    assert ulps_apart(y, golden.value, "float64").max() <= value_ulps(n)
    (slope,) = run(library, "backward", golden.spec, "float64", one, x)
    floor = GRADIENT_FLOOR * smallest_normal("float64")
    assert ulps_apart(slope, golden.derivative, "float64", floor).max() <= gradient_ulps(n)
    _, bend = run(library, "second", golden.spec, "float64", one, one, x)
    bounds = np.nan_to_num(2 * n * oracle_bend_ulps(bend_condition(golden.spec, x)))
    floor = floor + bend_floor(n) * golden.spec.sup_second_derivative
    assert (ulps_apart(bend, golden.second_derivative, "float64", floor) <= bounds).all()


@every_half
@pytest.mark.parametrize("spec", HALF_SPECS, ids=str)
def test_every_half_pattern(library, spec, dtype):
    stored = every_pattern(dtype)
    x = decode(stored, dtype)
    one = encode(np.ones_like(x), dtype)
    (y,) = run(library, "forward", spec, dtype, stored)
    assert ulps_apart(decode(y, dtype), rounded(spec(x), dtype), dtype).max() <= HALF_ULPS
    (slope,) = run(library, "backward", spec, dtype, one, stored)
    floor = GRADIENT_FLOOR * smallest_normal("float32")
    assert ulps_apart(decode(slope, dtype), spec.derivative(x), dtype, floor).max() <= HALF_ULPS


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return values beyond the largest number of the dtype as infinite, as rounding does."""
    largest = {"float16": 65520.0, "bfloat16": (2 - 2.0**-8) * 2.0**127}[dtype]
    return np.where(np.abs(values) >= largest, np.copysign(np.inf, values), values)


@every_half
def test_conversion_rounds_to_nearest_even_and_keeps_nan(library, dtype):
    # f is the identity for eps -> 0 and x > 0, so that the gated unit gives products of two half numbers, rounded.
    spec = GemSpec.from_scale(4, 1e-9)
    generator = np.random.default_rng(0)
    pattern = every_pattern(dtype)
    positive = pattern[(pattern.view(np.uint16) < 0x8000) & (decode(pattern, dtype) > 1e-6)]
    factor = generator.permutation(pattern)[: positive.size]
    (product,) = run(library, "glu_forward", spec, dtype, factor, positive)
    exact = decode(factor, dtype) * decode(positive, dtype)  # of 22 bits at most: exact in float32 and float64
    assert np.array_equal(np.isnan(decode(product, dtype)), np.isnan(exact))
    finite = ~np.isnan(exact)
    assert np.array_equal(bits_of_nearest(exact[finite], dtype), product[finite].view(np.uint16))


def bits_of_nearest(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "float16":
        return values.astype(np.float16).view(np.uint16)
    wide = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16).astype(np.uint16)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("leak", [0.0, 0.25])
@pytest.mark.parametrize("n", [1, 2, 5, 64])
def test_infinities_zeros_and_nan(library, dtype, leak, n):
    spec = GemSpec(n, 1.0, leak)
    x = encode([np.inf, -np.inf, np.nan, 0.0, -0.0], dtype)
    one = encode(np.ones(5), dtype)
    expected = {
        "forward": [np.inf, -np.inf if leak else 0.0, np.nan, 0.0, 0.0],
        "backward": [1.0, leak, np.nan, leak, leak],
        "second": [0.0, 0.0, np.nan, 0.0, 0.0],
        "third": [0.0, 0.0, np.nan, 0.0, 0.0],
        "tangent": [1.0, leak, np.nan, leak, leak],
    }
    for operation, want in expected.items():
        *_, got = run(library, operation, spec, dtype, *[one] * (OPERATIONS[operation].inputs - 1), x)
        np.testing.assert_array_equal(decode(got, dtype), want, operation)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 64])
def test_gated_unit(library, dtype, n):
    generator = np.random.default_rng(n)
    grad, x, gate = (encode(generator.standard_normal(4000), dtype) for _ in range(3))
    for spec in (GemSpec(n, 1.0), GemSpec(n, 1e-4, 0.1)):
        wide_grad, wide_x, wide_gate = (decode(array, dtype) for array in (grad, x, gate))
        value, slope = spec(wide_gate), spec.derivative(wide_gate)
        (out,) = run(library, "glu_forward", spec, dtype, x, gate)
        grad_x, grad_gate = run(library, "glu_backward", spec, dtype, grad, x, gate)
        bound = HALF_ULPS if dtype in ("float16", "bfloat16") else gradient_ulps(n) + 2
        floor = 4 * GRADIENT_FLOOR * smallest_normal("float64" if dtype == "float64" else "float32")
        for got, want in (
            (out, wide_x * value),
            (grad_x, wide_grad * value),
            (grad_gate, wide_grad * wide_x * slope),
        ):
            assert ulps_apart(decode(got, dtype), want, dtype, floor).max() <= bound


# Of channels that are one, fewer and more than a vector, side by side and apart, in tiles with and without a rest.
SCALED = [
    (0,),
    (1,),
    (70_001,),
    (9, 3),
    (513, 3),
    (1000, 65),
    (70, 1000),
    (0, 4),
    (7, 5, 1, 49),
    (3, 66, 11),
    (3, 2, 9000),
    (40, 3, 400),
    (100, 1100),
    (40, 64, 16),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec", [GemSpec(1, 1e-4), GemSpec(2, 0.3, 0.1), GemSpec(12, 1.0)], ids=str)
@pytest.mark.parametrize("shape", SCALED, ids=str)
def test_scales_in_memory_give_the_values_and_gradients_of_the_oracle(library, dtype, spec, shape):
    noise = np.random.default_rng(4)
    for channels in {1, shape[1] if len(shape) > 1 else 1}:
        scales = spec.scale * (np.geomspace(0.3, 3, channels) if channels > 1 else np.ones(1))
        log_scale = np.log(scales).astype(np.float32 if dtype == "float32" else np.float64)
        scales = np.exp(log_scale.astype(float)).reshape(-1, *[1] * (len(shape) - 2))
        x, grad = (encode(2 * spec.scale * noise.standard_normal(shape), dtype) for _ in range(2))
        found = []
        for threads in (1, 2, 3):
            y, out, gradient = np.empty_like(x), np.empty_like(x), np.full_like(log_scale, np.nan)
            described = Scales(
                log_scale.ctypes.data,
                gradient.ctypes.data,
                DTYPES[log_scale.dtype.name],
                channels,
                max(1, math.prod(shape[2:])),
            )
            last = ctypes.addressof(described)
            library.call(FORWARD_SCALED, spec, DTYPES[dtype], x.size, threads, y.ctypes.data, x.ctypes.data, last)
            addresses = [array.ctypes.data for array in (out, grad, x)]
            library.call(BACKWARD_SCALED, spec, DTYPES[dtype], x.size, threads, *addresses, last)
            found.append([bits(y), bits(out), gradient])
        assert all(np.array_equal(*pair) for other in found[1:] for pair in zip(found[0], other, strict=True)), (
            "threads"
        )
        wide, unit = decode(x, dtype), GemSpec(spec.n, 1.0, spec.leak)
        floor = 4 * GRADIENT_FLOOR * smallest_normal("float64" if dtype == "float64" else "float32")
        half = dtype in ("float16", "bfloat16")
        # In float64 the oracle's own x / a is rounded, which costs 2n ulp.
        bound = HALF_ULPS if half else gradient_ulps(spec.n) + 2 + (4 * spec.n + 4) * (dtype == "float64")
        for got, want in (
            (y, scales * unit(wide / scales)),
            (out, decode(grad, dtype) * unit.derivative(wide / scales)),
        ):
            assert not x.size or ulps_apart(decode(got, dtype), want, dtype, floor).max() <= bound
        gate = (unit.gate(wide / scales) - spec.leak) / (1 - spec.leak)
        terms = -2 * spec.n * (1 - spec.leak) * decode(grad, dtype) * np.maximum(wide, 0) * gate * (1 - gate)
        others = tuple(axis for axis in range(len(shape)) if channels == 1 or axis != 1)
        assert (np.abs(gradient - terms.sum(others)) <= 1e-6 * np.abs(terms).sum(others)).all()


def test_one_scale_in_memory_gives_the_bits_of_the_fixed_one(library):
    x = np.linspace(-3, 9, 5000, dtype=np.float32)
    for spec in (GemSpec(1, 0.25), GemSpec(2, 1 / 16, 0.1), GemSpec(3)):
        log_scale, y = np.array([math.log(spec.scale)]), np.empty_like(x)
        described = Scales(log_scale.ctypes.data, None, DTYPES["float64"], 1, 1)
        library.call(FORWARD_SCALED, spec, 0, x.size, 1, y.ctypes.data, x.ctypes.data, ctypes.addressof(described))
        assert np.array_equal(y, run(library, "forward", spec, "float32", x)[0])


@pytest.mark.parametrize("log_scale", [70.0, -70.0, np.nan, np.inf])
def test_a_scale_in_memory_out_of_its_range_is_one_clear_error(library, log_scale):
    scales, x, y = np.array([0.0, log_scale]), np.ones(4, np.float32), np.zeros(4, np.float32)
    described = Scales(scales.ctypes.data, None, DTYPES["float64"], 2, 1)
    with pytest.raises(SpecError, match="has left the range 1e-30 to 1e"):
        library.call(FORWARD_SCALED, GemSpec(), 0, 4, 1, y.ctypes.data, x.ctypes.data, ctypes.addressof(described))
    assert (y == 0).all()

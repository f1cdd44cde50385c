"""GemSpec against mpmath at 50 digits: each row of the tables of docs/mathematics.md, from the definition alone."""

import math
import pickle
from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gem_activations import GemError, GemSpec
from gem_activations.errors import ActivationNameError, SpecError

mp.mp.dps = 50

ORDERS = [1, 2, 3, 4, 8]
WIDTHS = [1e-12, 1e-4, 1.0, 10.0, 1e6]
LEAKS = [0.0, 0.01, 0.5]
ULP = 2.0**-52

orders = st.integers(1, 8)
widths = st.floats(1e-12, 1e6)
leaks = st.just(0.0) | st.floats(1e-30, 0.99)


def definition(spec):
    """Return x -> f(x) for x > 0 in mpmath, as the paper writes it."""
    n, eps, leak = spec.n, mp.mpf(spec.eps), mp.mpf(spec.leak)
    return lambda x: x * (leak + (1 - leak) * x ** (2 * n) / (x ** (2 * n) + eps))


def sample_points(spec):
    spread = np.concatenate([np.logspace(-20, 20, 41), np.linspace(0.2, 4, 20)])
    return spread * spec.scale


def all_specs():
    return [GemSpec(n, eps, leak) for n in ORDERS for eps in WIDTHS for leak in LEAKS]


@pytest.mark.parametrize("spec", all_specs(), ids=str)
def test_value_gate_and_derivatives_equal_the_definition_in_mpmath(spec):
    f = definition(spec)
    x = sample_points(spec)
    got = zip(x, spec(x), spec.gate(x), spec.derivative(x), spec.second_derivative(x), strict=True)
    curvature = spec.sup_second_derivative
    for point, value, gate, slope, bend in got:
        exact = mp.mpf(float(point))
        assert value == pytest.approx(float(f(exact)), rel=4 * (spec.n + 1) * ULP, abs=1e-300)
        assert gate == pytest.approx(float(f(exact) / exact), rel=4 * (spec.n + 1) * ULP, abs=1e-300)
        with mp.workdps(120):  # Numerical differentiation of the definition needs digits to spare.
            assert slope == pytest.approx(float(mp.diff(f, exact)), rel=1e-13, abs=1e-290)
            second = float(mp.diff(f, exact, 2))
        assert bend == pytest.approx(second, rel=1e-12, abs=1e-14 * curvature)


@pytest.mark.parametrize("leak", LEAKS)
@pytest.mark.parametrize("n", ORDERS)
def test_values_at_zero_infinity_and_nan(n, leak):
    spec = GemSpec(n, 1e-4, leak)
    x = [0.0, -0.0, math.inf, -math.inf, math.nan]
    below = -math.inf if leak else 0.0
    np.testing.assert_array_equal(spec(x), [0, 0, math.inf, below, math.nan])
    np.testing.assert_array_equal(spec.gate(x), [leak, leak, 1, leak, math.nan])
    np.testing.assert_array_equal(spec.derivative(x), [leak, leak, 1, leak, math.nan])
    np.testing.assert_array_equal(spec.second_derivative(x), [0, 0, 0, 0, math.nan])
    np.testing.assert_array_equal(spec.inverse(x), [0, 0, math.inf, below if leak else math.nan, math.nan])


def test_inverse_of_negative_outputs():
    assert GemSpec(leak=0.5).inverse(-1.0) == -2.0
    assert np.isnan(GemSpec().inverse(-1.0))


@given(orders, widths, leaks, st.floats(-15, 15))
def test_inverse_undoes_the_function(n, eps, leak, exponent):
    spec = GemSpec(n, eps, leak)
    x = spec.scale * 10.0**exponent
    assert spec.inverse(spec(x)) == pytest.approx(x, rel=1e-13)


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_smoothness_is_2n_and_the_next_derivative_jumps(n):
    eps, leak = Fraction(1, 7), Fraction(1, 100)
    spec = GemSpec(n, float(eps), float(leak))
    # The Taylor coefficients of f at 0+ from exact division of polynomials: x^(2n+1) / (eps + x^(2n)).
    exact = definition(spec)
    with mp.workdps(200):
        coefficients = mp.taylor(lambda x: exact(mp.mpf(x)), 0, 2 * n + 1)
    jumps = [float(c * mp.factorial(k)) for k, c in enumerate(coefficients)]
    jumps[1] -= spec.leak  # The left branch is leak * x.
    assert spec.smoothness == 2 * n
    assert jumps[: 2 * n + 1] == pytest.approx([0.0] * (2 * n + 1), abs=1e-20)
    assert jumps[2 * n + 1] == pytest.approx((1 - spec.leak) * math.factorial(2 * n + 1) / spec.eps, rel=1e-12)


@pytest.mark.parametrize(("n", "constant"), [(1, 1.125), (2, 1.5625), (3, 2.0416666666666665)])
@pytest.mark.parametrize("eps", [1e-4, 1.0, 10.0])
def test_lipschitz_constant_is_the_supremum_of_the_derivative(n, constant, eps):
    spec = GemSpec(n, eps)
    f = definition(spec)
    top = spec.scale * (((2 * n + 1) / (4 * n)) / (1 - (2 * n + 1) / (4 * n))) ** (1 / (2 * n))
    assert spec.lipschitz == pytest.approx(constant, rel=1e-15)
    assert float(mp.diff(f, mp.mpf(top))) == pytest.approx(constant, rel=1e-12)
    assert spec.derivative(np.linspace(0, 20, 100001) * spec.scale).max() <= constant
    assert GemSpec(n, eps, 0.25).lipschitz == pytest.approx(0.25 + 0.75 * constant, rel=1e-15)


@pytest.mark.parametrize("spec", all_specs(), ids=str)
def test_sup_second_derivative_is_taken_and_never_passed(spec):
    grid = np.linspace(0, 8, 400001)[1:] * spec.scale
    largest = np.abs(spec.second_derivative(grid)).max()
    assert largest <= spec.sup_second_derivative * (1 + 1e-12)
    assert largest == pytest.approx(spec.sup_second_derivative, rel=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_derivative_is_one_where_the_gate_is_one_over_2n(n):
    spec = GemSpec(n, 2.0)
    if n == 1:  # F = 1/2 is the scale itself.
        assert spec.derivative(spec.scale) == pytest.approx(1, rel=1e-15)
    gate = 1 / (2 * n)
    x = spec.scale * (gate / (1 - gate)) ** (1 / (2 * n))
    assert float(mp.diff(definition(spec), mp.mpf(x))) == pytest.approx(1, rel=1e-13)
    assert spec.derivative(1e12) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize(("n", "constant"), [(1, 0.5), (2, 0.56988), (3, 0.63727)])
@pytest.mark.parametrize("eps", [1e-4, 1.0, 10.0])
def test_supremum_distance_to_relu(n, constant, eps):
    spec = GemSpec(n, eps)
    f = definition(spec)
    where = mp.mpf(spec.scale) * mp.mpf(2 * n - 1) ** (-mp.mpf(1) / (2 * n))
    assert spec.distance_to_relu() == pytest.approx(constant * spec.scale, abs=5e-6 * spec.scale)
    assert spec.distance_to_relu(math.inf) == pytest.approx(float(where - f(where)), rel=1e-14)
    assert float(mp.diff(lambda x: x - f(x), where)) == pytest.approx(0, abs=1e-14)
    grid = np.linspace(0, 50, 100001) * spec.scale
    assert np.max(grid - spec(grid)) <= spec.distance_to_relu() * (1 + 1e-14)


@pytest.mark.parametrize(("n", "p"), [(1, 2), (2, 1), (2, 2), (3, 1), (3, 1.5), (3, 2), (8, 4)])
@pytest.mark.parametrize("eps", [1e-4, 1.0, 10.0])
def test_lp_distance_to_relu_equals_the_integral(n, p, eps):
    spec = GemSpec(n, eps)
    a = mp.mpf(spec.scale)

    # By the scaling law the distance is a^(1 + 1/p) times the one of scale 1, whose integrand is x / (1 + x^(2n)).
    # The substitution x = s / (1 - s) brings the half-line to an interval, so that no tail is cut off.
    def integrand(s):
        x = s / (1 - s)
        return (x / (1 + x ** (2 * n))) ** p / (1 - s) ** 2

    integral = mp.quad(integrand, [0, 0.25, 0.5, 0.75, 1])
    assert spec.distance_to_relu(p) == pytest.approx(
        float(a ** (1 + 1 / mp.mpf(p)) * integral ** (1 / mp.mpf(p))), rel=1e-10
    )


@pytest.mark.parametrize(("n", "squared"), [(1, 0.785398), (2, 0.277680), (3, 0.261799)])
def test_quoted_squared_distances(n, squared):
    assert GemSpec(n).distance_to_relu(2) ** 2 == pytest.approx(squared, abs=5e-7)


def test_inverse_at_the_end_of_the_range():
    assert GemSpec(leak=0.5).inverse(1.7e308) == 1.7e308


def test_a_pickle_holds_the_parameters_alone():
    spec = GemSpec(2, 1e-4, 0.01)
    copy = pickle.loads(pickle.dumps(spec))
    assert copy == spec
    assert copy.reduction == spec.reduction
    assert b"reduction" not in pickle.dumps(spec)


def test_distance_that_diverges_names_the_condition():
    with pytest.raises(SpecError, match=r"p \(2n - 1\) > 1"):
        GemSpec(n=1).distance_to_relu(1)
    with pytest.raises(SpecError, match="leak"):
        GemSpec(leak=0.01).distance_to_relu()
    with pytest.raises(SpecError, match="p from 1"):
        GemSpec().distance_to_relu(0.5)
    with pytest.raises(SpecError, match="p from 1"):
        GemSpec().distance_to_relu(math.nan)
    with pytest.raises(SpecError, match="inf for the supremum"):
        GemSpec().distance_to_relu(1e306)


@given(orders, widths, st.floats(0, 10))
def test_scaling_law(n, eps, x):
    a = GemSpec(n, eps).scale
    assert GemSpec(n, eps)(a * x) == pytest.approx(a * GemSpec(n)(x), rel=1e-13, abs=1e-300)


@given(orders, widths, leaks, st.floats(1e-3, 1e3), st.floats(1.0000001, 10))
def test_strictly_increasing_for_positive_inputs(n, eps, leak, x, factor):
    spec = GemSpec(n, eps, leak)
    assert spec(x * spec.scale * factor) > spec(x * spec.scale)
    assert (spec(-x * factor) < spec(-x)) == (leak > 0)


@given(orders, widths, leaks)
def test_neither_odd_nor_even(n, eps, leak):
    spec = GemSpec(n, eps, leak)
    assert spec(spec.scale) not in (spec(-spec.scale), -spec(-spec.scale))


@given(orders, widths, leaks, st.floats(-10, 10))
def test_conditioning_of_the_inverse_is_bounded(n, eps, leak, exponent):
    """|dx/x| <= |dy/y|: a rounding of the output is never amplified; the smallest factor is 1/(2n+1) for leak 0."""
    spec = GemSpec(n, eps, leak)
    x = spec.scale * 10.0**exponent
    factor = spec(x) / (x * spec.derivative(x))
    assert 1 / (2 * n + 1) - 1e-12 <= factor <= 1 + 1e-12


@pytest.mark.parametrize("n", ORDERS)
def test_from_scale_and_from_distance_invert_the_closed_forms(n):
    for scale in (1e-3, 0.5, 7.0):
        assert GemSpec.from_scale(n, scale).scale == pytest.approx(scale, rel=1e-14)
        assert GemSpec.from_scale(n, scale, leak=0.1).leak == 0.1
    for p in (math.inf, 2, 4.5) + ((1,) if n > 1 else ()):
        assert GemSpec.from_distance(n, 0.01, p).distance_to_relu(p) == pytest.approx(0.01, rel=1e-12)
    with pytest.raises(SpecError, match="infinite"):
        GemSpec.from_distance(1, 0.01, 1)


# Signal propagation for z ~ N(0, 1): (member, gain as quoted, chi as quoted).
# For n=2, eps=1e-6 the design notes said 1.4143; the value is 1.414247.
PROPAGATION = [
    (GemSpec(1), "2.0694", 1.269),
    (GemSpec(2), "1.8086", 1.489),
    (GemSpec(3), "1.7140", 1.686),
    (GemSpec(1, 1e-4), "1.4144", 1.003),
    (GemSpec(1, 1e-6), "1.4142", 1.000),
    (GemSpec(1, 10), "5.828", 1.566),
    (GemSpec(2, 1e-4), "1.4152", 1.055),
    (GemSpec(2, 1e-6), "1.4142", 1.018),
    (GemSpec(2, 10), "2.952", 1.812),
]


@pytest.mark.parametrize(("spec", "gain", "chi"), PROPAGATION, ids=lambda value: str(value))
def test_gain_and_chi_of_the_table(spec, gain, chi):
    f = definition(spec)
    breaks = [0, spec.scale / 2, spec.scale, 3 * spec.scale, 30 * spec.scale, 12]
    breaks = sorted({point for point in breaks if point <= 12})
    with mp.workdps(20):
        second_moment = mp.quad(lambda x: f(x) ** 2 * mp.npdf(x), breaks)
        slope_moment = mp.quad(lambda x: mp.mpf(float(spec.derivative(float(x)))) ** 2 * mp.npdf(x), breaks)
    assert float(second_moment**-0.5) == pytest.approx(float(gain), abs=0.51 * 10.0 ** -len(gain.partition(".")[2]))
    assert float(slope_moment / second_moment) == pytest.approx(chi, abs=5.1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {"n": 0}, {"n": -1}, {"n": 1.5}, {"n": 2.0}, {"n": True}, {"n": "2"}, {"n": 65},
        {"n": np.array(1.5)}, {"n": np.array([1, 2])},
        {"eps": 0}, {"eps": -1.0}, {"eps": math.nan}, {"eps": math.inf}, {"eps": "1"}, {"eps": None}, {"eps": 1j},
        {"eps": np.complex128(1 + 2j)},
        {"eps": 1e-300}, {"eps": 1e300},
        {"leak": -0.01}, {"leak": 1}, {"leak": math.nan}, {"leak": math.inf}, {"leak": "0"},
    ],
    ids=str,
)  # fmt: skip
def test_bad_parameters_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(SpecError, match=name) as caught:
        GemSpec(**arguments)
    assert isinstance(caught.value, GemError)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "a"])
def test_bad_scales_and_distances_are_refused(value):
    with pytest.raises(SpecError, match="scale"):
        GemSpec.from_scale(2, value)
    with pytest.raises(SpecError, match="distance"):
        GemSpec.from_distance(2, value)
    with pytest.raises(SpecError, match="n=0"):
        GemSpec.from_distance(0, 0.1)
    for scale in (1e29, 1e-29):
        with pytest.raises(SpecError, match="leaves the range"):
            GemSpec.from_scale(8, scale)


@pytest.mark.parametrize("x", [1j, "1", None, ["a"], [[1], [1, 2]]])
def test_inputs_that_are_no_real_arrays_are_refused(x):
    with pytest.raises(SpecError, match="array of real numbers"):
        GemSpec()(x)


def test_frozen_hashable_and_equal_by_value():
    spec = GemSpec(2, 1e-4, 0.01)
    assert {spec: 1}[GemSpec(np.int64(2), 1e-4, 0.01)] == 1
    with pytest.raises(AttributeError):
        spec.n = 3


@given(orders, widths, leaks)
def test_parse_reads_back_what_str_writes(n, eps, leak):
    spec = GemSpec(n, eps, leak)
    assert GemSpec.parse(str(spec)) == spec


@pytest.mark.parametrize("text", ["relu", "gem(eps=1)", "egem(leak=0.1)", "gem(n=1", ""])
def test_parse_refuses_what_is_not_of_the_family(text):
    with pytest.raises(ActivationNameError):
        GemSpec.parse(text)


def test_input_is_not_changed_and_shape_is_kept():
    x = np.array([[-1.0, 2.0]], dtype=np.float32)
    for method in (GemSpec(), GemSpec().gate, GemSpec().derivative, GemSpec().second_derivative, GemSpec().inverse):
        result = method(x)
        assert result.shape == (1, 2)
        assert result.dtype == np.float64
    assert x.tolist() == [[-1.0, 2.0]]
    assert GemSpec()(np.float64(2.0)).shape == ()

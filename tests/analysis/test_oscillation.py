"""Functions that oscillate: extrema, signs and moments, against samples and quadrature that the proofs never saw."""

from fractions import Fraction

import mpmath as mp
import numpy as np
import pytest
import sympy as sp

from gem_activations.analysis.balls import X
from gem_activations.analysis.exact import half_angle
from gem_activations.analysis.formulas import Piece, line
from gem_activations.analysis.limits import alternates
from gem_activations.analysis.propagation import propagation
from gem_activations.analysis.shape import gate, stationarity
from gem_activations.analysis.smoothness import infimum, supremum, supremum_of_magnitude
from gem_activations.analysis.source import read

SIN, COS = sp.sin(X), sp.cos(X)


def ball_of(number):
    """Return the middle of a number's ball."""
    return mp.mpf(number.ball.mid().str(40, radius=False))


@pytest.mark.parametrize("expression", [SIN + COS, SIN**2 + COS / 3, 1 / (2 + SIN), sp.sin(X / 2) + sp.sin(X / 3 + 1)])
def test_a_periodic_function_is_one_of_tan_of_the_half_angle(expression):
    turned, rate = half_angle(expression)
    f, g = (sp.lambdify(X, e, "mpmath") for e in (expression, turned))
    for k in range(-40, 40):
        x = mp.mpf(k) / 3 + mp.mpf(1) / 7
        assert abs(f(x) - g(mp.tan(mp.mpf(rate.p) / rate.q * x / 2))) < mp.mpf(10) ** -40


@pytest.mark.parametrize("expression", [X * SIN, SIN + sp.exp(-X), SIN + sp.sin(sp.sqrt(2) * X), sp.sin(X**2), X])
def test_a_function_that_has_no_common_period_is_left_alone(expression):
    assert half_angle(expression) is None


def test_alternation_is_proved_from_the_leading_coefficient_only():
    for expression in (SIN, X * COS + 1, SIN * sp.exp(-(X**2)), SIN / X + 1 / X**2, X**2 * (COS - sp.Rational(1, 2))):
        assert all(alternates(expression, end) for end in (sp.oo, -sp.oo))
    for expression in (X + SIN, 2 + SIN, COS**2, SIN / X + 2 / X, X**2, 1 - COS):
        assert not alternates(expression, sp.oo)
    assert alternates(SIN + sp.exp(-X), sp.oo)
    assert not alternates(SIN + sp.exp(-X), -sp.oo)


BOUNDED = [SIN, COS + SIN / 2, SIN**2 - COS, SIN / X, SIN * sp.exp(-(X**2)), SIN / (1 + X**2)]


@pytest.mark.parametrize("expression", BOUNDED)
@pytest.mark.parametrize("order", [0, 1])
def test_extrema_of_a_function_that_oscillates_agree_with_samples(expression, order):
    pieces = line(expression)
    if expression == SIN / X:  # Cut where it is 0/0, as an expression that is read is.
        pieces = (Piece(-sp.oo, sp.Integer(0), expression), Piece(sp.Integer(0), sp.oo, expression))
    f = sp.lambdify(X, sp.diff(expression, X, order), "mpmath")
    samples = [f(mp.mpf(k) / 500 + mp.mpf(1) / 7919) for k in range(-10000, 10000)]
    low, high, size = (find(pieces, order) for find in (infimum, supremum, supremum_of_magnitude))
    assert 0 <= ball_of(high.value) - max(samples) < 1e-4
    assert 0 <= min(samples) - ball_of(low.value) < 1e-4
    assert 0 <= ball_of(size.value) - max(map(abs, samples)) < 1e-4
    for taken in high.where:
        point = ball_of(taken.point)
        if point and ("from" not in taken.how or "multiple" in taken.how):
            assert abs(f(point) - ball_of(high.value)) < mp.mpf(10) ** -20


def test_an_oscillation_without_bound_is_infinite_and_one_that_starts_late_is_bounded_from_there():
    assert supremum(line(X * SIN)).value.exact == sp.oo
    assert infimum(line(X * SIN)).value.exact == -sp.oo
    late = (Piece(sp.Rational(101, 2), sp.oo, SIN / X),)
    # The greatest value after 50.5 is at the first maximum, near 16.5 pi; the least near 17.5 pi.
    assert abs(ball_of(supremum(late).value) - 0.0192874) < 1e-5
    assert abs(ball_of(infimum(late).value) + 0.0181860) < 1e-5
    # On this piece sin(x)/x begins behind its minimum at 4.4934, and rises from -0.208 on.
    behind = (Piece(sp.Rational(19, 4), sp.oo, SIN / X),)
    assert abs(ball_of(infimum(behind).value) - mp.sin(4.75) / 4.75) < 1e-12
    never_taken = supremum(line(SIN + sp.sin(sp.sqrt(2) * X)))  # It is 2.
    assert never_taken.value.ball.contains(2)
    assert never_taken.value.to_value().kind == "open"


def variance_map(f, q):
    """Return E f(x)^2, x ~ N(0, q), by the trapezoidal rule, which is accurate for smooth functions on a normal law."""
    z = np.linspace(-14, 14, 2001)
    return float(np.sum(f(np.sqrt(q) * z) ** 2 * np.exp(-(z**2) / 2)) * (z[1] - z[0]) / np.sqrt(2 * np.pi))


# Expressions whose moments have closed forms in exponentials, with f and f' in NumPy.
MOMENTS = {
    "sin(x)": (np.sin, np.cos), "cos(x)": (np.cos, np.sin),
    "x*sin(x)": (lambda x: x * np.sin(x), lambda x: np.sin(x) + x * np.cos(x)),
    "x*cos(x)": (lambda x: x * np.cos(x), lambda x: np.cos(x) - x * np.sin(x)),
    "x + sin(x)": (lambda x: x + np.sin(x), lambda x: 1 + np.cos(x)),
    "x + sin(x)^2": (lambda x: x + np.sin(x) ** 2, lambda x: 1 + np.sin(2 * x)),
    "2^x": (np.exp2, lambda x: np.log(2) * np.exp2(x)),
    "x^3 - 3*x": (lambda x: x**3 - 3 * x, lambda x: 3 * x**2 - 3),
    "x^5 - 2*x": (lambda x: x**5 - 2 * x, lambda x: 5 * x**4 - 2),
    "x^3/2 - x/4": (lambda x: x**3 / 2 - x / 4, lambda x: 1.5 * x**2 - 0.25),
    "x*cos(x)*3/2": (lambda x: 1.5 * x * np.cos(x), lambda x: 1.5 * np.cos(x) - 1.5 * x * np.sin(x)),
}  # fmt: skip


@pytest.mark.parametrize("variance", [1, Fraction(1, 5)])
@pytest.mark.parametrize("text", MOMENTS)
def test_moments_and_fixed_points_agree_with_quadrature(text, variance):
    rows = {row.key: row for row in propagation(read(text), sp.Rational(variance))}
    f, slope = MOMENTS[text]
    q, grid = float(variance), np.geomspace(1e-3, 1e3 if "2^x" not in text else 20, 1500)
    second, steep = variance_map(f, q), variance_map(slope, q)
    for key, known in {"second_moment": second, "slope_moment": steep, "gain": (q / second) ** 0.5,
                       "chi": q * steep / second}.items():  # fmt: skip
        assert rows[key].value.approx == pytest.approx(known, rel=1e-11), key
    ratios = np.array([variance_map(f, float(point)) / point for point in grid])
    fixed = rows["fixed_points"]
    assert len(fixed.where) == int(fixed.value.exact) == np.sum(np.diff(np.sign(ratios - 1)) != 0)
    for where in fixed.where:
        assert variance_map(f, where.approx) == pytest.approx(where.approx, rel=1e-10)
    crossings = np.sum(np.diff(np.sign(ratios - second / q)) != 0)
    unique = rows["uniqueness"]
    assert unique.value.kind == "statement"
    if unique.value.note.startswith("the only"):
        assert crossings == 1
        assert ("repelling" in unique.value.note) == (ratios[-1] > second / q)
    else:
        assert len(unique.where) == crossings - 1
        for where in unique.where:
            assert variance_map(f, where.approx) / where.approx == pytest.approx(second / q, rel=1e-10)


def test_a_derivative_whose_square_is_not_integrable_has_an_infinite_mean_and_the_rest_stays_finite():
    rows = {row.key: row for row in propagation(read("sqrt(relu(x))"))}
    assert rows["slope_moment"].value.kind == rows["chi"].value.kind == "infinite"
    assert rows["second_moment"].value.approx == pytest.approx((2 * np.pi) ** -0.5)
    assert rows["gain"].value.approx == pytest.approx((2 * np.pi) ** 0.25)
    assert rows["fixed_points"].where[0].approx == pytest.approx(1 / (2 * np.pi))
    rows = {row.key: row for row in propagation(read("relu(x)^(2/3)"))}  # f'^2 is a multiple of x^(-2/3).
    assert rows["slope_moment"].value.kind == "enclosure"


@pytest.mark.parametrize(
    ("text", "monotone", "convex", "stationary", "inflections"),
    [
        ("sin(x)", "not monotone", "neither", "infinite", "infinite"),
        ("x + sin(x)", "strictly increasing", "neither", "infinite", "infinite"),
        ("2*x + sin(x)", "strictly increasing", "neither", "exact", "infinite"),
        ("x^2 + sin(x)", "not monotone", "convex", "exact", "exact"),
        ("x^2/2 + sin(x)", "not monotone", "convex", "exact", "exact"),
        ("x*cos(x)", "not monotone", "neither", "infinite", "infinite"),
        ("sin(x)*exp(-x^2)", "not monotone", "neither", "infinite", "infinite"),
    ],
)
def test_the_shape_of_a_function_that_oscillates(text, monotone, convex, stationary, inflections):
    rows = {row.key: row for row in stationarity(read(text))}
    assert (rows["monotonicity"].value.note, rows["convexity"].value.note) == (monotone, convex)
    # x^2 + sin(x) has one stationary point, and x^2/2 + sin(x) no inflection though f'' = 1 - sin(x) vanishes for ever.
    counts = rows["stationary_points"].value, rows["inflection_points"].value
    assert tuple(value.kind for value in counts) == (stationary, inflections)
    assert rows["kinks"].value.exact == rows["dead_regions"].value.exact == "0"


def test_a_gate_without_a_limit_says_so():
    rows = {row.key: row.value for row in gate(read("x*cos(x)"))}
    assert rows["gate_left"].kind == rows["gate_right"].kind == "absent"
    assert rows["gate_cdf"].note.startswith("no: the gate has no limit")
    assert {row.key: row.value.note for row in gate(read("sin(x)"))}["gate_cdf"].startswith("no: the gate tends to 0")

"""Certificates against numbers known from elsewhere: closed forms, the literature, the spec's own constants."""

import math
from fractions import Fraction
from itertools import pairwise

import mpmath as mp
import numpy as np
import pytest
import sympy as sp
from flint import arb
from sympy import stats

from gem_activations import GemSpec
from gem_activations.analysis import certify
from gem_activations.analysis.approximation import distance
from gem_activations.analysis.balls import X
from gem_activations.analysis.exact import Number
from gem_activations.analysis.exact import exact as exact_number
from gem_activations.analysis.formulas import member
from gem_activations.analysis.proofs import Certificate, Property
from gem_activations.analysis.propagation import propagation
from gem_activations.analysis.smoothness import family_jump
from gem_activations.analysis.source import read
from gem_activations.catalog import parse

from ..definitions import DEFINITIONS, family
from .conftest import proved

FAMILY = ["gem", "gem(n=2)", "gem(n=3)", "egem(eps=1e-4)", "egem(n=2, eps=10)", "segem(eps=1e-4, leak=0.01)"]
# Gain and chi of docs/mathematics.md, to the digits printed there.
PROPAGATION = {
    "relu": (1.4142, 1.000), "gelu": (1.534, 1.072), "silu": (1.677, 1.067), "mish": (1.487, 1.059),
    "gem": (2.0694, 1.269), "gem(n=2)": (1.8086, 1.489), "gem(n=3)": (1.7140, 1.686), "egem(eps=1e-4)": (1.4144, 1.003),
    "egem(eps=1e-6)": (1.4142, 1.000), "egem(eps=10)": (5.828, 1.566), "egem(n=2, eps=1e-4)": (1.4152, 1.055),
    "egem(n=2, eps=1e-6)": (1.4142, 1.018), "egem(n=2, eps=10)": (2.952, 1.812),
}  # fmt: skip


def exact(row):
    return sp.sympify(row.value.exact)


def test_gelu(certificate):
    gelu = certificate("gelu")
    assert exact(gelu["lipschitz"]) == sp.erf(1) / 2 + sp.exp(-1) / sp.sqrt(sp.pi) + sp.Rational(1, 2)
    assert gelu["lipschitz"].value.approx == pytest.approx(1.128904145, abs=1e-9)
    assert [p.exact for p in gelu["lipschitz"].where] == ["sqrt(2)"]
    assert gelu["slope_infimum"].value.approx == pytest.approx(-0.128904145, abs=1e-9)
    assert gelu["infimum"].value.approx == pytest.approx(-0.169971, abs=5e-7)
    assert gelu["infimum"].where[0].approx == pytest.approx(-0.751792, abs=5e-7)
    assert exact(gelu["gradient_lipschitz"]) == sp.sqrt(2 / sp.pi)
    assert [p.exact for p in gelu["gradient_lipschitz"].where] == ["0"]
    assert not gelu["lipschitz"].value.approx < 1.084


@pytest.mark.parametrize("name", FAMILY)
def test_constants_of_the_spec(name, certificate):
    spec, found = parse(name).spec, certificate(name)
    assert found["order"].value.exact == str(spec.smoothness)
    assert found["lipschitz"].value.approx == pytest.approx(spec.lipschitz, rel=1e-15)
    assert found["gradient_lipschitz"].value.approx == pytest.approx(spec.sup_second_derivative, rel=1e-13)
    jump = (1 - spec.leak) * math.factorial(2 * spec.n + 1) / spec.eps
    assert found["jump"].value.approx == pytest.approx(jump, rel=1e-14)
    if spec.leak == 0:
        assert found["distance_sup"].value.approx == pytest.approx(spec.distance_to_relu(), rel=1e-14)
        assert found["distance_l2"].value.approx == pytest.approx(spec.distance_to_relu(2), rel=1e-13)
        assert found["dead_regions"].where[0].note.startswith("(-oo, 0]")
    else:
        assert found["dead_regions"].value.exact == "0"
        assert found["slope_infimum"].value.approx == spec.leak


def test_l1_distance_diverges_for_n_1_only(certificate):
    assert certificate("gem")["distance_l1"].value.kind == "infinite"
    assert exact(certificate("gem(n=2)")["distance_l1"]) == sp.pi / 4


@pytest.mark.parametrize("name", ["gem(n=2)", "gem(n=3)"])
@pytest.mark.parametrize("p", [1, 2])
def test_the_beta_integral_against_quadrature(name, p, certificate):
    f, _, _ = DEFINITIONS[name]
    norm = mp.quad(lambda x: (x - f(x)) ** p, [0, 1, 4, mp.inf]) ** (mp.mpf(1) / p)
    row = certificate(name)[f"distance_l{p}"]
    assert abs(norm - mp.mpf(row.value.low)) < mp.mpf(10) ** -15


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 64])
def test_every_distance_of_the_family_is_closed(n):
    rows = {row.key: row.value for row in distance(read(f"gem(n={n})"))}
    assert {"distance_sup", "distance_l1", "distance_l2"} < set(rows)
    assert all(value.kind != "open" for value in rows.values())
    for p in (1, 2) if n > 1 else (2,):
        beta = mp.beta(mp.mpf(p + 1) / (2 * n), p - mp.mpf(p + 1) / (2 * n)) / (2 * n)
        low, high = mp.mpf(rows[f"distance_l{p}"].low), mp.mpf(rows[f"distance_l{p}"].high)
        assert low - mp.mpf(10) ** -30 <= beta ** (mp.mpf(1) / p) <= high + mp.mpf(10) ** -30


@pytest.mark.parametrize("n", range(1, 9))
def test_jump_of_the_family_for_symbolic_eps_and_leak(n):
    jump = family_jump(n)
    names = {str(symbol): symbol for symbol in jump.free_symbols}
    assert sp.simplify(jump - (1 - names["leak"]) * sp.factorial(2 * n + 1) / names["eps"]) == 0


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_gate_is_log_logistic_for_symbolic_eps(n):
    x, eps = sp.symbols("x eps", positive=True)
    law = stats.cdf(stats.LogLogistic("Y", eps ** sp.Rational(1, 2 * n), 2 * n))(x)
    assert sp.simplify(member(n, eps, sp.Integer(0)).subs(X, x) / x - law) == 0


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("gelu", "standard normal"), ("silu", "standard logistic"), ("golu", "standard Gumbel (of maxima)"),
        ("hardswish", "uniform on [-3, 3]"), ("relu", "point mass at 0"),
        ("gem(n=2)", "log-logistic with shape 4 and scale 1"),
        ("egem(eps=1e-4)", "log-logistic with shape 2 and scale 1/100"),
        (
            "mish",
            "none of: standard normal, standard logistic, standard Gumbel, uniform between two joints, point mass at 0",
        ),
    ],
)  # fmt: skip
def test_law_of_the_gate(name, law, certificate):
    assert certificate(name)["gate_cdf"].value.note.startswith("yes")
    assert certificate(name)["gate_law"].value.note == law


def test_a_gate_with_a_floor_is_no_cdf(certificate):
    segem = certificate("segem(eps=1e-4, leak=0.01)")
    assert segem["gate_cdf"].value.note.startswith("no")
    assert segem["gate_law"].value.note == "log-logistic with shape 2 and scale 1/100"


@pytest.mark.parametrize("name", PROPAGATION)
def test_gain_and_chi_of_the_mathematics(name, certificate):
    gain, chi = PROPAGATION[name]
    digits = 4 if name in ("relu", "gem", "gem(n=2)", "gem(n=3)") or "e-" in name else 3
    found = certificate(name)
    assert round(found["gain"].value.approx, digits) == pytest.approx(gain, abs=1e-9)
    assert round(found["chi"].value.approx, 3) == pytest.approx(chi, abs=1e-9)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_moments_against_gauss_legendre(name, certificate):
    activation, found = parse(name), certificate(name)
    scale = activation.spec.scale if activation.spec else 1.0
    cuts = sorted({-12.0, -6.0, -3.0, -1.0, 0.0, 1.0, 3.0, 6.0, 12.0, -0.5, 0.5, *(scale * 4.0 ** np.arange(-3, 3))})
    nodes, weights = np.polynomial.legendre.leggauss(60)
    total = dict.fromkeys(["mean", "second_moment", "fourth"], 0.0)
    for low, high in pairwise(cuts):
        z = low + (high - low) * (nodes + 1) / 2
        mass = weights * (high - low) / 2 * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        value = activation(z)
        total["mean"] += float(mass @ value)
        total["second_moment"] += float(mass @ value**2)
        total["fourth"] += float(mass @ (z * value) ** 2)
    assert proved(found, "mean").value.approx == pytest.approx(total["mean"], rel=1e-11, abs=1e-14)
    assert proved(found, "second_moment").value.approx == pytest.approx(total["second_moment"], rel=1e-11)
    slope = (total["fourth"] / total["second_moment"] - 1) / 2
    assert proved(found, "map_slope").value.approx == pytest.approx(slope, rel=1e-10)


@pytest.mark.parametrize("name", ["gelu", "mish", "gem", "egem(eps=1e-4)", "golu", "tanh"])
def test_gradient_moment_against_quadrature(name, certificate):
    f, _, _ = DEFINITIONS[name]
    cuts = [-14, -4, -1, -0.1, 0, 0.003, 0.02, 0.1, 0.5, 1, 4, 14]
    with mp.workdps(25):

        def weighted(z):
            step = mp.mpf(10) ** -8
            slope = (8 * (f(z + step) - f(z - step)) - f(z + 2 * step) + f(z - 2 * step)) / (12 * step)
            return slope**2 * mp.npdf(z)

        moment = mp.quad(weighted, cuts, maxdegree=5)
    assert found_close(certificate(name)["slope_moment"].value, moment)


def found_close(value, moment):
    return abs(mp.mpf(value.low) - moment) < mp.mpf(10) ** -11


def test_fixed_points_of_the_variance_map(certificate):
    assert certificate("squareplus")["fixed_points"].where[0].approx == pytest.approx(2, rel=1e-14)
    assert certificate("relu2")["fixed_points"].where[0].approx == pytest.approx(2 / 3, rel=1e-14)
    assert certificate("selu")["fixed_points"].where[0].approx == pytest.approx(1, rel=1e-12)
    assert certificate("gem")["fixed_points"].value.exact == "0"
    assert certificate("relu")["uniqueness"].value.note.startswith("every q")
    assert certificate("telu")["uniqueness"].value.note.startswith("the only fixed point")


@pytest.mark.parametrize("name", ["gelu", "selu", "telu", "hardsigmoid", "hardshrink", "tanhshrink", "squareplus"])
def test_the_ratio_of_the_variance_map_crosses_each_level_once(name):
    activation = parse(name)
    z, weights = np.polynomial.hermite_e.hermegauss(200)
    q = np.geomspace(1e-3, 1e3, 200)
    ratio = (activation(np.sqrt(q)[:, None] * z) ** 2) @ weights / math.sqrt(2 * math.pi) / q
    for level in (ratio[60], ratio[100], ratio[140]):
        assert np.count_nonzero(np.diff(np.sign(ratio - level * (1 + 1e-9)))) == 1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_conditioning_of_the_inverse(n, certificate):
    found = certificate(f"gem(n={n})" if n > 1 else "gem")
    assert exact(found["input_conditioning_min"]) == sp.Rational(1, 2 * n + 1)
    assert exact(found["input_conditioning_max"]) == 1
    assert exact(found["gradient_conditioning"]) == max(
        sp.Rational(2 * n, 2 * n + 1), sp.Rational((2 * n - 1) ** 2, 4 * (2 * n + 1))
    )


def test_cost_of_the_family_has_no_transcendental_call(certificate):
    for name in FAMILY:
        cost = certificate(name)["cost_value"].value.note
        assert "1 division" in cost
        assert "transcendental" not in cost
    assert certificate("gem")["cost_value"].value.note == "1 addition, 2 multiplications, 1 division, 1 comparison"
    assert certificate("gem(n=2)")["cost_gradient"].value.note == "1 addition, 2 multiplications"
    assert "1 transcendental call" in certificate("gelu")["cost_value"].value.note


def test_a_spec_and_its_string_have_the_same_certificate(certificate):
    assert certificate(GemSpec(n=2)) == certificate("gem(n=2)")
    assert certificate("egem(eps=1/10000)") == certificate("egem(eps=1e-4)")


@pytest.mark.parametrize("name", ["gelu", "tanh"])
def test_tanh_is_odd_and_gelu_is_not(name, certificate):
    assert (certificate(name)["mean"].value.exact == "0") == (name == "tanh")


@pytest.mark.parametrize("name", ["egem(n=2, eps=10)", "elu", "hardswish", "mish"])
@pytest.mark.parametrize("variance", ["1/10000", "1/4", "100"])
def test_moments_for_other_variances(name, variance):
    activation, q = parse(name), Fraction(variance)
    found = certify(name, variance=q)
    nodes, weights = np.polynomial.legendre.leggauss(80)
    total = 0.0
    spread = np.geomspace(1e-3, 12, 20)
    joints = [joint / math.sqrt(q) for joint in DEFINITIONS[name].joints if abs(joint) < 12 * math.sqrt(q)]
    for low, high in pairwise(np.sort([*-spread, 0.0, *spread, *joints])):
        z = low + (high - low) * (nodes + 1) / 2
        mass = weights * (high - low) / 2 * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        total += float(mass @ activation(math.sqrt(q) * z) ** 2)
    assert found["second_moment"].value.approx == pytest.approx(total, rel=1e-10)


def test_a_joint_beyond_the_reach_of_the_law_is_no_trouble():
    x = sp.Symbol("x")
    late = sp.Piecewise((x, x < 3), (3 + (x - 3) / (1 + (x - 3) ** 2), True))
    found = certify(late, variance=Fraction(1, 10**4))
    assert found["second_moment"].value.approx == pytest.approx(1e-4, rel=1e-12)


@pytest.mark.parametrize("name", ["gelu", "gem", "tanh", "egem(eps=1e-4)"])
@pytest.mark.parametrize("variance", [Fraction(1, 10**20), Fraction(10**20)])
def test_moments_at_extreme_variances_are_sharp(name, variance):
    rows = {
        row.key: row.value for row in propagation(read(name), sp.Rational(variance.numerator, variance.denominator))
    }
    assert all(value.kind != "open" for value in rows.values())
    for key in ("second_moment", "slope_moment", "gain", "chi", "map_slope"):
        low, high = mp.mpf(rows[key].low), mp.mpf(rows[key].high)
        assert high - low <= abs(low) * mp.mpf(10) ** -12
    assert sharp_second(name, variance).ae(rows["second_moment"].approx, rel_eps=1e-12)


def sharp_second(name, variance):
    f, _, _ = DEFINITIONS[name]
    deviation = mp.sqrt(mp.mpf(variance.numerator) / variance.denominator)
    scales = [mp.mpf(10) ** k for k in (-12, -11, -10, -9, -8, -6, -4, -2)]
    cuts = [-14, -4, -1, *(-s for s in reversed(scales)), 0, *scales, 1, 4, 14]
    return mp.quad(lambda z: f(deviation * z) ** 2 * mp.npdf(z), cuts)


def test_a_wide_enclosure_is_open_and_kept():
    wide = Number(None, arb(3, 1e-9)).to_value("a remark")
    assert (wide.kind, wide.approx) == ("open", 3.0)
    assert mp.mpf(wide.low) <= 3 - mp.mpf("1e-9")
    assert "a remark" in wide.note
    assert Number(None, arb(3, 1e-13)).to_value().kind == "enclosure"
    around_zero = Number(None, arb(0, 1e-30)).to_value()
    assert around_zero.kind == "open"
    assert "holds 0" in around_zero.note


def test_a_number_beyond_float64_keeps_its_digits():
    huge = exact_number(sp.Integer(8) * sp.Integer(10) ** 400 + sp.Rational(1, 3)).to_value()
    assert huge.approx is None
    assert huge.low.endswith("e400")
    row = Property("class", "jump", "Jump", huge)
    found = Certificate("f", "f", "x", "", "1", {}, (row,))
    assert "Infinity" not in found.to_json()
    assert Certificate.from_json(found.to_json()) == found
    assert "e400" in str(Number(None, arb(10) ** 400).to_value())


def test_moments_of_a_function_with_an_unbounded_derivative():
    rows = {row.key: row.value for row in propagation(read(sp.exp(sp.Symbol("x"))))}
    assert rows["mean"].approx == pytest.approx(math.exp(0.5), rel=1e-14)
    assert rows["fixed_points"].exact == "0"


@pytest.mark.parametrize(
    ("name", "power", "f"),
    [
        ("silu", 20, lambda x: x / (1 + mp.exp(-x))),
        ("mish", 20, lambda x: x * mp.tanh(mp.log1p(mp.exp(x))) if x > -80 else x * mp.exp(x)),
        ("softplus", 40, lambda x: mp.log1p(mp.exp(x)) if x < 200 else x),
    ],
)
def test_a_wide_law_sees_the_asymptotes_and_a_small_rest(name, power, f):
    rows = {row.key: row.value for row in propagation(read(name), sp.Integer(10) ** power)}
    assert all(value.kind != "open" for value in rows.values())
    # E f^2 = q/2 plus what f differs from ReLU near 0, where the density is phi(0) / s to within (400 / s)^2.
    with mp.workdps(90):
        deviation = mp.mpf(10) ** (power // 2)
        cuts = [-400, -60, -20, -5, 0, 5, 20, 60, 400]
        near = mp.quad(lambda x: f(x) ** 2 - max(x, 0) ** 2, cuts) / (deviation * mp.sqrt(2 * mp.pi))
        slack = abs(near) * (400 / deviation) ** 2
        excess = [mp.mpf(end) - deviation**2 / 2 for end in (rows["second_moment"].low, rows["second_moment"].high)]
        assert excess[0] - slack <= near <= excess[1] + slack
        assert excess[1] - excess[0] < deviation**2 * mp.mpf(10) ** -12


def test_extreme_parameters_are_closed_and_right(certificate):
    names = "softplus(beta=1e12)", "egem(n=60, eps=1e-200)", "celu(alpha=1e-30)"
    found = {name: certificate(name) for name in names}
    assert [(name, row.key) for name, c in found.items() for row in c.properties if row.value.kind == "open"] == []
    soft, steep, sharp = found.values()
    # The integral of s(t)^2 - [t > 0] is -1 for the logistic s, so that E f'^2 = 1/2 - phi(0) / beta + O(beta^-3).
    near = mp.mpf(1) / 2 - mp.npdf(0) / mp.mpf(10) ** 12
    low, high = mp.mpf(soft["slope_moment"].value.low), mp.mpf(soft["slope_moment"].value.high)
    assert low - mp.mpf(10) ** -30 <= near <= high + mp.mpf(10) ** -30
    f = family(60, Fraction(1, 10**200))
    cuts = [mp.mpf(k) / 10000 for k in (0, 150, 190, 210, 215, 220, 240, 300, 1000, 10000, 40000, 140000)]
    assert found_close(steep["second_moment"].value, mp.quad(lambda z: f(z) ** 2 * mp.npdf(z), cuts))
    assert steep["lipschitz"].value.exact == "14641/480"
    assert sharp["second_moment"].value.approx == pytest.approx(0.5, rel=1e-12)
    assert sharp["gate_law"].value.note.startswith("none of")


@pytest.mark.parametrize("eps", ["1", "1/100", "10", "7/3"])
def test_the_moments_of_n_1_are_closed_for_any_eps(eps):
    e = sp.Rational(eps)
    g0 = sp.sqrt(sp.pi / 2) * sp.exp(e / 2) * sp.erfc(sp.sqrt(e / 2)) / sp.sqrt(e)
    found = {row.key: row.value for row in propagation(read(f"egem(eps={eps})"))}
    second = (1 - 2 * e - e**2 / 2 + e**2 * (5 + e) * g0 / 2) / 2
    for key, known in (("second_moment", second), ("gain", 1 / sp.sqrt(second))):
        assert mp.mpf(found[key].low) * (1 - mp.mpf(10) ** -18) <= mp.mpf(str(sp.N(known, 40)))
        assert mp.mpf(str(sp.N(known, 40))) <= mp.mpf(found[key].high) * (1 + mp.mpf(10) ** -18)
    f, _, *_ = DEFINITIONS["gem"] if eps == "1" else (family(1, Fraction(eps)), [0])
    assert found_close(found["second_moment"], mp.quad(lambda z: f(z) ** 2 * mp.npdf(z), [0, 0.1, 1, 4, 14]))


def test_the_exact_gain_of_gem(certificate):
    gem = certificate("gem")
    g0 = sp.sqrt(sp.pi / 2) * sp.exp(sp.Rational(1, 2)) * sp.erfc(1 / sp.sqrt(2))
    assert sp.simplify(exact(gem["second_moment"]) - (3 * g0 - sp.Rational(3, 2)) / 2) == 0
    assert sp.simplify(exact(gem["slope_moment"]) - (5 * g0 / 6 - sp.Rational(1, 4))) == 0
    assert gem["gain"].value.kind == gem["chi"].value.kind == "exact"

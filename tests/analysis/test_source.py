"""What a certificate may be asked of, and what is refused with its reason."""

import re

import mpmath as mp
import pytest
import sympy as sp

from gem_activations import GemError, GemSpec
from gem_activations.analysis import Certificate, CertificateError, certify, pages
from gem_activations.analysis.balls import X
from gem_activations.analysis.expressions import parse_expression
from gem_activations.analysis.relu import distance
from gem_activations.analysis.source import read
from gem_activations.errors import ActivationNameError, SpecError

x, y = sp.symbols("x y")


def test_an_expression_outside_the_catalog():
    found = certify(x * sp.exp(-(x**2)))
    assert found["lipschitz"].value.exact == "1"
    assert found["supremum"].value.exact == "sqrt(2)*exp(-1/2)/2"
    assert found["order"].value.note.startswith("infinity")
    assert found["mean"].value.exact == "0"


def test_a_piecewise_expression():
    found = certify(sp.Max(x, 0) ** 3)
    assert found["order"].value.exact == "2"
    assert found["jump"].value.exact == "6"
    assert found["lipschitz"].value.kind == "infinite"


def test_the_relu_as_an_expression_has_the_relu_s_certificate():
    ours, named = certify(sp.Max(x, 0)), certify("relu")
    same = [row.key for row in named.properties if row.key in [r.key for r in ours.properties]]
    assert len(same) == len(named.properties)
    for key in same:
        assert ours[key].value == named[key].value, key


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (x * y, "free symbol"),
        (sp.Integer(3), "free symbol"),
        (1 / x, "pole"),
        (x / (x**2 - 2), "pole"),
        (sp.tan(x), "does not know"),
        (sp.besselj(0, x), "besselj"),
        (sp.log(x), "not real|singularity"),
        (sp.sqrt(x), "not real|singularity"),
        (0.1 * x, "rounded"),
        (sp.I * x, "not a real"),
        (sp.Piecewise((x, x > 0)), "not defined"),
        (sp.Piecewise((0, x < 0), (5, sp.Eq(x, 0)), (x, True)), "isolated"),
        (sp.Piecewise((1 / x, x > 0), (0, True)), "pole|singularity"),
        (sp.exp(1 / x), "pole"),
        (sp.sin(x), "does not know"),
        (lambda v: v, "not an activation"),
        (None, "not an activation"),
    ],
)
def test_functions_without_a_certificate(target, reason):
    with pytest.raises(CertificateError, match=reason):
        certify(target)


@pytest.mark.parametrize("name", ["gem(n=0)", "egem(eps=0)", "egem(eps=-1)", "segem(leak=1)"])
def test_parameters_out_of_range(name):
    with pytest.raises(SpecError):
        certify(name)


def test_unknown_names():
    with pytest.raises(ActivationNameError):
        certify("geluu")


@pytest.mark.parametrize("variance", [0, -1, float("inf"), float("nan")])
def test_variances_out_of_range(variance):
    with pytest.raises(GemError):
        certify("relu", variance=variance)


def test_a_variance_map_with_two_crossings_is_left_open():
    # h/2 - 1 = (x^4 - 2)^2 - 1 runs from 3 through -1 to infinity; V(q)/q = 945 q^4 - 60 q^2 + 4 is never 1.
    found = certify(x**5 - 2 * x)
    assert found["fixed_points"].value.kind == "open"
    assert "changes sign 2 times" in found["fixed_points"].value.note


def test_a_variance_map_that_starts_at_its_level_crosses_it_once():
    # h/2 - 1 = (x^4 - 1)^2 - 1 is 0 at 0 and changes sign once; V(q)/q - 1 = 945 q^4 - 30 q^2.
    row = certify(x**5 - x)["fixed_points"]
    assert row.value.exact == "1"
    low, high = mp.mpf(row.where[0].low), mp.mpf(row.where[0].high)
    assert low <= mp.sqrt(mp.mpf(2) / 63) <= high < low * (1 + mp.mpf(10) ** -12)
    slope = float(re.search(r"slope of the map there .*?([\d.]+)", row.where[0].note).group(1))
    assert slope == pytest.approx(61 / 21, rel=1e-9)


def test_an_extremum_that_is_not_proved_is_one_open_row():
    found = certify((x**2 + 1) ** sp.Rational(1, 3))
    assert [row.key for row in found.properties if row.value.kind == "open"] == ["distance_sup"]
    assert found["infimum"].value.exact == "1"


def test_a_difference_that_falls_slower_than_a_power_is_not_called_like_it():
    found = {row.key: row.value for row in distance(read(sp.Max(x, 0) + (x**2 + 1) ** sp.Rational(-1, 4)))}
    assert found["distance_l1"].kind == "infinite"
    assert "more slowly than |x|^-1" in found["distance_l1"].note


def test_a_discontinuity_is_stated():
    found = certify(sp.Piecewise((0, x < 0), (1, True)))
    assert found["order"].value.kind == "absent"
    assert found["lipschitz"].value.note == "infinite: f jumps at x = 0"
    assert found["jump"].value.exact == "1"


def test_the_variance_scales_the_moments():
    assert certify("relu", variance=4)["second_moment"].value.exact == "2"
    assert certify("relu", variance=4)["gain"].value.exact == "sqrt(2)"


def test_json_goes_there_and_back():
    found = certify(GemSpec(n=2, eps=0.5))
    assert Certificate.from_json(found.to_json()) == found
    with pytest.raises(CertificateError):
        Certificate.from_json("{}")
    with pytest.raises(CertificateError):
        Certificate.from_json("not json")
    with pytest.raises(CertificateError, match="no row"):
        _ = found["nonsense"]


def test_a_plot_of_another_formula_is_stale(tmp_path):
    found = [certify("relu"), certify("hardtanh")]
    pages.write(tmp_path, found)
    assert pages.stale(tmp_path, pages.texts(found)) == []
    (tmp_path / "relu.svg").write_bytes((tmp_path / "hardtanh.svg").read_bytes())
    assert pages.stale(tmp_path, pages.texts(found)) == ["relu.svg"]


@pytest.mark.parametrize(
    "target",
    [
        sp.exp(-(x**2)) - sp.exp(-sp.Rational(10001, 10000) * x**2),
        (1 + x) / (1 + sp.Abs(1 + x - x**3)),
    ],
)
def test_a_hard_function_is_left_open_within_its_budget(target):
    try:
        found = certify(target, budget=2)
    except CertificateError as error:
        assert "2 s" in str(error) or "cannot" in str(error)  # noqa: PT017
        return
    assert all(row.value.note.startswith("not closed") for row in found.properties if row.value.kind == "open")


@pytest.mark.parametrize("budget", [0, -1, float("inf"), float("nan")])
def test_budgets_out_of_range(budget):
    with pytest.raises(CertificateError, match="seconds"):
        certify("relu", budget=budget)


@pytest.mark.parametrize(
    "target",
    ["leaky_relu", "prelu", "rrelu", "selu", sp.Piecewise((x, x < 1), (2 * x - 1, True))],
)
def test_a_jump_of_the_gradient_between_live_pieces_leaves_no_bound_of_its_change(target):
    found = certify(target)
    for key in ("gradient_sensitivity", "gradient_conditioning"):
        assert found[key].value.kind == "infinite"
        assert "f' jumps" in found[key].value.note
    assert certify("gem")["gradient_conditioning"].value.exact == "2/3"
    assert certify("relu")["gradient_sensitivity"].value.exact == "0"  # Of one live piece.


def test_softshrink_is_invertible_on_one_closed_and_one_open_half_line():
    note = certify("softshrink")["invertible"].value.note
    assert note.startswith("only where f' is not 0: on (-oo, -1/2] and (1/2, oo);")


def test_text_in_the_grammar_has_the_certificate_of_its_expression():
    ours, known = certify("x*exp(-x^2)"), certify(x * sp.exp(-(x**2)))
    assert [row.value for row in ours.properties] == [row.value for row in known.properties]
    assert parse_expression("1.5*max(x, 0)**2 - 2e-3") == sp.Rational(3, 2) * sp.Max(X, 0) ** 2 - sp.Rational(1, 500)
    assert parse_expression("-x^2") == -(X**2)
    assert parse_expression("2^-x^2") == 2 ** (-(X**2))
    assert certify("piecewise((x, x < 1), (2*x - 1, true))")["order"].value.exact == "0"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("__import__('os').system('x')", "cannot be read"), ("x.__class__", "cannot be read"),
        ("lambda x: x", "cannot be read"),
        ("x + y", "unknown name 'y'"), ("open(x)", "unknown name 'open'"), ("[x for x in x]", "cannot be read"),
        ("x*(", "lacks"), ("(x", "lacks"), ("x x", "goes on"), ("2x", "goes on"), ("x/0", "divides by 0"),
        ("9^9^9^9*x", "power"), ("((9^99)^99)^99*x", "power"), ("1e999*x", "digits"), ("x" + "+x" * 600, "characters"),
        ("(" * 60 + "x" + ")" * 60, "nested"), ("max(x)", "argument"),
        ("sqrt(-1)*x", "not a real"), ("log(0)*x", "real"),
        ("0*x", "free symbol"), ("piecewise((x, x))", "comparison"),
        ("tan(x)", "unknown name"), ("log(x)", "not real|singul"),
    ],
)  # fmt: skip
def test_bad_text_is_refused_with_its_reason(text, reason):
    with pytest.raises(CertificateError, match=reason):
        certify(text)

"""docs/claims.md against the certificates: a number that is not the certificate's fails."""

from pathlib import Path

import pytest
import sympy as sp

from gem_activations.analysis.balls import X

# Its formulas as plain text: $\\sqrt{\\pi}/2$ is sqrt(pi)/2.
PAGE = (Path(__file__).parents[2] / "docs" / "claims.md").read_text().translate(str.maketrans("{}", "()", "$\\"))
GELU = X * (1 + sp.erf(X / sp.sqrt(2))) / 2

# Name, row, how the value is written on the page.
QUOTED = [
    ("gem", "jump", "6 for GEM n=1"), ("gem(n=2)", "jump", "120 for n=2"),
    ("egem(eps=1e-4)", "jump", "60000 for E-GEM"),
    ("segem(eps=1e-4, leak=0.01)", "jump", "59400 at eps = 1e-4"),
    ("segem(eps=1e-4, leak=0.01)", "gate_left", "1/100 at -inf"),
    ("gem", "distance_l2", "sqrt(pi)/2 for eps = 1"), ("egem(eps=1e-4)", "distance_l2", "0.000886227 for eps = 1e-4"),
    ("gem(n=2)", "distance_l1", "pi/4"), ("gem", "lipschitz", "9/8"), ("gem(n=2)", "lipschitz", "25/16"),
    ("gem(n=3)", "lipschitz", "49/24"), ("gem", "gradient_lipschitz", "1.457107 at eps = 1"),
    ("egem(eps=1e-4)", "gradient_lipschitz", "145.7107 at eps = 1e-4"),
    ("segem(eps=1e-4, leak=0.01)", "slope_infimum", "0.01"), ("gem", "gradient_conditioning", "2/3"),
    ("gem(n=2)", "gradient_conditioning", "4/5"), ("gem(n=3)", "gradient_conditioning", "25/28"),
    ("gelu", "infimum", "-0.169971 at x"), ("gelu", "slope_infimum", "-0.128904 at x"),
    ("gelu", "lipschitz", "1.128904 at x"), ("gelu", "gradient_lipschitz", "0.797885"),
    ("gelu_tanh", "infimum", "-0.170041"), ("gelu_tanh", "lipschitz", "1.128993"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "key", "text"), QUOTED)
def test_a_quoted_number_is_the_certificate_s(name, key, text, certificate):
    assert text in PAGE
    number = text.split(" ")[0]
    value = certificate(name)[key].value
    if value.approx is None:
        assert value.note == number
        return
    quoted = sp.sympify(number)
    digits = len(number.partition(".")[2])
    tolerance = 0 if not digits else sp.Rational(51, 100 * 10**digits)
    assert abs(sp.N(quoted - sp.Rational(value.low), 30)) <= max(tolerance, sp.Rational(1, 10**17))


def test_statements(certificate):
    gem, gelu, segem = certificate("gem"), certificate("gelu"), certificate("segem(eps=1e-4, leak=0.01)")
    assert gem["cost_value"].value.note.startswith("1 addition, 2 multiplications, 1 division")
    assert gem["cost_gradient"].value.note == "1 addition, 2 multiplications"
    assert gem["dead_regions"].where[0].note.startswith("(-oo, 0]")
    assert segem["dead_regions"].value.exact == "0"
    assert segem["stationary_points"].value.exact == "0"
    assert gem["distance_l1"].value.kind == "infinite"
    assert "eps = 4 d^2" in gem["eps_for_distance"].value.note
    assert "eps = 256/27 d^4" in certificate("gem(n=2)")["eps_for_distance"].value.note
    assert gelu["infimum"].where[0].approx == pytest.approx(-0.751792, abs=5e-7)
    assert gelu["monotonicity"].value.note == "not monotone"
    assert gelu["asymptote_right"].value.note == "y = x"
    assert certificate("gem(n=4)")["gradient_conditioning"].value.approx > 1
    assert str(sp.N(sp.diff(GELU, X).subs(X, 1), 7)) == "1.083315"
    assert certificate("gelu_tanh")["gate_cdf"].value.note.startswith("yes")
    assert certificate("gelu_tanh")["gate_law"].value.note.startswith("none of")


@pytest.mark.parametrize("n", range(1, 8))
def test_relative_sensitivity_of_the_gradient_in_general(n, certificate):
    row = certificate(f"gem(n={n})" if n > 1 else "gem")["gradient_conditioning"]
    expected = max(sp.Rational(2 * n, 2 * n + 1), sp.Rational((2 * n - 1) ** 2, 4 * (2 * n + 1)))
    assert sp.sympify(row.value.exact) == expected


def test_the_beta_integrand_of_the_distance_for_symbolic_n_and_p():
    n, p, eps, odds = sp.symbols("n p eps t", positive=True)
    x = (eps * odds) ** (1 / (2 * n))
    gate = odds / (1 + odds)
    assert sp.simplify(x ** (2 * n) / (x ** (2 * n) + eps) - gate) == 0
    ours = (x / (1 + odds)) ** p * sp.diff(x, odds) / sp.diff(gate, odds)  # (x - f)^p dx/dF
    first = (p + 1) / (2 * n)
    beta = eps**first / (2 * n) * gate ** (first - 1) * (1 / (1 + odds)) ** (p - first - 1)
    logarithm = sp.expand_log(sp.log(ours), force=True) - sp.expand_log(sp.log(beta), force=True)
    assert sp.simplify(sp.expand_log(sp.simplify(logarithm), force=True)) == 0

"""Altered formulas: every mutation must change the class or break a claim, or the certificates prove nothing."""

import pytest
import sympy as sp

from gem_activations.analysis.balls import X
from gem_activations.analysis.formulas import Formula, Scheme, cost, formula, line, member
from gem_activations.analysis.proofs import CertificateError
from gem_activations.analysis.shape import gate, stationarity
from gem_activations.analysis.smoothness import smoothness
from gem_activations.catalog import parse


def altered(*parts, like="gem", scheme=None):
    """Return a formula with other pieces but the same claims: name, family, and scheme unless another is given."""
    original = formula(parse(like))
    pieces = line(*parts)
    joints = tuple(piece.end(0, right=True) for piece in pieces[:-1])
    return Formula(original.name, original.title, pieces, joints, scheme=scheme, family=original.family)


def row(rows, key):
    return next(r for r in rows if r.key == key)


def order(function):
    return row(smoothness(function), "order").value


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_unaltered_family_has_class_2n(n):
    assert order(altered(0, 0, member(n, sp.Integer(1), sp.Integer(0)))).exact == str(2 * n)


@pytest.mark.parametrize(
    ("positive", "expected"),
    [
        (X**2 / (1 + X**2), "1"),  # x^(2n) for x^(2n+1)
        (X**3 / (1 + X**4), "2"),  # n = 2 below, n = 1 above: class of n = 1, but f -> 0
        (X**5 / (1 + X**4), "4"),  # n = 2, where n = 1 is claimed
        (X**4 / (1 + X**3), "3"),
        (X**3 / (1 + X**2) + X / 100, "0"),  # the leak on the positive side only
        (X * (X - 1) ** 2 / (1 + (X - 1) ** 2), "0"),  # the gate shifted by 1
    ],
)
def test_altered_exponents_change_the_class(positive, expected):
    assert order(altered(0, 0, positive)).exact == expected


def test_a_leak_on_the_wrong_side_breaks_the_joint_and_the_dead_region():
    wrong = altered(0, 0, member(1, sp.Rational(1, 100), sp.Rational(1, 100)))
    assert order(wrong).exact == "0"
    assert row(stationarity(wrong), "dead_regions").value.exact == "1"
    right = altered(X / 100, 0, member(1, sp.Rational(1, 100), sp.Rational(1, 100)))
    assert order(right).exact == "2"
    assert row(stationarity(right), "dead_regions").value.exact == "0"


def test_a_jump_is_no_class_at_all():
    assert order(altered(0, 0, X**3 / (1 + X**2) + 1)).kind == "absent"


def test_a_joint_moved_by_a_hair_is_seen():
    shifted = altered(0, sp.Rational(1, 10**9), X**3 / (1 + X**2))
    assert order(shifted).kind == "absent"


def test_an_altered_gate_loses_its_law():
    wrong = altered(X * (1 + sp.erf(X / sp.sqrt(2) - sp.Rational(1, 10))) / 2, like="gelu")
    assert row(gate(wrong), "gate_law").value.note.startswith("none of")
    wrong = altered(0, 0, X**3 / (sp.Rational(1001, 1000) + X**2))
    assert row(gate(wrong), "gate_law").value.note.startswith("none of")


def test_a_gate_that_falls_is_no_cdf():
    wrong = altered(X * (1 + sp.erf(X / sp.sqrt(2)) + sp.exp(-(X**2))) / 2, like="gelu")
    assert "falls" in row(gate(wrong), "gate_cdf").value.note


def test_a_wrong_evaluation_scheme_is_refused():
    t = sp.Symbol("t", real=True)
    wrong = Scheme(((t, sp.tanh(X)),), t, 1 - t, "tanh' is 1 - tanh^2")
    with pytest.raises(CertificateError, match="is not"):
        cost(altered(sp.tanh(X), like="tanh", scheme=wrong))


def test_a_second_minimum_is_found():
    bumped = altered(X * (1 + sp.erf(X / sp.sqrt(2))) / 2 - 2 * sp.exp(-((X - 3) ** 2)), like="gelu")
    assert row(stationarity(bumped), "stationary_points").value.exact == "3"
    assert row(stationarity(formula(parse("gelu"))), "stationary_points").value.exact == "1"

"""The engine of the proofs: balls, signs on intervals, tails, and what it must refuse to decide."""

import gc
import itertools
import re
import sys
from fractions import Fraction

import flint
import mpmath as mp
import pytest
import sympy as sp
from flint import arb
from hypothesis import given
from hypothesis import strategies as st

from gem_activations.analysis import smoothness as of_smoothness
from gem_activations.analysis.balls import Tape, X, constant_ball, decimals, integral, tape
from gem_activations.analysis.exact import Number, divided, equal, exact, factorise, greatest
from gem_activations.analysis.formulas import Formula, Piece, line
from gem_activations.analysis.gaussian import cut_ends
from gem_activations.analysis.limits import NoLimitError, bound_beyond, limit, tail_sign
from gem_activations.analysis.proofs import (
    CertificateError,
    Proved,
    UndecidedError,
    _OutOfTime,
    attempt,
    remembered,
    time_limit,
    within_share,
)
from gem_activations.analysis.shape import gate, inverse, stationarity, structure
from gem_activations.analysis.signs import PoleError, SignMap, _between, find_tail, sign_map, vanishes
from gem_activations.analysis.smoothness import infimum, smoothness, supremum
from gem_activations.analysis.source import read

LINE = (-sp.oo, sp.oo)


@given(st.fractions(), st.integers(-40, 40), st.floats(0, 1e-3))
def test_decimals_are_rounded_outwards(middle, exponent, radius):
    ball = arb(flint.fmpq(middle.numerator, middle.denominator)) * arb(10) ** exponent + arb(0, radius)
    low, high = map(Fraction, decimals(ball))
    for end in (ball.lower(), ball.upper()):
        mantissa, power = end.man_exp() if end.is_exact() else (end.mid()).man_exp()
        exact = Fraction(int(mantissa)) * Fraction(2) ** int(power)
        assert low <= exact <= high


@pytest.mark.parametrize(
    "expression", [sp.sqrt(X**2 + 4), sp.exp(-X) * sp.erf(X), X / (1 + sp.exp(-X)), sp.tanh(X) ** 3]
)
@given(st.floats(-3, 3))
def test_a_tape_encloses_value_and_derivatives(expression, x):
    jet = Tape(expression).jet(arb(x), 2)
    for order, ball in enumerate(jet):
        true = sp.N(sp.diff(expression, X, order).subs(X, sp.Rational(Fraction(x))), 60)
        assert abs(arb(str(true)) - ball) < arb("1e-50")


@given(st.floats(-2, 2), st.floats(1e-6, 0.5))
def test_taylor_encloses_the_value_on_the_whole_box(middle, radius):
    function = tape(X / (1 + sp.exp(-X)))
    value, slope = function.taylor(arb(middle, radius))
    for share in (-1, -0.5, 0, 0.7, 1):
        point = arb(middle) + arb(radius) * share * arb("0.999999")
        at, tangent = function.jet(point, 1)
        assert value.overlaps(at)
        assert slope.overlaps(tangent)


@pytest.mark.parametrize(
    ("expression", "zeros", "signs"),
    [
        (X**3 - X, ["-1", "0", "1"], (-1, 1, -1, 1)),
        ((X - 1) ** 2 * (X + 2), ["-2", "1"], (-1, 1, 1)),
        (X - sp.sqrt(X**2 + 1), [], (-1,)),
        (2 * X - sp.sqrt(X**2 + 3), ["1"], (-1, 1)),
        (sp.exp(2 * X) - 3 * sp.exp(X) + 2, ["0", "log(2)"], (1, -1, 1)),
        (X - sp.tanh(X), ["0"], (-1, 1)),
        (sp.exp(X) - 1 - X - X**2 / 2, ["0"], (-1, 1)),
        (sp.erf(X), ["0"], (-1, 1)),
        (sp.erf(X - 2), None, (-1, 1)),
        (sp.erf(X + 2), None, (-1, 1)),
        (sp.erf(X - 4), None, (-1, 1)),
        (X**4 - 10 * X**2 + 1, None, (1, -1, 1, -1, 1)),
        (sp.Integer(0) * X, [], (0,)),
    ],
)
def test_zeros_and_signs(expression, zeros, signs):
    found = sign_map(expression, *LINE)
    assert found.signs == signs
    if zeros is not None:
        assert [str(zero.exact) for zero in found.zeros] == zeros


def test_a_quintic_without_radicals_is_enclosed():
    found = sign_map(X**5 - X - 1, *LINE)
    root = arb(str(sp.nsolve(X**5 - X - 1, 1.17, prec=90)))
    assert len(found.zeros) == 1
    assert abs(found.zeros[0].ball - root) < arb("1e-60")
    assert found.signs == (-1, 1)


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=4, unique=True), st.integers(1, 3))
def test_zeros_of_a_transcendental_product(roots, power):
    polynomial = sp.Mul(*((X - root) ** power for root in roots))
    found = sign_map(sp.expand(polynomial) * (X * sp.exp(-X) + sp.exp(X)), *LINE)
    expected = {sp.Integer(root) for root in roots}
    assert expected <= {zero.exact for zero in found.zeros}


def test_poles_are_not_zeros():
    with pytest.raises(PoleError):
        sign_map(1 / (X - 1), *LINE)
    assert sign_map(1 / (X - 1), sp.Integer(1), sp.oo).signs == (1,)


@pytest.mark.parametrize(
    ("expression", "sign"),
    [
        (X - 10**20 * sp.log(X), None), (X - 10**6 * sp.log(X), 1),
        (sp.exp(X) - X**50, 1), (1 - sp.erf(X), 1), (sp.exp(-X) * (X - 100), 1),
        (sp.tanh(X) - 1, -1), (sp.exp(sp.exp(-X)) - 1 - sp.exp(-X), 1), (X - sp.sqrt(X**2 + 1), -1),
    ],
)  # fmt: skip
def test_signs_near_infinity(expression, sign):
    if sign is None:
        with pytest.raises(UndecidedError):
            find_tail(expression)
    else:
        start, found = find_tail(expression)
        assert found == sign
        assert all((tape(expression)(arb(start) * k) > 0) == (sign > 0) for k in (1, 1.001, 2))


def test_a_tail_starts_beyond_the_last_zero():
    start, _ = find_tail(X - 10**6 * sp.log(X))
    last = -(10**6) * mp.lambertw(mp.mpf(-1) / 10**6, -1)
    assert start > last > 10**7


@pytest.mark.parametrize("expression", [(X - 100) ** 2, 1 / (X - 100) ** 2, (X - 100) ** 2 * sp.exp(-X)])
def test_an_even_zero_or_pole_is_not_passed_over(expression):
    with pytest.raises(UndecidedError):
        tail_sign(expression, 2)
    assert find_tail(expression)[0] > 100


@pytest.mark.parametrize("root", [-4, -2, 2, 4, 8])
def test_a_zero_where_a_tail_may_start_is_found(root):
    zeros = sign_map(sp.erf(X - root), *LINE).zeros
    assert len(zeros) == 1
    assert abs(zeros[0].ball - root) < arb("1e-60")


@pytest.mark.parametrize("start", [2, 4])
def test_a_start_at_a_zero_is_never_accepted(start):
    with pytest.raises(UndecidedError):
        tail_sign(sp.erf(X - start), start)


def test_a_minimum_at_the_start_of_a_tail_is_found():
    bowl = (X - 2) * sp.erf(X - 2) + sp.exp(-((X - 2) ** 2)) / sp.sqrt(sp.pi)
    found = infimum((Piece(-sp.oo, sp.oo, bowl),))
    assert abs(found.value.ball - 1 / arb.pi().sqrt()) < arb("1e-60")
    assert len(found.where) == 1
    assert abs(found.where[0].point.ball - 2) < arb("1e-60")


@pytest.mark.parametrize(("find", "sign"), [(infimum, 1), (supremum, -1)])
def test_an_impossible_extremum_is_refused(find, sign, monkeypatch):
    monkeypatch.setattr(of_smoothness, "sign_map", lambda *_: SignMap((), (sign,), "a faulty proof"))
    with pytest.raises(CertificateError, match="no function has"):
        find((Piece(-sp.oo, sp.oo, sign * X**2),))


def test_a_start_before_the_last_zero_is_never_accepted():
    for start in range(1, 101):
        with pytest.raises(UndecidedError):
            tail_sign((X - 100) * sp.exp(-X), start)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (X / (1 + sp.exp(-X)) - X, 0), ((2 * X**2 + 1) / (3 * X**2 - X), sp.Rational(2, 3)), (sp.exp(X) / X, sp.oo),
        (sp.exp(1 / (1 + X**2)) + 5, 6), (X * (sp.exp(1 / X) - 1), 1), (sp.exp(X - sp.sqrt(X**2 + 1)), 1),
        (X**2 * sp.exp(1 / X) / (X + 1), sp.oo), (X * sp.erf(X) - X, 0), (X * sp.log(1 + sp.exp(-X)), 0),
        (sp.log(1 + sp.exp(X)) - X, 0), (sp.exp(X) * sp.tanh(sp.exp(-X)), 1), (sp.log(X) / X, 0),
        ((1 - sp.erf(X)) * sp.exp(X**2) * X, 1 / sp.sqrt(sp.pi)),
        (sp.exp(-sp.exp(-X)), 1), ((sp.sqrt(X**2 + 1) - X) * X, sp.Rational(1, 2)), (X**3 * sp.exp(-X), 0),
        # Exponentials of less than log x, and powers that are not rational.
        (sp.exp(sp.sqrt(sp.log(X**2 + 2))) / (X**2 + 1), 0), (sp.exp(sp.sqrt(sp.log(X))) / sp.log(X), sp.oo),
        (sp.exp(sp.log(X) ** 2) / X**9, sp.oo), (sp.log(X * sp.exp(sp.sqrt(sp.log(X)))) / sp.log(X), 1),
        ((X**2 + 1) ** (sp.sqrt(2) - sp.Rational(3, 2)), 0), ((X**2 + 1) ** sp.sqrt(2) / (X + 1) ** 3, 0),
    ],
)  # fmt: skip
def test_limits(expression, expected):
    assert limit(expression, sp.oo) == expected


NESTED = sp.sqrt(3 + 2 * sp.sqrt(2))  # 1 + sqrt(2)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ((NESTED + sp.erf(X) - 2 - sp.sqrt(2)) * X, 0),
        ((sp.log(6 + sp.exp(-X)) + sp.erf(X) - 1 - sp.log(3) - sp.log(2)) * sp.exp(X), sp.Rational(1, 6)),
    ],
)
def test_a_limit_of_0_in_another_spelling_is_0(expression, expected):
    assert limit(expression, sp.oo) == expected


def test_a_gate_that_tends_to_1_in_another_spelling_may_be_a_cdf():
    verdict = {row.key: row.value.note for row in gate(read(X * (NESTED - sp.sqrt(2)) / (1 + sp.exp(-X))))}
    assert verdict["gate_cdf"] == "yes: rises from 0 to 1"


def test_a_zero_function_that_no_derivative_shows_has_the_limit_0_only_below_the_order_that_is_expanded():
    root = sp.sqrt(X**2 + NESTED) - sp.sqrt(X**2 + 1 + sp.sqrt(2))
    assert limit(root * X**3, sp.oo) == 0
    with pytest.raises(UndecidedError, match="was not proved"):
        limit(root * X**90, sp.oo)


@pytest.mark.parametrize(
    "expression",
    [sp.sin(X), X * sp.cos(X), X + 2 * X * sp.sin(3 * X), sp.sin(X) + sp.exp(-X), sp.cos(X) ** 2 - sp.sin(X)],
)
def test_an_oscillation_is_proved_to_have_no_limit(expression):
    with pytest.raises(NoLimitError, match="oscillates"):
        limit(expression, sp.oo)
    assert limit(expression / X**2, sp.oo) == 0
    assert limit(expression + 4 * X, sp.oo) == sp.oo


def test_an_oscillation_that_cancels_has_a_limit():
    assert limit(sp.sin(X) ** 2 + sp.cos(X) ** 2 + 1 / X, sp.oo) == 1
    assert limit((sp.sin(2 * X) - 2 * sp.sin(X) * sp.cos(X)) * X, sp.oo) == 0
    with pytest.raises(UndecidedError):
        limit(X * sp.sin(X) ** 2, sp.oo)  # It has none, which is not proved.


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (sp.sin(X) / X, 1), ((sp.tanh(X) - X) / X**3, -sp.Rational(1, 3)), (X**sp.Rational(3, 2), 0),
        (X * sp.log(X), 0),
        (sp.exp(-1 / X**2) / X**9, 0), ((1 - sp.cos(X)) / X**2, sp.Rational(1, 2)), (1 / X, sp.oo), (1 / X**2, sp.oo),
        (sp.atan(X) / sp.sqrt(X), 0), ((sp.exp(X) - 1 - X - X**2 / 2) / X**3, sp.Rational(1, 6)),
    ],
)  # fmt: skip
def test_limits_at_0(expression, expected):
    assert limit(expression, sp.Integer(0)) == expected


@pytest.mark.parametrize("expression", [sp.tanh(X) / X, sp.sqrt(X) * sp.exp(X), X ** sp.Rational(-1, 3)])
def test_an_integral_up_to_a_singular_end_is_enclosed(expression):
    (low, high), left_out = cut_ends(expression, sp.S.Zero, sp.S.One, lambda x: (x * x / -2).exp())
    found = integral(lambda z, analytic: tape(expression)(z, analytic) * (-z * z / 2).exp(), low, high) + left_out
    f = sp.lambdify(X, expression, "mpmath")
    known = mp.quad(lambda s: 6 * s**5 * f(s**6) * mp.exp(-(s**12) / 2), [0, 0.3, 0.7, 1])  # x = s^6
    assert abs(found - arb(mp.nstr(known, 45))) < arb("1e-24")


def test_a_bound_on_a_half_line_holds():
    for expression in (sp.erf(X) - 1, X * sp.exp(-X), sp.atan(X), sp.sin(X) / X, sp.log(X) / sp.sqrt(X)):
        bound = bound_beyond(expression, 64)
        assert not any(abs(tape(expression)(arb(64) * k)) > bound for k in (1, 1.01, 2, 100))
    with pytest.raises(UndecidedError):
        bound_beyond(sp.log(X), 64)


def test_rounded_and_unknown_constants_are_refused():
    with pytest.raises(CertificateError, match="rounded"):
        constant_ball(sp.Float("0.1"))
    with pytest.raises(CertificateError, match="does not know"):
        constant_ball(sp.zeta(3))
    with pytest.raises(CertificateError, match="besselj"):
        Tape(sp.besselj(0, X))


def test_the_greatest_of_an_exact_number_and_a_ball_around_it_is_not_called_exact():
    near = Number(None, arb(1, "1e-70"))
    assert greatest([exact(1), near]).exact is None
    assert greatest([near, exact(1)]).exact is None
    assert greatest([exact(1), exact(sp.sqrt(4) / 2)]).exact == 1
    assert greatest([near, exact(2)]).exact == 2


def test_a_negative_constant_is_not_taken_for_positive():
    constant = sp.log(sp.log(sp.Rational(3, 2)))  # About -0.9.
    assert sign_map(X + constant, *LINE).signs == (-1, 1)
    assert find_tail(constant * X)[1] == -1
    assert find_tail(sp.exp(X) * constant + X)[1] == -1


def test_equal_constants_in_different_spellings_are_equal():
    assert equal(sp.sqrt(3 + 2 * sp.sqrt(2)), 1 + sp.sqrt(2))
    assert not equal(sp.sqrt(3 + 2 * sp.sqrt(2)), 1 + sp.sqrt(2) + sp.Rational(1, 10**60))
    assert equal(sp.oo, sp.oo)
    assert not equal(sp.oo, -sp.oo)


def test_a_jump_below_the_ball_is_not_called_downward():
    def stepped(power):
        step = sp.exp(sp.Rational(1, 10**power)) - 1  # About 10^-power.
        return Formula("step", "step", line(X, sp.Integer(0), X + step), (sp.Integer(0),))

    assert [mark.jump for mark in structure(stepped(90), 1).marks] == [1]
    with pytest.raises(CertificateError, match="cannot decide the sign"):  # Below 2^-4096 of what cancels.
        structure(stepped(2000), 1)


def test_the_jet_at_a_removable_singularity_is_not_shortened():
    jet = Tape((sp.exp(X) - 1) / X).jet(arb(0), 3)
    true = [sp.Rational(1, k) for k in (1, 2, 3, 4)]
    known = [(ball, constant_ball(t)) for ball, t in zip(jet, true, strict=True)]
    assert all(not ball.is_finite() or ball.overlaps(t) for ball, t in known)
    assert not Tape(1 / (X**2 - X)).jet(arb(0, 1), 1)[1].is_finite()


def test_a_sign_is_taken_outside_the_balls_of_the_zeros():
    wide, narrow = Number(None, arb(0, 10)), Number(None, arb("10.1", "0.05"))
    before, between, after = _between((wide, narrow), *LINE)
    assert before < wide.ball
    assert wide.ball < between < narrow.ball
    assert narrow.ball < after


def test_a_vanishing_jump_in_another_spelling_is_no_kink():
    slope = sp.sqrt(3 + 2 * sp.sqrt(2))
    bent = Formula("bent", "bent", line(slope * X, sp.Integer(0), (1 + sp.sqrt(2)) * X + X**2), (sp.Integer(0),))
    kinks = next(row for row in stationarity(bent) if row.key == "kinks")
    assert kinks.value.exact == "0"


@pytest.mark.parametrize("sign", [1, -1])
def test_only_the_zeros_of_the_right_half_of_a_conjugate_product_count(sign):
    # The common polynomial of degree 10 has two zeros, both of the half with the minus sign.
    half = X - sign * sp.sqrt(X**10 + X + 3) / 2
    grid = [tape(half)(arb(k) / 16) > 0 for k in range(-40, 41)]
    found = sign_map(half, *LINE)
    assert len(found.zeros) == sum(a != b for a, b in itertools.pairwise(grid)) == (0 if sign == 1 else 2)


def test_a_zero_that_neither_half_excludes_is_not_counted():
    near = Number(None, arb(0, "1e-3"))
    with pytest.raises(UndecidedError, match="vanishes"):
        vanishes((X, X * sp.sqrt(X**2 + 1), -(X**4)), near)


@pytest.mark.parametrize(
    ("target", "note"),
    [
        (sp.Piecewise((X, X < 0), (X + 1, True)), "yes, on its image; .* gaps between 0 and 1$"),
        (sp.Piecewise((-X, X < 0), (-X - 1, True)), "yes, on its image; .* gaps between -1 and 0$"),
        (sp.Piecewise((X, X < 0), (sp.Integer(1), True)), r"no: f is constant on \(0, oo\)"),
        (X**2, "no: f is not monotone"),
    ],
)
def test_a_jump_alone_does_not_make_a_function_not_invertible(target, note):
    row = next(row for row in inverse(read(target)) if row.key == "invertible")
    assert re.match(note, row.value.note)


def test_a_jump_against_the_slope_leaves_invertibility_open():
    injective = read(sp.Piecewise((sp.exp(X), X < 0), (-sp.exp(-X), True)))
    row = next(row for row in inverse(injective) if row.key == "invertible")
    assert row.value.kind == "open"


def test_joints_and_jumps_nearer_than_a_float_are_told_apart():
    close = 1 + sp.Rational(1, 10**30)
    steps = read(sp.Piecewise((0 * X, X < 1), (X - 1 + close, close > X), (X + 2 * close, True)))
    assert steps.joints == (1, close)
    twice = read(sp.Piecewise((X, X < 0), (X + 1, X < 1), (X + 1 + close, True)))
    jump = next(row for row in smoothness(twice) if row.key == "jump")
    assert jump.value.exact == str(close)


@pytest.mark.parametrize(
    "expression",
    [
        X * sp.exp(-sp.exp(-X)), sp.exp(X) / (1 + sp.exp(X)), X / (1 + sp.exp(-X)), X**3 / (X**2 + 5), X**2 + X,
        sp.exp(X) * (1 + sp.exp(2 * X)), 3 / (2 + X), sp.sqrt(X**2 + 1) / X,
    ],
)  # fmt: skip
def test_a_divided_quotient_is_the_same_function(expression):
    for point in (sp.Rational(1, 3), sp.Integer(-3) / 2, sp.Integer(4)):
        ours, given = (constant_ball(e.subs(X, point)) for e in (divided(expression), expression))
        assert abs(ours - given) < arb("1e-60")


def test_a_polynomial_too_long_to_be_factored_stays_whole():
    u, v = sp.exp(X), sp.exp(X**2)
    long = sp.expand((1 + X + 2 * u + 3 * v + u * v) ** 4 + X * u)
    product = factorise(long / (1 + u))
    assert sorted(factor.multiplicity for factor in product.factors) == [-1, 1]
    point = sp.Rational(2, 3)
    value = product.scale * sp.Mul(*(f.expression**f.multiplicity for f in product.factors))
    assert constant_ball((value - long / (1 + u)).subs(X, point)).contains(0)


def test_a_proof_that_takes_too_long_is_stopped_and_its_step_fails_at_once_afterwards():
    started = []

    @remembered
    def endless(number):
        started.append(number)
        while True:
            number += 1

    rows = []
    with time_limit(0.3):
        for _ in range(3):
            rows.append(attempt("class", "order", "Order", lambda: Proved(endless(1))))
        rows.append(attempt("class", "fast", "Fast", lambda: Proved(exact(1).to_value())))
    assert [row.value.kind for row in rows] == ["open", "open", "open", "exact"]
    assert "share of 0.3 s" in rows[0].value.note
    assert "rests on a step" in rows[1].value.note
    assert started == [1]


def test_a_proof_stopped_inside_a_call_from_c_is_undecided_and_no_other_system_error_is():
    def stopped(cause):
        raise SystemError("a C function returned a result with an exception set") from cause

    with time_limit(10), pytest.raises(UndecidedError, match="longer than its share"):
        within_share(lambda: stopped(_OutOfTime()))
    with time_limit(10), pytest.raises(SystemError):
        within_share(lambda: stopped(ValueError()))


def test_a_proof_stopped_inside_a_callback_of_the_garbage_collector_is_undecided_without_a_report(monkeypatch):
    def endless(*_):
        if not missed:
            try:
                while True:
                    pass
            finally:
                missed.append(True)

    def prove():
        gc.callbacks.append(endless)
        try:
            gc.collect()
            while True:
                pass
        finally:
            gc.callbacks.remove(endless)

    missed, reports = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reports.append(report.exc_type))
    with time_limit(0.3), pytest.raises(UndecidedError, match="longer than its share"):
        within_share(prove)
    assert missed
    assert reports == []

    class Faulty:
        def __del__(self):
            raise ValueError

    with time_limit(10):
        within_share(lambda: Faulty() and None)
    assert reports == [ValueError]


def test_a_remembered_result_brings_its_facts_to_every_row():
    def find():
        return Proved(exact(len(sign_map(X**2 - 7, *LINE).zeros)).to_value())

    first, second = (attempt("class", "order", "Order", find) for _ in range(2))
    assert first.rests_on == second.rests_on
    assert [fact.kind for fact in first.rests_on] == ["signs"]
    assert dict(first.rests_on[0].details)["signs"] == (1, -1, 1)


def test_high_derivatives_as_products_are_the_derivatives():
    for expression in (X * sp.tanh(sp.log(1 + sp.exp(X))), X * sp.erf(X), X**5 / (X**4 + 1), X * sp.exp(-sp.exp(-X))):
        known, ours, point = expression, Piece(-sp.oo, sp.oo, expression), sp.Rational(2, 7)
        for order in range(1, 6):
            known = sp.diff(known, X)
            difference = constant_ball(ours.derivative(order).subs(X, point)) - constant_ball(known.subs(X, point))
            assert abs(difference) < arb("1e-40"), (expression, order)

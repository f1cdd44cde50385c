"""Integer layers against the definition in rational numbers, over every input of their width."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from gem_activations import GemSpec
from gem_activations.edge import Quantization, integer, reference, table
from gem_activations.errors import QuantizationError, SpecError, TensorError

from .settings import from_definition, random_settings

SYMMETRIC = Quantization(2.0**-13, 0, 2.0**-13, 0, bits=16)


def test_a_table_is_the_definition_for_500_settings():
    for spec, quantization in random_settings(8, 500, seed=0):
        want = [from_definition(spec, quantization, q) for q in range(-128, 128, 5 if spec.n > 8 else 1)]
        np.testing.assert_array_equal(table(spec, quantization)[:: 5 if spec.n > 8 else 1], want, str(spec))


def test_the_16_bit_reference_is_the_definition():
    for spec, quantization in random_settings(16, 24, seed=1):
        q = np.random.default_rng(2).integers(-32768, 32768, 400 // spec.n + 20)
        want = [from_definition(spec, quantization, int(each)) for each in q]
        np.testing.assert_array_equal(reference(spec, quantization, q), want, str(spec))


@pytest.mark.parametrize("rounding", ["away", "even"])
def test_ties_are_decided_exactly(rounding):
    # Half of each odd input is a tie but for 1 - F, which float64 cannot hold; a quarter of each input is one exactly.
    spec = GemSpec.from_scale(2, 2.0**-8, 0.25)
    quantization = Quantization(2.0**-13, 0, 2.0**-12, 0, 16, rounding)
    q = np.concatenate([np.arange(-300, 0), np.arange(32000, 32200)])
    want = [from_definition(spec, quantization, int(each)) for each in q]
    np.testing.assert_array_equal(reference(spec, quantization, q), want)


WIDTHS = [(8, "q31", "udiv", 120), (8, "q31", "newton", 60), (8, "q15", "udiv", 120), (16, "q31", "udiv", 60)]
WIDTHS += [(16, "q31", "newton", 24)]


@pytest.mark.parametrize(("bits", "method", "division", "count"), WIDTHS)
def test_layers_are_exact_and_their_report_says_so(bits, method, division, count):
    exact = 0
    for spec, quantization in random_settings(bits, count, seed=3):
        layer = integer(spec, quantization, method, division)
        q = quantization.inputs()
        error = np.abs(layer.apply(q).astype(int) - reference(spec, quantization, q))
        assert layer.report.inputs == len(error) == 1 << bits
        assert (layer.report.inexact, layer.report.largest_error) == (np.count_nonzero(error), error.max())
        assert error.max() <= 1, (spec, quantization)
        exact += not error.any()
    assert exact >= 0.99 * count if (method, division) == ("q31", "udiv") else exact >= 0.95 * count


def test_a_quotient_near_one_does_not_wrap():
    for n in (3, 4, 8):
        layer = integer(GemSpec.from_scale(n, 2.0**-12), SYMMETRIC, division="newton")
        assert layer.report.largest_error <= 1


def test_what_no_constants_reach_is_reported():
    # Ties of a quarter, to the even number: no single rounding constant serves both kinds.
    layer = integer(GemSpec(2, 1.0, 0.25), replace(SYMMETRIC, rounding="even"))
    assert 4000 < layer.report.inexact <= 4096
    assert layer.report.largest_error == 1
    assert integer(GemSpec(2, 1.0, 0.25), SYMMETRIC).report.inexact == 0


@pytest.mark.parametrize(("method", "bits"), [("q31", 8), ("q31", 16), ("q15", 8)])
def test_zero_points_and_scales_at_their_ends(method, bits):
    ends = -1 << (bits - 1), (1 << (bits - 1)) - 1
    for in_zero, out_zero, ratio in product(ends, ends, (0.3, 1.0, 700.0)):
        quantization = Quantization(0.02, in_zero, 0.02 / ratio, out_zero, bits)
        for spec in (GemSpec(2), GemSpec(1, 1e-4, 0.01)):
            assert integer(spec, quantization, method).report.largest_error <= 1
    for spec in (GemSpec(64, 1e300), GemSpec(64, 1e-300), GemSpec.from_scale(1, 1e29), GemSpec.from_scale(1, 1e-29)):
        assert integer(spec, Quantization(0.02, 0, 0.02, 0, bits), method).report.inexact == 0


def test_results_have_the_shape_of_their_inputs_and_the_dtype_of_the_width():
    layer = integer(GemSpec(), SYMMETRIC)
    q = np.arange(-6, 6, dtype=np.int16).reshape(3, 4)
    assert layer.apply(q).shape == (3, 4)
    assert layer.apply(q).dtype == np.int16 == reference(GemSpec(), SYMMETRIC, q).dtype
    assert layer.apply(np.zeros((0, 2), int)).shape == (0, 2)
    assert table(GemSpec(), Quantization(0.1, 0, 0.1, 0)).nbytes == 256


GOOD = {"in_scale": 0.1, "in_zero": 0, "out_scale": 0.1, "out_zero": 0}
BAD = [
    *({name: value} for name in ("in_scale", "out_scale") for value in (0, -1.0, float("nan"), float("inf"), 1e-60)),
    *({name: value} for name in ("in_scale", "out_scale") for value in ("1", None, True, 1j)),
    *({name: value} for name in ("in_zero", "out_zero") for value in (128, -129, 0.5, None, True)),
    *({"bits": value} for value in (4, 32, None, "8", True)),
    *({"rounding": value} for value in ("up", None)),
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_a_bad_setting_is_refused(change):
    ((name, value),) = change.items()
    with pytest.raises(QuantizationError, match=f"^{name}=.*expected|^{name}=.*must be") as refused:
        Quantization(**{**GOOD, **change})
    assert repr(value) in str(refused.value)


def test_what_the_words_cannot_hold_is_refused():
    wide = Quantization(1.0, 0, 1e-12, 0)
    with pytest.raises(QuantizationError, match=r"out_scale = 1e\+12 needs a shift by -8 in q31, expected 1 to 63"):
        integer(GemSpec(), wide)
    with pytest.raises(QuantizationError, match="leak in_scale / out_scale = 1e-20 needs a shift"):
        integer(GemSpec(1, 1.0, 1e-20), Quantization(**GOOD))
    with pytest.raises(QuantizationError, match="too small for the 32-bit sums of q15"):
        integer(GemSpec(), Quantization(0.1, 0, 6.5, 0), "q15")
    with pytest.raises(QuantizationError, match="bits=16: q15 is for 8 bits"):
        integer(GemSpec(), SYMMETRIC, "q15")
    with pytest.raises(QuantizationError, match="division='newton': q15"):
        integer(GemSpec(), Quantization(**GOOD), "q15", "newton")
    with pytest.raises(QuantizationError, match="method='q7': expected"):
        integer(GemSpec(), SYMMETRIC, "q7")
    with pytest.raises(QuantizationError, match="division='fast': expected"):
        integer(GemSpec(), SYMMETRIC, division="fast")
    with pytest.raises(QuantizationError, match="bits=16: a table is for 8 bits"):
        table(GemSpec(), SYMMETRIC)
    with pytest.raises(SpecError):
        GemSpec(0)


@pytest.mark.parametrize("q", [[0.5], [128], [-129], ["a"], [True]], ids=str)
def test_what_is_no_quantised_number_is_refused(q):
    quantization = Quantization(**GOOD)
    for function in (integer(GemSpec(), quantization).apply, lambda q: reference(GemSpec(), quantization, q)):
        with pytest.raises(TensorError, match="expected integers"):
            function(q)

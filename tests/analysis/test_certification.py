"""The table of constants: rounded outward, as the certificates have them."""

from fractions import Fraction

import numpy as np
import pytest

from gem_activations.analysis import CONSTANTS
from gem_activations.analysis.certification import ROWS, outward
from gem_activations.analysis.proofs import CertificateError, Value
from gem_activations.errors import ActivationNameError

NAMES = ["gelu", "hardswish", "silu", "gem", "gem(n=2)", "relu", "tanh", "relu2"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_rounded_constant_never_falls_short(name, dtype):
    for row, (_, side) in ROWS.items():
        value = getattr(CONSTANTS[name], row)
        if not value.low:
            continue
        rounded = getattr(CONSTANTS[name], f"{row}_{np.dtype(dtype).name}")
        low, high = rounded if side == 0 else (rounded, rounded)
        assert side > 0 or (Fraction(low) <= Fraction(value.low) and dtype(low) == low)
        assert side < 0 or (Fraction(high) >= Fraction(value.high) and dtype(high) == high)
        assert abs(low - value.approx) <= 4 * np.finfo(dtype).eps * abs(value.approx)


def test_constants_that_are_stated_wrongly_elsewhere():
    assert 1.1289041 < CONSTANTS["gelu"].lipschitz_float64 < 1.1289042
    assert CONSTANTS["hardswish"].lipschitz_float32 == 1.5
    assert CONSTANTS["silu"].lipschitz_float32 > 1.0998
    assert [round(p.approx, 6) for p in CONSTANTS["gelu"].infimum_at] == [-0.751792]
    assert [p.exact for p in CONSTANTS["gelu"].inflections] == ["-sqrt(2)", "sqrt(2)"]


def test_the_table_has_the_catalog_and_any_parameters():
    assert {"gelu", "gem(n=2)", "leaky_relu"} < set(CONSTANTS)
    assert len(CONSTANTS) == len(set(CONSTANTS))
    assert CONSTANTS["egem(eps=1/100)"].lipschitz_float64 == 1.125
    assert CONSTANTS["relu2"].lipschitz_float32 == np.inf
    with pytest.raises(ActivationNameError):
        _ = CONSTANTS["geluu"]
    with pytest.raises(AttributeError, match="no constant"):
        _ = CONSTANTS["gelu"].lipshitz


@pytest.mark.parametrize("value", ["1e39", "-1e39", "1e-60", "0.1", "-0.1"])
@pytest.mark.parametrize("direction", [-1, 1])
def test_rounding_is_outward_beyond_the_range_of_the_type(value, direction):
    found = outward(Value("exact", value, value, value), direction, np.float32)
    assert (found - float(value)) * direction >= 0


def test_an_open_constant_is_refused():
    with pytest.raises(CertificateError, match="not proved"):
        outward(Value("open", note="not closed: for a test"), 1, np.float64)

"""The float64 oracle against the committed golden table, and the table against the script that makes it."""

import json

import mpmath
import numpy as np
import pytest

from .golden import make
from .golden.table import PATH, Golden, read
from .tolerances import ORACLE_ULPS, oracle_bend_ulps
from .ulps import smallest_normal, ulps_apart

every_member = pytest.mark.parametrize("golden", read(), ids=str)
TINY = smallest_normal("float64")


def test_the_committed_table_is_what_the_script_makes():
    table = json.loads(PATH.read_text())
    assert (table["digits"], table["columns"]) == (make.DIGITS, make.COLUMNS)
    assert table["rows"] == make.rows()


def test_the_script_rounds_once_also_into_the_subnormal_numbers():
    # Ties go to even. The bit that lifts the second above its tie would be lost in a first rounding to 53 bits.
    with mpmath.workdps(50):
        above_tie = mpmath.mpf(2.5) + mpmath.mpf(2) ** -70
        step = mpmath.mpf(2) ** -1074
        assert [make.nearest(count * step) / 5e-324 for count in (mpmath.mpf(2.5), above_tie)] == [2.0, 3.0]


def test_the_table_covers_specials_subnormal_results_and_the_junction():
    everything = np.concatenate([golden.x for golden in read()])
    values = np.concatenate([golden.value for golden in read()])
    assert np.isnan(everything).any()
    assert (everything == np.inf).any()
    assert (everything == -np.inf).any()
    assert ((values != 0) & (np.abs(values) < TINY)).any()
    assert ((everything == 0) & np.signbit(everything)).any()


@every_member
def test_value(golden: Golden):
    assert ulps_apart(golden.spec(golden.x), golden.value, "float64").max() <= ORACLE_ULPS


@every_member
def test_derivative(golden: Golden):
    error = ulps_apart(golden.spec.derivative(golden.x), golden.derivative, "float64", TINY)
    assert error.max() <= ORACLE_ULPS


@every_member
def test_second_derivative(golden: Golden):
    n = golden.spec.n
    error = ulps_apart(golden.spec.second_derivative(golden.x), golden.second_derivative, "float64", TINY)
    rise = np.nan_to_num((golden.spec.gate(golden.x) - golden.spec.leak) / (1 - golden.spec.leak))
    condition = (1 + 2 * n + 4 * n * rise) / np.abs(1 + 2 * n - 4 * n * rise)
    assert (error <= oracle_bend_ulps(condition)).all()

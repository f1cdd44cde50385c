"""Write gem.json beside this file: values of the family from mpmath at 50 digits, rounded once to float64.

Run `python tests/golden/make.py`. The formula is evaluated on the exact rational value of every input, by a library
that shares no code with the package; the only rounding is the last one.
"""

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import mpmath
from mpmath import mpf

DIGITS = 50
TABLE = Path(__file__).with_name("gem.json")
COLUMNS = ["n", "eps", "leak", "x", "value", "derivative", "second_derivative"]
PARAMETERS = [
    (1, 1.0, 0.0),
    (1, 1e-4, 0.0),
    (1, 1e-12, 0.0),
    (1, 1e6, 0.0),
    (1, 1e-58, 0.0),
    (1, 1e-4, 0.01),
    (1, 10.0, 0.99),
    (2, 1.0, 0.0),
    (2, 1e-6, 0.0),
    (2, 1e-12, 0.0),
    (2, 1e3, 0.0),
    (2, 1e-4, 0.01),
    (2, 1.0, 0.5),
    (3, 1.0, 0.0),
    (3, 1e-12, 0.5),
    (4, 1e-2, 0.0),
    (8, 1e-12, 0.0),
    (8, 1e6, 0.0),
    (8, 1e-4, 0.01),
    (64, 10.0, 0.0),
]
# In units of the scale: from where the gate is negligible, through the junction, to where it rounds to 1.
RATIOS = [-3.0, -0.7, 2.0**-40, 2.0**-12, 0.0625, 0.3, 0.75, 1.0, 1.3, 2.5, 9.0, 2.0**12, 2.0**40]
# The smallest subnormal, a subnormal, the smallest normal, a value whose powers underflow, the largest.
EXTREMES = [5e-324, 3e-310, 2.0**-1022, 1e-160, 1e160, 1.7976931348623157e308]
SPECIALS = [0.0, -0.0, math.inf, -math.inf, math.nan]


def evaluate(n: int, eps: float, leak: float, x: float) -> tuple[float, float, float]:
    """Return f, f' and f'' at x, each correctly rounded to float64."""
    if math.isnan(x):
        return math.nan, math.nan, math.nan
    if math.isinf(x):
        return (x, 1.0, 0.0) if x > 0 else (x if leak else 0.0, leak, 0.0)
    with mpmath.workdps(DIGITS):
        big, floor = mpf(x), mpf(leak)
        if x <= 0:
            return nearest(floor * big), leak, 0.0
        power = big ** (2 * n)
        rise, rest = power / (power + mpf(eps)), mpf(eps) / (power + mpf(eps))
        value = big * (floor + (1 - floor) * rise)
        slope = floor + (1 - floor) * rise * (1 + 2 * n * rest)
        bend = (1 - floor) * 2 * n / big * rise * rest * (1 + 2 * n - 4 * n * rise)
        return nearest(value), nearest(slope), nearest(bend)


def nearest(value: Any) -> float:
    """Round an mpf to the nearest float64, once, subnormal results included: Python divides whole numbers so."""
    sign, mantissa, exponent, _ = value._mpf_
    exact = Fraction(int(mantissa)) * Fraction(2) ** int(exponent)
    return float(-exact if sign else exact)


def inputs(n: int, eps: float) -> list[float]:
    """Return the inputs of one member: specials, extremes, and points around its scale."""
    scale = eps ** (1 / (2 * n))
    return SPECIALS + EXTREMES + [-x for x in EXTREMES] + [ratio * scale for ratio in RATIOS]


def rows() -> list[list[int | str]]:
    """Return the whole table, floats in hexadecimal, which JSON keeps exactly."""
    return [
        [n, eps.hex(), leak.hex(), x.hex(), *(value.hex() for value in evaluate(n, eps, leak, x))]
        for n, eps, leak in PARAMETERS
        for x in inputs(n, eps)
    ]


def main() -> None:
    """Write the table, one row a line."""
    lines = ",\n  ".join(json.dumps(row) for row in rows())
    TABLE.write_text(f'{{\n "digits": {DIGITS},\n "columns": {json.dumps(COLUMNS)},\n "rows": [\n  {lines}\n ]\n}}\n')


if __name__ == "__main__":
    main()

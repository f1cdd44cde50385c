"""Distances between floating-point results, in units of the last place of the result's dtype."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Digits of the significand in bits, and the exponents of the smallest normal and of the first number too large.
FORMATS = {
    "float16": (11, -14, 16),
    "bfloat16": (8, -126, 128),
    "float32": (24, -126, 128),
    "float64": (53, -1022, 1024),
}


def smallest_normal(dtype: str) -> float:
    return 2.0 ** FORMATS[dtype][1]


def spacing(value: ArrayLike, dtype: str) -> NDArray[np.float64]:
    """Return the distance between neighbours of `dtype` at |value|, constant below the smallest normal number."""
    digits, lowest, highest = FORMATS[dtype]
    _, exponent = np.frexp(np.asarray(value, np.float64))
    return np.ldexp(1.0, np.clip(exponent - 1, lowest, highest - 1) - digits + 1)


def ulps_apart(got: ArrayLike, want: ArrayLike, dtype: str, floor: ArrayLike = 0.0) -> NDArray[np.float64]:
    """Return |got - want| - floor in ulps of `dtype` at want, at least 0; inf where only one is NaN or infinite.

    Args:
        got: Results, exactly representable in float64.
        want: Exact values, rounded to float64.
        dtype: Name of the dtype the results were given in.
        floor: Absolute error that is free.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.maximum(np.abs(got - want) - floor, 0) / spacing(want, dtype)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    return np.where(same, 0.0, np.where(np.isfinite(got) & np.isfinite(want), distance, np.inf))

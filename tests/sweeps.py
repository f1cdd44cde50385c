"""Inputs that the numeric tests of every framework run over, in NumPy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gem_activations import GemSpec


def sweep_float32(spec: GemSpec) -> NDArray[np.float32]:
    """Return both signs of every exponent of float32, subnormal ones too, and many points around the junction."""
    generator = np.random.default_rng(spec.n)
    exponents = np.arange(-149, 128)[:, None]
    spread = np.ldexp(1 + generator.random((exponents.size, 32)), exponents)
    ends = np.ldexp([1.0, 2 - 2.0**-23], exponents)
    junction = spec.scale * np.exp(generator.uniform(-6, 6, 8000) / np.sqrt(spec.n))
    positive = np.concatenate([spread.ravel(), ends.ravel(), junction, [0.0]])
    positive = positive[positive < 2.0**128].astype(np.float32)
    return np.concatenate([positive, -positive[::4]])


def bit_patterns(dtype: Any) -> NDArray[Any]:
    """Return every value of a 16-bit dtype, NaN and infinity among them."""
    return np.arange(2**16, dtype=np.uint16).view(np.dtype(dtype))


def wide(values: Any) -> NDArray[np.float64]:
    """Return any framework's array in float64; a signalling NaN of a 16-bit dtype is no error."""
    with np.errstate(invalid="ignore"):
        return np.asarray(values).astype(np.float64)

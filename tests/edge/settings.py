"""Random settings as networks have them, and the exact result from the definition, in rational numbers."""

from fractions import Fraction

import numpy as np

from gem_activations import GemSpec
from gem_activations.edge import Quantization

ORDERS = (1, 2, 3, 4, 8, 64)


def random_settings(bits, count, seed):
    """Yield specs and quantizations: every order, leak or none, ranges of 1 to 32, transitions of 0.01 to 3."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        n = ORDERS[number % len(ORDERS)]
        leak = 0.0 if number // len(ORDERS) % 2 else float(rng.choice([0.01, 0.1, 0.2, rng.uniform(1e-3, 0.9)]))
        spec = GemSpec.from_scale(n, float(10 ** rng.uniform(-2, 0.5)), leak)
        low, high = -1 << (bits - 1), (1 << (bits - 1)) - 1
        reach = 2.0 ** rng.uniform(0, 5)
        below = reach * rng.uniform(0, 1) if number % 3 else reach  # Every third is symmetric.
        in_scale = (reach + below) / (high - low)
        in_zero = round(low + below / in_scale) if number % 3 else 0
        span = reach + leak * below
        out_scale = span / (high - low) * rng.uniform(0.9, 1.1)
        out_zero = min(max(round(low + leak * below / out_scale), low), high)
        if number % 6 == 0:  # Symmetric on both sides, as 16x8 in TFLite.
            out_zero, out_scale = 0, in_scale
        yield spec, Quantization(in_scale, in_zero, out_scale, out_zero, bits, "even" if number % 5 == 4 else "away")


def from_definition(spec, quantization, q):
    """Return the rounded result of one input by the definition, in rational numbers alone."""
    x = Fraction(quantization.in_scale) * (q - quantization.in_zero)
    leak, power = Fraction(spec.leak), x ** (2 * spec.n)
    gate = leak + (1 - leak) * (power / (power + Fraction(spec.eps)) if x > 0 else 0)
    y = x * gate / Fraction(quantization.out_scale)
    size = int(abs(y))
    rest = abs(y) - size
    tie = rest == Fraction(1, 2)
    if rest > Fraction(1, 2) or (tie and (quantization.rounding == "away" or size % 2)):
        size += 1
    level = (size if y > 0 else -size) + quantization.out_zero
    return min(max(level, quantization.low), quantization.high)

"""How many paired seeds a verdict needs, if what was observed were the truth.

The observed mean and standard deviation of a few differences are not the truth: over three seeds these numbers are
rough.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

POWER = 0.8
SEEDS_CAP = 10_000
_RESOLUTION = 1e-12
_QUANTILES = (np.arange(500) + 0.5) / 500


def seeds_for_difference(sample: ArrayLike, *, alpha: float = 0.05) -> int | None:
    """Give the pairs at which a two-sided paired t test shows a difference of this size and spread at 80 % power.

    The power is the upper tail of the noncentral t law; the other tail is below 1e-5 where the power is 80 %.

    Args:
        sample: Paired differences, shape (k,).
        alpha: Level of the test.
    Returns: At least 2; SEEDS_CAP + 1 for more than SEEDS_CAP; None for fewer than two values, a mean of 0, or values
        that are all equal.
    Example:
        >>> seeds_for_difference([-1.0, 1.0, 3.0])  # Mean 1, standard deviation 2.
        34
    """
    found = _mean_and_spread(sample)
    if found is None or abs(found[0]) <= _RESOLUTION:
        return None
    effect = abs(found[0]) / found[1]
    return _fewest(lambda pairs: difference_power(effect, pairs, alpha))


def seeds_for_equivalence(sample: ArrayLike, margin: float, *, alpha: float = 0.05) -> int | None:
    """Give the pairs at which two one-sided t tests show that the mean is within the margin, at 80 % power.

    Args:
        sample: Paired differences, shape (k,).
        margin: Positive, in the unit of the differences.
        alpha: Level of each of the two tests.
    Returns: As for `seeds_for_difference`; None also where the observed mean is not within the margin.
    Example:
        >>> seeds_for_equivalence([-1.0, 0.0, 1.0], 1.0)
        11
    """
    found = _mean_and_spread(sample)
    if found is None or abs(found[0]) >= margin:
        return None
    mean, sd = found
    return _fewest(lambda pairs: equivalence_power(mean / sd, margin / sd, pairs, alpha))


def difference_power(effect: float, pairs: int, alpha: float) -> float:
    """Give the power of a two-sided paired t test; `effect` is the mean over the standard deviation, positive."""
    critical = stats.t.ppf(1 - alpha / 2, pairs - 1)
    return float(stats.nct.sf(critical, pairs - 1, effect * math.sqrt(pairs)))


def equivalence_power(effect: float, margin: float, pairs: int, alpha: float) -> float:
    """Give the power of two one-sided t tests; mean and margin are in standard deviations of the differences.

    Given the sample's standard deviation s, both tests reject where the sample's mean is within margin - t s / sqrt(n);
    the mean over the law of s is taken at 500 quantiles.
    """
    root = math.sqrt(pairs)
    sample_sd = np.sqrt(stats.chi2.ppf(_QUANTILES, pairs - 1) / (pairs - 1))
    room = margin * root - stats.t.ppf(1 - alpha, pairs - 1) * sample_sd
    inside = stats.norm.cdf(room - effect * root) - stats.norm.cdf(-room - effect * root)
    return float(np.clip(inside, 0, None).mean())


def _mean_and_spread(sample: ArrayLike) -> tuple[float, float] | None:
    values = np.asarray(sample, np.float64)
    if values.size < 2 or np.ptp(values) <= _RESOLUTION:
        return None
    return float(values.mean()), float(values.std(ddof=1))


def _fewest(power: Callable[[int], float]) -> int:
    low, high = 1, SEEDS_CAP + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high

"""Intervals and tests of one sample of paired differences: SciPy's, and Holm's correction.

All figures are in the unit of the sample. Values that are all equal have no spread: no test exists for them, and their
intervals have no width.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

ALPHA = 0.05
LEVEL = 1 - ALPHA
RESAMPLES = 9999
BOOTSTRAP_SEED = 20260421
# Accuracies are counts over counts: equal differences of counts may differ by rounding, far below one image.
RESOLUTION = 1e-12

Array = NDArray[np.float64]


class Interval(NamedTuple):
    """A closed interval, both ends in the unit of what it bounds."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        """Say whether 0 lies outside, by more than rounding."""
        return self.low > RESOLUTION or self.high < -RESOLUTION


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values by Holm's step-down correction, valid under any dependence (SciPy has none).

    Args:
        p_values: One a test; None for a test that does not exist, which counts in the number and stays None.
    Example:
        >>> holm([0.01, 0.04, None, 0.03])
        [0.04, 0.09, None, 0.09]
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p))
        adjusted[index] = highest
    return adjusted


def difference_p(sample: ArrayLike) -> float | None:
    """Give the p-value of the two-sided t test that the mean of paired differences, shape (k,), is 0.

    Returns: None for fewer than two values, and for values that are all equal: no test exists for them.
    Example:
        >>> print(f"{difference_p([1.0, 2.0, 3.0]):.4f}")
        0.0742
    """
    values = np.asarray(sample, np.float64)
    if values.size < 2 or _all_equal(values):
        return None
    return _t_test(values, 0.0, "two-sided")


def equivalence_p_value(sample: ArrayLike, margin: float) -> float | None:
    """Give the p-value of the two one-sided t tests (TOST) that the mean lies between -margin and margin.

    Args:
        sample: Paired differences, shape (k,).
        margin: Positive, in the unit of the differences.
    Returns: The larger of the two; None as for `difference_p`.
    Example:
        >>> print(f"{equivalence_p_value([-1.0, 0.0, 1.0], 2.0):.4f}")
        0.0371
    """
    values = np.asarray(sample, np.float64)
    if values.size < 2 or _all_equal(values):
        return None
    return max(_t_test(values, -margin, "greater"), _t_test(values, margin, "less"))


def bootstrap_interval(sample: ArrayLike, *, resamples: int = RESAMPLES) -> tuple[Interval | None, str]:
    """Give the 95 % bootstrap interval of the mean, and the method it was made with.

    BCa; the percentile method where BCa does not exist, as for values that are all equal.

    Args:
        sample: Shape (k,), float64.
        resamples: Number of resamples, drawn with a fixed seed.
    Returns: The interval and "BCa" or "percentile"; (None, "") for fewer than two values.
    Example:
        >>> bootstrap_interval([0.1, 0.1, 0.1])
        (Interval(low=0.1, high=0.1), 'percentile')
    """
    values = np.asarray(sample, np.float64)
    if values.size < 2:
        return None, ""
    if _all_equal(values):
        return Interval(float(values[0]), float(values[0])), "percentile"
    for method in ("BCa", "percentile"):
        result = stats.bootstrap(
            (values,),
            np.mean,
            n_resamples=resamples,
            confidence_level=LEVEL,
            method=method,
            rng=np.random.default_rng(BOOTSTRAP_SEED),
        )
        low, high = map(float, result.confidence_interval)
        if math.isfinite(low) and math.isfinite(high):
            return Interval(low, high), method
    return None, ""


def student_interval(sample: ArrayLike) -> Interval | None:
    """Give the 95 % Student t interval of the mean of a sample of shape (k,); None for fewer than two values.

    Example:
        >>> student_interval([1.0, 2.0, 3.0])
        Interval(low=-0.484..., high=4.484...)
    """
    values = np.asarray(sample, np.float64)
    if values.size < 2:
        return None
    if _all_equal(values):
        return Interval(float(values[0]), float(values[0]))
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(LEVEL)
    return Interval(float(low), float(high))


def probability_greater(arm: Sequence[float], baseline: Sequence[float]) -> float | None:
    """Give P(X > Y) + P(X = Y)/2 over all pairs of a run of the arm and one of the baseline: the Mann-Whitney measure.

    Returns: 0 to 1, 0.5 where neither is ahead; None where one of the two is empty.
    Example:
        >>> probability_greater([0.9, 0.8], [0.8, 0.7])
        0.875
    """
    if not arm or not baseline:
        return None
    # Ties by rounding are ties: the difference of two equal counts of images is 0.
    u = stats.mannwhitneyu(np.round(arm, 12), np.round(baseline, 12), method="asymptotic").statistic
    return float(u / (len(arm) * len(baseline)))


def spread(sample: ArrayLike) -> float | None:
    """Give the standard deviation (ddof=1) of a sample; None for fewer than two values, 0 where all are equal."""
    values = np.asarray(sample, np.float64)
    if values.size < 2:
        return None
    return 0.0 if _all_equal(values) else float(values.std(ddof=1))


def _t_test(values: Array, mean: float, alternative: str) -> float:
    result = stats.ttest_1samp(values, mean, alternative=alternative)
    return float(result.pvalue)  # pyright: ignore[reportAttributeAccessIssue] -- SciPy's stub leaves it out


def _all_equal(values: Array) -> bool:
    return bool(np.ptp(values) <= RESOLUTION)

"""What a comparison allows to say: paired by seed, with intervals, and no difference claimed where none is shown.

Accuracies are fractions from 0 to 1, and so are the differences of this module; tables and reports show percentage
points. docs/statistics.md says how each figure is computed and where it falls short.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from .store import Comparison, RunResult

LEVEL = 0.95
POWER = 0.8
RESAMPLES = 9999
BOOTSTRAP_SEED = 20260421
FEW_SEEDS = 8
SEEDS_CAP = 10_000
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


@dataclass(frozen=True)
class PairedDifference:
    """An arm minus the baseline, over the seeds where both finished.

    Attributes:
        pairs: Number of such seeds.
        mean, sd: Of the differences, as fractions; None without pairs, sd None below two.
        bootstrap: 95 % bootstrap interval of the mean difference; None below two pairs.
        method: "BCa", or "percentile" where BCa does not exist; "" without an interval.
        student: 95 % paired Student t interval of the mean difference; None below two pairs.
        probability_better: P(X > Y) + P(X = Y)/2 for a run X of the arm and Y of the baseline, any of the paired seeds
            each; None without pairs.
        seeds_needed: Pairs at which a paired t test would show a difference of this size at 80 % power; SEEDS_CAP + 1
            stands for more than SEEDS_CAP; None where the size or the spread of the differences is 0 or unknown.
    """

    pairs: int
    mean: float | None
    sd: float | None
    bootstrap: Interval | None
    method: str
    student: Interval | None
    probability_better: float | None
    seeds_needed: int | None

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: the differences vary, and both intervals exclude 0."""
        if self.bootstrap is None or self.student is None or self.without_spread:
            return False
        return self.bootstrap.excludes_zero() and self.student.excludes_zero()

    @property
    def without_spread(self) -> bool:
        """Whether all differences are equal, so that an interval has no width and cannot be trusted."""
        return self.sd == 0

    @property
    def undercovers(self) -> bool:
        """Whether the pairs are so few that the bootstrap interval covers clearly less than its 95 %."""
        return self.bootstrap is not None and self.pairs < FEW_SEEDS


@dataclass(frozen=True)
class ArmSummary:
    """One activation of a comparison.

    Attributes:
        finished, failed, missing: Runs by status; missing ones have no result yet.
        mean, sd: Test accuracy over the finished runs, as fractions (ddof=1); None where there are too few.
        interval: 95 % Student t interval of the mean; None below two finished runs.
        step_time_ratio: Median over the runs of the step time divided by ReLU's; None where it was not measured.
        difference: To the baseline; None for the baseline itself.
    """

    activation: str
    finished: int
    failed: int
    missing: int
    mean: float | None
    sd: float | None
    interval: Interval | None
    step_time_ratio: float | None
    difference: PairedDifference | None


def summarise(comparison: Comparison) -> tuple[ArmSummary, ...]:
    """Summarise every arm of a comparison, in its order.

    Args:
        comparison: What the store holds; it may be unfinished.
    Returns: One summary per activation. Failed and missing runs are counted and enter no mean.
    """
    baseline = accuracies_by_seed(comparison, comparison.baseline)
    return tuple(_summarise_arm(comparison, activation, baseline) for activation in comparison.activations)


def accuracies_by_seed(comparison: Comparison, activation: str) -> dict[int, float]:
    """Give the test accuracy, a fraction, of each finished run of an activation by seed, in order of the seeds."""
    runs = sorted((run for run in comparison.results if run.activation == activation), key=lambda run: run.seed)
    return {run.seed: run.test_accuracy for run in runs if run.status == "finished" and run.test_accuracy is not None}


def compare_paired(
    arm: dict[int, float], baseline: dict[int, float], *, resamples: int = RESAMPLES
) -> PairedDifference:
    """Compare an arm with the baseline, paired by seed.

    Args:
        arm, baseline: Test accuracy by seed, fractions.
        resamples: Bootstrap resamples; the random numbers are seeded, so equal input gives equal output.
    Example:
        >>> difference = compare_paired({0: 0.97, 1: 0.95, 2: 0.96}, {0: 0.95, 1: 0.95, 2: 0.95})
        >>> print(f"{difference.mean:.3f} over {difference.pairs}, shown: {difference.shown}")
        0.010 over 3, shown: False
    """
    seeds = sorted(arm.keys() & baseline.keys())
    differences = np.array([arm[seed] - baseline[seed] for seed in seeds])
    bootstrap, method = bootstrap_interval(differences, resamples=resamples)
    return PairedDifference(
        pairs=len(seeds),
        mean=float(differences.mean()) if seeds else None,
        sd=_spread(differences),
        bootstrap=bootstrap,
        method=method,
        student=student_interval(differences),
        probability_better=probability_better([arm[seed] for seed in seeds], [baseline[seed] for seed in seeds]),
        seeds_needed=seeds_needed(differences),
    )


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


def probability_better(arm: Sequence[float], baseline: Sequence[float]) -> float | None:
    """Give P(X > Y) + P(X = Y)/2 over all pairs of a run of the arm and one of the baseline: the Mann-Whitney measure.

    Returns: 0 to 1, 0.5 where neither is ahead; None where one of the two is empty.
    Example:
        >>> probability_better([0.9, 0.8], [0.8, 0.7])
        0.875
    """
    if not arm or not baseline:
        return None
    # Ties by rounding are ties: the difference of two equal counts of images is 0.
    u = stats.mannwhitneyu(np.round(arm, 12), np.round(baseline, 12), method="asymptotic").statistic
    return float(u / (len(arm) * len(baseline)))


def seeds_needed(sample: ArrayLike) -> int | None:
    """Give the pairs at which a two-sided 5 % paired t test shows a difference of this size and spread at 80 % power.

    The power is the upper tail of the noncentral t law; the other tail is below 1e-5 where the power is 80 %.

    Args:
        sample: Paired differences, shape (k,).
    Returns: At least 2; SEEDS_CAP + 1 for more than SEEDS_CAP; None for fewer than two values, a mean of 0, or values
        that are all equal.
    Example:
        >>> seeds_needed([-1.0, 1.0, 3.0])  # Mean 1, standard deviation 2.
        34
    """
    values = np.asarray(sample, np.float64)
    if values.size < 2 or _all_equal(values) or abs(values.mean()) <= RESOLUTION:
        return None
    effect = abs(values.mean()) / values.std(ddof=1)
    low, high = 1, SEEDS_CAP + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(effect, middle) >= POWER else (middle, high)
    return high


def _power(effect: float, pairs: int) -> float:
    critical = stats.t.ppf((1 + LEVEL) / 2, pairs - 1)
    return float(stats.nct.sf(critical, pairs - 1, effect * math.sqrt(pairs)))


def _spread(values: Array) -> float | None:
    if values.size < 2:
        return None
    return 0.0 if _all_equal(values) else float(values.std(ddof=1))


def _all_equal(values: Array) -> bool:
    return bool(np.ptp(values) <= RESOLUTION)


def _summarise_arm(comparison: Comparison, activation: str, baseline: dict[int, float]) -> ArmSummary:
    runs = [run for run in comparison.results if run.activation == activation]
    accuracies = accuracies_by_seed(comparison, activation)
    values = np.array(list(accuracies.values()))
    return ArmSummary(
        activation=activation,
        finished=len(accuracies),
        failed=len(runs) - len(accuracies),
        missing=sum(name == activation for name, _ in comparison.missing),
        mean=float(values.mean()) if values.size else None,
        sd=_spread(values),
        interval=student_interval(values),
        step_time_ratio=_median_step_ratio(runs),
        difference=None if activation == comparison.baseline else compare_paired(accuracies, baseline),
    )


def _median_step_ratio(runs: Sequence[RunResult]) -> float | None:
    ratios = [run.step_time_ratio for run in runs if run.step_time_ratio is not None]
    return float(np.median(ratios)) if ratios else None

"""An arm beside its baseline, paired by seed: difference, intervals, tests corrected for the number of arms, verdict.

All figures are in the metric's stored unit: accuracies are fractions from 0 to 1, losses nats. A difference is an arm
minus the baseline; whether more is better is the metric's affair.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .inference import (
    ALPHA,
    RESAMPLES,
    Interval,
    bootstrap_interval,
    difference_p,
    equivalence_p_value,
    holm,
    probability_greater,
    spread,
    student_interval,
)
from .metrics import ACCURACY, Yardstick
from .power import seeds_for_difference, seeds_for_equivalence

FEW_SEEDS = 8

_ACCURACY = Yardstick(ACCURACY, ACCURACY.margin)

Array = NDArray[np.float64]


class Verdict(StrEnum):
    """What is said of an arm beside the baseline."""

    BETTER = "shown better"
    WORSE = "shown worse"
    EQUIVALENT = "equivalent within the margin"
    UNDECIDED = "not decided"


@dataclass(frozen=True)
class PairedDifference:
    """An arm minus the baseline, over the seeds where both finished.

    Attributes:
        yardstick: The metric, and the margin of equivalence.
        pairs: Number of such seeds.
        mean, sd: Of the differences; None without pairs, sd None below two.
        bootstrap: 95 % bootstrap interval of the mean difference; None below two pairs.
        method: "BCa", or "percentile" where BCa does not exist; "" without an interval.
        student: 95 % paired Student t interval of the mean difference; None below two pairs.
        probability_better: Chance that a run of the arm is better than a run of the baseline, ties counted half, over
            all pairs of the paired seeds' runs; None without pairs.
        p_value: Of the two-sided paired t test; None below two pairs, and where all differences are equal.
        p_adjusted: The same after Holm's correction over the arms; equal to it where one arm is compared.
        equivalence_p: Of the two one-sided t tests (TOST) against the margin, the larger; None as for `p_value`.
        equivalence_p_adjusted: The same after Holm's correction over the arms.
        seeds_needed: Pairs at which a difference of this size would be shown at 80 % power; None where its size or
            spread is 0 or unknown.
        seeds_for_equivalence: Pairs at which equivalence would be shown at 80 % power; None where the observed
            difference is not within the margin, or its spread is 0 or unknown.
    """

    yardstick: Yardstick
    pairs: int
    mean: float | None
    sd: float | None
    bootstrap: Interval | None
    method: str
    student: Interval | None
    probability_better: float | None
    p_value: float | None
    p_adjusted: float | None
    equivalence_p: float | None
    equivalence_p_adjusted: float | None
    seeds_needed: int | None = None
    seeds_for_equivalence: int | None = None

    @property
    def shown(self) -> bool:
        """Whether a difference is shown: Holm's p is at most 5 %, and the bootstrap interval excludes 0."""
        if self.bootstrap is None or self.p_adjusted is None:
            return False
        return self.p_adjusted <= ALPHA and self.bootstrap.excludes_zero()

    @property
    def equivalent(self) -> bool:
        """Whether equivalence is shown: Holm's p of the two one-sided tests is at most 5 %."""
        return self.equivalence_p_adjusted is not None and self.equivalence_p_adjusted <= ALPHA

    @property
    def improvement(self) -> float | None:
        """The mean difference, counted positive where the arm is the better one."""
        return None if self.mean is None else self.yardstick.metric.sign * self.mean

    @property
    def verdict(self) -> Verdict:
        """What is said; a difference that is shown goes before equivalence, which may hold as well."""
        if self.shown and self.improvement is not None:
            return Verdict.BETTER if self.improvement > 0 else Verdict.WORSE
        return Verdict.EQUIVALENT if self.equivalent else Verdict.UNDECIDED

    @property
    def seeds_to_decide(self) -> int | None:
        """The pairs at which the quicker of the two would be shown, difference or equivalence; more than now."""
        known = [seeds for seeds in (self.seeds_needed, self.seeds_for_equivalence) if seeds is not None]
        return max(min(known), self.pairs + 1) if known else None

    @property
    def without_spread(self) -> bool:
        """Whether all differences are equal, so that an interval has no width and no test exists."""
        return self.sd == 0

    @property
    def undercovers(self) -> bool:
        """Whether the pairs are so few that the bootstrap interval covers clearly less than its 95 %."""
        return self.bootstrap is not None and self.pairs < FEW_SEEDS


def compare_arms(
    arms: Sequence[dict[int, float]],
    baseline: dict[int, float],
    yardstick: Yardstick = _ACCURACY,
    *,
    resamples: int = RESAMPLES,
) -> tuple[PairedDifference, ...]:
    """Compare arms with one baseline: the tests are corrected for their number, and the seeds needed are for that.

    Args:
        arms: Values by seed, of each arm.
        baseline: Values by seed.
        yardstick: The metric, and the margin of equivalence in its stored unit.
        resamples: Bootstrap resamples; the random numbers are seeded, so that equal input gives equal output.
    Returns: One difference an arm, in their order.
    Example:
        >>> baseline = {0: 0.95, 1: 0.951, 2: 0.952, 3: 0.953}
        >>> arms = [{seed: value + gain + 1e-4 * seed for seed, value in baseline.items()} for gain in (0.02, 0)]
        >>> [str(difference.verdict) for difference in compare_arms(arms, baseline)]
        ['shown better', 'equivalent within the margin']
    """
    found = corrected([compare_paired(arm, baseline, yardstick, resamples=resamples) for arm in arms])
    return tuple(
        with_seeds(one, paired_differences(arm, baseline), comparisons=len(arms))
        for one, arm in zip(found, arms, strict=True)
    )


def compare_paired(
    arm: dict[int, float],
    baseline: dict[int, float],
    yardstick: Yardstick = _ACCURACY,
    *,
    resamples: int = RESAMPLES,
) -> PairedDifference:
    """Compare one arm with the baseline, paired by seed, as if it were the only one; without the seeds needed.

    Args:
        arm, baseline: Values by seed.
        yardstick, resamples: As for `compare_arms`.
    Example:
        >>> difference = compare_paired({0: 0.97, 1: 0.95, 2: 0.96}, {0: 0.95, 1: 0.95, 2: 0.95})
        >>> print(f"{difference.mean:.3f} over {difference.pairs}: {difference.verdict}")
        0.010 over 3: not decided
    """
    differences = paired_differences(arm, baseline)
    seeds = sorted(arm.keys() & baseline.keys())
    bootstrap, method = bootstrap_interval(differences, resamples=resamples)
    p_value, equivalence_p = difference_p(differences), equivalence_p_value(differences, yardstick.margin)
    chance = probability_greater([arm[seed] for seed in seeds], [baseline[seed] for seed in seeds])
    return PairedDifference(
        yardstick=yardstick,
        pairs=len(seeds),
        mean=float(differences.mean()) if seeds else None,
        sd=spread(differences),
        bootstrap=bootstrap,
        method=method,
        student=student_interval(differences),
        probability_better=chance if chance is None or yardstick.metric.sign > 0 else 1 - chance,
        p_value=p_value,
        p_adjusted=p_value,
        equivalence_p=equivalence_p,
        equivalence_p_adjusted=equivalence_p,
    )


def corrected(differences: Sequence[PairedDifference]) -> tuple[PairedDifference, ...]:
    """Correct the tests of differences for their number, by Holm; an arm without a test counts in the number."""
    adjusted = holm([one.p_value for one in differences])
    equivalence = holm([one.equivalence_p for one in differences])
    return tuple(
        replace(one, p_adjusted=p, equivalence_p_adjusted=q)
        for one, p, q in zip(differences, adjusted, equivalence, strict=True)
    )


def with_seeds(difference: PairedDifference, sample: ArrayLike, *, comparisons: int) -> PairedDifference:
    """Add the seeds needed at the strictest level of Holm's correction, 5 % over the number of comparisons."""
    alpha = ALPHA / comparisons
    return replace(
        difference,
        seeds_needed=seeds_for_difference(sample, alpha=alpha),
        seeds_for_equivalence=seeds_for_equivalence(sample, difference.yardstick.margin, alpha=alpha),
    )


def paired_differences(arm: dict[int, float], baseline: dict[int, float]) -> Array:
    """Give arm minus baseline of each seed that both have, in order of the seeds: float64, (pairs,).

    Example:
        >>> print(paired_differences({0: 3.0, 2: 5.0}, {0: 1.0, 1: 4.0}))
        [2.]
    """
    return np.array([arm[seed] - baseline[seed] for seed in sorted(arm.keys() & baseline.keys())])

"""The analysis of runs: for each arm what is said of it beside the baseline, and the figures behind that.

One analysis serves the lab's own comparisons, a user's, and tables of results from elsewhere; every table, sentence and
plot reads it. Figures are in the metric's stored unit (accuracies are fractions, losses nats). A difference is an arm
minus the baseline; whether more is better is the metric's affair.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, special, stats

from ...errors import SettingError
from ..store.comparison import FAILED, INFRASTRUCTURE
from .contrasts import ALPHA, RESOLUTION, dunnett_critical, dunnett_p, pooled_variance
from .metrics import Criterion, Metric
from .verdicts import ORDER, Judgement, Verdict, judge, probability_better

POWER = 0.8
SEEDS_CAP = 10_000


class Interval(NamedTuple):
    """A closed interval, both ends in the unit of what it bounds."""

    low: float
    high: float


class Spread(NamedTuple):
    """Mean and standard deviation (ddof=1; None for one value) of some runs' figures, and their number."""

    mean: float
    sd: float | None
    runs: int


@dataclass(frozen=True)
class Difference:
    """An arm minus the baseline, over the seeds at which both finished.

    Attributes:
        criterion: The metric, and the margin of equivalence.
        verdict: What is said.
        pairs: Number of such seeds.
        mean: Mean difference; None without pairs.
        interval: Interval that holds for all arms together, at 1 - `level`: it leaves 0 out if the mean is shown to
            differ.
        error, freedom: Standard error of the mean and its degrees of freedom; None if there is no error to speak of.
        pooled: Whether the error comes from the spread of all arms; else from this arm's alone.
        critical: Critical value of the test of the whole family, in standard errors.
        p_adjusted: Of the two-sided test, corrected for the number of arms; None without an error.
        equivalence_p: Of the two one-sided tests against the margin, corrected likewise; None also without a margin.
        within_margin: Whether they show that the mean lies within the margin.
        probability_better: Chance that a run of the arm is better than one of the baseline, failed runs being worst.
        probability_interval: Its 95 % interval, of this arm by itself.
        cautious: Whether a run of arm or baseline failed or collapsed, so that mean and ranks had to agree.
        mean_shown, ranks_shown: Whether the mean, and the ranks, differ by themselves.
        smallest_shown: True difference that would be shown at 80 % power with these seeds and this error.
        level: Level of the family of tests: 5 %, or what a schedule of looks spends on this one.
    """

    criterion: Criterion
    verdict: Verdict
    pairs: int
    mean: float | None
    interval: Interval | None = None
    error: float | None = None
    freedom: int | None = None
    pooled: bool = False
    critical: float | None = None
    p_adjusted: float | None = None
    equivalence_p: float | None = None
    within_margin: bool = False
    probability_better: float | None = None
    probability_interval: Interval | None = None
    cautious: bool = False
    mean_shown: bool = False
    ranks_shown: bool = False
    smallest_shown: float | None = None
    level: float = ALPHA

    @property
    def shown(self) -> bool:
        """Whether the verdict is one of difference."""
        return self.verdict in (Verdict.BETTER, Verdict.WORSE)

    @property
    def equivalent(self) -> bool:
        """Whether it is shown to be equivalent; a difference that is shown can lie within the margin as well."""
        return self.verdict is Verdict.EQUIVALENT or (self.shown and self.within_margin)

    @property
    def improvement(self) -> float | None:
        """The mean difference, counted positive if the arm is the better one."""
        return None if self.mean is None else self.criterion.metric.sign * self.mean


@dataclass(frozen=True)
class Arm:
    """One arm of an analysis.

    Attributes:
        finished, failed, infrastructure, missing: Runs by status. A run without a finite value of the metric failed;
            one that failed for want of disk or memory is left out; missing ones have no result yet.
        collapsed: Finished runs that stand out far below the others of the arm.
        at_chance: Finished runs that are no better than guessing; 0 if the level of chance is not known.
        mean, sd: Of the metric over the finished runs (ddof=1); None if there are too few.
        interval: 95 % Student t interval of the mean, of this arm by itself; None below two finished runs.
        measures: What else was recorded of the finished runs, by name.
        difference: To the baseline; None for the baseline itself.
    """

    activation: str
    finished: int
    failed: int
    infrastructure: int
    missing: int
    collapsed: int
    at_chance: int
    mean: float | None
    sd: float | None
    interval: Interval | None
    measures: dict[str, Spread]
    difference: Difference | None

    @property
    def planned(self) -> int:
        """Runs that count for or against the arm."""
        return self.finished + self.failed


@dataclass(frozen=True)
class Analysis:
    """The statistics of a comparison.

    Attributes:
        values: Arm -> seed -> value of its finished runs.
        failures: Arm -> reason -> seeds of its failed runs.
        spread: Standard deviation of one run after the seeds' common part, from all arms; None if it is not known.
        freedom: Degrees of freedom of that spread.
    """

    criterion: Criterion
    baseline: str
    arms: tuple[Arm, ...]
    values: dict[str, dict[int, float]]
    failures: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict[str, "dict[str, tuple[int, ...]]"])
    spread: float | None = None
    freedom: int = 0

    @property
    def metric(self) -> Metric:
        """The metric by which the arms are compared."""
        return self.criterion.metric

    @property
    def compared(self) -> list[tuple[Arm, Difference]]:
        """The arms other than the baseline, each with its difference."""
        return [(arm, arm.difference) for arm in self.arms if arm.difference is not None]

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict of each arm beside the baseline."""
        return {arm.activation: difference.verdict for arm, difference in self.compared}

    @property
    def interval_name(self) -> str:
        """What the intervals of the differences are, as a heading: those of a schedule of looks are wider."""
        looked = any(difference.level != ALPHA for _, difference in self.compared)
        return "interval of its look" if looked else "95 % interval"

    @property
    def sentences(self) -> list[str]:
        """The headline, then one line an arm, then what limits the whole."""
        from .formatting import analysis_sentences

        return analysis_sentences(self)

    def __str__(self) -> str:
        """Return the analysis in words."""
        return "\n".join(self.sentences)


@dataclass(frozen=True)
class Run:
    """One row of a table of runs.

    Attributes:
        status: "finished", "failed", "infrastructure", or "missing" for one that is planned.
        value: Of the metric, finite; None for a run that did not finish.
        measures: Further figures by name.
    """

    arm: str
    seed: int
    status: str
    value: float | None
    reason: str = ""
    measures: Mapping[str, float] = field(default_factory=dict[str, float])


def analyse_runs(
    runs: Sequence[Run],
    criterion: Criterion,
    baseline: str,
    arms: Sequence[str],
    *,
    alpha: float = ALPHA,
    family: int | None = None,
) -> Analysis:
    """Analyse runs, one for each arm and seed at most: one family of tests of all arms beside the baseline.

    Args:
        arms: Names in the order in which they are shown, the baseline among them.
        alpha: Level of the family.
        family: Number of tests in it; None for all arms beside the baseline. The other arms then only help to estimate
            the spread.
    Example:
        >>> from gem_activations.lab.statistics.metrics import ACCURACY, Criterion
        >>> levels = {"relu": 0.95, "gelu": 0.97}
        >>> keys = [(arm, seed) for arm in levels for seed in range(3)]
        >>> runs = [Run(arm, seed, "finished", levels[arm] + 1e-4 * seed**2) for arm, seed in keys]
        >>> runs.append(Run("gelu", 3, "failed", None))
        >>> found = analyse_runs(runs, Criterion(ACCURACY, 0.005), "relu", ["relu", "gelu"])
        >>> found.arms[1].failed, found.arms[1].difference.pairs
        (1, 3)
    """
    order, seeds = [baseline, *(arm for arm in arms if arm != baseline)], sorted({run.seed for run in runs})
    rows, columns = {arm: row for row, arm in enumerate(order)}, {seed: column for column, seed in enumerate(seeds)}
    values = np.full((len(order), max(len(seeds), 1)), np.nan)
    failed = np.zeros(values.shape, bool)
    of_arm: dict[str, list[Run]] = {arm: [] for arm in arms}
    failures: dict[str, dict[str, tuple[int, ...]]] = {arm: {} for arm in arms}
    for run in sorted(runs, key=lambda one: one.seed):
        if run.status in (FAILED, INFRASTRUCTURE):
            reason = run.reason or run.status
            failures[run.arm][reason] = (*failures[run.arm].get(reason, ()), run.seed)
        of_arm[run.arm].append(run)
        place = rows[run.arm], columns[run.seed]
        values[place] = np.nan if run.value is None else run.value
        failed[place] = run.status == FAILED
    family = family or len(order) - 1
    improvement = criterion.metric.sign * values
    judged = judge(improvement, failed, criterion.margin or None, alpha=alpha, family=family)
    variance, freedom, _ = pooled_variance(values)
    ranked = np.where(failed, -np.inf, improvement)
    chances = [probability_better(row, ranked[0]) for row in ranked[1:]]
    found = {
        name: _difference(judged, place, criterion, alpha, family, chances[place])
        for place, name in enumerate(order[1:])
    }
    collapsed = judged.collapsed.sum(-1)
    return Analysis(
        criterion=criterion,
        baseline=baseline,
        arms=tuple(_arm(name, of_arm[name], criterion, int(collapsed[rows[name]]), found.get(name)) for name in arms),
        values={arm: {run.seed: run.value for run in own if run.value is not None} for arm, own in of_arm.items()},
        failures=failures,
        spread=float(np.sqrt(variance)) if freedom > 0 else None,
        freedom=int(freedom),
    )


def _difference(
    judged: Judgement,
    place: int,
    criterion: Criterion,
    level: float,
    family: int,
    chance: tuple[float, float, float] | None,
) -> Difference:
    """Return what the judgement of a table says of one of its arms, with the figures behind it."""
    means, sign, margin = judged.means, criterion.metric.sign, criterion.margin
    mean, pairs, error = float(means.mean[place]), int(means.pairs[place]), float(means.error[place])
    cautious = bool(judged.cautious[place])
    found = Difference(
        criterion,
        ORDER[int(judged.code[place])],
        pairs,
        sign * mean if pairs else None,
        probability_better=None if chance is None else chance[0],
        probability_interval=None if chance is None else Interval(*chance[1:]),
        cautious=cautious,
        within_margin=bool(margin and means.within(margin)[place]),
        mean_shown=bool(means.shown[place]),
        ranks_shown=cautious and bool(judged.ranks.shown[place]),
        level=level,
    )
    if not math.isfinite(error):
        return found
    pooled, freedom, critical = bool(means.pooled[place]), int(means.freedom[place]), float(means.critical[place])

    def adjusted_p(distance: float, sides: int) -> float:
        """Correct the p-value of a distance for the family: by Dunnett's law if pooled, else by Bonferroni."""
        if error == 0:  # Equal differences: the sign test is all there is.
            return min(1.0, family * 0.5 ** (pairs - 1)) if distance > RESOLUTION else 1.0
        if pooled:
            return min(1.0, max(0.0, dunnett_p(distance / error, family, freedom, sides)))
        return min(1.0, family * sides * float(special.stdtr(freedom, -distance / error)))

    return replace(
        found,
        interval=Interval(sign * mean - critical * error, sign * mean + critical * error),
        error=error,
        freedom=freedom,
        pooled=pooled,
        critical=critical,
        p_adjusted=adjusted_p(abs(mean), 2),
        equivalence_p=adjusted_p(margin - abs(mean), 1) if margin else None,
        smallest_shown=detectable(critical, freedom) * error if error > 0 else None,
    )


def _arm(name: str, runs: Sequence[Run], criterion: Criterion, collapsed: int, difference: Difference | None) -> Arm:
    finished = [run for run in runs if run.value is not None]
    sample = [run.value for run in finished if run.value is not None]
    counts = {status: sum(run.status == status for run in runs) for status in (FAILED, INFRASTRUCTURE, "missing")}
    measured: dict[str, list[float]] = {}
    for run in finished:
        for key, value in run.measures.items():
            measured.setdefault(key, []).append(value)
    return Arm(
        activation=name,
        finished=len(finished),
        failed=counts[FAILED],
        infrastructure=counts[INFRASTRUCTURE],
        missing=counts["missing"],
        collapsed=collapsed,
        at_chance=sum(map(criterion.at_chance, sample)),
        mean=float(np.mean(sample)) if sample else None,
        sd=spread(sample),
        interval=student_interval(sample),
        measures={key: Spread(float(np.mean(found)), spread(found), len(found)) for key, found in measured.items()},
        difference=difference,
    )


@lru_cache(maxsize=1024)
def detectable(critical: float, freedom: int) -> float:
    """Compute the true difference, in standard errors, that a t test shows at 80 % power.

    Its critical value is two-sided; the other tail is below 1e-5 at 80 %.

    Example:
        >>> round(detectable(2.0, 1000), 2)
        2.84
    """
    found = optimize.brentq(
        lambda effect: float(np.nan_to_num(stats.nct.sf(critical, freedom, effect), nan=1.0)) - POWER,
        0.0,
        4 * critical + 10,
        xtol=1e-4,
    )
    return float(found)  # pyright: ignore[reportArgumentType] -- SciPy's stub allows for more results


def seeds_for(effect: float, spread_of_run: float, arms: int) -> int:
    """Compute the seeds, 2 to SEEDS_CAP + 1, at which a positive true difference is shown at 80 % power.

    `spread_of_run` is the standard deviation of one run after the seeds' common part; `arms` are beside the baseline.
    Example:
        >>> seeds_for(1.0, 1.0, 1), seeds_for(1.0, 1.0, 7)
        (18, 25)
    """
    low, high = 1, SEEDS_CAP + 1
    while high - low > 1:
        seeds = (low + high) // 2
        freedom = arms * (seeds - 1)
        reach = detectable(dunnett_critical(arms, freedom), freedom) * spread_of_run * math.sqrt(2 / seeds)
        low, high = (low, seeds) if reach <= effect else (seeds, high)
    return high


def plan_seeds(analysis: Analysis, effect: float) -> tuple[int, int, int]:
    """Compute the seeds at which a difference of a size is shown at 80 % power, by the spread of a comparison.

    The size, positive, is in the metric's stored unit.

    Returns: The seeds for the spread that was found, and for the ends of its 80 % interval.
    Raises: SettingError: the effect is not positive, or the comparison knows no spread.
    """
    if not 0 < effect < math.inf:
        raise SettingError("--effect: expected a positive difference")
    if not analysis.spread:
        raise SettingError("the runs have no spread to plan with; a plan needs two arms and two seeds at least")
    ends = spread_range(analysis.spread, analysis.freedom)
    spreads = (analysis.spread, ends.low, ends.high)
    found, low, high = (seeds_for(effect, size, len(analysis.compared)) for size in spreads)
    return found, low, high


def spread_range(spread_of_run: float, freedom: int) -> Interval:
    """Return the interval that holds the true standard deviation of normal values at 80 %."""
    tails = special.chdtri(freedom, [0.1, 0.9])
    low, high = spread_of_run * np.sqrt(freedom / tails)
    return Interval(float(low), float(high))


def student_interval(sample: ArrayLike) -> Interval | None:
    """Return the 95 % Student t interval of the mean of a sample of shape (k,); None for fewer than two values.

    Example:
        >>> student_interval([1.0, 2.0, 3.0])
        Interval(low=-0.484..., high=4.484...)
    """
    values = np.asarray(sample, np.float64)
    if values.size < 2:
        return None
    half = special.stdtrit(values.size - 1, 1 - ALPHA / 2) * (spread(values) or 0.0) / math.sqrt(values.size)
    return Interval(float(values.mean() - half), float(values.mean() + half))


def spread(sample: ArrayLike) -> float | None:
    """Return the standard deviation (ddof=1) of a sample; None for fewer than two values, 0 if all are equal."""
    values = np.asarray(sample, np.float64)
    if values.size < 2:
        return None
    return 0.0 if np.ptp(values) <= RESOLUTION else float(values.std(ddof=1))

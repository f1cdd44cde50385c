"""What a comparison allows to say: a summary of every arm, computed once and read by tables, sentences and plots.

All figures are in the metric's stored unit: accuracies are fractions from 0 to 1, losses nats. docs/statistics.md says
how each figure is computed and where it falls short.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..store.records import FINISHED, Comparison, RunResult
from .inference import Interval, spread, student_interval
from .metrics import Metric, Yardstick, measures_beside, yardstick_of
from .paired import PairedDifference, compare_arms


class Spread(NamedTuple):
    """Mean and standard deviation (ddof=1; None for one value) of some runs' figures, and their number."""

    mean: float
    sd: float | None
    runs: int


@dataclass(frozen=True)
class ArmSummary:
    """One activation of a comparison.

    Attributes:
        finished, failed, missing: Runs by status; missing ones have no result yet. A run without a finite value of
            the metric counts as failed.
        mean, sd: Of the metric over the finished runs (ddof=1); None where there are too few.
        interval: 95 % Student t interval of the mean; None below two finished runs.
        step_time_ratio: Median over the runs of the step time divided by ReLU's; None where it was not measured.
        measures: What else was recorded of the finished runs, by `metrics.Measure.name`.
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
    measures: dict[str, Spread]
    difference: PairedDifference | None


@dataclass(frozen=True)
class Summary:
    """The statistics of a comparison, computed once and read by every table, sentence and plot.

    Attributes:
        yardstick: The metric, and the margin of equivalence.
        baseline: The activation that the others are compared with.
        arms: One an activation, in the comparison's order.
    """

    yardstick: Yardstick
    baseline: str
    arms: tuple[ArmSummary, ...]

    @property
    def metric(self) -> Metric:
        """The metric by which the arms are compared."""
        return self.yardstick.metric

    @property
    def compared(self) -> list[tuple[ArmSummary, PairedDifference]]:
        """The arms other than the baseline, each with its difference."""
        return [(arm, arm.difference) for arm in self.arms if arm.difference is not None]


def summarise(comparison: Comparison) -> Summary:
    """Summarise every arm of a comparison, in its order.

    Args:
        comparison: What the store holds; it may be unfinished.
    Returns: One summary per activation. Failed and missing runs are counted and enter no mean.
    Raises: StoreError: the recipe names a metric or margin that is none.
    """
    yardstick = yardstick_of(comparison.recipe)
    values = {name: values_by_seed(comparison, name, yardstick.metric) for name in comparison.activations}
    others = [name for name in comparison.activations if name != comparison.baseline]
    found = compare_arms([values[name] for name in others], values[comparison.baseline], yardstick)
    differences = dict(zip(others, found, strict=True))
    arms = [
        _summarise_arm(comparison, name, values[name], differences.get(name), yardstick.metric)
        for name in comparison.activations
    ]
    return Summary(yardstick, comparison.baseline, tuple(arms))


def values_by_seed(comparison: Comparison, activation: str, metric: Metric) -> dict[int, float]:
    """Give the metric of each finished run of an activation by seed, in order of the seeds."""
    runs = sorted((run for run in comparison.results if run.activation == activation), key=lambda run: run.seed)
    values = {run.seed: metric.of(run) for run in runs if run.status == FINISHED}
    return {seed: value for seed, value in values.items() if value is not None}


def _summarise_arm(
    comparison: Comparison,
    activation: str,
    values: dict[int, float],
    difference: PairedDifference | None,
    metric: Metric,
) -> ArmSummary:
    runs = [run for run in comparison.results if run.activation == activation]
    sample = np.array(list(values.values()))
    ratios = [ratio for run in runs if (ratio := run.figures.get("step_time_ratio")) is not None]
    return ArmSummary(
        activation=activation,
        finished=len(values),
        failed=len(runs) - len(values),
        missing=sum(name == activation for name, _ in comparison.missing),
        mean=float(sample.mean()) if values else None,
        sd=spread(sample),
        interval=student_interval(sample),
        step_time_ratio=float(np.median(ratios)) if ratios else None,
        measures=_measures([run for run in runs if run.seed in values], metric),
        difference=difference,
    )


def _measures(runs: Sequence[RunResult], metric: Metric) -> dict[str, Spread]:
    found: dict[str, Spread] = {}
    for measure in measures_beside(metric):
        values = [value for run in runs if (value := measure.of(run)) is not None]
        if values:
            found[measure.name] = Spread(float(np.mean(values)), spread(values), len(values))
    return found

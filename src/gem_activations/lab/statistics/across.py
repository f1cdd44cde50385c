"""Several comparisons at once: ranks of the arms over tasks, and verdicts corrected for the number of comparisons."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import stats

from ...errors import SettingError
from .analysis import Analysis, Interval, student_interval
from .contrasts import ALPHA, RESOLUTION
from .formatting import p_text
from .verdicts import Verdict

WITHIN = (0, 1, 2)
"""Points of the performance profile, in standard deviations of one run."""


class Standing(NamedTuple):
    """An arm over all tasks.

    Attributes:
        arm: Its name.
        mean_rank: Mean over the tasks of its rank by the mean of the metric, 1 for the best; an unstable arm is last.
        interval: 95 % Student interval of the mean rank over the tasks; None for one task.
        profile: Share of the tasks at which its mean is within so many standard deviations of the best, for `WITHIN`.
    """

    arm: str
    mean_rank: float
    interval: Interval | None
    profile: tuple[float, ...]


def rank_arms(analyses: Mapping[str, Analysis]) -> tuple[list[Standing], float]:
    """Rank the arms that all comparisons have.

    Returns: The standings, best first, and the critical difference of mean ranks (Nemenyi's test, 5 %).
    Raises: SettingError: fewer than two arms are in all of them.
    Source: Demsar 2006 for ranks and critical difference; Dolan and More 2002 for the profile.
    """
    shared = [arm.activation for arm in next(iter(analyses.values())).arms]
    for found in analyses.values():
        shared = [name for name in shared if name in {arm.activation for arm in found.arms}]
    if len(shared) < 2:
        raise SettingError(f"{', '.join(analyses)} share {len(shared)} activations; a comparison over tasks needs two")
    ranks, gaps = np.empty((len(analyses), len(shared))), np.empty((len(analyses), len(shared)))
    for task, found in enumerate(analyses.values()):
        means = {arm.activation: arm.mean for arm in found.arms}
        scores = [found.metric.sign * (means[name] or 0.0) for name in shared]
        for column, name in enumerate(shared):
            if means[name] is None or found.verdicts.get(name) is Verdict.UNSTABLE:
                scores[column] = -math.inf
        ranks[task] = stats.rankdata([-score for score in scores])
        # Without a spread, whoever is behind at all is out of reach.
        gaps[task] = [gap / found.spread if found.spread else (math.inf if gap > RESOLUTION else 0.0)
                      for gap in (max(scores) - score for score in scores)]  # fmt: skip
    standings = [
        Standing(
            name,
            float(ranks[:, column].mean()),
            student_interval(ranks[:, column]),
            tuple(float((gaps[:, column] <= reach).mean()) for reach in WITHIN),
        )
        for column, name in enumerate(shared)
    ]
    size = len(shared)
    quantile = float(stats.studentized_range.ppf(1 - ALPHA, size, 1e5)) / math.sqrt(2)
    critical = quantile * math.sqrt(size * (size + 1) / (6 * len(analyses)))
    return sorted(standings, key=lambda one: one.mean_rank), critical


def across_lines(analyses: Mapping[str, Analysis]) -> list[str]:
    """Say how the arms stand over all tasks, and which differences hold when all comparisons are counted."""
    standings, critical = rank_arms(analyses)
    lines = [f"Mean ranks over {len(analyses)} comparisons, 1 is best; critical difference {critical:.2f} (Nemenyi):"]
    for one in standings:
        interval = "" if one.interval is None else f" [{max(one.interval.low, 1):.2f}, {one.interval.high:.2f}]"
        profile = zip(WITHIN, one.profile, strict=True)
        within = ", ".join(f"{100 * share:.0f} % within {reach} sd" for reach, share in profile)
        lines.append(f"  {one.arm}: {one.mean_rank:.2f}{interval}; of the best {within}")
    lines.append("Differences that hold when all comparisons are counted (Bonferroni over them):")
    shown = [
        f"  {task}: {arm.activation} {difference.verdict} than {found.baseline}, p {p_text(p_value)}"
        for task, found in analyses.items()
        for arm, difference in found.compared
        if difference.shown
        and (p_value := min(1.0, (difference.p_adjusted or 0.0) * len(analyses))) <= difference.level
    ]
    return lines + (shown or ["  none"])

"""The rules that turn a table of runs into verdicts: tests of means, ranks, failures and collapsed runs together.

A verdict of difference needs the mean to differ (see `contrasts`). As soon as a run of the arm or of the baseline has
failed, or stands out as collapsed, the ranks of all runs must say the same, with failed runs last: the mean then hangs
on few runs, and the mean of the runs that survived flatters whoever fails. The same functions serve one comparison and
the simulations that they were chosen by.
"""

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from .contrasts import ALPHA, Array, Contrasts, Flags, compare_rows

EQUAL_SEEDS = 3
"""Seeds from which on differences that are all 0 are called equivalent."""
COLLAPSE = 8.0
"""Robust standard deviations below the median of its arm at which a run counts as collapsed."""
_DIGITS = 12  # Values are compared as equal at this many decimals: rounding is no rank.


class Verdict(StrEnum):
    """What is said of an arm beside the baseline."""

    BETTER = "shown better"
    WORSE = "shown worse"
    EQUIVALENT = "equivalent within the margin"
    UNDECIDED = "not decided"
    UNSTABLE = "unstable"


ORDER = tuple(Verdict)
"""Verdicts by the code that `judge` gives them."""


class Judgement(NamedTuple):
    """Verdicts and what they stand on; shapes are (..., arms) unless stated.

    Attributes:
        code: Index into `ORDER`.
        means: Contrasts of the values, counted positive if the arm is better.
        ranks: Contrasts of the ranks, the same way; only filled if a run failed or collapsed.
        collapsed: Runs that stand out, shape (..., rows, seeds).
        cautious: Whether a run of arm or baseline failed or collapsed, so that the ranks have a say.
    """

    code: NDArray[np.int_]
    means: Contrasts
    ranks: Contrasts
    collapsed: Flags
    cautious: Flags


def judge(
    improvement: Array,
    failed: Flags,
    margin: float | None = None,
    *,
    alpha: float = ALPHA,
    family: int | None = None,
) -> Judgement:
    """Judge every row but the first beside the first.

    Args:
        improvement: Values counted so that more is better, shape (..., rows, seeds); NaN for a run without one.
        failed: Runs that failed, the same shape; their values are NaN.
        margin: Margin of equivalence, positive; None if nothing is to be called equivalent.
        alpha: Level of all verdicts of difference together, and of all of equivalence.
        family: As for `compare_rows`.
    Example:
        >>> table = np.array([[5.0, 6.0, 7.0], [7.0, 8.1, 9.0], [5.1, 6.0, 6.9]])
        >>> [str(ORDER[code]) for code in judge(table, np.isnan(table), 0.5).code]
        ['shown better', 'equivalent within the margin']
    """
    means = compare_rows(improvement, alpha=alpha, family=family)
    collapsed = find_collapsed(improvement)
    standing_out: Flags = np.asarray(np.any(failed | collapsed, axis=-1))
    # An arm without a failed run among arms that fail may be one that was lucky: its survivors are few.
    anywhere = np.any(failed, axis=(-2, -1))[..., None]
    cautious: Flags = standing_out[..., 1:] | standing_out[..., :1] | anywhere
    ranks, ranks_shown = means, np.zeros(cautious.shape, bool)
    if cautious.any():
        ranks = compare_rows(run_ranks(improvement, failed), alpha=alpha, family=family)
        ranks_shown = ranks.shown
    agree = ~cautious | (ranks_shown & (ranks.mean * means.mean > 0))
    failures, runs = failed.sum(-1), (failed | ~np.isnan(improvement)).sum(-1)
    unstable = more_failures(failures[..., 1:], runs[..., 1:], failures[..., :1], runs[..., :1])
    baseline_unstable = more_failures(failures[..., :1], runs[..., :1], failures[..., 1:], runs[..., 1:])
    shown, better = means.shown & agree, means.mean > 0
    equivalent = np.zeros(shown.shape, bool)
    if margin is not None:
        equivalent = means.within(margin) & ~(cautious & ranks_shown)
        distance = np.abs(improvement[..., 1:, :] - improvement[..., :1, :])
        same = np.all(np.isnan(distance) | (distance <= 10.0**-_DIGITS), axis=-1)
        equivalent |= (means.pairs >= EQUAL_SEEDS) & same
        equivalent &= ~(unstable | baseline_unstable)
    code = np.select(
        [unstable, shown & better, shown & ~better & ~baseline_unstable, equivalent],
        [ORDER.index(one) for one in (Verdict.UNSTABLE, Verdict.BETTER, Verdict.WORSE, Verdict.EQUIVALENT)],
        ORDER.index(Verdict.UNDECIDED),
    )
    return Judgement(code, means, ranks, collapsed, cautious)


def find_collapsed(improvement: Array) -> Flags:
    """Find the runs that lie far below the median of their row, measured by the spread of all rows.

    The spread is 1.4826 times the median distance of a run from its row's median, over the runs that are not that
    median: about one standard deviation of normal values at any number of seeds.
    """
    below = _row_median(improvement) - improvement
    distance = np.where(np.abs(below) > 10.0**-_DIGITS, np.abs(below), np.nan)
    flat = distance.reshape(*distance.shape[:-2], 1, -1)
    scale = 1.4826 * _row_median(flat)
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(below, nan=-np.inf) > COLLAPSE * scale


def run_ranks(improvement: Array, failed: Flags) -> Array:
    """Return the rank of each run among all of its table, 1 for the worst; failed runs share the last places.

    It is NaN for a run that has neither a value nor failed.
    """
    values = np.where(failed, -np.inf, np.round(improvement, _DIGITS))
    flat = values.reshape(*values.shape[:-2], -1)
    missing = np.isnan(flat)
    ranks = np.asarray(stats.rankdata(np.where(missing, np.inf, flat), axis=-1), np.float64)
    return np.where(missing, np.nan, ranks).reshape(values.shape)


def more_failures(
    failed: NDArray[np.int_], runs: NDArray[np.int_], others: NDArray[np.int_], other_runs: NDArray[np.int_]
) -> Flags:
    """Return whether one side fails more often: by Fisher's exact test at 5 %, one-sided, or in half of its runs.

    Example:
        >>> counts = np.array([3, 1, 2]), np.array([3, 3, 3]), np.array([0, 0, 0]), np.array([3, 3, 3])
        >>> more_failures(*counts).tolist()
        [True, False, True]
    """
    p_value = stats.hypergeom.sf(failed - 1, runs + other_runs, failed + others, runs)
    more = failed * np.maximum(other_runs, 1) > others * np.maximum(runs, 1)
    return more & ((np.nan_to_num(p_value, nan=1.0) <= ALPHA) | (2 * failed >= runs))


def probability_better(improvement: Array, baseline: Array) -> tuple[float, float, float] | None:
    """Return the chance that a run of the arm is better than one of the baseline, ties counted half, and its interval.

    Args:
        improvement, baseline: Values counted so that more is better, shapes (m,) and (n,); -inf for a failed run, NaN
            for one without a value.
    Returns: Estimate and 95 % interval; None if one side is empty.
    Source: Mann-Whitney's measure; Newcombe 2006, method 5, which has an interval at 0 and 1 too.
    Example:
        >>> [round(value, 2) for value in probability_better(np.array([0.9, 0.8]), np.array([0.8, 0.7]))]
        [0.88, 0.3, 0.99]
    """
    improvement, baseline = (values[~np.isnan(values)] for values in (improvement, baseline))
    if not improvement.size or not baseline.size:
        return None
    ours, theirs = np.round(improvement, _DIGITS)[:, None], np.round(baseline, _DIGITS)
    found = float(((ours > theirs) + 0.5 * (ours == theirs)).mean())
    half = (ours.size + theirs.size) / 2 - 1

    def squared_error(chance: Array) -> Array:
        spread = 1 + half * (1 - chance) / (2 - chance) + half * chance / (1 + chance)
        return chance * (1 - chance) * spread / (ours.size * theirs.size)

    grid = np.linspace(0, 1, 10001)
    inside = grid[(found - grid) ** 2 <= special.ndtri(1 - ALPHA / 2) ** 2 * squared_error(grid)]
    return found, float(min(inside[0], found)), float(max(inside[-1], found))


def _row_median(values: Array) -> Array:
    """Return the median of each row, NaN left out and kept as the last axis; NaN for an empty row."""
    ordered, counts = np.sort(values, -1), (~np.isnan(values)).sum(-1, keepdims=True)
    low, high = np.maximum(counts - 1, 0) // 2, np.minimum(counts // 2, values.shape[-1] - 1)
    return (np.take_along_axis(ordered, low, -1) + np.take_along_axis(ordered, high, -1)) / 2

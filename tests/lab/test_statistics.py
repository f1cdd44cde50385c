import math
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gem_activations.lab.statistics import (
    SEEDS_CAP,
    Interval,
    bootstrap_interval,
    compare_paired,
    probability_better,
    seeds_needed,
    student_interval,
    summarise,
)

REPLICATES = 400
# Of 400 null comparisons, more than this many verdicts have a chance below 1e-3 if the true rate is 5 %.
MOST_FALSE_VERDICTS = int(stats.binom.isf(1e-3, REPLICATES, 0.05))


def by_seed(values):
    return dict(enumerate(float(value) for value in values))


@cache
def null_comparisons(pairs, draw):
    """Simulate comparisons without a true difference, where half of the variance is shared by the runs of a seed."""
    noise = np.random.default_rng(20 + pairs)
    found = []
    for _ in range(REPLICATES):
        shared = 0.003 * noise.standard_normal(pairs)
        arm, baseline = (draw(noise, 0.95 + shared + 0.003 * noise.standard_normal(pairs)) for _ in range(2))
        found.append(compare_paired(by_seed(arm), by_seed(baseline), resamples=499))
    return tuple(found)


def exact(_, level):
    return level


def of_360_images(noise, level):
    """Draw the accuracy on a test set so small that equal differences are common."""
    return noise.binomial(360, np.clip(level, 0, 1)) / 360


def of_a_nearly_solved_set(noise, level):
    """Draw accuracies that are 1 or one image short of it: most differences are 0 or one image."""
    return 1 - noise.binomial(1, 0.5, size=level.shape) / 360


@pytest.mark.parametrize("pairs", [3, 5, 10])
@pytest.mark.parametrize("draw", [exact, of_360_images, of_a_nearly_solved_set])
def test_a_difference_is_shown_in_at_most_five_percent_of_null_comparisons(pairs, draw):
    assert sum(comparison.shown for comparison in null_comparisons(pairs, draw)) <= MOST_FALSE_VERDICTS


@pytest.mark.parametrize("pairs", [3, 5, 10])
def test_student_interval_covers_the_true_difference(pairs):
    covered = sum(not found.student.excludes_zero() for found in null_comparisons(pairs, exact))
    low, high = stats.binom.ppf([1e-3, 1 - 1e-3], REPLICATES, 0.95)
    assert low <= covered <= high


def test_bootstrap_interval_undercovers_at_three_pairs_as_the_documentation_says():
    found = null_comparisons(3, exact)
    covered = sum(not one.bootstrap.excludes_zero() for one in found)
    low, high = stats.binom.ppf([1e-3, 1 - 1e-3], REPLICATES, 0.72)
    assert low <= covered <= high
    assert all(one.undercovers for one in found)


def test_a_large_difference_is_shown():
    noise = np.random.default_rng(3)
    found = compare_paired(by_seed(0.97 + 0.001 * noise.random(5)), by_seed(0.95 + 0.001 * noise.random(5)))
    assert found.shown
    assert found.mean == pytest.approx(0.02, abs=0.001)
    assert found.method == "BCa"


def test_pairs_are_the_seeds_where_both_finished():
    found = compare_paired({0: 0.9, 1: 0.8, 3: 0.7}, {1: 0.7, 2: 0.1, 3: 0.5})
    assert found.pairs == 2
    assert found.mean == pytest.approx(0.15)
    assert found.sd == pytest.approx(math.sqrt(0.005))


def test_one_pair_gives_no_interval_and_shows_nothing():
    found = compare_paired({0: 0.9}, {0: 0.5})
    assert found.mean == pytest.approx(0.4)
    assert (found.sd, found.bootstrap, found.student, found.seeds_needed, found.shown) == (
        None,
        None,
        None,
        None,
        False,
    )


def test_no_pair_gives_no_difference():
    found = compare_paired({0: 0.9}, {1: 0.5})
    assert (found.pairs, found.mean, found.bootstrap, found.shown) == (0, None, None, False)
    assert found.probability_better is None  # Runs without a partner say nothing about the arms.


def test_equal_differences_show_nothing_even_where_rounding_makes_them_differ():
    arm, baseline = {0: 301 / 360, 1: 310 / 360, 2: 355 / 360}, {0: 300 / 360, 1: 309 / 360, 2: 354 / 360}
    assert len({arm[seed] - baseline[seed] for seed in arm}) > 1  # The case that the test is about.
    found = compare_paired(arm, baseline)
    assert found.without_spread
    assert not found.shown
    assert found.method == "percentile"
    assert found.seeds_needed is None


def test_bootstrap_alone_does_not_show_a_difference():
    found = compare_paired(by_seed([0.96, 0.97, 0.953]), by_seed([0.95, 0.95, 0.95]))
    assert found.bootstrap.excludes_zero()
    assert not found.student.excludes_zero()
    assert not found.shown


def test_intervals_are_reproducible_and_follow_a_shift():
    sample = np.array([1.0, 4.0, 2.0, 5.0]) / 64  # Sums of these are exact, so that ties stay ties.
    first, _ = bootstrap_interval(sample)
    assert bootstrap_interval(sample)[0] == first
    shifted, _ = bootstrap_interval(sample + 1)
    assert shifted == pytest.approx((first.low + 1, first.high + 1))


def test_bootstrap_falls_back_where_bca_does_not_exist(monkeypatch):
    real = stats.bootstrap

    def without_bca(*args, method, **keywords):
        result = real(*args, method="percentile", **keywords)
        if method == "BCa":
            result.confidence_interval = type(result.confidence_interval)(math.nan, math.nan)
        return result

    monkeypatch.setattr(stats, "bootstrap", without_bca)
    interval, method = bootstrap_interval([0.1, 0.2, 0.4])
    assert method == "percentile"
    assert interval == pytest.approx((0.1, 0.4))


def test_student_interval_agrees_with_the_table():
    # The 97.5 % quantile of t with 4 degrees of freedom is 2.776445 in every table.
    sample = [1.0, 2.0, 3.0, 4.0, 5.0]
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert student_interval(sample) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert student_interval([1.0]) is None


@pytest.mark.parametrize(
    ("low", "high", "excluded"),
    [
        (-1.0, 1.0, False),
        (0.0, 1.0, False),
        (-1.0, 0.0, False),
        (1e-17, 1.0, False),
        (0.1, 1.0, True),
        (-1, -0.1, True),
    ],
)
def test_an_end_at_zero_does_not_exclude_it(low, high, excluded):
    assert Interval(low, high).excludes_zero() is excluded


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=8),
    st.lists(st.integers(0, 20), min_size=1, max_size=8),
)
def test_probability_better_counts_pairs(arm, baseline):
    counted = [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in product(arm, baseline)]
    found = probability_better([x / 20 for x in arm], [y / 20 for y in baseline])
    assert found == pytest.approx(sum(counted) / len(counted))


def test_probability_better_needs_runs_of_both():
    assert probability_better([], [0.5]) is None
    assert probability_better([0.5], []) is None


@pytest.mark.parametrize(("effect", "pairs"), [(1.0, 10), (0.8, 15), (0.5, 34), (0.2, 199)])
def test_seeds_needed_agrees_with_published_tables(effect, pairs):
    # Cohen's effect sizes, paired t test, two-sided 5 %, power 80 %.
    sample = effect + np.array([-1.0, 0.0, 1.0])
    assert seeds_needed(sample) == pairs


def test_seeds_needed_is_enough_by_simulation():
    sample = 0.9 + np.array([-1.0, 0.0, 1.0])
    needed = seeds_needed(sample)
    noise = np.random.default_rng(5)
    for pairs, enough in ((needed, True), (needed - 2, False)):
        drawn = 0.9 + noise.standard_normal((20_000, pairs))
        power = np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05)
        assert bool(power >= 0.79) is enough


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ([0.3], None),
        ([0.1, 0.1], None),
        ([-0.1, 0.1], None),
        ([1e-4 - 1, 1e-4 + 1], SEEDS_CAP + 1),
        ([1e6, 1e6 + 1], 2),
    ],
)
def test_seeds_needed_at_its_ends(sample, expected):
    assert seeds_needed(sample) == expected


def test_summary_counts_failed_and_missing_runs(fabricate):
    comparison = fabricate(seeds=4, failed=[("gem", 1)], missing=[("gem", 3), ("relu", 3)])
    arms = {arm.activation: arm for arm in summarise(comparison)}
    assert list(arms) == list(comparison.activations)
    gem = arms["gem"]
    assert (gem.finished, gem.failed, gem.missing) == (2, 1, 1)
    assert gem.difference.pairs == 2
    values = [run.test_accuracy for run in comparison.results if run.activation == "gem" and run.status == "finished"]
    assert gem.mean == pytest.approx(np.mean(values))
    assert gem.sd == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    assert arms["gelu"].difference is None
    assert arms["gem"].step_time_ratio == pytest.approx(1.21)  # The median of 1.20, 1.21 and 1.22.


def test_summary_of_an_arm_that_always_fails(fabricate):
    comparison = fabricate(failed=[("gem", seed) for seed in range(3)])
    gem = next(arm for arm in summarise(comparison) if arm.activation == "gem")
    assert (gem.finished, gem.failed, gem.mean, gem.sd, gem.interval) == (0, 3, None, None, None)
    assert (gem.difference.pairs, gem.difference.mean, gem.difference.shown) == (0, None, False)


def test_summary_where_the_baseline_fails(fabricate):
    comparison = fabricate(failed=[("gelu", 0), ("gelu", 2)])
    assert {arm.difference.pairs for arm in summarise(comparison) if arm.difference} == {1}

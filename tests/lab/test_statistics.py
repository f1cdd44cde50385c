import math
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gem_activations.errors import StoreError
from gem_activations.lab.statistics.inference import (
    Interval,
    bootstrap_interval,
    equivalence_p_value,
    holm,
    probability_greater,
    student_interval,
)
from gem_activations.lab.statistics.metrics import ACCURACY, LOSS, PERPLEXITY, Yardstick, yardstick_of
from gem_activations.lab.statistics.paired import Verdict, compare_arms, compare_paired, corrected
from gem_activations.lab.statistics.power import (
    SEEDS_CAP,
    difference_power,
    equivalence_power,
    seeds_for_difference,
    seeds_for_equivalence,
)
from gem_activations.lab.statistics.summary import summarise, values_by_seed

# The calibration is simulated with fixed seeds. A true rate p is found within +-4 sqrt(p (1 - p) / REPLICATES), which
# is 3.9 points at 5 %: the bounds below are exact binomial ones that a right procedure leaves with probability 1e-3.
REPLICATES = 500
FAMILY = 3
MOST_FALSE_VERDICTS = int(stats.binom.isf(1e-3, REPLICATES, 0.05))
RESAMPLES = 199


def by_seed(values):
    return dict(enumerate(float(value) for value in values))


@cache
def null_families(pairs, draw):
    """Simulate comparisons of three arms with one baseline without any true difference, uncorrected.

    Half of the variance is shared by the runs of a seed. The seeds needed are left out: no verdict depends on them.
    """
    noise = np.random.default_rng(20 + pairs)
    found = []
    for _ in range(REPLICATES):
        shared = 0.003 * noise.standard_normal(pairs)
        baseline, *arms = (
            by_seed(draw(noise, 0.95 + shared + 0.003 * noise.standard_normal(pairs))) for _ in range(1 + FAMILY)
        )
        found.append([compare_paired(arm, baseline, resamples=RESAMPLES) for arm in arms])
    return found


def exact(_, level):
    return level


def of_360_images(noise, level):
    """Draw the accuracy on a test set so small that equal differences are common."""
    return noise.binomial(360, np.clip(level, 0, 1)) / 360


def of_a_nearly_solved_set(noise, level):
    """Draw accuracies that are 1 or one image short of it: most differences are 0 or one image."""
    return 1 - noise.binomial(1, 0.5, size=level.shape) / 360


@pytest.mark.parametrize(
    ("pairs", "draw"), [(3, exact), (5, exact), (10, exact), (3, of_360_images), (5, of_a_nearly_solved_set)]
)
def test_a_difference_is_shown_in_at_most_five_percent_of_null_comparisons_over_all_arms(pairs, draw):
    families = [corrected(family) for family in null_families(pairs, draw)]
    assert sum(any(one.shown for one in family) for family in families) <= MOST_FALSE_VERDICTS


def test_without_the_correction_more_would_be_shown():
    wrong = sum(any(one.shown for one in family) for family in null_families(10, exact))
    assert wrong > MOST_FALSE_VERDICTS


@pytest.mark.parametrize("pairs", [3, 5, 10])
def test_student_interval_covers_the_true_difference(pairs):
    covered = sum(not family[0].student.excludes_zero() for family in null_families(pairs, exact))
    low, high = stats.binom.ppf([1e-3, 1 - 1e-3], REPLICATES, 0.95)
    assert low <= covered <= high


@pytest.mark.parametrize(("pairs", "documented"), [(3, 0.72), (5, 0.84), (10, 0.91)])
def test_bootstrap_interval_covers_as_the_documentation_says(pairs, documented):
    covered = sum(not family[0].bootstrap.excludes_zero() for family in null_families(pairs, exact))
    # The documentation rounds to a percent.
    low, high = stats.binom.ppf([1e-3, 1 - 1e-3], REPLICATES, [documented - 0.005, documented + 0.005])
    assert low <= covered <= high
    assert null_families(pairs, exact)[0][0].undercovers is (pairs < 8)


@pytest.mark.parametrize("pairs", [3, 10])
def test_equivalence_is_shown_in_at_most_five_percent_where_the_arm_lies_on_the_margin(pairs):
    noise = np.random.default_rng(pairs)
    samples = 0.005 + 0.003 * noise.standard_normal((REPLICATES, pairs))
    shown = sum(equivalence_p_value(sample, 0.005) <= 0.05 for sample in samples)
    assert stats.binom.ppf(1e-3, REPLICATES, 0.05) <= shown <= MOST_FALSE_VERDICTS


def test_a_large_difference_is_shown():
    noise = np.random.default_rng(3)
    found = compare_paired(by_seed(0.97 + 0.001 * noise.random(5)), by_seed(0.95 + 0.001 * noise.random(5)))
    assert found.verdict is Verdict.BETTER
    assert found.mean == pytest.approx(0.02, abs=0.001)
    assert found.method == "BCa"


def test_lower_is_better_for_a_loss():
    arm, baseline = by_seed([3.50, 3.51, 3.515]), by_seed([3.60, 3.605, 3.612])
    found = compare_paired(arm, baseline, Yardstick(LOSS, 0.01))
    assert found.mean == pytest.approx(-0.0973, abs=1e-4)
    assert (found.verdict, found.probability_better) == (Verdict.BETTER, 1.0)
    assert found.improvement == -found.mean
    assert compare_paired(baseline, arm, Yardstick(LOSS, 0.01)).verdict is Verdict.WORSE


def test_the_tests_are_those_of_scipy():
    arm, baseline = [0.96, 0.97, 0.953, 0.961], [0.95, 0.955, 0.951, 0.95]
    found = compare_paired(by_seed(arm), by_seed(baseline))
    assert found.p_value == pytest.approx(stats.ttest_rel(arm, baseline).pvalue)
    difference = np.subtract(arm, baseline)
    above = stats.ttest_1samp(difference + 0.005, 0, alternative="greater").pvalue
    below = stats.ttest_1samp(difference - 0.005, 0, alternative="less").pvalue
    assert found.equivalence_p == pytest.approx(max(above, below))


def test_equivalence_by_hand():
    # Mean 0, standard deviation 1, n = 3, margin 2: t = 2 sqrt(3) with two degrees of freedom, whose upper tail is
    # 1/2 - t / (2 sqrt(2 + t^2)).
    t = 2 * math.sqrt(3)
    assert equivalence_p_value([-1.0, 0.0, 1.0], 2.0) == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)))
    assert equivalence_p_value([0.1, 0.1], 1.0) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([None, 0.02]) == [None, 0.04]  # An arm without a test is an arm all the same.


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1, len(p_values) * p) + 1e-15
    order = np.argsort(p_values)
    assert all(np.diff(np.array(adjusted)[order]) >= 0)


def test_arms_are_corrected_for_their_number():
    baseline = by_seed([0.950, 0.951, 0.952])
    gain, none = [0.970, 0.977, 0.985], [0.950, 0.952, 0.9515]
    (alone,) = compare_arms([by_seed(gain)], baseline)
    among = compare_arms([by_seed(gain), by_seed(none), by_seed(none)], baseline)[0]
    assert (alone.verdict, among.verdict) == (Verdict.BETTER, Verdict.UNDECIDED)
    assert among.p_adjusted == pytest.approx(3 * alone.p_adjusted)
    assert among.seeds_needed > alone.seeds_needed
    assert among.seeds_to_decide > among.pairs


def test_the_seeds_to_decide_are_the_fewer_of_both():
    # Mean 0.0001, standard deviation 0.001: hard to show as a difference, easy as equivalence within 0.005.
    (found,) = compare_arms([by_seed([0.9501, 0.9511, 0.9491])], by_seed([0.95] * 3))
    assert found.verdict is Verdict.EQUIVALENT
    (found,) = compare_arms([by_seed([0.9501, 0.9511])], by_seed([0.95] * 2), Yardstick(ACCURACY, 0.002))
    assert found.verdict is Verdict.UNDECIDED
    assert found.seeds_to_decide == found.seeds_for_equivalence < found.seeds_needed


def test_pairs_are_the_seeds_where_both_finished():
    found = compare_paired({0: 0.9, 1: 0.8, 3: 0.7}, {1: 0.7, 2: 0.1, 3: 0.5})
    assert found.pairs == 2
    assert found.mean == pytest.approx(0.15)
    assert found.sd == pytest.approx(math.sqrt(0.005))


def test_one_pair_gives_no_interval_and_shows_nothing():
    found = compare_paired({0: 0.9}, {0: 0.5})
    assert found.mean == pytest.approx(0.4)
    assert (found.sd, found.bootstrap, found.student, found.p_value, found.shown) == (
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
    assert (found.p_value, found.equivalence_p, found.verdict) == (None, None, Verdict.UNDECIDED)


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
    found = probability_greater([x / 20 for x in arm], [y / 20 for y in baseline])
    assert found == pytest.approx(sum(counted) / len(counted))


def test_probability_better_needs_runs_of_both():
    assert probability_greater([], [0.5]) is None
    assert probability_greater([0.5], []) is None


@pytest.mark.parametrize(("effect", "pairs"), [(1.0, 10), (0.8, 15), (0.5, 34), (0.2, 199)])
def test_seeds_needed_agrees_with_published_tables(effect, pairs):
    # Cohen's effect sizes, paired t test, two-sided 5 %, power 80 %.
    sample = effect + np.array([-1.0, 0.0, 1.0])
    assert seeds_for_difference(sample) == pairs


def test_seeds_needed_is_enough_by_simulation():
    sample = 0.9 + np.array([-1.0, 0.0, 1.0])
    needed = seeds_for_difference(sample)
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
    assert seeds_for_difference(sample) == expected


def test_summary_counts_failed_and_missing_runs(fabricate):
    comparison = fabricate(seeds=4, failed=[("gem", 1)], missing=[("gem", 3), ("relu", 3)])
    arms = {arm.activation: arm for arm in summarise(comparison).arms}
    assert list(arms) == list(comparison.activations)
    gem = arms["gem"]
    assert (gem.finished, gem.failed, gem.missing) == (2, 1, 1)
    assert gem.difference.pairs == 2
    values = [
        run.figures.get("test_accuracy")
        for run in comparison.results
        if run.activation == "gem" and run.status == "finished"
    ]
    assert gem.mean == pytest.approx(np.mean(values))
    assert gem.sd == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    assert arms["gelu"].difference is None
    assert arms["gem"].step_time_ratio == pytest.approx(1.21)  # The median of 1.20, 1.21 and 1.22.


def test_summary_of_an_arm_that_always_fails(fabricate):
    comparison = fabricate(failed=[("gem", seed) for seed in range(3)])
    gem = next(arm for arm in summarise(comparison).arms if arm.activation == "gem")
    assert (gem.finished, gem.failed, gem.mean, gem.sd, gem.interval) == (0, 3, None, None, None)
    assert (gem.difference.pairs, gem.difference.mean, gem.difference.shown) == (0, None, False)


def test_summary_where_the_baseline_fails(fabricate):
    comparison = fabricate(failed=[("gelu", 0), ("gelu", 2)])
    assert {arm.difference.pairs for arm in summarise(comparison).arms if arm.difference} == {1}


def test_difference_power_agrees_with_a_simulation():
    drawn = 0.6 + np.random.default_rng(11).standard_normal((20_000, 12))
    power = np.mean(stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.02)
    assert difference_power(0.6, 12, 0.02) == pytest.approx(power, abs=0.015)


@pytest.mark.parametrize(("effect", "pairs"), [(0.0, 8), (0.5, 12), (0.9, 5)])
def test_equivalence_power_agrees_with_a_simulation(effect, pairs):
    drawn = effect + np.random.default_rng(pairs).standard_normal((20_000, pairs))
    above = stats.ttest_1samp(drawn, -1.2, axis=1, alternative="greater").pvalue
    below = stats.ttest_1samp(drawn, 1.2, axis=1, alternative="less").pvalue
    assert equivalence_power(effect, 1.2, pairs, 0.05) == pytest.approx(
        np.mean(np.maximum(above, below) <= 0.05), abs=0.015
    )


def test_seeds_for_equivalence_are_the_fewest_of_that_power():
    sample = np.array([-1.0, 0.1, 1.0])
    needed = seeds_for_equivalence(sample, 0.8)
    effect, margin = sample.mean() / sample.std(ddof=1), 0.8 / sample.std(ddof=1)
    assert equivalence_power(effect, margin, needed, 0.05) >= 0.8 > equivalence_power(effect, margin, needed - 1, 0.05)
    assert seeds_for_equivalence(sample, 0.01) is None  # The observed mean is not within the margin.
    assert seeds_for_equivalence([0.1, 0.1], 0.8) is None
    assert seeds_for_equivalence([-1.0, 1.0], 1e-4) == SEEDS_CAP + 1


def test_the_recipe_names_metric_and_margin(fabricate):
    assert yardstick_of({}) == (ACCURACY, ACCURACY.margin)
    assert yardstick_of({"metric": "test_perplexity", "direction": "lower", "margin": 1}) == (PERPLEXITY, 1.0)
    assert yardstick_of({"task": "text"}).metric is LOSS
    assert yardstick_of({"name": "mnist", "metric": "loss"}) == (
        LOSS,
        LOSS.margin,
    )  # mnist's margin is one of accuracy.
    assert yardstick_of(fabricate().recipe) == (ACCURACY, 0.005)


@pytest.mark.parametrize(
    "recipe", [{"metric": "speed"}, {"metric": "loss", "direction": "higher"}, {"margin": 0}, {"margin": "1"}]
)
def test_a_yardstick_that_is_none_is_refused(recipe):
    with pytest.raises(StoreError, match="expected"):
        yardstick_of(recipe)


def test_perplexity_is_the_exponential_of_the_loss(fabricate):
    comparison = fabricate()
    values = values_by_seed(comparison, "gelu", PERPLEXITY)
    assert values == pytest.approx(dict.fromkeys(range(3), math.exp(0.1)))


def test_further_figures_are_those_that_were_recorded(fabricate):
    gem = next(arm for arm in summarise(fabricate(failed=[("gem", 1)])).arms if arm.activation == "gem")
    assert gem.measures["loss"] == (pytest.approx(0.1), 0.0, 2)
    assert not {"accuracy", "perplexity", "brier", "dead_share"} & gem.measures.keys()

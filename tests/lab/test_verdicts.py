from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from gem_activations.lab.statistics.contrasts import compare_rows, dunnett_critical, dunnett_p
from gem_activations.lab.statistics.verdicts import (
    ORDER,
    Verdict,
    find_collapsed,
    judge,
    more_failures,
    probability_better,
    run_ranks,
)

RNG = np.random.default_rng


def codes(table, margin=None, failed=None):
    table = np.asarray(table, float)
    return [str(ORDER[code]) for code in judge(table, np.isnan(table) if failed is None else failed, margin).code]


def test_critical_values_are_those_of_the_multivariate_t_law():
    for arms, freedom in ((2, 5), (3, 8), (9, 60)):
        law = stats.multivariate_t(shape=0.5 * np.eye(arms) + 0.5, df=freedom)
        value = dunnett_critical(arms, freedom)
        ends = np.full(arms, value)
        inside = law.cdf(ends, lower_limit=-ends, maxpts=200_000 * arms, random_state=0)
        assert inside == pytest.approx(0.95, abs=1e-4)
    for freedom in (2, 9, 40):
        assert dunnett_critical(1, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)
        assert dunnett_critical(1, freedom, sides=1) == pytest.approx(stats.t.ppf(0.95, freedom), rel=1e-4)


def test_p_values_agree_with_scipy():
    rows = RNG(0).standard_normal((4, 6))
    found = stats.dunnett(*rows[1:], control=rows[0], rng=RNG(1))
    ours = [dunnett_p(abs(value), 3, 20) for value in found.statistic]
    assert ours == pytest.approx(found.pvalue, abs=1e-3)


def test_one_arm_alone_is_a_paired_t_test():
    rows = RNG(1).standard_normal((2, 7))
    found = compare_rows(rows)
    expected = stats.ttest_rel(rows[1], rows[0])
    assert found.mean[0] / found.error[0] == pytest.approx(expected.statistic)
    assert (found.freedom[0], found.pairs[0]) == (6, 7)


def test_the_pooled_error_is_that_of_a_two_way_analysis_of_variance():
    rows = RNG(2).standard_normal((5, 6)) + RNG(3).standard_normal(6)
    left = rows - rows.mean(0) - rows.mean(1, keepdims=True) + rows.mean()
    found = compare_rows(rows, method="pooled")
    assert found.error == pytest.approx(np.sqrt(2 * (left**2).sum() / 20 / 6))
    assert (found.freedom == 20).all()


def test_holes_are_fitted_by_least_squares():
    rows = RNG(4).standard_normal((4, 6)) + 3 * RNG(5).standard_normal(6)
    rows[1, 2] = rows[2, 0] = rows[2, 5] = np.nan
    there = ~np.isnan(rows)
    arm, seed = np.nonzero(there)
    design = np.hstack([np.eye(4)[arm], np.eye(6)[seed]])
    _, squares, rank, _ = np.linalg.lstsq(design, rows[there], rcond=None)
    squares = ((rows[there] - design @ np.linalg.lstsq(design, rows[there], rcond=None)[0]) ** 2).sum()
    found = compare_rows(rows, method="pooled")
    assert found.freedom[0] == there.sum() - rank
    assert found.error == pytest.approx(np.sqrt(2 * squares / found.freedom / found.pairs))


def test_an_arm_whose_spread_stands_out_is_tested_with_its_own():
    rows = RNG(6).standard_normal((6, 10))
    rows[3] *= 30
    found = compare_rows(rows)
    assert found.pooled.tolist() == [True, True, False, True, True]
    assert found.error[2] == pytest.approx((rows[3] - rows[0]).std(ddof=1) / np.sqrt(10))
    assert found.error[0] == pytest.approx(compare_rows(np.delete(rows, 3, 0)).error[0])  # And it is out of the pool.
    rows[0] *= 100
    assert not compare_rows(rows).pooled.any()


@pytest.mark.parametrize("seeds", [3, 10])
@pytest.mark.parametrize("arms", [1, 7])
@pytest.mark.parametrize("law", ["normal", "t3", "collapse", "images", "failures"])
def test_false_verdicts_of_difference_are_rare(law, arms, seeds):
    # 1,000 comparisons without a difference: a true rate of 5 % exceeds the bound in one case of a thousand.
    noise = RNG(10 * arms + seeds)
    shape = (1000, arms + 1, seeds)
    values = noise.standard_t(3, shape) if law == "t3" else noise.standard_normal(shape)
    if law == "collapse":
        values -= 30 * (noise.random(shape) < 0.1)
    if law == "images":
        values = noise.binomial(360, 0.997, shape) / 360
    if law == "failures":
        values[:, 1:][values[:, 1:] < -0.3] = np.nan
    said = judge(values, np.isnan(values)).code
    false = np.isin(said, [ORDER.index(Verdict.BETTER), ORDER.index(Verdict.WORSE)]).any(-1)
    assert false.sum() <= stats.binom.isf(1e-3, 1000, 0.05)


def test_three_seeds_show_a_difference_of_three_standard_deviations():
    values = RNG(7).standard_normal((1000, 5, 3))
    values[:, 1] += 3
    found = judge(values, np.isnan(values)).code[:, 0] == ORDER.index(Verdict.BETTER)
    assert found.mean() >= 0.6
    paired = compare_rows(values, method="own").shown[:, 0]
    assert paired.mean() <= 0.2


def test_equivalence_on_the_margin_is_rarely_said():
    values = RNG(8).standard_normal((1000, 4, 10))
    values[:, 1:] += 3
    said = (judge(values, np.isnan(values), 3.0).code == ORDER.index(Verdict.EQUIVALENT)).any(-1)
    assert said.sum() <= stats.binom.isf(1e-3, 1000, 0.05)


def test_failures_count():
    table = RNG(9).standard_normal((3, 30)) * 0.1 + 5
    table[1, :25] = np.nan  # Fails in 25 of 30.
    table[2, 7] = np.nan  # Fails once, as may happen.
    assert codes(table, 1.0) == ["unstable", "equivalent within the margin"]
    every = np.array([[5.0, 5.1, 5.2], [np.nan] * 3])
    assert codes(every, 1.0) == ["unstable"]
    # The baseline fails: that the survivors are equal, or better, says nothing.
    assert codes(table[[1, 0]], 1.0) == ["not decided"]


def test_runs_without_a_result_are_no_failures():
    table = np.array([[5.0, 5.1, 5.2, 5.1], [5.0, 5.1, 5.21, np.nan]])
    assert codes(table, 1.0, failed=np.zeros((2, 4), bool)) == ["equivalent within the margin"]
    assert codes(table[:, :1], 1.0) == ["not decided"]


def test_survivors_do_not_make_an_arm_better():
    values = RNG(11).standard_normal((500, 2, 30))
    values[:, 1][values[:, 1] < np.quantile(values[:, 1], 0.15)] = np.nan
    naive = compare_rows(values).shown & (compare_rows(values).mean > 0)
    said = judge(values, np.isnan(values)).code == ORDER.index(Verdict.BETTER)
    assert naive.mean() > 0.1
    assert said.mean() <= 0.05


def test_a_collapsed_run_needs_the_ranks_to_agree():
    # Usually better by two, but two runs of ten collapsed, and the means do not differ in that direction.
    rows = RNG(12).standard_normal((2, 10)) * 0.1
    rows[1] += 2
    rows[1, :2] -= 40
    found = judge(rows, np.isnan(rows))
    assert found.cautious.all()
    assert found.collapsed.tolist() == [[False] * 10, [True] * 2 + [False] * 8]
    assert codes(rows, 1.0) == ["not decided"]


def test_no_run_of_usual_laws_counts_as_collapsed():
    for seeds in (3, 10, 30):
        values = RNG(seeds).standard_normal((500, 8, seeds))
        assert find_collapsed(values).mean() < 1e-4
        values[:, 2, 0] = -30
        assert find_collapsed(values)[:, 2, 0].mean() > 0.99


def test_equal_values_are_equivalent_and_equal_differences_need_a_sign_test():
    three = np.array([[0.9, 0.8, 0.7], [0.9, 0.8, 0.7]])
    assert codes(three, 0.01) == ["equivalent within the margin"]
    assert codes(three[:, :2], 0.01) == ["not decided"]
    constant = np.vstack([np.arange(10.0), np.arange(10.0) + 0.5])
    assert codes(constant[:, :5]) == ["not decided"]
    assert codes(constant[:, :6]) == ["shown better"]
    assert codes(constant[:, :6], 1.0) == ["shown better"]
    # Rounding is no spread.
    counts = np.array([[300, 309, 354], [301, 310, 355]]) / 360
    assert codes(counts) == ["not decided"]


def test_ranks_put_failed_runs_last_and_leave_missing_ones_out():
    values = np.array([[1.0, 3.0, np.nan], [np.nan, 2.0, 2.0]])
    failed = np.array([[False, False, True], [False, False, False]])
    assert run_ranks(values, failed).tolist()[0] == [2.0, 5.0, 1.0]
    assert np.isnan(run_ranks(values, failed)[1, 0])
    assert run_ranks(values, failed)[1, 1:].tolist() == [3.5, 3.5]


def test_failure_counts_are_compared_by_fishers_test():
    def more(failed, runs, others, other_runs):
        return bool(more_failures(*(np.array(number) for number in (failed, runs, others, other_runs))))

    assert more(12, 30, 0, 30)
    assert not more(3, 30, 0, 30)
    assert stats.fisher_exact([[6, 24], [0, 30]], "greater").pvalue < 0.05
    assert more(6, 30, 0, 30)
    assert not more(3, 3, 3, 3)
    assert not more(0, 0, 0, 3)


def test_the_probability_of_being_better_has_an_interval_that_covers():
    found = probability_better(np.array([3.0, 4.0, -np.inf]), np.array([1.0, 2.0]))
    assert found[0] == pytest.approx(2 / 3)
    assert probability_better(np.array([]), np.array([1.0])) is None
    estimate, low, high = probability_better(np.array([4.0, 5.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    assert (estimate, high) == (1.0, 1.0)
    assert low == pytest.approx(0.5, abs=0.01)  # Three runs each that do not overlap: still next to nothing is known.
    truth = stats.norm.cdf(0.6 / np.sqrt(2))
    noise, inside = RNG(13), 0
    for _ in range(400):
        _, low, high = probability_better(0.6 + noise.standard_normal(8), noise.standard_normal(8))
        inside += low <= truth <= high
    assert inside >= stats.binom.ppf(1e-3, 400, 0.93)


def test_wide_rows_do_not_hide_each_other_from_the_check_of_spreads():
    """Two wide rows once kept a third in the common spread, and narrow arms far apart were called not decided."""
    rng = np.random.default_rng(0)
    table = rng.normal(0.0, np.array([0.01, 0.01, 0.01, 0.2, 0.6, 0.6])[:, None], (6, 10))
    table[1] += 0.08
    found = compare_rows(table)
    assert found.pooled.tolist() == [True, True, False, False, False]
    assert found.shown[0]
    assert not found.shown[1]


def test_the_page_has_the_figures_of_the_simulation():
    root = Path(__file__).parents[2]
    table = pl.read_csv(root / "benchmarks/results/verdicts.csv")
    worst: dict[tuple[str, str, str], float] = {}
    for row in table.iter_rows(named=True):
        key = row["law"], row["procedure"].removesuffix(", Holm"), row["counted"]
        worst[key] = max(row["share"], worst.get(key, 0.0))
    rivals = ("paired t", "Welch", "unblocked Dunnett", "pooled Dunnett", "permutation", "Brunner-Munzel")
    columns = [*((name, "false difference") for name in ("lab", *rivals)), ("lab", "false equivalence")]
    page = (root / "docs/statistics.md").read_text()
    for law in table["law"].unique(maintain_order=True):
        shares = [worst.get((law, *column)) for column in columns]
        assert f"| {law} | {' | '.join('-' if share is None else f'{100 * share:.1f}' for share in shares)} |" in page

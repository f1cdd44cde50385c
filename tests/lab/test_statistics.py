import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import stats

from gem_activations.cli import main
from gem_activations.errors import DataError, SettingError, StoreError
from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.statistics.across import rank_arms
from gem_activations.lab.statistics.analysis import (
    SEEDS_CAP,
    Run,
    analyse_runs,
    detectable,
    plan_seeds,
    seeds_for,
    spread_range,
    student_interval,
)
from gem_activations.lab.statistics.contrasts import dunnett_critical
from gem_activations.lab.statistics.formatting import analysis_sentences, headline
from gem_activations.lab.statistics.metrics import ACCURACY, LOSS, PERPLEXITY, Criterion, criterion_of, own_criterion
from gem_activations.lab.statistics.reading import analyse, analyse_comparison, comparison_runs, read_comparison
from gem_activations.lab.statistics.sequential import make_schedule, replay
from gem_activations.lab.statistics.verdicts import Verdict
from gem_activations.lab.store.comparison import FAILED, FINISHED, read_plan, to_plain, write_json

POINTS = Criterion(ACCURACY, 0.005)


def runs_of(table):
    """Make runs of rows of values, arm by arm; None is a failed run."""
    return [
        Run(arm, seed, FAILED if value is None else FINISHED, value, "diverged" if value is None else "")
        for arm, values in table.items()
        for seed, value in enumerate(values)
    ]


def analysed(table, criterion=POINTS, baseline="gelu"):
    return analyse_runs(runs_of(table), criterion, baseline, list(table))


def only(table, criterion=POINTS):
    ((_, difference),) = analysed(table, criterion).compared
    return difference


def test_one_arm_is_compared_as_by_scipy():
    arm, baseline = [0.96, 0.97, 0.953, 0.961], [0.95, 0.955, 0.951, 0.95]
    found = only({"gelu": baseline, "gem": arm})
    expected = stats.ttest_rel(arm, baseline)
    assert found.p_adjusted == pytest.approx(expected.pvalue, rel=1e-3)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()), rel=1e-3)
    difference = np.subtract(arm, baseline)
    above = stats.ttest_1samp(difference + 0.005, 0, alternative="greater").pvalue
    below = stats.ttest_1samp(difference - 0.005, 0, alternative="less").pvalue
    assert found.equivalence_p == pytest.approx(max(above, below), rel=1e-3)


def test_the_interval_leaves_zero_out_exactly_if_a_difference_is_shown():
    noise = np.random.default_rng(0)
    verdicts = set()
    for _ in range(60):
        table = {name: list(noise.standard_normal(4) + shift) for name, shift in (("gelu", 0), ("a", 0), ("b", 3))}
        for _, found in analysed(table, own_criterion("score", "higher")).compared:
            outside = not found.interval.low <= 0 <= found.interval.high
            assert outside == found.mean_shown == (found.p_adjusted <= 0.05)
            verdicts.add(found.verdict)
    assert {Verdict.BETTER, Verdict.UNDECIDED} <= verdicts


def test_lower_is_better_for_a_loss():
    arm, baseline = [3.50, 3.51, 3.515], [3.60, 3.605, 3.612]
    found = only({"gelu": baseline, "gem": arm}, Criterion(LOSS, 0.01))
    assert found.mean == pytest.approx(-0.0973, abs=1e-4)
    assert (found.verdict, found.probability_better, found.improvement) == (Verdict.BETTER, 1.0, -found.mean)
    assert found.interval.low < found.mean < found.interval.high < 0
    assert only({"gelu": arm, "gem": baseline}, Criterion(LOSS, 0.01)).verdict is Verdict.WORSE


def test_pairs_are_the_seeds_where_both_finished():
    found = only({"gelu": [0.9, 0.8, None, 0.7], "gem": [None, 0.7, 0.1, 0.5]})
    assert found.pairs == 2
    assert found.mean == pytest.approx(-0.15)
    lonely = only({"gelu": [0.9, None], "gem": [None, 0.5]})
    assert (lonely.pairs, lonely.mean, lonely.interval, lonely.verdict) == (0, None, None, Verdict.UNDECIDED)


def test_one_pair_gives_no_interval_and_shows_nothing():
    found = only({"gelu": [0.5], "gem": [0.9]})
    assert (found.interval, found.error, found.p_adjusted, found.verdict) == (None, None, None, Verdict.UNDECIDED)


def test_an_arm_that_fails_is_unstable_and_heads_the_report():
    table = {"gelu": [0.9 + 0.001 * seed for seed in range(30)], "gem": [0.9] * 5 + [None] * 25}
    found = analysed(table)
    assert found.verdicts == {"gem": Verdict.UNSTABLE}
    assert "Unstable: gem (25 of 30 failed)." in headline(found)
    lines = analysis_sentences(found)
    assert "gem, seeds 5, 6, 7, 8, 9, 10, 11, 12, ...: failed, diverged" in lines
    assert len([line for line in lines if "failed, diverged" in line]) == 1


def test_an_infrastructure_failure_says_nothing_about_the_arm():
    runs = runs_of({"gelu": [0.9, 0.91, 0.92], "gem": [0.9, 0.91]})
    found = analyse_runs([*runs, Run("gem", 2, "infrastructure", None, "disk full")], POINTS, "gelu", ["gelu", "gem"])
    arm = found.arms[1]
    assert (arm.failed, arm.infrastructure, arm.planned) == (0, 1, 2)
    assert any("1 run left out; the same command tries them again" in line for line in found.sentences)


def test_the_words_name_what_a_collapsed_arm_does():
    noise = 0.001 * np.random.default_rng(3).standard_normal((2, 10))
    table = {"gelu": list(0.9 + noise[0]), "gem": [0.1, 0.1, *(0.92 + noise[1][2:])]}
    found = analysed(table)
    assert found.verdicts["gem"] is Verdict.UNDECIDED
    line = next(line for line in found.sentences if line.startswith("gem: "))
    assert "usually better (P = 0.80), 2 of 10 runs collapsed, the means do not differ" in line


def test_runs_at_chance_are_counted():
    found = analysed({"gelu": [0.9, 0.91], "gem": [0.1, 0.101]}, Criterion(ACCURACY, 0.005, 0.1))
    assert [arm.at_chance for arm in found.arms] == [0, 2]
    assert "Runs no better than chance: gem (2 of 2)." in found.sentences
    assert criterion_of(make_recipe("cifar100-resnet56")).chance == 0.01
    assert Criterion(LOSS, 0.01, math.log(10)).at_chance(2.31)
    assert not Criterion(LOSS, 0.01, math.log(10)).at_chance(2.0)


def test_the_smallest_difference_is_shown_at_eighty_percent():
    noise = np.random.default_rng(5)
    critical, pairs = dunnett_critical(1, 9), 10
    reach = detectable(critical, 9) / math.sqrt(pairs)
    drawn = reach + noise.standard_normal((20_000, pairs))
    power = np.mean(drawn.mean(1) * math.sqrt(pairs) / drawn.std(1, ddof=1) > critical)
    assert power == pytest.approx(0.8, abs=0.015)


@pytest.mark.parametrize(("effect", "pairs"), [(1.0, 10), (0.8, 15), (0.5, 34), (0.2, 199)])
def test_planned_seeds_agree_with_published_tables(effect, pairs):
    # Cohen's effect sizes, paired t test, two-sided 5 %, power 80 %; a difference has the variance of two runs.
    assert seeds_for(effect * math.sqrt(2), 1.0, 1) == pairs
    assert seeds_for(1e-6, 1.0, 1) == SEEDS_CAP + 1


def test_the_range_of_a_spread_covers():
    noise = np.random.default_rng(6).standard_normal((2000, 9))
    ranges = [spread_range(sample.std(ddof=1), 8) for sample in noise]
    assert np.mean([low <= 1 <= high for low, high in ranges]) == pytest.approx(0.8, abs=0.03)


def test_student_interval_agrees_with_the_table():
    # The 97.5 % quantile of t with 4 degrees of freedom is 2.776445 in every table.
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert student_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert student_interval([1.0]) is None
    assert student_interval([0.1, 0.1]) == (0.1, 0.1)


def test_a_schedule_spends_the_level_and_ends_at_the_most():
    for most in (3, 5, 10, 40, 41):
        schedule = make_schedule(most)
        assert list(schedule)[-1] == most
        assert list(schedule) == sorted(schedule)
        assert sum(schedule.values()) == pytest.approx(0.05)


def test_looks_are_replayed_and_arms_leave():
    noise = np.random.default_rng(8).standard_normal((3, 20))
    noise[1] += 8
    table = {"gelu": noise[0], "far": [*noise[1][:3], *[np.nan] * 17], "near": noise[2]}
    runs = [
        run for run in runs_of({name: list(map(float, row)) for name, row in table.items()}) if run.value == run.value
    ]
    found, looks, still = replay(runs, own_criterion("score", "higher"), "gelu", list(table), make_schedule(20))
    assert (looks[0].seeds, looks[0].verdicts["far"], still) == (3, Verdict.BETTER, ("near",))
    assert [look.seeds for look in looks] == list(make_schedule(20))
    assert set(looks[1].verdicts) == {"near"}
    assert found.verdicts == {"far": Verdict.BETTER, "near": Verdict.UNDECIDED}


def test_false_verdicts_over_all_looks_are_rare():
    noise, schedule, false = np.random.default_rng(9), make_schedule(20), 0
    for _ in range(300):
        table = {name: list(noise.standard_normal(20)) for name in ("gelu", "a", "b")}
        found, _, _ = replay(runs_of(table), own_criterion("score", "higher"), "gelu", list(table), schedule)
        false += any(one.shown for _, one in found.compared)
    assert false <= stats.binom.isf(1e-3, 300, 0.05)


ROWS = [
    {"activation": arm, "seed": seed, "accuracy": 0.9 + shift + 0.001 * (seed * place % 5)}
    for place, (arm, shift) in enumerate((("relu", 0), ("gelu", 0.0), ("gem", 0.05)), start=2)
    for seed in range(4)
]


def test_a_table_from_elsewhere_may_come_in_any_form(tmp_path):
    frame = pl.DataFrame(ROWS)
    frame.write_csv(tmp_path / "a.csv")
    frame.write_parquet(tmp_path / "a.parquet")
    found = [analyse(table) for table in (ROWS, frame, tmp_path / "a.csv", str(tmp_path / "a.parquet"))]
    assert all(one == found[0] for one in found)
    assert (found[0].baseline, str(found[0].verdicts["gem"])) == ("gelu", "shown better")
    assert "gem (+5.03)" in str(found[0])
    renamed = frame.rename({"activation": "arm", "accuracy": "val/acc"})
    assert analyse(renamed, arm="arm", metric="val/acc", baseline="relu").verdicts["gem"] is Verdict.BETTER


def test_a_table_of_pandas_is_read():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    assert analyse(pandas.DataFrame(ROWS)) == analyse(ROWS)


def test_empty_and_infinite_metrics_are_failed_runs(tmp_path):
    text = "activation,seed,loss\ngelu,0,1.0\ngelu,1,1.1\ngelu,2,1.2\ngem,0,\ngem,1,nan\ngem,2,inf\n"
    (tmp_path / "a.csv").write_text(text)
    found = analyse(tmp_path / "a.csv", metric="loss")
    assert (found.arms[1].failed, found.verdicts["gem"]) == (3, Verdict.UNSTABLE)


@pytest.mark.parametrize(
    ("change", "options", "error", "words"),
    [
        ({}, {"metric": "acc"}, DataError, "no column 'acc'; its columns are activation, seed, accuracy"),
        ({"seed": 1}, {}, DataError, "two rows of activation relu, seed 1"),
        ({"accuracy": "high"}, {}, DataError, "'high' in column 'accuracy', row 1; expected a number"),
        ({"accuracy": 93.1}, {}, SettingError, "93.1, which is no fraction; say unit='%'"),
        ({"activation": None}, {}, DataError, "nothing in column 'activation', row 1"),
        ({}, {"baseline": "swish"}, SettingError, "'swish' is not among the arms; they are relu, gelu, gem"),
        ({}, {"better": "more"}, SettingError, "say better='higher' or 'lower'"),
        ({}, {"margin": -1.0}, SettingError, "expected a positive number"),
    ],
)
def test_a_wrong_table_is_one_clear_error(change, options, error, words):
    rows = [{**ROWS[0], **change}, *ROWS[1:]]
    with pytest.raises(error, match=words):
        analyse(rows, **options)


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        analyse(tmp_path / "no.csv")
    with pytest.raises(SettingError, match=r"expected a file ending in \.csv or \.parquet"):
        analyse(tmp_path / "a.xlsx")
    (tmp_path / "a.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot be read as a table"):
        analyse(tmp_path / "a.parquet")
    with pytest.raises(SettingError, match="a int is no table"):
        analyse(3)
    with pytest.raises(DataError, match="no rows"):
        analyse(pl.DataFrame({"activation": [], "seed": [], "accuracy": []}))
    with pytest.raises(SettingError, match="does not say which is better"):
        analyse(
            [{"activation": "a", "seed": 0, "speed": 1.0}, {"activation": "b", "seed": 0, "speed": 1.0}], metric="speed"
        )
    with pytest.raises(DataError, match="a comparison needs two"):
        analyse(ROWS[:4])


def test_many_arms_and_seeds_are_analysed():
    noise = np.random.default_rng(1)
    table = {f"arm {number}": list(noise.standard_normal(100)) for number in range(20)}
    found = analysed(table, own_criterion("score", "higher"), "arm 0")
    assert len(found.compared) == 19


def test_analysis_counts_failed_and_missing_runs(fabricate):
    comparison = fabricate(seeds=4, failed=[("gem", 1)], missing=[("gem", 3), ("relu", 3)])
    arms = {arm.activation: arm for arm in analyse_comparison(comparison).arms}
    assert list(arms) == list(comparison.activations)
    gem = arms["gem"]
    assert (gem.finished, gem.failed, gem.missing, gem.difference.pairs) == (2, 1, 1, 2)
    values = [run.value for run in comparison_runs(comparison, ACCURACY) if run.arm == "gem" and run.value is not None]
    assert gem.mean == pytest.approx(np.mean(values))
    assert gem.sd == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    assert arms["gelu"].difference is None
    assert gem.measures["step_time_ratio"].mean == pytest.approx(1.21)


def test_another_baseline_can_be_asked_for(fabricate):
    comparison = fabricate()
    found = analyse_comparison(comparison, "relu")
    assert (found.baseline, "gelu" in found.verdicts) == ("relu", True)
    with pytest.raises(SettingError, match="'swish' is not among"):
        analyse_comparison(comparison, "swish")


def test_a_finished_run_without_a_finite_metric_has_failed(fabricate):
    comparison = fabricate(arms={"gelu": 0.9, "gem": 0.9})
    metric = dataclasses.replace(ACCURACY, field="best_epoch", name="nothing")
    assert all(run.value == 6 for run in comparison_runs(comparison, metric))


def test_the_recipe_names_metric_and_margin(fabricate):
    gpt2 = make_recipe("gpt2-124m").pipeline()
    assert criterion_of(gpt2) == (PERPLEXITY, PERPLEXITY.margin, None)
    assert criterion_of(dataclasses.replace(gpt2, margin=1.0))[:2] == (PERPLEXITY, 1.0)
    # mnist's margin is one of accuracy.
    mnist = dataclasses.replace(make_recipe("mnist"), metric="loss", margin=None)
    assert criterion_of(mnist)[:2] == (LOSS, LOSS.margin)
    assert criterion_of(fabricate().recipe) == (ACCURACY, 0.005, 0.1)


@pytest.mark.parametrize("values", [{"metric": "speed"}, {"margin": 0}, {"margin": "1"}, {"model": {"kind": "rnn"}}])
def test_a_stored_recipe_with_a_value_that_is_none_is_refused(tmp_path, values):
    recipe = {**to_plain(make_recipe("digits").pipeline()), **values}
    plan = {"baseline": "a", "device": "cpu", "threads": 1, "data": {}, "activations": ["a"], "seeds": [0]}
    write_json(tmp_path / "comparison.json", {"format": 2, "recipe": recipe, **plan})
    with pytest.raises(StoreError, match=r"comparison\.json is damaged: .*(metric|margin|model)"):
        read_plan(tmp_path)


def test_perplexity_is_the_exponential_of_the_loss(fabricate):
    runs = comparison_runs(fabricate(), PERPLEXITY)
    assert {run.value for run in runs} == {math.exp(0.1)}


def test_further_figures_are_those_that_were_recorded(fabricate):
    gem = next(arm for arm in analyse_comparison(fabricate(failed=[("gem", 1)])).arms if arm.activation == "gem")
    assert gem.measures["loss"] == (pytest.approx(0.1), 0.0, 2)
    assert not {"accuracy", "perplexity", "brier", "dead_share"} & gem.measures.keys()


def test_a_table_has_a_report_of_its_own(tmp_path, capsys):
    rows = [*ROWS, {"activation": "gem", "seed": 4, "accuracy": None}]
    pl.DataFrame(rows).write_csv(tmp_path / "mine.csv")
    assert main(["report", str(tmp_path / "mine.csv"), "--baseline", "relu", "--json"]) == 3  # A run has failed.
    found = {row["activation"]: row for row in json.loads(capsys.readouterr().out)["summary"]}
    assert (found["gem"]["verdict"], found["gem"]["failed"]) == ("shown better", 1)
    assert "accuracy, from" in (tmp_path / "mine-report/report.html").read_text()
    assert main(["report", str(tmp_path / "mine.csv"), "--metric", "f1"]) == 2
    assert "no column 'f1'; its columns are activation, seed, accuracy" in capsys.readouterr().err


RESULTS = Path(__file__).parents[2] / "benchmarks/results"


def test_seeds_are_planned_from_a_folder(capsys):
    analysis = analyse_comparison(read_comparison(RESULTS / "mnist"))
    seeds, low, high = plan_seeds(analysis, 0.0016)
    assert main(["plan", str(RESULTS / "mnist"), "--effect", "0.16"]) == 0
    asked = f"0.16 points to {analysis.baseline}, {len(analysis.compared)} arms: {seeds} seeds at 80 % power ("
    assert capsys.readouterr().out.startswith(f"{asked}{low} to {high} for ")
    assert 2 <= low <= seeds <= high
    assert main(["plan", str(RESULTS / "mnist"), "--effect", "-1"]) == 2
    assert "expected a positive difference" in capsys.readouterr().err


def test_kept_results_are_read_in_one_order():
    comparison = read_comparison(RESULTS / "bert-small")
    runs = [(run.activation, run.seed) for run in comparison.results]
    assert list(comparison.curves) == runs
    assert len({*runs}) == len(runs) >= 15


@pytest.mark.usefixtures("without_plots")
def test_folders_are_ranked_over_tasks(tmp_path, capsys):
    names = ("mnist", "cifar10-resnet56", "gpt2-124m", "bert-small")
    analyses = {name: analyse_comparison(read_comparison(RESULTS / name)) for name in names}
    standings, critical = rank_arms(analyses)
    assert {one.arm for one in standings} >= {"relu", "gelu", "gem"}
    arms = len(standings)
    assert sum(one.mean_rank for one in standings) == pytest.approx(arms * (arms + 1) / 2)
    # Nemenyi's critical values of three to eight arms: Tukey's q / sqrt(2). Of seven, tables of q have 4.170 (2.9486).
    table = {3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.9486, 8: 3.031}
    assert critical == pytest.approx(table[arms] * math.sqrt(arms * (arms + 1) / 24), abs=1e-3)
    assert all(list(one.profile) == sorted(one.profile) for one in standings)
    folders = [str(shutil.copytree(RESULTS / name, tmp_path / name)) for name in names[1:]]
    assert main(["report", *folders]) == 0
    printed = capsys.readouterr().out
    assert "Mean ranks over 3 comparisons" in printed
    assert "bert-small: gem shown worse than gelu" in printed


def test_without_a_spread_whoever_is_behind_is_out_of_reach():
    analyses = {task: analysed({"relu": [0.9, 0.9], "gelu": [0.95, 0.95]}) for task in "ab"}
    standings, _ = rank_arms(analyses)
    assert [(one.arm, one.profile) for one in standings] == [("gelu", (1.0, 1.0, 1.0)), ("relu", (0.0, 0.0, 0.0))]

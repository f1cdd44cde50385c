import base64
import dataclasses
import errno
import hashlib
import io
import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from gem_activations.cli import main
from gem_activations.console import print_report
from gem_activations.errors import StoreError
from gem_activations.lab import compare
from gem_activations.lab.recipes.pipeline import OwnRecipe
from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.report import document as report
from gem_activations.lab.report.document import analyse
from gem_activations.lab.statistics.formatting import (
    SHORT,
    control_sentences,
    difference_text,
    interval_text,
    signed,
    value_text,
)
from gem_activations.lab.statistics.metrics import ACCURACY
from gem_activations.lab.statistics.reading import analyse_comparison
from gem_activations.lab.statistics.tables import markdown_text, terminal_table


def points(fraction):
    return signed(fraction, ACCURACY)


def accuracy_text(arm):
    return value_text(arm, ACCURACY)


def write_report(comparison):
    return report.write_report(report.analyse(comparison))


def summary_words(comparison):
    return report.analyse(comparison).sentences


def summary_table(comparison, width=120):
    return terminal_table(analyse_comparison(comparison), width)


TWO = {"gelu": 0.95, "gem": 0.95}
VOID = {"meta", "br", "hr", "img", "link"}


class Page(HTMLParser):
    """Checks that elements nest, and keeps what the tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.source = text
        self.open, self.ids, self.attributes, self.rows, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        self.ids += [value for key, value in attrs if key == "id"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)
        if self.rows and self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def page_of(comparison):
    return Page((comparison.folder / "report.html").read_text(encoding="utf-8"))


def words_of(page):
    return " ".join("".join(page.text).split())


def arm_with(comparison, accuracies, activation="gem"):
    """Replace the test accuracies of one arm, seed by seed."""
    runs = tuple(
        dataclasses.replace(run, figures={**run.figures, "test_accuracy": accuracies[run.seed]})
        if run.activation == activation
        else run
        for run in comparison.results
    )
    return dataclasses.replace(comparison, results=runs)


def baseline_plus(comparison, differences):
    scores = {
        run.seed: run.figures.get("test_accuracy")
        for run in comparison.results
        if run.activation == comparison.baseline
    }
    return arm_with(comparison, {seed: scores[seed] + differences[seed] for seed in scores})


def sentence_about(activation, comparison):
    return next(line for line in summary_words(comparison) if line.startswith(f"{activation}: "))


def test_the_folder_holds_every_file_and_no_rest(reported):
    comparison = reported
    names = {path.relative_to(comparison.folder).as_posix() for path in comparison.folder.rglob("*") if path.is_file()}
    stems = ("accuracy", "differences", "slopes", "pareto", "validation-accuracy", "train-loss", "activations")
    plots = {f"plots/{stem}.{suffix}" for stem in stems for suffix in ("png", "svg")}
    assert names == plots | {".report.lock"} | report.FILES.keys() - {"depth.parquet"}
    for stem in stems:
        assert ET.parse(comparison.folder / f"plots/{stem}.svg").getroot().tag.endswith("svg")
        assert (comparison.folder / f"plots/{stem}.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_store_gives_the_same_bytes(fabricate):
    comparison = fabricate()
    contents = []
    for _ in range(2):
        write_report(comparison)
        contents.append({path: path.read_bytes() for path in comparison.folder.rglob("*") if path.is_file()})
        shutil.rmtree(comparison.folder)
    assert contents[0] == contents[1]


def test_results_have_one_row_a_run_and_the_fields_of_the_store(reported):
    table = pl.read_parquet(reported.folder / "results.parquet")
    assert table.columns == list(reported.results[0].row())
    assert table.to_dicts() == [{**dict.fromkeys(table.columns), **run.row()} for run in reported.results]
    failed = table.filter(pl.col("status") == "failed")
    assert failed.select("activation", "seed", "test_accuracy").rows() == [("gem", 1, None)]
    as_text = pl.read_csv(reported.folder / "results.csv", schema=table.schema)
    assert as_text.with_columns(pl.col("reason").fill_null("")).equals(table)


def test_results_of_a_comparison_without_a_run_keep_their_types(fabricate):
    comparison = fabricate(arms={"gelu": 0.9}, seeds=1, missing=[("gelu", 0)])
    write_report(comparison)
    schema = pl.read_parquet(comparison.folder / "results.parquet").schema
    assert (schema["activation"], schema["seed"], schema["status"]) == (pl.String, pl.Int64, pl.String)


def test_the_summary_file_holds_the_statistics(reported):
    rows = {row["activation"]: row for row in pl.read_csv(reported.folder / "summary.csv").to_dicts()}
    for arm in analyse_comparison(reported).arms:
        row = rows[arm.activation]
        assert row["test_accuracy_mean"] == pytest.approx(arm.mean)
        if arm.difference is None:
            assert row["interval_low"] is None
        else:
            assert (row["interval_low"], row["interval_high"]) == pytest.approx(tuple(arm.difference.interval))
            assert row["p"] == pytest.approx(arm.difference.p_adjusted)
            assert row["verdict"] == str(arm.difference.verdict)


def test_the_page_needs_nothing_from_outside(reported):
    page = page_of(reported)
    assert {"link", "img", "iframe", "object"}.isdisjoint(re.findall(r"<(\w+)", page.source))
    addresses = [value for key, value in page.attributes if key in ("href", "xlink:href", "src", "srcset", "action")]
    addresses += re.findall(r"url\(([^)]*)\)", page.source)
    assert addresses
    assert {address[0] for address in addresses} == {"#"}
    assert "@import" not in page.source


def test_the_page_runs_its_own_script_alone(reported):
    page = page_of(reported)
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [value for key, value in page.attributes if key == "content" and "default-src" in value]
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not [key for key, _ in page.attributes if key.startswith("on")]


def test_identifiers_are_unique_and_every_reference_has_its_target(reported):
    page = page_of(reported)
    assert len(page.ids) == len(set(page.ids))
    references = set(re.findall(r"(?:xlink:href=\"#|url\(#)([^\")]+)", page.source))
    assert references
    assert references <= set(page.ids)


def test_the_page_says_what_was_compared_and_how_to_make_it_again(reported):
    page = page_of(reported)
    text = words_of(page)
    assert reported.recipe.title in text
    assert reported.recipe.rule in text
    assert "training.learning_rate" in text
    assert "gem-act compare digits" in text
    assert f"gem-act report {reported.folder}" in text
    assert "versions.torch" in text
    for sentence in summary_words(reported):
        assert sentence in text


def test_the_page_has_a_row_for_every_arm_with_its_interval(reported):
    rows = {row[0].strip(): [cell.strip() for cell in row] for row in reversed(page_of(reported).rows)}
    for arm in analyse_comparison(reported).arms:
        row = rows[arm.activation]
        assert row[1] == accuracy_text(arm)
        assert row[-2:] == [str(arm.failed), str(arm.missing)]
        if arm.difference is None:
            assert row[2] == "baseline"
        else:
            interval = interval_text(arm.difference.interval, ACCURACY)
            assert row[2] == f"{points(arm.difference.mean)} {interval}"
            assert row[3] == str(arm.difference.verdict)


@pytest.mark.usefixtures("without_plots")
def test_what_a_run_says_is_escaped(fabricate):
    comparison = fabricate(failed=[("gem", 0)])
    runs = tuple(
        dataclasses.replace(run, reason="<script>alert(1)</script> & more") if run.reason else run
        for run in comparison.results
    )
    comparison = dataclasses.replace(comparison, results=runs, environment={"command": "<b>run</b>"})
    write_report(comparison)
    page = page_of(comparison)
    assert page.source.count("<script") == 1
    assert "<b>" not in page.source
    assert "failed, <script>alert(1)</script> & more" in words_of(page)
    markdown = (comparison.folder / "report.md").read_text()
    assert "<script" not in markdown


@pytest.mark.usefixtures("without_plots")
def test_cells_that_a_spreadsheet_would_compute_are_guarded(fabricate):
    comparison = fabricate(failed=[("gem", 0)])
    runs = tuple(dataclasses.replace(run, reason="=1+1") if run.reason else run for run in comparison.results)
    write_report(dataclasses.replace(comparison, results=runs))
    assert "'=1+1" in pl.read_csv(comparison.folder / "results.csv")["reason"].to_list()
    assert "=1+1" in pl.read_parquet(comparison.folder / "results.parquet")["reason"].to_list()


def test_the_users_own_names_are_text_everywhere(tmp_path):
    def train(run):
        return {'=top/1"><b>|x': 0.5 + run.seed / 8, "@cost": 2.0}

    folder = tmp_path / "a`<b>"
    compare(train, activations=["relu", "gelu"], metric='=top/1"><b>|x', better="higher", seeds=2, out=folder)
    assert (folder / "plots/-top-1-b-x.png").is_file()
    markdown, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    assert "](plots/-top-1-b-x.png)" in markdown
    assert "<b>" not in markdown.replace("plots/", "")
    assert "<b>" not in page
    for name in ("results.csv", "summary.csv"):
        heads = pl.read_csv(folder / name).columns
        assert not [head for head in heads if head.startswith(("=", "@"))]
    assert "'@cost" in pl.read_csv(folder / "results.csv").columns


@pytest.mark.usefixtures("without_plots")
def test_banners_warn_of_smoke_runs_and_arms_at_chance(fabricate):
    comparison = fabricate(arms={"gelu": 0.95, "gem": 0.1})
    comparison = dataclasses.replace(comparison, recipe=dataclasses.replace(comparison.recipe, scale="smoke"))
    comparison = arm_with(comparison, dict.fromkeys(range(3), 0.1))
    write_report(comparison)
    text = words_of(page_of(comparison))
    assert "Smoke runs: they show that the code runs" in text
    assert "No better than chance in every run: gem." in text
    assert not report.analyse(fabricate()).banners


def test_figures_have_text_alternatives(reported):
    labels = [value for key, value in page_of(reported).attributes if key == "aria-label"]
    assert any("test accuracy, %, mean, standard deviation and runs: relu " in label for label in labels)
    assert any("No activation is shown to differ from gelu" in label for label in labels)


def test_failed_and_missing_runs_are_listed(reported):
    text = words_of(page_of(reported))
    assert "gem, seed 1: failed, the training loss is nan in epoch 3" in text
    assert "relu: 1 run without a result yet." in text
    assert "14 of 15 runs have a result" in text


@pytest.mark.parametrize(
    "choices",
    [
        {"arms": {"gelu": 0.9}},
        {"arms": {"gelu": 0.9}, "seeds": 1, "missing": [("gelu", 0)]},
        {"seeds": 1},
        {"arms": {"gelu": 0.9, "gem": 0.9}, "failed": [("gelu", 0), ("gelu", 1), ("gelu", 2)]},
    ],
)
def test_any_comparison_has_a_report(fabricate, choices):
    comparison = fabricate(**choices)
    write_report(comparison)
    page = page_of(comparison)
    assert summary_words(comparison)[0] in words_of(page)
    assert summary_table(comparison).row_count == len(comparison.activations)


@pytest.mark.usefixtures("without_plots")
def test_a_folder_that_cannot_be_written_is_one_error(fabricate):
    comparison = fabricate()
    comparison.folder.parent.mkdir(exist_ok=True)
    comparison.folder.write_text("a file, not a folder")
    with pytest.raises(StoreError, match="cannot be written"):
        write_report(comparison)
    assert comparison.folder.read_text() == "a file, not a folder"


def printed(table, width=120):
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_terminal_table(fabricate):
    comparison = fabricate(failed=[("gem", 1)])
    lines = printed(summary_table(comparison)).splitlines()
    gem = next(line for line in lines if line.startswith("gem "))
    arms = {arm.activation: arm for arm in analyse_comparison(comparison).arms}
    assert accuracy_text(arms["gem"]) in gem
    assert points(arms["gem"].difference.mean) in gem
    assert gem.endswith(" 1/3")
    assert "baseline" in next(line for line in lines if line.startswith("gelu "))
    assert "open: not decided" in " ".join(" ".join(lines).split())


def rows_of(text):
    """Read the rows of a printed table back: what stands under `activation`, joined over lines, and the other cells."""
    lines = text.splitlines()
    rule = next(number for number, line in enumerate(lines) if set(line.strip()) == {"─"})
    rows = []
    for line in lines[rule + 1 :]:
        if not line.strip() or line.startswith("better, worse"):
            break
        name, *cells = re.split(r" {2,}| (?=[+-]?\d+\.\d+ [±\[])| (?=(?:better|worse|equiv\.|open) )", line.strip())
        if cells:
            rows.append([name, *cells])
        else:
            rows[-1][0] += f" {name}" if rows[-1][0].endswith(",") else name
    return rows


@pytest.mark.parametrize("seeds", [1, 3, 10])
def test_every_name_and_figure_stands_on_80_columns(fabricate, seeds):
    comparison = fabricate(seeds=seeds, baseline="segem(eps=1e-4, leak=0.01)")
    text = printed(summary_table(comparison, 80), width=80)
    assert max(map(len, text.splitlines())) <= 80
    want = []
    for arm in analyse_comparison(comparison).arms:
        difference = difference_text(arm.difference) if arm.difference else "baseline"
        verdict = SHORT[arm.difference.verdict] if arm.difference else "-"
        want.append([arm.activation, accuracy_text(arm), difference, verdict, "0"])
    assert rows_of(text) == want


def test_the_longest_figures_stand_whole_on_80_columns(fabricate):
    arms = {"gelu": 0.5, "segem(eps=1e-4, leak=0.01)": 1.0, "gem": 0.5}
    comparison = fabricate(arms=arms, seeds=10, failed=[("gem", seed) for seed in range(10)])
    comparison = arm_with(comparison, dict.fromkeys(range(10), 1.0), "segem(eps=1e-4, leak=0.01)")
    lines = printed(summary_table(comparison, 80), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    arm = next(arm for arm in analyse_comparison(comparison).arms if arm.mean == 1.0)
    assert accuracy_text(arm) == "100.00 ± 0.00 (10)"
    assert any(accuracy_text(arm) in line and difference_text(arm.difference) in line for line in lines)
    assert any(line.endswith(" 10/10") for line in lines)
    names = [line[:15].strip() for line in lines]
    assert names[names.index("segem(eps=1e-4,") + 1] == "leak=0.01)"


def test_names_and_counts_stand_whole_on_60_columns(fabricate):
    comparison = fabricate(seeds=10, failed=[("gem", seed) for seed in range(10)])
    text = printed(summary_table(comparison, 60), width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert any(line.endswith(" 10/10") for line in text.splitlines()), "figures are not cut"
    for name in ("relu", "gelu", "gem", "gem(n=2)", "segem(eps=1e-4,"):
        assert any(line.startswith(name) for line in text.splitlines())


def test_words_where_a_difference_is_shown(fabricate):
    comparison = baseline_plus(fabricate(arms=TWO), [0.010, 0.011, 0.012])
    assert sentence_about("gem", comparison) == "gem: shown better: +1.10 points [+0.85, +1.35] over 3 seeds."
    assert summary_words(comparison)[0] == "Shown better than gelu, in points of test accuracy: gem (+1.10)."
    worse = baseline_plus(fabricate(arms=TWO), [-0.010, -0.011, -0.012])
    assert sentence_about("gem", worse).startswith("gem: shown worse: -1.10 points")


def test_a_small_difference_that_is_shown_is_said_to_be_within_the_margin(fabricate):
    sentence = sentence_about("gem", baseline_plus(fabricate(arms=TWO), [0.0010, 0.0011, 0.0012]))
    assert sentence.startswith("gem: shown better: +0.11 points")
    assert sentence.endswith("within the margin of 0.50 points all the same.")


def test_words_where_equivalence_is_shown(fabricate):
    comparison = baseline_plus(fabricate(arms=TWO), [0.0010, -0.0011, 0.0002])
    assert sentence_about("gem", comparison).startswith("gem: equivalent within 0.50 points: +0.003 points")
    headline = "No activation is shown to differ from gelu. Equivalent to it within 0.50 points: gem (+0.003)."
    assert summary_words(comparison)[0] == headline


def test_words_where_nothing_is_decided_name_what_the_seeds_could_show(fabricate):
    comparison = baseline_plus(fabricate(arms=TWO), [-0.01, 0.02, 0.005])
    assert sentence_about("gem", comparison) == "gem: not decided: +0.50 points [-3.23, +4.23] over 3 seeds."
    assert "Smallest difference that these seeds show at 80 % power: 4.90 points." in summary_words(comparison)


def test_words_where_all_differences_are_equal(fabricate):
    sentence = sentence_about("gem", baseline_plus(fabricate(arms=TWO), [0.01] * 3))
    assert sentence == "gem: not decided: +1.00 points over 3 seeds; equal differences say nothing about their spread."


def test_words_for_one_seed(fabricate):
    sentence = sentence_about("gem", fabricate(seeds=1))
    assert sentence.startswith("gem: not decided: ")
    assert "one seed gives no interval" in sentence


def test_words_for_failed_runs_are_grouped(fabricate):
    words = summary_words(fabricate(failed=[("gem", 1), ("gelu", 0), ("gelu", 2)]))
    assert "over 0" not in " ".join(words)
    assert "gelu, seeds 0, 2: failed, the training loss is nan in epoch 3" in words
    assert sentence_about("gem", fabricate(failed=[("gem", 1)])).endswith("; 1 of 3 failed.")


def test_no_arm_is_called_best_where_nothing_is_shown(fabricate):
    comparison = baseline_plus(fabricate(arms=TWO), [0.01, -0.01, 0.02])
    words = summary_words(comparison)
    assert words[0] == "No activation is shown to differ from gelu."
    assert not re.search(r"\b(best|wins?|beats?|above|below|better|worse)\b", " ".join(words))


def test_many_arms_carry_the_note_on_their_number(fabricate):
    assert any("intervals hold for the 4 arms together" in line for line in summary_words(fabricate()))
    assert not any("arms together" in line for line in summary_words(fabricate(arms=TWO)))


def test_numbers_as_text():
    assert [points(value) for value in (0.0042, -0.00001, 0.0, 1e-17)] == ["+0.42", "-0.001", "0.00", "0.00"]


def test_the_markdown_has_the_table_and_the_words(reported):
    text = (reported.folder / "report.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert len({len(row) for row in rows[: 2 + len(reported.activations)]}) == 1
    assert summary_words(reported)[0] in text
    assert markdown_text(summary_words(reported)[1]) in text
    for stem in ("accuracy", "differences"):
        assert f"](plots/{stem}.png)" in text


def test_the_latex_table_is_a_whole_tabular(reported):
    lines = (reported.folder / "summary.tex").read_text().splitlines()
    assert [lines[i] for i in (2, 4, -2, -1)] == ["\\toprule", "\\midrule", "\\bottomrule", "\\end{tabular}"]
    columns = re.search(r"begin{tabular}{(l+r+l+)}", lines[1])[1]
    rows = [line for line in lines if line.endswith("\\\\")]
    assert len(rows) == 1 + len(reported.activations)
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
    assert not [row for row in rows if re.search(r"(?<!\\)[%_#]|±", row)]


@pytest.mark.usefixtures("without_plots")
def test_the_summary_names_the_verdict_and_its_tests(fabricate):
    comparison = baseline_plus(fabricate(arms=TWO), [0.010, 0.011, 0.012])
    write_report(comparison)
    row = pl.read_csv(comparison.folder / "summary.csv").to_dicts()[1]
    assert (row["verdict"], row["margin"], row["pairs"]) == ("shown better", 0.005, 3)
    assert row["p"] == pytest.approx(0.00274, abs=1e-5)
    assert row["equivalence_p"] > 0.9


@pytest.mark.usefixtures("without_plots")
def test_statistics_are_computed_once_a_report(fabricate, monkeypatch):
    calls = []
    real = report.analyse_comparison
    monkeypatch.setattr(report, "analyse_comparison", lambda *given: (calls.append(1), real(*given))[1])
    write_report(fabricate(arms=TWO))
    assert len(calls) == 1


@pytest.mark.usefixtures("without_plots")
def test_the_page_shows_claims_and_further_figures(fabricate):
    comparison = fabricate(arms={"gelu": 0.9, "segem(eps=1e-4, leak=0.01)": 0.9})
    comparison = dataclasses.replace(comparison, recipe=make_recipe("cifar10-resnet56", scale="small").pipeline())
    write_report(comparison)
    text = words_of(page_of(comparison))
    assert "CIFAR-10, ResNet-56: SE-GEM passes GELU (E. Krause, arXiv:2604.21677)" in text
    assert "test loss (NLL), nats" in text


def test_the_command_says_which_files_it_wrote(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "comparison_figures", lambda *_: {"one": Figure()})  # All of them take long.
    folder = tmp_path / "mnist"
    shutil.copytree(Path(__file__).parents[2] / "benchmarks/results/mnist", folder)
    assert main(["report", str(folder)]) == 0
    printed = capsys.readouterr().out
    names = re.findall(r"^  (\S+): ", printed[printed.index(f"Written to {folder}:") :], re.MULTILINE)
    assert {"report.html", "report.md", "summary.tex", "results.parquet", "plots/"} <= set(names)
    assert all((folder / name).exists() for name in names)


@pytest.mark.usefixtures("without_plots")
def test_a_report_that_cannot_be_written_is_shown(fabricate, monkeypatch, capsys):
    comparison = fabricate()
    print_report(analyse(comparison))
    whole = capsys.readouterr().out

    def full(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("gem_activations.lab.report.document.write_atomically", full)
    with pytest.raises(StoreError, match=r"the report cannot be written to .*: Permission denied; name another folder"):
        print_report(analyse(comparison))
    shown = capsys.readouterr().out
    assert shown
    assert whole.startswith(shown)
    with pytest.raises(StoreError):
        print_report(analyse(comparison), as_json=True)
    assert json.loads(capsys.readouterr().out)["files"] == []


@pytest.mark.usefixtures("without_plots")
def test_a_report_goes_to_another_folder(fabricate, tmp_path):
    comparison = fabricate()
    written = report.write_report(analyse(comparison), tmp_path / "other")
    assert tmp_path / "other/report.html" in written
    assert not comparison.folder.exists()


def test_steps_to_a_target_are_those_of_the_runs_that_reach_it(fabricate):
    comparison = fabricate(arms={"gelu": 0.96, "relu": 0.9, "gem": 0.97}, seeds=2)
    (name,) = [name for name in analyse(comparison).analysis.arms[0].measures if " to " in name]
    assert re.fullmatch(r"epochs to validation accuracy 9\d\.\d\d %", name)
    found = {arm.activation: arm.measures.get(name) for arm in analyse(comparison).analysis.arms}
    assert found["relu"] is None
    assert found["gem"].mean <= 6
    early = analyse(comparison, target=40.0).analysis
    assert {arm.measures["epochs to validation accuracy 40.00 %"].mean for arm in early.arms} == {1.0}
    curves = {
        key: tuple({**row, "steps": 50 * row["epoch"]} for row in rows) for key, rows in comparison.curves.items()
    }
    early = analyse(dataclasses.replace(comparison, curves=curves), target=40.0).analysis
    assert {arm.measures["steps to validation accuracy 40.00 %"].mean for arm in early.arms} == {50.0}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ["this split, this test set and one learning rate for all arms, 0.005", "gem-act tune digits"]),
        ({"resplit": True}, ["a split drawn anew for each seed and one learning rate"]),
        ({"rates": {"gelu": 0.01}}, ["and a learning rate tuned for each arm", "gelu 0.01"]),
    ],
)
def test_the_unit_of_the_verdicts_is_stated(fields, words):
    recipe = dataclasses.replace(make_recipe("digits"), **fields)
    said = " ".join(control_sentences(recipe))
    assert [word for word in words if word not in said] == []
    assert ("gem-act tune" in said) == (not recipe.rates)


@pytest.mark.parametrize(
    ("options", "words"), [({}, "this training function with its options"), (None, "what the seeds of the table vary")]
)
def test_the_unit_of_verdicts_on_results_of_one_s_own_is_stated(options, words):
    (said,) = control_sentences(OwnRecipe("mine", "mine", "loss", "lower", options=options))
    assert words in said

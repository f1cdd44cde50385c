import dataclasses
import io
import math
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy.stats import norm

from gem_activations.catalog import ENTRIES, parse
from gem_activations.errors import SettingError
from gem_activations.lab.report import plots
from gem_activations.lab.report.drawing import FAMILY, GREY, RIVALS, render, styles
from gem_activations.lab.report.plots import find_ablations, sample_shape, write_family_picture
from gem_activations.lab.statistics.reading import analyse_comparison
from gem_activations.lab.store.comparison import Depth

EVERY_PLOT = ["accuracy", "differences", "slopes", "pareto", "validation-accuracy", "train-loss", "activations"]


def comparison_figures(comparison):
    return plots.comparison_figures(comparison, analyse_comparison(comparison))


def lines_of(axes, color):
    return [line for line in axes.get_lines() if line.get_color() == color]


def points_of(axes, color, marker):
    drawn = [line.get_xdata() for line in lines_of(axes, color) if line.get_marker() == marker]
    return np.concatenate([np.atleast_1d(x) for x in drawn])


def test_a_finished_comparison_has_every_plot(fabricate):
    assert list(comparison_figures(fabricate())) == EVERY_PLOT


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"arms": {"gelu": 0.9}}, ["accuracy", "validation-accuracy", "train-loss", "activations"]),
        ({"seeds": 1}, [name for name in EVERY_PLOT if name != "slopes"]),
        ({"arms": {"gelu": 0.9, "gem": 0.9}, "seeds": 1, "missing": [("gelu", 0), ("gem", 0)]}, ["activations"]),
        ({"arms": {"gelu": 0.9}, "seeds": 1, "failed": [("gelu", 0)]}, EVERY_PLOT[4:]),
    ],
)
def test_a_plot_without_anything_to_show_is_left_out(fabricate, choices, expected):
    figures = comparison_figures(fabricate(**choices))
    assert list(figures) == expected
    for figure in figures.values():
        assert len(render(figure, "svg")) > 1000


def test_a_run_that_failed_before_its_first_epoch_is_drawn_nowhere(fabricate):
    comparison = fabricate(failed=[("gem", 0)])
    curves = {run: curve for run, curve in comparison.curves.items() if run != ("gem", 0)}
    figures = comparison_figures(dataclasses.replace(comparison, curves={**curves, ("gem", 0): ()}))
    panel = figures["train-loss"].axes[2]
    assert [line.get_marker() for line in panel.get_lines()].count("x") == 0


def test_accuracies_are_drawn_in_percent(fabricate):
    comparison = fabricate()
    axes = comparison_figures(comparison)["accuracy"].axes[0]
    drawn = points_of(axes, styles(comparison.activations)["gem"].color, "o")
    stored = [100 * run.figures.get("test_accuracy") for run in comparison.results if run.activation == "gem"]
    assert sorted(drawn) == pytest.approx(sorted(stored))
    assert [label.get_text() for label in axes.get_yticklabels()] == list(comparison.activations)


def test_differences_are_drawn_pair_by_pair_with_their_interval(fabricate):
    comparison = fabricate(failed=[("gem", 1)], seeds=4)
    color = styles(comparison.activations)["gem"].color
    axes = comparison_figures(comparison)["differences"].axes[0]
    scores = {(run.activation, run.seed): run.figures.get("test_accuracy") for run in comparison.results}
    expected = [100 * (scores["gem", seed] - scores["gelu", seed]) for seed in (0, 2, 3)]
    assert points_of(axes, color, "o") == pytest.approx(expected)
    difference = next(arm.difference for arm in analyse_comparison(comparison).arms if arm.activation == "gem")
    bars = [tuple(line.get_xdata()) for line in lines_of(axes, color) if line.get_marker() == "None"]
    assert bars == [tuple(100 * end for end in difference.interval)]
    low, high = axes.get_xlim()
    assert low < bars[0][0] < bars[0][1] < high


def test_the_wide_interval_of_two_seeds_does_not_set_the_frame(fabricate):
    comparison = fabricate(seeds=2)
    axes = comparison_figures(comparison)["differences"].axes[0]
    widest = max(arm.difference.interval.high for arm in analyse_comparison(comparison).arms if arm.difference)
    assert axes.get_xlim()[1] < 100 * widest


def test_learning_curves_show_mean_standard_error_and_failed_runs(fabricate):
    comparison = fabricate(failed=[("gem", 1)])
    figure = comparison_figures(comparison)["validation-accuracy"]
    panel = figure.axes[list(comparison.activations).index("gem")]
    color = styles(comparison.activations)["gem"].color
    mean, *failed = lines_of(panel, color)
    finished = [[epoch["validation_accuracy"] for epoch in comparison.curves["gem", seed]] for seed in (0, 2)]
    assert mean.get_ydata() == pytest.approx(100 * np.mean(finished, axis=0))
    band = panel.collections[0].get_paths()[0].vertices[:, 1]
    means, errors = np.mean(finished, axis=0), np.std(finished, axis=0, ddof=1) / np.sqrt(2)
    assert (band.min(), band.max()) == pytest.approx((100 * np.min(means - errors), 100 * np.max(means + errors)))
    assert len(failed[0].get_xdata()) == 2
    assert failed[-1].get_marker() == "x"


def test_an_activation_looks_the_same_in_every_report():
    names = ["relu", "gelu", "gem", "mish", "egem(eps=1e-4)", "segem(eps=1e-4, leak=0.01)", "Snake", "egem(eps=3)"]
    looks = styles(names)
    assert looks == {name: styles([name])[name] for name in reversed(names)}
    assert looks["relu"].color == GREY
    assert {looks[name].color in FAMILY for name in ("gem", "egem(eps=1e-4)", "egem(eps=3)")} == {True}
    assert {looks[name].color in RIVALS for name in ("gelu", "mish", "Snake")} == {True}
    assert len({looks[name] for name in names[:6]}) == 6
    assert len(set(FAMILY + RIVALS)) == len(FAMILY) + len(RIVALS)


def test_slopes_and_pareto_show_pairs_and_costs(fabricate):
    comparison = fabricate(arms={"relu": 0.95, "gelu": 0.96, "gem": 0.97})
    figures = comparison_figures(comparison)
    panel = figures["slopes"].axes[1]
    values = analyse_comparison(comparison).values
    drawn = [tuple(line.get_ydata()) for line in panel.get_lines()]
    assert drawn == [pytest.approx((100 * values["gelu"][seed], 100 * values["gem"][seed])) for seed in range(3)]
    named = {text.get_text() for text in figures["pareto"].axes[0].texts}
    assert "relu" in named  # The cheapest one.
    assert "gem" in named  # The most accurate one.


def luminance(color):
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("color", [GREY, *FAMILY, *RIVALS])
@pytest.mark.parametrize("page", ["#ffffff", "#14181d"])
def test_every_colour_can_be_seen_on_a_light_and_on_a_dark_page(color, page):
    darker, lighter = sorted([luminance(color), luminance(page)])
    assert (lighter + 0.05) / (darker + 0.05) > 2.1


def test_equal_input_gives_equal_bytes_in_another_process(tmp_path):
    script = (
        "import sys, pathlib; from gem_activations.lab.report.plots import write_family_picture; "
        "write_family_picture(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "a.svg"], check=True)
    write_family_picture(tmp_path / "b.svg")
    first, second = ((tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second
    assert b"<dc:date>" not in first


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_family_picture_is_a_file_of_its_suffix(tmp_path, suffix):
    path = tmp_path / "folder" / f"family.{suffix}"
    write_family_picture(path)
    content = path.read_bytes()
    if suffix == "svg":
        texts = {element.text for element in ET.fromstring(content).iter("{http://www.w3.org/2000/svg}text")}
        assert {"relu", "gelu", "gem", "gem(n=2)", "gem(n=3)", "egem(eps=0.1)", "f'", "f''"} <= texts
    else:
        assert Image.open(io.BytesIO(content)).size == (2000, 740)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_another_suffix_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(SettingError, match=r"\.png or \.svg"):
        write_family_picture(tmp_path / "family.jpg")
    assert list(tmp_path.iterdir()) == []


def test_derivatives_of_gelu_are_its_analytic_ones():
    x, value, first, second = sample_shape(parse("gelu"))
    np.testing.assert_allclose(value, x * norm.cdf(x), atol=1e-15)
    np.testing.assert_allclose(first, norm.cdf(x) + x * norm.pdf(x), atol=1e-8)
    np.testing.assert_allclose(second, (2 - x**2) * norm.pdf(x), atol=1e-6)


def test_derivatives_of_the_family_are_its_closed_forms():
    x, value, first, second = sample_shape(parse("gem(n=2)"))
    positive = np.maximum(x, 0)
    gate = positive**4 / (1 + positive**4)
    np.testing.assert_allclose(value, positive * gate, atol=1e-15)
    np.testing.assert_allclose(first, gate * (5 - 4 * gate), atol=1e-14)
    inside = x > 0.01
    expected = 4 / x[inside] * gate[inside] * (1 - gate[inside]) * (5 - 8 * gate[inside])
    np.testing.assert_allclose(second[inside], expected, atol=1e-12)


def test_relu_has_no_derivative_at_its_kink_and_the_right_ones_beside_it():
    x, _, first, second = sample_shape(parse("relu"))
    away = np.abs(x) > 1e-3
    np.testing.assert_allclose(first[away], (x[away] > 0).astype(float), atol=1e-10)
    np.testing.assert_allclose(second[away], 0, atol=1e-6)
    assert math.isnan(first[np.argmin(np.abs(x))])


@pytest.mark.parametrize("name", list(ENTRIES))
def test_every_activation_has_a_shape(name):
    shape = sample_shape(parse(name))
    assert np.isfinite(shape.value).all()
    for values in (shape.first, shape.second):
        assert np.isfinite(values).mean() > 0.9
    steps = [b - a for a, b in pairwise(shape.x)]
    assert min(steps) > 0


ABLATION = {"gelu": 0.95, "relu": 0.94, "gem": 0.96, "gem(n=2)": 0.95, "gem(n=3)": 0.94, "egem(eps=1e-4)": 0.96}


def test_arms_that_differ_in_one_parameter_are_an_ablation():
    found = find_ablations(["egem(eps=1)", "egem(eps=1e-4)", "egem(eps=0.1)", "egem(n=2, eps=1)", "relu"], "eps")
    assert found == {"egem": {1e-4: "egem(eps=1e-4)", 0.1: "egem(eps=0.1)", 1.0: "egem(eps=1)"}}
    assert find_ablations(["gem", "gem(n=2)"], "n") == {}


def test_the_ablation_shows_means_seeds_and_the_other_arms(fabricate):
    comparison = fabricate(arms=ABLATION, failed=[("gem(n=3)", 0)])
    figures = comparison_figures(comparison)
    assert "eps-ablation" not in figures
    axes = figures["n-ablation"].axes[0]
    (curve,) = axes.containers
    arms = {arm.activation: arm for arm in analyse_comparison(comparison).arms}
    assert curve.lines[0].get_xdata() == pytest.approx([1, 2, 3])
    assert curve.lines[0].get_ydata() == pytest.approx([100 * arms[n].mean for n in ("gem", "gem(n=2)", "gem(n=3)")])
    low, high = curve.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx(tuple(100 * end for end in arms["gem"].interval))
    assert sum(len(line.get_ydata()) for line in axes.get_lines() if line.get_marker() == "_") == 8
    labels = {
        line.get_label(): line.get_ydata()[0] for line in axes.get_lines() if line.get_label() in ("gelu", "relu")
    }
    assert labels == pytest.approx({name: 100 * arms[name].mean for name in ("gelu", "relu")})


def test_depth_is_drawn_where_it_was_recorded(fabricate):
    comparison = fabricate(arms={"gelu": 0.9, "gem": 0.9})
    depths = {
        (run.activation, run.seed): Depth(
            ("a", "b"), (1.0, 2.0), (3.0 + run.seed, 4.0), ("x", "y", "z"), (0.1, 0.1, 0.1), (0.2, 0.4, 0.3)
        )
        for run in comparison.results
    }
    figures = comparison_figures(dataclasses.replace(comparison, depths=depths))
    color = styles(comparison.activations)["gem"].color
    end, start = lines_of(figures["gradient-norm"].axes[1], color)
    assert end.get_ydata() == pytest.approx([4.0, 4.0])
    assert start.get_ydata() == pytest.approx([1.0, 2.0])
    assert lines_of(figures["dead-share"].axes[1], color)[0].get_ydata() == pytest.approx([20, 40, 30])


def test_a_comparison_by_loss_is_drawn_in_nats(fabricate):
    comparison = fabricate()
    comparison = dataclasses.replace(
        comparison, recipe=dataclasses.replace(comparison.recipe, metric="loss", margin=0.02)
    )
    figures = comparison_figures(comparison)
    assert list(figures)[:6] == ["loss", "differences", "slopes", "pareto", "validation-loss", "train-loss"]
    assert figures["loss"].axes[0].get_xlabel() == "test loss, nats"
    curve = lines_of(figures["validation-loss"].axes[1], styles(comparison.activations)["gelu"].color)[0]
    stored = [epoch["validation_loss"] for epoch in comparison.curves["gelu", 0]]
    assert curve.get_ydata() == pytest.approx(stored)


def test_twenty_arms_stand_in_three_columns(fabricate):
    figure = comparison_figures(fabricate(arms=dict.fromkeys(list(ENTRIES)[3:15], 0.9)))["train-loss"]
    assert figure.axes[0].get_subplotspec().get_gridspec().ncols == 3
    assert [axes.get_xlabel() for axes in figure.axes[-4:]] == ["", "epoch", "epoch", "epoch"]

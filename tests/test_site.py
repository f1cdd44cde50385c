"""The interactive page of the documentation, in headless Chromium: its numbers are the oracle's; it loads nothing."""

import csv
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from gem_activations import GemSpec, catalog

PAGE = Path(__file__).parents[1] / "docs" / "site" / "explore.html"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")


def rendered(settings, tmp_path, page=PAGE):
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=1000", "--dump-dom"]
    command = [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", f"{page.as_uri()}#{settings}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return unescape(done.stdout.partition("<script>")[0])


def rendered_after(script, settings, tmp_path):
    """Render a copy of the page that a user has moved: the script runs once the page is drawn."""
    copy = tmp_path / "moved.html"
    copy.write_text(PAGE.read_text().replace("</body>", f"<script>{script}</script></body>"))
    return rendered(settings, tmp_path, copy)


def numbers(page):
    """Return the table of the page: x, f, f', f'' in each row."""
    exact = [float(value) for value in re.findall(r'<td data-exact="([^"]+)"', page)]
    return np.array(exact).reshape(-1, 4).T


def spec_named(page):
    (name,) = re.findall(r'<code id="name">(.*?)</code>', page)
    return GemSpec.parse(name)


def drawn(page, curve="first"):
    """Return the heights of a curve in each chart, in the units that the marks of its axis say."""
    for chart in re.findall(r"<figure>(.*?)</figure>", page, re.DOTALL):
        marks = re.findall(r'd="M44 ([\d.]+)H350"></path><text[^>]*text-anchor="end">([^<]+)</text>', chart)
        pixels, values = np.array(marks, dtype=float).T
        slope, offset = np.polyfit(pixels, values, 1)
        (path,) = re.findall(rf'<path class="{curve}"[^>]* d="M([^"]+)"', chart)
        yield slope * np.array([point.split() for point in path.split("L")], dtype=float)[:, 1] + offset


@in_browser
@pytest.mark.parametrize(
    ("settings", "spec", "reach"),
    [
        ("", GemSpec(), 5),
        ("n=1&eps=1e-4&leak=0&range=5", GemSpec(1, 1e-4), 5),
        ("n=1&eps=1e-12&leak=0&range=1000", GemSpec(1, 1e-12), 1000),
        ("n=2&eps=1e-4&leak=0.01&range=1", GemSpec(2, 1e-4, 0.01), 1),
        ("n=8&eps=1e-12&leak=0.99&range=500", GemSpec(8, 1e-12, 0.99), 500),
        ("n=3&eps=1e6&leak=0&range=100", GemSpec(3, 1e6), 100),
    ],
)
def test_numbers_and_curves_are_the_oracles(settings, spec, reach, tmp_path):
    page = rendered(settings, tmp_path)
    x, *found = numbers(page)
    assert x.max() == -x.min() == reach
    expected = [spec(x), spec.derivative(x), spec.second_derivative(x)]
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)
    assert spec_named(page) == spec
    assert "NaN" not in page
    assert '<p id="note" role="status"></p>' in page
    # A tenth of a pixel of a chart 226 pixels high is what is drawn; equal steps alone miss a narrow transition whole.
    value, slope, bend, gate = drawn(page)
    assert value.max() == pytest.approx(spec(reach), rel=0.01)
    assert slope.max() == pytest.approx(spec.lipschitz, rel=0.01)
    assert np.abs(bend).max() == pytest.approx(spec.sup_second_derivative, rel=0.01)
    assert gate.max() == pytest.approx(float(spec.gate(reach)), abs=0.01)


@in_browser
def test_a_wide_range_keeps_the_transition_of_gelu(tmp_path):
    _, slope, *_ = drawn(rendered("n=1&eps=1e-12&leak=0&range=1000", tmp_path), "second")
    assert slope.max() == pytest.approx(1.1289, abs=0.01)
    assert slope.min() == pytest.approx(-0.1289, abs=0.01)


@in_browser
def test_a_curve_that_leaves_the_frame_is_not_drawn_along_its_edge(tmp_path):
    page = rendered("n=1&eps=1e6&leak=0&range=5", tmp_path)
    *_, bend, _ = drawn(page, "second")
    assert bend.max() == pytest.approx(np.sqrt(2 / np.pi), rel=0.01)
    assert len(re.findall(r'<path class="second" clip-path="url\(#frame-\d\)"', page)) == 4
    assert len(re.findall(r'<clipPath id="frame-\d"><rect', page)) == 4


@in_browser
@pytest.mark.parametrize(
    ("slider", "step", "spec", "reach"),
    [
        ("n", 3, GemSpec(3, 1e-4, 0.02), 5),
        ("eps", -10, GemSpec(2, 5e-4, 0.02), 5),
        ("leak", 0.25, GemSpec(2, 1e-4, 0.25), 5),
        ("range", -1, GemSpec(2, 1e-4, 0.02), 0.5),
    ],
)
def test_a_slider_draws_anew_and_writes_the_address(slider, step, spec, reach, tmp_path):
    move = f"""const moved = document.getElementById("{slider}");
        moved.value = {step};
        moved.dispatchEvent(new Event("input"));
        document.getElementById("note").textContent = location.hash;"""
    page = rendered_after(move, "n=2&eps=1e-4&leak=0.02&range=5", tmp_path)
    assert spec_named(page) == spec
    x, value, *_ = numbers(page)
    assert x.max() == reach
    np.testing.assert_allclose(value, spec(x), rtol=1e-12, atol=1e-15)
    (address,) = re.findall(r'<p id="note" role="status">#(.*?)</p>', page)
    given = {key: float(text) for key, text in (part.split("=") for part in address.split("&"))}
    assert given == {"n": spec.n, "eps": spec.eps, "leak": spec.leak, "range": reach}


def computed(script, tmp_path):
    """Return what a script computes with the functions of the page."""
    page = rendered_after(f'document.getElementById("note").textContent = JSON.stringify({script});', "", tmp_path)
    return json.loads(re.findall(r'<p id="note" role="status">(.*?)</p>', page, re.DOTALL)[0])


@in_browser
def test_every_activation_of_the_catalog_is_there_with_its_formula_and_derivatives(tmp_path):
    found = computed(
        """Object.keys(CATALOG).map(name => {
            const xs = [-700, -30, -3.3, -1.7, -0.4, -0.003, 0.003, 0.3, 0.9, 2.2, 7.1, 40, 700];
            return [name, CATALOG[name][0], parse(name).p, xs, xs.map(parse(name).at)];
        })""",
        tmp_path,
    )
    assert [name for name, *_ in found] == list(catalog.ENTRIES)
    for name, formula, parameters, xs, values in found:
        entry, activation, x = catalog.ENTRIES[name], catalog.parse(name), np.array(xs)
        assert formula == entry.formula
        assert parameters == pytest.approx({key: float(value) for key, value in entry.defaults.items()}), name
        value, slope, bend = np.array(values, dtype=float).T
        step = 1e-4 * np.maximum(np.abs(x), 1e-2)
        below, middle, above = activation(x - step), activation(x), activation(x + step)
        np.testing.assert_allclose(value, middle, rtol=1e-11, atol=1e-15, err_msg=name)
        size = np.abs(middle) + 1
        np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-5, atol=1e-6, err_msg=name)
        rounding = 1e-15 * size / step**2 + 1e-3 * np.abs(bend)
        assert np.all(np.abs(bend - (above - 2 * middle + below) / step**2) <= 1e-3 + 8 * rounding), name


@in_browser
def test_gain_and_chi_are_the_proved_ones(tmp_path):
    with (PAGE.parents[1] / "properties/constants.csv").open() as file:
        rows = {(row["name"], row["constant"]): row["low"] for row in csv.DictReader(file)}
    names = sorted({name for name, constant in rows if constant == "gain" and rows[name, "chi"] and rows[name, "gain"]})
    assert len(names) > 30
    found = computed(f"{json.dumps(names)}.map(name => propagation(parse(name), 1))", tmp_path)
    for name, each in zip(names, found, strict=True):
        assert each["gain"] == pytest.approx(float(rows[name, "gain"]), rel=1e-3), name
        assert each["chi"] == pytest.approx(float(rows[name, "chi"]), rel=1e-3), name


@in_browser
def test_any_two_are_compared_with_their_numbers_and_copied(tmp_path):
    page = rendered("first=SE-GEM(n=2, scale=0.1)&second=Mish&range=2", tmp_path)
    x, *values = numbers(page)
    np.testing.assert_allclose(values[0], GemSpec(2, 1e-4, 0.01)(x), rtol=1e-12)
    other = np.array(re.findall(r'<td data-second="([^"]+)"', page), dtype=float).reshape(-1, 3)
    np.testing.assert_allclose(other[:, 0], catalog.parse("mish")(x), rtol=1e-12)
    assert '<code id="other">mish</code>' in page
    assert "x (0.01 + 0.99 x<sup>4</sup> / (0.0001 + x<sup>4</sup>)) for x > 0, else 0.01 x" in page
    assert "SEGEM(n=2, eps=0.0001, leak=0.01)" in page
    assert "partial(segem, n=2, eps=0.0001, leak=0.01)" in page
    line = re.search(r"double f\(double x\) \{.*?\}", page)[0]
    assert line == (
        "double f(double x) { return x <= 0 ? 0.01 * x : x * (0.01 + 0.99 * (1 / (1 + 0.0001 / pow(x, 4)))); }"
    )
    assert re.findall(r'<output id="(?:n|eps|leak)-value">(.*?)</output>', page) == ["2", "0.0001", "0.01"]
    note = '<p id="note" role="status">second=gellu is no activation that this page knows.</p>'
    assert note in rendered("second=gellu", tmp_path)


@in_browser
def test_another_address_is_followed(tmp_path):
    page = rendered_after('location.hash = "#n=3&eps=1e-2&leak=0&range=2";', "n=2", tmp_path)
    assert spec_named(page) == GemSpec(3, 1e-2)
    assert numbers(page)[0].max() == 2


@in_browser
def test_it_says_where_it_draws_something_else_than_the_address_asks_for(tmp_path):
    page = rendered("n=9&eps=3e-4&leak=0.999&range=5", tmp_path)
    (note,) = re.findall(r'<p id="note" role="status">(.*?)</p>', page)
    spec = spec_named(page)
    assert spec == GemSpec(8, 2e-4, 0.99)
    for asked in (f"n=9; this page draws n={spec.n}", "eps=3e-4; this page draws eps=0.0002", "leak=0.999; this page"):
        assert asked in note
    assert "range" not in note
    moved = 'document.getElementById("n").dispatchEvent(new Event("input"));'
    assert '<p id="note" role="status"></p>' in rendered_after(moved, "n=9", tmp_path)


def test_it_asks_for_nothing_from_elsewhere():
    text = PAGE.read_text()
    assert re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", text) == ["index.html"]
    assert not re.findall(r"https?:|@import|fetch\(|XMLHttpRequest", text)
    assert (PAGE.parents[1] / "index.md").exists()

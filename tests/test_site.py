"""The interactive page of the documentation, in headless Chromium: its numbers are the oracle's; it loads nothing."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gem_activations import GemSpec

PAGE = Path(__file__).parents[1] / "docs" / "site" / "explore.html"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")


def rendered(settings, tmp_path):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--dump-dom"]
    done = subprocess.run([*command, f"{PAGE.as_uri()}#{settings}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("<script>")[0]


def numbers(page):
    """Give the table of the page: x, f, f', f'' in each row."""
    exact = [float(value) for value in re.findall(r'<td data-exact="([^"]+)"', page)]
    return np.array(exact).reshape(-1, 4).T


@in_browser
@pytest.mark.parametrize(
    ("settings", "spec", "reach"),
    [
        ("", GemSpec(), 5),
        ("n=2&eps=1e-4&leak=0.01&range=1", GemSpec(2, 1e-4, 0.01), 1),
        ("n=8&eps=1e-12&leak=0.5&range=0.1", GemSpec(8, 1e-12, 0.5), 0.1),
        ("n=3&eps=1e6&leak=0&range=100", GemSpec(3, 1e6), 100),
    ],
)
def test_its_numbers_are_the_oracles(settings, spec, reach, tmp_path):
    page = rendered(settings, tmp_path)
    x, *found = numbers(page)
    assert x.max() == -x.min() == reach
    expected = [spec(x), spec.derivative(x), spec.second_derivative(x)]
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)
    shown = re.findall(r'<code id="name">(.*?)</code>', page)
    assert [GemSpec.parse(name) for name in shown] == [spec]
    paths = re.findall(r'<path class="gem" d="M([^"]+)"', page)
    drawn = [path for path in paths if path.count("L") == 600]
    assert len(drawn) == 3
    assert "NaN" not in page


def test_it_asks_for_nothing_from_elsewhere():
    text = PAGE.read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["']|https?:|@import|fetch\(|XMLHttpRequest""", text)

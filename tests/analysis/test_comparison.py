"""The comparison page in headless Chromium: every column sorts, numbers as numbers; it loads nothing."""

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from gem_activations.analysis.certification import COMPARED

PAGE = Path(__file__).parents[2] / "docs" / "properties" / "comparison.html"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")


def browse(tmp_path, script, *options):
    """Run a script at the end of a copy of the page, and return the page that Chromium then has."""
    copy = tmp_path / "copy.html"
    copy.write_text(PAGE.read_text(encoding="utf-8").replace("</html>", f"<script>{script}</script></html>"), "utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=1000", "--dump-dom"]
    command += [*options, f"--user-data-dir={tmp_path / 'profile'}", copy.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return unescape(done.stdout)


def number(cell):
    """Return a cell's number, None for text."""
    found = re.match(r"-?(∞|\d+\.?\d*(e[+-]?\d+)?)", cell)
    return float(found[0].replace("∞", "inf")) if found else None


@in_browser
def test_every_column_sorts_up_and_down(tmp_path):
    script = """
    const heads = [...document.querySelectorAll("th")], seen = [];
    const cells = k => [...document.querySelector("tbody").rows].map(row => row.cells[k].textContent);
    heads.forEach((head, k) => { head.click(); seen.push(cells(k)); head.click(); seen.push(cells(k)); });
    const note = document.createElement("pre");
    note.id = "seen";
    note.textContent = seen.map(column => column.join("\\u241f")).join("\\u241e");
    document.body.append(note);
    """
    (text,) = re.findall(r'<pre id="seen">(.*?)</pre>', browse(tmp_path, script), re.DOTALL)
    columns = [column.split("\u241f") for column in text.split("\u241e")]
    assert len(columns) == 2 * (len(COMPARED) + 1)
    for up, down in zip(columns[::2], columns[1::2], strict=True):
        assert sorted(up) == sorted(down)
        keys = [(number(cell) is None, number(cell) if number(cell) is not None else cell) for cell in up]
        assert keys == sorted(keys)
        keys = [(number(cell) is None, number(cell) if number(cell) is not None else cell) for cell in down]
        assert keys == sorted(keys, reverse=True)


@in_browser
def test_text_stands_out_in_light_and_dark_mode(tmp_path):
    script = """
    const note = document.createElement("pre");
    note.id = "seen";
    const probe = (name, of) => {
      const box = document.createElement("div");
      box.style.color = name;
      document.body.append(box);
      return getComputedStyle(of || box).color;
    };
    const link = document.querySelector("a");
    note.textContent = [probe("Canvas"), probe("", document.querySelector("td")), probe("", link)].join(";");
    document.body.append(note);
    """
    paper = []
    for options in ((), ("--blink-settings=preferredColorScheme=0",)):
        (text,) = re.findall(r'<pre id="seen">(.*?)</pre>', browse(tmp_path, script, *options), re.DOTALL)
        colours = [tuple(int(v) for v in re.findall(r"\d+", part)[:3]) for part in text.split(";")]
        light = [luminance(colour) for colour in colours]
        paper.append(light[0])
        for ink in light[1:]:
            assert (max(ink, light[0]) + 0.05) / (min(ink, light[0]) + 0.05) >= 4.5
    assert paper[0] > 0.9
    assert paper[1] < 0.1


def luminance(colour):
    """Return the relative luminance of an sRGB colour, as WCAG defines it."""
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_page_loads_nothing():
    text = PAGE.read_text(encoding="utf-8")
    assert not re.findall(r"<link|<img|src=|url\(|@import|https?:", text)

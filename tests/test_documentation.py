"""The documentation does what it says: its commands run as written, its Python runs, its links lead somewhere."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# Commands that take minutes or data that is not here: their words are checked, they are not run.
LONG = {
    "make demo": "a test runs the same comparison with fewer epochs; CI runs make test itself",
    "make test": "it runs this test",
    "gem-act compare mnist": "it needs the MNIST files and an hour",
    "gem-act bench": "it takes minutes; tests/bench runs a plan of seconds",
}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands():
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.startswith("#"):
                    yield pytest.param(line.strip(), id=f"{page.name}: {line.strip()[:60]}")


def is_long(command):
    return any(command == long or command.startswith(long + " ") for long in LONG)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder like the checkout: the commands of a page run there one after the other."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "docs").mkdir()
    return folder


@pytest.mark.parametrize("command", list(commands()))
def test_commands_run_as_written(command, workplace):
    words = shlex.split(command)
    if words[0] == "make":
        done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return
    if is_long(command):
        words = [*words, "--help"]
    assert words[0] == "gem-act", "say in this test how the command is to be run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "gem_activations", *words[1:]]
    done = subprocess.run(program, cwd=workplace, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_examples_run(page):
    for block in blocks(page, "python"):
        subprocess.run([sys.executable, "-W", "error", "-c", block], check=True)


def test_figures_of_the_comparison_are_those_of_the_result_file():
    results = {}
    with (ROOT / "benchmarks/results/mnist/summary.csv").open() as file:
        for row in csv.DictReader(file):
            results[row["activation"].replace("relu", "ReLU").replace("gelu", "GELU")] = row
    rows = re.findall(
        r"^\| (\S.*?) \| (\d\d\.\d\d) ± (\d\.\d\d) \|(.*)\|$", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert len(rows) == len(results) == 8
    for name, mean, spread, rest in rows:
        row = results[{"SiLU": "silu", "Mish": "mish"}.get(name, name)]
        percent = [100 * float(row[key]) for key in ("test_accuracy_mean", "test_accuracy_sd")]
        assert [mean, spread] == [f"{value:.2f}" for value in percent]
        if row["difference_mean"]:
            points = [100 * float(row[key]) for key in ("difference_mean", "student_low", "student_high")]
            shown = "yes" if row["difference_shown"] == "true" else "no"
            assert rest.split("|") == [f" {points[0]:+.2f} ", f" [{points[1]:+.2f}, {points[2]:+.2f}] ", f" {shown} "]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target

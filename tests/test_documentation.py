"""The documentation does what it says: its commands run as written, its Python runs, its links lead somewhere."""

import csv
import json
import math
import os
import re
import shlex
import shutil
import statistics
import subprocess
import tomllib
from pathlib import Path

import pytest

import gem_activations

from .forked import Forked

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "tutorials").glob("*.md")),
    *sorted((ROOT / "docs" / "frameworks").glob("*.md")),
    *sorted((ROOT / "docs" / "examples").glob("*.md")),
]

# As `python -m gem_activations`.
COMMAND = "import runpy; runpy.run_module('gem_activations', run_name='__main__')"

# Commands that take minutes or data that is not here: their words are checked, they are not run.
LONG = {
    "make demo": "a test runs the same comparison with fewer epochs; CI runs make test itself",
    "make test": "it runs this test",
    "gem-act compare mnist": "it needs the MNIST files and an hour",
    "gem-act bench": "it takes minutes; tests/bench runs a plan of seconds",
}


def blocks(page, language):
    """Return the texts of a page's blocks. The cells of a notebook are none: the site runs them as it is built."""
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
    for name in ("benchmarks", "examples"):
        shutil.copytree(ROOT / name, folder / name)  # `gem-act report` writes
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
    done = Forked(COMMAND, *words[1:], cwd=workplace, env=environment)
    output, errors = done.communicate()
    assert done.returncode == 0, errors
    assert output


# PyTorch's exporter uses a class of its own that it has deprecated, its forward mode such a function, TorchScript is
# deprecated as a whole, and Keras saves by a protocol that NumPy 2 has changed. Every other warning is an error.
WARNINGS = r"""
import warnings
warnings.simplefilter("error")
warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
"""


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_examples_run(page, tmp_path):
    """The examples of a page run in one process, one after the other, as a reader would type them."""
    done = Forked("\n".join([WARNINGS, *blocks(page, "python")]), cwd=tmp_path)
    _, errors = done.communicate()
    assert done.returncode == 0, errors


# Metric of a comparison: factor and digits of its figures, and the unit in the README.
METRICS = {"accuracy": (100, 2, " %"), "loss": (1, 3, " nats"), "perplexity": (1, 2, "")}
COMPARISONS = sorted(path.parent.name for path in (ROOT / "benchmarks/results").glob("*/summary.csv"))


def summary(name):
    """Return the metric's name and the rows of a comparison that is kept."""
    with (ROOT / f"benchmarks/results/{name}/summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    return next(metric for metric in METRICS if f"test_{metric}_mean" in rows[0]), rows


@pytest.mark.parametrize("name", COMPARISONS)
def test_figures_of_a_comparison_are_those_of_its_result_file(name):
    metric, rows = summary(name)
    scale, digits, _ = METRICS[metric]
    table = []
    for row in rows:
        mean, spread = (f"{scale * float(row[f'test_{metric}_{part}']):.{digits}f}" for part in ("mean", "sd"))
        cells = ["", "", "baseline"]
        if row["difference_mean"]:
            parts = ("difference_mean", "interval_low", "interval_high")
            mid, low, high = (f"{scale * float(row[part]):+.{digits}f}" for part in parts)
            cells = [mid, f"[{low}, {high}]", row["verdict"]]
        table.append([row["activation"], f"{mean} ± {spread}", *cells])
    page = (ROOT / "docs/results.md").read_text()
    _, found, section = page.partition(f"`benchmarks/results/{name}`")
    assert found
    lines = re.findall(r"^\| (.*) \|$", section.partition("\n## ")[0], re.MULTILINE)[1:]
    assert [[cell.strip() for cell in line.split("|")] for line in lines] == table


def test_figures_of_reduced_runs_are_those_of_their_rows():
    """Runs that are kept without a summary: a line an arm under the name of the folder."""
    page = (ROOT / "docs/results.md").read_text().partition("## Reduced runs")[2]
    sections = re.findall(
        r"^`benchmarks/results/([\w-]+)`: .*?^\| activation \| test (\w+).*?\n\n", page + "\n", re.M | re.S
    )
    assert sections
    for name, metric in sections:
        section = page.partition(f"`benchmarks/results/{name}`")[2].partition("`benchmarks/results/")[0]
        scale, digits, _ = METRICS[metric]
        digits = 3 if metric == "loss" else digits
        with (ROOT / f"benchmarks/results/{name}/results.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["status"] == "finished"]
        for arm in {row["activation"] for row in rows}:
            field = "test_loss" if metric == "perplexity" else f"test_{metric}"
            values = [float(row[field]) for row in rows if row["activation"] == arm]
            values = [scale * (math.exp(value) if metric == "perplexity" else value) for value in values]
            mean, spread = statistics.mean(values), statistics.stdev(values)
            assert f"| `{arm}` | {mean:.{digits}f} ± {spread:.{digits}f} ({len(values)}) |" in section, (name, arm)


@pytest.mark.parametrize("name", COMPARISONS)
def test_the_readme_names_what_a_comparison_shows(name):
    metric, rows = summary(name)
    scale, digits, unit = METRICS[metric]
    (base,) = (row for row in rows if not row["difference_mean"])
    page = (ROOT / "README.md").read_text()
    (cells,) = re.findall(rf"^\| \[[^|]*\]\(benchmarks/results/{name}/README.md\) \| (.*) \|$", page, re.MULTILINE)
    baseline, *arms = cells.split(" | ")
    assert baseline == f"`{base['activation']}`, {metric} {scale * float(base[f'test_{metric}_mean']):.{digits}f}{unit}"
    verdicts = ("shown better", "shown worse", "equivalent within the margin", "not decided")
    for verdict, named in zip(verdicts, arms, strict=True):
        assert re.findall(r"`(.*?)`", named) == [row["activation"] for row in rows if row["verdict"] == verdict]


# Row of the README's table of speeds: file, direction, dtype, and how GEM is computed.
SPEEDS = {
    "forward, 2^22 float32": ("cpu_2e22", "forward", "float32", "input"),
    "forward, 2^22 float32, one thread": ("cpu_2e22_one_thread", "forward", "float32", "input"),
    "backward from input, 2^22 float32": ("cpu_2e22", "backward", "float32", "input"),
    "backward from output, 2^22 float32": ("cpu_2e22", "backward", "float32", "output"),
    "forward and backward from output, 2^22 float32": ("cpu_2e22", "both", "float32", "output"),
    "forward and backward from input, 2^22 bfloat16": ("cpu_half", "both", "bfloat16", "input"),
    "forward and backward from output, 2^22 bfloat16": ("cpu_half", "both", "bfloat16", "output"),
    "forward and backward from output, 2^12 float32": ("cpu_2e12", "both", "float32", "output"),
}
BLOCKS = {
    "feed-forward 768-3072-768, 1,024 tokens": "feed-forward",
    "GPT-2 block, 1,024 tokens": "gpt2-block",
    "ResNet-56, batch of 128": "resnet56",
}


def result_rows(name):
    text = (ROOT / f"benchmarks/results/{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def table_rows(width):
    """Return the rows of the README's tables of numbers: a label, then `width` cells that are a number each."""
    pattern = rf"^\| ([^|]+?) ((?:\| \d+\.\d+ ){{{width}}})\|$"
    found = re.findall(pattern, (ROOT / "README.md").read_text(), re.MULTILINE)
    return {label: re.findall(r"[\d.]+", cells) for label, cells in found}


def test_figures_of_speed_are_those_of_the_result_files():
    table = table_rows(4)
    assert table.keys() == SPEEDS.keys()
    for label, (name, direction, dtype, kept) in SPEEDS.items():
        assert label.split(", ")[1] == f"2^{22 if '2e22' in name or name == 'cpu_half' else 12} {dtype}"
        rows = [row for row in result_rows(name)[1:] if (row["direction"], row["dtype"]) == (direction, dtype)]
        seconds = {row["name"]: row["seconds"] for row in rows if row["layout"] == "contiguous"}
        assert len(seconds) == len(rows)
        own = seconds[f"gem(n=1) kernel from {kept}"]
        assert table[label] == [f"{own / seconds[peer]:.2f}" for peer in ("copy", "relu", "gelu", "mish")]


def test_figures_of_the_blocks_are_those_of_the_result_file():
    table = table_rows(5)
    assert table.keys() == BLOCKS.keys()
    for label, block in BLOCKS.items():
        rows = {row["arm"]: row for row in result_rows("cpu_blocks")[1:] if row["block"] == block}
        arms = [rows["gem(n=1) from output"], rows["relu"], rows["gelu"]]
        own, relu, gelu = (row["seconds_median"] for row in arms)
        kept = [f"{row['kept_bytes'] / 2**20:.1f}" for row in arms]
        assert table[label] == [f"{own / relu:.3f}", f"{own / gelu:.3f}", *kept]


# Columns of the table of speeds on the page of JAX.
JAX_ARMS = ["gem", "gem(n=2)", "gem(n=3)", "egem(eps=1e-4)", "segem(eps=1e-4, leak=0.01)", "relu", "silu"]


def test_figures_of_jax_are_those_of_the_result_files():
    page = (ROOT / "docs/frameworks/jax.md").read_text()
    found = re.findall(r"^\| ([\d,]+) \| (\w+) \| (forward|both) \| ([\d. |]+) \|$", page, re.MULTILINE)
    assert len(found) == 18
    for size, dtype, direction, cells in found:
        name = "jax_speed_one_core" if size == "4,096" else "jax_speed"
        case = (int(size.replace(",", "")), dtype, direction)
        rows = [row for row in result_rows(name)[1:] if (row["size"], row["dtype"], row["direction"]) == case]
        ratios = {row["activation"]: f"{row['over_gelu_low']:.2f}" for row in rows}
        assert cells.split(" | ") == [ratios[arm] for arm in JAX_ARMS]


def test_the_menu_names_every_page():
    """The menu is written by hand, so that its order is chosen; the pages of activations hang on their gallery."""
    listed = {
        str((page.parent / name).relative_to(ROOT / "docs"))
        for page in (ROOT / "docs/index.md", ROOT / "docs/properties/gallery.md")
        for name in re.findall(r"^[\w./-]+$", "".join(blocks(page, "{toctree}")), re.MULTILINE)
    }
    found = {str(page.relative_to(ROOT / "docs").with_suffix("")) for page in (ROOT / "docs").rglob("*.md")}
    assert listed == found - {"index"}


def test_figures_of_the_choice_are_those_of_the_pages_it_links():
    """The pages' own figures are tested against their result files."""
    page = (ROOT / "docs/choose.md").read_text()
    for row in re.findall(r"^\| .*\|$", page, re.MULTILINE)[2:]:
        linked = [(ROOT / "docs" / name).read_text() for name in re.findall(r"\]\(([\w/]+\.md)\)", row)]
        for figure in re.findall(r"\d+\.\d\d", row.rpartition("|")[0].rpartition("|")[2]):
            assert any(figure in text for text in [*linked, (ROOT / "docs/results.md").read_text()]), figure


def test_the_page_of_installation_names_every_extra():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| (.*?) \|", (ROOT / "docs/installation.md").read_text(), re.MULTILINE)
    assert {extra for row in rows for extra in re.findall(r"`(\w+)`", row)} == extras.keys()
    for page in PAGES:
        for extra in re.findall(r"gem-activations\[([\w,]+)\]", page.read_text()):
            assert set(extra.split(",")) <= extras.keys(), page


@pytest.mark.parametrize("page", sorted((ROOT / "docs/frameworks").glob("*.md")), ids=lambda page: page.name)
def test_the_page_of_a_framework_says_first_how_to_install(page):
    _, _, first, *_ = page.read_text().split("\n")
    assert first.startswith('`pip install "gem-activations[')


def test_contributing_names_every_room():
    package = Path(gem_activations.__file__).parent
    rooms = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    rooms |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    _, house, _ = (ROOT / "CONTRIBUTING.md").read_text().split("```", 2)
    named = set(re.findall(r"^  (\S+) ", house, re.MULTILINE))
    assert rooms - {"cli.py"} == named
    assert "cli.py" in house


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_a_page_names_are_there(page):
    for path in re.findall(r"`((?:benchmarks|tests|tools|docs)/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists(), path


def test_figures_of_int8_are_those_of_the_result_file():
    page = (ROOT / "docs/frameworks/onnx.md").read_text()
    (record,) = result_rows("int8_gpt2")
    gem, gelu = ({row["activation"]: row for row in record["rows"]}[name] for name in ("gem(n=2)", "gelu_new"))
    assert gem["weights"] // 10**6 == 124
    cells = " | ".join(f"{100 * row['logits_rms_error']:.1f} %" for row in (gem, gelu))
    assert f"| GPT-2 small, 124 million weights, trained for {gem['steps']} steps | {cells} |" in page
    own, peer = (f"{abs(row['loss_int8'] - row['loss']):.4f}" for row in (gem, gelu))
    assert f"{own} nats with GEM and {peer} with GELU" in " ".join(page.split())


RUNTIMES = {
    "onnx": ("onnxruntime", ["gelu", "gem", "gem(n=2)", "gem(n=3)", "egem", "segem(n=2)"]),
    "keras": ("tflite", ["gelu", "gem(n=2)", "egem", "segem(n=2)"]),
}


@pytest.mark.parametrize("name", RUNTIMES)
def test_accuracies_in_other_runtimes_are_those_of_the_result_file(name):
    page = (ROOT / f"docs/frameworks/{name}.md").read_text()
    runtime, activations = RUNTIMES[name]
    rows = [row for row in result_rows("runtimes")[1:] if row["runtime"] == runtime and row["taught"]]
    for data, mode in dict.fromkeys((row["data"], row["mode"]) for row in rows):
        found = {row["activation"]: row for row in rows if (row["data"], row["mode"]) == (data, mode)}
        assert list(found) == activations
        cells = " | ".join(f"{row['accuracy']:.2f}" for row in found.values())
        assert f"| {'MNIST' if data == 'mnist' else data}, {mode} | {cells} |" in page
    own, peer = (
        max(row["points_lost"] for row in rows if (row["activation"] == "gelu") == gelu) for gelu in (False, True)
    )
    assert own <= 0.5
    assert f"at most {own:.2f} points with the family and {peer:.2f} with GELU" in " ".join(page.split())


def test_errors_in_other_runtimes_are_those_of_the_result_file():
    digits = [row for row in result_rows("runtimes")[1:] if row["data"] == "digits"]

    def errors(runtime, mode, activations, key, digits_shown):
        kept = [row for row in digits if (row["runtime"], row["mode"]) == (runtime, mode)]
        sizes = sorted(100 * row[key] for row in kept if row["activation"] in activations)
        return " to ".join(dict.fromkeys(f"{size:.{digits_shown}f}" for size in (sizes[0], sizes[-1]))) + " %"

    page = " ".join((ROOT / "docs/frameworks/onnx.md").read_text().split())
    gem, egem, segem, gelu = (
        errors("onnxruntime", "int8, all operators", activations, "error_of_spread", 1)
        for activations in (["gem", "gem(n=2)", "gem(n=3)"], ["egem"], ["segem(n=2)"], ["gelu"])
    )
    assert f"off by {gem} with GEM (n = 1, 2, 3), {egem} with E-GEM, {segem} with SE-GEM and {gelu} with GELU" in page
    own, peer = (errors("onnxruntime", "int8", [name], "error_of_spread", 1) for name in ("gem(n=2)", "gelu"))
    assert f"| convolutional network on handwritten digits | {own} | {peer} |" in page
    page = " ".join((ROOT / "docs/frameworks/keras.md").read_text().split())
    for mode in ("int8", "16x8"):
        own = errors("tflite", mode, RUNTIMES["keras"][1][1:], "error_of_range", 2)
        peer = errors("tflite", mode, ["gelu"], "error_of_range", 2)
        assert f"{own} of the range in {mode} (GELU {peer})" in page


def test_figures_of_the_monitor_are_those_of_the_result_file():
    page = " ".join((ROOT / "docs/frameworks/monitoring.md").read_text().split())
    first, second = (record["rows"] for record in result_rows("monitor_cost"))
    relu, gem = (f"{100 * row['overhead']:.1f} %" for row in second)
    assert f"on one core {relu} (ReLU) and {gem} (GEM) of a step of 1 ms" in page
    for row in first:
        if not row["model"].startswith("MLP"):
            low, high = row["overhead_quartiles"]
            assert abs(row["overhead"]) < high - low


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_interactive_page_is_in_the_menu_and_the_readme():
    assert "\ninteractive\n" in (ROOT / "docs/index.md").read_text()
    assert "](docs/interactive.md)" in (ROOT / "README.md").read_text()
    page = (ROOT / "docs/interactive.md").read_text()
    (framed,) = re.findall(r'<iframe src="([^"]+)"', page)
    assert (ROOT / "docs/site" / framed).is_file()

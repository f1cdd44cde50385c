import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gem_activations import __version__, catalog
from gem_activations.cli import main
from gem_activations.console import GROUPS, make_console
from gem_activations.lab.recipes.registry import RECIPES

ROOT = Path(__file__).parents[1]
FORBIDDEN = ("torch", "sklearn", "scipy", "polars", "matplotlib", "pooch", "jinja2")


def run_python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [["--help"], ["compare", "--help"], ["list"], ["--version"]])
def test_help_and_list_import_no_framework(words: list[str]) -> None:
    done = run_python(
        "import sys; from gem_activations.cli import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as ended: assert not ended.code\n"
        f"print([name for name in {FORBIDDEN!r} if name in sys.modules], file=sys.stderr)"
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert done.stdout


def test_help_names_commands_recipes_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code in (0, None)
    shown = capsys.readouterr().out
    assert all(command in shown for command in ("compare", "report", "list", "plot"))
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    shown = capsys.readouterr().out
    options = ("activations", "seeds", "epochs", "baseline", "out", "device", "data-dir", "model")
    assert all(f"--{option}" in shown for option in options)
    assert all(recipe in shown for recipe in ("digits", "mnist", "fashion-mnist"))


@pytest.mark.parametrize(
    "words", [["compare"], ["certify"], ["bench"], ["claims"], ["data", "check"], ["tune"], ["report"]], ids=" ".join
)
def test_help_names_no_default_that_is_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*words, "--help"])
    shown = " ".join(re.sub("[│\\s]+", " ", capsys.readouterr().out).split())
    assert "(default: None)" not in shown
    assert "(default: )" not in shown
    assert "(default: False)" not in shown


@pytest.mark.parametrize("width", [60, 80])
def test_help_fits_a_terminal(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for words in ([], ["compare"], ["report"], ["certify"], ["data"], ["c"]):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
        shown = capsys.readouterr().out
        assert shown.startswith("usage: gem-act")
        assert [line for line in shown.splitlines() if len(line) > width] == []


def test_help_has_a_line_for_each_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    assert [name for name in RECIPES if not any(line.startswith(f"- {name}: ") for line in lines)] == []


def test_options_of_a_comparison_are_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "--help"])
    main_part, *groups = re.split(rf"({'|'.join(GROUPS)}) options ", re.sub("\x1b[^m]*m", "", capsys.readouterr().out))
    parts = dict(zip(groups[::2], groups[1::2], strict=True))
    assert "--activations" in main_part
    for group, options in GROUPS.items():
        assert all(f"--{option.replace('_', '-')} " in parts[group] for option in options), group


@pytest.mark.parametrize(
    ("names", "file"), [(["x*tanh(x)"], "one.svg"), (["gelu", "egem(n=2, eps=0.01)"], "two.png"), ([], "family.svg")]
)
def test_a_plot_is_of_any_activation_or_expression_and_says_where_it_is(
    names: list[str], file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plot", *names, "--out", str(tmp_path / file)]) == 0
    assert capsys.readouterr().out == f"Picture: {tmp_path / file}\n"
    assert (tmp_path / file).read_bytes().startswith(b"<?xml" if file.endswith("svg") else b"\x89PNG")


def test_completion_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--tyro-print-completion", "bash"])
    assert "compare" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--version"], ["compare", "--version"], ["data", "get", "--version"]])
def test_version(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main(words) == 0
    assert capsys.readouterr().out == f"gem-act {__version__}\n"


def test_list_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(re.sub("\x1b[^m]*m", "", line)) for line in lines) <= 80
    assert all(any(line.startswith(name) for line in lines) for name in catalog.ENTRIES)


@pytest.mark.parametrize(
    "words",
    [["list"], ["report", "kept"], ["claims", "kept"], ["bench", "--short", "--log2-sizes", "4", "--blocks", "none"]],
    ids=lambda words: words[0],
)
def test_json_is_one_document(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "benchmarks/results/mnist", tmp_path / "kept")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gem_activations.lab.report.document.comparison_figures", lambda *_: {})  # They take long.
    seconds = ["--seconds", "0.1"] if words[0] == "bench" else []
    assert main([*words, *seconds, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = document["summary"] if words[0] == "report" else document
    assert len(rows) > 4
    assert len({tuple(row) for row in rows[1:]}) == 1


def test_list_has_one_whole_line_for_each_activation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["name", "title", "formula", "group", "source"]
    assert len(lines) == len(catalog.ENTRIES)
    for line, entry in zip(lines, catalog.ENTRIES.values(), strict=True):
        assert line.startswith(entry.name)
        assert entry.formula in line
        assert entry.citation in line
        catalog.parse(line.split("  ")[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lits"], "no command is called 'lits'; did you mean list"),
        (["xyz"], "no command is called 'xyz'; the commands are compare, "),
        (["compare", "digitz"], "no recipe is called 'digitz'; did you mean digits?"),
        (["compare", "digits", "--activations", "gelu", "gme"], "no activation is called 'gme'; did you mean"),
        (["compare", "digits", "--activations", "gem(n=0)"], "n=0"),
        (["compare", "digits", "--activations", "gem(n=1.5)"], "1.5"),
        (["compare", "digits", "--activations", "egem(eps=nan)"], "'nan' is not a finite number"),
        (["compare", "digits", "--activations", "segem(leak=1)"], "leak=1"),
        (["compare", "digits", "--activations"], "--activations: give at least one activation"),
        (["compare", "digits", "--seeds", "0"], "--seeds 0"),
        (["compare", "digits", "--seeds", "-1"], "--seeds -1"),
        (["compare", "digits", "--epochs", "0"], "--epochs 0"),
        (["compare", "digits", "--device", "cuda:77"], "--device cuda:77 is not there"),
        (["compare", "digits", "--device", "gpu"], "--device gpu: expected auto, cpu, cuda or cuda:N"),
        (["compare", "digits", "--model", "vit"], "the models are mlp, cnn"),
        (["compare", "digits", "--activations", "gem", "--baseline", "relu"], "--baseline relu is not among"),
        (["report", "nowhere"], "nowhere holds no comparison"),
        (["plot", "--out", "family.gif"], "not as .gif"),
    ],
)
def test_wrong_input_is_one_line_and_touches_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("gem-act: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_out_folder_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    assert main(["compare", "digits", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith(f"gem-act: cannot write to {tmp_path / 'file'}: ")
    assert (tmp_path / "file").read_text() == "mine"


def test_missing_data_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"no gzip")
    words = ["compare", "mnist", "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"gem-act: {folder / 'train-images-idx3-ubyte.gz'} is altered")
    assert shown.count("\n") == 1
    assert (folder / "train-images-idx3-ubyte.gz").read_bytes() == b"no gzip"


def test_missing_library_is_one_line_with_what_to_install() -> None:
    done = run_python(
        "import sys; sys.modules['tyro'] = None\n"
        "from gem_activations.cli import main; sys.exit(main(['compare', 'digits']))"
    )
    assert done.returncode == 2
    assert done.stderr == "gem-act: tyro is not installed; run: pip install 'gem-activations[lab]'\n"


@pytest.mark.parametrize(
    ("missing", "words", "extra"),
    [
        ("flint", ["certify", "gelu"], "certify"),
        ("tyro", ["certify", "gelu"], "certify"),
        ("torch", ["bench"], "torch"),
    ],
)
def test_a_missing_library_is_named_with_the_extra_that_brings_it(missing: str, words: list[str], extra: str) -> None:
    done = run_python(
        f"import sys; sys.modules[{missing!r}] = None\nfrom gem_activations.cli import main; sys.exit(main({words!r}))"
    )
    assert done.returncode == 2
    assert f"pip install 'gem-activations[{extra}]'" in done.stderr.replace("--upgrade ", "")
    assert done.stderr.count("\n") == 1


def test_compare_prints_and_writes_the_report_and_report_makes_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["compare", "digits", "--activations", "gelu", "mish", "--seeds", "2", "--epochs", "1", "--out", str(out)]
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "2 activations x 2 seeds on cpu, in " in shown.err
    assert "[4/4] mish, seed 1: test accuracy" in shown.err
    assert "minus baseline" in shown.out
    assert str(out / "report.html") in shown.out
    names = {"report.html", "results.parquet", "results.csv", "plots", "comparison.json", "runs"}
    assert names <= {path.name for path in out.iterdir()}
    page = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_bytes() == page
    assert capsys.readouterr().out == shown.out
    assert main(words) == 0
    assert "4 of 4 runs ended before" in capsys.readouterr().err


def test_check_scale_shows_and_sets_the_scale_in_the_model_of_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check-scale", "digits", "--input-scale", "0.05", "--out", str(tmp_path / "scales.svg")]) == 0
    shown = capsys.readouterr().out
    assert "warning: " in shown
    assert (tmp_path / "scales.svg").stat().st_size > 1000
    assert main(["check-scale", "digits", "--activation", "egem(n=2)", "--calibrate", "0.1"]) == 0
    assert "scale a =" not in capsys.readouterr().out
    assert main(["check-scale", "digits", "--activation", "relu"]) == 2
    assert "expected a member of the family" in capsys.readouterr().err


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown() -> str:
        stream = io.StringIO()
        make_console(stream).print("[red]text")
        return stream.getvalue()

    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[31m" in shown()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown()

"""A training function of the user's own on the command line."""

from pathlib import Path
from typing import Any

import pytest

from gem_activations.cli import main
from gem_activations.lab.recipes.pipeline import OwnRecipe
from gem_activations.lab.store.comparison import load_comparison, read_plan

from .own import SOURCE, rows

pytestmark = pytest.mark.usefixtures("one_thread", "without_plots")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"mine_{abs(hash(tmp_path)) % 10**8}.py"
    file.write_text(SOURCE)
    return Path(file.name)


def command(place: object, *more: str) -> list[str]:
    return ["compare", str(place), "--metric", "loss", "--better", "lower", "--seeds", "2", "--out", "out", *more]


def test_command_takes_the_function_s_own_options(mine: Path, capsys: Any) -> None:
    arms = ["--activations", "relu", "gem(n=2)", f"{mine}:Snake", f"other={mine}:Snake", "torch.nn.CELU"]
    assert main([*command(f"{mine}:train", "--width", "6", "--names", "b", "c"), *arms]) == 0
    shown = capsys.readouterr()
    assert "[10/10] CELU, seed 1: loss" in shown.err
    plan = read_plan(Path("out"))
    assert plan is not None
    assert isinstance(plan.recipe, OwnRecipe)
    assert plan.recipe.options == {"width": 6, "names": ["b", "c"]}
    assert plan.activations == ("relu", "gem(n=2)", "Snake", "other", "CELU")
    assert mine.name in plan.versions
    assert [row["parameters"] for row in rows(Path("out"))][:3] == ["25", "25", "26"]


def test_module_is_named_by_its_dotted_path(mine: Path, capsys: Any) -> None:
    assert main(command(f"{mine.stem}:train", "--activations", "relu")) == 0
    capsys.readouterr()


def test_help_of_a_function_shows_its_options(mine: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["compare", f"{mine}:train", "--help"])
    shown = capsys.readouterr().out
    assert all(option in shown for option in ("--width", "--names", "--metric", "--seed-start", "--retry-failed"))
    assert "--batch-size" not in shown


def test_failed_run_is_exit_status_3(mine: Path, capsys: Any) -> None:
    mine.write_text(SOURCE + "\n\ndef half(run):\n    assert run.name == 'relu', 'no'\n    return {'loss': 1.0}\n")
    assert main(command(f"{mine}:half", "--activations", "relu", "gelu")) == 3
    assert "AssertionError: no" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "has no nothing; expected a training function"),
        ("no_run", "its first parameter must be called run: def no_run(run)"),
        ("no_default", "the parameter width of no_default has no default"),
        ("clash", "has the name of an option of gem-act; rename it"),
        ("broken", "failed in the same way: RuntimeError: mat1 and mat2 do not fit (traceback in "),
    ],
)
def test_wrong_function_is_one_line(mine: Path, capsys: Any, name: str, words: str) -> None:
    assert main(command(f"{mine}:{name}", "--activations", "relu")) == 2
    error = capsys.readouterr().err
    assert words in error.splitlines()[-1]
    assert "Traceback" not in error


@pytest.mark.usefixtures("mine")
def test_file_that_is_missing_or_broken_is_one_line(capsys: Any) -> None:
    assert main(command("nowhere.py:train", "--activations", "relu")) == 2
    assert "there is no file" in capsys.readouterr().err
    Path("bad.py").write_text("import no_such_package_at_all\n")
    assert main(command("bad.py:train", "--activations", "relu")) == 2
    assert "bad.py cannot be imported: ModuleNotFoundError" in capsys.readouterr().err
    assert not Path("out").exists()


def test_recipes_take_own_activations(mine: Path, capsys: Any) -> None:
    words = ["compare", "digits", "--scale", "smoke", "--epochs", "1", "--seeds", "1", "--out", "out"]
    assert main([*words, "--activations", "gelu", f"{mine}:Snake", "torch.nn.CELU"]) == 0
    comparison = load_comparison(Path("out"))
    assert [(run.activation, run.status) for run in comparison.results] == [
        (arm, "finished") for arm in ("gelu", "Snake", "CELU")
    ]
    parameters = {run.activation: run.figures["parameters"] for run in comparison.results}
    assert parameters["Snake"] == parameters["gelu"] + 2, "one learnt scalar in each of two places"
    capsys.readouterr()
    assert main([*words[:-1], "gain", "--initialisation", "gain", "--activations", "relu", f"{mine}:Snake"]) == 2
    assert "--initialisation gain needs activations of the catalog" in capsys.readouterr().err

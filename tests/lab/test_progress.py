import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.runs.experiment import Experiment, of_recipe
from gem_activations.lab.runs.progress import Bars
from gem_activations.lab.store.comparison import RunResult

SCORES = {"test_accuracy": 0.25, "test_loss": 3.0, "validation_accuracy": 0.5, "validation_loss": 2.0}
RESULT = RunResult("gem(n=2)", 1, "finished", "", 1, 1.0, SCORES)
UNTESTED = dataclasses.replace(RESULT, figures={**SCORES, "test_accuracy": None, "test_loss": None})
FAILED = dataclasses.replace(RESULT, status="failed", reason="NaN", figures={})


def experiment(recipe: str) -> Experiment:
    return of_recipe(make_recipe(recipe), None, (0, 1, 2))


@pytest.mark.parametrize(("recipe", "tested", "untested"), [
    ("digits", "test accuracy 25.00 %", "validation accuracy 50.00 %"),
    ("bert-small", "test loss 3.000 nats", "validation loss 2.000 nats"),
    ("gpt2-124m", "test perplexity 20.09", "validation perplexity 7.39"),
])  # fmt: skip
def test_a_run_is_said_in_the_metric_of_its_recipe(recipe: str, tested: str, untested: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    lines = Bars(Progress(console=console, disable=True))
    lines.started(experiment(recipe), Path("out"), "cpu", 3, 0)
    for result in (RESULT, UNTESTED, FAILED):
        lines.ended(result)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines()[1:] == [
        f"[1/3] gem(n=2), seed 1: {tested} (1.0 s)",
        f"[2/3] gem(n=2), seed 1: {untested} (1.0 s)",
        "[3/3] gem(n=2), seed 1: failed: NaN (1.0 s)",
    ]


def test_the_bar_of_a_run_has_the_metric_on_validation() -> None:
    console = Console(file=io.StringIO())
    progress = Progress(console=console)
    bars = Bars(progress)
    bars.started(experiment("bert-small"), Path("out"), "cpu", 1, 0)
    bars.epoch("gelu", 0, [], 2)
    assert progress.tasks[-1].description == "gelu, seed 0"
    bars.epoch("gelu", 0, [{"epoch": 1, "validation_loss": 4.5}], 2)
    assert progress.tasks[-1].description == "gelu, seed 0, validation loss 4.500 nats"

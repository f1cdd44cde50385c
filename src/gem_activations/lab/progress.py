"""Show a comparison while it runs: bars on a terminal, one line a run elsewhere. All of it goes to stderr."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .metrics import ACCURACY, METRICS, Metric
from .pipeline import Recipe
from .runner import Observer
from .store import FINISHED, EpochMetrics, RunResult


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[Observer]:
    """Give an observer that shows a comparison on a console, with bars where the console is a terminal."""
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        yield Bars(console, progress)


class Lines:
    """One plain line for each run that ends.

    Args:
        console: Where the lines go.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.total = self.done = 0
        self.metric = ACCURACY

    def started(self, recipe: Recipe, folder: Path, runs: int, done: int) -> None:
        """Say what is compared, where it is stored and how much of it is done."""
        self.total, self.done, self.metric = runs, done, METRICS[recipe.metric]
        arms = f"{len(recipe.activations)} activations x {recipe.seeds} seeds"
        self._print(f"{recipe.name}: {arms}, {recipe.training.epochs} epochs, {recipe.model.kind}, in {folder}")
        if done:
            self._print(f"{done} of {runs} runs ended before and are kept")

    def epoch(self, activation: str, seed: int, metrics: list[EpochMetrics], epochs: int) -> None:
        """Print nothing: a line a run is enough for a log."""

    def ended(self, result: RunResult) -> None:
        """Print the run's result, or why it failed."""
        self.done += 1
        split = "validation" if result.test_loss is None else "test"
        score = _say_score(self.metric, split, result)
        outcome = score if result.status == FINISHED and score else f"failed: {result.reason}"
        self._print(
            f"[{self.done}/{self.total}] {result.activation}, seed {result.seed}: {outcome} ({result.seconds:.1f} s)"
        )

    def waiting(self, runs: int) -> None:
        """Print nothing: it would be said again and again."""

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bars(Lines):
    """A bar over the runs and one over the epochs of the run under way, below the lines.

    Args:
        console: Where the lines go.
        progress: The bars, already shown.
    """

    def __init__(self, console: Console, progress: Progress) -> None:
        super().__init__(console)
        self.progress = progress
        self.runs = progress.add_task("runs", total=None)
        self.epochs = progress.add_task("", total=None, visible=False)

    def started(self, recipe: Recipe, folder: Path, runs: int, done: int) -> None:
        """Start the bar over the runs."""
        super().started(recipe, folder, runs, done)
        self.progress.update(self.runs, total=runs, completed=done)

    def epoch(self, activation: str, seed: int, metrics: list[EpochMetrics], epochs: int) -> None:
        """Move the bar over the epochs."""
        score = f", {_say_score(self.metric, 'validation', metrics[-1])}" if metrics else ""
        self.progress.update(
            self.epochs,
            description=f"{activation}, seed {seed}{score}",
            completed=len(metrics),
            total=epochs,
            visible=True,
        )

    def ended(self, result: RunResult) -> None:
        """Move the bar over the runs."""
        super().ended(result)
        self.progress.update(self.runs, completed=self.done)
        self.progress.update(self.epochs, visible=False)

    def waiting(self, runs: int) -> None:
        """Say that other processes are at work."""
        self.progress.update(
            self.epochs, description=f"waiting for {runs} runs of other processes", total=None, visible=True
        )


def _say_score(metric: Metric, split: str, scored: RunResult | EpochMetrics) -> str | None:
    """Say the comparison's metric on a split; None where there is no value."""
    value = dataclasses.replace(metric, field=metric.field.replace("test", split)).of(scored)
    unit = f" {metric.unit}" if metric.unit else ""
    return None if value is None else f"{split} {metric.name} {metric.scale * value:.{metric.decimals}f}{unit}"

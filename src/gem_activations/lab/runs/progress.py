"""Show a comparison while it runs: bars on a terminal, one line a run elsewhere. All of it goes to stderr."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..store.comparison import FINISHED, EpochRow, RunResult
from .engine import ProgressCallback
from .experiment import Experiment, Figures


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[ProgressCallback]:
    """Return a callback that shows a comparison on a console, with bars if the console is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal)
    with bars as progress:
        yield Bars(progress)


class Bars(ProgressCallback):
    """One line for each run that ends, and below the lines a bar over the runs and one over the epochs under way.

    Args:
        progress: The bars; disabled ones leave the lines.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.total = self.done = 0
        self.headline: Callable[[Figures], str] = lambda _: ""
        self.runs = progress.add_task("runs", total=None)
        self.epochs = progress.add_task("", total=None, visible=False)

    def started(self, experiment: Experiment, folder: Path, device: str, runs: int, done: int) -> None:
        """Say what is compared, where it runs and is stored, and how much of it is done."""
        self.total, self.done, self.headline = runs, done, experiment.headline
        arms = f"{len(experiment.arms)} activations x {len(experiment.seeds)} seeds"
        self._print(f"{experiment.name}: {arms} on {device}, in {folder}")
        if done:
            self._print(f"{done} of {runs} runs ended before and are kept")
        self.progress.update(self.runs, total=runs, completed=done)

    def epoch(self, activation: str, seed: int, metrics: list[EpochRow], epochs: int) -> None:
        """Move the bar over the epochs."""
        score = self.headline(metrics[-1]) if metrics else ""
        self.progress.update(
            self.epochs,
            description=f"{activation}, seed {seed}{score and f', {score}'}",
            completed=len(metrics),
            total=epochs,
            visible=True,
        )

    def ended(self, result: RunResult) -> None:
        """Print the run's result, or why it failed, and move the bar over the runs."""
        self.done += 1
        outcome = self.headline(result.figures) if result.status == FINISHED else f"failed: {result.reason}"
        self._print(
            f"[{self.done}/{self.total}] {result.activation}, seed {result.seed}: {outcome} ({result.seconds:.1f} s)"
        )
        self.progress.update(self.runs, completed=self.done)
        self.progress.update(self.epochs, visible=False)

    def waiting(self, runs: int) -> None:
        """Say that other processes are at work."""
        self.progress.update(
            self.epochs, description=f"waiting for {runs} runs of other processes", total=None, visible=True
        )

    def _print(self, text: str) -> None:
        self.progress.console.print(text, markup=False, highlight=False, soft_wrap=True)

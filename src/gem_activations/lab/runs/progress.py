"""Show a comparison while it runs: bars on a terminal, one line a run elsewhere. All of it goes to stderr."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..store.records import FINISHED, EpochRow, RunResult
from .experiment import Experiment, Figures
from .runner import ProgressCallback


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[ProgressCallback]:
    """Return an callback that shows a comparison on a console, with bars where the console is a terminal.

    Ctrl-C meanwhile ends the comparison, at the latest after the epoch under way.
    """
    with _interruptible() as interruption:
        if not console.is_terminal:
            yield Lines(console, interruption)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
            yield Bars(console, progress, interruption)


class Interruption:
    """Ctrl-C, remembered: Python drops a KeyboardInterrupt that is raised inside a finaliser or a callback from C."""

    def __init__(self) -> None:
        self.seen = False

    def __call__(self, *_: object) -> None:
        """Handle the signal: raise KeyboardInterrupt, as Python does."""
        self.seen = True
        self.check()

    def check(self) -> None:
        """Raise KeyboardInterrupt where one has been raised before."""
        if self.seen:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _interruptible() -> Iterator[Interruption]:
    """Handle Ctrl-C meanwhile, where Python would do it: not in a thread, nor where the signal is ignored."""
    interruption = Interruption()
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ours = raises and threading.current_thread() is threading.main_thread()  # Only that thread may set a handler.
    if ours:
        signal.signal(signal.SIGINT, interruption)
    try:
        yield interruption
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


class Lines:
    """One plain line for each run that ends.

    Args:
        console: Where the lines go.
        interruption: Is asked after each epoch.
    """

    def __init__(self, console: Console, interruption: Interruption | None = None) -> None:
        self.console = console
        self.interruption = interruption or Interruption()
        self.total = self.done = 0
        self.headline: Callable[[Figures], str] = lambda _: ""

    def started(self, experiment: Experiment, folder: Path, device: str, runs: int, done: int) -> None:
        """Say what is compared, where it runs and is stored, and how much of it is done."""
        self.total, self.done, self.headline = runs, done, experiment.headline
        arms = f"{len(experiment.arms)} activations x {len(experiment.seeds)} seeds"
        self._print(f"{experiment.name}: {arms} on {device}, in {folder}")
        if done:
            self._print(f"{done} of {runs} runs ended before and are kept")

    def epoch(self, activation: str, seed: int, metrics: list[EpochRow], epochs: int) -> None:  # noqa: ARG002
        """Print nothing: a line a run is enough for a log. Raises: KeyboardInterrupt: Ctrl-C was pressed before."""
        self.interruption.check()

    def ended(self, result: RunResult) -> None:
        """Print the run's result, or why it failed."""
        self.done += 1
        outcome = self.headline(result.figures) if result.status == FINISHED else f"failed: {result.reason}"
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
        interruption: Is asked after each epoch.
    """

    def __init__(self, console: Console, progress: Progress, interruption: Interruption | None = None) -> None:
        super().__init__(console, interruption)
        self.progress = progress
        self.runs = progress.add_task("runs", total=None)
        self.epochs = progress.add_task("", total=None, visible=False)

    def started(self, experiment: Experiment, folder: Path, device: str, runs: int, done: int) -> None:
        """Start the bar over the runs."""
        super().started(experiment, folder, device, runs, done)
        self.progress.update(self.runs, total=runs, completed=done)

    def epoch(self, activation: str, seed: int, metrics: list[EpochRow], epochs: int) -> None:
        """Move the bar over the epochs. Raises: KeyboardInterrupt: Ctrl-C was pressed before."""
        super().epoch(activation, seed, metrics, epochs)
        score = self.headline(metrics[-1]) if metrics else ""
        self.progress.update(
            self.epochs,
            description=f"{activation}, seed {seed}{score and f', {score}'}",
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

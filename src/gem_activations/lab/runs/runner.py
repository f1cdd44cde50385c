"""Bring single runs of a comparison to their end: locked, described, trained, and their result written."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout

from ...errors import DataError, StoreError
from ..models.classifiers import count_parameters
from ..recipes.pipeline import Recipe
from ..store.comparison import (
    FAILED,
    EpochMetrics,
    Plan,
    RunResult,
    read_result,
    run_folder,
    write_depth,
    write_json,
    write_metrics,
    write_result,
)
from ..store.environment import describe_environment
from ..training.group import Alone, Group
from ..training.run import NotFiniteError, Run
from ..training.tasks import Task

# What a RuntimeError says where memory is short: torch on a CPU, the CUDA runtime, and cuBLAS, cuDNN and their kin.
_STARVED = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


class Observer(Protocol):
    """Is told what happens in a comparison, to show it."""

    def started(self, recipe: Recipe, folder: Path, runs: int, done: int) -> None:
        """Take the number of runs this request wants, and how many of them had ended before."""
        ...

    def epoch(self, activation: str, seed: int, metrics: list[EpochMetrics], epochs: int) -> None:
        """Take the finished epochs, none at a start, of the run that is under way; `epochs` are wanted."""
        ...

    def ended(self, result: RunResult) -> None:
        """Take the result of a run, finished or failed, of this process or of another."""
        ...

    def waiting(self, runs: int) -> None:
        """Take the number of runs that other processes are working on, while nothing is left for this one."""
        ...


class Silent:
    """An observer that shows nothing."""

    def started(self, recipe: Recipe, folder: Path, runs: int, done: int) -> None:
        """Show nothing."""

    def epoch(self, activation: str, seed: int, metrics: list[EpochMetrics], epochs: int) -> None:
        """Show nothing."""

    def ended(self, result: RunResult) -> None:
        """Show nothing."""

    def waiting(self, runs: int) -> None:
        """Show nothing."""


class Runner:
    """Works on the runs of one comparison, one at a time.

    Args:
        folder: The output folder.
        recipe: The recipe.
        plan: The plan as it is stored.
        task: What is trained, on the device of the runs.
        observer: Is told of each epoch.
        group: The processes that train each run together; the others `follow`.
    """

    def __init__(
        self, folder: Path, recipe: Recipe, plan: Plan, task: Task, observer: Observer, group: Group | None = None
    ) -> None:
        self.folder, self.recipe, self.plan, self.task, self.observer = folder, recipe, plan, task, observer
        self.group = group or Alone()
        self.environment = describe_environment(task.device)

    def attempt(self, activation: str, seed: int) -> RunResult | None:
        """Bring a run to its end and give its result; None where another process is working on it."""
        try:
            held = self._lock(activation, seed).acquire(blocking=False)
        except Timeout:
            return None
        with held:
            result = read_result(self.folder, activation, seed)
            if result is None:
                result = self._run(activation, seed)
                write_result(self.folder, result)
        return result

    def wait(self, activation: str, seed: int, seconds: float) -> None:
        """Wait until no other process works on a run, but no longer than so many seconds."""
        with contextlib.suppress(Timeout), self._lock(activation, seed).acquire(timeout=seconds):
            pass

    def _lock(self, activation: str, seed: int) -> FileLock:
        run = run_folder(self.folder, activation, seed)
        run.mkdir(parents=True, exist_ok=True)
        return FileLock(run / ".lock")

    def _run(self, activation: str, seed: int) -> RunResult:
        folder = run_folder(self.folder, activation, seed)
        identity = self._identity(activation, seed)
        write_json(folder / "config.json", identity)
        write_json(folder / "env.json", self.environment)

        def on_epoch(metrics: list[EpochMetrics]) -> None:
            write_metrics(self.folder, activation, seed, metrics)
            self.observer.epoch(activation, seed, metrics, self.recipe.training.epochs)

        device = self.task.device
        self.group.announce({"identity": identity, "threads": self.plan.threads})
        with keep_random_state(device):
            run = None
            try:
                run = Run(self.recipe, activation, seed, self.task, identity, self.group)
                result = run.train(folder / "checkpoint.pt", on_epoch)
                if run.depth is not None:
                    write_depth(self.folder, activation, seed, run.depth)
                return result
            except (NotFiniteError, MemoryError, RuntimeError, DataError, StoreError, OSError) as error:
                reason = _failure_reason(error)
                if reason is None:
                    raise
                on_epoch(run.metrics if run else [])
                result = _failed_result(activation, seed, reason, run)
                if self.group.size > 1 and not isinstance(error, NotFiniteError):
                    write_result(self.folder, result)
                    raise  # The other processes are still in the run: only torchrun can end them.
                return result

    def _identity(self, activation: str, seed: int) -> dict[str, Any]:
        return {
            "activation": activation,
            "seed": seed,
            "recipe": self.plan.recipe,
            "device": self.plan.device,
            "threads": self.plan.threads,
            "processes": self.group.size,
            "data": self.plan.data,
            "backends": self.environment["backends"],
        }


def keep_random_state(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Give the context in which a run may draw random numbers and leave torch's global state as it was."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


@contextlib.contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Make torch give the same bits each time: deterministic algorithms, and the comparison's number of threads."""
    memory: Any = torch.utils.deterministic
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it.
    try:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(True)
        memory.fill_uninitialized_memory = False  # A debugging aid that costs time in each step.
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        memory.fill_uninitialized_memory = before[2]


def _failure_reason(error: Exception) -> str | None:
    """Say why a run failed; None for an error that is no failure of the run but a defect of the program."""
    text = str(error)
    if isinstance(error, NotFiniteError):
        return text
    if isinstance(error, DataError | StoreError | OSError):
        return f"{' '.join(text.split())}; delete the run's result.json to have it taken up again"
    starved = isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in text for sign in _STARVED)
    return f"out of memory: {text.splitlines()[0] if text else 'no detail given'}" if starved else None


def _failed_result(activation: str, seed: int, reason: str, run: Run | None) -> RunResult:
    return RunResult(
        activation=activation,
        seed=seed,
        status=FAILED,
        reason=reason,
        test_accuracy=None,
        test_loss=None,
        validation_accuracy=None,
        validation_loss=None,
        best_epoch=None,
        epochs=len(run.metrics) if run else 0,
        parameters=count_parameters(run.model) if run else 0,
        step_seconds=None,
        step_time_ratio=None,
        seconds=run.seconds if run else 0.0,
    )

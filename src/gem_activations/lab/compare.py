"""Run a comparison: every activation from every seed, one after the other, resumable and shared between processes."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout

from .environment import describe_environment
from .models import count_parameters
from .pipeline import Recipe
from .request import Request, agree_on_plan, check_folder, find_device, resolve_recipe
from .store import (
    FAILED,
    Comparison,
    EpochMetrics,
    Plan,
    RunResult,
    load_comparison,
    read_result,
    run_folder,
    write_depth,
    write_json,
    write_metrics,
    write_result,
)
from .tasks import Task, load_task
from .training import NotFiniteError, Run

_POLL_SECONDS = 0.5


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


def compare(request: Request, observer: Observer) -> Comparison:
    """Bring every run that a request wants to its end.

    Runs that ended before are not repeated. A run that another process works on is waited for, and taken over if
    that process dies.

    Returns: The comparison as its folder holds it then.
    Raises: GemError: something in the request is wrong; nothing that was stored has been touched.
    """
    recipe = resolve_recipe(request)
    device = find_device(request.device)
    check_folder(request.folder)
    task = load_task(recipe, request.data_dir)
    plan = agree_on_plan(request, recipe, device, task.checksums)
    with _reproducible(plan.threads):
        runner = _Runner(request.folder, recipe, plan, task.to(device), observer)
        runner.run_all()
    return load_comparison(request.folder)


class _Runner:
    """The loop over the runs of one request."""

    def __init__(self, folder: Path, recipe: Recipe, plan: Plan, task: Task, observer: Observer) -> None:
        self.folder, self.recipe, self.plan, self.task, self.observer = folder, recipe, plan, task, observer
        self.environment = describe_environment(task.device)

    def run_all(self) -> None:
        wanted = [(activation, seed) for seed in range(self.recipe.seeds) for activation in self.recipe.activations]
        pending = [run for run in wanted if read_result(self.folder, *run) is None]
        self.observer.started(self.recipe, self.folder, len(wanted), len(wanted) - len(pending))
        while pending:
            free = [run for run in pending if self._try(*run)]
            pending = [run for run in pending if run not in free]
            if pending and not free:
                self.observer.waiting(len(pending))
                self._wait(*pending[0])

    def _try(self, activation: str, seed: int) -> bool:
        """Bring a run to its end unless another process works on it; tell whether it has ended."""
        try:
            held = self._lock(activation, seed).acquire(blocking=False)
        except Timeout:
            return False
        with held:
            result = read_result(self.folder, activation, seed)
            if result is None:
                result = self._run(activation, seed)
                write_result(self.folder, result)
        self.observer.ended(result)
        return True

    def _wait(self, activation: str, seed: int) -> None:
        with contextlib.suppress(Timeout), self._lock(activation, seed).acquire(timeout=_POLL_SECONDS):
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
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            run = None
            try:
                run = Run(self.recipe, activation, seed, self.task, identity)
                result = run.train(folder / "checkpoint.pt", on_epoch)
                if run.depth is not None:
                    write_depth(self.folder, activation, seed, run.depth)
                return result
            except (NotFiniteError, MemoryError, RuntimeError) as error:
                reason = _failure_reason(error)
                if reason is None:
                    raise
                on_epoch(run.metrics if run else [])
                return _failed_result(activation, seed, reason, run)

    def _identity(self, activation: str, seed: int) -> dict[str, Any]:
        return {
            "activation": activation,
            "seed": seed,
            "recipe": self.plan.recipe,
            "device": self.plan.device,
            "threads": self.plan.threads,
            "data": self.plan.data,
            "backends": self.environment["backends"],
        }


@contextlib.contextmanager
def _reproducible(threads: int) -> Iterator[None]:
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
    if isinstance(error, NotFiniteError):
        return str(error)
    text = str(error)
    starved = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in text
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

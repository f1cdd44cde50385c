"""Bring single runs of a comparison to their end: locked, described, trained, and their result written."""

import contextlib
import os
import random
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from ...errors import DataError, GemError, MissingDependencyError, SettingError, StoreError
from ..store.comparison import read_result, run_folder, write_atomically, write_json, write_result
from ..store.environment import describe_environment
from ..store.rates import to_plain
from ..store.records import FAILED, FINISHED, INFRASTRUCTURE, EpochRow, Plan, RunResult
from ..training.checkpoint import state_paths
from ..training.group import Group
from ..training.run import CHECKPOINT, NotFiniteError, Run
from .experiment import Experiment, Loaded
from .request import Execution
from .tracking import export_run

TRACEBACK = "traceback.txt"
# What a RuntimeError says where memory is short: torch on a CPU, the CUDA runtime, and cuBLAS, cuDNN and their kin.
_STARVED = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")


class ProgressCallback:
    """Is told what happens in a comparison, to show it; this one shows nothing."""

    def started(self, experiment: Experiment, folder: Path, device: str, runs: int, done: int) -> None:
        """Take the number of runs this request wants, and how many of them had ended before."""

    def epoch(self, activation: str, seed: int, metrics: list[EpochRow], epochs: int) -> None:
        """Take the finished epochs, none at a start, of the run that is under way; `epochs` are wanted."""

    def ended(self, result: RunResult) -> None:
        """Take the result of a run, finished or failed, of this process or of another."""

    def waiting(self, runs: int) -> None:
        """Take the number of runs that other processes are working on, while nothing is left for this one."""


@dataclass
class Runner:
    """Works on the runs of one comparison, one at a time.

    Attributes:
        request: Names the output folder, and what is kept of a run.
        experiment: What a run does.
        plan: The plan as it is stored.
        loaded: The experiment with its data.
        device: Where the runs train.
        callback: Is told of each epoch.
        group: The processes that train each run together; the others `follow`.
    """

    request: Execution
    experiment: Experiment
    plan: Plan
    loaded: Loaded
    device: torch.device
    callback: ProgressCallback
    group: Group = field(default_factory=Group)

    @property
    def folder(self) -> Path:
        """The output folder."""
        return self.request.folder

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What is stored with every run, as it was when the first began."""
        return {**describe_environment(self.device), "sources": self.experiment.versions}

    def attempt(self, activation: str, seed: int, stale: RunResult | None = None) -> RunResult | None:
        """Bring a run to its end and return its result; None while another process is working on it.

        Args:
            activation, seed: The run.
            stale: A stored result that is to be replaced.
        """
        try:
            held = self._lock(activation, seed).acquire(blocking=False)
        except Timeout:
            return None
        with held:
            result = read_result(self.folder, activation, seed)
            if result is None or result == stale:
                result, metrics = self._run(activation, seed)
                export_run(self.request.track, self.folder, self.plan, result, metrics)
                write_result(self.folder, result)
                if result.status == FINISHED and not self.request.keep_checkpoints:
                    for path in state_paths(run_folder(self.folder, activation, seed) / CHECKPOINT):
                        path.unlink(missing_ok=True)
        return result

    def wait(self, activation: str, seed: int, seconds: float) -> None:
        """Wait until no other process works on a run, but no longer than so many seconds."""
        with contextlib.suppress(Timeout), self._lock(activation, seed).acquire(timeout=seconds):
            pass

    def _lock(self, activation: str, seed: int) -> FileLock:
        run = run_folder(self.folder, activation, seed)
        run.mkdir(parents=True, exist_ok=True)
        return FileLock(run / ".lock")

    def _run(self, activation: str, seed: int) -> tuple[RunResult, list[EpochRow]]:
        folder = run_folder(self.folder, activation, seed)
        identity = self._identity(activation, seed)
        write_json(folder / "config.json", identity)
        write_json(folder / "env.json", self.environment)
        (folder / TRACEBACK).unlink(missing_ok=True)
        self.group.announce({"identity": identity, "threads": self.plan.threads})
        with seeded(seed, self.device):
            run = Run(
                activation,
                seed,
                self.device,
                folder,
                self.experiment.arms[activation],
                identity=identity,
                group=self.group,
                on_epoch=lambda metrics, epochs: self.callback.epoch(activation, seed, metrics, epochs),
            )
            try:
                figures = dict(self.loaded.train(run, self.group))
                run.finish()
                result = RunResult(activation, seed, FINISHED, "", len(run.metrics), run.seconds, figures)
            except (SettingError, MissingDependencyError):
                raise  # Nothing that another run could have otherwise.
            except Exception as error:
                status, reason = _say_failure(error)
                result = RunResult(activation, seed, status, reason, len(run.metrics), run.seconds)
                if not isinstance(error, NotFiniteError):
                    with contextlib.suppress(StoreError):  # The disk may be full.
                        write_atomically(folder / TRACEBACK, traceback.format_exc().encode())
                    if self.group.size > 1:
                        if status == INFRASTRUCTURE:
                            write_result(self.folder, result)
                        raise  # The other processes are still in the run: only torchrun can end them.
            return result, run.metrics

    def _identity(self, activation: str, seed: int) -> dict[str, Any]:
        return {
            "activation": activation,
            "seed": seed,
            "recipe": to_plain(self.plan.recipe),
            "device": self.plan.device,
            "threads": self.plan.threads,
            "processes": self.group.size,
            "data": self.plan.data,
            "backends": self.environment["backends"],
        }


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch for a run, and leave them as they were afterwards."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


@contextlib.contextmanager
def reproducible(threads: int, *, deterministic: bool = True) -> Iterator[None]:
    """Make torch give the same bits each time: the comparison's number of threads, and deterministic algorithms."""
    memory: Any = torch.utils.deterministic
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it.
    try:
        torch.set_num_threads(threads)
        if deterministic:
            torch.use_deterministic_algorithms(True)
            memory.fill_uninitialized_memory = False  # A debugging aid that costs time in each step.
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        memory.fill_uninitialized_memory = before[2]


def _say_failure(error: Exception) -> tuple[str, str]:
    """Return the status of a run that raised an error, and the reason in words."""
    text = str(error)
    if isinstance(error, NotFiniteError):
        return FAILED, text
    if isinstance(error, DataError | StoreError | OSError):
        return INFRASTRUCTURE, f"{' '.join(text.split())}; the same command tries again"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in text for sign in _STARVED):
        return INFRASTRUCTURE, f"out of memory: {text.splitlines()[0] if text else 'no detail given'}"
    words = " ".join(text.split())
    return FAILED, words if isinstance(error, GemError) else f"{type(error).__name__}: {words}"

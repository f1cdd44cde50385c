"""Run a comparison: every activation from every seed, resumable, shared between processes, each run by one or several.

One training run over several processes is started by torchrun and joined by DistributedDataParallel. Every process runs
the same command. Rank 0 does all that one process would do: it decides which run is next, locks it, writes every file.
It announces each run to the other processes, which take their part of each batch and write nothing. All of them read
the data and the checkpoints, so the folders must be the same for all.
"""

import contextlib
import dataclasses
import os
import random
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from ...errors import DataError, ExperimentError, GemError, MissingDependencyError, SettingError, StoreError
from ..data.holdings import DATA_DIR_VARIABLE
from ..statistics.sequential import make_schedule
from ..store import comparison as store
from ..store.environment import describe_environment
from ..training.group import Group, init_processes, is_launched, local_device
from ..training.run import CHECKPOINT, NotFiniteError, Run, state_paths
from .experiment import Experiment, Loaded
from .planning import agree_on_plan, check_folder, find_device, look, resolve
from .request import Execution, FunctionRequest, Request
from .tracking import export_run

TRACEBACK = "traceback.txt"
# What a RuntimeError says if memory is short: torch on a CPU, the CUDA runtime, and cuBLAS, cuDNN and their kin.
_STARVED = ("can't allocate memory", "CUDA error: out of memory", "_STATUS_ALLOC_FAILED")
_POLL_SECONDS = 0.5


class ProgressCallback:
    """Is told what happens in a comparison, to show it; this one shows nothing."""

    def started(self, experiment: Experiment, folder: Path, device: str, runs: int, done: int) -> None:
        """Take the number of runs this request wants, and how many of them had ended before."""

    def epoch(self, activation: str, seed: int, metrics: list[store.EpochRow], epochs: int) -> None:
        """Take the finished epochs, none at a start, of the run that is under way; `epochs` are wanted."""

    def ended(self, result: store.RunResult) -> None:
        """Take the result of a run, finished or failed, of this process or of another."""

    def waiting(self, runs: int) -> None:
        """Take the number of runs that other processes are working on, while nothing is left for this one."""


@dataclass
class Runner:
    """Works on the runs of one comparison, one at a time; of a group of processes all but rank zero `follow`."""

    request: Execution
    experiment: Experiment
    plan: store.Plan
    loaded: Loaded
    device: torch.device
    callback: ProgressCallback
    group: Group = field(default_factory=Group)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """What is stored with every run, as it was when the first began."""
        return {**describe_environment(self.device), "sources": self.experiment.versions}

    def attempt(self, activation: str, seed: int, stale: store.RunResult | None = None) -> store.RunResult | None:
        """Bring a run to its end and return its result; None while another process is working on it.

        A stored result is kept unless it equals the stale one, which is to be replaced.
        """
        try:
            held = self._lock(activation, seed).acquire(blocking=False)
        except Timeout:
            return None
        with held:
            result = store.read_result(self.request.folder, activation, seed)
            if result is None or result == stale:
                result, metrics = self._run(activation, seed)
                export_run(self.request.track, self.request.folder, self.plan, result, metrics)
                store.write_result(self.request.folder, result)
                if result.status == store.FINISHED and not self.request.keep_checkpoints:
                    for path in state_paths(store.run_folder(self.request.folder, activation, seed) / CHECKPOINT):
                        path.unlink(missing_ok=True)
        return result

    def wait(self, activation: str, seed: int, seconds: float) -> None:
        """Wait until no other process works on a run, but no longer than so many seconds."""
        with contextlib.suppress(Timeout), self._lock(activation, seed).acquire(timeout=seconds):
            pass

    def _lock(self, activation: str, seed: int) -> FileLock:
        run = store.run_folder(self.request.folder, activation, seed)
        run.mkdir(parents=True, exist_ok=True)
        return FileLock(run / ".lock")

    def _run(self, activation: str, seed: int) -> tuple[store.RunResult, list[store.EpochRow]]:
        folder = store.run_folder(self.request.folder, activation, seed)
        identity = {
            "activation": activation,
            "seed": seed,
            "recipe": store.to_plain(self.plan.recipe),
            "device": self.plan.device,
            "threads": self.plan.threads,
            "processes": self.group.size,
            "data": self.plan.data,
            "backends": self.environment["backends"],
        }
        store.write_json(folder / "config.json", identity)
        store.write_json(folder / "env.json", self.environment)
        (folder / TRACEBACK).unlink(missing_ok=True)
        self.group.announce({"identity": identity, "threads": self.plan.threads})
        with seeded(seed, self.device):
            make, told = self.experiment.arms[activation], partial(self.callback.epoch, activation, seed)
            run = Run(activation, seed, self.device, folder, make, identity=identity, group=self.group, on_epoch=told)
            try:
                figures = dict(self.loaded.train(run, self.group))
                run.finish()
                result = store.RunResult(activation, seed, store.FINISHED, "", len(run.metrics), run.seconds, figures)
            except (SettingError, MissingDependencyError):
                raise  # Nothing that another run could have otherwise.
            except Exception as error:
                status, reason = _say_failure(error)
                result = store.RunResult(activation, seed, status, reason, len(run.metrics), run.seconds)
                if not isinstance(error, NotFiniteError):
                    with contextlib.suppress(StoreError):  # The disk may be full.
                        store.write_atomically(folder / TRACEBACK, traceback.format_exc().encode())
                    if self.group.size > 1:
                        if status == store.INFRASTRUCTURE:
                            store.write_result(self.request.folder, result)
                        raise  # The other processes are still in the run: only torchrun can end them.
            return result, run.metrics


def run_comparison(request: Execution, callback: ProgressCallback) -> store.Comparison:
    """Bring every run that a request wants to its end.

    Runs that ended before are not repeated, unless they failed for want of memory, disk or data, or the request asks
    for it. A run that another process works on is waited for, and taken over if that process dies. Under torchrun
    every process calls this; all but rank zero only help.

    Returns: The comparison as its folder holds it then.
    Raises: ExperimentError: the first run of every activation failed in the same way; GemError: something in the
        request is wrong. What was stored before has not been touched.
    """
    experiment = resolve(request)
    request = _check_engine(request)
    device = find_device(local_device(request.device), here=request.engine == "local")
    with init_processes(device) as group:
        if group.rank == 0:
            check_folder(request.folder)
        loaded = experiment.load(device)
        if group.size > 1 and loaded.advance is None:
            raise SettingError("a training function of your own runs in one process; start it without torchrun")
        if group.rank > 0:
            follow(request.folder, experiment, loaded, group)
            return store.load_comparison(request.folder)
        if request.most is None:
            plan = agree_on_plan(request, experiment, device, loaded.checksums)
            _bring_to_end(Runner(request, experiment, plan, loaded, device, callback, group))
            return store.load_comparison(request.folder)
        arms, comparison = tuple(experiment.arms), None
        for number, count in enumerate(make_schedule(request.most), start=1):
            seeds = tuple(range(request.seed_start, request.seed_start + count))
            plan = agree_on_plan(request, dataclasses.replace(experiment, seeds=seeds), device, loaded.checksums)
            part = dataclasses.replace(experiment, seeds=seeds, arms={arm: experiment.arms[arm] for arm in arms})
            _bring_to_end(Runner(request, part, plan, loaded, device, callback, group))
            comparison, arms = look(request.folder)
            if len(comparison.looks) < number or not arms:  # A run lacks memory or disk, or all is decided.
                break
    assert comparison is not None  # A schedule has a look.
    return comparison


def _check_engine(request: Execution) -> Execution:
    """Return the request with its device chosen and, if its engine is one of several machines, the paths they need.

    Raises: SettingError: options of the engine that do not go together.
    """
    if request.device == "auto":
        begun = store.read_plan(request.folder)
        device = begun.device if begun else "cuda" if torch.cuda.is_available() else "cpu"
        request = dataclasses.replace(request, device=device)
    if request.engine == "local":
        if request.ray_address is not None or request.replicas != 1:
            raise SettingError("--ray-address and --replicas belong to --engine ray; add it")
        return request
    if is_launched():
        raise SettingError("--engine ray starts processes of its own; leave torchrun away")
    if request.device not in ("cpu", "cuda"):
        raise SettingError(f"--device {request.device}: Ray chooses among a machine's GPUs; give --device cuda")
    if request.replicas < 1:
        raise SettingError(f"--replicas {request.replicas}: give a whole number of at least 1")
    request = dataclasses.replace(request, out=request.folder.absolute())
    if isinstance(request, Request):
        chosen = request.data_dir or os.environ.get(DATA_DIR_VARIABLE)
        return dataclasses.replace(request, data_dir=Path(chosen).absolute() if chosen else None)
    if not isinstance(request, FunctionRequest) or not isinstance(request.train, str):
        return request
    file, _, name = request.train.rpartition(":")
    return dataclasses.replace(request, train=f"{Path(file).absolute()}:{name}") if file.endswith(".py") else request


def _bring_to_end(runner: Runner) -> None:
    """Bring runs to their end on a cluster, or here: one after the other, those of other processes last.

    Raises: ExperimentError: the first run of every activation raised the same error; their results are taken back.
        StoreError: a result could not be stored.
    """
    request, experiment, plan = runner.request, runner.experiment, runner.plan
    again = (store.INFRASTRUCTURE, store.FAILED) if request.retry_failed else (store.INFRASTRUCTURE,)
    before = {run: store.read_result(request.folder, *run) for run in experiment.runs}
    pending = {run: result for run, result in before.items() if result is None or result.status in again}
    runner.callback.started(experiment, request.folder, str(runner.device), len(before), len(before) - len(pending))
    if request.engine == "ray" and pending:
        from .engine_ray import run_on_ray

        run_on_ray((request, plan), pending, runner.callback)
        return
    begun = len(pending) < len(before)
    first: dict[str, store.RunResult] = {}
    with reproducible(plan.threads, deterministic=experiment.deterministic):
        while pending:
            ended: list[store.RunKey] = []
            for run, stale in pending.items():
                result = runner.attempt(*run, stale)
                if result is not None:
                    runner.callback.ended(result)
                    ended.append(run)
                    first.setdefault(run[0], result)
                    if not begun and len(first) == len(runner.experiment.arms):
                        _stop_if_hopeless(runner, list(first.values()))
                        begun = True
            pending = {run: stale for run, stale in pending.items() if run not in ended}
            if pending and not ended:
                runner.callback.waiting(len(pending))
                runner.wait(*next(iter(pending)), _POLL_SECONDS)


def _stop_if_hopeless(runner: Runner, first: list[store.RunResult]) -> None:
    """Stop if one error of the experiment itself ended the first run of every activation."""
    reasons = {result.reason for result in first}
    folders = [store.run_folder(runner.request.folder, result.activation, result.seed) for result in first]
    raised = all((folder / TRACEBACK).exists() for folder in folders)
    if len(reasons) > 1 or not raised or any(result.status == store.FINISHED for result in first):
        return
    for folder in folders:
        (folder / "result.json").unlink(missing_ok=True)
    raise ExperimentError(
        f"the first run of every activation failed in the same way: {reasons.pop()} (traceback in "
        f"{folders[0] / TRACEBACK}); mend it and run the same command again"
    )


def follow(folder: Path, experiment: Experiment, loaded: Loaded, group: Group) -> None:
    """Take part in each run that rank 0 announces, until there is none left; only checkpoints are read."""
    assert loaded.advance is not None
    while (message := group.listen()) is not None:
        identity, device = message["identity"], group.device
        activation, seed = identity["activation"], identity["seed"]
        place, make = store.run_folder(folder, activation, seed), experiment.arms[activation]
        run = Run(activation, seed, device, place, make, identity=identity, group=group)
        # A loss that is not finite is so in every process, and rank 0 stores it.
        with reproducible(message["threads"]), seeded(seed, device), contextlib.suppress(NotFiniteError):
            loaded.advance(run, group)


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
        return store.FAILED, text
    if isinstance(error, DataError | StoreError | OSError):
        return store.INFRASTRUCTURE, f"{' '.join(text.split())}; the same command tries again"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in text for sign in _STARVED):
        return store.INFRASTRUCTURE, f"out of memory: {text.splitlines()[0] if text else 'no detail given'}"
    words = " ".join(text.split())
    return store.FAILED, words if isinstance(error, GemError) else f"{type(error).__name__}: {words}"

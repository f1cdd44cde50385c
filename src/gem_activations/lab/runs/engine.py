"""Run a comparison: every activation from every seed, resumable and shared between processes."""

import dataclasses
import os
from pathlib import Path

import torch

from ...errors import ExperimentError, SettingError, StoreError
from ..data.holdings import DATA_DIR_VARIABLE
from ..statistics.sequential import make_schedule
from ..store.comparison import load_comparison, read_plan, read_result, run_folder
from ..store.records import FAILED, FINISHED, INFRASTRUCTURE, Comparison, RunKey, RunResult
from .distributed import ProcessGroup, follow, init_processes, is_launched, local_device
from .planning import agree_on_plan, check_folder, find_device, look, resolve
from .request import Execution, FunctionRequest, Request
from .runner import TRACEBACK, ProgressCallback, Runner, reproducible

_POLL_SECONDS = 0.5


def run_comparison(request: Execution, callback: ProgressCallback) -> Comparison:
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
        if isinstance(group, ProcessGroup) and group.rank > 0:
            follow(request.folder, experiment, loaded, device, group)
            return load_comparison(request.folder)
        if request.most is None:
            plan = agree_on_plan(request, experiment, device, loaded.checksums)
            _bring_to_end(Runner(request, experiment, plan, loaded, device, callback, group))
            return load_comparison(request.folder)
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


def _bring_to_end(runner: Runner) -> None:
    """Bring runs to their end on a cluster, or here: one after the other, those of other processes last.

    Raises: ExperimentError: the first run of every activation raised the same error; their results are taken back.
        StoreError: the results of some runs could not be stored; all others have been brought to their end.
    """
    request, experiment, plan = runner.request, runner.experiment, runner.plan
    again = (INFRASTRUCTURE, FAILED) if request.retry_failed else (INFRASTRUCTURE,)
    before = {run: read_result(request.folder, *run) for run in experiment.runs}
    pending = {run: result for run, result in before.items() if result is None or result.status in again}
    runner.callback.started(experiment, request.folder, str(runner.device), len(before), len(before) - len(pending))
    if request.engine == "ray" and pending:
        from .engine_ray import run_on_ray

        run_on_ray((request, plan), pending, runner.callback)
        return
    begun, unstored = len(pending) < len(before), list[StoreError]()
    first: dict[str, RunResult] = {}
    with reproducible(plan.threads, deterministic=experiment.deterministic):
        while pending:
            ended: list[RunKey] = []
            for run, stale in pending.items():
                try:
                    result = runner.attempt(*run, stale)
                except StoreError as error:  # A full disk may have room again for the next run.
                    unstored.append(error)
                    ended.append(run)
                    continue
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
    if unstored:
        raise StoreError(f"{len(unstored)} runs could not be stored: {unstored[0]}; then run the same command again")


def _stop_if_hopeless(runner: Runner, first: list[RunResult]) -> None:
    """Stop if one error of the experiment itself ended the first run of every activation."""
    reasons = {result.reason for result in first}
    folders = [run_folder(runner.folder, result.activation, result.seed) for result in first]
    raised = all((folder / TRACEBACK).exists() for folder in folders)
    if len(reasons) > 1 or not raised or any(result.status == FINISHED for result in first):
        return
    for folder in folders:
        (folder / "result.json").unlink(missing_ok=True)
    raise ExperimentError(
        f"the first run of every activation failed in the same way: {reasons.pop()} (traceback in "
        f"{folders[0] / TRACEBACK}); mend it and run the same command again"
    )


def _check_engine(request: Execution) -> Execution:
    """Return the request with its device chosen and, if its engine is one of several machines, the paths they need.

    Raises: SettingError: options of the engine that do not go together.
    """
    if request.device == "auto":
        begun = read_plan(request.folder)
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

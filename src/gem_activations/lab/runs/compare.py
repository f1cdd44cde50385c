"""Run a comparison: every activation from every seed, resumable and shared between processes."""

import dataclasses
import os
from pathlib import Path

from ...errors import SettingError, StoreError
from ..data.holdings import DATA_DIR_VARIABLE
from ..store.comparison import Comparison, load_comparison, read_result
from ..training.tasks import load_task
from .distributed import Processes, follow, is_launched, join, own_device
from .request import Request, agree_on_plan, check_folder, find_device, resolve_recipe
from .runner import Observer, Runner, reproducible

_POLL_SECONDS = 0.5


def compare(request: Request, observer: Observer) -> Comparison:
    """Bring every run that a request wants to its end.

    Runs that ended before are not repeated. A run that another process works on is waited for, and taken over if
    that process dies. Under torchrun every process calls this; all but the first only help.

    Returns: The comparison as its folder holds it then.
    Raises: GemError: something in the request is wrong; nothing that was stored has been touched.
    """
    recipe = resolve_recipe(request)
    request = _check_engine(request)
    device = find_device(own_device(request.device), here=request.engine == "local")
    with join(device) as group:
        if isinstance(group, Processes) and group.rank > 0:
            follow(request.folder, recipe, load_task(recipe, request.data_dir).to(device), group)
            return load_comparison(request.folder)
        check_folder(request.folder)
        task = load_task(recipe, request.data_dir)
        plan = agree_on_plan(request, recipe, device, task.checksums)
        wanted = [(activation, seed) for seed in range(recipe.seeds) for activation in recipe.activations]
        pending = [run for run in wanted if read_result(request.folder, *run) is None]
        observer.started(recipe, request.folder, len(wanted), len(wanted) - len(pending))
        if request.engine == "ray":
            from .engine_ray import Job, run_on_ray

            run_on_ray(Job(request, recipe, plan), pending, observer)
        else:
            with reproducible(plan.threads):
                _run_here(Runner(request.folder, recipe, plan, task.to(device), observer, group), pending)
    return load_comparison(request.folder)


def _run_here(runner: Runner, pending: list[tuple[str, int]]) -> None:
    """Bring runs to their end one after the other, those that other processes are working on last.

    Raises: StoreError: the results of some runs could not be stored; all others have been brought to their end.
    """
    unstored: list[StoreError] = []
    while pending:
        free: list[tuple[str, int]] = []
        for run in pending:
            try:
                result = runner.attempt(*run)
            except StoreError as error:  # A full disk may have room again for the next run.
                unstored.append(error)
                free.append(run)
                continue
            if result is not None:
                runner.observer.ended(result)
                free.append(run)
        pending = [run for run in pending if run not in free]
        if pending and not free:
            runner.observer.waiting(len(pending))
            runner.wait(*pending[0], _POLL_SECONDS)
    if unstored:
        raise StoreError(f"{len(unstored)} runs could not be stored: {unstored[0]}; then run the same command again")


def _check_engine(request: Request) -> Request:
    """Give the request with the paths that other machines need, where its engine is one of several machines.

    Raises: SettingError: options of the engine that do not go together.
    """
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
    chosen = request.data_dir or os.environ.get(DATA_DIR_VARIABLE)
    data_dir = Path(chosen).absolute() if chosen else None
    return dataclasses.replace(request, out=request.folder.absolute(), data_dir=data_dir)

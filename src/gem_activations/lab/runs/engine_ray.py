"""Bring the runs of a comparison to their end on a Ray cluster: one task a run, repeated if its machine dies.

The results live in the output folder as ever, which every machine must see under the same path. A run's lock there
keeps two tasks from working on it, so a task that is started twice does no harm, and a repeated one goes on from the
run's checkpoint.
"""

import contextlib
import logging
import os
import platform
import time
from collections.abc import Iterator
from typing import Any

from ...errors import DataError, GemError, SettingError, StoreError
from ...extras import framework
from ..store.comparison import Plan, RunKey, RunResult, read_plan
from .engine import ProgressCallback, Runner, reproducible
from .planning import find_device, resolve
from .request import Execution

_POLL_SECONDS = 1.0
_RETRIES = 20  # A run goes on from its checkpoint, so each may bring it further.


Job = tuple[Execution, Plan]
"""What a machine must know: what the user asks for, with absolute folders, and the plan as it is stored."""


def run_on_ray(job: Job, pending: dict[RunKey, RunResult | None], callback: ProgressCallback) -> None:
    """Bring runs, each with the result that is to be replaced, to their end on a Ray cluster.

    Raises: GemError: what a run's machine raised, or no cluster answers, or none of its machines fits;
        MissingDependencyError: Ray is not installed. The runs that had ended stay ended.
    """
    request, plan = job
    needs = {"CPU": float(plan.threads)}
    if plan.device == "cuda":
        needs["GPU"] = 1 / request.replicas
    with _connected(request.ray_address) as ray:
        _check_machines(ray, needs)
        task = ray.remote(_attempt).options(
            num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), max_retries=_RETRIES, retry_exceptions=False
        )
        while pending:
            tasks = {task.remote(job, *run, stale): run for run, stale in pending.items()}
            busy = _collect(ray, tasks, callback)
            pending = {run: pending[run] for run in busy}
            if pending:
                callback.waiting(len(pending))
                time.sleep(_POLL_SECONDS)


def _check_machines(ray: Any, needs: dict[str, float]) -> None:
    """Refuse a cluster of which no machine fits a run: Ray would wait for one for ever."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(machine.get(name, 0.0) >= count for name, count in needs.items()) for machine in machines):
        words = " and ".join(f"{count:g} {name}" for name, count in needs.items())
        raise SettingError(f"no machine of the Ray cluster has the {words} that a run takes; start one that has")


def _collect(ray: Any, tasks: dict[Any, RunKey], callback: ProgressCallback) -> list[RunKey]:
    """Wait for all tasks; give the runs that somebody else was working on. What is raised is raised after the last."""
    busy: list[RunKey] = []
    lost: list[str] = []
    refused: list[GemError] = []
    while tasks:
        done, _ = ray.wait(list(tasks), num_returns=1)
        activation, seed = tasks.pop(done[0])
        try:
            result: RunResult | None = ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            if not isinstance(error.cause, GemError):
                raise
            refused.append(error.cause)  # Such as a full disk, or one machine without the data: others may have them.
            continue
        except ray.exceptions.RayError as error:
            lost.append(f"{activation}, seed {seed} ({type(error).__name__})")
            continue
        if result is None:
            busy.append((activation, seed))
        else:
            callback.ended(result)
    if lost:
        raise StoreError(
            f"the process or machine of a run died {_RETRIES + 1} times: {'; '.join(lost)}; the other runs are done; "
            "give the runs more memory, or other machines, and run the same command again"
        )
    if refused:
        raise refused[0]
    return busy


_prepared: list[tuple[Job, Runner]] = []


def _attempt(job: Job, activation: str, seed: int, stale: RunResult | None) -> RunResult | None:
    """Work on one run, in a process of the cluster; None if somebody else does."""
    if not _prepared or _prepared[0][0] != job:
        _prepared[:] = [(job, _prepare(job))]  # Data and all else that runs share are loaded once a process.
    runner = _prepared[0][1]
    with reproducible(job[1].threads, deterministic=runner.experiment.deterministic):
        return runner.attempt(activation, seed, stale)


def _prepare(job: Job) -> Runner:
    request, plan = job
    if read_plan(request.folder) is None:
        raise StoreError(
            f"the machine {platform.node()} does not see the comparison in {request.folder}; choose an --out folder "
            "that all machines of the cluster share"
        )
    experiment, device = resolve(request), find_device(request.device)
    loaded = experiment.load(device)
    if loaded.checksums != plan.data:
        raise DataError(f"the machine {platform.node()} has other data in its data folder")
    return Runner(request, experiment, plan, loaded, device, ProgressCallback())


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with framework("ray", at_least="2.50"):
        import ray
    dashboard = None if address else False  # A cluster that is there has decided for itself.
    try:
        # Without an address Ray would join whatever cluster was last started here.
        ray.init(address or "local", include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise StoreError(f"--ray-address {address}: no Ray cluster answers there ({error})") from error
    try:
        yield ray
    finally:
        ray.shutdown()

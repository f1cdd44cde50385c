"""Sweeps on Ray: a real cluster that loses a node, and what the engine does with Ray's answers."""

import contextlib
import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gem_activations.errors import DataError, GemError, MissingDependencyError, SettingError, StoreError
from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.runs import engine_ray
from gem_activations.lab.runs.engine import ProgressCallback, run_comparison
from gem_activations.lab.runs.engine_ray import Job
from gem_activations.lab.runs.request import Request
from gem_activations.lab.store.comparison import Plan, RunResult, load_comparison, read_looks, write_plan

from .test_compare import outcome

ARMS, EPOCHS, SEEDS = ("gelu", "gem(n=2)"), 40, 3
LIMIT = 600  # Seconds: a minute on two idle cores, three where each is shared by three.


def find_processes(mark: str) -> list[int]:
    """Find the processes that inherited a mark in their environment."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: gem-activations[ray]")
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes as Linux lists them")
def test_node_that_dies_loses_no_run_and_doubles_none(tmp_path: Path) -> None:
    script = Path(__file__).with_name("ray_sweep.py")
    mark = f"GEM_TEST_CLUSTER={uuid.uuid4()}"
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    # Ray's folder and the file of its current cluster are this test's own. Its sockets need a short path: 107 bytes.
    environment["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="gem-", dir="/tmp")
    environment |= dict([mark.split("=")])
    words = [sys.executable, str(script), str(tmp_path / "ray"), str(EPOCHS), *ARMS]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        output, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, errors
        for _ in range(100):
            if not find_processes(mark):
                break
            time.sleep(0.1)
        assert find_processes(mark) == [], "a cluster that was shut down leaves no process behind"
    finally:
        for left in find_processes(mark):
            os.kill(left, 9)
        shutil.rmtree(environment["RAY_TMPDIR"], ignore_errors=True)
    seen = json.loads(output.splitlines()[-1])
    assert seen["interrupted"] == 2
    assert seen["restarted"] == 1, "the run of the node that died is taken up again, that of the other one is not"
    assert seen["written"] == [1] * len(ARMS) * SEEDS
    assert seen["local"] == 0
    swept = load_comparison(tmp_path / "ray")
    local = run_comparison(
        Request("digits", out=tmp_path / "local", activations=ARMS, seeds=SEEDS, epochs=EPOCHS), ProgressCallback()
    )
    assert not swept.missing
    assert outcome(swept) == outcome(local)


def test_seeds_are_added_until_decided_on_a_cluster_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Job] = []

    def run_here(job: Job, pending: dict[tuple[str, int], RunResult | None], callback: ProgressCallback) -> None:
        jobs.append(pickle.loads(pickle.dumps(job)))
        for run, stale in pending.items():
            result = engine_ray._attempt(jobs[-1], *run, stale)
            assert result is not None
            callback.ended(result)

    monkeypatch.setattr(engine_ray, "run_on_ray", run_here)
    found = run_comparison(
        Request(
            "digits", scale="smoke", activations=("relu", "gelu"), epochs=1, out=tmp_path / "out",
            engine="ray", until_decided=True, max_seeds=4,
        ),
        ProgressCallback(),
    )  # fmt: skip
    assert [len(plan.seeds) for _, plan in jobs][: len(found.looks)] == [look.seeds for look in found.looks]
    assert found.looks == read_looks(tmp_path / "out")
    assert not found.missing


class FakeError(Exception):
    """In the place of Ray's errors."""


class TaskError(FakeError):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class FakeRay:
    """Answers each task at once with what it was given: a result, None, or an error to raise."""

    exceptions = SimpleNamespace(RayTaskError=TaskError, RayError=FakeError)

    def __init__(self, machines: list[dict[str, float]] | None = None) -> None:
        self.machines = machines or []

    def wait(self, tasks: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task: Any) -> Any:
        answer = ANSWERS[task]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": machine} for machine in self.machines]


FINISHED = RunResult("gelu", 0, "finished", "", 2, 3.5, {"test_accuracy": 0.9})
ANSWERS: dict[str, Any] = {
    "done": FINISHED,
    "busy": None,
    "dead": FakeError("NodeDiedError"),
    "wrong": TaskError(StoreError("not shared")),
    "defect": TaskError(RuntimeError("shapes do not fit")),
}


class Counting(ProgressCallback):
    def __init__(self) -> None:
        self.results: list[RunResult] = []

    def ended(self, result: RunResult) -> None:
        self.results.append(result)


def collect(*names: str) -> tuple[list[tuple[str, int]], list[RunResult]]:
    observer = Counting()
    tasks: dict[Any, tuple[str, int]] = {name: (name, index) for index, name in enumerate(names)}
    return engine_ray._collect(FakeRay(), tasks, observer), observer.results


def test_busy_runs_come_back_and_done_ones_are_told() -> None:
    assert collect("busy", "done") == ([("busy", 0)], [FINISHED])


def test_run_whose_machines_keep_dying_is_named_after_the_others_are_done() -> None:
    observer = Counting()
    with pytest.raises(StoreError, match=r"dead, seed 3 .*run the same command again"):
        engine_ray._collect(FakeRay(), {"dead": ("dead", 3), "done": ("done", 0)}, observer)
    assert observer.results == [FINISHED]


def test_error_of_a_user_comes_through_and_a_defect_is_none() -> None:
    observer = Counting()
    with pytest.raises(StoreError, match="not shared"):
        engine_ray._collect(FakeRay(), {"wrong": ("wrong", 0), "done": ("done", 1)}, observer)
    assert observer.results == [FINISHED], "the runs of other machines go on"
    with pytest.raises(TaskError) as caught:
        collect("defect")
    assert not isinstance(caught.value, GemError)


class Cluster(FakeRay):
    """Takes tasks with what each of them needs, and answers each with a result."""

    def __init__(self) -> None:
        super().__init__([{"CPU": 8.0, "GPU": 2.0}])
        self.needs: list[dict[str, Any]] = []

    def remote(self, _: Any) -> Any:
        def options(**needs: Any) -> Any:
            self.needs.append(needs)
            return SimpleNamespace(remote=lambda _job, *_run: "done")

        return SimpleNamespace(options=options)


@pytest.mark.parametrize(
    ("device", "replicas", "gpus"), [("cpu", 1, 0), ("cuda", 1, 1.0), ("cuda", 4, 0.25)], ids=["cpu", "gpu", "shared"]
)
def test_a_run_takes_its_threads_and_its_share_of_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, replicas: int, gpus: float
) -> None:
    cluster = Cluster()
    monkeypatch.setattr(engine_ray, "_connected", lambda _: contextlib.nullcontext(cluster))
    request = Request("digits", out=tmp_path, engine="ray", device=device, replicas=replicas)
    plan = Plan(make_recipe("digits").pipeline(), "gelu", device, 3, {}, ("gelu",), (0,))
    observer = Counting()
    engine_ray.run_on_ray((request, plan), {("gelu", 0): None}, observer)
    assert [(need["num_cpus"], need["num_gpus"]) for need in cluster.needs] == [(3.0, gpus)]
    assert observer.results == [FINISHED]


@pytest.mark.parametrize(
    ("needs", "fits"),
    [({"CPU": 2.0}, True), ({"CPU": 5.0}, False), ({"CPU": 1.0, "GPU": 0.5}, True), ({"CPU": 4.0, "GPU": 1.0}, False)],
)
def test_cluster_without_a_machine_that_fits_is_refused(needs: dict[str, float], fits: bool) -> None:
    ray = FakeRay([{"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}])
    if fits:
        engine_ray._check_machines(ray, needs)
    else:
        with pytest.raises(SettingError, match="no machine of the Ray cluster has the"):
            engine_ray._check_machines(ray, needs)


def test_machine_that_sees_other_folders_or_data_says_so(tmp_path: Path) -> None:
    request = Request("digits", out=tmp_path, engine="ray", device="cpu")
    plan = Plan(make_recipe("digits").pipeline(), "gelu", "cpu", 1, {"train": "of another machine"}, ("gelu",), (0,))
    job = request, plan
    with pytest.raises(StoreError, match="does not see the comparison"):
        engine_ray._prepare(job)
    write_plan(tmp_path, plan)
    with pytest.raises(DataError, match="has other data"):
        engine_ray._prepare(job)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replicas": 2}, "belong to --engine ray"),
        ({"ray_address": "auto"}, "belong to --engine ray"),
        ({"engine": "ray", "replicas": 0}, "--replicas 0"),
        ({"engine": "ray", "device": "cuda:1"}, "Ray chooses among a machine's GPUs"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        run_comparison(Request("digits", out=tmp_path / "out", **changes), ProgressCallback())
    assert not (tmp_path / "out").exists()


def test_ray_under_torchrun_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "host")
    with pytest.raises(SettingError, match="leave torchrun away"):
        run_comparison(Request("digits", out=tmp_path / "out", engine="ray"), ProgressCallback())


def test_missing_ray_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"ray.*pip install .*gem-activations\[ray\]"):
        run_comparison(
            Request("digits", out=tmp_path / "out", activations=("gelu",), seeds=1, epochs=1, engine="ray"),
            ProgressCallback(),
        )

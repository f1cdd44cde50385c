import errno
import fcntl
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gem_activations import files
from gem_activations.errors import DataError, ExperimentError, StoreError
from gem_activations.lab.recipes.arms import Arm
from gem_activations.lab.runs import engine
from gem_activations.lab.runs.engine import ProgressCallback, run_comparison
from gem_activations.lab.runs.experiment import Experiment
from gem_activations.lab.runs.request import Request
from gem_activations.lab.store.comparison import Comparison, EpochRow, RunResult, load_comparison, run_folder
from gem_activations.lab.training import run as training_run
from gem_activations.lab.training.tasks import ImageTask

from ..forked import Forked

ARMS = ("relu", "rrelu", "gem(n=2)")
EPOCHS = 3
TIMINGS = ("seconds", "step_seconds", "step_time_ratio", "peak_memory")


class Silent(ProgressCallback):
    """An observer that only counts."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, int]] = []
        self.results: list[RunResult] = []
        self.before = -1
        self.waits = 0

    def started(self, experiment: Experiment, folder: Path, device: str, runs: int, done: int) -> None:
        assert runs == len(experiment.arms) * len(experiment.seeds)
        assert folder.is_dir()
        assert device in ("cpu", "cuda")
        self.before = done

    def epoch(self, activation: str, seed: int, metrics: list[EpochRow], epochs: int) -> None:
        assert len(metrics) <= epochs
        if not metrics:
            self.ran.append((activation, seed))

    def ended(self, result: RunResult) -> None:
        self.results.append(result)

    def waiting(self, runs: int) -> None:
        assert runs > 0
        self.waits += 1


def request(folder: Path, **changes: Any) -> Request:
    return Request("digits", out=folder, **{"activations": ARMS, "seeds": 1, "epochs": EPOCHS, **changes})


def outcome(comparison: Comparison) -> dict[tuple[str, int], Any]:
    """Everything a comparison found but the timings, exactly."""
    found = {}
    for result in comparison.results:
        key = (result.activation, result.seed)
        row = {name: value for name, value in result.row().items() if name not in TIMINGS}
        found[key] = row, tuple({**epoch, "seconds": 0.0} for epoch in comparison.curves[key])
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The comparison, never interrupted."""
    return run_comparison(request(tmp_path_factory.mktemp("whole")), Silent())


def test_every_run_has_its_files_and_its_result(whole: Comparison) -> None:
    assert not whole.missing
    assert [(result.activation, result.status) for result in whole.results] == [(arm, "finished") for arm in ARMS]
    for result in whole.results:
        files = {path.name for path in run_folder(whole.folder, result.activation, 0).iterdir()}
        assert {"config.json", "env.json", "metrics.jsonl", "result.json"} <= files
        assert not any(name.startswith("checkpoint") for name in files), "a finished run keeps none unless asked"
        assert not any(name.endswith(".tmp") for name in files)
        assert result.figures["test_accuracy"] is not None
        assert result.figures["test_accuracy"] > 0.8
        assert result.figures["step_time_ratio"] is not None
        assert result.figures["step_time_ratio"] > 0
    assert whole.environment["threads"] == 1
    assert whole.environment["packages"]["torch"] == torch.__version__


def test_finished_runs_are_not_repeated_and_more_can_be_asked_for(tmp_path: Path, whole: Comparison) -> None:
    first = run_comparison(request(tmp_path, activations=("rrelu",)), Silent())
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("result.json")}
    observer = Silent()
    again = run_comparison(request(tmp_path, activations=("relu", "rrelu", "gem(n=2)")), observer)
    assert observer.before == 1
    assert observer.ran == [("relu", 0), ("gem(n=2)", 0)]
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert outcome(again) == outcome(whole)
    assert outcome(first)["rrelu", 0] == outcome(whole)["rrelu", 0]
    more = Silent()
    run_comparison(request(tmp_path, activations=("relu",), seeds=2), more)
    assert more.ran == [("relu", 1)]
    assert load_comparison(tmp_path).missing == (("rrelu", 1), ("gem(n=2)", 1))


def test_interruption_at_any_write_changes_no_number(
    tmp_path: Path, whole: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is what a killed process leaves behind, and it changes only when a file is replaced."""
    replace: Callable[..., Path] = Path.replace
    writes = 0

    def interrupted(path: Path, target: Path) -> Path:
        nonlocal writes
        writes += 1
        if writes == stop:
            raise KeyboardInterrupt
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    expected = outcome(whole)
    arms, stop = ("rrelu", "relu"), 1
    while True:
        folder, writes = tmp_path / str(stop), 0
        try:
            done = run_comparison(request(folder, activations=arms), Silent())
        except KeyboardInterrupt:
            done = run_comparison(request(folder, activations=arms), Silent())
            assert outcome(done) == {key: expected[key] for key in outcome(done)}
            assert not done.missing
            stop += 1
        else:
            break
    # The plan; and for each run two descriptions, a checkpoint an epoch, the checkpoint before set aside from the
    # second epoch on, a look inside and a result. Metrics are appended: see the next test.
    assert stop - 1 == 1 + 2 * (2 + EPOCHS + (EPOCHS - 1) + 2)


def test_line_of_metrics_that_was_broken_off_or_has_no_checkpoint_is_dropped(
    tmp_path: Path, whole: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = training_run.append_metrics
    for kept in (1.0, 0.5):  # Of the line of the second epoch, after which the process is killed.
        folder = tmp_path / str(kept)

        def append(path: Path, row: EpochRow, *, sync: bool, kept: float = kept) -> None:
            real(path, row, sync=sync)
            if row["epoch"] == 2:
                line = path.read_bytes().splitlines(keepends=True)[-1]
                content = path.read_bytes()
                path.write_bytes(content[: len(content) - int((1 - kept) * len(line))])
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(training_run, "append_metrics", append)
            with pytest.raises(KeyboardInterrupt):
                run_comparison(request(folder, activations=("rrelu",)), Silent())
        done = run_comparison(request(folder, activations=("rrelu",)), Silent())
        assert outcome(done)["rrelu", 0] == outcome(whole)["rrelu", 0]


def start(folder: Path, *more: str) -> Forked:
    words = ["compare", "digits", "--activations", *ARMS, "--seeds", "1", "--epochs", str(EPOCHS), "--out", str(folder)]
    return Forked("import sys; from gem_activations.cli import main; sys.exit(main())", *words, *more)


def wait_for(what: Callable[[], bool], process: Forked) -> None:
    while not what() and process.poll() is None:
        time.sleep(0.002)


def lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_killed_process_loses_at_most_an_epoch_and_no_number(tmp_path: Path, whole: Comparison) -> None:
    first, second = run_folder(tmp_path, ARMS[0], 0), run_folder(tmp_path, ARMS[1], 0)
    moments: list[Callable[[], bool]] = [
        lambda: lines(first / "metrics.jsonl") >= 1,
        lambda: (first / "result.json").exists(),
        lambda: lines(second / "metrics.jsonl") >= 2,
    ]
    for moment in moments:
        process = start(tmp_path)
        wait_for(moment, process)
        kept = {path: lines(path) for path in tmp_path.rglob("metrics.jsonl")}
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert all(lines(path) >= count for path, count in kept.items())
    last = start(tmp_path)
    _, errors = last.communicate()
    assert last.returncode == 0, errors
    assert outcome(load_comparison(tmp_path)) == outcome(whole)


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(tmp_path, "--epochs", "3000")
    wait_for(lambda: lines(run_folder(tmp_path, ARMS[0], 0) / "metrics.jsonl") >= 2, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("gem-act: interrupted; run the same command again to go on in ")
    assert "Traceback" not in errors


def test_processes_that_want_the_same_and_more_share_the_runs(tmp_path: Path, whole: Comparison) -> None:
    processes = [start(tmp_path) for _ in range(2)]
    run_comparison(request(tmp_path, activations=("gelu", "relu"), seeds=2), Silent())
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    done = load_comparison(tmp_path)
    assert {run: found for run, found in outcome(done).items() if run in outcome(whole)} == outcome(whole)
    assert outcome(done).keys() - outcome(whole).keys() == {("gelu", 0), ("gelu", 1), ("relu", 1)}
    assert done.missing == (("rrelu", 1), ("gem(n=2)", 1)), "planned by all together, wanted by none"
    assert (tmp_path / "report.html").stat().st_size > 10_000
    for output, _ in outputs:
        assert all(arm in output for arm in ARMS)


def test_run_of_another_process_is_left_alone_and_waited_for(
    tmp_path: Path, whole: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_POLL_SECONDS", 0.01)
    taken = run_folder(tmp_path, ARMS[0], 0)
    taken.mkdir(parents=True)
    # A process that joins a comparison finds its plan there.
    (tmp_path / "comparison.json").write_bytes((whole.folder / "comparison.json").read_bytes())
    lock = (taken / ".lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # What FileLock takes; the system lends it to a file handle, not to a process.

    class Releasing(Silent):
        def waiting(self, runs: int) -> None:
            super().waiting(runs)
            assert {result.activation for result in self.results} == set(ARMS[1:])
            if self.waits == 3:
                lock.close()

    observer = Releasing()
    assert outcome(run_comparison(request(tmp_path), observer)) == outcome(whole)
    assert observer.waits == 3
    assert observer.ran == [(ARMS[1], 0), (ARMS[2], 0), (ARMS[0], 0)]


class Poison(nn.Module):
    """An activation that fails in training, in the way it is told."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        if self.error and self.training:
            raise self.error
        return x * torch.nan


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "the training loss is not finite at step 1 of epoch 1"),
        (MemoryError(), "out of memory: no detail given"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: CUDA out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), "out of memory: DefaultCPUAllocator"),
        (RuntimeError("CUDA error: out of memory\nSearch for"), "out of memory: CUDA error: out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out of memory: CUDA error: CUBLAS"),
    ],
    ids=["nan", "memory", "cuda", "cpu", "cuda runtime", "cublas"],
)
def test_failed_run_is_kept_with_its_reason_and_the_others_go_on(
    tmp_path: Path, whole: Comparison, monkeypatch: pytest.MonkeyPatch, error: Exception | None, reason: str
) -> None:
    real = Arm.__call__
    monkeypatch.setattr(Arm, "__call__", lambda arm: Poison(error) if str(arm) == "rrelu" else real(arm))
    comparison = run_comparison(request(tmp_path), Silent())
    failed = comparison.results[1]
    status = "failed" if error is None else "infrastructure"
    assert (failed.activation, failed.status, failed.epochs, failed.figures) == ("rrelu", status, 0, {})
    assert failed.reason.startswith(reason)
    assert comparison.curves["rrelu", 0] == ()
    others = {key: value for key, value in outcome(whole).items() if key[0] != "rrelu"}
    assert {key: value for key, value in outcome(comparison).items() if key[0] != "rrelu"} == others
    observer = Silent()
    run_comparison(request(tmp_path), observer)
    assert observer.ran == ([] if error is None else [("rrelu", 0)]), "a run that found too little memory is run again"
    observer = Silent()
    run_comparison(request(tmp_path, retry_failed=True), observer)
    assert observer.ran == [("rrelu", 0)]


def test_disk_that_is_full_for_a_while_costs_one_run(
    tmp_path: Path, whole: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., None] = files.write_atomically

    def full(path: Path, content: bytes, **how: bool) -> None:
        if "rrelu" in str(path) and path.name == "checkpoint.pt":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, content, **how)

    monkeypatch.setattr(files, "write_atomically", full)
    comparison = run_comparison(request(tmp_path), Silent())
    failed = comparison.results[1]
    assert (failed.activation, failed.status, failed.epochs) == ("rrelu", "infrastructure", 1)
    assert "checkpoint.pt: No space left on device" in failed.reason
    assert len(comparison.curves["rrelu", 0]) == 1
    others = {key: value for key, value in outcome(whole).items() if key[0] != "rrelu"}
    assert {key: value for key, value in outcome(comparison).items() if key[0] != "rrelu"} == others


def test_disk_that_is_full_for_a_run_s_every_file_leaves_the_run_missing(
    tmp_path: Path, whole: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., None] = files.write_atomically

    def full(path: Path, content: bytes, **how: bool) -> None:
        if "rrelu" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, content, **how)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomically", full)
        with pytest.raises(StoreError, match="No space left"):
            run_comparison(request(tmp_path), Silent())
    assert ("rrelu", 0) in load_comparison(tmp_path).missing
    assert outcome(run_comparison(request(tmp_path), Silent())) == outcome(whole)


def test_data_that_vanish_cost_the_run_that_needed_them(
    tmp_path: Path, whole: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ImageTask.evaluation_batches
    calls = 0

    def vanishing(task: ImageTask, split: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:  # After the second epoch of the first run.
            raise DataError("tokens.bin is missing")
        return real(task, split)

    monkeypatch.setattr(ImageTask, "evaluation_batches", vanishing)
    comparison = run_comparison(request(tmp_path), Silent())
    assert [result.status for result in comparison.results] == ["infrastructure", "finished", "finished"]
    assert comparison.results[0].reason == "tokens.bin is missing; the same command tries again"
    assert outcome(comparison)["rrelu", 0] == outcome(whole)["rrelu", 0]
    assert outcome(run_comparison(request(tmp_path), Silent())) == outcome(whole)


def test_error_that_every_activation_raises_stops_at_once_and_leaves_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = ("relu", "rrelu", "gelu")  # Without a member of the family, whose scale would be looked for.
    with monkeypatch.context() as patch:
        patch.setattr(Arm, "__call__", lambda _: Poison(RuntimeError("mat1 and mat2 do not fit")))
        with pytest.raises(ExperimentError, match=r"RuntimeError: mat1 .* fit \(traceback in .*\.txt"):
            run_comparison(request(tmp_path, activations=arms, seeds=5), Silent())
    assert len(load_comparison(tmp_path).missing) == 15
    assert len(list(tmp_path.rglob("traceback.txt"))) == 3
    observer = Silent()
    run_comparison(request(tmp_path, activations=arms), observer)
    assert len(observer.ran) == 3
    assert not list(tmp_path.rglob("traceback.txt"))


def test_error_of_one_activation_fails_its_runs_with_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, error = Arm.__call__, RuntimeError("mat1 and mat2 do not fit")
    monkeypatch.setattr(Arm, "__call__", lambda arm: Poison(error) if str(arm) == "rrelu" else real(arm))
    comparison = run_comparison(request(tmp_path), Silent())
    assert [result.status for result in comparison.results] == ["finished", "failed", "finished"]
    assert comparison.results[1].reason == "RuntimeError: mat1 and mat2 do not fit"
    assert "in forward" in (run_folder(tmp_path, "rrelu", 0) / "traceback.txt").read_text()


def test_damaged_result_is_an_error_before_anything_runs(tmp_path: Path) -> None:
    run_comparison(request(tmp_path, activations=("relu",)), Silent())
    result = run_folder(tmp_path, "relu", 0) / "result.json"
    result.write_text(json.dumps({"activation": "relu"}))
    observer = Silent()
    with pytest.raises(StoreError, match=r"result\.json is damaged"):
        run_comparison(request(tmp_path), observer)
    assert observer.ran == []


@pytest.fixture(autouse=True)
def global_state() -> Iterator[None]:
    """A comparison leaves torch's global settings and random state as it found them."""
    torch.manual_seed(123)
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state().tolist()
    yield
    after = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state().tolist()
    assert after == before

"""One run trained by two processes that torchrun starts: the numbers of one process, whatever is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from gem_activations.errors import SettingError, StoreError
from gem_activations.lab import Run, compare
from gem_activations.lab.recipes.pipeline import Training
from gem_activations.lab.runs import engine
from gem_activations.lab.runs.engine import ProgressCallback, run_comparison
from gem_activations.lab.runs.request import Request
from gem_activations.lab.store.comparison import Comparison, load_comparison, run_folder
from gem_activations.lab.training import group as distributed
from gem_activations.lab.training.group import Group
from gem_activations.lab.training.step import Stepper
from gem_activations.lab.training.tasks import Batch

from ..tolerances import SAME_MATHEMATICS, TWO_PROCESSES
from . import odd_batches

ARM = "gem(n=2)"
EPOCHS = 3


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    words = words or ("--activations", ARM, "--seeds", "1", "--epochs", str(EPOCHS))
    words = ("compare", "digits", *words, "--out", str(folder))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*torchrun, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", odd_batches.__file__, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def outcome(comparison: Comparison) -> list[object]:
    """Everything that was found but the timings, exactly."""
    curves = comparison.curves[ARM, 0]
    names = ("test_loss", "test_accuracy", "best_epoch", "parameters")
    results = [[run.figures[name] for name in names] for run in comparison.results]
    return [results, [{**epoch, "seconds": 0.0} for epoch in curves]]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of two processes that nobody disturbed."""
    folder = tmp_path_factory.mktemp("together")
    process = start(folder)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert output.count("test accuracy, %") == 1, "only the first process reports"
    return folder


def test_two_processes_give_the_losses_of_one(together: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd_batches.install(monkeypatch.setitem)
    alone = run_comparison(
        Request("digits", out=tmp_path, activations=(ARM,), seeds=1, epochs=EPOCHS), ProgressCallback()
    )
    found = load_comparison(together)
    for epoch, expected in zip(found.curves[ARM, 0], alone.curves[ARM, 0], strict=True):
        assert epoch["train_loss"] == pytest.approx(expected["train_loss"], rel=TWO_PROCESSES)
        assert epoch["validation_loss"] == pytest.approx(expected["validation_loss"], rel=TWO_PROCESSES)
        assert epoch["train_accuracy"] == pytest.approx(expected["train_accuracy"], abs=2 / 1200)
    config = json.loads((run_folder(together, ARM, 0) / "config.json").read_text())
    assert config["processes"] == 2


def test_killed_process_ends_all_and_the_same_command_goes_on(together: Path, tmp_path: Path) -> None:
    process = start(tmp_path)
    checkpoint = run_folder(tmp_path, ARM, 0) / "checkpoint.pt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.002)
    os.kill(int((tmp_path / "process-1").read_text()), signal.SIGKILL)
    process.communicate(timeout=600)
    assert process.returncode != 0
    assert not (run_folder(tmp_path, ARM, 0) / "result.json").exists()
    again = start(tmp_path)
    _, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors
    assert outcome(load_comparison(tmp_path)) == outcome(load_comparison(together))


def test_two_processes_add_seeds_until_the_activations_are_decided(tmp_path: Path) -> None:
    words = ("--activations", "gelu", ARM, "--epochs", "1", "--until-decided", "--max-seeds", "4")
    process = start(tmp_path, *words)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "Look at 3 seeds" in output
    assert not load_comparison(tmp_path).missing


def test_a_function_of_the_user_is_refused_by_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(run: Run) -> dict[str, float]:  # noqa: ARG001
        return {"loss": 1.0}

    for rank in range(2):
        group = contextlib.nullcontext(Group(rank, 2))
        monkeypatch.setattr(engine, "init_processes", lambda _, group=group: group)
        with pytest.raises(SettingError, match="runs in one process; start it without torchrun"):
            compare(train, activations=["relu"], metric="loss", better="lower", out=tmp_path)


class Points:
    """A task with as little in it as the stepper asks for."""

    device = torch.device("cpu")

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(count)
        self.x = torch.randn(count, 6, generator=generator, dtype=torch.float64)
        self.y = torch.randint(0, 4, (count,), generator=generator)

    def train_batch(self, indices: torch.Tensor, _: torch.Generator) -> Batch:
        return Batch(self.x[indices], self.y[indices])


@pytest.mark.parametrize("micro_batch", [None, 1, 2, 50])
@pytest.mark.parametrize(("count", "size"), [(1, 2), (2, 3), (7, 2), (8, 2), (9, 4)])
def test_mean_of_the_shares_gradients_is_the_gradient_of_the_batch(
    count: int, size: int, micro_batch: int | None
) -> None:
    training = Training(1, count, 0.1, optimizer="sgd", momentum=0.0, weight_decay=0.0, micro_batch=micro_batch)

    def step(group: Group) -> tuple[list[torch.Tensor], float, list[int], int]:
        torch.manual_seed(0)
        model = nn.Linear(6, 4).double()
        calls: list[int] = []
        model.register_forward_hook(lambda _module, inputs, _output: calls.append(len(inputs[0])))
        stepper = Stepper(model, Points(count), training, torch.Generator(), group)  # pyright: ignore[reportArgumentType] -- the two attributes that it uses
        record = stepper.train([0.0], [torch.arange(count)])
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        return gradients, float(record.losses[0]), calls, int(record.counts()[1])

    whole, loss, _, targets = step(Group())
    parts = [step(Group(rank, size)) for rank in range(size)]
    for index, expected in enumerate(whole):
        mean = torch.stack([gradients[index] for gradients, *_ in parts]).mean(0)
        torch.testing.assert_close(mean, expected, **SAME_MATHEMATICS)
    assert sum(part for _, part, _, _ in parts) == pytest.approx(loss)
    assert sum(counted for *_, counted in parts) == targets == count
    assert len({len(calls) for _, _, calls, _ in parts}) == 1, "all processes make the same number of passes"


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[Group]:
    """A group of one process, as far as gloo can tell."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield Group(control=torch.distributed.group.WORLD)
    torch.distributed.destroy_process_group()


def test_batch_norm_on_cpus_is_refused(joined: Group) -> None:
    with pytest.raises(SettingError, match="BatchNorm"):
        joined.wrap(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))


def test_processes_that_differ_are_told_so(joined: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    joined.agree(3, "the epochs")
    monkeypatch.setattr(Group, "total", lambda _self, _values: torch.tensor([3, 2]))
    with pytest.raises(StoreError, match=r"differ in the epochs \(\[3, 2\]\)"):
        joined.agree(3, "the epochs")


def test_every_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert distributed.is_rank_zero()
    assert distributed.local_device("cuda:1") == "cuda:1"
    for name, value in {"WORLD_SIZE": "4", "MASTER_ADDR": "host", "RANK": "3", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert not distributed.is_rank_zero()
    assert distributed.local_device("cpu") == "cpu"
    assert distributed.local_device("cuda") == "cuda:1"
    with pytest.raises(SettingError, match="a GPU of its own"):
        distributed.local_device("cuda:0")

import dataclasses
import errno
import io
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gem_activations.errors import StoreError
from gem_activations.lab.data.images import Dataset, Split
from gem_activations.lab.models import Model
from gem_activations.lab.recipes.arms import Arm
from gem_activations.lab.recipes.pipeline import Cnn, Recipe, Training
from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.store.comparison import EpochRow
from gem_activations.lab.training import trainer as training
from gem_activations.lab.training.evaluation import Score
from gem_activations.lab.training.run import CHECKPOINT, NotFiniteError, load_checkpoint, save_checkpoint, state_paths
from gem_activations.lab.training.step import derive_seed, epoch_order
from gem_activations.lab.training.tasks import Batch, ImageTask
from gem_activations.lab.training.trainer import Trainer, measure_step_ratio

from .running import train

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def split(examples: int, seed: int) -> Split:
    noise = torch.Generator().manual_seed(seed)
    y = torch.arange(examples) % 4
    x = torch.randn(examples, 1, 6, 6, generator=noise) + y[:, None, None, None] * 0.5
    return Split(x, y)


@pytest.fixture
def dataset() -> Dataset:
    return Dataset(split(70, 1), split(24, 2), split(20, 3), 4, {})


def recipe(model: Model | None = None, **changes: Any) -> Recipe:
    digits = make_recipe("digits")
    settings = Training(**{"epochs": 4, "batch_size": 16, "learning_rate": 0.02, **changes})
    return dataclasses.replace(digits, model=model or digits.model, training=settings)


def start(dataset: Dataset, activation: str, seed: int, **choices: Any) -> Trainer:
    settings = recipe(**choices)
    return Trainer(settings, activation, seed, ImageTask(settings, dataset))


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    """The figures without the timings."""
    timings = ("step_seconds", "step_time_ratio", "peak_memory")
    return {key: value for key, value in result.items() if key not in timings}


def curve(run: Trainer) -> list[dict[str, float]]:
    return [{**epoch, "seconds": 0.0} for epoch in run.metrics]


class StopError(Exception):
    """Ends a run from outside."""


@pytest.mark.parametrize("model", [None, Cnn((3, 4))], ids=["mlp", "cnn"])
@pytest.mark.parametrize("stop", [0, 1, 2, 3, 4])
def test_resumed_run_equals_one_never_stopped(tmp_path: Path, dataset: Dataset, model: Model | None, stop: int) -> None:
    # RReLU draws random slopes in training, so the random state must come back too.
    whole = start(dataset, "rrelu", 5, model=model)
    expected = train(whole, tmp_path / "whole")

    def stop_after(metrics: list[EpochRow]) -> None:
        if len(metrics) == stop:
            raise StopError

    with pytest.raises(StopError):
        train(start(dataset, "rrelu", 5, model=model), tmp_path / "parts", stop_after)
    torch.manual_seed(99)
    resumed = start(dataset, "rrelu", 5, model=model)
    result = train(resumed, tmp_path / "parts")
    assert numbers(result) == numbers(expected)
    assert curve(resumed) == curve(whole)
    assert all(torch.equal(whole.best[key], resumed.best[key]) for key in whole.best)


def damage_flip(content: bytes) -> bytes:
    place = content.index(b"PK", 2000) - 500  # Inside the numbers of a tensor, where torch.load notices nothing.
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def damage_directory(content: bytes) -> bytes:
    """Mark a tensor's entry as a folder: zip's own checks pass, and torch reads nothing into the tensor."""
    place = content.rindex(b"PK\x01\x02", 0, content.rindex(b"/data/0")) + 38
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-100],
        lambda content: content[: len(content) // 2],
        lambda _: b"",
        damage_flip,
        damage_directory,
    ],
    ids=["tail cut", "half", "empty", "flipped bit", "entry marked as folder"],
)
def test_damaged_checkpoint_costs_progress_but_no_correctness(
    tmp_path: Path, dataset: Dataset, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / CHECKPOINT
    expected = train(start(dataset, "gem", 0), tmp_path)
    assert load_checkpoint(path, CPU) is not None
    assert not caplog.records
    # The newest of four; then the one before; then the first, which the disk was waited for.
    for damaged, first in zip(state_paths(path), (3, 1, 0), strict=True):
        damaged.write_bytes(damage(damaged.read_bytes()))
        kept = {file: file.read_bytes() for file in state_paths(path)}
        caplog.clear()
        starts: list[int] = []
        result = train(start(dataset, "gem", 0), tmp_path, lambda metrics, starts=starts: starts.append(len(metrics)))
        assert starts == list(range(first, 5))
        assert numbers(result) == numbers(expected)
        assert [str(path) in record.getMessage() for record in caplog.records][:1] == [True]
        for file, content in kept.items():
            file.write_bytes(content)


def test_checkpoint_of_another_run_is_not_continued(tmp_path: Path, dataset: Dataset) -> None:
    def first_epochs(seed: int) -> int:
        starts: list[int] = []
        train(start(dataset, "gem", seed), tmp_path, lambda rows: starts.append(len(rows)), identity={"seed": seed})
        return starts[0]

    assert first_epochs(0) == 0
    assert first_epochs(0) == 4
    state = load_checkpoint(tmp_path / CHECKPOINT, CPU)
    assert state is not None
    assert (state["format"], state["epochs"], state["states"]["trainer"]["steps"]) == (4, 4, 20)
    assert first_epochs(1) == 0
    save_checkpoint(tmp_path / CHECKPOINT, {**state, "format": 0})
    assert first_epochs(0) == 0


def test_last_two_states_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "checkpoint.pt"
    for number in range(4):
        save_checkpoint(path, {"number": number})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint-before.pt", "checkpoint.pt"]
    assert load_checkpoint(path, CPU) == {"number": 3}
    path.unlink()  # As a process leaves it that is killed between the rename and the write.
    assert load_checkpoint(path, CPU) == {"number": 2}
    assert not caplog.records


@pytest.mark.parametrize("failing", ["open", "replace"])
def test_state_is_left_by_a_save_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "checkpoint.pt"
    for number in range(3):
        save_checkpoint(path, {"number": number})
    real: Callable[..., Any] = getattr(Path, failing)

    def fail(self: Path, *arguments: Any) -> Any:
        if self.suffix == ".tmp":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Path, failing, fail)
        with pytest.raises(StoreError, match=r"checkpoint\.pt"):
            save_checkpoint(path, {"number": 3})
    assert load_checkpoint(path, CPU) == {"number": 2}
    save_checkpoint(path, {"number": 4})
    assert load_checkpoint(path, CPU) == {"number": 4}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint-before.pt", "checkpoint.pt"]


def test_state_that_the_disk_has_is_kept_until_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    _, before, synced = state_paths(path)
    for number in range(6):
        save_checkpoint(path, {"number": number}, sync=number in (1, 5), keep=number == 2)
        assert before.exists() == (number in (1, 3, 4, 5))
        if number > 1:
            assert load_checkpoint(synced, CPU) == {"number": 1}
    for number, file in zip((5, 4, 1), state_paths(path), strict=True):  # As a power cut may take them.
        assert load_checkpoint(path, CPU) == {"number": number}
        file.unlink()


def test_damaged_state_never_takes_the_place_of_the_intact_one_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    for number in range(2):
        save_checkpoint(path, {"number": number})
    path.write_bytes(path.read_bytes()[:-1])
    assert load_checkpoint(path, CPU) == {"number": 0}
    save_checkpoint(path, {"number": 10})
    assert load_checkpoint(state_paths(path)[1], CPU) == {"number": 0}
    assert {file.name for file in tmp_path.iterdir()} == {
        "checkpoint.pt",
        "checkpoint-before.pt",
        "checkpoint-damaged.pt",
    }


def test_state_that_cannot_be_read_is_told_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(state_paths(path)[1], {"number": 0})
    path.mkdir()
    assert load_checkpoint(path, CPU) == {"number": 0}
    assert "checkpoint.pt cannot be read (Is a directory)" in caplog.text
    assert path.is_dir()


def test_checkpoint_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"identity": Path("x")}, path)
    assert load_checkpoint(path, CPU) is None
    buffer = io.BytesIO()
    torch.save({"identity": Path("x")}, buffer)
    content = buffer.getvalue()
    path.write_bytes(zlib.crc32(content).to_bytes(4, "big") + content)  # As one who means harm does.
    assert load_checkpoint(path, CPU) is None
    save_checkpoint(path, {"identity": {"a": [1, 2.5, None, "b"]}, "x": torch.arange(3)})
    state = load_checkpoint(path, CPU)
    assert state is not None
    assert state["identity"] == {"a": [1, 2.5, None, "b"]}
    assert load_checkpoint(tmp_path / "none.pt", CPU) is None


def test_data_order_is_a_permutation_that_only_seed_and_epoch_change() -> None:
    orders = {(seed, epoch): tuple(epoch_order(seed, epoch, 50).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(set(orders.values())) == 9
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    torch.manual_seed(1)
    assert tuple(epoch_order(2, 1, 50).tolist()) == orders[2, 1]
    assert len({derive_seed(seed, stream) for seed in range(20) for stream in range(3)}) == 60


def test_arms_of_one_seed_see_the_same_batches(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ImageTask.train_batch
    monkeypatch.setattr(training, "measure_step_ratio", lambda *_: 1.0)
    seen: dict[str, list[Batch]] = {}
    for arm in ("relu", "rrelu", "gem(n=2)"):
        seen[arm] = []

        def record(task: ImageTask, *arguments: Any, arm: str = arm) -> Batch:
            batch = real(task, *arguments)
            seen[arm].append(batch)
            return batch

        monkeypatch.setattr(ImageTask, "train_batch", record)
        settings = dataclasses.replace(recipe(), augmentation="crop-flip")
        train(Trainer(settings, arm, 4, ImageTask(settings, dataset)), tmp_path / arm)
    seen["gem(n=2)"].pop(0)  # Its scale is checked before the first step.
    assert [len(batch.targets) for batch in seen["relu"]] == [16, 16, 16, 16, 6] * 4 + [16]  # The last: a look inside.
    for arm in ("rrelu", "gem(n=2)"):
        for first, second in zip(seen["relu"], seen[arm], strict=True):
            assert torch.equal(first.inputs, second.inputs)
            assert torch.equal(first.targets, second.targets)
    assert not torch.equal(seen["relu"][0].inputs.sum((1, 2, 3)), seen["relu"][5].inputs.sum((1, 2, 3)))


def test_lowest_validation_loss_chooses_and_the_test_set_is_scored_once(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.9, 0.4, 0.4, 0.7])
    weights: list[Tensor] = []
    scored: list[Tensor] = []

    def judge(model: nn.Module, batches: Iterable[Batch], *, calibration: bool) -> Score:
        current = next(model.parameters()).detach().clone()
        size = sum(len(batch.targets) for batch in batches)
        if size == len(dataset.test.y):
            assert calibration
            scored.append(current)
            return Score(0.5, 0.75, 0.1, 0.2)
        assert size == len(dataset.validation.y)
        weights.append(current)
        return Score(next(losses), 0.5)

    monkeypatch.setattr(training, "evaluate", judge)
    result = train(start(dataset, "gelu", 0), tmp_path / "checkpoint")
    assert (result["best_epoch"], result["validation_loss"]) == (2, 0.4)
    assert (result["test_loss"], result["test_accuracy"]) == (0.5, 0.75)
    assert (result["calibration_error"], result["brier"]) == (0.1, 0.2)
    assert len(scored) == 1
    assert torch.equal(scored[0], weights[1])
    assert not torch.equal(scored[0], weights[2])


def test_metrics_are_those_of_a_plain_loop(tmp_path: Path, dataset: Dataset) -> None:
    settings = recipe(epochs=1)
    run = start(dataset, "silu", 2, epochs=1)
    result = train(run, tmp_path / "checkpoint")
    model = start(dataset, "silu", 2, epochs=1).model
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=settings.training.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=6, pct_start=0.3, cycle_momentum=False)
    total, right = 0.0, 0
    for batch in epoch_order(2, 1, 70).split(16):
        x, y = dataset.train.x[batch], dataset.train.y[batch]
        loss = nn.functional.cross_entropy(logits := model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        total += loss.item() * len(batch)
        right += int((logits.argmax(1) == y).sum())
    epoch = run.metrics[0]
    assert epoch["train_loss"] == pytest.approx(total / 70, rel=1e-5)
    assert epoch["train_accuracy"] == pytest.approx(right / 70, rel=1e-6)
    logits = model(dataset.test.x)
    assert result["test_loss"] == pytest.approx(nn.functional.cross_entropy(logits, dataset.test.y).item(), rel=1e-4)
    assert result["test_accuracy"] == pytest.approx(float((logits.argmax(1) == dataset.test.y).sum()) / 20)
    assert result["parameters"] == sum(p.numel() for p in model.parameters())


def test_training_learns(tmp_path: Path, dataset: Dataset) -> None:
    run = start(dataset, "gem", 0, epochs=8)
    result = train(run, tmp_path / "checkpoint")
    assert run.metrics[-1]["train_loss"] < 0.5 * run.metrics[0]["train_loss"]
    assert result["test_accuracy"] is not None
    assert result["test_accuracy"] > 0.5


@pytest.mark.parametrize("where", ["training", "validation"])
def test_loss_that_is_not_finite_ends_the_run(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Poison(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.inf if self.training == (where == "training") else x

    monkeypatch.setattr(Arm, "__call__", lambda _: Poison())
    with pytest.raises(NotFiniteError, match=f"the {where} loss is not finite .*epoch 1"):
        train(start(dataset, "relu", 0), tmp_path / "checkpoint")
    assert not (tmp_path / CHECKPOINT).exists()


def test_step_ratio_is_the_ratio_of_the_two_and_leaves_the_random_state() -> None:
    clock = {"now": 0.0}
    calls: list[tuple[str, int]] = []

    def stepper(name: str, cost: float) -> Callable[[int], None]:
        def step(index: int) -> None:
            calls.append((name, index))
            torch.rand(3)
            clock["now"] += cost

        return step

    before = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gem_activations.lab.training.trainer.time.perf_counter", lambda: clock["now"])
        ratio = measure_step_ratio(stepper("gem", 0.06), stepper("relu", 0.04), CPU)
    assert ratio == pytest.approx(1.5)
    assert torch.equal(before, torch.get_rng_state())
    pairs = [calls[i : i + 2] for i in range(0, len(calls), 2)]
    assert len(pairs) == 3 + 15  # Warm-up, and the least number of pairs: 0.1 s each is past the budget.
    assert all({name for name, _ in pair} == {"gem", "relu"} and pair[0][1] == pair[1][1] for pair in pairs)
    assert {pair[0][0] for pair in pairs[3:]} == {"gem", "relu"}

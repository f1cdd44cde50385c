"""Every option of `Training` is obeyed, and a step is what a plain loop does."""
# ruff: noqa: ARG002 -- a task has these arguments, whether it needs them or not

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gem_activations.lab.recipes.pipeline import Training
from gem_activations.lab.training.group import Group
from gem_activations.lab.training.step import (
    Record,
    Stepper,
    cross_entropy,
    epoch_order,
    learning_rates,
    make_optimizer,
    step_batches,
)
from gem_activations.lab.training.tasks import IGNORED, Batch

TOKENS, CLASSES = 5, 7


class Words:
    """A task of token windows: (N, T) inputs, (N, T, V) logits, some targets ignored."""

    device = torch.device("cpu")
    checksums: dict[str, str] = {}  # noqa: RUF012 -- as the protocol has it

    def __init__(self, examples: int = 24) -> None:
        noise = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(CLASSES, (examples, TOKENS + 1), generator=noise)
        self.sizes = {"train": examples, "validation": 0, "test": 0}

    def to(self, device: torch.device) -> "Words":
        return self

    def replicate(self, seed: int) -> "Words":
        return self

    def make_model(self, activation: str, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        embedding, norm = nn.Embedding(CLASSES, 6), nn.LayerNorm(6)
        return nn.Sequential(embedding, norm, nn.Linear(6, 8), nn.PReLU(), nn.Linear(8, CLASSES))

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        windows = self.tokens[indices]
        hidden = torch.rand(len(indices), TOKENS, generator=generator) < 0.4
        return Batch(windows[:, :-1], windows[:, 1:].masked_fill(hidden, IGNORED))

    def evaluation_batches(self, split: str) -> list[Batch]:
        return []


def training(**changes: Any) -> Training:
    return Training(**{"epochs": 1, "batch_size": 8, "learning_rate": 0.1, "weight_decay": 0.0, **changes})


def train(settings: Training, task: Words | None = None, steps: int = 3) -> tuple[nn.Module, Record]:
    task = task or Words()
    model = task.make_model("", 3)
    stepper = Stepper(model, task, settings, torch.Generator().manual_seed(5), Group())
    batches = step_batches(0, range(steps), settings.batch_size, task.sizes["train"], whole=True)
    return model, stepper.train([settings.learning_rate] * steps, batches)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def plain(optimizer: torch.optim.Optimizer, model: nn.Module, steps: int = 3) -> list[float]:
    """A bare loop over the same batches, with its own arithmetic of the loss."""
    task, noise = Words(), torch.Generator().manual_seed(5)
    losses: list[float] = []
    for indices in step_batches(0, range(steps), 8, 24, whole=True):
        inputs, targets = task.train_batch(indices, noise)
        counted = targets != IGNORED
        log = model(inputs).log_softmax(-1)
        loss = -log[counted].gather(-1, targets[counted][:, None]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        (
            {"optimizer": "sgd", "momentum": 0.8, "weight_decay": 0.05},
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.8, weight_decay=0.05),
        ),
        (
            {"optimizer": "adam", "betas": (0.7, 0.9), "weight_decay": 0.05},
            lambda p: torch.optim.Adam(p, 0.1, (0.7, 0.9), weight_decay=0.05),
        ),
        (
            {"optimizer": "adamw", "betas": (0.7, 0.9), "weight_decay": 0.05},
            lambda p: torch.optim.AdamW(p, 0.1, (0.7, 0.9), weight_decay=0.05),
        ),
    ],
    ids=["sgd", "adam", "adamw"],
)
def test_steps_are_those_of_a_plain_loop(settings: dict[str, Any], make: Any) -> None:
    model, record = train(training(**settings))
    other = Words().make_model("", 3)
    losses = plain(make(other.parameters()), other)
    assert torch.stack(record.losses).tolist() == pytest.approx(losses, rel=1e-5)
    torch.testing.assert_close(weights(model), weights(other), rtol=1e-4, atol=1e-6)


def test_decay_of_matrices_leaves_vectors_alone() -> None:
    model = Words().make_model("", 3)
    chosen = make_optimizer(model, training(decay="matrices", weight_decay=0.3))
    decayed = {id(p) for group in chosen.param_groups if group["weight_decay"] == 0.3 for p in group["params"]}
    spared = {id(p) for group in chosen.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert decayed == {id(parameter) for parameter in model.parameters() if parameter.dim() >= 2}
    assert spared == {id(parameter) for parameter in model.parameters() if parameter.dim() < 2}
    everything = make_optimizer(model, training(decay="all", weight_decay=0.3)).param_groups
    assert [(len(group["params"]), group["weight_decay"]) for group in everything] == [(8, 0.3)]


def test_clipping_bounds_the_step_of_plain_gradient_descent() -> None:
    settings = training(optimizer="sgd", momentum=0.0, clip=0.01)
    start = weights(Words().make_model("", 3))
    model, _ = train(settings, steps=1)
    assert (weights(model) - start).norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)
    free, _ = train(dataclasses.replace(settings, clip=None), steps=1)
    assert (weights(free) - start).norm() > 2 * (weights(model) - start).norm()


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_micro_batches_give_the_whole_batch_s_step(micro: int) -> None:
    # The parts have different numbers of targets that count, so that a mean of means would be another gradient.
    model, record = train(training(micro_batch=micro, optimizer="sgd"))
    whole, expected = train(training(optimizer="sgd"))
    torch.testing.assert_close(torch.stack(record.losses), torch.stack(expected.losses), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights(model), weights(whole), rtol=1e-4, atol=1e-6)
    assert record.counts().tolist() == expected.counts().tolist()


def test_bfloat16_runs_the_layers_in_bfloat16_and_keeps_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.dtype] = []
    real = Words.make_model

    def watched(task: Words, activation: str, seed: int) -> nn.Module:
        model = real(task, activation, seed)
        last = list(model.children())[-1]
        last.register_forward_hook(lambda *call: seen.append(call[2].dtype))
        return model

    monkeypatch.setattr(Words, "make_model", watched)
    model, record = train(training(precision="bfloat16"))
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(loss.dtype == torch.float32 for loss in record.losses)
    seen.clear()
    train(training())
    assert set(seen) == {torch.float32}


def test_compiled_steps_run_what_torch_compile_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []

    def mark(model: nn.Module) -> nn.Module:
        compiled.append(model)
        return nn.Sequential(model)

    monkeypatch.setattr("torch.compile", mark)
    model, _ = train(training(compiled=True))
    assert compiled == [model]
    train(training())
    assert len(compiled) == 1


class Pictures(Words):
    """Images for one convolution."""

    def make_model(self, activation: str, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        return Batch(torch.rand(len(indices), 3, 6, 6, generator=generator), indices % CLASSES)


def test_channels_last_reaches_the_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    formats: list[bool] = []
    real = nn.Conv2d.forward

    def watched(layer: nn.Conv2d, x: Tensor) -> Tensor:
        formats.append(x.is_contiguous(memory_format=torch.channels_last))
        return real(layer, x)

    monkeypatch.setattr(nn.Conv2d, "forward", watched)
    last, _ = train(training(channels_last=True), Pictures())
    assert formats == [True] * 3
    first, _ = train(training(), Pictures())
    assert formats == [True] * 3 + [False] * 3
    torch.testing.assert_close(weights(last), weights(first), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"schedule": "constant", "warm_up": 0.0}, [1, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule": "constant", "warm_up": 0.5}, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        (
            {"schedule": "multistep", "warm_up": 0.0, "milestones": (0.5, 0.75)},
            [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01],
        ),
        (
            {"schedule": "multistep", "warm_up": 0.25, "milestones": (0.5,)},
            [0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.1],
        ),
        (
            {"schedule": "cosine", "warm_up": 0.375, "final_rate": 0.1},
            [1 / 3, 2 / 3, 1, 1, 0.1 + 0.45 * (1 + 0.5**0.5), 0.55, 0.1 + 0.45 * (1 - 0.5**0.5), 0.1],
        ),
        ({"schedule": "linear", "warm_up": 0.375, "final_rate": 0.2}, [1 / 3, 2 / 3, 1, 1, 0.8, 0.6, 0.4, 0.2]),
    ],
    ids=["constant", "constant warm", "multistep", "multistep warm", "cosine", "linear"],
)
def test_schedule_gives_its_rates(settings: dict[str, Any], expected: list[float]) -> None:
    rates = learning_rates(training(learning_rate=0.2, **settings), 8)
    assert rates == pytest.approx([0.2 * share for share in expected])


def test_one_cycle_rises_for_the_warm_up_and_falls_to_nearly_nothing() -> None:
    rates = learning_rates(training(learning_rate=0.2, warm_up=0.25), 100)
    assert rates[0] == pytest.approx(0.2 / 25)
    assert max(rates) == rates[rates.index(max(rates))] == pytest.approx(0.2, rel=1e-3)
    assert 22 <= rates.index(max(rates)) <= 26
    assert rates[-1] < 1e-3


@pytest.mark.parametrize("warm_up", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 257])
def test_one_cycle_is_that_of_torch_bit_for_bit(warm_up: float, steps: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.2, total_steps=steps + 1, pct_start=warm_up, cycle_momentum=False
    )
    expected: list[float] = []
    for _ in range(steps):
        expected.append(float(schedule.get_last_lr()[0]))
        optimizer.step()
        schedule.step()
    assert learning_rates(training(learning_rate=0.2, warm_up=warm_up), steps) == expected


def test_steps_and_epochs_agree() -> None:
    assert training(epochs=3).total_steps(20) == 9
    assert training(epochs=3, epoch_steps=10).total_steps(20) == 30
    assert training(epochs=3, epoch_steps=10, steps=25).total_steps(20) == 25


def test_whole_batches_go_on_from_pass_to_pass() -> None:
    batches = step_batches(1, range(8), 6, 10, whole=True)
    row = torch.cat([epoch_order(1, number, 10) for number in range(1, 6)])
    assert torch.equal(torch.cat(batches), row[:48])
    # Wherever a run is taken up again, it finds the batches that it would have had.
    assert all(
        torch.equal(a, b) for a, b in zip(step_batches(1, range(3, 8), 6, 10, whole=True), batches[3:], strict=True)
    )
    by_pass = step_batches(1, range(8), 6, 10, whole=False)
    assert [len(batch) for batch in by_pass] == [6, 4] * 4
    assert torch.equal(torch.cat(by_pass[2:4]), epoch_order(1, 2, 10))
    assert all(
        torch.equal(a, b) for a, b in zip(step_batches(1, range(2, 8), 6, 10, whole=False), by_pass[2:], strict=True)
    )


def test_right_answers_are_counted_as_they_come_and_ignored_targets_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(12, TOKENS, CLASSES, generator=torch.Generator().manual_seed(1))
    targets = logits.argmax(-1)
    targets[::2] = (targets[::2] + 1) % CLASSES
    targets[1, :3] = IGNORED
    for limit in (1, 1 << 22):
        monkeypatch.setattr("gem_activations.lab.training.step._WAITING", limit)
        record = Record()
        for part in range(0, 12, 4):
            record.add(logits[part : part + 4], targets[part : part + 4])
        assert record.counts().tolist() == [6 * TOKENS - 3, 12 * TOKENS - 3]


def test_cross_entropy_is_the_mean_over_targets_that_count() -> None:
    logits = torch.tensor([[[0.0, 0.0], [3.0, 0.0]], [[0.0, 1.0], [5.0, 5.0]]])
    targets = torch.tensor([[0, IGNORED], [1, IGNORED]])
    total = math.log(2) + math.log(1 + math.exp(-1))
    assert cross_entropy(logits, targets).item() == pytest.approx(total / 2, rel=1e-6)
    assert cross_entropy(logits, targets, "sum").item() == pytest.approx(total, rel=1e-6)

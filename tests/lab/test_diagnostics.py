"""What is recorded of every run beside its metric: calibration, Brier score, dead units, gradients, memory, times."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gem_activations.lab.data.images import Dataset, Split
from gem_activations.lab.recipes.pipeline import Cnn, Gpt2Plan, Recipe, Training
from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.store.comparison import DEPTH, Depth, read_json
from gem_activations.lab.training import evaluation
from gem_activations.lab.training.evaluation import calibration_error, evaluate, profile, squared_distance
from gem_activations.lab.training.tasks import IGNORED, Batch, ImageTask, NextToken, Task, TextTask
from gem_activations.lab.training.trainer import Trainer
from gem_activations.torch import make_activation

from .running import train

pytestmark = pytest.mark.usefixtures("one_thread")


TRAINING = Training(epochs=2, batch_size=8, learning_rate=0.01)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Table(nn.Module):
    """Gives the logits of each input from a table."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[x]


@pytest.mark.parametrize("at_once", [1, 1 << 22])
@pytest.mark.parametrize("shape", [(40,), (10, 4)], ids=["images", "text"])
def test_scores_are_those_of_a_plain_computation(
    shape: tuple[int, ...], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "_AT_ONCE", at_once)
    table = 2 * noise(40, 7)
    inputs, targets = torch.arange(40).reshape(shape), torch.arange(40).reshape(shape) % 7
    targets.view(-1)[[3, 17]] = IGNORED
    batches = [Batch(inputs[:6], targets[:6]), Batch(inputs[6:], targets[6:])]
    score = evaluate(Table(table), batches, calibration=True)
    counted = [number for number in range(40) if number not in (3, 17)]
    exact = np.exp(table.double().numpy()[counted])
    p, truth = exact / exact.sum(1, keepdims=True), np.eye(7)[targets.view(-1).numpy()[counted]]
    confidence, right = p.max(1), p.argmax(1) == truth.argmax(1)
    gaps = 0.0
    for low in range(15):
        bin_ = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if bin_.any():
            gaps += bin_.mean() * abs(confidence[bin_].mean() - right[bin_].mean())
    assert score.loss == pytest.approx(-np.log((p * truth).sum(1)).mean(), rel=1e-5)
    assert score.accuracy == pytest.approx(right.mean())
    assert score.brier == pytest.approx(((p - truth) ** 2).sum(1).mean(), rel=1e-5)
    assert score.calibration_error == pytest.approx(gaps, rel=1e-5)


def test_scores_at_their_ends() -> None:
    certain = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert squared_distance(certain, torch.tensor([0, 0])).tolist() == [0.0, 2.0]
    assert calibration_error(torch.tensor([1.0, 1.0, 0.5]), torch.tensor([True, True, False])) == pytest.approx(0.5 / 3)


class Small(nn.Module):
    """A layer, an activation, a layer: in an order of names that is not that of the passes."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.z_first, self.act, self.a_last = nn.Linear(5, 6), make_activation(activation), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.a_last(self.act(self.z_first(x)))


@pytest.mark.parametrize("shape", [(4,), (4, 3)], ids=["vectors", "tokens"])
def test_profile_gives_gradients_in_the_order_of_the_passes_and_dead_units(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = Small("relu")
    with torch.no_grad():
        model.z_first.bias[:2] = -1e3  # Two of six units that no input wakes.
    batch = Batch(noise(*shape, 5), torch.zeros(shape, dtype=torch.int64))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    found = profile(model, "relu", batch, TRAINING)
    loss = nn.functional.cross_entropy(model(batch.inputs).flatten(0, -2), batch.targets.flatten())
    expected = torch.autograd.grad(loss, [model.z_first.weight, model.a_last.weight])
    assert list(found.gradients) == ["z_first", "a_last"]
    assert list(found.gradients.values()) == pytest.approx([float(gradient.norm()) for gradient in expected], rel=1e-6)
    assert found.units == {"act": 6}
    slopes = (model.z_first(batch.inputs) > 0).flatten(0, -2).any(0)
    assert found.dead["act"] == found.dead_share == pytest.approx(1 - float(slopes.double().mean()))
    assert found.dead["act"] >= 2 / 6
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(random, torch.get_rng_state())


@pytest.mark.parametrize(("activation", "share"), [("relu", 0.25), ("gem", 0.25), ("segem(eps=1e-4)", 0.0)])
def test_dead_channels_of_images_are_counted_where_no_position_has_a_slope(activation: str, share: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), make_activation(activation), nn.Flatten(), nn.Linear(4 * 16, 3))
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter[0] = -1e3 if parameter.dim() == 1 else 0.0
    found = profile(model, activation, Batch(noise(9, 1, 6, 6), torch.zeros(9, dtype=torch.int64)), TRAINING)
    assert (found.units, found.dead) == ({"1": 4}, {"1": share})


def image_run(recipe: Recipe) -> Task:
    split = Split(noise(40, 1, 6, 6), torch.arange(40) % 4)
    return ImageTask(recipe, Dataset(split, split, split, 4, {}))


def text_run(recipe: Recipe) -> Task:
    objective = NextToken(recipe.model)
    windows = torch.randint(30, (24, objective.length), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    batch = objective.make_batch(windows.long(), torch.Generator())
    return TextTask(recipe, objective, windows, {"validation": batch, "test": batch}, {})


GPT2 = Gpt2Plan(layers=2, width=16, heads=2, context=12, vocabulary=30)


@pytest.mark.parametrize(
    ("recipe", "make", "layers", "activations"),
    [
        (dataclasses.replace(make_recipe("digits"), model=Cnn((3, 4))), image_run, 5, 4),
        (dataclasses.replace(make_recipe("gpt2-124m", None, "smoke"), model=GPT2), text_run, 2 + 2 * 4 + 1, 2),
    ],
    ids=["images", "text"],
)
@pytest.mark.parametrize("micro_batch", [None, 3])
def test_everything_is_recorded_of_every_run(
    tmp_path: Path,
    recipe: Recipe,
    make: object,
    layers: int,
    activations: int,
    micro_batch: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert callable(make)
    sizes: list[int] = []
    monkeypatch.setattr(
        "gem_activations.lab.training.trainer.profile",
        lambda *given: sizes.append(len(given[2].targets)) or profile(*given),
    )
    settings = dataclasses.replace(recipe, training=dataclasses.replace(TRAINING, micro_batch=micro_batch))
    trainer = Trainer(settings, "gem", 0, make(settings))
    result = train(trainer, tmp_path)
    assert sizes == [micro_batch or 8] * 2, "no more examples than fit into memory in training"
    for name in ("test_loss", "calibration_error", "brier", "dead_share", "step_seconds", "step_time_ratio"):
        assert math.isfinite(result[name]), name
    assert result["test_loss"] is not None
    assert 0 < result["test_loss"] < 10
    assert result["brier"] is not None
    assert 0 < result["brier"] < 2
    assert sum(epoch["seconds"] for epoch in trainer.metrics) > 0
    if Path("/proc/self/status").exists():
        assert result["peak_memory"] is not None
        assert result["peak_memory"] > 2**20
    depth = read_json(tmp_path / DEPTH, Depth)
    assert depth is not None
    assert [len(part) for part in (depth.layers, depth.start_gradients, depth.gradients)] == [layers] * 3
    assert [len(part) for part in (depth.activations, depth.start_dead, depth.dead)] == [activations] * 3
    assert all(norm > 0 for norm in (*depth.start_gradients, *depth.gradients))
    assert depth.start_gradients != depth.gradients

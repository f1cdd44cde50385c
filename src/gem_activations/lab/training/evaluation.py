"""Look at a model: its score on a split, and layer by layer its dead units and the gradient norms of its weights.

A score is loss, accuracy, and how far the probabilities can be trusted.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...torch.monitor.dead import is_dead, read_activation
from ..models import Factory, as_factory
from ..recipes.pipeline import Training
from .step import autocast, cross_entropy
from .tasks import IGNORED, Batch

BINS = 15
_KEPT = 64  # Examples: the slopes of every activation are in memory at once.
_AT_ONCE = 1 << 22  # Probabilities in memory at a time: 16 MB. A vocabulary has tens of thousands a target.


@dataclass(frozen=True)
class Score:
    """What a model scores on a split.

    Attributes:
        loss: Mean cross-entropy (negative log-likelihood) of a target, in nats.
        accuracy: Fraction of the targets to which the model gives the highest probability, 0 to 1.
        calibration_error: Expected calibration error, 0 to 1: the mean over the targets of the distance between
            confidence and accuracy in the target's bin, of 15 of equal width. None if it is not measured.
        brier: Mean over the targets of the squared distance between the probabilities and the truth, 0 to 2; or None.
    """

    loss: float
    accuracy: float
    calibration_error: float | None = None
    brier: float | None = None


def evaluate(model: nn.Module, batches: Iterable[Batch], *, calibration: bool = False) -> Score:
    """Score a model, which maps inputs to logits (..., classes), on a split; it is left in evaluation mode.

    Calibration error and Brier score are measured if `calibration` asks for them.
    """
    losses: list[Tensor] = []
    counts: list[Tensor] = []
    right: list[Tensor] = []
    confidence: list[Tensor] = []
    brier: list[Tensor] = []
    model.eval()
    with torch.inference_mode():
        for inputs, targets in batches:
            logits = model(inputs).float()
            losses.append(cross_entropy(logits, targets, "sum").double())
            counted = targets != IGNORED
            counts.append(counted.sum())
            right.append((logits.argmax(-1) == targets)[counted])
            if calibration:
                rows = max(1, _AT_ONCE // logits.shape[-1])
                parts = zip(logits.flatten(0, -2).split(rows), targets.flatten().split(rows), strict=True)
                for part, wanted in parts:
                    kept = wanted != IGNORED
                    probabilities = part[kept].softmax(-1)
                    confidence.append(probabilities.amax(-1))
                    brier.append(squared_distance(probabilities, wanted[kept]))
        hits = torch.cat(right)
        return Score(
            loss=float(torch.stack(losses).sum() / torch.stack(counts).sum()),
            accuracy=float(hits.double().mean()),
            calibration_error=calibration_error(torch.cat(confidence), hits) if calibration else None,
            brier=float(torch.cat(brier).double().mean()) if calibration else None,
        )


def squared_distance(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Return each target's Brier score, the sum over the classes of (p - truth)^2: (N, classes), (N,) -> (N,).

    Example:
        >>> squared_distance(torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([0, 1]))
        tensor([0.5000, 0.0000])
    """
    right = probabilities.gather(-1, targets[:, None])[:, 0]
    # The target's (1 - p)^2 in the place of its p^2: one_hot of a vocabulary would be as large as a batch of logits.
    return (probabilities.square().sum(-1) - 2 * right + 1).clamp(min=0)


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Return the expected calibration error of confidences (N,), 0 to 1, and whether each answer is right (N,).

    Example:
        >>> round(calibration_error(torch.tensor([0.8, 0.8]), torch.tensor([True, False])), 6)
        0.3
    """
    # On the CPU in float64: sums over bins on a GPU are not done in the same order each time.
    confidence, hits = confidence.cpu().double(), right.cpu().double()
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.bincount(bins, confidence - hits, minlength=BINS)
    return float(gaps.abs().sum() / len(confidence))


class Profile(NamedTuple):
    """A model from its first layer to its last, in the order in which the layers run on one batch.

    Attributes:
        gradients: Layer with a weight of two dimensions or more -> norm of the loss's gradient in it.
        dead: Activation module -> share of its units that are dead on the batch, as the monitor defines it (every
            pre-activation lies where the function is flat), 0 to 1. A unit is a channel of an image (N, C, H, W), else
            the last dimension.
        units: Activation module -> its number of units.
    """

    gradients: dict[str, float]
    dead: dict[str, float]
    units: dict[str, int]

    @property
    def dead_share(self) -> float | None:
        """The share of dead units over all activations; None if the model has none."""
        count = sum(self.units.values())
        return sum(share * self.units[name] for name, share in self.dead.items()) / count if count else None


def profile(model: nn.Module, activation: str | Factory, batch: Batch, training: Training) -> Profile:
    """Profile a model in training mode and precision; model and random states are left as they were.

    Args:
        activation: String of the catalog, or what made the modules; those of its type are the activations.
        batch: At most its first 64 examples are used. It must be one that fits into memory in training.
    """
    batch = Batch(batch.inputs[:_KEPT], batch.targets[:_KEPT])
    device = batch.inputs.device
    twin = copy.deepcopy(model).train()  # Its BatchNorm statistics, gradients and hooks are thrown away.
    kind = type(as_factory(activation)())
    inputs: dict[str, Tensor] = {}
    weights: dict[str, nn.Parameter] = {}

    def keep(name: str, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs[name] = arguments[0].detach().clone()

    def note(name: str, module: nn.Module, _: object) -> None:
        weights[name] = module.weight  # pyright: ignore[reportArgumentType] -- a parameter, as was asked before

    modules, dead = dict(twin.named_modules()), dict[str, Tensor]()
    for name, module in modules.items():
        weight = getattr(module, "weight", None)
        if type(module) is kind:
            module.register_forward_pre_hook(partial(keep, name))
        elif isinstance(weight, nn.Parameter) and weight.dim() >= 2:
            module.register_forward_pre_hook(partial(note, name))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        with autocast(device, training):
            logits = twin(batch.inputs)
        cross_entropy(logits.float(), batch.targets).backward()
        for name, x in inputs.items():
            unit, flat = 1 if x.dim() == 4 else x.dim() - 1, read_activation(modules[name]).flat
            dead[name] = (
                is_dead(x, unit, flat) if flat and flat.kind != "nowhere" else x.new_zeros(x.shape[unit]).bool()
            )
    return Profile(
        {name: 0.0 if weight.grad is None else float(weight.grad.norm()) for name, weight in weights.items()},
        {name: float(units.double().mean()) for name, units in dead.items()},
        {name: len(units) for name, units in dead.items()},
    )

"""Look into a model layer by layer: dead units of its activations, and gradient norms of its weights."""

import copy
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...torch.monitor.dead import is_dead, read_activation
from ..models.classifiers import Factory, as_factory
from ..recipes.pipeline import Training
from .step import autocast, cross_entropy
from .tasks import Batch

_KEPT = 64  # Examples: the slopes of every activation are in memory at once.


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

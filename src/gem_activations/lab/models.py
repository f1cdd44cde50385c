"""Build the model of a recipe with a given activation, from a given seed."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn

from ..torch import make_activation
from .pipeline import Cnn, Mlp

Model = Mlp | Cnn


def build_model(model: Model, activation: str, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """Build a classifier whose initial weights depend on the seed alone, not on the activation.

    Args:
        model: The model of a recipe.
        activation: String of the catalog; one fresh module for each place.
        shape: (channels, height, width) of one image.
        classes: Number of classes.
        seed: Seed of the initial weights. The global random state is left as it was.
    Returns: Maps (N, *shape) float32 to logits (N, classes). An activation's own parameters (PReLU) come on top.
    """

    def factory() -> nn.Module:
        return make_activation(activation)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = _mlp(model, factory, shape) if isinstance(model, Mlp) else _cnn(model, factory, shape)
        width = _width(model, shape)
        return nn.Sequential(*layers, nn.Linear(width, classes))


def count_parameters(model: nn.Module) -> int:
    """Count the trained scalars of a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _mlp(model: Mlp, factory: Callable[[], nn.Module], shape: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise((math.prod(shape), *model.hidden)):
        layers += [nn.Linear(inputs, outputs), factory()]
    return layers


def _cnn(model: Cnn, factory: Callable[[], nn.Module], shape: tuple[int, ...]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((shape[0], *model.channels)):
        for channels, stride in ((inputs, 1), (outputs, 2)):
            convolution = nn.Conv2d(channels, outputs, 3, stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), factory()]
    return [*layers, nn.Flatten()]


def _width(model: Model, shape: tuple[int, ...]) -> int:
    if isinstance(model, Mlp):
        return model.hidden[-1]
    _, height, width = shape
    for _ in model.channels:
        height, width = (height + 1) // 2, (width + 1) // 2
    return model.channels[-1] * height * width

"""Build the model of a recipe with a given activation, from a given seed."""

import math
from itertools import pairwise

import torch
from torch import nn

from ..recipes.arms import parse_arm
from ..recipes.pipeline import Cnn, Mlp, PreActPlan, ResNetPlan, VitPlan
from .resnet import STAGES, Factory, ResNet
from .vit import VisionTransformer

Model = Mlp | Cnn | ResNetPlan | PreActPlan | VitPlan


def as_factory(activation: str | Factory) -> Factory:
    """Return what makes a module of an activation: a string as `parse_arm` reads it, or such a factory itself."""
    return parse_arm(activation) if isinstance(activation, str) else activation


def build_model(model: Model, activation: str | Factory, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """Build a classifier whose initial weights depend on the seed alone, not on the activation.

    Args:
        model: The model of a recipe.
        activation: String of the catalog, or a factory; one fresh module for each place.
        shape: (channels, height, width) of one image.
        classes: Number of classes.
        seed: Seed of the initial weights. The global random state is left as it was.
    Raises: ValueError: a residual network's depth is not 6m + 2.
    Returns: Maps (N, *shape) float32 to logits (N, classes). An activation's own parameters (PReLU) come on top.
    """
    factory = as_factory(activation)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(model, Mlp):
            layers: list[nn.Module] = [nn.Flatten()]
            for inputs, outputs in pairwise((math.prod(shape), *model.hidden)):
                layers += [nn.Linear(inputs, outputs), factory()]
            return nn.Sequential(*layers, nn.Linear(model.hidden[-1], classes))
        if isinstance(model, Cnn):
            layers, (_, height, width) = [], shape
            for inputs, outputs in pairwise((shape[0], *model.channels)):
                for channels, stride in ((inputs, 1), (outputs, 2)):
                    convolution = nn.Conv2d(channels, outputs, 3, stride, padding=1, bias=False)
                    layers += [convolution, nn.BatchNorm2d(outputs), factory()]
                height, width = (height + 1) // 2, (width + 1) // 2
            return nn.Sequential(*layers, nn.Flatten(), nn.Linear(model.channels[-1] * height * width, classes))
        if isinstance(model, VitPlan):
            return VisionTransformer(shape, classes, factory, model)
        blocks, rest = divmod(model.depth - 2, 2 * STAGES)
        if rest or blocks < 1:
            raise ValueError(f"a residual network of depth {model.depth}: expected 6m + 2")
        return ResNet(blocks, classes, factory, model.width, shape[0], pre_activation=isinstance(model, PreActPlan))


def count_parameters(model: nn.Module) -> int:
    """Count the trained scalars of a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

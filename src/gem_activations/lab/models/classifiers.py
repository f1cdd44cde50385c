"""The classifiers of the recipes on images, built with a given activation from a given seed."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..recipes.arms import parse_arm
from ..recipes.pipeline import Cnn, Mlp, PreActPlan, ResNetPlan, VitPlan

Factory = Callable[[], nn.Module]
STAGES = 3


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm, around a shortcut that pads new channels with zeros."""

    def __init__(self, in_channels: int, channels: int, stride: int, activation: Factory) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.act2 = activation()
        self.stride, self.padding = stride, channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        y = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        if self.padding or self.stride > 1:
            half = self.padding // 2
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.padding - half))
        return self.act2(y + x)


class PreActBlock(nn.Module):
    """BatchNorm and activation before each of two 3x3 convolutions; the shortcut is a 1x1 convolution at a change."""

    def __init__(self, in_channels: int, channels: int, stride: int, activation: Factory) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.act1 = activation()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.act2 = activation()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        changes = stride > 1 or in_channels != channels
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        y = self.act1(self.norm1(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        return x + self.conv2(self.act2(self.norm2(self.conv1(y))))


class ResNet(nn.Module):
    """ResNet of depth 6 blocks + 2 for small images: 56 layers and 0.85 million parameters with blocks=9.

    Args:
        blocks: Residual blocks in each of the three stages, which have 1, 2 and 4 times `width` channels.
        activation: Makes one activation module; called once for each place.
        channels: Channels of an image.
        pre_activation: Whether BatchNorm and activation come before each convolution; the 1x1 convolutions of the
            shortcuts are then not counted in the depth.
    Source: K. He, X. Zhang, S. Ren, J. Sun, arXiv:1512.03385, section 4.2, and arXiv:1603.05027.
    Example:
        >>> ResNet(1)(torch.zeros(2, 3, 32, 32)).shape, ResNet(1, pre_activation=True)(torch.zeros(2, 3, 96, 96)).shape
        (torch.Size([2, 10]), torch.Size([2, 10]))
    """

    def __init__(
        self,
        blocks: int = 9,
        classes: int = 10,
        activation: Factory = nn.ReLU,
        width: int = 16,
        channels: int = 3,
        pre_activation: bool = False,
    ) -> None:
        super().__init__()
        stem, kind = nn.Conv2d(channels, width, 3, 1, 1, bias=False), PreActBlock if pre_activation else BasicBlock
        self.stem = stem if pre_activation else nn.Sequential(stem, nn.BatchNorm2d(width), activation())
        # The first block of a later stage halves the image and doubles the channels.
        self.stages = nn.Sequential(
            *(
                kind(width << max(stage - (index == 0), 0), width << stage, 1 + (index == 0 < stage), activation)
                for stage in range(STAGES)
                for index in range(blocks)
            )
        )
        self.tail = nn.Sequential(nn.BatchNorm2d(4 * width), activation()) if pre_activation else nn.Identity()
        self.head = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to logits (N, classes)."""
        x = self.tail(self.stages(self.stem(x)))
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


_DEVIATION = 0.02


class Attention(nn.Module):
    """Self-attention of several heads over all tokens, or over those before if it is causal."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, T, width) to (N, T, width)."""
        count, tokens, width = x.shape
        parts = self.inputs(x).view(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=self.causal)
        return self.output(mixed.transpose(1, 2).reshape(count, tokens, width))


class Block(nn.Module):
    """Attention and a feed-forward layer with the activation, each behind a LayerNorm and around a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int, activation: Factory, causal: bool = False) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width)
        self.expand, self.act, self.reduce = nn.Linear(width, hidden), activation(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (N, T, width) to (N, T, width)."""
        x = x + self.attention(self.norm1(x))
        return x + self.reduce(self.act(self.expand(self.norm2(x))))


class VisionTransformer(nn.Module):
    """A Vision Transformer for images (channels, height, width) of one size, whose sides the plan's patch divides.

    It has pre-normalisation, a class token and learnt positions; `activation` makes one module for each block.

    Source: A. Dosovitskiy et al., arXiv:2010.11929.
    Example:
        >>> model = VisionTransformer((3, 8, 8), 10, nn.GELU, VitPlan(layers=1, width=12, heads=3, feed_forward=2))
        >>> model(torch.zeros(2, 3, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, shape: tuple[int, ...], classes: int, activation: Factory, plan: VitPlan) -> None:
        super().__init__()
        channels, height, breadth = shape
        width, patch, hidden = plan.width, plan.patch, plan.width * plan.feed_forward
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (height // patch) * (breadth // patch), width))
        self.blocks = nn.Sequential(*(Block(width, plan.heads, hidden, activation) for _ in range(plan.layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)
        for parameter in (self.token, self.positions):
            nn.init.normal_(parameter, std=_DEVIATION)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=_DEVIATION)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to logits (N, classes)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens)[:, 0]))


Model = Mlp | Cnn | ResNetPlan | PreActPlan | VitPlan


def as_factory(activation: str | Factory) -> Factory:
    """Return what makes a module of an activation: a string as `parse_arm` reads it, or such a factory itself."""
    return parse_arm(activation) if isinstance(activation, str) else activation


def build_model(model: Model, activation: str | Factory, shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """Build a classifier whose initial weights depend on the seed alone, not on the activation.

    It maps (N, channels, height, width) float32 to logits (N, classes). An activation's own parameters (PReLU) come on
    top. The global random state is left as it was.
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
        blocks = (model.depth - 2) // (2 * STAGES)
        return ResNet(blocks, classes, factory, model.width, shape[0], pre_activation=isinstance(model, PreActPlan))


def count_parameters(model: nn.Module) -> int:
    """Count the trained scalars of a model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)

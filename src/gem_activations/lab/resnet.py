"""The residual network for CIFAR of He et al., 2016: 6m + 2 layers, option-A shortcuts without parameters."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Factory = Callable[[], nn.Module]


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


class ResNet(nn.Module):
    """ResNet of depth 6 blocks + 2 for 32x32 images: 56 layers and 0.85 million parameters with blocks=9.

    Args:
        blocks: Residual blocks in each of the three stages of 16, 32 and 64 channels.
        classes: Number of classes.
        activation: Makes one activation module; called once for each place.
    Source: K. He, X. Zhang, S. Ren, J. Sun, arXiv:1512.03385, section 4.2.
    Example:
        >>> ResNet(1)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, blocks: int = 9, classes: int = 10, activation: Factory = nn.ReLU) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), activation())
        stages: list[nn.Module] = []
        for before, channels in ((16, 16), (16, 32), (32, 64)):
            for index in range(blocks):
                stride = 2 if index == 0 and channels > before else 1
                stages.append(BasicBlock(before if index == 0 else channels, channels, stride, activation))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, 32, 32) to logits (N, classes)."""
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(self.stages(self.stem(x)), 1), 1))

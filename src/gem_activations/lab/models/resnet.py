"""The residual networks for small images: of He et al., 2016, and with activations before the convolutions."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

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
        classes: Number of classes.
        activation: Makes one activation module; called once for each place.
        width: Channels of the first stage.
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

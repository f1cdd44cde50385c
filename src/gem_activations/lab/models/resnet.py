"""The residual networks for small images: of He et al., 2016, and with activations before the convolutions."""

from collections.abc import Callable, Iterator

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
    """ResNet of depth 6 blocks + 2 for 32x32 images: 56 layers and 0.85 million parameters with blocks=9.

    Args:
        blocks: Residual blocks in each of the three stages, which have 1, 2 and 4 times `width` channels.
        classes: Number of classes.
        activation: Makes one activation module; called once for each place.
        width: Channels of the first stage.
        channels: Channels of an image.
    Source: K. He, X. Zhang, S. Ren, J. Sun, arXiv:1512.03385, section 4.2.
    Example:
        >>> ResNet(1)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, blocks: int = 9, classes: int = 10, activation: Factory = nn.ReLU, width: int = 16, channels: int = 3
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), activation())
        self.stages = nn.Sequential(*(BasicBlock(*place, activation) for place in _places(blocks, width)))
        self.head = nn.Linear(4 * width, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to logits (N, classes)."""
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(self.stages(self.stem(x)), 1), 1))


class PreActResNet(nn.Module):
    """Pre-activation ResNet of depth 6 blocks + 2, the 1x1 convolutions of its shortcuts not counted.

    Args: as of `ResNet`.
    Source: K. He, X. Zhang, S. Ren, J. Sun, arXiv:1603.05027.
    Example:
        >>> PreActResNet(1, width=4)(torch.zeros(2, 3, 96, 96)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, blocks: int = 2, classes: int = 10, activation: Factory = nn.ReLU, width: int = 64, channels: int = 3
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.stages = nn.Sequential(*(PreActBlock(*place, activation) for place in _places(blocks, width)))
        self.tail = nn.Sequential(nn.BatchNorm2d(4 * width), activation())
        self.head = nn.Linear(4 * width, classes)
        _initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, channels, H, W) to logits (N, classes)."""
        return self.head(torch.flatten(functional.adaptive_avg_pool2d(self.tail(self.stages(self.stem(x))), 1), 1))


def _places(blocks: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Return channels in, channels out and stride of each block: the first of a later stage halves the image."""
    before = width
    for stage in range(STAGES):
        for index in range(blocks):
            yield before, width << stage, 2 if index == 0 and stage > 0 else 1
            before = width << stage


def _initialise(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

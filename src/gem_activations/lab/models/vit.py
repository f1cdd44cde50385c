"""A Vision Transformer for small images, with pre-normalisation, a class token and learnt positions."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..recipes.pipeline import VitPlan
from .resnet import Factory

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
    """A Vision Transformer that classifies images of one size.

    Args:
        shape: (channels, height, width) of an image; the plan's patch divides both sides.
        classes: Number of classes.
        activation: Makes one activation module; called once a block.
        plan: Its sizes.
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

"""Rivals that torch.nn does not have, in plain torch operations: baselines for comparisons, not tuned for speed."""

import math

import torch
from torch import Tensor, nn


class Squareplus(nn.Module):
    """(x + sqrt(x^2 + b)) / 2, b > 0; any shape and floating dtype. Source: Barron, arXiv:2112.11687."""

    def __init__(self, b: float = 4.0) -> None:
        super().__init__()
        self.b = b

    def forward(self, x: Tensor) -> Tensor:
        """Give the function of x."""
        return (x + torch.hypot(x, x.new_tensor(math.sqrt(self.b)))) / 2


class SmeLU(nn.Module):
    """0 for x < -beta, (x + beta)^2 / (4 beta) for |x| <= beta, else x. Source: Shamir et al., arXiv:2010.09931."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        """Give the function of x."""
        middle = (x.clamp(-self.beta, self.beta) + self.beta).square() / (4 * self.beta)
        return torch.where(x > self.beta, x, middle)


class SquaredReLU(nn.Module):
    """max(x, 0)^2; any shape and floating dtype. Source: So et al., arXiv:2109.08668."""

    def forward(self, x: Tensor) -> Tensor:
        """Give the function of x."""
        return torch.relu(x).square()


class TeLU(nn.Module):
    """x tanh(exp(x)); any shape and floating dtype. Source: Fernandez and Mali, arXiv:2412.20269."""

    def forward(self, x: Tensor) -> Tensor:
        """Give the function of x."""
        # tanh(exp(x)) rounds to 1 long before 10; the clamp keeps the gradient of exp finite.
        return x * torch.tanh(torch.exp(x.clamp(max=10)))


class GoLU(nn.Module):
    """x exp(-exp(-x)); any shape and floating dtype. Source: Das et al., arXiv:2502.03654."""

    def forward(self, x: Tensor) -> Tensor:
        """Give the function of x."""
        # exp(-exp(10)) is 0 in float64; the clamp keeps the gradient of exp finite.
        return x * torch.exp(-torch.exp(-x.clamp(min=-10)))


class ISRLU(nn.Module):
    """x for x >= 0, else x / sqrt(1 + alpha x^2), alpha > 0. Source: Carlile et al., arXiv:1710.09967."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Give the function of x."""
        negative = x.clamp(max=0)
        # hypot, because the square of a large input is infinite.
        return torch.where(x >= 0, x, negative / torch.hypot(x.new_tensor(1.0), math.sqrt(self.alpha) * negative))

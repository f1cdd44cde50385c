"""Activations of the catalog that torch.nn lacks, in plain torch operations: for comparisons, not tuned for speed."""

import math

import torch
from torch import Tensor, nn

from .. import catalog


class Squareplus(nn.Module):
    """(x + sqrt(x^2 + b)) / 2, a smooth ReLU without exp.

    Args:
        b: Width of the transition, b > 0: the value at 0 is sqrt(b) / 2; b -> 0 gives ReLU.
    Returns: At the call: a tensor of the shape and floating dtype of the input, computed in that dtype.
    Raises: SpecError: b out of its range.
    Edge cases: 0 at -inf, inf at inf, NaN at NaN. sqrt(b) is kept from underflow in the input's dtype.
    Source: J. Barron, arXiv:2112.11687, 2021.
    Example:
        >>> Squareplus()(torch.tensor([-1.5, 0.0, 1.5]))
        tensor([0.5000, 1.0000, 2.0000])
    """

    def __init__(self, b: float = 4.0) -> None:
        super().__init__()
        catalog.check("squareplus", {"b": b})
        self.b = b

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        # (|x| + sqrt(x^2 + b)) / 2 has no cancellation; for x <= 0 the value is b / 4 over it. Not abs(): its slope
        # at 0 is 0.
        root = x.new_tensor(max(math.sqrt(self.b) / 2, torch.finfo(x.dtype).smallest_normal))
        half = torch.where(x > 0, x, -x) / 2
        larger = half + torch.hypot(half, root)
        return torch.where(x > 0, larger, root * (root / larger))


class SmeLU(nn.Module):
    """0 for x < -beta, (x + beta)^2 / (4 beta) for |x| <= beta, else x.

    Args:
        beta: Half-width of the quadratic piece, beta > 0; beta -> 0 gives ReLU.
    Returns: At the call: a tensor of the shape and floating dtype of the input, computed in that dtype.
    Raises: SpecError: beta out of its range.
    Edge cases: 0 at -inf, inf at inf, NaN at NaN.
    Source: G. Shamir, D. Lin, L. Coviello, arXiv:2010.09931, 2020.
    Example:
        >>> SmeLU()(torch.tensor([-2.0, 0.0, 2.0]))
        tensor([0.0000, 0.2500, 2.0000])
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        catalog.check("smelu", {"beta": beta})
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        middle = (x.clamp(-self.beta, self.beta) + self.beta).square() / (4 * self.beta)
        return torch.where(x > self.beta, x, middle)


class SquaredReLU(nn.Module):
    """max(x, 0)^2.

    Returns: At the call: a tensor of the shape and floating dtype of the input, computed in that dtype.
    Edge cases: 0 at -inf, inf at inf and if the square overflows, NaN at NaN.
    Source: D. So et al., arXiv:2109.08668, 2021.
    Example:
        >>> SquaredReLU()(torch.tensor([-2.0, 0.5, 3.0]))
        tensor([0.0000, 0.2500, 9.0000])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        return torch.relu(x).square()


class TeLU(nn.Module):
    """x tanh(exp(x)).

    Returns: At the call: a tensor of the shape and floating dtype of the input, computed in that dtype.
    Edge cases: 0 at -inf, inf at inf, NaN at NaN.
    Source: A. Fernandez, A. Mali, arXiv:2412.20269, 2024.
    Example:
        >>> TeLU()(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.3521,  0.0000,  0.9913])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        # exp(-1000) is 0 in float64: the lower clamp gives the limit at -inf. tanh(exp(x)) rounds to 1 long before
        # 10: the upper clamp keeps the gradient of exp finite.
        x = x.clamp(min=-1000)
        return x * torch.tanh(torch.exp(x.clamp(max=10)))


class GoLU(nn.Module):
    """x exp(-exp(-x)).

    Returns: At the call: a tensor of the shape and floating dtype of the input, computed in that dtype.
    Edge cases: 0 at -inf, inf at inf, NaN at NaN.
    Source: I. Das et al., arXiv:2502.03654, 2025.
    Example:
        >>> GoLU()(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.0660,  0.0000,  0.6922])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        # exp(-exp(10)) is 0 in float64; the clamp keeps the gradient of exp finite and gives the limit at -inf.
        x = x.clamp(min=-10)
        return x * torch.exp(-torch.exp(-x))


class ISRLU(nn.Module):
    """x for x >= 0, else x / sqrt(1 + alpha x^2).

    Args:
        alpha: Sets the lower limit, -1 / sqrt(alpha); alpha > 0.
    Returns: At the call: a tensor of the shape and floating dtype of the input, computed in that dtype.
    Raises: SpecError: alpha out of its range.
    Edge cases: -1 / sqrt(alpha) at -inf, inf at inf, NaN at NaN. Where the value has rounded to its lower limit, the
        gradient is 0.
    Source: B. Carlile et al., arXiv:1710.09967, 2017.
    Example:
        >>> ISRLU(alpha=4)(torch.tensor([-torch.inf, -1.0, 0.0, 1.0]))
        tensor([-0.5000, -0.4472,  0.0000,  1.0000])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        catalog.check("isrlu", {"alpha": alpha})
        self.alpha = alpha

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        limits, root = torch.finfo(x.dtype), math.sqrt(self.alpha)
        # Below -1 / (eps sqrt(alpha)) the value has rounded to its limit: the clamp spares -inf / inf.
        negative = x.clamp(max(-1 / (limits.eps * root), limits.min), 0)
        # hypot, because the square of a large input is infinite.
        return torch.where(x >= 0, x, negative / torch.hypot(x.new_tensor(1.0), root * negative))


class Serf(nn.Module):
    """x erf(log(1 + exp(x))).

    Returns: At the call: a tensor of the shape and floating dtype of the input, computed in that dtype.
    Edge cases: 0 at -inf, inf at inf, NaN at NaN.
    Source: S. Nag, M. Bhattacharyya, arXiv:2108.09598, 2021.
    Example:
        >>> Serf()(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.3422,  0.0000,  0.9367])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        x = x.clamp(min=-1000)  # exp(-1000) is 0 in float64: the clamp gives the limit at -inf.
        return x * torch.erf(nn.functional.softplus(x))


class Logish(nn.Module):
    """x log(1 + 1 / (1 + exp(-x))).

    Returns: At the call: a tensor of the shape and floating dtype of the input, computed in that dtype.
    Edge cases: 0 at -inf, inf at inf, NaN at NaN.
    Source: H. Zhu et al., Neurocomputing 458, 2021.
    Example:
        >>> Logish()(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.2382,  0.0000,  0.5487])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        x = x.clamp(min=-1000)
        return x * torch.log1p(torch.sigmoid(x))


class Phish(nn.Module):
    """x tanh(x Phi(x)), Phi the standard normal CDF.

    Returns: At the call: a tensor of the shape and floating dtype of the input, computed in that dtype.
    Edge cases: 0 at -inf, inf at inf, NaN at NaN.
    Source: P. Naveen, TechRxiv 17283824, 2021.
    Example:
        >>> Phish()(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.1573, 0.0000, 0.6865])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        x = x.clamp(min=-1000)
        # erfc keeps the digits of Phi in the left tail, which 1 + erf loses.
        return x * torch.tanh(x * torch.erfc(-math.sqrt(0.5) * x) / 2)


class Smish(nn.Module):
    """x tanh(log(1 + 1 / (1 + exp(-x)))).

    Returns: At the call: a tensor of the shape and floating dtype of the input, computed in that dtype.
    Edge cases: 0 at -inf, inf at inf, NaN at NaN.
    Source: X. Wang, H. Ren, A. Wang, Electronics 11(4), 2022.
    Example:
        >>> Smish()(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.2338,  0.0000,  0.4996])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        x = x.clamp(min=-1000)
        return x * torch.tanh(torch.log1p(torch.sigmoid(x)))


class QuickGELU(nn.Module):
    """x / (1 + exp(-1.702 x)), the approximation of GELU by a sigmoid.

    Returns: At the call: a tensor of the shape and floating dtype of the input, computed in that dtype.
    Edge cases: 0 at -inf, inf at inf, NaN at NaN.
    Source: D. Hendrycks, K. Gimpel, arXiv:1606.08415, 2016.
    Example:
        >>> QuickGELU()(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.1542,  0.0000,  0.8458])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        x = x.clamp(min=-1000)
        return x * torch.sigmoid(1.702 * x)


class StarReLU(nn.Module):
    """scale max(x, 0)^2 + bias, with a scale and a bias that are learnt.

    Args:
        scale, bias: Their values at the start. By default f has mean 0 and variance 1 for a standard normal input.
        dtype: Of the two parameters.
    Returns: At the call: a tensor of the shape and floating dtype of the input, computed in that dtype.
    Raises: SpecError: a parameter that is not finite.
    Edge cases: bias at -inf, inf at inf and if the square overflows, NaN at NaN.
    Source: W. Yu et al., arXiv:2210.13452, 2022.
    Example:
        >>> StarReLU()(torch.tensor([-1.0, 0.0, 1.0])).detach()
        tensor([-0.4472, -0.4472,  0.4472])
    """

    def __init__(self, scale: float = 0.8944, bias: float = -0.4472, *, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        catalog.check("starrelu", {"scale": scale, "bias": bias})
        self.scale = nn.Parameter(torch.tensor(scale, dtype=dtype))
        self.bias = nn.Parameter(torch.tensor(bias, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return the function of x."""
        return self.scale * torch.relu(x).square() + self.bias

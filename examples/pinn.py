"""A physics-informed network: which activation solves an equation whose loss holds second derivatives?

    gem-act compare examples/pinn.py:train --activations tanh silu gelu "gem(n=2)" \
      --metric relative_error --better lower --seeds 10 --out runs/pinn

The network is to solve a boundary-value problem from the equation alone (Raissi et al. 2019, arXiv:1711.10561): the
loss is the mean square of the residual, which holds u'' or the Laplacian, and training differentiates that once more.
Each problem has an exact solution, which serves the scoring alone, and a factor that makes u vanish on the boundary.
One run takes some 20 seconds on a core.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from gem_activations.lab import Run


@dataclass(frozen=True)
class Problem:
    """u'' + k^2 u = q on [-1, 1]^d with u = 0 on the boundary, made from its solution."""

    dimensions: int
    solution: Callable[[Tensor], Tensor]
    wave_number: float = 0.0

    def source(self, x: Tensor) -> Tensor:
        """Return the Laplacian of the exact solution at points (N, d), plus k^2 times the solution."""
        x = x.double().requires_grad_()
        value = self.solution(x)
        return (laplacian(value, x) + self.wave_number**2 * value).detach().float()


PROBLEMS = {
    "poisson": Problem(1, lambda x: (torch.sin(math.pi * x) + 0.3 * torch.sin(4 * math.pi * x)).squeeze(-1)),
    "helmholtz": Problem(2, lambda x: torch.sin(math.pi * x[:, 0]) * torch.sin(2 * math.pi * x[:, 1]), 3.0),
    "layer": Problem(1, lambda x: ((1 - x * x) * torch.tanh(8 * x)).squeeze(-1)),
}


def laplacian(value: Tensor, x: Tensor) -> Tensor:
    """Return the sum of second derivatives at each point, differentiable."""
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    second = [torch.autograd.grad(slope[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1])]
    return torch.stack(second).sum(0)


def train(
    run: Run, problem: str = "helmholtz", steps: int = 1500, width: int = 64, learning_rate: float = 2e-3
) -> dict[str, float]:
    """Solve one problem; return the relative L2 errors of u and of its gradient."""
    torch.set_flush_denormal(True)
    task = PROBLEMS[problem]
    sizes = [task.dimensions, width, width, width, 1]
    layers = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), run.activation()]
    network = nn.Sequential(*layers[:-1])

    def u(x: Tensor) -> Tensor:
        return (1 - x * x).prod(-1) * network(x).squeeze(-1)

    pool = torch.rand(4096, task.dimensions) * 2 - 1
    wanted = task.source(pool)
    optimizer = torch.optim.Adam(network.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(pool), (256,))
        x = pool[chosen].requires_grad_()
        value = u(x)
        loss = (laplacian(value, x) + task.wave_number**2 * value - wanted[chosen]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    generator = torch.Generator().manual_seed(12345)
    x = (torch.rand(4096, task.dimensions, generator=generator) * 2 - 1).requires_grad_()
    value, exact = u(x), task.solution(x)
    slopes = [torch.autograd.grad(y.sum(), x)[0] for y in (value, exact)]
    return {
        "relative_error": float(((value - exact).norm() / exact.norm()).detach()),
        "gradient_error": float((slopes[0] - slopes[1]).norm() / slopes[1].norm()),
        "loss": float(loss.detach()),
    }

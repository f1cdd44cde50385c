"""A signed distance field from points: which activation for a network that is differentiated twice?

    gem-act compare examples/sdf.py:train --activations relu "softplus(beta=100)" "egem(n=2, eps=8.1e-7)" \
      --metric distance_error --better lower --seeds 10 --out runs/sdf

A network f is to give the distance to a curve or a surface, negative inside, and sees points of it and their normals.
As in IGR (Gropp et al. 2020, arXiv:2002.10099) the loss asks for f = 0 on the points, for a gradient equal to the
normal there, and for a gradient of length 1 everywhere (Eikonal), so that training differentiates f twice. ReLU can do
that, but its second derivative is 0. The shapes (`shapes.py`) have exact distances, which serve the scoring alone. One
run takes some 20 seconds on a core.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from shapes import SHAPES
from torch import Tensor, nn
from torch.nn.functional import normalize

from gem_activations.lab import Run


class Sine(nn.Module):
    """SIREN's sin(omega x), with first weights of its own (Sitzmann et al. 2020, arXiv:2006.09661)."""

    omega = 30.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.omega * x)


class Sine10(Sine):
    """SIREN at a third of the usual frequency."""

    omega = 10.0


def make_field(activation: Callable[[], nn.Module], dimensions: int, width: int) -> nn.Sequential:
    """Return four hidden layers that begin as the distance to a sphere (arXiv:1911.10414), or by SIREN's rule."""
    sizes = [dimensions, width, width, width, width, 1]
    layers: list[nn.Module] = []
    for number, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        linear, act = nn.Linear(fan_in, fan_out), activation()
        if isinstance(act, Sine):
            bound = 1 / fan_in if number == 0 else math.sqrt(6 / fan_in) / act.omega
            nn.init.uniform_(linear.weight, -bound, bound)
        elif fan_out > 1:
            nn.init.normal_(linear.weight, 0.0, math.sqrt(2 / fan_out))
            nn.init.zeros_(linear.bias)
        else:
            nn.init.normal_(linear.weight, math.sqrt(math.pi / fan_in), 1e-4)
            nn.init.constant_(linear.bias, -0.5)
        layers += [linear, act]
    return nn.Sequential(*layers[:-1])


def project(model: nn.Module, x: Tensor) -> Tensor:
    """Return where ten steps of Newton along the gradient take points (N, d): as a rule to the surface f = 0."""
    for _ in range(10):
        x = x.detach().requires_grad_()
        value = model(x)
        (slope,) = torch.autograd.grad(value.sum(), x)
        x = x - (value * slope / slope.square().sum(1, keepdim=True).clamp(min=1e-4)).clamp(-0.2, 0.2)
    return x.detach()


def chamfer_distance(model: nn.Module, distance: Callable[[Tensor], Tensor], on: Tensor, anywhere: Tensor) -> float:
    """Return the mean of two distances: from the learnt surface to the shape, and from points on the shape to it.

    The former is exact, at points of the learnt surface to which points anywhere go; the latter is along the gradient.
    """
    drawn = project(model, anywhere)
    there = (model(drawn).squeeze(1).abs() < 1e-3) & (drawn.abs().amax(1) < 1)
    drawn = drawn[there] if there.any() else drawn
    return float((distance(drawn).abs().mean() + (project(model, on) - on).norm(dim=1).mean()) / 2)


def fit(run: Run, shape: str, steps: int, learning_rate: float, away: float = 0.0) -> tuple[nn.Module, float]:
    """Return the field that is learnt from points and normals of a shape, and the last loss.

    `away` weighs a term of SIREN's authors, which keeps the field from 0 off the surface; beside ours theirs is 1/30.
    """
    torch.set_flush_denormal(True)  # Softplus with a large beta makes some, and they slow a processor down.
    points, normals = SHAPES[shape]()[1](4096)
    model = make_field(run.activation, points.shape[1], 128)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(points), (512,))
        x = torch.cat([points[chosen], torch.rand(512, points.shape[1]) * 2 - 1]).requires_grad_()
        value = model(x).squeeze(1)
        (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        off_surface, off_normal = value[:512].abs().mean(), (slope[:512] - normals[chosen]).norm(dim=1).mean()
        loss = off_surface + 0.1 * off_normal + 0.1 * (slope.norm(dim=1) - 1).square().mean()
        if away:
            loss = loss + away * torch.exp(-100 * value[512:].abs()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model, float(loss.detach())


def train(
    run: Run, shape: str = "circles", steps: int = 600, learning_rate: float = 3e-3, away: float = 0.0
) -> dict[str, float]:
    """Learn one field; return its errors: of the distance everywhere, of place and normal on the surface."""
    model, loss = fit(run, shape, steps, learning_rate, away)
    distance, sample = SHAPES[shape]()
    on, normal = sample(4096)
    anywhere = torch.rand(20_000, on.shape[1], generator=torch.Generator().manual_seed(1)) * 2 - 1
    chamfer = chamfer_distance(model, distance, on, anywhere)
    value = model(on.requires_grad_()).squeeze(1)
    (slope,) = torch.autograd.grad(value.sum(), on)
    cosine = (normalize(slope) * normal).sum(1).clamp(-1, 1)
    with torch.no_grad():
        return {
            "distance_error": float((model(anywhere).squeeze(1) - distance(anywhere)).abs().mean()),
            "surface_error": float((value.abs() / slope.norm(dim=1).clamp(min=1e-6)).mean()),
            "normal_error_degrees": float(cosine.arccos().rad2deg().mean()),
            "chamfer": chamfer,
            "loss": loss,
        }

"""Curves and surfaces with their exact signed distances, for `sdf.py`.

A shape is a pair: the signed distance at points (N, d), negative inside, and a sampler that returns so many points on
the surface with their outward normals. All fit into the box of side 2 about 0.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

Shape = tuple[Callable[[Tensor], Tensor], Callable[[int], tuple[Tensor, Tensor]]]


def polygon(corners: list[tuple[float, float]]) -> Shape:
    """Return a closed polygon whose corners go round counterclockwise."""
    begin = torch.tensor(corners)
    step = begin.roll(-1, 0) - begin
    normal = normalize(torch.stack([step[:, 1], -step[:, 0]], 1))

    def distance(x: Tensor) -> Tensor:
        offset = x[:, None] - begin
        along = ((offset * step).sum(-1) / (step * step).sum(-1)).clamp(0, 1)
        nearest = (offset - along[..., None] * step).norm(dim=-1).amin(1)
        crosses = (offset[..., 1] < 0) != (offset[..., 1] < step[:, 1])
        right = offset[..., 0] < offset[..., 1] * step[:, 0] / step[:, 1].where(step[:, 1] != 0, 1.0)
        return torch.where((crosses & right).sum(1) % 2 == 1, -nearest, nearest)

    def sample(count: int) -> tuple[Tensor, Tensor]:
        edge = torch.multinomial(step.norm(dim=1), count, replacement=True)
        return begin[edge] + torch.rand(count, 1) * step[edge], normal[edge]

    return distance, sample


def star(points: int, inner: float, outer: float) -> Shape:
    """Return a star with so many points."""
    turns = [math.pi * k / points + 0.3 for k in range(2 * points)]
    return polygon([(r * math.cos(t), r * math.sin(t)) for t, r in zip(turns, [outer, inner] * points, strict=True)])


def circles() -> Shape:
    """Return two circles that do not touch."""
    centres, radii = torch.tensor([[-0.4, -0.1], [0.45, 0.2]]), torch.tensor([0.4, 0.25])

    def sample(count: int) -> tuple[Tensor, Tensor]:
        which, turn = torch.multinomial(radii, count, replacement=True), 2 * math.pi * torch.rand(count)
        normal = torch.stack([turn.cos(), turn.sin()], 1)
        return centres[which] + radii[which, None] * normal, normal

    return lambda x: ((x[:, None] - centres).norm(dim=-1) - radii).amin(1), sample


def sphere_and_torus() -> Shape:
    """Return a sphere above a torus, in three dimensions."""
    centre, radius, ring, tube, low = torch.tensor([0.0, 0.0, 0.55]), 0.3, 0.6, 0.18, -0.3

    def distance(x: Tensor) -> Tensor:
        across = torch.stack([x[:, :2].norm(dim=-1) - ring, x[:, 2] - low], 1)
        return torch.minimum((x - centre).norm(dim=-1) - radius, across.norm(dim=-1) - tube)

    def sample(count: int) -> tuple[Tensor, Tensor]:
        ball = normalize(torch.randn(count // 4, 3))
        around, across = 2 * math.pi * torch.rand(2, count - count // 4)
        normal = torch.stack([across.cos() * around.cos(), across.cos() * around.sin(), across.sin()], 1)
        middle = torch.stack([ring * around.cos(), ring * around.sin(), torch.full_like(around, low)], 1)
        return torch.cat([ball * radius + centre, middle + tube * normal]), torch.cat([ball, normal])

    return distance, sample


SHAPES = {
    "circles": circles,
    "rectangle": lambda: polygon([(-0.66, -0.2), (0.38, -0.62), (0.66, 0.2), (-0.38, 0.62)]),
    "star": lambda: star(5, 0.35, 0.8),
    "gear": lambda: star(9, 0.5, 0.75),
    "torus": sphere_and_torus,
}

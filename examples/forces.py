"""Energies and forces of atoms: which activation for a potential whose gradient is what counts?

    gem-act compare examples/forces.py:train --activations silu tanh gem "gem(n=2)" \
      --metric force_error --better lower --seeds 10 --out runs/forces

A network maps what an atom sees of its neighbours to its energy; forces are minus the gradient of their sum, and enter
the loss, so that training differentiates the network twice. The truth is ASE's effective-medium theory of copper
(`pip install ase`): clusters of a few atoms, shaken. After training, atoms move by the learnt forces without
friction: where the forces are the gradient of a smooth energy, the total energy stays what it was. One run takes some
40 seconds on a core.
"""

import math

import numpy as np
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.cluster import Octahedron
from torch import Tensor, nn

from gem_activations.lab import Run

CUTOFF, CENTRES = 5.5, torch.linspace(1.8, 5.2, 12)  # Angstrom
MASS = 63.546 * 103.6427  # A copper atom's, in eV fs^2 / Angstrom^2.


def draw_clusters(count: int, generator: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return positions (count, atoms, 3) in Angstrom, energies (count,) in eV and forces (count, atoms, 3)."""
    base = Octahedron("Cu", 3, cutoff=1)
    positions, energies, forces = [], [], []
    for _ in range(count):
        atoms = Atoms(base, calculator=EMT())
        atoms.positions += generator.normal(0, 0.12, atoms.positions.shape)
        positions.append(atoms.positions)
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    first, second, third = (torch.tensor(np.array(part)).float() for part in (positions, energies, forces))
    return first, second, third


class Potential(nn.Module):
    """The energy as a sum over atoms of a network of radial and angular-free descriptors, cut off smoothly."""

    def __init__(self, run: Run, width: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(len(CENTRES), width),
            run.activation(),
            nn.Linear(width, width),
            run.activation(),
            nn.Linear(width, 1),
        )

    def forward(self, positions: Tensor) -> Tensor:
        """Map positions (N, atoms, 3) to energies (N,)."""
        apart = positions[:, :, None] - positions[:, None]
        same = torch.eye(positions.shape[1], dtype=torch.bool)
        distance = (apart.square().sum(-1) + same).sqrt()
        fade = torch.where(distance < CUTOFF, 0.5 + 0.5 * torch.cos(math.pi * distance / CUTOFF), 0.0).masked_fill(
            same, 0
        )
        near = torch.exp(-6.0 * (distance[..., None] - CENTRES).square()) * fade[..., None]
        return self.network(near.sum(2) - 1.0).squeeze(-1).sum(-1)


def force_of(model: nn.Module, positions: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor]:
    """Return energies and forces, the latter differentiable if `create_graph`."""
    positions = positions.detach().requires_grad_()
    energy = model(positions)
    (slope,) = torch.autograd.grad(energy.sum(), positions, create_graph=create_graph)
    return energy, -slope


def energy_drift(model: nn.Module, start: Tensor, steps: int = 400, step: float = 4.0) -> float:
    """Return how far the total energy strays, in meV an atom: the largest distance from its start, in NVE by Verlet."""
    generator = torch.Generator().manual_seed(2)
    velocity = torch.randn(start.shape, generator=generator) * math.sqrt(300 * 8.617e-5 / MASS)
    position, totals = start, []
    energy, force = force_of(model, position)
    for _ in range(steps):
        velocity = velocity + 0.5 * step * force / MASS
        position = position + step * velocity
        energy, force = force_of(model, position)
        velocity = velocity + 0.5 * step * force / MASS
        totals.append(energy.detach() + 0.5 * MASS * velocity.square().sum((1, 2)))
    total = torch.stack(totals)
    return float(1000 * (total - total[0]).abs().amax(0).mean() / start.shape[1])


def train(
    run: Run, steps: int = 1500, width: int = 64, learning_rate: float = 3e-3, scored: int = 10_000
) -> dict[str, float]:
    """Learn the potential; return its errors of force and energy on clusters drawn by `scored`, and the drift."""
    torch.set_flush_denormal(True)
    positions, energies, forces = draw_clusters(600, np.random.default_rng(run.seed))
    shift, scale = energies.mean(), forces.std()
    model = Potential(run, width)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        chosen = torch.randint(len(positions), (16,))
        energy, force = force_of(model, positions[chosen], create_graph=True)
        off_energy = ((energy - energies[chosen] + shift) / positions.shape[1]).square().mean()
        loss = ((force - forces[chosen]) / scale).square().mean() + off_energy
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    positions, energies, forces = draw_clusters(200, np.random.default_rng(scored))
    energy, force = force_of(model, positions)
    return {
        "force_error": float((force - forces).norm() / forces.norm()),
        "energy_error_mev": float(1000 * (energy.detach() - energies + shift).abs().mean() / positions.shape[1]),
        "energy_drift_mev": energy_drift(model, positions[:8]),
        "loss": float(loss.detach()),
    }

"""A small denoising diffusion model of digits: which activation for a network that predicts noise?

    gem-act compare examples/diffusion.py:train --activations relu gelu silu mish gem "gem(n=2)" \
      --metric denoising_loss --better lower --seeds 10 --out runs/diffusion

A digit of 8x8 pixels is mixed with Gaussian noise, more of it at a later time; the network sees mixture and time and
guesses the noise (Ho et al. 2020, arXiv:2006.11239). The figure is the mean square of the error on digits not seen,
with the same noise and times for every run. After training the network draws digits from noise alone, step by step
(Song et al. 2021, arXiv:2010.02502); `--picture` writes them to the run's folder. One run takes four seconds on a
core.
"""

import math
from itertools import pairwise

import torch
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from torch import Tensor, nn

from gem_activations.lab import Run

FREQUENCIES = math.pi * 2.0 ** torch.arange(6)


class Denoiser(nn.Module):
    """Guess the noise in a mixture: a residual network over its pixels, to which each block adds the time."""

    def __init__(self, run: Run, width: int, blocks: int = 3) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(64, width), nn.Linear(width, 64)
        self.time = nn.Sequential(nn.Linear(2 * len(FREQUENCIES), width), run.activation(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), run.activation(), nn.Linear(width, width))
            for _ in range(blocks)
        )

    def forward(self, mixture: Tensor, time: Tensor) -> Tensor:
        """Map mixtures (N, 64) and times (N, 1) between 0 and 1 to noise (N, 64)."""
        angle = time * FREQUENCIES
        when = self.time(torch.cat([angle.sin(), angle.cos()], 1))
        x = self.enter(mixture)
        for block in self.blocks:
            x = x + block(x + when)
        return self.leave(x)


def mix(clean: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Return the mixture at a time: all digit at 0, all noise at 1, of variance 1 in between."""
    return (time * math.pi / 2).cos() * clean + (time * math.pi / 2).sin() * noise


def denoising_loss(model: nn.Module, clean: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return the mean square of the error of the guessed noise, over times spread evenly."""
    noise = torch.randn(clean.shape, generator=generator)
    time = (torch.arange(len(clean))[:, None] + torch.rand(len(clean), 1, generator=generator)) / len(clean)
    return (model(mix(clean, noise, time), time) - noise).square().mean()


@torch.no_grad()
def draw(model: nn.Module, count: int, steps: int = 50) -> Tensor:
    """Return digits (count, 64) drawn from noise, without noise added on the way (DDIM)."""
    x = torch.randn(count, 64, generator=torch.Generator().manual_seed(3))
    times = torch.linspace(0.98, 0.0, steps + 1)
    for now, then in pairwise(times):
        noise = model(x, now.expand(count, 1))
        clean = (x - (now * math.pi / 2).sin() * noise) / (now * math.pi / 2).cos()
        x = mix(clean.clamp(-1.5, 2.5), noise, then)
    return x


def train(
    run: Run,
    steps: int = 600,
    width: int = 128,
    learning_rate: float = 2e-3,
    scored: str = "test",
    picture: bool = False,
) -> dict[str, float]:
    """Learn to denoise; return the loss on digits not seen, those for the "test" or for the "validation"."""
    pixels = torch.from_numpy(load_digits().data).float()
    pixels = (pixels - pixels.mean()) / pixels.std()
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))  # The same split for every run.
    digits, validation, test = pixels[order].split([1197, 300, 300])
    model = Denoiser(run, width)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = denoising_loss(model, digits[torch.randint(len(digits), (128,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    held = test if scored == "test" else validation
    with torch.no_grad():
        found = denoising_loss(model, held.repeat(20, 1), torch.Generator().manual_seed(1))
    if picture:
        drawn = draw(model, 64).clamp(pixels.min(), pixels.max()).reshape(8, 8, 8, 8)
        framed = nn.functional.pad(drawn, (1, 1, 1, 1), value=float(pixels.min()))
        sheet = framed.transpose(1, 2).reshape(80, 80)
        plt.imsave(run.folder / "digits.png", sheet.repeat_interleave(4, 0).repeat_interleave(4, 1), cmap="gray_r")
    return {"denoising_loss": float(found), "loss": float(loss.detach())}

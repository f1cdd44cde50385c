"""A training function of a user's own, and how the tests read what its comparison stored."""

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gem_activations.lab import Run
from gem_activations.lab.store.comparison import run_folder

SOURCE = """
import torch
from torch import nn


class Snake(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x + torch.sin(self.a * x) ** 2 / self.a


def train(run, width: int = 4, names: tuple[str, ...] = ("a",)):
    model = nn.Sequential(nn.Linear(2, width), run.activation(), nn.Linear(width, 1))
    return {"loss": model(torch.ones(1, 2)).square().mean(), "parameters": sum(p.numel() for p in model.parameters())}


def broken(run):
    raise RuntimeError("mat1 and mat2 do not fit")


def no_run(model):
    return {"loss": 0.0}


def no_default(run, width):
    return {"loss": 0.0}


def clash(run, seeds: int = 3):
    return {"loss": 0.0}
"""


class Snake(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.sin(self.a * x) ** 2 / self.a


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0))
    return x, (x.prod(1, keepdim=True) > 0).float()


def train(run: Run, width: int = 8, epochs: int = 4) -> dict[str, Any]:
    """Train with dropout, so that the random state matters; the seed and epoch `STOP` is interrupted."""
    x, y = data()
    model = nn.Sequential(nn.Linear(2, width), run.activation(), nn.Dropout(0.3), nn.Linear(width, 1)).to(run.device)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for epoch in run.epochs(epochs, model=model, optimizer=optimizer, schedule=schedule):
        if (run.seed, epoch) == STOP:
            raise KeyboardInterrupt
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        run.log(train_loss=loss, noise=random.random() + np.random.random())
    return {"loss": run.metrics[-1]["train_loss"], "weight": model[0].weight.sum()}


STOP = (-1, -1)
WISH: dict[str, Any] = {"metric": "loss", "better": "lower", "seeds": 2}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def logged(folder: Path, activation: str, seed: int) -> list[dict[str, float]]:
    lines = (run_folder(folder, activation, seed) / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]

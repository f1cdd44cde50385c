"""Time training through run.epochs, with its checkpoints and logging, against the bare loop, in interleaved pairs.

Run: python benchmarks/lab_epochs.py [--steps 200] [--epochs 5] [--pairs 9]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from gem_activations.lab import Run

DEVICE = torch.device("cpu")


def train(
    loop: Iterable[int], run: Run | None, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int
) -> float:
    x, y = torch.randn(64, 784), torch.randint(10, (64,))
    started = time.perf_counter()
    for _ in loop:
        loss = torch.zeros(())
        for _ in range(steps):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if run:
            run.log(loss=loss)
    return time.perf_counter() - started


def measure(steps: int, epochs: int, logged: bool) -> float:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(model.parameters())
    if not logged:
        return train(range(epochs), None, model, optimizer, steps)
    with tempfile.TemporaryDirectory() as folder:
        run = Run("gelu", 0, DEVICE, Path(folder), nn.GELU)
        return train(run.epochs(epochs, model=model, optimizer=optimizer), run, model, optimizer, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="steps of an epoch (default 200)")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ratios: list[float] = []
    for pair in range(options.pairs):
        order = (True, False) if pair % 2 else (False, True)
        seconds = {logged: measure(options.steps, options.epochs, logged) for logged in order}
        ratios.append(seconds[True] / seconds[False])
    low, median, high = statistics.quantiles(ratios, n=4)
    print(f"run.epochs / bare loop: {median:.4f} (quartiles {low:.4f} to {high:.4f}, {options.pairs} pairs)")


if __name__ == "__main__":
    main()

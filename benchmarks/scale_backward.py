"""Time the backward pass of a learnt scale beside that of a fixed one, as PReLU's beside LeakyReLU's.

    OMP_NUM_THREADS=1 python benchmarks/scale_backward.py

Each round times all arms one after the other in one process; what is printed is the median over the rounds of each
ratio, with the quartiles.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from gem_activations.torch import EGEM

PAIRS = {
    "EGEM(n=1), learnt / fixed": (EGEM(trainable=True), EGEM(save="input")),
    "EGEM(n=2), learnt / fixed": (EGEM(n=2, trainable=True), EGEM(n=2, save="input")),
    "PReLU / LeakyReLU": (nn.PReLU(), nn.LeakyReLU()),
    "EGEM(n=1) of 64 channels": (EGEM(trainable=True, channels=64), EGEM(save="input")),
    "PReLU of 64 channels": (nn.PReLU(64), nn.LeakyReLU()),
}


def timed(part: str, module: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> Callable[[], float]:
    """Return a function that times one forward or backward pass, in seconds."""

    def once() -> float:
        x.grad = None
        module.zero_grad()
        started = time.perf_counter()
        y = module(x)
        middle = time.perf_counter()
        if part == "forward":
            return middle - started
        y.backward(grad)
        return time.perf_counter() - middle

    return once


def main() -> None:
    """Print a line for each size, part and pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[2**14, 2**20])
    parser.add_argument("--rounds", type=int, default=400)
    options = parser.parse_args()
    for size in options.sizes:
        x, grad = torch.randn(size // 64, 64, requires_grad=True), torch.randn(size // 64, 64)
        for part in ("forward", "backward"):
            for name, pair in PAIRS.items():
                learnt, fixed = (timed(part, module, x, grad) for module in pair)
                ratios = []
                for number in range(options.rounds + 20):
                    # Alternately first: what runs second finds its data in the cache.
                    first, second = (learnt, fixed) if number % 2 else (fixed, learnt)
                    times = {first: first(), second: second()}
                    ratios.append(times[learnt] / times[fixed])
                low, middle, high = statistics.quantiles(ratios[20:], n=4)
                print(f"2^{size.bit_length() - 1} {part:8} {name:26} {middle:.2f} ({low:.2f} .. {high:.2f})")


if __name__ == "__main__":
    main()

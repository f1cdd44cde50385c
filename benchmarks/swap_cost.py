"""Time blocks whose F.gelu a swap serves while their forward runs, beside the same blocks with a module in its place.

    python benchmarks/swap_cost.py

Twelve blocks, forward and backward, on one thread; rounds of both alternate in one process. Printed is the median of
their quotients for each width and number of rows: what the TorchFunctionMode around each forward costs.
"""

import statistics
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from gem_activations.torch import GEM, swap


class Calls(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(functional.gelu(self.wide(x)))


class Holds(Calls):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = GEM(save="input")

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.act(self.wide(x)))


def time_step(model: nn.Module, x: Tensor) -> float:
    start = time.perf_counter()
    model(x).sum().backward()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    for width, rows, rounds in ((16, 8, 300), (64, 64, 200), (256, 256, 60)):
        calls, holds = (nn.Sequential(*(kind(width) for _ in range(12))) for kind in (Calls, Holds))
        swap(calls, {functional.gelu: "gem"})
        x = torch.randn(rows, width)
        quotients = [time_step(calls, x) / time_step(holds, x) for _ in range(rounds)]
        print(f"width {width:3}, {rows:3} rows: {statistics.median(quotients):.3f}")


if __name__ == "__main__":
    main()

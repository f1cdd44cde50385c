"""Time training steps of a model that is watched by DeadUnitMonitor beside the same model that is not.

    python benchmarks/monitor_cost.py --out benchmarks/results/monitor_cost.jsonl

A step makes no batch: it runs forward, backward and the optimiser. Each round takes `looks` times INTERVAL steps of one
model with a new monitor, and as many without it, in alternating order. `overhead` is the quotient of the two less 1:
median and quartiles over the rounds. The first look of a monitor costs more than the others; where a step is short, a
round is a whole window, as in training.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from gem_activations.bench.blocks import gpt2_block
from gem_activations.bench.timing import _keep_freed_memory
from gem_activations.lab.models import ResNet
from gem_activations.lab.store.environment import describe_environment
from gem_activations.torch import make_activation
from gem_activations.torch.monitor import DeadUnitMonitor
from gem_activations.torch.monitor.watching import INTERVAL, WINDOW

Make = Callable[[Callable[[], nn.Module]], nn.Module]


def small_mlp(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), activation(), nn.Linear(256, 256), activation(), nn.Linear(256, 10))


class Case(NamedTuple):
    """A model to time: how it is made, the shape of its input, rounds, looks of a round."""

    make: Make
    shape: tuple[int, ...]
    rounds: int
    looks: int


CASES = {
    "ResNet-56, batch 16": Case(lambda activation: ResNet(9, 10, activation), (16, 3, 32, 32), 20, 1),
    "GPT-2 block, 256 tokens": Case(gpt2_block, (1, 256, 768), 20, 1),
    "MLP 64-256-256-10, batch 128": Case(small_mlp, (128, 64), 40, WINDOW),
}
# The processor time of all threads says nothing of a step with several: take one thread with it.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


class Trainer:
    """A model with its optimiser, and the seconds of a step."""

    def __init__(self, model: nn.Module, x: torch.Tensor, clock: Callable[[], float]) -> None:
        self.model, self.x, self.clock = model, x, clock
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step(self, monitor: DeadUnitMonitor | None = None) -> float:
        started = self.clock()
        self.optimizer.zero_grad()
        self.model(self.x).square().mean().backward()
        self.optimizer.step()
        if monitor is not None:
            monitor.step()
        return self.clock() - started


def measure(name: str, activation: str, rounds: int, clock: Callable[[], float]) -> dict[str, object]:
    case = CASES[name]
    torch.manual_seed(0)
    trainer = Trainer(case.make(lambda: make_activation(activation)), torch.randn(case.shape), clock)
    steps_of_round = case.looks * INTERVAL

    def watched() -> float:
        with DeadUnitMonitor(trainer.model) as monitor:
            return sum(trainer.step(monitor) for _ in range(steps_of_round))

    def bare() -> float:
        return sum(trainer.step() for _ in range(steps_of_round))

    overheads, steps = [], []
    for number in range(-1, rounds):
        # One model in one place of memory; which of the two comes first alternates.
        order = (watched, bare) if number % 2 else (bare, watched)
        seconds = {call: call() for call in order}
        if number >= 0:  # The first round warms up.
            overheads.append(seconds[watched] / seconds[bare] - 1)
            steps.append(seconds[bare] / steps_of_round)
    monitor = DeadUnitMonitor(trainer.model)
    trainer.step(monitor)
    monitor.close()
    started = clock()
    monitor.report()
    return {
        "model": name,
        "activation": activation,
        "interval": INTERVAL,
        "rounds": rounds,
        "looks": case.looks,
        "step_ms": 1e3 * statistics.median(steps),
        "report_ms": 1e3 * (clock() - started),
        **summary("overhead", overheads),
    }


def summary(name: str, values: list[float]) -> dict[str, object]:
    low, median, high = statistics.quantiles(values, n=4)
    return {name: median, f"{name}_quartiles": [low, high]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file of JSON lines to append the result to")
    parser.add_argument("--activations", nargs="+", default=["relu", "gem"])
    parser.add_argument("--share", type=float, default=1.0, help="share of the rounds to make (default 1)")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="cpu: where the machine is shared")
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--note", default="", help="kept with the result, such as what else the machine was doing")
    options = parser.parse_args()
    _keep_freed_memory()  # Else a step may pay for pages that the one before it gave back.
    print(f"{'model':30} {'activation':10} {'step, ms':>9} {'overhead':>9}   quartiles")
    rows = []
    for name in options.models:
        for activation in options.activations:
            rounds = max(4, round(CASES[name].rounds * options.share))
            row = {"clock": options.clock, **measure(name, activation, rounds, CLOCKS[options.clock])}
            rows.append(row)
            low, high = row["overhead_quartiles"]  # pyright: ignore[reportGeneralTypeIssues] -- two numbers, set above
            print(
                f"{name:30} {activation:10} {row['step_ms']:9.3f} {row['overhead']:9.2%}   {low:.2%} to {high:.2%}",
                flush=True,
            )
    if options.out:
        record = {"environment": describe_environment(torch.device("cpu")), "note": options.note, "rows": rows}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()

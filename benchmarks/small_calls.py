"""Time small calls beside ReLU by each route to the kernels: nodes in C++, nodes in Python run from C, the long way.

Run: OMP_NUM_THREADS=1 taskset -c 1 python benchmarks/small_calls.py --out benchmarks/results/small_calls.jsonl

Each route has a process of its own, in which E-GEM (n = 1, eps = 1e-4) and ReLU alternate on the same data; the figure
is the median of the ratios of the pairs. "call" is 256 elements without gradient, "both passes" 4,096 elements with a
given gradient, "digits" steps of `gem-act compare digits` with its MLP on noise, "eikonal" a step of an 8 x 256 MLP
with an Eikonal loss on 256 points.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from lab_step import CASES, lab_chunk, noise_task
from torch import Tensor, nn
from torch.nn import functional

from gem_activations.bench.second_order import eikonal_loss
from gem_activations.bench.timing import sample_in_turn, summarize
from gem_activations.errors import BackendError
from gem_activations.files import write_atomically
from gem_activations.lab.recipes.registry import make_recipe
from gem_activations.lab.store.environment import describe_environment
from gem_activations.lab.training.trainer import Trainer
from gem_activations.torch import EGEM, autograd, backends, egem
from gem_activations.torch import functional as ours

ROUTES = ("C++", "C", "long")
Act = Callable[[Tensor], Tensor]
Step = Callable[[], object]


def take(route: str) -> None:
    """Let all calls of this process go one route.

    Raises: BackendError: it is not there.
    """
    kernels = backends.load_cpu()
    there = kernels is not None and {"C++": backends.load_nodes()[0], "C": kernels.module, "long": True}[route]
    if not there:
        raise BackendError(f"the route {route} is not there: {backends.backend_info()['cpu']}")
    if route == "C":
        autograd.load_nodes = lambda: (None, "left out")
    elif route == "long":
        ours.short_way = lambda: None


def call(act: Act) -> Step:
    x = torch.randn(256)
    return lambda: act(x)


def both_passes(act: Act) -> Step:
    x, grad = torch.randn(4096, requires_grad=True), torch.randn(4096)

    def step() -> None:
        x.grad = None
        act(x).backward(grad)

    return step


def digits(act: Act) -> Step:
    case, recipe = CASES[0], make_recipe("digits", "mlp", "full")
    task = noise_task(recipe, case)
    chunk = lab_chunk(Trainer(recipe, "relu" if act is functional.relu else "egem(eps=1e-4)", 0, task), case.steps)
    batches = torch.arange(task.sizes["train"]).split(recipe.training.batch_size)[: case.steps]
    return lambda: chunk(batches)


def eikonal(act: Act) -> Step:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width in (3, *(256,) * 7):
        layers += [nn.Linear(width, 256), nn.ReLU() if act is functional.relu else EGEM(eps=1e-4)]
    network = nn.Sequential(*layers, nn.Linear(256, 1))
    points, weights = torch.randn(256, 3, requires_grad=True), list(network.parameters())
    return lambda: torch.autograd.grad(eikonal_loss(network, points), weights)


WORK: dict[str, Callable[[Act], Step]] = {
    "call": call,
    "both passes": both_passes,
    "digits": digits,
    "eikonal": eikonal,
}


def measure(route: str, work: str) -> dict[str, object]:
    make = WORK[work]
    steps = {"gem": make(lambda x: egem(x, eps=1e-4)), "relu": make(functional.relu)}
    with torch.set_grad_enabled(work != "call"):
        samples = sample_in_turn({name: lambda _, step=step: step() for name, step in steps.items()}, seconds=4)
    ratio = summarize([gem / relu for gem, relu in zip(samples["gem"], samples["relu"], strict=True)])
    seconds = {f"{name}_seconds": summarize(values).median for name, values in samples.items()}
    return {"route": route, "work": work, "ratio": ratio.median, "low": ratio.low, "high": ratio.high} | {
        **seconds,
        "pairs": ratio.rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=ROUTES)
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_process:
        (route,) = arguments.routes
        take(route)
        for work in WORK:
            print(json.dumps(measure(route, work)), flush=True)
        return
    lines = [json.dumps({"row": "environment", **describe_environment(torch.device("cpu")), "command": sys.argv})]
    for route in arguments.routes:
        command = [sys.executable, __file__, "--in-process", "--routes", route]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        for line in done.stdout.splitlines():
            row = json.loads(line)
            print(
                f"{row['route']:5} {row['work']:12} {row['ratio']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
                flush=True,
            )
            lines.append(line)
    if arguments.out is not None:
        write_atomically(arguments.out, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()

"""Measure networks that are differentiated twice on a GPU: an Eikonal step and a Laplacian, by activation.

    PYTHONPATH=src python benchmarks/gpu_second_order.py --out benchmarks/results/gpu_second_order.jsonl

Eikonal: an 8 x 256 network on 2^16 points of space, float32, loss (|grad u| - 1)^2 + u^2, one step of gradients of the
weights. Laplacian: a 4 x 128 network on 2^14 points, loss (sum of second derivatives)^2, eager. The kernels are checked
first, and a wrong one ends the run.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gpu_measuring as measuring
import torch
from torch import Tensor, nn

from gem_activations.torch import EGEM, GEM, SEGEM

Factory = Callable[[], nn.Module]
ARMS: dict[str, Factory] = {
    "softplus(100)": lambda: nn.Softplus(beta=100),
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "egem": EGEM,
    "egem from output": lambda: EGEM(save="output"),
    "gem(n=1)": GEM,
    "gem(n=2)": lambda: GEM(n=2),
    "gem(n=2) from output": lambda: GEM(n=2, save="output"),
    "segem": SEGEM,
    "egem plain": lambda: EGEM(backend="plain"),
}
WORKS = {"eikonal": (8, 256, 1 << 16), "laplacian": (4, 128, 1 << 14)}
"""Hidden layers, their width, and points."""


def main() -> None:
    arguments = _arguments()
    report = measuring.Report(arguments.out, arguments.seconds)
    import gpu_correctness

    report.add(kind="check", comparisons=gpu_correctness.check_kernels((0, 1, 37, 4097, 1 << 20)))
    for work in WORKS:
        for name, factory in ARMS.items():
            if report.has_time() and not (work == "laplacian" and name == "relu"):  # It has no second derivative.
                report.add(kind="step", work=work, name=name, **measure(work, factory, "cuda"))
    report.close(summary(report.rows))


def measure(work: str, factory: Factory, device: str) -> dict[str, Any]:
    """Return the seconds of a step, and the bytes that its graph keeps beyond the weights at the loss."""
    layers, width, points = WORKS[work]
    model, x = make_model(factory, layers, width, device), torch.rand(points, 3, device=device) * 2 - 1
    loss_of = {"eikonal": eikonal_loss, "laplacian": laplacian_loss}[work]
    parameters = list(model.parameters())
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    loss = loss_of(model, x)
    kept = torch.cuda.memory_allocated() - before
    del loss
    times = measuring.time_call(lambda _: torch.autograd.grad(loss_of(model, x), parameters, allow_unused=True))
    return {"kept_bytes": kept, **times}


def make_model(factory: Factory, layers: int, width: int, device: str) -> nn.Module:
    torch.manual_seed(0)
    sizes = [3, *[width] * layers, 1]
    parts: list[nn.Module] = []
    for size, following in pairwise(sizes):
        parts += [nn.Linear(size, following), factory()]
    return nn.Sequential(*parts[:-1]).to(device)


def eikonal_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Return the mean of (|grad u| - 1)^2 + u^2: a network that is a distance has slope 1."""
    x = x.detach().requires_grad_()
    value = model(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return (slope.norm(dim=1) - 1).square().mean() + value.square().mean()


def laplacian_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Return the mean square of the Laplacian of u, by one more backward pass for each dimension of space."""
    x = x.detach().requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    total = torch.zeros(len(x), device=x.device)
    for dimension in range(x.shape[1]):
        (second,) = torch.autograd.grad(slope[:, dimension].sum(), x, create_graph=True)
        total = total + second[:, dimension]
    return total.square().mean()


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table by work and activation: milliseconds, ratios to Softplus(100) and SiLU, MiB that are kept."""
    steps = {(row["work"], row["name"]): row for row in rows if row["kind"] == "step"}
    lines = []
    for (work, name), row in steps.items():
        ratios = [f"{row['seconds'] / steps[work, peer]['seconds']:.3f}" for peer in ("softplus(100)", "silu")]
        lines.append([work, name, f"{row['seconds'] * 1e3:.2f}", *ratios, f"{row['kept_bytes'] / 2**20:.0f}"])
    return measuring.table(["work", "name", "ms", "to softplus(100)", "to silu", "kept MiB"], lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("gpu_second_order.jsonl"), help="file of JSON lines to append to"
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="time for the rows; checks come before")
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""Rows of the benchmark for networks that are differentiated twice: signed distances, physics, Hessian products."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..spec import GemSpec
from ..torch import EGEM, GEM, SEGEM
from .elementwise import WrongResultError
from .timing import Call, Timing, sample_in_turn, summarize

Factory = Callable[[], nn.Module]
ARMS: dict[str, Factory] = {
    "egem": EGEM,
    "gem(n=1)": GEM,
    "gem(n=2)": lambda: GEM(n=2),
    "segem": SEGEM,
    "softplus(100)": lambda: nn.Softplus(beta=100),
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}
PEERS = ("softplus(100)", "silu", "tanh", "relu", "copy")
PASS_SIZE = 1 << 22


@dataclass(frozen=True)
class Work:
    """A loss whose gradient by the weights is timed: hidden layers, their width, dimensions of space, points."""

    title: str
    loss: Callable[[nn.Module, Tensor], Tensor]
    layers: int
    width: int
    dimensions: int
    points: int
    compiled: bool = False


def eikonal_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Return the mean of (|grad u| - 1)^2 + u^2."""
    value = model(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return (slope.norm(dim=1) - 1).square().mean() + value.square().mean()


def eikonal_loss_by_transforms(model: nn.Module, x: Tensor) -> Tensor:
    """Return the same with torch.func.vjp, which torch.compile takes."""
    value, pull, *_ = torch.func.vjp(model, x.detach())
    (slope,) = pull(torch.ones_like(value))
    return (slope.norm(dim=1) - 1).square().mean() + value.square().mean()


def laplacian_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Return the mean square of the Laplacian, by one more backward pass for each dimension of space."""
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    total = torch.zeros(len(x))
    for dimension in range(x.shape[1]):
        (second,) = torch.autograd.grad(slope[:, dimension].sum(), x, create_graph=True)
        total = total + second[:, dimension]
    return total.square().mean()


def laplacian_loss_by_hessian(model: nn.Module, x: Tensor) -> Tensor:
    """Return the same by vmap of torch.func.hessian."""
    hessians: Any = torch.func.vmap(torch.func.hessian(lambda point: model(point).squeeze(-1)))(x.detach())
    return hessians.diagonal(dim1=1, dim2=2).sum(1).square().mean()


def laplacian_loss_forward_over_reverse(model: nn.Module, x: Tensor) -> Tensor:
    """Return the same by torch.func.jvp over torch.func.grad, one direction at a time."""
    slope = torch.func.grad(lambda point: model(point).squeeze(-1))

    def laplacian(point: Tensor) -> Tensor:
        parts = [torch.func.jvp(slope, (point,), (axis,))[1] for axis in torch.eye(point.shape[0])]
        return torch.stack([part[k] for k, part in enumerate(parts)]).sum()

    return torch.func.vmap(laplacian)(x.detach()).square().mean()


def hessian_product_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Return the squared norm of the gradient of a loss, whose gradient is twice a Hessian-vector product."""
    gradients = torch.autograd.grad(model(x).square().mean(), list(model.parameters()), create_graph=True)
    return torch.stack([gradient.square().sum() for gradient in gradients]).sum()


WORKS = {
    "eikonal": Work("Eikonal step, 8 x 256, 1,024 points", eikonal_loss, 8, 256, 3, 1024),
    "eikonal-256": Work("Eikonal step, 8 x 256, 256 points", eikonal_loss, 8, 256, 3, 256),
    "eikonal-4096": Work("Eikonal step, 8 x 256, 4,096 points", eikonal_loss, 8, 256, 3, 4096),
    "laplacian": Work("Laplacian, 4 x 128, 256 points, eager", laplacian_loss, 4, 128, 2, 256),
    "laplacian-hessian": Work("Laplacian by vmap of hessian", laplacian_loss_by_hessian, 4, 128, 2, 256),
    "laplacian-forward": Work("Laplacian, forward over reverse", laplacian_loss_forward_over_reverse, 4, 128, 2, 256),
    "hessian-product": Work("Hessian-vector product, 8 x 256, 1,024 points", hessian_product_loss, 8, 256, 3, 1024),
    "eikonal-compiled": Work("Eikonal step, compiled", eikonal_loss_by_transforms, 8, 256, 3, 1024, compiled=True),
}


def measure_second_order(
    compiled: bool, seconds: float, works: tuple[str, ...] = tuple(WORKS)
) -> Iterator[dict[str, Any]]:
    """Yield a row for each work and activation, then for the pass of second order alone.

    Args:
        compiled: Time compiled code too.
        seconds: Wanted length of the timing of each work.
        works: Keys of WORKS.
    Raises: WrongResultError: a second derivative misses the oracle's by more than its bound.
    """
    for name, factory in ARMS.items():
        if "gem" in name:
            _check(name, factory())
    # Derivatives far from the transition are subnormal, Softplus's above all, and take a processor up to twenty times
    # as long. That is left out, for all of them.
    torch.set_flush_denormal(True)
    try:
        for key in works:
            work = WORKS[key]
            if compiled or not work.compiled:
                yield from _rows(key, work.title, {name: _step(work, make) for name, make in ARMS.items()}, seconds)
        title = f"pass of second order alone, 2^{PASS_SIZE.bit_length() - 1} float32"
        yield from _rows("pass", title, _passes(), seconds)
    finally:
        torch.set_flush_denormal(False)


def _step(work: Work, factory: Factory) -> Call:
    torch.manual_seed(0)
    activation = factory()
    # Every network with the gain of its activation, so that none is timed on numbers that vanish.
    gain = float(activation(torch.randn(1 << 16)).square().mean() ** -0.5)
    parts: list[nn.Module] = []
    for size, following in pairwise([work.dimensions, *[work.width] * work.layers, 1]):
        linear = nn.Linear(size, following)
        nn.init.normal_(linear.weight, std=gain * size**-0.5)
        parts += [linear, factory()]
    model = nn.Sequential(*parts[:-1])
    parameters = list(model.parameters())
    x = (torch.rand(work.points, work.dimensions) * 2 - 1).requires_grad_()
    loss: Any = torch.compile(work.loss) if work.compiled else work.loss

    def step(_: int) -> None:
        torch.autograd.grad(loss(model, x), parameters, allow_unused=True)

    return step


def _passes() -> dict[str, Call]:
    x, grad, grad_grad = (torch.randn(PASS_SIZE) for _ in range(3))
    half = x[: PASS_SIZE // 2]

    def copy(_: int) -> None:
        """Read and write as many bytes as three inputs and two outputs have."""
        for source in (x, grad, half):
            source.clone()

    calls: dict[str, Call] = {"copy": copy}
    for name, factory in ARMS.items():
        leaf, upstream = x.clone().requires_grad_(), grad.clone().requires_grad_()
        (slope,) = torch.autograd.grad(factory()(leaf), leaf, upstream, create_graph=True)
        # What the first backward pass was differentiated by: the output if that was kept, else the input.
        following: Any = slope.grad_fn and slope.grad_fn.next_functions
        edges = [edge for edge in following if edge[0] is not None and "Activation" in edge[0].name()]
        kept: Any = torch.autograd.graph.GradientEdge(*edges[0]) if edges else leaf
        inputs = (upstream,) if name == "relu" else (upstream, kept)

        def call(_: int, slope: Tensor = slope, inputs: tuple[Any, ...] = inputs) -> None:
            torch.autograd.grad(slope, inputs, grad_grad, retain_graph=True)

        calls[name] = call
    return calls


def _rows(key: str, title: str, calls: dict[str, Call], seconds: float) -> Iterator[dict[str, Any]]:
    samples = sample_in_turn(calls, seconds)
    for name, own in samples.items():
        ratios = {
            peer: statistics.median(a / b for a, b in zip(own, samples[peer], strict=True))
            for peer in PEERS
            if peer in samples
        }
        timing: Timing = summarize(own)
        yield {
            "row": "second order",
            "work": key,
            "title": title,
            "name": name,
            "threads": torch.get_num_threads(),
            "seconds": timing.median,
            "low": timing.low,
            "high": timing.high,
            "rounds": timing.rounds,
            "ratios": ratios,
        }


def _check(name: str, module: Any) -> None:
    """Compare f'' with the oracle where it is largest and beyond."""
    spec: GemSpec = module.spec
    x = torch.from_numpy(spec.scale * np.geomspace(1e-2, 1e2, 1 << 14)).float().requires_grad_()
    (slope,) = torch.autograd.grad(module(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.sum(), x)
    error = np.abs(second.double().numpy() - spec.second_derivative(x.detach().double().numpy()))
    worst = float(error.max() / spec.sup_second_derivative)
    if not worst <= 1e-5:
        raise WrongResultError(f"{name}: its second derivative is off by {worst:.2e} of the largest; not timed")

"""Rows of the benchmark for learnt scales, forward and backward beside a fixed one, and PReLU beside LeakyReLU."""

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..torch import EGEM
from .elementwise import WrongResultError
from .timing import Call, sample_in_turn, summarize

PAIRS: dict[str, tuple[Callable[[int], nn.Module], nn.Module]] = {
    "egem(n=1)": (lambda channels: EGEM(trainable=True, channels=channels), EGEM(save="input")),
    "egem(n=2)": (lambda channels: EGEM(n=2, trainable=True, channels=channels), EGEM(n=2, save="input")),
    "prelu": (nn.PReLU, nn.LeakyReLU(0.25)),
}
"""What is learnt, of a number of channels, and the fixed activation that it starts as and keeps the same tensor."""


def measure_scales(sizes: list[int], seconds: float) -> Iterator[dict[str, Any]]:
    """Yield a row for each size, shape, direction and pair: seconds of both, and the ratio of each round.

    Args:
        sizes: Numbers of elements, as powers of two. One scale takes them as they are; 64 channels that lie side by
            side, and 64 of planes of 16 and of 1,024, take the sizes that they divide.
        seconds: Wanted length of the timing of a direction of a shape.
    Raises: WrongResultError: a learnt activation has another value or gradient than the fixed one.
    """
    for size in sizes:
        shapes = [(size,), *((size // 64 // inner, 64, inner)[: 2 + (inner > 1)] for inner in (1, 16, 1024))]
        for shape in (shape for shape in shapes if shape[0] > 0):
            x, grad = torch.randn(shape, requires_grad=True), torch.randn(shape)
            calls: dict[str, dict[str, Call]] = {"forward": {}, "backward": {}}
            for name, (learn, fixed) in PAIRS.items():
                learnt = learn(1 if len(shape) == 1 else 64)
                _check(name, learnt, fixed, x)
                for kind, module in (("learnt", learnt), ("fixed", fixed)):
                    leaves = [x, *module.parameters()]
                    calls["forward"][f"{name} {kind}"] = lambda _, module=module, x=x: module(x)
                    calls["backward"][f"{name} {kind}"] = partial(_backward, module(x), leaves, grad)
            for direction, both in calls.items():
                samples = sample_in_turn(both, seconds)
                for name in PAIRS:
                    learnt, fixed = samples[f"{name} learnt"], samples[f"{name} fixed"]
                    low, ratio, high = statistics.quantiles((a / b for a, b in zip(learnt, fixed, strict=True)), n=4)
                    yield {
                        "row": "scale",
                        "title": f"{direction}, {' x '.join(f'{length:,}' for length in shape)} float32",
                        "shape": shape,
                        "direction": direction,
                        "name": name,
                        "threads": torch.get_num_threads(),
                        "seconds": summarize(learnt).median,
                        "seconds_fixed": summarize(fixed).median,
                        "ratios": {"fixed": ratio},
                        "low": low,
                        "high": high,
                        "rounds": len(learnt),
                    }


def _backward(y: Tensor, leaves: list[Tensor], grad: Tensor, _: int) -> None:
    torch.autograd.grad(y, leaves, grad, retain_graph=True)


def _check(name: str, learnt: nn.Module, fixed: nn.Module, x: Tensor) -> None:
    """Compare on the very data that are timed."""
    for what, function in (("value", lambda y: y), ("gradient", lambda y: torch.autograd.grad(y.sum(), x)[0])):
        if not torch.allclose(function(learnt(x)), function(fixed(x)), rtol=1e-4, atol=1e-6):
            raise WrongResultError(f"{name}: its {what} is not that of the fixed activation; not timed")

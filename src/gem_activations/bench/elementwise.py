"""Elementwise rows of the benchmark: one activation alone, over sizes, dtypes, layouts and directions."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch._dynamo import config as dynamo_config
from torch._functorch import config as functorch_config
from torch.nn import functional

from ..errors import GemError
from ..spec import GemSpec
from ..torch import gem
from .timing import Call, Timing, time_in_turn

Function = Callable[[Tensor], Tensor]
DIRECTIONS = ("forward", "backward", "both")
LAYOUTS = ("contiguous", "channels_last")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
BUFFER_BYTES = 128 << 20
"""Rotating buffers together hold at least this much, so that a timing does not measure the cache."""

ALLOWED_ULP = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-10, torch.float32: 2.0**-23, torch.float64: 2.0**-52}


@dataclass(frozen=True)
class Case:
    """One table: what is computed on what. Sizes are numbers of elements."""

    size: int
    dtype: str
    layout: str
    direction: str


class WrongResultError(GemError):
    """A candidate gives a wrong value or gradient, so that its speed is not worth a number."""


def candidates(orders: tuple[int, ...], compiled: bool) -> dict[str, Function]:
    """Return the functions to time: rivals, then GEM of every order by each way of computing it."""
    functions: dict[str, Function] = {
        "relu": functional.relu,
        "gelu": functional.gelu,
        "gelu_tanh": partial(functional.gelu, approximate="tanh"),
        "silu": functional.silu,
        "mish": functional.mish,
    }
    if compiled:
        # A backward pass that is timed alone runs many times on one graph, which must not give its buffers away.
        functorch_config.donated_buffer = False
        # One piece of code is compiled for every order, dtype, layout and direction.
        dynamo_config.recompile_limit = 1000
        functions["relu compiled"] = _compile(functional.relu)
    for n in orders:
        functions[f"gem(n={n}) plain"] = partial(gem, n=n, backend="plain", save="input")
        functions[f"gem(n={n}) kernel from input"] = partial(gem, n=n, save="input")
        functions[f"gem(n={n}) kernel from output"] = partial(gem, n=n, save="output")
        if compiled:
            functions[f"gem(n={n}) compiled"] = _compile(partial(gem, n=n))
    return functions


def cases(sizes: list[int], dtypes: list[str], layouts: list[str], directions: list[str]) -> Iterator[Case]:
    """Return every combination; channels_last only if the size fills whole images."""
    for size in sizes:
        for dtype in dtypes:
            for layout in layouts:
                if layout == "contiguous" or size % 1024 == 0:
                    yield from (Case(size, dtype, layout, direction) for direction in directions)


def measure(case: Case, functions: dict[str, Function], seconds: float) -> dict[str, Timing]:
    """Check every GEM candidate on the case's data, then time all candidates and a copy in turn.

    Raises: WrongResultError: a candidate's value or gradient misses the oracle's by more than its bound.
    """
    dtype = DTYPES[case.dtype]
    shape, form = (case.size,), torch.preserve_format
    if case.layout == "channels_last":
        shape, form = (case.size // 1024, 16, 8, 8), torch.channels_last
    count = max(1, min(8, math.ceil(BUFFER_BYTES / (case.size * dtype.itemsize))))
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).to(dtype, memory_format=form) for _ in range(count)]
    for name, function in functions.items():
        if name.startswith("gem"):
            _check(name, function, inputs[0])
    grads = [torch.randn_like(x) for x in inputs] if case.direction != "forward" else []
    calls: dict[str, Call] = {"copy": lambda number: inputs[number % len(inputs)].clone()}
    for name, function in functions.items():
        calls[name] = _call(case.direction, function, inputs, grads)
    return time_in_turn(calls, seconds)


def _compile(function: Function) -> Function:
    # One graph for all sizes.
    return torch.compile(function, fullgraph=True, dynamic=True)


def _call(direction: str, function: Function, inputs: list[Tensor], grads: list[Tensor]) -> Call:
    count = len(inputs)
    if direction == "forward":
        return lambda number: function(inputs[number % count])
    leaves = [x.detach().requires_grad_() for x in inputs]
    if direction == "both":
        return lambda number: torch.autograd.grad(
            function(leaves[number % count]), leaves[number % count], grads[number % count]
        )
    outputs = [function(x) for x in leaves]
    return lambda number: torch.autograd.grad(
        outputs[number % count], leaves[number % count], grads[number % count], retain_graph=True
    )


def _check(name: str, function: Function, x: Tensor) -> None:
    """Compare with the oracle in float64 on at most 2^18 elements of the very data that is timed."""
    spec = GemSpec(int(name[len("gem(n=") : name.index(")")]))
    x = x.detach()[: max(1, (1 << 18) * x.shape[0] // x.numel())].clone().requires_grad_()
    y = function(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    wide = x.detach().double().numpy()
    step = ALLOWED_ULP[x.dtype]
    # A gradient from an output that was rounded to half precision is the exact one of that rounded output.
    rounded = x.dtype.itemsize == 2 and name.endswith("from output")
    point = spec.inverse(y.detach().double().numpy()) if rounded else wide
    from_output = 1e-5 if x.dtype == torch.float32 else 1e-12
    for what, got, want, allowed in (
        ("value", y, spec(wide), (2 * spec.n + 2) * step),
        ("gradient", slope, spec.derivative(point), from_output + (2 * spec.n + 2) * step),
    ):
        error = np.abs(got.detach().double().numpy() - want)
        worst = float((error / (np.abs(want) + step)).max())
        if not worst <= allowed:
            raise WrongResultError(f"{name}: its {what} is off by {worst:.2e}, {allowed:.2e} is allowed; not timed")

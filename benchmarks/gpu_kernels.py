"""Measure the Triton kernels on a GPU: the copy ceiling, correctness, then speed beside the rivals.

    PYTHONPATH=src python benchmarks/gpu_kernels.py --out benchmarks/results/gpu_kernels.jsonl
    compute-sanitizer --tool memcheck python benchmarks/gpu_kernels.py --check-only --sizes 0 1 37 4097

One call takes at most `--seconds`; what does not fit is left out and counted. A wrong kernel ends the run before
anything is timed. Rows are JSON lines with the machine, the versions and the command; a short table comes last.
"""

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gpu_measuring as measuring
import torch
from torch import Tensor
from torch.nn import functional

from gem_activations import GemSpec

SIZES = (1 << 24, 1 << 28, 1 << 20)
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
ORDERS = (1, 2, 3, 4)
PASSES = {"forward": 2, "backward": 3, "second order": 5, "glu forward": 3, "glu backward": 5}
"""How many tensors a call reads and writes at the least."""

Candidates = dict[str, Callable[..., Any]]


def main() -> None:
    arguments = _arguments()
    report = measuring.Report(arguments.out, arguments.seconds)
    import gpu_correctness

    count = gpu_correctness.check_kernels(tuple(arguments.sizes), arguments.huge)
    report.add(kind="check", comparisons=count, sizes=arguments.sizes, huge=arguments.huge)
    print(f"{count} comparisons with float64 are within their bounds", flush=True)
    if not arguments.check_only:
        ceiling = measure_ceiling(report)
        for size in SIZES:
            for dtype in DTYPES:
                for work in PASSES:
                    measure_work(report, work, size, dtype, ceiling)
    report.close(summary(report.rows))


def measure_ceiling(report: measuring.Report) -> float:
    """Return the bytes per second that a copy within the device's memory reads and writes."""
    size = 1 << 30
    pairs = [(torch.randn(size // 4, device="cuda"), torch.empty(size // 4, device="cuda")) for _ in range(2)]
    times = measuring.time_call(lambda number: pairs[number % 2][1].copy_(pairs[number % 2][0]))
    report.add(kind="ceiling", bytes=2 * size, **times)
    return 2 * size / times["seconds"]


def measure_work(report: measuring.Report, work: str, size: int, dtype: str, ceiling: float) -> None:
    """Time every candidate for one kind of work on one size and dtype."""
    moved = PASSES[work] * size * DTYPES[dtype].itemsize
    inputs = make_inputs(size, DTYPES[dtype])
    for name, function in candidates(work).items():
        if not report.has_time():
            continue
        prepared = [prepare(work, name, *tensors) for tensors in inputs]
        times = measuring.time_call(lambda number, at=prepared, run=function: run(*at[number % len(at)]))
        share = moved / times["seconds"] / ceiling
        report.add(kind="speed", work=work, size=size, dtype=dtype, name=name, share_of_copy=round(share, 4), **times)
    torch.compiler.reset()


def make_inputs(size: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return sets of x, gate and grad to rotate through."""
    count = measuring.buffer_count(3 * size * dtype.itemsize)
    return [tuple(torch.randn(size, device="cuda").to(dtype) for _ in range(3)) for _ in range(count)]  # pyright: ignore[reportReturnType]  # three of them


def prepare(work: str, name: str, x: Tensor, gate: Tensor, grad: Tensor) -> tuple[Any, ...]:
    """Return the arguments of a candidate: what its forward pass would have kept."""
    from gem_activations.kernels import triton as kernels

    if work == "forward":
        return (x,)
    if work == "glu forward":
        return (x, gate)
    if work == "glu backward":
        return (grad, x, gate)
    if work == "second order":
        # What a first backward pass kept, and the gradient of its result. ReLU's needs no more than its output.
        kept = kernels.forward(x, _spec_of(name)) if "output" in name else functional.relu(x) if name == "relu" else x
        return (gate, grad, kept)
    if name == "relu":
        return (grad, functional.relu(x))
    if "output" in name:
        return (grad, kernels.forward(x, _spec_of(name)))
    return (grad, x)


def candidates(work: str) -> Candidates:
    """Return name to function for one kind of work; GEM by kernel, GEM compiled, and the rivals."""
    makers = {
        "forward": _forward,
        "backward": _backward,
        "second order": _second_order,
        "glu forward": _glu_forward,
        "glu backward": _glu_backward,
    }
    return makers[work]()


def _forward() -> Candidates:
    from gem_activations.kernels import triton as kernels
    from gem_activations.torch import formula

    rivals: Candidates = {
        "relu": functional.relu,
        "gelu": functional.gelu,
        "gelu_tanh": partial(functional.gelu, approximate="tanh"),
        "silu": functional.silu,
        "mish": functional.mish,
    }
    compiled = {f"{name} compiled": _compile(function) for name, function in rivals.items()}
    ours: Candidates = {f"gem(n={n})": partial(kernels.forward, spec=GemSpec(n)) for n in ORDERS}
    return {**rivals, **ours, "gem(n=1) compiled": _compile(partial(formula.value, spec=GemSpec(1))), **compiled}


def _backward() -> Candidates:
    from gem_activations.kernels import triton as kernels
    from gem_activations.torch import formula

    aten = torch.ops.aten
    rivals: Candidates = {
        "relu": lambda grad, y: aten.threshold_backward(grad, y, 0),
        "gelu": aten.gelu_backward,
        "gelu_tanh": partial(aten.gelu_backward, approximate="tanh"),
        "silu": aten.silu_backward,
        "mish": aten.mish_backward,
    }
    ours: Candidates = {}
    for n in ORDERS:
        ours[f"gem(n={n}) from input"] = partial(kernels.backward, spec=GemSpec(n), from_output=False)
        ours[f"gem(n={n}) from output"] = partial(kernels.backward, spec=GemSpec(n), from_output=True)
    ours["gem(n=1) compiled"] = _compile(lambda grad, x: grad * formula.derivative(x, GemSpec(1)))
    return {**rivals, **ours}


def _second_order() -> Candidates:
    """The backward pass of a backward pass; of Softplus and SiLU by torch's own operations for it, and compiled."""
    from gem_activations.kernels import triton as kernels

    rivals: Candidates = {
        "relu": lambda grad_grad, _, y: torch.ops.aten.threshold_backward(grad_grad, y, 0),
        "softplus(100)": _softplus_second,
        "softplus(100) compiled": _compile(_softplus_second),
        "silu": _silu_second,
        "silu compiled": _compile(_silu_second),
    }
    ours: Candidates = {}
    for n in ORDERS[:2]:
        ours[f"gem(n={n}) from input"] = partial(kernels.second, spec=GemSpec(n), from_output=False)
        ours[f"gem(n={n}) from output"] = partial(kernels.second, spec=GemSpec(n), from_output=True)
    return {**rivals, **ours}


def _softplus_second(grad_grad: Tensor, grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    slope = torch.ops.aten.softplus_backward(grad_grad, x, 100, 20)
    gate = torch.sigmoid(100 * x)
    return slope, grad_grad * grad * 100 * gate * (1 - gate)


def _silu_second(grad_grad: Tensor, grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(x)
    rest = 1 - gate
    return torch.ops.aten.silu_backward(grad_grad, x), grad_grad * grad * gate * rest * (2 + x * (rest - gate))


def _glu_forward() -> Candidates:
    from gem_activations.kernels import triton as kernels

    rivals: Candidates = {"geglu": _geglu, "geglu compiled": _compile(_geglu)}
    if importlib.util.find_spec("liger_kernel"):
        from liger_kernel.ops.geglu import geglu_forward  # pyright: ignore[reportMissingImports]  # where installed

        rivals["geglu Liger"] = lambda x, gate: geglu_forward(gate, x)
    ours: Candidates = {f"gem_glu(n={n})": partial(kernels.glu_forward, spec=GemSpec(n)) for n in ORDERS}
    return {**rivals, **ours}


def _glu_backward() -> Candidates:
    from gem_activations.kernels import triton as kernels

    rivals: Candidates = {"geglu": _geglu_backward, "geglu compiled": _compile(_geglu_backward)}
    ours: Candidates = {f"gem_glu(n={n})": partial(kernels.glu_backward, spec=GemSpec(n)) for n in ORDERS}
    return {**rivals, **ours}


def _geglu(x: Tensor, gate: Tensor) -> Tensor:
    return x * functional.gelu(gate, approximate="tanh")


def _geglu_backward(grad: Tensor, x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    slope = torch.ops.aten.gelu_backward(grad * x, gate, approximate="tanh")
    return grad * functional.gelu(gate, approximate="tanh"), slope


def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, dynamic=False)


def _spec_of(name: str) -> GemSpec:
    return GemSpec(int(name.split("n=")[1].split(")")[0]))


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table by work, dtype and name: microseconds, ratio to relu or geglu, share of the copy ceiling."""
    speed = {(row["work"], row["dtype"], row["name"], row["size"]): row for row in rows if row["kind"] == "speed"}
    lines = []
    for work, dtype, name in dict.fromkeys(key[:3] for key in speed if key[1] != "float16"):
        first, second = (speed.get((work, dtype, name, size)) for size in SIZES[:2])
        base = speed.get((work, dtype, "geglu" if "glu" in work else "relu", SIZES[0]))
        time = f"{first['seconds'] * 1e6:.1f}" if first else ""
        ratio = f"{first['seconds'] / base['seconds']:.3f}" if first and base else ""
        shares = [f"{row['share_of_copy']:.3f}" if row else "" for row in (first, second)]
        lines.append([work, dtype, name, time, ratio, *shares])
    head = ["work", "dtype", "name", f"us at {SIZES[0]:,}", "to relu/geglu", "of copy", f"of copy at {SIZES[1]:,}"]
    return measuring.table(head, lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_kernels.jsonl"), help="file of JSON lines to append to")
    parser.add_argument("--seconds", type=float, default=480.0, help="time for the rows; checks come before")
    parser.add_argument("--sizes", type=int, nargs="+", default=[0, 1, 37, 4097, 1 << 20, 1 << 28], help="to check")
    parser.add_argument("--huge", action="store_true", help="check a tensor of more than 2^31 elements as well")
    parser.add_argument("--check-only", action="store_true", help="time nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()

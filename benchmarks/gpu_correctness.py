"""Are the Triton kernels right on this GPU? Every script that times them asks first.

Fresh random data, fresh memory filled with NaN, float64 as the reference, on the GPU.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from gem_activations import GemSpec
from gem_activations.kernels import triton as kernels
from gem_activations.torch import formula

ORDERS = (1, 2, 3, 4)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PART = 1 << 20
"""Elements that are compared at once: of larger tensors the beginning, the middle and the end."""


class WrongKernelError(Exception):
    """A kernel misses its bound; its speed is not worth a number."""


def check_kernels(
    sizes: tuple[int, ...], huge: bool = False, device: str = "cuda", dtypes: tuple[torch.dtype, ...] = DTYPES
) -> int:
    """Compare every kernel with float64; give the number of comparisons.

    Another device than "cuda" serves where Triton interprets.

    Raises: WrongKernelError: one misses its bound.
    """
    torch.use_deterministic_algorithms(True)  # Fills fresh memory with NaN.
    count = 0
    for size in sizes:
        for dtype in dtypes:
            for name, x in _layouts(size, dtype, device):
                for n in ORDERS if size < 1 << 26 else ORDERS[:1]:
                    for spec in (GemSpec(n), GemSpec(n, 1e-4, 0.01)):
                        count += _check(f"{name} {size} {dtype}", x, spec)
    if huge:
        count += _check_huge()
    torch.use_deterministic_algorithms(False)
    return count


def _layouts(size: int, dtype: torch.dtype, device: str) -> Iterator[tuple[str, Tensor]]:
    yield "contiguous", torch.randn(size, device=device).to(dtype)
    if 1 < size < 1 << 26:
        yield "strided", torch.randn(2 * size, device=device).to(dtype)[::2]
        yield "offset", torch.randn(size + 1, device=device).to(dtype)[1:]


def _check(where: str, x: Tensor, spec: GemSpec) -> int:
    grad, gate = torch.randn_like(x), torch.randn_like(x)
    y = kernels.forward(x, spec)
    grad_x, grad_gate = kernels.glu_backward(grad, x, gate, spec)
    results = {
        "forward": y,
        "from input": kernels.backward(grad, x, spec, False),
        "from output": kernels.backward(grad, y, spec, True),
        "glu forward": kernels.glu_forward(x, gate, spec),
        "glu backward to x": grad_x,
        "glu backward to the gate": grad_gate,
    }
    for part in _parts(x.numel()):
        exact = _exact(x[part], grad[part], gate[part], y[part], spec)
        # An output that is subnormal counts as the smallest normal number; the reference knows better.
        normal = (y[part] == 0) | (y[part].abs() >= 2.0**-126)
        for name, result in results.items():
            counted = normal if name == "from output" else ...
            _compare(f"{name}, {spec}, {where}", result[part][counted], exact[name][counted], spec)
        for from_output, kept in ((False, x[part]), (True, y[part])):
            tensors = (gate[part], grad[part], kept)
            _compare_second(f"{spec}, {where}", *(tensor[normal] for tensor in tensors), spec, from_output)
    return len(results) + 4


def _exact(x: Tensor, grad: Tensor, gate: Tensor, y: Tensor, spec: GemSpec) -> dict[str, Tensor]:
    x, grad, gate = x.double(), grad.double(), gate.double()
    return {
        "forward": formula.value(x, spec),
        "from input": grad * formula.derivative(x, spec),
        "from output": grad * formula.derivative(formula.inverse(y, spec), spec),
        "glu forward": x * formula.value(gate, spec),
        "glu backward to x": grad * formula.value(gate, spec),
        "glu backward to the gate": grad * x * formula.derivative(gate, spec),
    }


def _compare(what: str, result: Tensor, exact: Tensor, spec: GemSpec) -> None:
    """Compare in units of the last place: 4n + 10 in float32, where 1e-5 is 84; in half precision one rounding."""
    half = result.dtype != torch.float32
    allowed = (2.0 if "output" in what else 1.01) if half else 80.0 if "output" in what else 4 * spec.n + 10.0
    info = torch.finfo(result.dtype)
    unit = torch.exp2(torch.floor(torch.log2(exact.abs().clamp(min=info.smallest_normal)))) * info.eps
    worst = float(((result.double() - exact).abs() / unit).nan_to_num(nan=torch.inf).amax()) if exact.numel() else 0.0
    if not worst <= allowed:
        raise WrongKernelError(f"{what}: off by {worst:.3g} units of the last place, {allowed:g} are allowed")


def _compare_second(
    where: str, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
) -> None:
    """Compare the pass of second order: relative errors, those of f'' relative to its supremum where that is less.

    From the output the second result is compared as it reaches x, which is times f'(x).
    """
    what = f"second order from the {'output' if from_output else 'input'}, {where}"
    to_grad, to_kept = (result.double() for result in kernels.second(grad_grad, grad, kept, spec, from_output))
    twice, once = grad_grad.double(), grad.double()
    x = formula.inverse(kept, spec) if from_output else kept.double()
    d1, d2, _ = formula.derivatives(x, spec, from_output)
    slope = d1 if from_output else torch.ones_like(d1)
    bound = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}[kept.dtype]
    floor = torch.finfo(kept.dtype).smallest_normal
    for name, result, exact, sup in (
        ("to grad", to_grad, twice * d1, floor),
        (
            "to what was kept",
            to_kept * slope,
            twice * once * d2 * slope,
            spec.sup_second_derivative * (twice * once).abs(),
        ),
    ):
        excess = (result - exact).abs() - bound * (exact.abs() + sup) - floor
        if exact.numel() and not float(excess.nan_to_num(nan=torch.inf).amax()) <= 0:
            raise WrongKernelError(
                f"{what}, {name}: off by {float(excess.nan_to_num(nan=torch.inf).amax()):.3g} too much"
            )


def _parts(size: int) -> list[slice]:
    if size <= 3 * PART:
        return [slice(0, size)]
    return [slice(0, PART), slice(size // 2, size // 2 + PART), slice(size - PART, size)]


def _check_huge() -> int:
    """One tensor of more than 2^31 elements, where its index no longer fits 32 bits."""
    size, spec = 2**31 + 1001, GemSpec(2)
    if torch.cuda.mem_get_info()[0] < 8 * size:
        raise WrongKernelError("not enough GPU memory for the tensor of 2^31 elements; leave --huge out")
    x = torch.randn(size, device="cuda", dtype=torch.bfloat16)
    y = kernels.forward(x, spec)
    slope = kernels.backward(x, y, spec, True)
    for part in _parts(size):
        exact = _exact(x[part], x[part], x[part], y[part], spec)
        _compare("forward, 2^31", y[part], exact["forward"], spec)
        _compare("from output, 2^31", slope[part], exact["from output"], spec)
    return 2

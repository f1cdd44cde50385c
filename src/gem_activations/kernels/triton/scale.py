"""The kernels of a learnt scale, which is read from memory: a compile-time constant would be compiled at every step."""

# Device code is read by Triton's compiler, and called by its launcher.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false, reportPrivateUsage=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gate import power, widen
from .launch import BLOCK, _check, _copy_like, _same_layout

_LARGEST_LOG2 = 60  # Of t^(2n): beyond it 1 - F is less than 2^-60.


@triton.jit
def scaled_gate(wide, scale, n: tl.constexpr, limit: tl.constexpr):
    """Return t = x / a clamped to 0 .. limit, F and 1 - F."""
    t = tl.clamp(wide / scale, 0.0, limit, propagate_nan=tl.PropagateNan.ALL)
    p = power(t, 2 * n)
    reciprocal = 1.0 / (p + 1.0)
    return t, p * reciprocal, reciprocal


@triton.jit
def gem_scaled_forward_kernel(
    x_ptr, scale_ptr, y_ptr, size, n: tl.constexpr, leak: tl.constexpr, limit: tl.constexpr, block: tl.constexpr
):
    """Write y = f(x)."""
    first = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = lane < size - first
    x = tl.load(x_ptr + first + lane, mask=inside)
    wide = widen(x)
    _, gate, _ = scaled_gate(wide, tl.load(scale_ptr).to(wide.dtype), n, limit)
    y = tl.maximum(wide, 0.0) * gate if leak == 0.0 else wide * (leak + (1.0 - leak) * gate)
    tl.store(y_ptr + first + lane, y.to(x.dtype), mask=inside)


@triton.jit
def gem_scaled_backward_kernel(
    grad_ptr,
    x_ptr,
    scale_ptr,
    out_ptr,
    sums_ptr,
    size,
    n: tl.constexpr,
    leak: tl.constexpr,
    limit: tl.constexpr,
    block: tl.constexpr,
):
    """Write grad * f'(x), and for each program the sum of grad t F (1 - F)."""
    first = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = lane < size - first
    grad = tl.load(grad_ptr + first + lane, mask=inside, other=0.0)
    wide = widen(tl.load(x_ptr + first + lane, mask=inside, other=0.0))
    t, gate, one_minus_gate = scaled_gate(wide, tl.load(scale_ptr).to(wide.dtype), n, limit)
    slope = leak + (1.0 - leak) * gate * (1.0 + (2.0 * n) * one_minus_gate)
    tl.store(out_ptr + first + lane, (widen(grad) * slope).to(grad.dtype), mask=inside)
    tl.store(sums_ptr + tl.program_id(0), tl.sum(widen(grad) * t * (gate * one_minus_gate)))


def scaled_forward(x: Tensor, scale: Tensor, n: int, leak: float) -> Tensor:
    """Return f(x) of the member whose scale is a number in memory.

    Args:
        x: As for `launch.forward`.
        scale: One number above 0 on the device of x, float32, or float64 for a float64 x.
        n, leak: As for GemSpec.
    """
    _check(x)
    out = torch.empty_like(x)
    size = x.numel()
    if size:
        x = x if _same_layout(x, out) else _copy_like(x, out)
        with torch.cuda.device_of(out):
            gem_scaled_forward_kernel[(triton.cdiv(size, BLOCK),)](x, scale, out, size, n, leak, _limit(n), BLOCK)
    return out


def scaled_backward(grad: Tensor, x: Tensor, scale: Tensor, n: int, leak: float) -> tuple[Tensor, Tensor]:
    """Return grad * f'(x), and the gradient by the logarithm of the scale, a 0-d tensor; arguments as `scaled_forward`.

    The sums of the programs are added in their order: the same call gives the same bits.
    """
    _check(x, grad)
    out, size = torch.empty_like(x), x.numel()
    programs = triton.cdiv(size, BLOCK)
    sums = torch.zeros(programs, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    if size:
        arranged = [tensor if _same_layout(tensor, out) else _copy_like(tensor, out) for tensor in (grad, x)]
        with torch.cuda.device_of(out):
            gem_scaled_backward_kernel[(programs,)](*arranged, scale, out, sums, size, n, leak, _limit(n), BLOCK)
    return out, sums.sum() * scale.to(sums.dtype).reshape(()) * (-2 * n * (1 - leak))


def _limit(n: int) -> float:
    return 2.0 ** (_LARGEST_LOG2 / (2 * n))

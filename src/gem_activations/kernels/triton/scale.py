"""The kernels of learnt scales, which are read from memory: a compile-time constant would be compiled at every step.

An array of shape (N, channels, inner) is cut into tiles of some channels by some positions, so that a program reads
each of its scales once and sums over its positions. If the channels lie side by side (inner = 1), the positions are N,
else those within a channel, for each of the N. One scale is one channel, whose positions are all elements.
"""

# Device code is read by Triton's compiler, and called by its launcher.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false, reportPrivateUsage=false
# pyright: reportGeneralTypeIssues=false, reportReturnType=false

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...spec import GemSpec
from .gate import power, widen
from .launch import BLOCK, _check, _copy_like, _same_layout

_LARGEST_LOG2 = 60  # Of t^(2n): beyond it 1 - F is less than 2^-60.


@triton.jit
def tile(channels, positions, channel_stride, position_stride, block_channels: tl.constexpr, block: tl.constexpr):
    """Return for this program: offsets of its elements, what of them exists, its channels, its row of the sums."""
    across = tl.cdiv(channels, block_channels)
    along = tl.cdiv(positions, block)
    row = tl.program_id(0) // across
    channel = (tl.program_id(0) % across) * block_channels + tl.arange(0, block_channels)
    position = (row % along) * block + tl.arange(0, block)
    first = (row // along).to(tl.int64) * channels * positions
    offsets = channel[:, None].to(tl.int64) * channel_stride + position[None, :].to(tl.int64) * position_stride
    return first + offsets, (channel < channels)[:, None] & (position < positions)[None, :], channel, row


@triton.jit
def gem_scaled_kernel(
    grad_ptr,
    x_ptr,
    scale_ptr,
    out_ptr,
    sums_ptr,
    channels,
    positions,
    channel_stride,
    position_stride,
    n: tl.constexpr,
    leak: tl.constexpr,
    limit: tl.constexpr,
    block_channels: tl.constexpr,
    block: tl.constexpr,
):
    """Write f(x), without grad and sums. With them write grad * f'(x), and for each channel its share of the sum.

    It is the sum of grad df / d(log scale), here over the positions of the program.
    """
    offsets, inside, channel, row = tile(channels, positions, channel_stride, position_stride, block_channels, block)
    x = tl.load(x_ptr + offsets, mask=inside, other=0.0)
    wide = widen(x)
    scale = tl.load(scale_ptr + channel, mask=channel < channels, other=1.0).to(wide.dtype)
    t = tl.clamp(wide / scale[:, None], 0.0, limit, propagate_nan=tl.PropagateNan.ALL)
    p = power(t, 2 * n)
    one_minus_gate = 1.0 / (p + 1.0)
    gate = p * one_minus_gate
    if grad_ptr is None:
        out = tl.maximum(wide, 0.0) * gate if leak == 0.0 else wide * (leak + (1.0 - leak) * gate)
    else:
        grad = widen(tl.load(grad_ptr + offsets, mask=inside, other=0.0))
        out = grad * (leak + (1.0 - leak) * gate * (1.0 + (2.0 * n) * one_minus_gate))
        total = tl.sum(grad * t * (gate * one_minus_gate), axis=1) * scale * (-2.0 * n * (1.0 - leak))
        tl.store(sums_ptr + row.to(tl.int64) * channels + channel, total, mask=channel < channels)
    tl.store(out_ptr + offsets, out.to(x.dtype), mask=inside)


def scaled_forward(x: Tensor, log_scale: Tensor, spec: GemSpec) -> Tensor:
    """Return f(x) of the members whose scales are numbers in memory.

    Args:
        x: As for `launch.forward`; contiguous, of shape (N, C, *), if there is more than one scale.
        log_scale: Natural logarithms of the scales, of shape (1,) or (C,), on the device of x; float32 or float64.
        spec: Only n and leak count.
    """
    _check(x)
    out = torch.empty_like(x)
    if x.numel():
        x = x if _same_layout(x, out) else _copy_like(x, out)
        programs, arguments, _ = _arguments(x, log_scale, spec)
        with torch.cuda.device_of(out):
            gem_scaled_kernel[(programs,)](None, x, _scale(log_scale, x), out, None, *arguments)
    return out


def scaled_backward(grad: Tensor, x: Tensor, log_scale: Tensor, spec: GemSpec) -> tuple[Tensor, Tensor]:
    """Return grad * f'(x), and the gradient by log_scale, which has its shape; arguments as `scaled_forward`.

    The sums of the programs are added in one order: the same call gives the same bits.
    """
    _check(x, grad)
    out = torch.empty_like(x)
    if not x.numel():
        return out, torch.zeros_like(log_scale)
    programs, arguments, across = _arguments(x, log_scale, spec)
    scale = _scale(log_scale, x)
    sums = torch.empty(programs // across, log_scale.numel(), dtype=scale.dtype, device=x.device)
    arranged = [tensor if _same_layout(tensor, out) else _copy_like(tensor, out) for tensor in (grad, x)]
    with torch.cuda.device_of(out):
        gem_scaled_kernel[(programs,)](*arranged, scale, out, sums, *arguments)
    return out, sums.sum(0).to(log_scale.dtype)


def _scale(log_scale: Tensor, x: Tensor) -> Tensor:
    return log_scale.detach().to(torch.promote_types(x.dtype, torch.float32)).exp()


def _arguments(x: Tensor, log_scale: Tensor, spec: GemSpec) -> tuple[int, tuple[Any, ...], int]:
    """Return the number of programs, the arguments that follow the tensors, and how many programs share a position."""
    channels, inner = log_scale.numel(), math.prod(x.shape[2:])
    if channels == 1:
        positions, strides = x.numel(), (1, 1)
    elif inner == 1:
        positions, strides = x.shape[0], (1, channels)
    else:
        positions, strides = inner, (inner, 1)
    wanted = triton.next_power_of_2(channels)
    # What lies side by side fills the tile first.
    block_channels = min(wanted, 128 if inner == 1 else max(1, BLOCK // triton.next_power_of_2(positions)))
    block = min(BLOCK // block_channels, triton.next_power_of_2(positions))
    across = triton.cdiv(channels, block_channels)
    programs = x.numel() // (channels * positions) * triton.cdiv(positions, block) * across
    limit = 2.0 ** (_LARGEST_LOG2 / (2 * spec.n))
    return programs, (channels, positions, *strides, spec.n, spec.leak, limit, block_channels, block), across

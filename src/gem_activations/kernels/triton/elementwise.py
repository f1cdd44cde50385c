"""The kernels: one pass over memory each, on dense storage taken as one dimension.

A program handles `block` elements. Its first index is 64 bits wide, so that tensors of more than 2^31 elements work;
the offsets within a block stay 32 bits wide. Everything is computed in float32, or in float64 for float64.
"""

# Device code is read by Triton's compiler: a constant has the length of the Python value behind it.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .gate import derivatives, gate_of, gate_power, slope, value, widen
from .inverse import derivatives_from_output, input_from_output, slope_from_output


@triton.jit
def gem_forward_kernel(x_ptr, y_ptr, size, member: tl.constexpr, block: tl.constexpr):
    """Write y = f(x)."""
    first = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = lane < size - first
    x = tl.load(x_ptr + first + lane, mask=inside)
    wide = widen(x)
    p = gate_power(wide, member)
    gate = p / (p + member.eps)
    if x.dtype == tl.float32:
        # Triton's division of float32 may be off by two ulp; the residual of the quotient corrects it without a branch.
        gate += tl.fma(-gate, p + member.eps, p) / (p + member.eps)
    tl.store(y_ptr + first + lane, value(wide, gate, member).to(x.dtype), mask=inside)


@triton.jit
def gem_backward_kernel(
    grad_ptr,
    kept_ptr,
    out_ptr,
    size,
    member: tl.constexpr,
    start: tl.constexpr,
    block: tl.constexpr,
):
    """Write grad * f'(x), where `kept` is f(x) if there is a start polynomial for its inverse, else x."""
    first = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = lane < size - first
    grad = tl.load(grad_ptr + first + lane, mask=inside)
    kept = tl.load(kept_ptr + first + lane, mask=inside)
    if len(start) > 0:
        factor = slope_from_output(widen(kept), member, start)
    else:
        gate, one_minus_gate = gate_of(widen(kept), member)
        factor = slope(gate, one_minus_gate, member)
    tl.store(out_ptr + first + lane, (widen(grad) * factor).to(grad.dtype), mask=inside)


@triton.jit
def gem_second_kernel(
    grad_grad_ptr,
    grad_ptr,
    kept_ptr,
    to_grad_ptr,
    to_kept_ptr,
    size,
    member: tl.constexpr,
    start: tl.constexpr,
    block: tl.constexpr,
):
    """Write gg d1 and gg grad d2: d1 = f'(x), d2 its derivative by `kept`: f(x) if there is a start, else x."""
    first = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = lane < size - first
    grad_grad = widen(tl.load(grad_grad_ptr + first + lane, mask=inside))
    grad = tl.load(grad_ptr + first + lane, mask=inside)
    kept = widen(tl.load(kept_ptr + first + lane, mask=inside))
    if len(start) > 0:
        d1, d2, _ = derivatives_from_output(kept, member, start)
    else:
        d1, d2, _ = derivatives(kept, member)
    tl.store(to_grad_ptr + first + lane, (grad_grad * d1).to(grad.dtype), mask=inside)
    tl.store(to_kept_ptr + first + lane, (grad_grad * widen(grad) * d2).to(grad.dtype), mask=inside)


@triton.jit
def gem_third_kernel(
    a_ptr,
    b_ptr,
    grad_grad_ptr,
    grad_ptr,
    kept_ptr,
    to_grad_grad_ptr,
    to_grad_ptr,
    to_kept_ptr,
    size,
    member: tl.constexpr,
    start: tl.constexpr,
    block: tl.constexpr,
):
    """Write a d1 + b grad d2, b gg d2 and a gg d2 + b gg grad d3: the backward pass of `gem_second_kernel`."""
    first = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = lane < size - first
    a = widen(tl.load(a_ptr + first + lane, mask=inside))
    b = widen(tl.load(b_ptr + first + lane, mask=inside))
    grad_grad = widen(tl.load(grad_grad_ptr + first + lane, mask=inside))
    stored = tl.load(grad_ptr + first + lane, mask=inside)
    grad = widen(stored)
    kept = widen(tl.load(kept_ptr + first + lane, mask=inside))
    if len(start) > 0:
        d1, d2, d3 = derivatives_from_output(kept, member, start)
    else:
        d1, d2, d3 = derivatives(kept, member)
    tl.store(to_grad_grad_ptr + first + lane, (a * d1 + b * grad * d2).to(stored.dtype), mask=inside)
    tl.store(to_grad_ptr + first + lane, (b * grad_grad * d2).to(stored.dtype), mask=inside)
    tl.store(to_kept_ptr + first + lane, (grad_grad * (a * d2 + b * grad * d3)).to(stored.dtype), mask=inside)


@triton.jit
def gem_inverse_kernel(y_ptr, x_ptr, size, member: tl.constexpr, start: tl.constexpr, block: tl.constexpr):
    """Write x with f(x) = y."""
    first = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = lane < size - first
    y = tl.load(y_ptr + first + lane, mask=inside)
    tl.store(x_ptr + first + lane, input_from_output(widen(y), member, start).to(y.dtype), mask=inside)


@triton.jit
def gem_glu_forward_kernel(x_ptr, gate_ptr, out_ptr, size, member: tl.constexpr, block: tl.constexpr):
    """Write x * f(gate)."""
    first = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = lane < size - first
    x = tl.load(x_ptr + first + lane, mask=inside)
    wide_gate = widen(tl.load(gate_ptr + first + lane, mask=inside))
    gate, _ = gate_of(wide_gate, member)
    out = widen(x) * value(wide_gate, gate, member)
    tl.store(out_ptr + first + lane, out.to(x.dtype), mask=inside)


@triton.jit
def gem_glu_backward_kernel(
    grad_ptr,
    x_ptr,
    gate_ptr,
    grad_x_ptr,
    grad_gate_ptr,
    size,
    member: tl.constexpr,
    block: tl.constexpr,
):
    """Write grad * f(gate) and grad * x * f'(gate)."""
    first = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = lane < size - first
    grad = tl.load(grad_ptr + first + lane, mask=inside)
    wide_grad = widen(grad)
    x = widen(tl.load(x_ptr + first + lane, mask=inside))
    wide_gate = widen(tl.load(gate_ptr + first + lane, mask=inside))
    gate, one_minus_gate = gate_of(wide_gate, member)
    grad_x = wide_grad * value(wide_gate, gate, member)
    grad_gate = wide_grad * x * slope(gate, one_minus_gate, member)
    tl.store(grad_x_ptr + first + lane, grad_x.to(grad.dtype), mask=inside)
    tl.store(grad_gate_ptr + first + lane, grad_gate.to(grad.dtype), mask=inside)

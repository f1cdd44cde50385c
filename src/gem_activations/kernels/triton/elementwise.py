"""The kernels: one pass over memory each, on dense storage taken as one dimension.

A program handles `block` elements. Its first index is 64 bits wide, so that tensors of more than 2^31 elements work;
the offsets within a block stay 32 bits wide. Everything is computed in float32, or in float64 for float64.
"""

# Device code is read by Triton's compiler: a constant has the length of the Python value behind it.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .gate import gate_power, rise_and_rest, slope, value, widen
from .inverse import slope_from_output


@triton.jit
def gem_forward_kernel(x_ptr, y_ptr, size, member: tl.constexpr, block: tl.constexpr):
    """Write y = f(x)."""
    first = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = lane < size - first
    x = tl.load(x_ptr + first + lane, mask=inside)
    wide = widen(x)
    p = gate_power(wide, member)
    rise = p / (p + member.eps)
    if x.dtype == tl.float32:
        # Triton's division of float32 may be off by two ulp; the residual of the quotient corrects it without a branch.
        rise += tl.fma(-rise, p + member.eps, p) / (p + member.eps)
    tl.store(y_ptr + first + lane, value(wide, rise, member).to(x.dtype), mask=inside)


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
        rise, rest = rise_and_rest(widen(kept), member)
        factor = slope(rise, rest, member)
    tl.store(out_ptr + first + lane, (widen(grad) * factor).to(grad.dtype), mask=inside)


@triton.jit
def gem_glu_forward_kernel(x_ptr, gate_ptr, out_ptr, size, member: tl.constexpr, block: tl.constexpr):
    """Write x * f(gate)."""
    first = tl.program_id(0).to(tl.int64) * block
    lane = tl.arange(0, block)
    inside = lane < size - first
    x = tl.load(x_ptr + first + lane, mask=inside)
    gate = widen(tl.load(gate_ptr + first + lane, mask=inside))
    rise, _ = rise_and_rest(gate, member)
    out = widen(x) * value(gate, rise, member)
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
    gate = widen(tl.load(gate_ptr + first + lane, mask=inside))
    rise, rest = rise_and_rest(gate, member)
    grad_x = wide_grad * value(gate, rise, member)
    grad_gate = wide_grad * x * slope(rise, rest, member)
    tl.store(grad_x_ptr + first + lane, grad_x.to(grad.dtype), mask=inside)
    tl.store(grad_gate_ptr + first + lane, grad_gate.to(grad.dtype), mask=inside)

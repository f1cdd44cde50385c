"""Device functions of the gate: F(x) = p / (p + eps) with p = min(max(x * inverse_scale, 0), limit)^(2n).

The parameters are compile-time constants. They are never assigned to a plain local name: Triton would round such a
number to float32, also in a float64 kernel.
"""

# Device code is read by Triton's compiler: a constant has the attributes of the Python value behind it, and a branch on
# constants needs its `else`, for the compiler reads on past a return.
# ruff: noqa: RET505
# pyright: reportAttributeAccessIssue=false

import triton
import triton.language as tl


@triton.jit
def widen(x):
    """Return x in the dtype that is computed in: float64 for float64, else float32."""
    return x.to(tl.float64 if x.dtype == tl.float64 else tl.float32)


@triton.jit
def power(t, exponent: tl.constexpr):
    """Return t^exponent, exponent >= 1, by squaring."""
    if exponent == 1:
        return t
    elif exponent % 2 == 0:
        return power(t * t, exponent // 2)
    else:
        return t * power(t * t, exponent // 2)


@triton.jit
def gate_power(x, member: tl.constexpr):
    """Return p = t^(2n) with t = x * inverse_scale clamped to 0 .. limit; NaN stays NaN."""
    t = tl.clamp(x * member.inverse_scale, 0.0, member.limit, propagate_nan=tl.PropagateNan.ALL)
    return power(t, 2 * member.n)


@triton.jit
def gate_of(x, member: tl.constexpr):
    """Return F(x) and 1 - F(x), each with its own relative accuracy, from one division."""
    p = gate_power(x, member)
    reciprocal = 1.0 / (p + member.eps)
    return p * reciprocal, member.eps * reciprocal


@triton.jit
def value(x, gate, member: tl.constexpr):
    """Return f(x) = x (leak + (1 - leak) F(x)) from x and F(x)."""
    if member.leak == 0.0:
        # The maximum keeps -inf * 0 from becoming NaN; a NaN comes through `gate`.
        return tl.maximum(x, 0.0) * gate
    else:
        return x * (member.leak + (1.0 - member.leak) * gate)


@triton.jit
def slope(gate, one_minus_gate, member: tl.constexpr):
    """Return f' = leak + (1 - leak) F (1 + 2n (1 - F)) from F and 1 - F."""
    if member.leak == 0.0:
        return gate * (1.0 + (2.0 * member.n) * one_minus_gate)
    else:
        return member.leak + (1.0 - member.leak) * gate * (1.0 + (2.0 * member.n) * one_minus_gate)


@triton.jit
def derivatives(x, member: tl.constexpr):
    """Return f', f'' and f''' of x; the latter two are 0 for x <= 0 and where the gate rounds to 1."""
    scaled = x * member.inverse_scale
    t = tl.clamp(scaled, 0.0, member.limit, propagate_nan=tl.PropagateNan.ALL)
    odd = t if member.n == 1 else power(t, 2 * member.n - 1)
    reciprocal = 1.0 / (odd * t + member.eps)
    gate = odd * t * reciprocal
    one_minus_gate = member.eps * reciprocal
    common = (1.0 - member.leak) * (2.0 * member.n) * one_minus_gate * member.inverse_scale
    second = common * (odd * reciprocal) * curvature(gate, member)
    even = reciprocal if member.n == 1 else power(t, 2 * member.n - 2) * reciprocal
    third = common * member.inverse_scale * even * change(gate, one_minus_gate, member)
    far = scaled >= member.limit
    return slope(gate, one_minus_gate, member), tl.where(far, 0.0, second), tl.where(far | (x <= 0.0), 0.0, third)


@triton.jit
def curvature(gate, member: tl.constexpr):
    """Return f'' x / ((1 - leak) 2n F (1 - F)) = 1 + 2n - 4n F."""
    return 1.0 + 2.0 * member.n - (4.0 * member.n) * gate


@triton.jit
def change(gate, one_minus_gate, member: tl.constexpr):
    """Return f''' x^2 / ((1 - leak) 2n F (1 - F))."""
    narrow = (2.0 * member.n - 1.0) - (4.0 * member.n) * gate
    return narrow * curvature(gate, member) - (8.0 * member.n * member.n) * gate * one_minus_gate

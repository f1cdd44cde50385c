"""Device functions that take the gradient from the output y = f(x) alone.

Leak 0: the gate is F = q h and 1 - F = h^(2n+1), where h^(2n+1) + q h = 1 and q = (y / scale)^(2n / (2n+1)). Both parts
keep their own relative accuracy: neither is taken as one minus the other. Leak > 0: x is solved for, from a start
within a factor of two.
"""

# Device code is read by Triton's compiler: a constant has the attributes of the Python value behind it, and a branch on
# constants needs its `else`, for the compiler reads on past a return.
# ruff: noqa: RET505
# pyright: reportAttributeAccessIssue=false, reportAssignmentType=false, reportArgumentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from .gate import change, curvature, derivatives, gate_of, power, slope


@triton.jit
def slope_from_output(y, member: tl.constexpr, start: tl.constexpr):
    """Return f'(x) where f(x) = y; leak for y <= 0, 1 at +inf, NaN at NaN."""
    # Beyond these bounds, which keep the powers finite, the gradient has long reached its limits.
    lowest: tl.constexpr = 2.2250738585072014e-308 if y.dtype == tl.float64 else 1.1754943508222875e-38
    bounded = tl.clamp(y, lowest, 1e38, propagate_nan=tl.PropagateNan.ALL)
    if member.leak == 0.0:
        result = _slope_without_leak(bounded, member, start)
    else:
        result = _slope_with_leak(bounded, member, start)
    # The product is 0, but for NaN, which the arithmetic on bits would lose.
    return tl.where(y > 0.0, result, bounded * 0.0 + member.leak)


@triton.jit
def derivatives_from_output(y, member: tl.constexpr, start: tl.constexpr):
    """Return d1 = f'(x) with f(x) = y, and the first two derivatives of d1 by y.

    Where f' is nearly 0, so is what the last is multiplied by in the end; it is given as 0.
    """
    lowest: tl.constexpr = 2.2250738585072014e-308 if y.dtype == tl.float64 else 1.1754943508222875e-38
    bounded = tl.clamp(y, lowest, 1e38, propagate_nan=tl.PropagateNan.ALL)
    if member.leak == 0.0:
        gate, one_minus_gate = _gate_from_output(bounded, member, start)
        first = slope(gate, one_minus_gate, member)
        inverse = gate / bounded
        share = (2.0 * member.n) * one_minus_gate / (1.0 + (2.0 * member.n) * one_minus_gate)
        relative = share * curvature(gate, member)
        second = relative * inverse
        third = (share * change(gate, one_minus_gate, member) - relative * relative) * inverse * inverse / first
    else:
        first, of_x, third = derivatives(_root_with_leak(bounded, member, start), member)
        second = of_x / first
        third = (third - of_x * second) / (first * first)
    steep = first >= 8.673617379884035e-19
    # A NaN, which the arithmetic on bits would lose, comes back by the product.
    nothing = bounded * 0.0
    return (
        tl.where(y > 0.0, first, nothing + member.leak),
        tl.where(y > 0.0, second, nothing),
        tl.where((y > 0.0) & steep, third, nothing),
    )


@triton.jit
def input_from_output(y, member: tl.constexpr, start: tl.constexpr):
    """Return x with f(x) = y; 0 for y <= 0 if leak is 0."""
    lowest: tl.constexpr = 2.2250738585072014e-308 if y.dtype == tl.float64 else 1.1754943508222875e-38
    bounded = tl.clamp(y, lowest, 1e37, propagate_nan=tl.PropagateNan.ALL)
    if member.leak == 0.0:
        gate, _ = _gate_from_output(bounded, member, start)
        x = bounded / gate
        below = bounded * 0.0
    else:
        x = _root_with_leak(bounded, member, start)
        below = y / member.leak
    return tl.where(y > 1e37, y, tl.where(y > 0.0, x, below))


@triton.jit
def _slope_without_leak(y, member: tl.constexpr, start: tl.constexpr):
    gate, one_minus_gate = _gate_from_output(y, member, start)
    return slope(gate, one_minus_gate, member)


@triton.jit
def _gate_from_output(y, member: tl.constexpr, start: tl.constexpr):
    """Return F and 1 - F."""
    q = _gate_ratio(y, member)
    h = _start(q, start)
    order: tl.constexpr = 2.0 * member.n + 1.0
    steps: tl.constexpr = member.steps
    for _ in tl.static_range(steps):
        one_minus_gate = power(h, 2 * member.n + 1)
        gate = q * h
        excess = one_minus_gate + gate - 1.0
        first = order * one_minus_gate + gate
        h -= h * (excess * first / (first * first - excess * one_minus_gate * (0.5 * order * (order - 1.0))))
    return q * h, power(h, 2 * member.n + 1)


@triton.jit
def _gate_ratio(y, member: tl.constexpr):
    """Return q = (y / scale)^(2n / (2n+1)), at most 2^60, to about two ulp."""
    order: tl.constexpr = 2.0 * member.n + 1.0
    exponent = _rough_log2(y)
    root = tl.exp2(exponent * (1.0 / order))
    even = power(root, 2 * member.n)
    q = tl.minimum(even * member.factor, 1152921504606846976.0)
    if member.refined:
        # The residual of the root, taken exactly, corrects its power; 1/y is needed to a few digits only.
        residual = tl.fma(-even, root, y) * tl.exp2(-exponent)
        q += q * (residual * (1.0 - 1.0 / order))
    return q


@triton.jit
def _rough_log2(y):
    """Return log2 of a normal number above 0, to 1.3e-4 in float32."""
    if y.dtype == tl.float64:
        return tl.log2(y)
    else:
        # The bits of a float, read as an integer, are its exponent and mantissa: linear in log2 within an octave. The
        # polynomial in the mantissa is Chebyshev's interpolation of log2(m) - (m - 1) - 127 on 1 .. 2.
        bits = y.to(tl.int32, bitcast=True)
        m = ((bits & 0x007FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
        missing = (((-0.0784406762 * m + 0.626032182) * m - 2.07833517) * m + 3.02921139) * m - 128.498353
        return bits.to(tl.float32) * 1.1920928955078125e-07 + missing


@triton.jit
def _start(q, start: tl.constexpr):
    """Return h with h^(2n+1) + q h = 1 to the accuracy of the start polynomial."""
    reciprocal = 1.0 / (1.0 + q)
    s = 1.0 - 2.0 * reciprocal
    total = s * start[0] + start[1]
    terms: tl.constexpr = len(start)
    for index in tl.static_range(2, terms):
        total = total * s + start[index]
    # For a large n the polynomial may pass 1, whose powers would be huge.
    return tl.minimum(total * reciprocal, 1.0)


@triton.jit
def _slope_with_leak(y, member: tl.constexpr, start: tl.constexpr):
    gate, one_minus_gate = gate_of(_root_with_leak(y, member, start), member)
    return slope(gate, one_minus_gate, member)


@triton.jit
def _root_with_leak(y, member: tl.constexpr, start: tl.constexpr):
    """Return x by Halley's method."""
    x = y * _stretch(y, member, start)
    if member.halvings > 0:
        # The gate of a large n is a step, which a method of tangents does not find on its own.
        x = _halve(x, y, member)
    steps: tl.constexpr = member.steps
    for _ in tl.static_range(steps):
        gate, one_minus_gate = gate_of(x, member)
        # Everything relative to the gate, which may be so small that its square is 0.
        g = member.leak + (1.0 - member.leak) * gate
        reciprocal = 1.0 / (x * g)
        excess = 1.0 - y * reciprocal
        change_of_gate = (1.0 - member.leak) * (2.0 * member.n) * gate * one_minus_gate * (x * reciprocal)
        first = 1.0 + change_of_gate
        second = change_of_gate * (1.0 + 2.0 * member.n - 4.0 * member.n * gate)
        x -= x * (excess * first / (first * first - 0.5 * excess * second))
    return x


@triton.jit
def _stretch(y, member: tl.constexpr, start: tl.constexpr):
    """Return x / y within a factor of two, exact where either term of f stands alone.

    f is the sum of leak * x and (1 - leak) x F. Each alone would give y at its own x; where the second is a power, of
    order 2n+1, the equation for both has the form that the start polynomial solves.
    """
    q = _gate_ratio(y, member)
    gate = tl.maximum(q * _start(q, start), 1e-37 + member.leak * 1e-18)
    alone = 1.0 / ((1.0 - member.leak) * gate)
    return alone * _start(member.leak * alone, start)


@triton.jit
def _halve(x, y, member: tl.constexpr):
    """Narrow the factor-of-two bracket around x by bisection."""
    low = x * 0.4
    high = x * 2.2
    halvings: tl.constexpr = member.halvings
    for _ in tl.static_range(halvings):
        middle = 0.5 * (low + high)
        gate, _ = gate_of(middle, member)
        below = middle * (member.leak + (1.0 - member.leak) * gate) < y
        low = tl.where(below, middle, low)
        high = tl.where(below, high, middle)
    return 0.5 * (low + high)

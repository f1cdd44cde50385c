"""The family in plain torch operations: the one definition that every kernel must equal.

All functions compute in at least float32 and return the dtype of their input. `value` and the
derivatives are made of differentiable operations, so that a tracer or a transform can differentiate them
again. Parameters are a GemSpec; its `reduction` keeps every power inside float32's range.
"""

import math

import torch
from torch import Tensor

from ..spec import GemSpec
from . import exported

_WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
_SMALL_EPS = 2.0**-8


def value(x: Tensor, spec: GemSpec) -> Tensor:
    """Return f(x) = x (leak + (1 - leak) F(x)); any shape, same dtype. Exporters see it in the form of `exported`."""
    wide = widen(x)
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        return exported.value(wide, spec).to(x.dtype)
    power, eps = _gate(wide, spec)
    gate = power / (power + eps)
    if spec.leak:
        return (wide * (spec.leak + (1 - spec.leak) * gate)).to(x.dtype)
    # Without relu, -inf * 0 would be NaN.
    return (wide.relu() * gate).to(x.dtype)


def derivative(x: Tensor, spec: GemSpec) -> Tensor:
    """Return f'(x) = leak + (1 - leak) F (1 + 2n (1 - F)); any shape, same dtype."""
    power, eps = _gate(widen(x), spec)
    total = power + eps
    slope = power / total * (1 + 2 * spec.n * (eps / total))
    return (spec.leak + (1 - spec.leak) * slope if spec.leak else slope).to(x.dtype)


def second_derivative(x: Tensor, spec: GemSpec) -> Tensor:
    """Return f''(x) = (1 - leak) (2n/x) F (1 - F) (1 + 2n - 4n F), 0 for x <= 0; any shape, same dtype."""
    return derivatives(widen(x), spec, False)[1].to(x.dtype)


def derivatives(x: Tensor, spec: GemSpec, by_output: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return f'(x) and its first two derivatives, by x or by the output y = f(x).

    Args:
        x: float32 or float64, any shape.
        spec: A member of the family.
        by_output: Differentiate by y: f'' / f' and (f''' - f''^2 / f') / f'^2. Where f' is 0, both are given as 0, as
            every product with f' is 0 as well.
    Returns: Three tensors of the shape and dtype of x. All but the first are 0 for x <= 0.
    """
    n, inverse_scale = spec.n, spec.reduction.inverse_scale
    t, eps = _coordinate(x, spec), spec.reduction.eps
    # F/t and F/t^2 are taken from lower powers, which stay exact where x is tiny or 0.
    even = _power(t, 2 * n - 2) if n > 1 else (x > 0).to(x.dtype)
    odd = _power(t, 2 * n - 1)
    total = odd * t + eps
    gate, one_minus_gate = odd * t / total, eps / total
    curvature = 1 + 2 * n - 4 * n * gate
    change = (2 * n - 1 - 4 * n * gate) * curvature - 8 * n * n * gate * one_minus_gate
    first, common = derivative(x, spec), (1 - spec.leak) * 2 * n * one_minus_gate
    second = common * (odd / total) * curvature * inverse_scale
    third = common * (even / total) * change * inverse_scale * inverse_scale
    if by_output:
        inverse = reciprocal(first)
        third = (third - second * second * inverse) * inverse * inverse
        second = second * inverse
    return first, second, third


def reciprocal(x: Tensor) -> Tensor:
    """Return 1 / x, and 0 where x is so small that products with its powers would overflow."""
    flat = x.abs() < {torch.float32: 2.0**-60}.get(x.dtype, 2.0**-480)
    return torch.where(flat, 0.0, 1 / torch.where(flat, 1.0, x))


def inverse(y: Tensor, spec: GemSpec) -> Tensor:
    """Return, in float64 and without gradient, the x with f(x) = y; 0 for y <= 0 where leak is 0.

    Newton's method on log f over log x, kept inside a bracket; f is strictly increasing for x > 0, so that the root
    is one. Source of the bracket: f(x) <= x, and f(x) >= (1 - leak) x - a where a is the scale. Where leak > 0, the
    slope of log f over log x has a hump and Newton's method can run in a cycle: a step must halve the one before,
    else the bracket is halved.
    """
    with torch.no_grad():
        y = y.double()
        target = torch.where((y > 0) & torch.isfinite(y), y, 1.0)
        low, high = target, target / (1 - spec.leak)
        high = high + spec.scale * (high / spec.scale) ** (1 / (2 * spec.n + 1))
        if spec.leak:
            high = torch.minimum(high, target / spec.leak)
        high = high.clamp(max=torch.finfo(torch.float64).max)
        high = high * (1 + 1e-12)  # The bound can be the root itself, and a power is rounded.
        x, last, done = high, torch.full_like(high, torch.inf), torch.zeros_like(high, dtype=torch.bool)
        for _ in range(100):
            reached = value(x, spec)
            low, high = torch.where(reached < target, x, low), torch.where(reached > target, x, high)
            following = x * (target / reached) ** (reached / (x * derivative(x, spec)))
            step = (following - x).abs()
            converges = (following >= low) & (following <= high) & (step <= torch.maximum(last / 2, 1e-12 * x))
            following = torch.where(converges, following, low.sqrt() * high.sqrt())
            last = (following - x).abs()
            x = torch.where(done | (reached == target), x, following)
            # Convergence is quadratic: after a step of 1e-10 the error is below rounding, and x stays as it is.
            done = done | (reached == target) | (converges & (last <= 1e-10 * x))
            if bool(done.all()):
                break
        below = y / spec.leak if spec.leak else y.clamp(min=0)
        return torch.where((y > 0) & torch.isfinite(y), x, below)


def widen(x: Tensor) -> Tensor:
    """Return x in the dtype that the formula computes in: float64 for float64, else float32."""
    return x.to(_WIDE.get(x.dtype, x.dtype))


def _gate(x: Tensor, spec: GemSpec) -> tuple[Tensor, float]:
    """Return p and e with F = p / (p + e): t^(2n) and eps in the coordinates of `GemSpec.reduction`.

    Where that eps is small, which needs n > 8, both are multiplied by the power of two that takes it to about 1. It
    comes between two factors of t^(2n), so that no power is subnormal where F is not.
    """
    t, eps = _coordinate(x, spec), spec.reduction.eps
    if eps >= _SMALL_EPS:
        return _power(t, 2 * spec.n), eps
    lift = 2.0 ** -round(math.log2(eps))
    root = _power(t, spec.n)
    return root * lift * root, eps * lift


def _coordinate(x: Tensor, spec: GemSpec) -> Tensor:
    return (x * spec.reduction.inverse_scale).clamp(0.0, spec.reduction.limit)


def _power(t: Tensor, exponent: int) -> Tensor:
    """Return t^exponent by squaring: multiplications only, which autocast leaves alone."""
    result = None
    while exponent:
        if exponent & 1:
            result = t if result is None else result * t
        exponent >>= 1
        if exponent:
            t = t * t
    assert result is not None
    return result

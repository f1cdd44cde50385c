"""Exact gradients: from the input, or from the output alone, which the next layer keeps anyway.

f is strictly increasing for x > 0, so that its gradient is a function of its output, as ReLU's is. The functions here
serve eager mode only (see functional.py) and can be differentiated any number of times.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..spec import GemSpec
from . import formula
from .backends import PLAIN, Backend
from .dispatch import is_traced

_creation_meta: Any = torch._C._autograd._get_creation_meta  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_ORDINARY_VIEW: Any = torch._C._autograd.CreationMeta.DEFAULT  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


def apply_eagerly(x: Tensor, spec: GemSpec, backend: Backend, *, from_output: bool, inplace: bool) -> Tensor:
    """Give f(x) of an ordinary tensor, computed by `backend` and differentiable.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64, on a device that the backend serves.
        spec: A member of the family.
        backend: What computes.
        from_output: Keep the output for the backward pass instead of the input.
        inplace: Overwrite x; needs from_output.
    Raises: RuntimeError (PyTorch's own), before x is touched: inplace on a leaf that requires grad, or on a view that
        may not be changed.
    """
    if inplace and (_has_tangents() or (torch.is_grad_enabled() and not _may_be_overwritten(x))):
        # An autograd function is refused only after it has run; copy_ is refused before it writes. And copy_ overwrites
        # tangents that are shared or batched, too.
        return x.copy_(Activation.apply(x.clone(), spec, backend, from_output, False))  # pyright: ignore[reportArgumentType]
    return Activation.apply(x, spec, backend, from_output, inplace)  # pyright: ignore[reportReturnType]


def _may_be_overwritten(x: Tensor) -> bool:
    """Tell whether autograd surely lets x be changed in place: no leaf, no view of one, no view that it protects."""
    if not x._is_view():
        return not (x.is_leaf and x.requires_grad)
    base: Any = x._base
    return not any(t.is_leaf and t.requires_grad for t in (x, base)) and _creation_meta(x) == _ORDINARY_VIEW


def apply_gated_eagerly(x: Tensor, gate: Tensor, spec: GemSpec, backend: Backend) -> Tensor:
    """Give x * f(gate) of ordinary tensors of one shape, dtype and device; differentiable in both."""
    return GatedUnit.apply(x, gate, spec, backend)  # pyright: ignore[reportReturnType]


class Activation(torch.autograd.Function):
    """f(x), keeping its input or its output for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, spec: GemSpec, backend: Backend, from_output: bool, inplace: bool) -> Tensor:
        """Compute f(x), into the storage of x where `inplace`."""
        y = backend.forward(x, spec, inplace)
        if inplace:
            ctx.mark_dirty(y)
        ctx.settings = spec, backend, from_output
        kept = y if from_output else x
        ctx.save_for_backward(kept)
        ctx.save_for_forward(kept)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Give grad * f'(x), as a differentiable expression where a second backward pass is asked for."""
        (kept,) = ctx.saved_tensors
        spec, backend, from_output = ctx.settings
        if torch.is_grad_enabled():
            x = Inverse.apply(kept, spec) if from_output else kept
            grad_x = _differentiable_gradient(grads[0], x, spec, backend)
        else:
            grad_x = _usable(backend, grads[0], kept).backward(grads[0], kept, spec, from_output)
        return grad_x, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Give f'(x) * tangent for forward-mode differentiation."""
        (kept,) = ctx.saved_tensors
        spec, _, from_output = ctx.settings
        x = Inverse.apply(kept, spec) if from_output else kept
        return (tangents[0] * formula.derivative(x, spec)).to(kept.dtype)


class Gradient(torch.autograd.Function):
    """grad * f'(x) as a differentiable function of both."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, spec: GemSpec, backend: Backend) -> Tensor:
        """Compute grad * f'(x) in the dtype of grad; x may be wider."""
        ctx.save_for_backward(grad, x)
        ctx.save_for_forward(grad, x)
        ctx.spec = spec
        if x.dtype == grad.dtype:
            return _usable(backend, grad, x).backward(grad, x, spec, False)
        return (grad * formula.derivative(x, spec)).to(grad.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Give grad_grad * f'(x) and grad_grad * grad * f''(x), themselves differentiable."""
        grad, x = ctx.saved_tensors
        slope, bend = formula.derivative(x, ctx.spec), formula.second_derivative(x, ctx.spec)
        return (grads[0] * slope).to(grad.dtype), grads[0] * grad * bend, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Give grad_tangent * f'(x) + grad * f''(x) * x_tangent for forward mode over a backward pass."""
        grad, x = ctx.saved_tensors
        from_grad: Any = 0 if tangents[0] is None else tangents[0] * formula.derivative(x, ctx.spec)
        from_x = 0 if tangents[1] is None else grad * formula.second_derivative(x, ctx.spec) * tangents[1]
        return (from_grad + from_x).to(grad.dtype)


class Inverse(torch.autograd.Function):
    """The x with f(x) = y in float64, as a differentiable function of y."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, spec: GemSpec) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] -- torch has two forms
        """Solve f(x) = y; 0 where y <= 0 and leak is 0."""
        return formula.inverse(y, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Keep the root; apart from `forward`, as torch.func asks, whose vmap can run a backward pass."""
        y, spec = inputs
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)
        ctx.settings = spec, y.dtype

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Give grad / f'(x), and 0 where f' is 0: there every product with f' is 0 as well."""
        (x,) = ctx.saved_tensors
        spec, dtype = ctx.settings
        return _divide_by_slope(grads[0], x, spec).to(dtype), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Give tangent / f'(x), and 0 where f' is 0."""
        (x,) = ctx.saved_tensors
        return _divide_by_slope(tangents[0].to(x.dtype), x, ctx.settings[0])


class GatedUnit(torch.autograd.Function):
    """x * f(gate), keeping both inputs and nothing else."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, spec: GemSpec, backend: Backend) -> Tensor:
        """Compute x * f(gate)."""
        ctx.save_for_backward(x, gate)
        ctx.save_for_forward(x, gate)
        ctx.settings = spec, backend
        return backend.glu_forward(x, gate, spec)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Give grad * f(gate) and grad * x * f'(gate)."""
        x, gate = ctx.saved_tensors
        spec, backend = ctx.settings
        if torch.is_grad_enabled():
            # Half types are widened before the products, which may overflow where f' is 0.
            grad, wide = formula.widen(grads[0]), formula.widen(gate)
            value = formula.value if is_traced(grad) else _plain_value
            grad_x = (grad * value(wide, spec)).to(x.dtype)
            grad_gate = _differentiable_gradient(grad * x, wide, spec, PLAIN).to(gate.dtype)
        else:
            grad_x, grad_gate = _usable(backend, grads[0], x, gate).glu_backward(grads[0], x, gate, spec)
        return grad_x, grad_gate, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Give x_tangent * f(gate) + x * f'(gate) * gate_tangent for forward-mode differentiation."""
        x, gate = ctx.saved_tensors
        spec, _ = ctx.settings
        wide = formula.widen(gate)
        from_x: Any = 0 if tangents[0] is None else tangents[0] * formula.value(wide, spec)
        from_gate = 0 if tangents[1] is None else formula.widen(x) * tangents[1] * formula.derivative(wide, spec)
        return (from_x + from_gate).to(x.dtype)


def _differentiable_gradient(grad: Tensor, x: Tensor, spec: GemSpec, backend: Backend) -> Tensor:
    """Give grad * f'(x) in the dtype of grad, differentiable in both; x may be wider."""
    if is_traced(grad):
        # In a batch of gradients, which vmap makes, the graph would lose an autograd function without a word.
        return (grad * formula.derivative(formula.widen(x), spec)).to(grad.dtype)
    return Gradient.apply(grad, x, spec, backend)  # pyright: ignore[reportReturnType]


def _plain_value(x: Tensor, spec: GemSpec) -> Tensor:
    return apply_eagerly(x, spec, PLAIN, from_output=False, inplace=False)


def _divide_by_slope(change: Tensor, x: Tensor, spec: GemSpec) -> Tensor:
    slope = formula.derivative(x, spec)
    flat = slope == 0
    return torch.where(flat, 0.0, change / torch.where(flat, 1.0, slope))


def _usable(backend: Backend, grad: Tensor, *kept: Tensor) -> Backend:
    # A gradient can arrive traced or batched (vmap over backward passes) though the forward pass was eager. In forward
    # mode, what arrives and what was kept can carry tangents, which a kernel would drop. And hooks on saved tensors may
    # give them back in another dtype or on another device, while a kernel reads raw memory.
    alike = all((t.dtype, t.device, t.shape) == (grad.dtype, grad.device, grad.shape) for t in kept)
    return PLAIN if not alike or is_traced(grad) or _has_tangents() else backend


def _has_tangents() -> bool:
    """Tell whether tensors can carry tangents now, for forward-mode differentiation."""
    return forward_ad._current_level >= 0

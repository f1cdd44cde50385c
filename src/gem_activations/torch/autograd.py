"""Exact gradients of every order: from the input, or from the output alone, which the next layer keeps anyway.

f is strictly increasing for x > 0, so that its gradient is a function of its output, as ReLU's is. Let k be what was
kept, x or y = f(x), d1 = f'(x) as a function of k, and d2, d3 its derivatives by k:

    Activation: f(x), keeps k             backward: g to g d1, which is
    Gradient: (g, k) to g d1              backward: gg to (gg d1, gg g d2), which is
    Curvature: (gg, g, k) to these two    backward: a, b to (a d1 + b g d2, b gg d2, a gg d2 + b gg g d3)

Each is one kernel, and so is the backward pass of the last, unless it is to be differentiated once more: then it is
written in torch operations. If y was kept, d2 is f''(x) / f'(x): what arrives at y is multiplied by f'(x) on its way to
x.

torch.func asks for functions of another form, which take longer to call. `_apply` picks the form.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from ..spec import GemSpec
from . import formula
from .backends import PLAIN, Backend
from .dispatch import is_traced

_creation_meta: Any = torch._C._autograd._get_creation_meta  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_ORDINARY_VIEW: Any = torch._C._autograd.CreationMeta.DEFAULT  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_transforms_active: Any = torch._C._are_functorch_transforms_active  # pyright: ignore[reportPrivateUsage]


def apply_eagerly(x: Tensor, spec: GemSpec, backend: Backend, *, from_output: bool, inplace: bool) -> Tensor:
    """Return f(x) of an ordinary tensor, or of one that torch.func wraps, computed by `backend` and differentiable.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64, on a device that the backend serves.
        spec: A member of the family.
        backend: What computes.
        from_output: Keep the output for the backward pass instead of the input.
        inplace: Overwrite x; needs from_output.
    Raises: RuntimeError (PyTorch's own), before x is touched: inplace on a leaf that requires grad, or on a view that
        may not be changed.
    """
    if inplace and (
        _has_tangents() or _transforms_active() or (torch.is_grad_enabled() and not _may_be_overwritten(x))
    ):
        # An autograd function is refused only after it has run; copy_ is refused before it writes. And copy_ overwrites
        # tangents that are shared or batched, too.
        return x.copy_(_apply(Activation, x.clone(), spec, backend, from_output, False))
    return _apply(Activation, x, spec, backend, from_output, inplace)


def apply_gated_eagerly(x: Tensor, gate: Tensor, spec: GemSpec, backend: Backend) -> Tensor:
    """Return x * f(gate) of tensors of one shape, dtype and device, of the kinds that `apply_eagerly` takes."""
    return _apply(GatedUnit, x, gate, spec, backend)


def _may_be_overwritten(x: Tensor) -> bool:
    """Tell whether autograd surely lets x be changed in place: no leaf, no view of one, no view that it protects."""
    if not x._is_view():
        return not (x.is_leaf and x.requires_grad)
    base: Any = x._base
    return not any(t.is_leaf and t.requires_grad for t in (x, base)) and _creation_meta(x) == _ORDINARY_VIEW


class _Elementwise(Function):
    """An autograd function in two forms, from `compute` and from `keep`, which saves what the derivatives need.

    Subclasses have a class attribute TENSORS, the number of their first arguments that are tensors, all of one shape.
    """

    transformed: Any

    def __init_subclass__(cls) -> None:
        function: Any = cls
        if "compute" not in vars(cls):
            return

        def forward(ctx: Any, *arguments: Any) -> Any:
            output = function.compute(*arguments)
            function.keep(ctx, arguments, output)
            return output

        def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
            # What is computed is elementwise: a batch is one dimension more.
            tensors = [
                tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
                for tensor, dim in zip(arguments[: function.TENSORS], in_dims, strict=False)
            ]
            return _apply(function, *tensors, *arguments[function.TENSORS :]), 0

        function.forward = staticmethod(forward)
        members = {"forward": function.compute, "setup_context": function.keep, "vmap": vmap}
        function.transformed = type(function)(
            cls.__name__, (cls,), {name: staticmethod(member) for name, member in members.items()}
        )


def _apply(function: Any, *arguments: Any) -> Any:
    if _transforms_active():
        return function.transformed.apply(*arguments)
    directly: Any = super(Function, function)  # Function's own `apply` would look for transforms once more.
    return directly.apply(*arguments)


class Activation(_Elementwise):
    """f(x), keeping its input or its output."""

    TENSORS = 1

    @staticmethod
    def compute(x: Tensor, spec: GemSpec, backend: Backend, from_output: bool, inplace: bool) -> Tensor:  # noqa: ARG004 -- of `keep`
        """Compute f(x), into the storage of x if `inplace`."""
        return backend.forward(x, spec, inplace)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save the input or the output."""
        x, spec, backend, from_output, inplace = inputs
        if inplace:
            ctx.mark_dirty(output)
        kept = output if from_output else x
        ctx.save_for_backward(kept)
        ctx.save_for_forward(kept)
        ctx.settings = spec, backend, from_output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return grad d1."""
        (kept,) = ctx.saved_tensors
        return _gradient(grads[0], kept, *ctx.settings), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Return tangent d1."""
        (kept,) = ctx.saved_tensors
        return _gradient(tangents[0], kept, *ctx.settings)


def _gradient(grad: Tensor, kept: Tensor, spec: GemSpec, backend: Backend, from_output: bool) -> Tensor:
    """Return grad d1, differentiable if derivatives of it may be asked for."""
    if kept.dtype != grad.dtype or kept.device != grad.device:  # Hooks on saved tensors may change both.
        kept = kept.to(grad)
    if _is_recorded(grad):
        wide = formula.widen(kept)
        return (grad * _apply(Gradient, torch.ones_like(wide), wide, spec, backend, from_output)).to(grad.dtype)
    if torch.is_grad_enabled() or _has_tangents() or _transforms_active():
        return _apply(Gradient, grad, kept, spec, backend, from_output)
    return Gradient.compute(grad, kept, spec, backend, from_output)


class Gradient(_Elementwise):
    """grad d1 as a differentiable function of grad and of what was kept."""

    TENSORS = 2

    @staticmethod
    def compute(grad: Tensor, kept: Tensor, spec: GemSpec, backend: Backend, from_output: bool) -> Tensor:
        """Compute grad d1."""
        return (PLAIN if is_traced(kept) else backend).backward(grad, kept, spec, from_output)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 -- torch's signature
        """Save both arguments."""
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.settings = inputs[2:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return gg d1 and gg grad d2."""
        return *_curvature(grads[0], *ctx.saved_tensors, *ctx.settings), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Return (tangent of grad) d1 + (tangent of k) grad d2."""
        grad, kept = ctx.saved_tensors
        of_grad, of_kept = tangents[:2]
        if of_kept is None:
            return _gradient(of_grad, kept, *ctx.settings)
        _, result = _curvature(of_kept, grad, kept, *ctx.settings)
        return result if of_grad is None else result + _gradient(of_grad, kept, *ctx.settings)


def _curvature(
    grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, backend: Backend, from_output: bool
) -> tuple[Tensor, Tensor]:
    """Return gg d1 and gg grad d2, differentiable if derivatives of them may be asked for."""
    if _is_recorded(grad_grad):
        ones = torch.ones_like(kept)
        d1, d2 = _apply(Curvature, ones, ones, kept, spec, backend, from_output)
        return grad_grad * d1, grad_grad * grad * d2
    if torch.is_grad_enabled() or _has_tangents() or _transforms_active():
        return _apply(Curvature, grad_grad, grad, kept, spec, backend, from_output)
    return Curvature.compute(grad_grad, grad, kept, spec, backend, from_output)


class Curvature(_Elementwise):
    """gg d1 and gg grad d2 as differentiable functions of gg, grad and what was kept."""

    TENSORS = 3

    @staticmethod
    def compute(
        grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, backend: Backend, from_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Compute both."""
        return (PLAIN if is_traced(kept) else backend).second(grad_grad, grad, kept, spec, from_output)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004 -- torch's signature
        """Save the three tensors."""
        ctx.save_for_backward(*inputs[:3])
        ctx.save_for_forward(*inputs[:3])
        ctx.settings = inputs[3:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradients of gg, grad and what was kept."""
        a, b = grads
        grad_grad, grad, kept = ctx.saved_tensors
        spec, backend, from_output = ctx.settings
        if torch.is_grad_enabled() or _has_tangents() or is_traced(a):
            results = _third(a, b, grad_grad, grad, kept, spec, backend, from_output)
        else:
            results = backend.third(a, b, grad_grad, grad, kept, spec, from_output)
        return *results, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Return the tangents of both results."""
        # Both are bilinear in gg and grad d2, and the passes above are symmetric in them.
        grad_grad, grad, kept = ctx.saved_tensors
        of_grad_grad, of_grad, of_kept = (
            torch.zeros_like(kept) if tangent is None else tangent for tangent in tangents[:3]
        )
        first, second = _curvature(of_grad_grad, grad, kept, *ctx.settings)
        of_first = _curvature(of_kept, grad_grad, kept, *ctx.settings)[1]
        of_second = _third(torch.zeros_like(kept), of_kept, grad_grad, grad, kept, *ctx.settings)[2]
        return first + of_first, second + _curvature(grad_grad, of_grad, kept, *ctx.settings)[1] + of_second


def _third(
    of_grad: Tensor,
    of_kept: Tensor,
    grad_grad: Tensor,
    grad: Tensor,
    kept: Tensor,
    spec: GemSpec,
    backend: Backend,
    from_output: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the results of Backend.third in torch operations, which can be differentiated any number of times."""
    dtype = kept.dtype
    a, b, grad_grad, grad, kept = map(formula.widen, (of_grad, of_kept, grad_grad, grad, kept))
    x: Any = Inverse.apply(kept, spec, backend) if from_output else kept
    d1, d2, d3 = formula.derivatives(x, spec, from_output)
    results = a * d1 + b * grad * d2, b * grad_grad * d2, grad_grad * (a * d2 + b * grad * d3)
    first, second, third = (result.to(dtype) for result in results)
    return first, second, third


class Inverse(Function):
    """The x with f(x) = y, as a differentiable function of y."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, spec: GemSpec, backend: Backend) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] -- torch has two forms
        """Solve f(x) = y; 0 for y <= 0 if leak is 0."""
        return (PLAIN if is_traced(y) else backend).inverse(y, spec)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save the root."""
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)
        ctx.spec = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return grad / f'(x), and 0 where f' is 0: there every product with f' is 0 as well."""
        return grads[0] * formula.reciprocal(formula.derivative(ctx.saved_tensors[0], ctx.spec)), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Return tangent / f'(x), and 0 where f' is 0."""
        return tangents[0] * formula.reciprocal(formula.derivative(ctx.saved_tensors[0], ctx.spec))


class GatedUnit(_Elementwise):
    """x * f(gate), keeping both inputs and nothing else."""

    TENSORS = 2

    @staticmethod
    def compute(x: Tensor, gate: Tensor, spec: GemSpec, backend: Backend) -> Tensor:
        """Compute x * f(gate)."""
        return backend.glu_forward(x, gate, spec)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 -- torch's signature
        """Save both inputs."""
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.settings = inputs[2:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return grad * f(gate) and grad * x * f'(gate)."""
        grad = grads[0]
        x, gate = (kept.to(grad) for kept in ctx.saved_tensors)
        spec, backend = ctx.settings
        if torch.is_grad_enabled() or _has_tangents() or _transforms_active() or is_traced(grad):
            # Half types are widened before the products, which may overflow where f' is 0.
            wide, wide_gate = formula.widen(grad), formula.widen(gate)
            value = _apply(Activation, wide_gate, spec, backend, False, False)
            slope = _gradient(wide * x, wide_gate, spec, backend, False)
            return (wide * value).to(x.dtype), slope.to(gate.dtype), None, None
        return *backend.glu_backward(grad, x, gate, spec), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Return (tangent of x) * f(gate) + x * f'(gate) * (tangent of gate)."""
        x, gate = ctx.saved_tensors
        spec, backend = ctx.settings
        wide = formula.widen(gate)
        result = torch.zeros_like(wide)
        if tangents[0] is not None:
            result = result + tangents[0] * _apply(Activation, wide, spec, backend, False, False)
        if tangents[1] is not None:
            result = result + _gradient(formula.widen(x) * tangents[1], wide, spec, backend, False)
        return result.to(x.dtype)


def _is_recorded(grad: Tensor) -> bool:
    """Tell whether a gradient arrives that only torch operations can take, though the forward pass was eager.

    In the batch that is_grads_batched makes, the graph would lose an autograd function without a word.
    """
    return not _transforms_active() and is_traced(grad)


def _has_tangents() -> bool:
    """Tell whether tensors can carry tangents now, for forward-mode differentiation."""
    return forward_ad._current_level >= 0

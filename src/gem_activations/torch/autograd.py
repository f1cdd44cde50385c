"""Exact gradients of every order: from the input, or from the output alone, which the next layer keeps anyway.

f is strictly increasing for x > 0, so that its gradient is a function of its output, as ReLU's is. Let k be what was
kept, x or y = f(x), d1 = f'(x) as a function of k, and d2, d3 its derivatives by k:

    Activation: f(x), keeps k             backward: g to g d1, which is
    Gradient: (g, k) to g d1              backward: gg to (gg d1, gg g d2), which is
    Curvature: (gg, g, k) to these two    backward: a, b to (a d1 + b g d2, b gg d2, a gg d2 + b gg g d3)

Each is one kernel, and so is the backward pass of the last, unless it is to be differentiated once more: then it is
written in torch operations. If y was kept, d2 is f''(x) / f'(x): what arrives at y is multiplied by f'(x) on its way to
x.

Under torch.func, `_apply` goes down its levels: a batch is one dimension more, and a level that differentiates has its
own nodes.
"""

from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import Function, forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled

from ..kernels.cpu import OPERATIONS, spec_handle
from ..spec import GemSpec
from . import formula
from .backends import PLAIN, UNSEEN, Backend, Cpu
from .dispatch import is_traced

is_dynamo_compiling = torch.compiler.is_dynamo_compiling
_BACKWARD = OPERATIONS["backward"].code, OPERATIONS["backward_from_output"].code
_creation_meta: Any = torch._C._autograd._get_creation_meta  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_ORDINARY_VIEW: Any = torch._C._autograd.CreationMeta.DEFAULT  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
functorch: Any = torch._C._functorch  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_transforms_active: Any = torch._C._are_functorch_transforms_active  # pyright: ignore[reportPrivateUsage]


def apply_eagerly(x: Tensor, spec: GemSpec, backend: Backend, from_output: bool, inplace: bool) -> Tensor:
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
    wrapped = forward_ad._current_level >= 0 or _transforms_active()
    if not (wrapped or (x.requires_grad and torch.is_grad_enabled())):
        y = backend.forward(x, spec, inplace)
        if inplace and not x.is_inference():
            torch.autograd.graph.increment_version(x)
        return y
    if inplace and (wrapped or not _may_be_overwritten(x)):
        # An autograd function is refused only after it has run; copy_ is refused before it writes. And copy_ overwrites
        # tangents that are shared or batched, too.
        return x.copy_(_apply(Activation, x.clone(), Settings(spec, backend, from_output)))
    if wrapped:
        return _apply(Activation, x, Settings(spec, backend, from_output, inplace))
    return apply_directly(x, (spec, backend, from_output, inplace), ())


def apply_gated_eagerly(x: Tensor, gate: Tensor, spec: GemSpec, backend: Backend) -> Tensor:
    """Return x * f(gate) of tensors of one shape, dtype and device, of the kinds that `apply_eagerly` takes."""
    return _apply(GatedUnit, x, gate, Settings(spec, backend))


def _may_be_overwritten(x: Tensor) -> bool:
    """Return whether autograd surely lets x be changed in place: no leaf, no view of one, no view that it protects."""
    if not x._is_view():
        return not (x.is_leaf and x.requires_grad)
    base: Any = x._base
    return not any(t.is_leaf and t.requires_grad for t in (x, base)) and _creation_meta(x) == _ORDINARY_VIEW


class Settings:
    """What the functions need besides tensors; one object, as torch.func walks through every argument."""

    __slots__ = ("backend", "from_output", "inplace", "spec")

    def __init__(self, spec: GemSpec, backend: Backend, from_output: bool = False, inplace: bool = False) -> None:
        self.spec, self.backend, self.from_output, self.inplace = spec, backend, from_output, inplace

    def backend_for(self, kept: Tensor) -> Backend:
        """Return the plain formula for a tensor that has become traced since the forward pass, else the backend."""
        return PLAIN if is_traced(kept) else self.backend


class _Elementwise(Function):
    """An elementwise autograd function of tensors of one shape and of Settings.

    Subclasses have `compute`, and `keep`, which saves what the derivatives need. `transformed` is the function at one
    level of torch.func that differentiates: its tensors are wrapped for that level, and it is computed a level below.
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

        def forward_below(ctx: Any, *arguments: Any) -> Any:
            layer = retrieve_current_functorch_interpreter()
            *tensors, settings = arguments
            below = [functorch._unwrap_for_grad(tensor, layer.level()) for tensor in tensors]
            with torch.enable_grad(), _set_fwd_grad_enabled(True), layer.lower():
                output = _apply(function, *below, settings)
            if isinstance(output, tuple):
                output = tuple(functorch._wrap_for_grad(one, layer.level()) for one in output)
            else:
                output = functorch._wrap_for_grad(output, layer.level())
            function.keep(ctx, arguments, output)
            return output

        if "forward" not in vars(cls):
            function.forward = staticmethod(forward)
        function.transformed = type(function)(cls.__name__, (cls,), {"forward": staticmethod(forward_below)})


def _apply(function: Any, *arguments: Any) -> Any:
    """Apply a function, at every level of torch.func if there are some."""
    directly: Any = super(
        Function, function
    )  # Function's own `apply` takes long, and builds two classes at each level.
    if not _transforms_active():
        return directly.apply(*arguments)
    layer = functorch.peek_interpreter_stack()
    if layer.key() != functorch.TransformType.Vmap:
        with enable_single_level_autograd_function():
            return super(Function, function.transformed).apply(*arguments)  # pyright: ignore[reportAttributeAccessIssue]
    *tensors, settings = arguments
    level = layer.level()
    pairs = [functorch._unwrap_batched(tensor, level) for tensor in tensors]
    batched = [tensor for tensor, dimension in pairs if dimension is not None]
    if batched:
        # What is computed is elementwise: a batch is one dimension more, the first.
        size = next(tensor.shape[dimension] for tensor, dimension in pairs if dimension is not None)
        tensors = [
            tensor.expand(size, *tensor.shape) if dimension is None else tensor.movedim(dimension, 0)
            for tensor, dimension in pairs
        ]
    with retrieve_current_functorch_interpreter().lower():
        output = _apply(function, *tensors, settings)
    if not batched:
        return output
    if isinstance(output, tuple):
        return tuple(functorch._add_batch_dim(one, 0, level) for one in output)
    return functorch._add_batch_dim(output, 0, level)


class Activation(_Elementwise):
    """f(x), keeping its input or its output."""

    @staticmethod
    def compute(x: Tensor, settings: Settings) -> Tensor:
        """Compute f(x), into the storage of x if asked to."""
        return settings.backend.forward(x, settings.spec, settings.inplace)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save the input or the output."""
        x, settings = inputs
        if settings.inplace:
            ctx.mark_dirty(output)
        kept = output if settings.from_output else x
        ctx.save_for_backward(kept)
        ctx.save_for_forward(kept)
        ctx.settings = settings

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return grad d1."""
        (kept,) = saved(ctx)
        return _gradient(grads[0], kept, ctx.settings), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Return tangent d1."""
        (kept,) = saved(ctx)
        return _gradient(tangents[0], kept, ctx.settings)


class DirectActivation(Function):
    """f(x) if nothing but autograd looks, in as few calls as can be; the settings come as the arguments of Settings."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: tuple[Any, ...], computed: tuple[Tensor, ...]) -> Tensor:
        """Return f(x), which may be there already, in a tuple, so that it is no input; keep it or x."""
        spec, backend, from_output, inplace = settings
        y = computed[0] if computed else backend.forward(x, spec, inplace)
        if inplace:
            ctx.mark_dirty(y)
        ctx.settings = settings
        ctx.save_for_backward(y if from_output else x)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return grad d1."""
        (kept,) = ctx.saved_tensors
        spec, backend, from_output, _ = ctx.settings
        if type(backend) is Cpu and not is_dynamo_compiling() and forward_ad._current_level < 0:
            result = backend.compute(
                _BACKWARD[from_output], (spec.handle or spec_handle(spec)).address, UNSEEN, grads[0], kept
            )
            if result is not None:
                return result, None, None
        return _gradient(grads[0], kept, Settings(*ctx.settings)), None, None


_bare: Any = super(Function, DirectActivation)
apply_directly = _bare.apply  # As `_apply` calls it, without asking for transforms.


def _gradient(grad: Tensor, kept: Tensor, settings: Settings) -> Tensor:
    """Return grad d1, differentiable if derivatives of it may be asked for."""
    if kept.dtype is not grad.dtype or kept.is_cpu is not grad.is_cpu:  # Hooks on saved tensors may change both.
        kept = kept.to(grad)
    if _transforms_active():
        return _apply(Gradient, grad, kept, settings)
    if is_traced(grad):
        # In the batch that is_grads_batched makes, the graph would lose an autograd function without a word.
        wide = formula.widen(kept)
        return (grad * _apply(Gradient, torch.ones_like(wide), wide, settings)).to(grad.dtype)
    if torch.is_grad_enabled() or _has_tangents():
        return _apply(Gradient, grad, kept, settings)
    return settings.backend.backward(grad, kept, settings.spec, settings.from_output)


class Gradient(_Elementwise):
    """grad d1 as a differentiable function of grad and of what was kept."""

    @staticmethod
    def compute(grad: Tensor, kept: Tensor, settings: Settings) -> Tensor:
        """Compute grad d1."""
        return settings.backend_for(kept).backward(grad, kept, settings.spec, settings.from_output)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 -- the signature of all
        """Save both tensors."""
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.settings = inputs[2]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return gg d1 and gg grad d2."""
        grad, kept = saved(ctx)
        return *_curvature(grads[0], grad, kept, ctx.settings), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Return (tangent of grad) d1 + (tangent of k) grad d2."""
        grad, kept = saved(ctx)
        of_grad, of_kept = tangents[:2]
        if of_kept is None:
            return _gradient(of_grad, kept, ctx.settings)
        _, result = _curvature(of_kept, grad, kept, ctx.settings)
        return result if of_grad is None else result + _gradient(of_grad, kept, ctx.settings)


def _curvature(grad_grad: Tensor, grad: Tensor, kept: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
    """Return gg d1 and gg grad d2, differentiable if derivatives of them may be asked for."""
    if _transforms_active():
        return _apply(Curvature, grad_grad, grad, kept, settings)
    if is_traced(grad_grad):
        ones = torch.ones_like(kept)
        d1, d2 = _apply(Curvature, ones, ones, kept, settings)
        return grad_grad * d1, grad_grad * grad * d2
    if torch.is_grad_enabled() or _has_tangents():
        return _apply(Curvature, grad_grad, grad, kept, settings)
    return settings.backend.second(grad_grad, grad, kept, settings.spec, settings.from_output)


class Curvature(_Elementwise):
    """gg d1 and gg grad d2 as differentiable functions of gg, grad and what was kept."""

    @staticmethod
    def compute(grad_grad: Tensor, grad: Tensor, kept: Tensor, settings: Settings) -> tuple[Tensor, Tensor]:
        """Compute both."""
        return settings.backend_for(kept).second(grad_grad, grad, kept, settings.spec, settings.from_output)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004 -- the signature of all
        """Save the three tensors."""
        ctx.save_for_backward(*inputs[:3])
        ctx.save_for_forward(*inputs[:3])
        ctx.settings = inputs[3]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradients of gg, grad and what was kept."""
        a, b = grads
        grad_grad, grad, kept = saved(ctx)
        settings = ctx.settings
        if torch.is_grad_enabled() or _has_tangents() or is_traced(a):
            results = _third(a, b, grad_grad, grad, kept, settings)
        else:
            results = settings.backend.third(a, b, grad_grad, grad, kept, settings.spec, settings.from_output)
        return *results, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Return the tangents of both results."""
        # Both are bilinear in gg and grad, so that the passes above serve with one of them replaced by its tangent.
        grad_grad, grad, kept = saved(ctx)
        nothing = torch.zeros_like(kept)
        of_grad_grad, of_grad, of_kept = (nothing if tangent is None else tangent for tangent in tangents[:3])
        first, second = _curvature(of_grad_grad, grad, kept, ctx.settings)
        of_first = _curvature(of_kept, grad_grad, kept, ctx.settings)[1]
        of_second = _third(nothing, of_kept, grad_grad, grad, kept, ctx.settings)[2]
        return first + of_first, second + _curvature(grad_grad, of_grad, kept, ctx.settings)[1] + of_second


def _third(
    of_grad: Tensor, of_kept: Tensor, grad_grad: Tensor, grad: Tensor, kept: Tensor, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the results of Backend.third in torch operations, which can be differentiated any number of times."""
    dtype = kept.dtype
    a, b, grad_grad, grad, kept = map(formula.widen, (of_grad, of_kept, grad_grad, grad, kept))
    x = _apply(Inverse, kept, settings) if settings.from_output else kept
    d1, d2, d3 = formula.derivatives(x, settings.spec, settings.from_output)
    results = a * d1 + b * grad * d2, b * grad_grad * d2, grad_grad * (a * d2 + b * grad * d3)
    first, second, third = (result.to(dtype) for result in results)
    return first, second, third


class Inverse(_Elementwise):
    """The x with f(x) = y, as a differentiable function of y."""

    @staticmethod
    def compute(y: Tensor, settings: Settings) -> Tensor:
        """Solve f(x) = y; 0 for y <= 0 if leak is 0."""
        return settings.backend_for(y).inverse(y, settings.spec)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save the root."""
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)
        ctx.spec = inputs[1].spec

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return grad / f'(x), and 0 where f' is 0: there every product with f' is 0 as well."""
        return grads[0] * formula.reciprocal(formula.derivative(saved(ctx)[0], ctx.spec)), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Return tangent / f'(x), and 0 where f' is 0."""
        return tangents[0] * formula.reciprocal(formula.derivative(saved(ctx)[0], ctx.spec))


class GatedUnit(_Elementwise):
    """x * f(gate), keeping both inputs and nothing else."""

    @staticmethod
    def compute(x: Tensor, gate: Tensor, settings: Settings) -> Tensor:
        """Compute x * f(gate)."""
        return settings.backend.glu_forward(x, gate, settings.spec)

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004 -- the signature of all
        """Save both inputs."""
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.settings = inputs[2]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return grad * f(gate) and grad * x * f'(gate)."""
        grad, settings = grads[0], ctx.settings
        x, gate = (kept.to(grad) for kept in saved(ctx))
        if torch.is_grad_enabled() or _has_tangents() or is_traced(grad):
            # Half types are widened before the products, which may overflow where f' is 0.
            wide, wide_gate = formula.widen(grad), formula.widen(gate)
            value = _apply(Activation, wide_gate, settings)
            slope = _gradient(wide * x, wide_gate, settings)
            return (wide * value).to(x.dtype), slope.to(gate.dtype), None
        return *settings.backend.glu_backward(grad, x, gate, settings.spec), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Return (tangent of x) * f(gate) + x * f'(gate) * (tangent of gate)."""
        x, gate = saved(ctx)
        wide = formula.widen(gate)
        result = torch.zeros_like(wide)
        if tangents[0] is not None:
            result = result + tangents[0] * _apply(Activation, wide, ctx.settings)
        if tangents[1] is not None:
            result = result + _gradient(formula.widen(x) * tangents[1], wide, ctx.settings)
        return result.to(x.dtype)


def saved(ctx: Any) -> tuple[Tensor, ...]:
    """Return the saved tensors as they are outside of levels of torch.func that have ended.

    A pullback of torch.func.vjp runs there, and what wraps a tensor at a level knows nothing of the graph outside.
    """
    return tuple(_outside(tensor) for tensor in ctx.saved_tensors)


def _outside(tensor: Tensor) -> Tensor:
    while functorch.is_functorch_wrapped_tensor(tensor) and (value := functorch.unwrap_if_dead(tensor)) is not tensor:
        tensor = value
    return tensor


def _has_tangents() -> bool:
    """Return whether tensors can carry tangents now, for forward-mode differentiation."""
    return forward_ad._current_level >= 0

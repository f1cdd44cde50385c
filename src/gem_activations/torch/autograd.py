"""Exact gradients of every order: from the input, or from the output alone, which the next layer keeps anyway.

f is strictly increasing for x > 0, so that its gradient is a function of its output, as ReLU's is. Let k be what was
kept, x or y = f(x), d1 = f'(x) as a function of k, and d2, d3 its derivatives by k:

    Activation: f(x), keeps k             backward: g to g d1, which is
    Gradient: (g, k) to g d1              backward: gg to (gg d1, gg g d2), which is
    Curvature: (gg, g, k) to these two    backward: a, b to (a d1 + b g d2, b gg d2, a gg d2 + b gg g d3)

Each is one kernel, and so is the backward pass of the last, unless it is to be differentiated once more: then it is
written in torch operations. If y was kept, d2 is f''(x) / f'(x): what arrives at y is multiplied by f'(x) on its way to
x.

In forward mode g d1 has a tangent, of the tangents a of g and b of k, in one pass too: Tangent, a d1 + b g d2.

`_apply` makes a node for autograd and takes tangents along. Under torch.func it goes down the levels: a batch is one
dimension more, and a level that differentiates backwards has its own nodes.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from ..kernels.cpu import DTYPES, spec_handle
from ..spec import GemSpec
from . import formula
from .backends import PLAIN, Backend, Cpu, is_traced, load_cpu, load_nodes

_creation_meta: Any = torch._C._autograd._get_creation_meta  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_ORDINARY_VIEW: Any = torch._C._autograd.CreationMeta.DEFAULT  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
functorch: Any = torch._C._functorch  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_transforms_active: Any = torch._C._are_functorch_transforms_active  # pyright: ignore[reportPrivateUsage]
_forward_enabled, _set_forward_enabled = torch._C._is_fwd_grad_enabled, torch._C._set_fwd_grad_enabled  # pyright: ignore[reportPrivateUsage]
_torch: Any = torch  # It types its own operators for dual tensors loosely.


def apply_eagerly(x: Tensor, spec: GemSpec, backend: Backend, from_output: bool, inplace: bool) -> Tensor:
    """Return f(x) of an ordinary tensor, or of one that torch.func wraps, computed by `backend` and differentiable.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64, on a device that the backend serves.
        spec: A member of the family.
        backend: What computes.
        from_output: Keep the output for the backward pass instead of the input; under torch.func and for tensors with
            tangents the input is kept.
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
        return x.copy_(apply_eagerly(x.clone(), spec, backend, from_output, False))
    if wrapped:
        return _apply(Activation, x, Settings(spec, backend))
    with torch.no_grad():
        y = backend.forward(x, spec, inplace)
    settings = Settings(spec, backend, from_output, spec_handle(spec).address if type(backend) is Cpu else 0)
    return DirectActivation.attach(x, (settings, (y if from_output else x,), y))


def apply_gated_eagerly(x: Tensor, gate: Tensor, spec: GemSpec, backend: Backend) -> Tensor:
    """Return x * f(gate) of tensors of one shape, dtype and device, of the kinds that `apply_eagerly` takes."""
    return _apply(GatedUnit, x, gate, Settings(spec, backend))


def _may_be_overwritten(x: Tensor) -> bool:
    """Return whether autograd surely lets x be changed in place: no leaf, no view of one, no view that it protects."""
    if not x._is_view():
        return not (x.is_leaf and x.requires_grad)
    base: Any = x._base
    return not any(t.is_leaf and t.requires_grad for t in (x, base)) and _creation_meta(x) == _ORDINARY_VIEW


class Settings(NamedTuple):
    """What the functions need besides tensors; source/module.c and nodes.cpp read it too."""

    spec: GemSpec
    backend: Backend
    from_output: bool = False
    address: int = 0  # of the spec, if the C library is the backend
    scaled: bool = False  # by a tensor, kept beside x

    def backend_for(self, kept: Tensor) -> Backend:
        """Return the plain formula for a tensor that has become traced since the forward pass, else the backend."""
        return PLAIN if is_traced(kept) else self.backend


class _Elementwise(Function):
    """An elementwise autograd function of tensors of one shape and of Settings.

    Subclasses have `compute`, and `tangent`, of the inputs and their tangents, some of which are None. `transformed` is
    the function at a level of torch.func that differentiates backwards: its tensors are wrapped for that level, and it
    is computed a level below.
    """

    compute: Any
    tangent: Any
    transformed: Any

    def __init_subclass__(cls) -> None:
        function: Any = cls
        if "compute" not in vars(cls):
            return

        def forward(ctx: Any, *arguments: Any) -> Any:
            ctx.save_for_backward(*arguments[:-1])
            ctx.settings = arguments[-1]
            return function.compute(*arguments)

        def forward_below(ctx: Any, *arguments: Any) -> Any:
            ctx.save_for_backward(*arguments[:-1])
            ctx.settings = arguments[-1]
            return _apply_below(function, functorch.peek_interpreter_stack().level(), arguments, [])

        function.forward = staticmethod(forward)
        function.transformed = type(function)(cls.__name__, (cls,), {"forward": staticmethod(forward_below)})


def _apply(function: Any, *arguments: Any) -> Any:
    """Apply a function with its derivatives, at every level of torch.func if there are some."""
    # Function's own `apply` takes long, and builds two classes at each level.
    directly: Any = super(Function, function)
    if not _transforms_active():
        tangents = _tangents(arguments)
        if not tangents:
            return directly.apply(*arguments)
        _set_forward_enabled(False)  # Tensors are kept with their tangents, but no rule for these is asked for.
        try:
            output = directly.apply(*arguments)
        finally:
            _set_forward_enabled(True)
        primals = [_torch._unpack_dual(tensor, level=0)[0] for tensor in arguments[:-1]]
        return _dual(output, function.tangent(primals, tangents, arguments[-1]))
    layer = functorch.peek_interpreter_stack()
    kind, level = layer.key(), layer.level()
    if kind == functorch.TransformType.Vmap:
        return _apply_batched(function, level, arguments)
    if kind == functorch.TransformType.Jvp:
        return _apply_below(function, level, arguments, _tangents(arguments))
    allowed = functorch.get_single_level_autograd_function_allowed()
    functorch.set_single_level_autograd_function_allowed(True)
    try:
        return super(Function, function.transformed).apply(*arguments)  # pyright: ignore[reportAttributeAccessIssue]
    finally:
        functorch.set_single_level_autograd_function_allowed(allowed)


def _tangents(arguments: tuple[Any, ...]) -> list[Any]:
    """Return the tangent or None of each tensor; nothing if there is none."""
    if forward_ad._current_level < 0 or not _forward_enabled():
        return []
    tangents = [_torch._unpack_dual(tensor, level=0)[1] for tensor in arguments[:-1]]
    return [] if all(tangent is None for tangent in tangents) else tangents


def _dual(primal: Any, tangent: Any) -> Any:
    pairs = isinstance(primal, tuple)
    return tuple(map(_dual, primal, tangent)) if pairs else _torch._make_dual(primal, tangent, level=0)


def _apply_below(function: Any, level: int, arguments: tuple[Any, ...], tangents: list[Any]) -> Any:
    """Apply a function, and its tangent if there are some, below a level of torch.func; wrap the result for it."""
    below = [functorch._unwrap_for_grad(tensor, level) for tensor in arguments[:-1]]
    along = [None if tangent is None else functorch._unwrap_for_grad(tangent, level) for tangent in tangents]
    backward, forward = torch.is_grad_enabled(), _forward_enabled()
    layer = functorch.pop_dynamic_layer_stack()
    torch._C._set_grad_enabled(True)  # pyright: ignore[reportPrivateUsage]
    _set_forward_enabled(True)
    try:
        output = _apply(function, *below, arguments[-1])
        tangent = function.tangent(below, along, arguments[-1]) if along else None
    finally:
        _set_forward_enabled(forward)
        torch._C._set_grad_enabled(backward)  # pyright: ignore[reportPrivateUsage]
        functorch.push_dynamic_layer_stack(layer)
    output = _wrap(functorch._wrap_for_grad, output, level)
    return output if tangent is None else _dual(output, _wrap(functorch._wrap_for_grad, tangent, level))


def _wrap(how: Any, output: Any, *where: int) -> Any:
    return tuple(how(one, *where) for one in output) if isinstance(output, tuple) else how(output, *where)


def _apply_batched(function: Any, level: int, arguments: tuple[Any, ...]) -> Any:
    """Apply a function at a level of vmap: what is computed is elementwise, and a batch one dimension more."""
    *tensors, settings = arguments
    pairs = [functorch._unwrap_batched(tensor, level) for tensor in tensors]
    tensors, dimension = [tensor for tensor, _ in pairs], pairs[0][1]
    layer = functorch.pop_dynamic_layer_stack()
    try:
        if any(other != dimension for _, other in pairs):
            size, dimension = next(tensor.shape[each] for tensor, each in pairs if each is not None), 0
            tensors = [
                # Contiguous, as kernels read it: what is kept would be copied again for every further pass.
                tensor.expand(size, *tensor.shape).contiguous() if each is None else tensor.movedim(each, 0)
                for tensor, each in pairs
            ]
        output = _apply(function, *tensors, settings)
    finally:
        functorch.push_dynamic_layer_stack(layer)
    return output if dimension is None else _wrap(functorch._add_batch_dim, output, dimension, level)


class Activation(_Elementwise):
    """f(x), keeping x."""

    @staticmethod
    def compute(x: Tensor, settings: Settings) -> Tensor:
        """Compute f(x)."""
        return settings.backend.forward(x, settings.spec, False)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return grad d1."""
        (kept,) = saved(ctx)
        return _gradient(grads[0], kept, ctx.settings), None

    @staticmethod
    def tangent(inputs: Any, tangents: Any, settings: Settings) -> Tensor:
        """Return tangent f'(x)."""
        return _gradient(tangents[0], inputs[0], settings)


class Direct(Function):
    """A node of a result that is there already, if nothing but autograd looks; `short_way` lets C do what is done here.

    Its inputs are tensors and a tuple of settings, tensors to keep and the result: the first input if overwritten.
    """

    further: Any
    attach: Any

    def __init_subclass__(cls) -> None:
        cls.attach = super(Function, cls).apply  # pyright: ignore[reportAttributeAccessIssue] -- Function's own takes long

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        """Return the result."""
        ctx.settings, kept, result = arguments[-1]
        ctx.save_for_backward(*kept)
        if result is arguments[0]:
            ctx.mark_dirty(result)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return what `further` computes."""
        return ctx._forward_cls.further(ctx.settings, ctx.saved_tensors, *grads)


class DirectActivation(Direct):
    """f(x), keeping x or f(x)."""

    @staticmethod
    def further(settings: Settings, saved: Any, grad: Tensor) -> Any:
        """Return grad d1."""
        return _gradient(grad, saved[0], settings), None


class DirectGradient(Direct):
    """grad d1, keeping grad and what was kept."""

    @staticmethod
    def further(settings: Settings, saved: Any, grad_grad: Tensor) -> Any:
        """Return gg d1 and gg grad d2."""
        return *_curvature(grad_grad, saved[0], saved[1], settings), None


@cache
def short_way() -> Any:
    """Return `activate` of nodes.cpp or, without it, of source/module.c; None if neither is there.

    It takes the `attach` of a node, settings for each dtype and the node's inputs, and returns f(x) of nodes that are
    differentiated without a Python function of ours; what is out of the ordinary it declines, by None.
    """
    kernels, (nodes, _) = load_cpu(), load_nodes()
    if kernels is None:
        return None
    if kernels.module is not None:
        differentiate = kernels.module.bind_nodes(_torch._C._FunctionBase, DirectGradient.attach)
        for node in Direct.__subclasses__():
            node.forward = kernels.module.forward
            node._backward_cls.apply = differentiate
    if nodes is not None:
        nodes.bind(kernels.run_address, DirectGradient.attach)
        return nodes.activate
    return kernels.module and kernels.module.activate


def choices(spec: GemSpec) -> dict[str, tuple[Settings, ...]]:
    """Return the settings for each way to save and each dtype, in the order of the C library, and keep them."""
    kernels, handle = load_cpu(), spec_handle(spec)
    assert kernels is not None
    enough = [kernels.output_is_enough(spec, getattr(torch, name)) for name in DTYPES]
    from_output = {"auto": enough, "input": [False] * len(enough), "output": [True] * len(enough)}
    handle.choices = {
        save: tuple(Settings(spec, kernels, each, handle.address) for each in wanted)
        for save, wanted in from_output.items()
    }
    return handle.choices


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
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return gg d1 and gg grad d2."""
        grad, kept = saved(ctx)
        return *_curvature(grads[0], grad, kept, ctx.settings), None

    @staticmethod
    def tangent(inputs: Any, tangents: Any, settings: Settings) -> Tensor:
        """Return (tangent of grad) d1 + (tangent of k) grad d2."""
        (grad, kept), (of_grad, of_kept) = inputs, tangents
        if of_kept is None:
            return _gradient(of_grad, kept, settings)
        if of_grad is None:
            return _curvature(of_kept, grad, kept, settings)[1]
        return _apply(Tangent, of_grad, of_kept, grad, kept, settings)


class Tangent(_Elementwise):
    """a d1 + b grad d2 as a differentiable function of a, b, grad and what was kept: the tangent of Gradient."""

    @staticmethod
    def compute(a: Tensor, b: Tensor, grad: Tensor, kept: Tensor, settings: Settings) -> Tensor:
        """Compute it."""
        return settings.backend_for(kept).tangent(a, b, grad, kept, settings.spec, settings.from_output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradients of a, b, grad and what was kept."""
        (grad_grad,), (a, b, grad, kept) = grads, saved(ctx)
        _, to_grad, to_kept = _third(a, b, grad_grad, grad, kept, ctx.settings)
        return *_curvature(grad_grad, grad, kept, ctx.settings), to_grad, to_kept, None

    @staticmethod
    def tangent(inputs: Any, tangents: Any, settings: Settings) -> Tensor:
        """Return the tangent."""
        a, b, grad, kept = inputs
        of_a, of_b, of_grad, of_kept = _filled(tangents, kept)
        result = _apply(Tangent, of_a, of_b, grad, kept, settings) + _curvature(b, of_grad, kept, settings)[1]
        return result + _third(a, b, of_kept, grad, kept, settings)[2]


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
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return the gradients of gg, grad and what was kept."""
        (a, b), (grad_grad, grad, kept) = grads, saved(ctx)
        return *_third(a, b, grad_grad, grad, kept, ctx.settings), None

    @staticmethod
    def tangent(inputs: Any, tangents: Any, settings: Settings) -> tuple[Tensor, Tensor]:
        """Return the tangents of both results."""
        (grad_grad, grad, kept), (of_grad_grad, of_grad, of_kept) = inputs, _filled(tangents, inputs[2])
        first = _apply(Tangent, of_grad_grad, of_kept, grad_grad, kept, settings)
        second = _curvature(of_grad_grad, grad, kept, settings)[1] + _curvature(grad_grad, of_grad, kept, settings)[1]
        return first, second + _third(torch.zeros_like(kept), of_kept, grad_grad, grad, kept, settings)[2]


def _filled(tangents: Any, kept: Tensor) -> list[Tensor]:
    return [torch.zeros_like(kept) if tangent is None else tangent for tangent in tangents]


def _third(
    a: Tensor, b: Tensor, grad_grad: Tensor, grad: Tensor, kept: Tensor, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the results of Backend.third; in torch operations if derivatives of them may be asked for."""
    if not (torch.is_grad_enabled() or _has_tangents() or is_traced(a)):
        return settings.backend.third(a, b, grad_grad, grad, kept, settings.spec, settings.from_output)
    dtype = kept.dtype
    a, b, grad_grad, grad, kept = map(formula.widen, (a, b, grad_grad, grad, kept))
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
    def backward(ctx: Any, *grads: Any) -> Any:
        """Return grad / f'(x), and 0 where f' is 0: there every product with f' is 0 as well."""
        return Inverse.tangent(saved(ctx), grads, ctx.settings), None

    @staticmethod
    def tangent(inputs: Any, tangents: Any, settings: Settings) -> Tensor:
        """Return tangent / f'(x), and 0 where f' is 0."""
        x = _apply(Inverse, inputs[0], settings)
        return tangents[0] * formula.reciprocal(formula.derivative(x, settings.spec))


class GatedUnit(_Elementwise):
    """x * f(gate), keeping both inputs and nothing else."""

    @staticmethod
    def compute(x: Tensor, gate: Tensor, settings: Settings) -> Tensor:
        """Compute x * f(gate)."""
        return settings.backend.glu_forward(x, gate, settings.spec)

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
    def tangent(inputs: Any, tangents: Any, settings: Settings) -> Tensor:
        """Return (tangent of x) * f(gate) + x * f'(gate) * (tangent of gate)."""
        x, gate = inputs
        wide = formula.widen(gate)
        of_x, of_gate = _filled(tangents, wide)
        result = of_x * _apply(Activation, wide, settings) + _gradient(formula.widen(x) * of_gate, wide, settings)
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

"""The family as operators for torch.compile, which differentiates them by rule and then sees the plain formula.

Differentiated step by step, the formula leaves masks and quotients to be kept for each further pass, and the compiler
writes and reads masks one at a time. A rule reads what the layer before has made anyway, and recomputes the rest in
registers. An operator has two kernels therefore: "Autograd", the rule, and "CompositeImplicitAutograd", the formula,
which every tracer below autograd has in its place: no graph that reaches the compiler's back end has the operator.
"""

import contextlib
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import Function, forward_ad

from ..spec import GemSpec
from . import backends, formula
from .autograd import saved
from .backends import PLAIN

_LIBRARY = torch.library.Library("gem_activations", "DEF")
# The compiler's cache on disk knows an operator by its name: another formula needs another name.
_STATE = (
    f"{zlib.crc32(b''.join(Path(file).read_bytes() for file in (__file__, formula.__file__, backends.__file__))):08x}"
)
_VALUE, _SLOPE = f"value_{_STATE}", f"slope_{_STATE}"
_LIBRARY.define(f"{_VALUE}(Tensor x, int n, float eps, float leak) -> Tensor", tags=torch.Tag.pt2_compliant_tag)
_LIBRARY.define(
    f"{_SLOPE}(Tensor grad, Tensor x, int n, float eps, float leak) -> Tensor", tags=torch.Tag.pt2_compliant_tag
)
_value: Any = getattr(torch.ops.gem_activations, _VALUE).default
_slope: Any = getattr(torch.ops.gem_activations, _SLOPE).default
_below_autograd: Any = torch._C._AutoDispatchBelowAutograd  # pyright: ignore[reportPrivateUsage]
_layers: Any = torch._C._functorch.get_interpreter_stack  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_JVP: Any = torch._C._functorch.TransformType.Jvp  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_transforms_active: Any = torch._C._are_functorch_transforms_active  # pyright: ignore[reportPrivateUsage]


def value(x: Tensor, spec: GemSpec) -> Tensor:
    """Return f(x) in code that is being compiled; any shape, same dtype."""
    return _value(x, spec.n, spec.eps, spec.leak)


class _Value(Function):
    """f(x), keeping x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Any) -> Tensor:
        ctx.save_for_backward(x)
        ctx.parameters = parameters
        with torch.enable_grad(), _below_autograd():  # A transform further out differentiates this call in turn.
            return _value(x, *parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _slope(grads[0], *saved(ctx), *ctx.parameters), None, None, None


class _Slope(Function):
    """grad f'(x), keeping both; what follows is differentiated as it is written."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, x: Tensor, *parameters: Any) -> Tensor:
        ctx.save_for_backward(grad, x)
        ctx.parameters = parameters
        with torch.enable_grad(), _below_autograd():  # A transform further out differentiates this call in turn.
            return _slope(grad, x, *parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        grad, x = saved(ctx)
        return *PLAIN.second(grads[0], grad, x, GemSpec(*ctx.parameters), False), None, None, None


def _rule(function: Any, formula_of: Any) -> Any:
    def kernel(*arguments: Any) -> Tensor:
        if forward_ad._current_level >= 0 or any(layer.key() == _JVP for layer in _layers() or ()):
            return formula_of(*arguments)  # Forward mode follows operations only.
        # Function's own `apply` would start at the outermost transform; the dispatcher is at this one already.
        with enable_single_level_autograd_function() if _transforms_active() else contextlib.nullcontext():
            return super(Function, function).apply(*arguments)  # pyright: ignore[reportAttributeAccessIssue]

    return kernel


def _formula_of_value(x: Tensor, *parameters: Any) -> Tensor:
    return formula.value(x, GemSpec(*parameters))


def _formula_of_slope(grad: Tensor, x: Tensor, *parameters: Any) -> Tensor:
    return PLAIN.backward(grad, x, GemSpec(*parameters), False)


for _name, _formula, _function in ((_VALUE, _formula_of_value, _Value), (_SLOPE, _formula_of_slope, _Slope)):
    for _key in ("CompositeImplicitAutograd", "FuncTorchBatchedDecomposition"):
        _LIBRARY.impl(_name, _formula, _key)
    for _device in ("CPU", "CUDA", "XPU", "MPS", "Meta"):  # The formula would win over a rule for all devices at once.
        _LIBRARY.impl(_name, _rule(_function, _formula), f"Autograd{_device}")

"""A scale that is a tensor: learnt, scheduled, or one for each channel.

The gate of a member with scale a is 1/2 at x = a, and f_a(x) = a f_1(x / a). Hence the derivative by log a is
f_a(x) - x f_a'(x) = -(1 - leak) 2n x F (1 - F), with the gate F at x / a. The scale is kept as `log_scale`, of shape
(1,) or one a channel: FSDP takes no parameter without a dimension.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function_variadic

from ..errors import ModelError, SettingError, TensorError
from ..kernels.cpu import BACKWARD_SCALE, spec_handle
from ..spec import GemSpec
from . import formula
from .backends import UNSEEN, Cpu, Triton
from .dispatch import BackendName, choose_backend, is_traced, refuse_forced_kernel
from .functional import check_tensor

is_dynamo_compiling = torch.compiler.is_dynamo_compiling


def activate_scaled(
    x: Tensor, log_scale: Tensor, n: int, leak: float = 0.0, *, channel_dim: int = 1, backend: BackendName = "auto"
) -> Tensor:
    """Apply the member whose scale is exp(log_scale), differentiable in x and in log_scale.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64.
        log_scale: Shape (1,), or (C,) with C the size of x along `channel_dim`.
        n, leak: As for GemSpec.
        channel_dim: The dimension that a scale for each channel belongs to.
        backend: As for `activate`. The kernels serve ordinary CPU and CUDA tensors with one scale; all others get
            torch operations.
    Returns: Same shape, dtype and device as x.
    Raises: SpecError: n or leak out of its range; TensorError: an integer, boolean, complex or sparse tensor, no
        tensor, or not as many channels as scales; BackendError: a forced backend that cannot serve x.
    Example:
        >>> activate_scaled(torch.tensor([-1.0, 0.5, 1.0]), torch.tensor([0.5]).log(), n=1)
        tensor([0.0000, 0.2500, 0.8000])
    """
    if not torch.compiler.is_compiling() and has_torch_function_variadic(x, log_scale):
        options: Any = {"channel_dim": channel_dim, "backend": backend}
        return handle_torch_function(activate_scaled, (x, log_scale), x, log_scale, n, leak, **options)
    check_tensor(x)
    if log_scale.numel() == 1 and not is_traced(x) and forward_ad._current_level < 0:
        kernels = choose_backend(backend, x)
        if isinstance(kernels, Cpu):
            return _apply_directly(x, log_scale, n, leak, kernels)
        if isinstance(kernels, Triton):
            return _ScaledOnDevice.apply(x, log_scale, n, leak, kernels)  # pyright: ignore[reportReturnType]
    else:
        refuse_forced_kernel(backend)
    return _in_torch_operations(x, log_scale, n, leak, channel_dim)


def _in_torch_operations(x: Tensor, log_scale: Tensor, n: int, leak: float, channel_dim: int) -> Tensor:
    wide = formula.widen(x)
    scale = log_scale.to(wide.dtype).exp()
    if scale.numel() > 1:
        # torch.jit.trace would record the comparison of shapes, and warn.
        traced = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        if not traced and (x.dim() <= channel_dim or x.shape[channel_dim] != scale.numel()):
            raise TensorError(
                f"log_scale has {scale.numel()} scales, one a channel: expected as many along dimension {channel_dim} "
                f"of x, got the shape {tuple(x.shape)}"
            )
        shape = [1] * x.dim()
        shape[channel_dim] = -1
        scale = scale.reshape(shape)
    power, eps = formula._gate(wide / scale, GemSpec(n))  # pyright: ignore[reportPrivateUsage] -- the one definition
    gate = power / (power + eps)
    return (wide * (leak + (1 - leak) * gate) if leak else wide.relu() * gate).to(x.dtype)


class _Scaled(torch.autograd.Function):
    """f(x) by the kernels of a plain number, and the gradients by x and by log_scale in one pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_scale: Tensor, n: int, leak: float, backend: Cpu) -> Tensor:
        spec = spec_of(n, log_scale.item(), leak)
        ctx.save_for_backward(x, log_scale)
        ctx.settings = spec, backend
        return backend.forward(x, spec, False)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, log_scale = ctx.saved_tensors
        spec, backend = ctx.settings
        grad, needed = grads[0], ctx.needs_input_grad
        if needed[1] and not is_dynamo_compiling() and forward_ad._current_level < 0:
            result = backend.compute(BACKWARD_SCALE.code, spec_handle(spec).address, UNSEEN, grad, x)
            if result is not None:
                return result[0], torch.full_like(log_scale, result[1]), None, None, None
        if torch.is_grad_enabled() or is_traced(grad) or (grad.dtype, grad.shape) != (x.dtype, x.shape):
            return *_gradients(grad, x, log_scale, spec.n, spec.leak, needed), None, None, None
        if not needed[1]:
            return backend.backward(grad, x, spec, False), None, None, None, None
        by_x, total = backend.backward_scale(grad, x, spec)
        return by_x, torch.full_like(log_scale, total), None, None, None


_bare: Any = super(torch.autograd.Function, _Scaled)
_apply_directly = _bare.apply  # Function's own `apply` takes long; nothing is traced or transformed here.


class _ScaledOnDevice(torch.autograd.Function):
    """The same by Triton, whose kernels read the scale from the device's memory: nothing waits for the device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_scale: Tensor, n: int, leak: float, backend: Triton) -> Tensor:
        scale = log_scale.detach().to(torch.promote_types(x.dtype, torch.float32)).exp()
        ctx.save_for_backward(x, log_scale, scale)
        ctx.settings = n, leak, backend
        return backend.scaled_forward(x, scale, n, leak)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, log_scale, scale = ctx.saved_tensors
        (n, leak, backend), grad = ctx.settings, grads[0]
        if torch.is_grad_enabled() or is_traced(grad) or (grad.dtype, grad.shape) != (x.dtype, x.shape):
            return *_gradients(grad, x, log_scale, n, leak, ctx.needs_input_grad), None, None, None
        by_x, by_scale = backend.scaled_backward(grad, x, scale, n, leak)
        return by_x, by_scale.to(log_scale.dtype).reshape(log_scale.shape), None, None, None


def _gradients(grad: Tensor, x: Tensor, log_scale: Tensor, n: int, leak: float, needed: Any) -> list[Tensor | None]:
    """Return both gradients by torch: of a second backward pass, a batch of gradients, or what hooks have changed."""
    with torch.enable_grad():
        y = _in_torch_operations(x, log_scale, n, leak, 1)
        wanted = [tensor for tensor, needs in zip((x, log_scale), needed, strict=False) if needs]
        found = list(torch.autograd.grad(y, wanted, grad.to(y.dtype), create_graph=torch.is_grad_enabled()))
    return [found.pop(0) if needs else None for needs in needed[:2]]


@lru_cache(maxsize=256)  # The modules of a model, at one step.
def spec_of(n: int, log_scale: float, leak: float) -> GemSpec:
    """Return the member of a logarithm of the scale.

    Raises: SpecError: the scale leaves the range of eps.
    """
    return GemSpec(n, math.exp(min(2 * n * log_scale, 709.0)), leak)


def weight_decay_groups(
    parameters: nn.Module | Iterable[tuple[str, Tensor]], weight_decay: float
) -> list[dict[str, Any]]:
    """Split parameters into a group with weight decay and one without, which holds every `log_scale`.

    Decay would pull a scale towards 1. The groups are for an optimizer of torch. A rule by name, such as that of
    transformers' Trainer (`decay_parameters`) or timm (`no_weight_decay`), names `log_scale`.

    Args:
        parameters: A model, or (name, parameter) pairs; those that require no gradient are left out.
        weight_decay: Of the first group.
    Returns: Two groups, `[{"params": ..., "weight_decay": weight_decay}, {"params": ..., "weight_decay": 0.0}]`; an
        empty one is left out.
    Raises: SettingError: nothing to train.
    Example:
        >>> from gem_activations.torch import EGEM
        >>> model = nn.Sequential(nn.Linear(2, 3), EGEM(trainable=True))
        >>> [(len(group["params"]), group["weight_decay"]) for group in weight_decay_groups(model, 0.01)]
        [(2, 0.01), (1, 0.0)]
    """
    named = parameters.named_parameters() if isinstance(parameters, nn.Module) else parameters
    groups: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, parameter in named:
        if parameter.requires_grad:
            groups[name.rpartition(".")[2] != "log_scale"].append(parameter)
    if not any(groups.values()):
        raise SettingError("there is no parameter that requires a gradient")
    return [
        {"params": held, "weight_decay": weight_decay if decays else 0.0} for decays, held in groups.items() if held
    ]


def named_members(model: nn.Module) -> list[tuple[str, Any]]:
    """Return (dotted name, module) of every GEM, EGEM and SEGEM of a model, each module once.

    Raises: ModelError: there is none.
    """
    from .modules import EGEM, GEM, SEGEM

    found = [(name, module) for name, module in model.named_modules() if isinstance(module, (GEM, EGEM, SEGEM))]
    if not found:
        raise ModelError(
            "the model has no GEM, EGEM or SEGEM module; `swap` puts one in the place of another activation, such as "
            'swap(model, {torch.nn.GELU: "egem"})'
        )
    return found

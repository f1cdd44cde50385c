"""A scale that is a tensor: learnt, scheduled, or one for each channel.

The gate of a member with scale a is 1/2 at x = a, and f_a(x) = a f_1(x / a). Hence the derivative by log a is
f_a(x) - x f_a'(x) = -(1 - leak) 2n x F (1 - F), with the gate F at x / a. The scale is kept as `log_scale`, of shape
(1,) or one a channel: FSDP takes no parameter without a dimension.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function_variadic

from ..errors import ModelError, SettingError
from ..spec import GemSpec
from . import formula
from .dispatch import BackendName, choose_backend, is_traced, refuse_forced_kernel
from .functional import check_tensor

_PIECE = 2**15
_HIGHEST = 8  # The n up to which float32 holds every power.


def activate_scaled(
    x: Tensor, log_scale: Tensor, n: int, leak: float = 0.0, *, channel_dim: int = 1, backend: BackendName = "auto"
) -> Tensor:
    """Apply the member whose scale is exp(log_scale), differentiable in x and in log_scale.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64.
        log_scale: Shape (1,), or (C,) with C the size of x along `channel_dim`.
        n, leak: As for GemSpec.
        channel_dim: The dimension that a scale for each channel belongs to.
        backend: As for `activate`. The kernels serve ordinary CPU tensors with one scale; all others get torch
            operations.
    Returns: Same shape, dtype and device as x.
    Raises: SpecError: n or leak out of its range; TensorError: an integer, boolean, complex or sparse tensor, or no
        tensor; BackendError: a forced backend that cannot serve x.
    Example:
        >>> activate_scaled(torch.tensor([-1.0, 0.5, 1.0]), torch.tensor([0.5]).log(), n=1)
        tensor([0.0000, 0.2500, 0.8000])
    """
    if not torch.compiler.is_compiling() and has_torch_function_variadic(x, log_scale):
        options: Any = {"channel_dim": channel_dim, "backend": backend}
        return handle_torch_function(activate_scaled, (x, log_scale), x, log_scale, n, leak, **options)
    check_tensor(x)
    ordinary = log_scale.numel() == 1 and x.is_cpu and not is_traced(x) and forward_ad._current_level < 0
    if ordinary and backend != "triton":
        return _Scaled.apply(x, log_scale, n, leak, backend)  # pyright: ignore[reportReturnType]
    refuse_forced_kernel(backend)
    return _in_torch_operations(x, log_scale, n, leak, channel_dim)


def _in_torch_operations(x: Tensor, log_scale: Tensor, n: int, leak: float, channel_dim: int) -> Tensor:
    wide = formula.widen(x)
    scale = log_scale.to(wide.dtype).exp()
    if scale.numel() > 1:
        shape = [1] * x.dim()
        shape[channel_dim] = -1
        scale = scale.reshape(shape)
    power, eps = formula._gate(wide / scale, GemSpec(n))  # pyright: ignore[reportPrivateUsage] -- the one definition
    gate = power / (power + eps)
    return (wide * (leak + (1 - leak) * gate) if leak else wide.relu() * gate).to(x.dtype)


def _scale_gradient(grad: Tensor, x: Tensor, spec: GemSpec) -> Tensor:
    """Return the sum of grad (f(x) - x f'(x)), the gradient by log a, without the cancellation of that difference.

    In pieces that stay in the cache, and in place: to ask for memory would take longer than to compute.
    """
    inverse_scale, eps, limit = spec.reduction
    wide = torch.promote_types(x.dtype, torch.float32 if spec.n <= _HIGHEST else torch.float64)
    value, rest = (torch.empty(min(_PIECE, x.numel()), dtype=wide, device=x.device) for _ in range(2))
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for part, g in zip(x.reshape(-1).split(_PIECE), grad.reshape(-1).split(_PIECE), strict=True):
        v, r = value[: part.numel()], rest[: part.numel()]
        v.copy_(part).clamp_(0.0, limit / inverse_scale)
        torch.mul(v, inverse_scale, out=r).pow_(2).pow_(spec.n).add_(eps).reciprocal_().mul_(eps)  # 1 - F
        v.mul_(r)
        v.mul_(r.neg_().add_(1))
        total += torch.dot(v, g.to(wide))
    return total * (-2 * spec.n * (1 - spec.leak))


class _Scaled(torch.autograd.Function):
    """f(x) by the kernels of a plain number, and the gradients by x and by log_scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, log_scale: Tensor, n: int, leak: float, backend_name: BackendName) -> Tensor:
        spec = GemSpec.from_scale(n, log_scale.double().exp().item(), leak)
        backend = choose_backend(backend_name, x)
        ctx.save_for_backward(x, log_scale)
        ctx.settings = spec, backend
        return backend.forward(x, spec, False)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, log_scale = ctx.saved_tensors
        spec, backend = ctx.settings
        grad = grads[0]
        if torch.is_grad_enabled() or is_traced(grad) or (grad.dtype, grad.shape) != (x.dtype, x.shape):
            # A second backward pass, a batch of gradients, or hooks that have changed what was saved.
            with torch.enable_grad():
                y = _in_torch_operations(x, log_scale, spec.n, spec.leak, 1)
                wanted = [tensor for tensor, needs in zip((x, log_scale), ctx.needs_input_grad, strict=False) if needs]
                found = list(torch.autograd.grad(y, wanted, grad.to(y.dtype), create_graph=torch.is_grad_enabled()))
            return *(found.pop(0) if needs else None for needs in ctx.needs_input_grad[:2]), None, None, None
        by_x = backend.backward(grad, x, spec, False) if ctx.needs_input_grad[0] else None
        by_scale = None
        if ctx.needs_input_grad[1]:
            by_scale = _scale_gradient(grad, x, spec)
            by_scale = by_scale.to(log_scale.dtype).reshape(log_scale.shape)
        return by_x, by_scale, None, None, None


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

"""A scale that is a tensor: learnt, scheduled, or one for each channel.

The gate of a member with scale a is 1/2 at x = a, and f_a(x) = a f_1(x / a). Hence the derivative by log a is
f_a(x) - x f_a'(x) = -(1 - leak) 2n x F (1 - F), with the gate F at x / a. The scale is kept as `log_scale`, of shape
(1,) or one a channel: FSDP takes no parameter without a dimension.
"""

import math
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import handle_torch_function, has_torch_function_variadic

from ..errors import SettingError, TensorError
from ..kernels.cpu import DTYPES, spec_handle
from ..spec import GemSpec
from . import exported, formula
from .autograd import Direct, Settings, short_way
from .backends import (
    PLAIN,
    Backend,
    BackendName,
    Cpu,
    choose_backend,
    is_traced,
    load_cpu,
    refuse_forced_kernel,
)
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
        backend: As for `activate`. The kernels serve ordinary CPU and CUDA tensors; with a scale for each channel only
            those that are contiguous as they are or with the channels last, and others get torch operations.
    Returns: Same shape, dtype and device as x.
    Raises: SpecError: n or leak out of its range; TensorError: an integer, boolean, complex or sparse tensor, no
        tensor, or not as many channels as scales; BackendError: a forced backend that cannot serve x.
    Example:
        >>> activate_scaled(torch.tensor([-1.0, 0.5, 1.0]), torch.tensor([0.5]).log(), n=1)
        tensor([0.0000, 0.2500, 0.8000])
    """
    activate_shortly = short_way() if backend == "auto" and channel_dim == 1 and not is_dynamo_compiling() else None
    if activate_shortly is not None:
        # As in `apply`: the usual call takes less time than the questions below.
        y = activate_shortly(DirectScaled.attach, _choices(n, leak, load_cpu()), x, log_scale)
        if y is not None:
            return y
    if not torch.compiler.is_compiling() and has_torch_function_variadic(x, log_scale):
        options: Any = {"channel_dim": channel_dim, "backend": backend}
        return handle_torch_function(activate_scaled, (x, log_scale), x, log_scale, n, leak, **options)
    check_tensor(x)
    if is_traced(x) or is_traced(log_scale) or forward_ad._current_level >= 0:
        refuse_forced_kernel(backend)
        return _in_torch_operations(x, log_scale, n, leak, channel_dim)
    chosen = choose_backend(backend, x)
    if chosen is PLAIN or log_scale.device != x.device or log_scale.numel() == 0:
        return _in_torch_operations(x, log_scale, n, leak, channel_dim)
    return _by_kernels(x, log_scale, n, leak, channel_dim, chosen)


def _by_kernels(x: Tensor, log_scale: Tensor, n: int, leak: float, channel_dim: int, backend: Backend) -> Tensor:
    """Return f(x) as a tensor in which the channels come second, or last; by torch operations if neither is one."""
    if log_scale.itemsize < 4:
        log_scale = log_scale.float()
    if log_scale.numel() > 1:
        _check_channels(x, log_scale, channel_dim)
        last = x.movedim(channel_dim, -1)
        if last.is_contiguous():
            rows = _attach(last.flatten(0, -2), log_scale, _choices(n, leak, backend)[0])
            return rows.view_as(last).movedim(-1, channel_dim)
        if channel_dim != 1 or not x.is_contiguous():
            return _in_torch_operations(x, log_scale, n, leak, channel_dim)
    return _attach(x, log_scale, _choices(n, leak, backend)[0])


def _check_channels(x: Tensor, log_scale: Tensor, channel_dim: int) -> None:
    if not -x.dim() <= channel_dim < x.dim() or x.shape[channel_dim] != log_scale.numel():
        raise TensorError(
            f"log_scale has {log_scale.numel()} scales, one a channel: expected as many along dimension {channel_dim} "
            f"of x, got the shape {tuple(x.shape)}"
        )


def _in_torch_operations(x: Tensor, log_scale: Tensor, n: int, leak: float, channel_dim: int) -> Tensor:
    wide = formula.widen(x)
    scale = log_scale.to(wide.dtype).exp()
    if scale.numel() > 1:
        # torch.jit.trace would record the comparison of shapes, and warn.
        if not torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
            _check_channels(x, log_scale, channel_dim)
        shape = [1] * x.dim()
        shape[channel_dim] = -1
        scale = scale.reshape(shape)
    elif x.dim() == 0:
        scale = scale.reshape(())  # Which would else be a dimension of the result.
    if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
        return exported.scaled_value(wide, scale, n, leak).to(x.dtype)
    power, eps = formula._gate(wide / scale, GemSpec(n))  # pyright: ignore[reportPrivateUsage] -- the one definition
    gate = power / (power + eps)
    return (wide * (leak + (1 - leak) * gate) if leak else wide.relu() * gate).to(x.dtype)


class DirectScaled(Direct):
    """f(x) by kernels that read the scales from memory, keeping x and log_scale."""

    @staticmethod
    def further(settings: Settings, saved: Any, grad: Tensor) -> Any:
        """Return the gradients by x and by log_scale."""
        x, log_scale = saved
        # Hooks on saved tensors may change their dtypes.
        altered = (grad.dtype, grad.shape) != (x.dtype, x.shape) or log_scale.itemsize < 4
        if torch.is_grad_enabled() or is_traced(grad) or altered:
            return *_gradients(grad, x, log_scale, settings.spec), None
        backend: Any = settings.backend
        return *backend.scaled_backward(grad, x, log_scale, settings.spec), None


def _attach(x: Tensor, log_scale: Tensor, settings: Settings) -> Tensor:
    backend: Any = settings.backend
    with torch.no_grad():
        y = backend.scaled_forward(x, log_scale, settings.spec)
    return DirectScaled.attach(x, log_scale, (settings, (x, log_scale), y))


@cache
def _choices(n: int, leak: float, backend: Any) -> tuple[Settings, ...]:
    """Return the settings for each dtype, which are the same."""
    spec = GemSpec(n, 1.0, leak)
    address = spec_handle(spec).address if type(backend) is Cpu else 0
    return (Settings(spec, backend, address=address, scaled=True),) * len(DTYPES)


def _gradients(grad: Tensor, x: Tensor, log_scale: Tensor, spec: GemSpec) -> list[Tensor | None]:
    """Return both gradients by torch: of a second backward pass, a batch of gradients, or what hooks have changed."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        y = _in_torch_operations(x, log_scale, spec.n, spec.leak, 1)
        wanted = [tensor for tensor in (x, log_scale) if tensor.requires_grad]
        found = list(torch.autograd.grad(y, wanted, grad.to(y.dtype), create_graph=again))
    return [found.pop(0) if tensor.requires_grad else None for tensor in (x, log_scale)]


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

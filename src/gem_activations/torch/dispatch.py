"""Which backend serves an eager call. `choose_backend` is the whole rule."""

import contextlib
import sys
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import BackendError
from ..kernels import cpu
from .backends import PLAIN, RECORDERS, Backend, load_cpu, load_triton

BackendName = Literal["auto", "plain", "cpu", "triton"]

_NAMES = get_args(BackendName)
_told: set[str] = set()
_OURS_AND_TORCHS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


class PlainFallbackWarning(RuntimeWarning):
    """The kernels that would serve a tensor are not there: the plain formula computes the same, slower. Given once."""


def choose_backend(name: BackendName, x: Tensor) -> Backend:
    """Return the backend for an ordinary tensor x: the kernels of its device, else the plain formula.

    Raises: BackendError: a backend forced by name that cannot serve x.
    """
    if name == "plain":
        return PLAIN
    kernels, reason = _kernels(x) if name == "auto" else _forced(name, x)
    if kernels is not None:
        return kernels
    if name != "auto":
        raise BackendError(f"backend={name!r} cannot serve this call: {reason}; use backend='auto' or 'plain'")
    if reason and reason not in _told:
        _told.add(reason)
        level, frame = 1, sys._getframe()  # The line shown is the user's.
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_OURS_AND_TORCHS):
            level, frame = level + 1, frame.f_back
        message = f"gem_activations computes by the slower plain formula: {reason}"
        with contextlib.suppress(PlainFallbackWarning):  # A forward pass does not fail where warnings are errors.
            warnings.warn(message, PlainFallbackWarning, stacklevel=level)
    return PLAIN


def check_name(name: BackendName) -> None:
    """Raise BackendError for a name that is no backend's."""
    if name not in _NAMES:
        raise BackendError(f"backend={name!r}: expected one of {', '.join(_NAMES)}")


def backend_info() -> dict[str, str]:
    """Tell what serves eager calls: for each backend "in use", with details, or why it is not.

    Returns: Keys plain, cpu and triton, each with one sentence.
    Example:
        >>> sorted(backend_info())
        ['cpu', 'plain', 'triton']
    """
    library = cpu.status()
    triton, reason = load_triton()
    altered = ", altered since it was built (stripped or signed, for instance)" if library.altered else ""
    served = f"in use for CPU tensors: instruction set {library.isa}, {library.path}{altered}"
    cuda = "in use for CUDA tensors" if torch.cuda.is_available() else "installed; there is no CUDA device"
    return {
        "plain": "in use for every other tensor, and under tracers and transforms",
        "cpu": served if library.available else f"not in use: {library.reason}",
        "triton": f"not in use: {reason}" if triton is None else cuda,
    }


def _kernels(x: Tensor) -> tuple[Backend | None, str]:
    """Return the kernels for the device of x, or None and the reason; no reason for a device that has none."""
    if x.is_cpu:
        kernels = load_cpu()
        return kernels, "" if kernels else cpu.status().reason
    return load_triton() if x.is_cuda else (None, "")


def _forced(name: str, x: Tensor) -> tuple[Backend | None, str]:
    if name == "cpu":
        return _kernels(x) if x.is_cpu else (None, f"it takes CPU tensors, not one on {x.device}")
    kernels, reason = load_triton()
    refusal = reason if kernels is None else kernels.reason_not_served(x) or ""
    return (None, refusal) if refusal else (kernels, "")


def refuse_forced_kernel(name: BackendName) -> None:
    """Raise BackendError for a kernel forced by name where a tracer or a transform needs torch operations."""
    if name not in ("auto", "plain"):
        raise BackendError(
            f"backend={name!r} cannot serve a traced, transformed or fake tensor, which needs torch operations; "
            "use backend='auto' or 'plain'"
        )


def is_traced(x: Tensor) -> bool:
    """Return whether x is no ordinary tensor with data of its own, or whether what is done with it is being recorded.

    A tensor without storage is sparse, or the batch that vmap makes of the gradients of a backward pass.
    """
    return (
        torch.compiler.is_compiling()
        or type(x) not in _ORDINARY
        or _transforms_active()
        or _dispatch_modes() > 0
        or _tracing_state() is not None
        or not _has_storage(x)
        or x.is_nested
        or x.is_meta
    )


def is_transformed(x: Tensor) -> bool:
    """Return whether torch.func's transforms, and nothing else, stand between x and an ordinary tensor."""
    if torch.compiler.is_compiling() or not _transforms_active() or _dispatch_modes() > 0:
        return False
    if any(layer.key() == _functorch.TransformType.Functionalize for layer in _functorch.get_interpreter_stack()):
        return False
    while _functorch.is_functorch_wrapped_tensor(x):
        x = _functorch.get_unwrapped(x)
    return type(x) in _ORDINARY and _has_storage(x) and not (x.is_nested or x.is_meta)


_ORDINARY = (Tensor, torch.nn.Parameter)
_functorch: Any = torch._C._functorch  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
_has_storage: Any = torch._C._has_storage  # pyright: ignore[reportPrivateUsage]
_transforms_active, _dispatch_modes, _tracing_state = RECORDERS

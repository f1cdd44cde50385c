"""Which backend serves an eager call. `choose_backend` is the whole rule."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import BackendError
from .backends import PLAIN, Backend

BackendName = Literal["auto", "plain", "cpu", "triton"]


def choose_backend(name: BackendName, x: Tensor) -> Backend:
    """Give the backend for an ordinary tensor x.

    Raises: BackendError: an unknown name, or a backend forced by name that cannot serve x.
    """
    if name not in get_args(BackendName):
        raise BackendError(f"backend={name!r}: expected one of {', '.join(get_args(BackendName))}")
    if name in ("cpu", "triton"):
        raise BackendError(f"backend={name!r} is not available")
    return PLAIN


def refuse_forced_kernel(name: BackendName) -> None:
    """Raise BackendError for a kernel forced by name where a tracer or a transform needs torch operations."""
    if name not in ("auto", "plain"):
        raise BackendError(
            f"backend={name!r} cannot serve a traced, transformed or fake tensor, which needs torch operations; "
            "use backend='auto' or 'plain'"
        )


def is_traced(x: Tensor) -> bool:
    """Tell whether x is no ordinary tensor with data of its own, or whether what is done with it is being recorded."""
    return (
        torch.compiler.is_compiling()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or x.is_meta
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        or _transforms_active()
        or _dispatch_modes() > 0
    )


_transforms_active: Any = torch._C._are_functorch_transforms_active  # pyright: ignore[reportPrivateUsage]
_dispatch_modes: Any = torch._C._len_torch_dispatch_stack  # pyright: ignore[reportPrivateUsage]

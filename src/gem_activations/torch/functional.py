"""`gem`, `egem` and `segem` on tensors, and the one place where an implementation is chosen."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..errors import TensorError
from ..spec import GemSpec
from . import formula
from .autograd import apply_eagerly
from .backends import PLAIN

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def gem(x: Tensor, *, n: int = 1) -> Tensor:
    """Apply GEM, x^(2n+1) / (1 + x^(2n)) for x > 0, else 0, elementwise.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
    Returns: Same shape, dtype, device and memory format as x.
    Raises: SpecError: n out of its range; TensorError: an integer, boolean or complex tensor, or no tensor.
    Edge cases: f(+inf) = +inf, f(-inf) = 0, f(NaN) = NaN, f'(0) = 0.
    Source: Krause 2026, arXiv:2604.21677; docs/mathematics.md.
    Example:
        >>> import torch
        >>> gem(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
        tensor([0.0000, 0.0000, 0.5000, 1.6000])
    """
    return activate(x, _spec(n, 1.0, 0.0))


def egem(x: Tensor, *, n: int = 1, eps: float = 1e-4) -> Tensor:
    """Apply E-GEM, x^(2n+1) / (eps + x^(2n)) for x > 0, else 0, elementwise.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0: the gate is 1/2 at x = eps^(1/(2n)); eps -> 0 gives ReLU. That eps is
            added to x^(2n) is our reading of the paper.
    Returns: Same shape, dtype, device and memory format as x.
    Raises: SpecError: n or eps out of its range; TensorError: an integer, boolean or complex tensor, or no tensor.
    Edge cases: f(+inf) = +inf, f(-inf) = 0, f(NaN) = NaN, f'(0) = 0.
    Source: Krause 2026, arXiv:2604.21677; docs/mathematics.md.
    Example:
        >>> import torch
        >>> egem(torch.tensor([-1.0, 0.01, 1.0]))
        tensor([0.0000, 0.0050, 0.9999])
    """
    return activate(x, _spec(n, eps, 0.0))


def segem(x: Tensor, *, n: int = 1, eps: float = 1e-4, leak: float = 0.01) -> Tensor:
    """Apply SE-GEM, x (leak + (1 - leak) F(x)) elementwise, with F(x) = x^(2n) / (eps + x^(2n)) for x > 0, else 0.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64; computed in at least float32.
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0; eps -> 0 gives LeakyReLU(leak).
        leak: Floor of the gate, slope for x < 0 and lower bound of the derivative, 0 <= leak < 1. That the gate is
            floored is our reading of the paper.
    Returns: Same shape, dtype, device and memory format as x.
    Raises: SpecError: a parameter out of its range; TensorError: an integer, boolean or complex tensor, or no tensor.
    Edge cases: f(+inf) = +inf, f(-inf) = -inf, f(NaN) = NaN, f'(0) = leak.
    Source: Krause 2026, arXiv:2604.21677; docs/mathematics.md.
    Example:
        >>> import torch
        >>> segem(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.0100,  0.0000,  0.9999])
    """
    return activate(x, _spec(n, eps, leak))


def activate(x: Tensor, spec: GemSpec, *, inplace: bool = False) -> Tensor:
    """Apply the activation that `spec` describes: the dispatch that every function and module goes through.

    Under a tracer, a transform or a tensor subclass the plain formula is given, in operations that these can
    differentiate, batch and fuse. An eager call on an ordinary tensor uses an autograd function with the analytic
    gradient.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64.
        spec: A member of the family.
        inplace: Write the result into the storage of x, and return x.
    Returns: Same shape, dtype, device and memory format as x.
    Raises: TensorError: an integer, boolean or complex tensor, or no tensor.
    Example:
        >>> import torch
        >>> activate(torch.ones(2), GemSpec.from_scale(1, 0.5))
        tensor([0.8000, 0.8000])
    """
    if not isinstance(x, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]  # an untyped caller may pass anything
        raise TensorError(f"expected a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise TensorError(
            f"expected a tensor of dtype float16, bfloat16, float32 or float64, got {x.dtype}; convert it"
        )
    if _is_traced(x):
        return x.copy_(formula.value(x.clone(), spec)) if inplace else formula.value(x, spec)
    # In place, the input is overwritten, so that only the output is left to differentiate from.
    return apply_eagerly(x, spec, PLAIN, from_output=inplace, inplace=inplace)


def _is_traced(x: Tensor) -> bool:
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


def _spec(n: int, eps: float, leak: float) -> GemSpec:
    # The compiler traces through a cache and warns; it folds the constant anyway.
    return GemSpec(n, eps, leak) if torch.compiler.is_compiling() else _cached_spec(n, eps, leak)


_cached_spec = lru_cache(maxsize=256, typed=True)(GemSpec)

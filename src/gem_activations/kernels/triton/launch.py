"""Launch the kernels: which tensors are served, which memory they run over, what they return.

A kernel sees dense storage as one dimension. Tensors that are dense and agree in their strides are read and written
where they lie, whatever the order of their dimensions; anything else is first copied into the layout of the result.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from ...errors import TensorError
from ...spec import GemSpec
from . import elementwise
from .parameters import Member, member, start_polynomial

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTERPRETED = not isinstance(elementwise.gem_forward_kernel, triton.JITFunction)
# On a GPU, each of the 128 threads of a program moves 16 bytes at a time. The interpreter pays for each program and
# for each element of its block.
BLOCK = 65536 if INTERPRETED else 1024


def forward(x: Tensor, spec: GemSpec, inplace: bool = False) -> Tensor:
    """Return f(x).

    Args:
        x: Any shape and strides, on a CUDA device; float16, bfloat16, float32 or float64.
        spec: A member of the family.
        inplace: Write the result into the storage of x, count a new version of it, and return x.
    Returns: Same shape, dtype and device as x, in its memory format; NaN where x is.
    Raises: TensorError: a tensor that `reason_not_served` speaks against; RuntimeError (PyTorch's own): in place, some
        elements of x share their memory.
    """
    _check(x)
    if inplace and not _is_dense(x):
        return x.copy_(forward(x, spec))
    out = x if inplace else torch.empty_like(x)
    _run(elementwise.gem_forward_kernel, [x], [out], _member(x, spec))
    if inplace and not x.is_inference():
        torch.autograd.graph.increment_version(x)
    return out


def backward(grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
    """Return grad * f'(x).

    Args:
        grad: Any shape and strides; float16, bfloat16, float32 or float64.
        kept: x, or f(x) if `from_output`; shape, dtype and device of grad.
        spec: A member of the family.
        from_output: Whether `kept` is the output. For leak 0 an output below 0, which f never gives, counts as 0.
    Returns: Same shape and dtype, in the memory format of `kept`. From the output, float32: within 1e-5 of the exact
        gradient, relative, for n up to 8; an output that is subnormal counts as the smallest normal number.
    Raises: TensorError: as `forward`, or tensors that differ in shape, dtype or device.
    """
    _check(kept, grad)
    out = torch.empty_like(kept)
    start = start_polynomial(spec.n) if from_output else ()
    _run(elementwise.gem_backward_kernel, [grad, kept], [out], _member(kept, spec), start=start)
    return out


def second(grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> tuple[Tensor, Tensor]:
    """Return gg d1 and gg grad d2, the backward pass of `backward`.

    d1 is f'(x) and d2 its derivative by `kept`: f''(x), or f''(x) / f'(x) from the output, whose gradient is multiplied
    by f'(x) on its way to x. Arguments and errors as in `backward`; both in the memory format of `kept`. From the
    output, float32: within 1e-5 relative, or relative to sup |f''| near its zero, for n up to 8.
    """
    _check(kept, grad_grad, grad)
    outs = [torch.empty_like(kept), torch.empty_like(kept)]
    start = start_polynomial(spec.n) if from_output else ()
    _run(elementwise.gem_second_kernel, [grad_grad, grad, kept], outs, _member(kept, spec), start=start)
    return outs[0], outs[1]


def third(
    a: Tensor, b: Tensor, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a d1 + b grad d2, b gg d2 and a gg d2 + b gg grad d3, the backward pass of `second`.

    d3 is the derivative of d2 by `kept`. Arguments and errors as in `second`.
    """
    _check(kept, a, b, grad_grad, grad)
    outs = [torch.empty_like(kept) for _ in range(3)]
    start = start_polynomial(spec.n) if from_output else ()
    _run(elementwise.gem_third_kernel, [a, b, grad_grad, grad, kept], outs, _member(kept, spec), start=start)
    return outs[0], outs[1], outs[2]


def inverse(y: Tensor, spec: GemSpec) -> Tensor:
    """Return the x with f(x) = y, 0 for y <= 0 if leak is 0; arguments and errors as in `forward`."""
    _check(y)
    out = torch.empty_like(y)
    _run(elementwise.gem_inverse_kernel, [y], [out], _member(y, spec), start=start_polynomial(spec.n))
    return out


def glu_forward(x: Tensor, gate: Tensor, spec: GemSpec) -> Tensor:
    """Return x * f(gate), rounded once; arguments and errors as in `backward`, the memory format is that of x."""
    _check(x, gate)
    out = torch.empty_like(x)
    _run(elementwise.gem_glu_forward_kernel, [x, gate], [out], _member(x, spec))
    return out


def glu_backward(grad: Tensor, x: Tensor, gate: Tensor, spec: GemSpec) -> tuple[Tensor, Tensor]:
    """Return grad * f(gate) and grad * x * f'(gate); arguments and errors as in `backward`, both in x's format."""
    _check(x, gate, grad)
    grad_x, grad_gate = torch.empty_like(x), torch.empty_like(x)
    _run(elementwise.gem_glu_backward_kernel, [grad, x, gate], [grad_x, grad_gate], _member(x, spec))
    return grad_x, grad_gate


def reason_not_served(x: Tensor) -> str | None:
    """Tell in one sentence why the kernels cannot serve x, or give None where they can."""
    if x.dtype not in DTYPES:
        return f"the Triton kernels take float16, bfloat16, float32 and float64, not {x.dtype}"
    if not (x.is_cuda or (INTERPRETED and x.device.type == "cpu")):
        return f"the Triton kernels take CUDA tensors, not one on {x.device}"
    return None


def _check(x: Tensor, *others: Tensor) -> None:
    reason = reason_not_served(x)
    if reason:
        raise TensorError(reason)
    for other in others:
        if (other.shape, other.dtype, other.device) != (x.shape, x.dtype, x.device):
            raise TensorError(
                f"expected tensors of one shape, dtype and device, got {tuple(x.shape)} {x.dtype} on {x.device} and "
                f"{tuple(other.shape)} {other.dtype} on {other.device}"
            )


def _member(x: Tensor, spec: GemSpec) -> Member:
    return member(spec, 8 * x.element_size())


def _run(kernel: Any, sources: list[Tensor], outs: list[Tensor], of: Member, **constants: Any) -> None:
    """Launch `kernel` over the storage of `outs`, which share one layout; a source of another layout is copied."""
    size = outs[0].numel()
    if size == 0:
        return
    arranged = [source if _same_layout(source, outs[0]) else _copy_like(source, outs[0]) for source in sources]
    block = min(BLOCK, triton.next_power_of_2(size)) if INTERPRETED else BLOCK
    # Triton launches on the current device.
    with torch.cuda.device_of(outs[0]):
        kernel[(triton.cdiv(size, block),)](*arranged, *outs, size, member=of, block=block, **constants)


def _same_layout(x: Tensor, other: Tensor) -> bool:
    """Return whether equal indices mean equal offsets, where the value itself is stored, not its negative.

    The stride of a dimension of one element means nothing.
    """
    strides = zip(x.shape, x.stride(), other.stride(), strict=True)
    return not x.is_neg() and all(size == 1 or mine == its for size, mine, its in strides)


def _copy_like(x: Tensor, layout: Tensor) -> Tensor:
    return torch.empty_like(layout).copy_(x)


def _is_dense(x: Tensor) -> bool:
    """Return whether the values of x fill their memory, in some order of the dimensions, without gap or overlap."""
    if x.is_neg():
        return False
    expected = 1
    for stride, size in sorted((stride, size) for size, stride in zip(x.shape, x.stride(), strict=True) if size != 1):
        if stride != expected:
            return False
        expected *= size
    return True

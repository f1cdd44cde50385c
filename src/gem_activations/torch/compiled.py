"""The kernels on torch tensors: the C library for CPU tensors, Triton for CUDA tensors; both outside autograd."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import BackendError, MissingDependencyError
from ..kernels import cpu
from ..kernels.cpu.library import spec_handle
from ..spec import GemSpec
from .backends import Backend

_CODES = {getattr(torch, name): code for name, code in cpu.DTYPES.items()}


class Cpu:
    """The C library on ordinary CPU tensors.

    Memory is read and written in place where it is dense, whatever the order of its dimensions (channels_last, say);
    a tensor with gaps or repeated elements is first copied to dense memory, as its result is dense anyway.
    """

    def __init__(self, library: cpu.Library) -> None:
        self._library = library
        self._has_table_lookup = library.isa == "avx512"

    def output_is_enough(self, spec: GemSpec, dtype: torch.dtype) -> bool:
        """Tell where it is, as measured (benchmarks/results/cpu_save.jsonl): see Backend.

        These are the cases that read a table held in registers, and wait for the memory rather than for the
        arithmetic; half precision is half the memory.
        """
        return self._has_table_lookup and dtype == torch.float32 and spec.leak == 0 and spec.n <= 4

    def forward(self, x: Tensor, spec: GemSpec, inplace: bool) -> Tensor:
        """Give f(x); see Backend."""
        if inplace:
            return self._forward_in_place(x, spec)
        out = torch.empty_like(x)
        source = _as_laid_out(x, out)
        self._call("forward", spec, out, source)
        return out

    def backward(self, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Give grad * f'(x); see Backend."""
        out = torch.empty_like(kept)
        grad, kept = _as_laid_out(grad, out), _as_laid_out(kept, out)
        self._call("backward_from_output" if from_output else "backward", spec, out, grad, kept)
        return out

    def glu_forward(self, x: Tensor, gate: Tensor, spec: GemSpec) -> Tensor:
        """Give x * f(gate); see Backend."""
        out = torch.empty_like(x)
        self._call("glu_forward", spec, out, _as_laid_out(x, out), _as_laid_out(gate, out))
        return out

    def glu_backward(self, grad: Tensor, x: Tensor, gate: Tensor, spec: GemSpec) -> tuple[Tensor, Tensor]:
        """Give both gradients; see Backend."""
        grad_x, grad_gate = torch.empty_like(x), torch.empty_like(x)
        sources = [_as_laid_out(tensor, grad_x) for tensor in (grad, x, gate)]
        self._call("glu_backward", spec, grad_x, grad_gate, *sources)
        return grad_x, grad_gate

    def _forward_in_place(self, x: Tensor, spec: GemSpec) -> Tensor:
        if _is_laid_out(x, torch.empty_like(x, device="meta")):
            self._call("forward", spec, x, x)
            return x
        return x.copy_(self.forward(x, spec, False))

    def _call(self, operation: str, spec: GemSpec, *tensors: Tensor) -> None:
        first = tensors[0]
        code = getattr(self._library, operation)(
            spec_handle(spec),
            _CODES[first.dtype],
            *[tensor.data_ptr() for tensor in tensors],
            first.numel(),
            torch.get_num_threads(),
        )
        if code:
            raise BackendError(f"the C library refused {operation} with code {code}; use backend='plain' and report it")


class Triton:
    """The Triton kernels on CUDA tensors."""

    def __init__(self, kernels: Any) -> None:
        self.forward = kernels.forward
        self.backward = kernels.backward
        self.glu_forward = kernels.glu_forward
        self.glu_backward = kernels.glu_backward
        self.reason_not_served = kernels.reason_not_served

    def output_is_enough(self, spec: GemSpec, dtype: torch.dtype) -> bool:  # noqa: ARG002 -- Backend's signature
        """Tell that it is not known to be: no GPU has measured its speed here, though it needs less memory."""
        return False


@cache
def load_cpu() -> Backend | None:
    """Give the C library's backend, or None where the library cannot be used."""
    library = cpu.load()
    return None if library is None else Cpu(library)


@cache
def load_triton() -> tuple[Triton | None, str]:
    """Give the Triton backend, or None and the reason."""
    try:
        from ..kernels import triton
    except MissingDependencyError as error:
        return None, str(error)
    return Triton(triton), ""


def _is_laid_out(x: Tensor, like: Tensor) -> bool:
    """Tell whether the elements of x lie in memory as those of `like`, with plain values."""
    return x.stride() == like.stride() and not x.is_neg() and (x.data_ptr() != 0 or x.numel() == 0)


def _as_laid_out(x: Tensor, like: Tensor) -> Tensor:
    return x if _is_laid_out(x, like) else torch.empty_like(like).copy_(x)

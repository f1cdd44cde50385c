"""The kernels on torch tensors: the C library for CPU tensors, Triton for CUDA tensors; both outside autograd."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import MissingDependencyError
from ..kernels import cpu
from ..kernels.cpu import OPERATIONS, Operation
from ..spec import GemSpec
from .backends import Backend

_FORWARD = OPERATIONS["forward"]
_BACKWARD, _SECOND, _THIRD = (
    (OPERATIONS[name], OPERATIONS[f"{name}_from_output"]) for name in ("backward", "second", "third")
)
_threads = torch.get_num_threads
_storage_address: Any = torch._C._data_address  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
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
        """Return whether it is, as measured (benchmarks/results/cpu_save.jsonl): see Backend.

        These are the cases that read a table held in registers, and wait for the memory rather than for the
        arithmetic; half precision is half the memory.
        """
        return self._has_table_lookup and dtype == torch.float32 and spec.leak == 0 and spec.n <= 4

    def forward(self, x: Tensor, spec: GemSpec, inplace: bool) -> Tensor:
        """Return f(x); see Backend."""
        if inplace and (x.is_neg() or not (x.is_contiguous() or _is_dense(x))):
            return x.copy_(self.forward(x, spec, False))
        out = x if inplace else torch.empty_like(x)
        self._run(_FORWARD, spec, (out,), (x,))
        return out

    def backward(self, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Return grad * f'(x); see Backend."""
        out = torch.empty_like(kept)
        self._run(_BACKWARD[from_output], spec, (out,), (grad, kept))
        return out

    def second(
        self, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Return gg d1 and gg grad d2; see Backend."""
        outputs = torch.empty_like(kept), torch.empty_like(kept)
        self._run(_SECOND[from_output], spec, outputs, (grad_grad, grad, kept))
        return outputs

    def third(
        self, a: Tensor, b: Tensor, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the backward pass of `second`; see Backend."""
        outputs = torch.empty_like(kept), torch.empty_like(kept), torch.empty_like(kept)
        self._run(_THIRD[from_output], spec, outputs, (a, b, grad_grad, grad, kept))
        return outputs

    def inverse(self, y: Tensor, spec: GemSpec) -> Tensor:
        """Return x; see Backend."""
        out = torch.empty_like(y)
        self._run(OPERATIONS["inverse"], spec, (out,), (y,))
        return out

    def glu_forward(self, x: Tensor, gate: Tensor, spec: GemSpec) -> Tensor:
        """Return x * f(gate); see Backend."""
        out = torch.empty_like(x)
        self._run(OPERATIONS["glu_forward"], spec, (out,), (x, gate))
        return out

    def glu_backward(self, grad: Tensor, x: Tensor, gate: Tensor, spec: GemSpec) -> tuple[Tensor, Tensor]:
        """Return both gradients; see Backend."""
        outputs = torch.empty_like(x), torch.empty_like(x)
        self._run(OPERATIONS["glu_backward"], spec, outputs, (grad, x, gate))
        return outputs

    def _run(
        self, operation: Operation, spec: GemSpec, outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...]
    ) -> None:
        """Call the library. Outputs are laid out alike; an input of another layout is copied."""
        first = outputs[0]
        contiguous, itemsize = first.is_contiguous(), first.itemsize
        copies: list[Tensor] = []
        addresses = [output.data_ptr() for output in outputs]
        for tensor in inputs:
            # Unlike data_ptr(), the address of the storage leaves a copy-on-write tensor shared. Of zeros that are not
            # stored it is 0.
            address = _storage_address(tensor)
            alike = tensor.is_contiguous() if contiguous else tensor.stride() == first.stride()
            if address and alike and not tensor.is_neg():
                addresses.append(address + tensor.storage_offset() * itemsize)
            else:
                copies.append(torch.empty_like(first).copy_(tensor))
                addresses.append(copies[-1].data_ptr())
        self._library.call(operation, spec, _CODES[first.dtype], first.numel(), _threads(), *addresses)


class Triton:
    """The Triton kernels on CUDA tensors."""

    def __init__(self, kernels: Any) -> None:
        self.forward = kernels.forward
        self.backward = kernels.backward
        self.second = kernels.second
        self.third = kernels.third
        self.inverse = kernels.inverse
        self.glu_forward = kernels.glu_forward
        self.glu_backward = kernels.glu_backward
        self.reason_not_served = kernels.reason_not_served

    def output_is_enough(self, spec: GemSpec, dtype: torch.dtype) -> bool:
        """Return whether it is, as measured on an H100 (benchmarks/results/gpu_kernels.jsonl): see Backend.

        In float32 both wait for the memory; in bfloat16 more steps of the inverse than n = 1 takes are seen.
        """
        return spec.leak == 0 and (spec.n <= 4 if dtype == torch.float32 else dtype == torch.bfloat16 and spec.n == 1)


@cache
def load_cpu() -> Backend | None:
    """Return the C library's backend, or None where the library cannot be used."""
    library = cpu.load()
    return None if library is None else Cpu(library)


@cache
def load_triton() -> tuple[Triton | None, str]:
    """Return the Triton backend, or None and the reason."""
    try:
        from ..kernels import triton
    except MissingDependencyError as error:
        return None, str(error)
    return Triton(triton), ""


def _is_dense(x: Tensor) -> bool:
    """Return whether the elements of x fill their memory in some order, each once."""
    return x.stride() == torch.empty_like(x, device="meta").stride()

"""Where the arithmetic of an eager call runs: the plain formula, the C kernels or the Triton kernels."""

from typing import Protocol

import torch
from torch import Tensor

from ..spec import GemSpec
from . import formula


class Backend(Protocol):
    """What computes values and gradients on ordinary tensors (not traced, not wrapped), outside autograd."""

    def output_is_enough(self, spec: GemSpec, dtype: torch.dtype) -> bool:
        """Tell whether the gradient from the output takes at most 1.2 times as long as the one from the input."""
        ...

    def forward(self, x: Tensor, spec: GemSpec, inplace: bool) -> Tensor:
        """Give f(x) in the dtype and memory format of x; x itself, overwritten, where `inplace`."""
        ...

    def backward(self, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Give grad * f'(x), where `kept` is x, or f(x) if `from_output`; all of one dtype and shape."""
        ...

    def glu_forward(self, x: Tensor, gate: Tensor, spec: GemSpec) -> Tensor:
        """Give x * f(gate) in the memory format of x."""
        ...

    def glu_backward(self, grad: Tensor, x: Tensor, gate: Tensor, spec: GemSpec) -> tuple[Tensor, Tensor]:
        """Give grad * f(gate) and grad * x * f'(gate)."""
        ...


class Plain:
    """The plain formula in torch operations, on any device."""

    def output_is_enough(self, spec: GemSpec, dtype: torch.dtype) -> bool:  # noqa: ARG002 -- Backend's signature
        """Tell that it is not: the inverse is an iteration over whole tensors."""
        return False

    def forward(self, x: Tensor, spec: GemSpec, inplace: bool) -> Tensor:
        """Give f(x); see Backend."""
        y = formula.value(x, spec)
        return x.copy_(y) if inplace else y

    def backward(self, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Give grad * f'(x); see Backend."""
        x = formula.inverse(kept, spec) if from_output else formula.widen(kept)
        return (grad * formula.derivative(x, spec)).to(grad.dtype)

    def glu_forward(self, x: Tensor, gate: Tensor, spec: GemSpec) -> Tensor:
        """Give x * f(gate); see Backend."""
        return (formula.widen(x) * formula.value(formula.widen(gate), spec)).to(x.dtype)

    def glu_backward(self, grad: Tensor, x: Tensor, gate: Tensor, spec: GemSpec) -> tuple[Tensor, Tensor]:
        """Give both gradients; see Backend."""
        wide = formula.widen(gate)
        grad_x = grad * formula.value(wide, spec)
        grad_gate = formula.widen(grad) * x * formula.derivative(wide, spec)
        return grad_x.to(x.dtype), grad_gate.to(gate.dtype)


PLAIN = Plain()

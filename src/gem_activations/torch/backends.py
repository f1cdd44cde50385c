"""Where the arithmetic of an eager call runs: the plain formula, the C kernels or the Triton kernels."""

from typing import Protocol

import torch
from torch import Tensor

from ..spec import GemSpec
from . import formula


class Backend(Protocol):
    """What computes values and gradients on ordinary tensors (not traced, not wrapped), outside autograd."""

    def output_is_enough(self, spec: GemSpec, dtype: torch.dtype) -> bool:
        """Return whether the gradient from the output takes at most 1.2 times as long as the one from the input."""
        ...

    def forward(self, x: Tensor, spec: GemSpec, inplace: bool) -> Tensor:
        """Return f(x) in the dtype and memory format of x; x itself, overwritten, where `inplace`."""
        ...

    def backward(self, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Return grad * f'(x), where `kept` is x, or f(x) if `from_output`; all of one dtype and shape."""
        ...

    def second(
        self, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Return gg d1 and gg grad d2, the backward pass of `backward`: d1 = f'(x), d2 is its derivative by `kept`.

        d2 is f''(x), or f''(x) / f'(x) from the output: its gradient is multiplied by f'(x) on its way to x.
        """
        ...

    def third(
        self, a: Tensor, b: Tensor, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a d1 + b grad d2, b gg d2 and a gg d2 + b gg grad d3: the backward pass of `second`."""
        ...

    def inverse(self, y: Tensor, spec: GemSpec) -> Tensor:
        """Return the x with f(x) = y in the dtype of y; 0 for y <= 0 if leak is 0."""
        ...

    def glu_forward(self, x: Tensor, gate: Tensor, spec: GemSpec) -> Tensor:
        """Return x * f(gate) in the memory format of x."""
        ...

    def glu_backward(self, grad: Tensor, x: Tensor, gate: Tensor, spec: GemSpec) -> tuple[Tensor, Tensor]:
        """Return grad * f(gate) and grad * x * f'(gate)."""
        ...


class Plain:
    """The plain formula in torch operations, on any device."""

    def output_is_enough(self, spec: GemSpec, dtype: torch.dtype) -> bool:  # noqa: ARG002 -- Backend's signature
        """Tell that it is not: the inverse is an iteration over whole tensors."""
        return False

    def forward(self, x: Tensor, spec: GemSpec, inplace: bool) -> Tensor:
        """Return f(x); see Backend."""
        y = formula.value(x, spec)
        return x.copy_(y) if inplace else y

    def backward(self, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Return grad * f'(x); see Backend."""
        x = formula.inverse(kept, spec) if from_output else formula.widen(kept)
        return (grad * formula.derivative(x, spec)).to(grad.dtype)

    def second(
        self, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Return gg d1 and gg grad d2; see Backend."""
        d1, d2, _ = self._derivatives(kept, spec, from_output)
        return (grad_grad * d1).to(kept.dtype), (formula.widen(grad_grad) * grad * d2).to(kept.dtype)

    def third(
        self, a: Tensor, b: Tensor, grad_grad: Tensor, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the backward pass of `second`; see Backend."""
        d1, d2, d3 = self._derivatives(kept, spec, from_output)
        grad_grad, grad = formula.widen(grad_grad), formula.widen(grad)
        results = a * d1 + b * grad * d2, b * grad_grad * d2, grad_grad * (a * d2 + b * grad * d3)
        first, second, third = (result.to(kept.dtype) for result in results)
        return first, second, third

    def inverse(self, y: Tensor, spec: GemSpec) -> Tensor:
        """Return x; see Backend."""
        return formula.inverse(y, spec).to(y.dtype)

    def _derivatives(self, kept: Tensor, spec: GemSpec, from_output: bool) -> tuple[Tensor, Tensor, Tensor]:
        x = formula.inverse(kept, spec) if from_output else formula.widen(kept)
        return formula.derivatives(x, spec, from_output)

    def glu_forward(self, x: Tensor, gate: Tensor, spec: GemSpec) -> Tensor:
        """Return x * f(gate); see Backend."""
        return (formula.widen(x) * formula.value(formula.widen(gate), spec)).to(x.dtype)

    def glu_backward(self, grad: Tensor, x: Tensor, gate: Tensor, spec: GemSpec) -> tuple[Tensor, Tensor]:
        """Return both gradients; see Backend."""
        wide = formula.widen(gate)
        grad_x = grad * formula.value(wide, spec)
        grad_gate = formula.widen(grad) * x * formula.derivative(wide, spec)
        return grad_x.to(x.dtype), grad_gate.to(gate.dtype)


PLAIN = Plain()

"""Where the arithmetic runs: the plain formula, or a kernel library. Each backend has the same two methods."""

from typing import Protocol

from torch import Tensor

from ..spec import GemSpec
from . import formula


class Backend(Protocol):
    """What computes values and gradients on real (not traced, not wrapped) tensors, outside autograd."""

    name: str

    def forward(self, x: Tensor, spec: GemSpec, inplace: bool) -> Tensor:
        """Give f(x) in the dtype and memory format of x; x itself, overwritten, where `inplace`."""
        ...

    def backward(self, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Give grad * f'(x), where `kept` is x, or f(x) if `from_output`; all of one dtype and shape."""
        ...


class Plain:
    """The plain formula in torch operations, on any device."""

    name = "plain"

    def forward(self, x: Tensor, spec: GemSpec, inplace: bool) -> Tensor:
        """Give f(x); see Backend."""
        y = formula.value(x, spec)
        return x.copy_(y) if inplace else y

    def backward(self, grad: Tensor, kept: Tensor, spec: GemSpec, from_output: bool) -> Tensor:
        """Give grad * f'(x); see Backend."""
        x = formula.inverse(kept, spec) if from_output else formula.widen(kept)
        return (grad * formula.derivative(x, spec)).to(grad.dtype)


PLAIN = Plain()

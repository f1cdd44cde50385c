"""The family as modules, and every activation of the catalog by name."""

import importlib
from typing import Any

from torch import Tensor, nn

from .. import catalog
from ..grammar import format_number
from ..spec import GemSpec
from .dispatch import BackendName
from .functional import Save, apply, apply_gated, check_options


class _Member(nn.Module):
    """A member of the family: fixed parameters, nothing to learn and nothing in the state_dict."""

    def __init__(self, spec: GemSpec, inplace: bool, save: Save, backend: BackendName) -> None:
        super().__init__()
        check_options(save, inplace, backend)
        self.spec = spec
        self.inplace = inplace
        self.save: Save = save
        self.backend: BackendName = backend

    @property
    def n(self) -> int:
        """The smoothness order; the function is C^(2n)."""
        return self.spec.n

    @property
    def eps(self) -> float:
        """The width of the transition, added to x^(2n)."""
        return self.spec.eps

    @property
    def leak(self) -> float:
        """The floor of the gate and the slope for x < 0."""
        return self.spec.leak

    def forward(self, x: Tensor) -> Tensor:
        """Give f(x): same shape, dtype, device and memory format as x."""
        return apply(x, self.spec, self.inplace, self.save, self.backend)

    def _describe(self, *names: str) -> str:
        shown = [f"{name}={format_number(getattr(self.spec, name))}" for name in names]
        options = [f"{name}={getattr(self, name)!r}" for name in ("save", "backend") if getattr(self, name) != "auto"]
        return ", ".join(shown + ["inplace=True"] * self.inplace + options)


class GEM(_Member):
    """GEM as a module: x^(2n+1) / (1 + x^(2n)) for x > 0, else 0.

    Args:
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        inplace: Overwrite the input with the output, as nn.ReLU(inplace=True) does; the gradient is taken from the
            output and stays exact.
        save, backend: As for `gem_activations.torch.activate`.
    Raises: SpecError: n out of its range; TensorError (at the call): an integer, boolean or complex tensor.
    Edge cases: as `gem_activations.torch.gem`.
    Example:
        >>> GEM(n=2)
        GEM(n=2)
    """

    def __init__(
        self, n: int = 1, inplace: bool = False, *, save: Save = "auto", backend: BackendName = "auto"
    ) -> None:
        super().__init__(GemSpec(n), inplace, save, backend)

    def extra_repr(self) -> str:
        """Give the parameters as the constructor takes them."""
        return self._describe("n")


class EGEM(_Member):
    """E-GEM as a module: x^(2n+1) / (eps + x^(2n)) for x > 0, else 0.

    Args:
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0, added to x^(2n); eps -> 0 gives ReLU.
        inplace: Overwrite the input with the output; the gradient stays exact.
        save, backend: As for `gem_activations.torch.activate`.
    Raises: SpecError: n or eps out of its range; TensorError (at the call): an integer, boolean or complex tensor.
    Edge cases: as `gem_activations.torch.egem`.
    Example:
        >>> EGEM(eps=10)
        EGEM(n=1, eps=10)
    """

    def __init__(
        self,
        n: int = 1,
        eps: float = 1e-4,
        inplace: bool = False,
        *,
        save: Save = "auto",
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(GemSpec(n, eps), inplace, save, backend)

    def extra_repr(self) -> str:
        """Give the parameters as the constructor takes them."""
        return self._describe("n", "eps")


class SEGEM(_Member):
    """SE-GEM as a module: x (leak + (1 - leak) F(x)), with F(x) = x^(2n) / (eps + x^(2n)) for x > 0, else 0.

    Args:
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0; eps -> 0 gives LeakyReLU(leak).
        leak: Floor of the gate, slope for x < 0 and lower bound of the derivative, 0 <= leak < 1.
        inplace: Overwrite the input with the output; the gradient stays exact.
        save, backend: As for `gem_activations.torch.activate`.
    Raises: SpecError: a parameter out of its range; TensorError (at the call): an integer, boolean or complex tensor.
    Edge cases: as `gem_activations.torch.segem`.
    Example:
        >>> SEGEM()
        SEGEM(n=1, eps=1e-4, leak=0.01)
    """

    def __init__(
        self,
        n: int = 1,
        eps: float = 1e-4,
        leak: float = 0.01,
        inplace: bool = False,
        *,
        save: Save = "auto",
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(GemSpec(n, eps, leak), inplace, save, backend)

    def extra_repr(self) -> str:
        """Give the parameters as the constructor takes them."""
        return self._describe("n", "eps", "leak")


class GEMGLU(nn.Module):
    """A gated linear unit with a member of the family as its gate: (x V + c) * f(x W + b).

    Two linear maps of the input, as in GEGLU and SwiGLU (Shazeer, arXiv:2002.05202); the product with f is fused
    forward and backward, and keeps only its two inputs.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Give both maps a bias.
        n, eps, leak: The member of the family; the defaults are GEM's.
        backend: As for `gem_activations.torch.activate`.
    Raises: SpecError: n, eps or leak out of its range; TensorError and BackendError (at the call): as `gem_glu`.
    Edge cases: As `gem_glu`.
    Source: Shazeer 2020, arXiv:2002.05202, for gated units; Krause 2026, arXiv:2604.21677, for f.
    Example:
        >>> import torch
        >>> GEMGLU(4, 8, bias=False, n=2)(torch.ones(3, 4)).shape
        torch.Size([3, 8])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        n: int = 1,
        eps: float = 1.0,
        leak: float = 0.0,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__()
        check_options("auto", False, backend)
        self.spec = GemSpec(n, eps, leak)
        self.backend: BackendName = backend
        self.value = nn.Linear(in_features, out_features, bias)
        self.gate = nn.Linear(in_features, out_features, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Give (x V + c) * f(x W + b): shape (..., in_features) to (..., out_features)."""
        return apply_gated(self.value(x), self.gate(x), self.spec, self.backend)

    def extra_repr(self) -> str:
        """Give the member of the family."""
        return str(self.spec)


def make_activation(activation: str | catalog.Activation | GemSpec, **options: Any) -> nn.Module:
    """Make the module of any activation of the catalog.

    Args:
        activation: A string such as `gelu`, `gem(n=2)` or `celu(alpha=0.075)`, what `catalog.parse` gives, or a
            GemSpec.
        options: Further keyword arguments of the module class, for example inplace=True where it has one.
    Returns: A new module. PReLU has a parameter of its own, all others have none.
    Raises: ActivationNameError: a malformed string, an unknown name or argument; SpecError: a parameter of the family
        out of its range; TypeError: an option that the module class does not take.
    Example:
        >>> make_activation("egem(n=2)"), make_activation("gelu_tanh")
        (EGEM(n=2, eps=1e-4), GELU(approximate='tanh'))
    """
    if not isinstance(activation, catalog.Activation):
        activation = catalog.parse(str(activation))
    module, _, name = activation.entry.torch.rpartition(".")
    factory = getattr(importlib.import_module(module), name)
    return factory(**activation.entry.fixed, **activation.parameters, **options)

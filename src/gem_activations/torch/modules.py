"""The family as modules, and every activation of the catalog by name."""

import importlib
import math
from typing import Any

import torch
from torch import Tensor, nn

from .. import catalog
from ..errors import ModelError, SettingError
from ..grammar import format_number
from ..spec import GemSpec
from .backends import BackendName
from .functional import Save, apply, apply_gated, check_options
from .scale import activate_scaled, spec_of


class _Member(nn.Module):
    """A member of the family: fixed parameters, nothing to learn and nothing in the state_dict.

    Or its scale is a tensor: a parameter `log_scale` if it is trainable, a buffer if it is scheduled or one a channel.
    """

    log_scale: Tensor

    def __init__(
        self,
        spec: GemSpec,
        inplace: bool,
        save: Save,
        backend: BackendName,
        trainable: bool = False,
        channels: int = 1,
    ) -> None:
        super().__init__()
        check_options(save, inplace, backend)
        if channels != 1 and not trainable:
            raise SettingError(f"channels={channels}: a scale for each channel needs trainable=True")
        if trainable and (inplace or save == "output"):
            raise SettingError("trainable=True keeps the input for the backward pass; leave out inplace and save")
        self._spec = spec
        self.inplace = inplace
        self.save: Save = save
        self.backend: BackendName = backend
        self.channel_dim = 1
        self._scaled = trainable
        if trainable:
            self.log_scale = nn.Parameter(torch.full((channels,), math.log(spec.scale)))
            self._exempt_from_decay()

    def _exempt_from_decay(self) -> None:
        if "log_scale" in self._parameters:
            self.log_scale._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue] -- as many trainers read it

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # pyright: ignore[reportUnknownMemberType] -- torch types it loosely
        self._exempt_from_decay()  # A copy of a parameter does not keep it.

    @property
    def spec(self) -> GemSpec:
        """The member of the family; of scales that differ between channels the geometric mean."""
        if not self._scaled:
            return self._spec
        return spec_of(self._spec.n, self.log_scale.detach().double().mean().item(), self._spec.leak)

    def set_scale(self, scale: float | Tensor, *, channel_dim: int = 1) -> None:
        """Set the scale a, the input at which the gate is 1/2, for all channels or for each.

        A number becomes the eps of the module, which stays free of tensors, or the value of a `log_scale` that it has.
        A tensor of shape (C,) becomes a buffer `log_scale`, in the state_dict.

        Args:
            scale: Above 0, in units of x.
            channel_dim: The dimension of the C channels.
        Raises: SpecError: a scale out of its range; SettingError: not one scale a channel of a trainable module.
        """
        scales = scale.detach().reshape(-1) if isinstance(scale, Tensor) else torch.tensor([float(scale)]).double()
        checked = [GemSpec.from_scale(self._spec.n, value.item(), self._spec.leak) for value in scales]
        if not self._scaled and len(checked) == 1:
            self._spec = checked[0]
            return
        if not self._scaled:
            self.register_buffer("log_scale", scales.log().float())
            self._scaled = True
        elif len(checked) not in (1, self.log_scale.numel()):
            raise SettingError(f"the module has {self.log_scale.numel()} scales, not {len(checked)}")
        if len(checked) > 1:
            self.channel_dim = channel_dim
        with torch.no_grad():
            self.log_scale.copy_(scales.log())

    def save_scale(self) -> tuple[Any, ...]:
        """Return the state of the scale for `restore_scale`."""
        return self._spec, self._scaled, self.channel_dim, self.log_scale.detach().clone() if self._scaled else None

    def restore_scale(self, state: tuple[Any, ...]) -> None:
        """Restore the scale that the module had when `save_scale` was called."""
        self._spec, scaled, self.channel_dim, log_scale = state
        if scaled:
            with torch.no_grad():
                self.log_scale.copy_(log_scale)
        elif self._scaled:
            del self.log_scale
        self._scaled = scaled

    def hold_scale(self) -> None:
        """Keep the scale in a buffer that is not in the state_dict, so that compiled code reads a new one each time."""
        if not self._scaled:
            self.register_buffer("log_scale", torch.tensor([math.log(self._spec.scale)]), persistent=False)
            self._scaled = True

    def freeze(self) -> nn.Module:
        """Return the plain module of the scale as it is now, with nothing to learn, for export.

        Raises: SettingError: the scales differ between channels.
        """
        if self._scaled and self.log_scale.numel() > 1:
            raise SettingError(f"{self.log_scale.numel()} scales have no plain module; keep this one")
        options = {"inplace": self.inplace, "save": self.save, "backend": self.backend}
        return make_activation(self.spec, **options)

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
        """Return f(x): same shape, dtype, device and memory format as x."""
        if self._scaled:
            spec = self._spec
            return activate_scaled(
                x, self.log_scale, spec.n, spec.leak, channel_dim=self.channel_dim, backend=self.backend
            )
        return apply(x, self._spec, self.inplace, self.save, self.backend)

    def _describe(self, *names: str) -> str:
        spec = self.spec
        if spec.eps != 1 and "eps" not in names:  # A GEM whose scale was set.
            names = (*names, "eps")
        # A scale that is a tensor has the digits of float32.
        digits = 6 if self._scaled else 17
        shown = [f"{name}={format_number(float(f'{getattr(spec, name):.{digits}g}'))}" for name in names]
        if "log_scale" in self._parameters:
            channels = self.log_scale.numel()
            shown += ["trainable=True", *([f"channels={channels}"] if channels > 1 else [])]
        options = [f"{name}={getattr(self, name)!r}" for name in ("save", "backend") if getattr(self, name) != "auto"]
        return ", ".join(shown + ["inplace=True"] * self.inplace + options)


class GEM(_Member):
    """GEM as a module: x^(2n+1) / (1 + x^(2n)) for x > 0, else 0.

    Args:
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        inplace: Overwrite the input with the output, as nn.ReLU(inplace=True) does; the gradient is taken from the
            output and stays exact.
        save: Kept for the backward pass: "input", "output", or "auto", what costs less.
        backend: "auto", the fastest, or one by name: "plain", "cpu" or "triton".
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
        """Return the parameters as the constructor takes them."""
        return self._describe("n")


class EGEM(_Member):
    """E-GEM as a module: x^(2n+1) / (eps + x^(2n)) for x > 0, else 0.

    Args:
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0, added to x^(2n), 1e-4 by default; eps -> 0 gives ReLU.
        scale: In place of eps: the input at which the gate is 1/2, eps = scale^(2n).
        inplace: Overwrite the input with the output; the gradient stays exact.
        trainable: Learn the logarithm of the scale, from eps or scale on, as the parameter `log_scale` of shape
            (channels,). It is exempt from weight decay by `weight_decay_groups`; `freeze` gives the plain module.
        channels: 1, or the size of dimension 1 of the input: a scale is learnt for each of its channels.
        save: Kept for the backward pass: "input", "output", or "auto", what costs less.
        backend: "auto", the fastest, or one by name: "plain", "cpu" or "triton".
    Raises: SpecError: n, eps or scale out of its range, or both given; SettingError: trainable with inplace or a save;
        TensorError (at the call): an integer, boolean or complex tensor.
    Edge cases: as `gem_activations.torch.egem`.
    Example:
        >>> EGEM(eps=10)
        EGEM(n=1, eps=10)
        >>> EGEM(scale=0.1, trainable=True)
        EGEM(n=1, eps=0.01, trainable=True)
    """

    def __init__(
        self,
        n: int = 1,
        eps: float | None = None,
        inplace: bool = False,
        *,
        scale: float | None = None,
        trainable: bool = False,
        channels: int = 1,
        save: Save = "auto",
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(GemSpec.of(n, eps, scale=scale), inplace, save, backend, trainable, channels)

    def extra_repr(self) -> str:
        """Return the parameters as the constructor takes them."""
        return self._describe("n", "eps")


class SEGEM(_Member):
    """SE-GEM as a module: x (leak + (1 - leak) F(x)), with F(x) = x^(2n) / (eps + x^(2n)) for x > 0, else 0.

    Args:
        n: Smoothness order, 1 <= n <= 64; the function is C^(2n).
        eps: Width of the transition, eps > 0, 1e-4 by default; eps -> 0 gives LeakyReLU(leak).
        leak: Floor of the gate, slope for x < 0 and lower bound of the derivative, 0 <= leak < 1.
        scale: In place of eps: the input at which the gate is halfway, eps = scale^(2n).
        inplace: Overwrite the input with the output; the gradient stays exact.
        trainable, channels: As for `EGEM`.
        save: Kept for the backward pass: "input", "output", or "auto", what costs less.
        backend: "auto", the fastest, or one by name: "plain", "cpu" or "triton".
    Raises: SpecError: a parameter out of its range; TensorError (at the call): an integer, boolean or complex tensor;
        SettingError: as `EGEM`.
    Edge cases: as `gem_activations.torch.segem`.
    Example:
        >>> SEGEM()
        SEGEM(n=1, eps=1e-4, leak=0.01)
    """

    def __init__(
        self,
        n: int = 1,
        eps: float | None = None,
        leak: float = 0.01,
        inplace: bool = False,
        *,
        scale: float | None = None,
        trainable: bool = False,
        channels: int = 1,
        save: Save = "auto",
        backend: BackendName = "auto",
    ) -> None:
        super().__init__(GemSpec.of(n, eps, leak, scale), inplace, save, backend, trainable, channels)

    def extra_repr(self) -> str:
        """Return the parameters as the constructor takes them."""
        return self._describe("n", "eps", "leak")


class GEMGLU(nn.Module):
    """A gated linear unit with a member of the family as its gate: (x V + c) * f(x W + b).

    Two linear maps of the input, as in GEGLU and SwiGLU (Shazeer, arXiv:2002.05202); the product with f is fused
    forward and backward, and keeps only its two inputs.

    Args:
        in_features: Size of the last dimension of the input.
        out_features: Size of the last dimension of the output.
        bias: Give both maps a bias.
        n, eps, leak, scale: The member of the family; the defaults are GEM's. scale stands for eps = scale^(2n).
        backend: As for `gem_activations.torch.activate`.
        device, dtype: Of the weights, as for `torch.nn.Linear`.
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
        eps: float | None = None,
        leak: float = 0.0,
        scale: float | None = None,
        backend: BackendName = "auto",
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_options("auto", False, backend)
        self.spec = GemSpec.of(n, eps, leak, scale, default=1.0)
        self.backend: BackendName = backend
        self.value = nn.Linear(in_features, out_features, bias, device, dtype)
        self.gate = nn.Linear(in_features, out_features, bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return (x V + c) * f(x W + b): shape (..., in_features) to (..., out_features)."""
        return apply_gated(self.value(x), self.gate(x), self.spec, self.backend)

    def extra_repr(self) -> str:
        """Return the member of the family."""
        return str(self.spec)


def make_activation(activation: str | catalog.Activation | GemSpec, **options: Any) -> nn.Module:
    """Make the module of any activation of the catalog.

    Args:
        activation: A string such as `gelu`, `gem(n=2)` or `celu(alpha=0.075)`, a printed module such as
            `GEM(n=2, save='input')`, what `catalog.parse` gives, or a GemSpec.
        options: Further keyword arguments of the module class, such as inplace=True if it has that.
    Returns: A new module. PReLU and StarReLU have parameters of their own.
    Raises: ActivationNameError: a malformed string, an unknown name or argument; SpecError: a parameter of the family
        out of its range; TypeError: an option that the module class does not take.
    Example:
        >>> make_activation("egem(n=2)"), make_activation("gelu_tanh")
        (EGEM(n=2, eps=1e-4), GELU(approximate='tanh'))
    """
    if not isinstance(activation, catalog.Activation):
        activation, printed = catalog.parse_printed(str(activation))
        options = printed | options
    module, _, name = activation.entry.torch.rpartition(".")
    factory = getattr(importlib.import_module(module), name)
    return factory(**activation.entry.fixed, **activation.parameters, **options)


def named_members(model: nn.Module) -> list[tuple[str, Any]]:
    """Return (dotted name, module) of every GEM, EGEM and SEGEM of a model, each module once.

    Raises: ModelError: there is none.
    """
    found: list[tuple[str, Any]] = [
        (name, module)
        for name, module in model.named_modules()  # pyright: ignore[reportUnknownVariableType] -- torch types it loosely
        if isinstance(module, (GEM, EGEM, SEGEM))
    ]
    if not found:
        raise ModelError(
            "the model has no GEM, EGEM or SEGEM module; `swap` puts one in the place of another activation, such as "
            'swap(model, {torch.nn.GELU: "egem"})'
        )
    return found

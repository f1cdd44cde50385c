"""The gain of an activation, and weights drawn by it, so that the mean square of what passes through stays."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from .. import catalog
from ..errors import ModelError, SettingError, SpecError
from .inventory import Choice, as_activation

Array = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(16)
_REACH = 38.5  # Beyond, the normal density is 0 in float64.
_TOLERANCE = 1e-14
GAIN_ERROR = 1e-12
"""The largest relative error of a gain. Quadrature is no proof: `gem-act certify` encloses the gains it can prove."""
_ROUNDS = 60

Mode = Literal["fan_in", "fan_out"]
Law = Literal["normal", "uniform"]

_DENSE = (nn.Linear,)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# The linear layer of GPT-2, whose weight is (in, out): its module is not imported here.
_TRANSFORMERS_LINEAR = ("transformers.pytorch_utils", "Conv1D")


def calculate_gain(activation: Choice) -> float:
    """Return the factor that keeps E f(x)^2 at 1 from layer to layer: 1 / sqrt(E f(z)^2), z standard normal.

    Weights drawn with standard deviation gain / sqrt(fan_in) keep the mean square of the pre-activations at 1. It is
    computed from the catalog's formula by adaptive quadrature, to a relative error of at most 1e-12, whether or not a
    certificate proves it.

    Args:
        activation: A string such as `gelu` or `egem(eps=10)`, what `catalog.parse` gives, or a GemSpec.
    Returns: The gain, a number above 0. RReLU is taken in evaluation form, PReLU and StarReLU as they begin.
    Raises: ActivationNameError, SpecError: no activation, or one whose mean square is 0 or infinite in float64.
    Edge cases: `torch.nn.init.calculate_gain` gives rules of thumb for tanh (5/3), SELU (3/4) and sigmoid (1); the
        definition gives 1.593, 1 and 1.846.
    Example:
        >>> round(calculate_gain("relu"), 12), round(calculate_gain("egem(eps=10)"), 6)
        (1.414213562373, 5.827866)
    """
    return _gain(as_activation(activation))


def calculate_chi(activation: Choice) -> float:
    """Return the factor by which the mean square of a gradient changes in a layer drawn by the gain: E f'^2 / E f^2.

    The expectations are over a standard normal input. By quadrature, to a relative error of at most 1e-12.

    Args:
        activation: A member of the family, as for `calculate_gain`.
    Raises: SpecError: another activation, or one whose mean square is 0 in float64.
    Example:
        >>> round(calculate_chi("gem"), 4), round(calculate_chi("egem(eps=1e-4)"), 4)
        (1.2693, 1.0031)
    """
    spec = as_activation(activation).spec
    if spec is None:
        raise SpecError(f"{activation}: chi is given for members of the family; `gem-act certify` proves it for others")
    with np.errstate(all="ignore"):
        slope = _integrate(lambda z: spec.derivative(z) ** 2 * np.exp(-z * z / 2), [spec.scale])
    return slope / math.sqrt(2 * math.pi) * _gain(as_activation(spec)) ** 2


@lru_cache(maxsize=256)
def _gain(activation: catalog.Activation) -> float:
    # Where a piece of the catalog ends elsewhere than at a half number, a parameter says where.
    kinks = [float(value) for value in activation.parameters.values()]
    with np.errstate(all="ignore"):
        square = _integrate(lambda z: activation(z) ** 2 * np.exp(-z * z / 2), kinks) / math.sqrt(2 * math.pi)
    if not 0 < square < math.inf:
        raise SpecError(f"{activation}: the mean square of f is {square:g} in float64, so that there is no gain")
    return square**-0.5


def _integrate(integrand: Callable[[Array], Array], kinks: list[float]) -> float:
    """Integrate over the real line by Gauss-Legendre panels, halved until both halves agree with the whole.

    The first panels shrink towards 0, where the transitions of the catalog are, and end at each of `kinks` and its
    negative: a kink between a panel's end and its first node would be seen by neither the panel nor its halves.
    """
    near = np.ldexp(1.0, np.arange(-60, 0))
    inside = [abs(kink) for kink in kinks if abs(kink) < _REACH]
    edges = np.concatenate([near, np.arange(1, 2 * _REACH) / 2, inside, [_REACH]])
    edges = np.unique(np.concatenate([-edges, [0.0], edges]))
    low, high = edges[:-1], edges[1:]
    done = 0.0
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        left, right = _panels(integrand, low, middle), _panels(integrand, middle, high)
        total = done + float((left + right).sum())
        if not math.isfinite(total):
            return total
        rest = np.abs(left + right - _panels(integrand, low, high)) > _TOLERANCE * total
        if not rest.any():
            return total
        done += float((left + right)[~rest].sum())
        low, high = np.concatenate([low[rest], middle[rest]]), np.concatenate([middle[rest], high[rest]])
    # What is left beside a jump is as narrow as rounding.
    return done + float(_panels(integrand, low, high).sum())


def _panels(integrand: Callable[[Array], Array], low: Array, high: Array) -> Array:
    half = (high - low) / 2
    points = low[:, None] + half[:, None] * (1 + _NODES)
    return half * (integrand(points) @ _WEIGHTS)


@dataclass(frozen=True)
class InitReport:
    """What `init_` has drawn and what it has left.

    Attributes:
        activation: The activation, as its canonical string.
        gain: Its gain.
        drawn: Dotted names of the modules whose weight was drawn; "" is the module itself.
        skipped: (dotted name, reason) of every other module that holds parameters of its own.
    """

    activation: str
    gain: float
    drawn: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        """Say it in a few lines, the skipped ones by their reason."""
        lines = [f"{len(self.drawn)} weights drawn with the gain {self.gain:.6g} of {self.activation}"]
        for reason, count in Counter(reason for _, reason in self.skipped).most_common():
            names = [name or "the module" for name, why in self.skipped if why == reason]
            lines.append(f"skipped {count}: {', '.join(names[:3])}{', ...' * (count > 3)}: {reason}")
        return "\n".join(lines)


def init_(
    module: nn.Module,
    activation: Choice,
    *,
    mode: Mode = "fan_in",
    law: Law = "normal",
    generator: torch.Generator | None = None,
) -> InitReport:
    """Draw the weights of linear and convolutional layers for an activation, in place, and set their biases to 0.

    The standard deviation is calculate_gain(activation) / sqrt(fan). With "fan_in" the mean square of pre-activations
    keeps at 1 from layer to layer, when the layer's input is what the activation gives. With a stride the fan is the
    mean over positions: one output of a transposed convolution sums a share of the kernel, and one input of a
    convolution feeds a share of it.

    Args:
        module: One layer or a model; nn.Linear, transformers' Conv1D and the nn.Conv and nn.ConvTranspose classes in it
            are drawn. A layer that no activation follows, such as the last, is drawn like the others: pass parts where
            that is not meant.
        activation: As for `make_activation`.
        mode: "fan_in", or "fan_out" to keep the size of gradients instead; groups are taken into account.
        law: "normal", or "uniform" with the same standard deviation.
        generator: Source of randomness; PyTorch's default if not given.
    Returns: What was drawn, and what was skipped for which reason: other layers with parameters, frozen or parametrised
        weights, weights without elements, weights shared with a layer of another kind, lazy layers that have no shape
        yet.
    Raises: ActivationNameError, SpecError: the activation; SettingError: another mode or law, or no torch.Generator;
        ModelError: no module, or nothing to draw. The module is then as it was.
    Edge cases: A shared weight is drawn once. A bias that is frozen or computed from other tensors stays.
    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 8))
        >>> print(init_(model, "gem(n=2)"))
        2 weights drawn with the gain 1.80864 of gem(n=2)
        skipped 1: 1: LayerNorm is not a linear or convolutional layer
    """
    for name, value, allowed in (("mode", mode, get_args(Mode)), ("law", law, get_args(Law))):
        if value not in allowed:
            raise SettingError(f"{name}={value!r}: expected {' or '.join(map(repr, allowed))}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise SettingError(f"generator: expected a torch.Generator or None, got {type(generator).__name__}")
    if not isinstance(module, nn.Module):
        raise ModelError(f"expected a torch.nn.Module, got {type(module).__name__}")
    gain, name = calculate_gain(activation), str(as_activation(activation))
    layers, skipped = _sort(module)
    if not layers:
        reasons = "; ".join(f"{name or 'the module'}: {reason}" for name, reason in skipped[:3])
        raise ModelError(f"no weight of a linear or convolutional layer can be drawn; {reasons or 'there is none'}")
    drawn: set[int] = set()
    for layer in layers.values():
        if id(layer.weight) not in drawn:
            drawn.add(id(layer.weight))
            deviation = gain / math.sqrt(_fan(layer, mode))
            if law == "normal":
                nn.init.normal_(layer.weight, 0.0, deviation, generator=generator)
            else:
                reach = math.sqrt(3) * deviation
                nn.init.uniform_(layer.weight, -reach, reach, generator=generator)
        if isinstance(layer.bias, nn.Parameter) and layer.bias.requires_grad:
            nn.init.zeros_(layer.bias)
    return InitReport(name, gain, tuple(layers), tuple(skipped))


def _sort(module: nn.Module) -> tuple[dict[str, nn.Linear], list[tuple[str, str]]]:
    """Return the layers to draw by name, and (name, reason) of the others that hold parameters of their own."""
    layers: dict[str, nn.Linear] = {}
    skipped: list[tuple[str, str]] = []
    foreign = {
        id(parameter): type(part).__name__
        for part in module.modules()
        if not _is_drawn(part)
        for parameter in part.parameters(recurse=False)
    }
    for name, part in module.named_modules():
        reason = _reason_to_skip(part, foreign)
        if reason is None:
            layers[name] = part  # pyright: ignore[reportArgumentType] -- the convolutions have weight and bias as well
        elif reason:
            skipped.append((name, reason))
    return layers, skipped


def _reason_to_skip(part: nn.Module, foreign: dict[int, str]) -> str | None:
    """Say why a module is not drawn: None if it is, "" if it has no parameters of its own."""
    if not _is_drawn(part):
        own = any(True for _ in part.parameters(recurse=False))
        return f"{type(part).__name__} is not a linear or convolutional layer" if own else ""
    weight = part.weight
    if is_parametrized(part, "weight") or not isinstance(weight, nn.Parameter):
        return "its weight is computed from other tensors"
    if is_lazy(weight):
        return "its weight has no shape before the first batch"
    if weight.numel() == 0:
        return "its weight has no elements"
    if not weight.requires_grad:
        return "its weight is frozen"
    if id(weight) in foreign:
        return f"its weight is shared with a layer of the class {foreign[id(weight)]}"
    return None


def _is_drawn(part: nn.Module) -> bool:
    return isinstance(part, (*_DENSE, *_CONVOLUTIONS, *_TRANSPOSED)) or _is_of_transformers(part)


def _is_of_transformers(part: nn.Module) -> bool:
    return any((base.__module__, base.__name__) == _TRANSFORMERS_LINEAR for base in type(part).__mro__)


def _fan(layer: nn.Module, mode: Mode) -> float:
    """Return the number of inputs that one output sums (fan_in), or of outputs that one input feeds (fan_out)."""
    weight: Tensor = layer.weight  # pyright: ignore[reportAssignmentType] -- checked in _reason_to_skip
    first, second, taps = weight.shape[0], weight.shape[1], weight[0, 0].numel()
    groups: int = getattr(layer, "groups", 1)
    # Inside, away from the edges, a stride leaves each position that share of the kernel's taps, on the mean.
    strided = taps / math.prod(getattr(layer, "stride", ()))
    # (in, out / groups, ...); else (out, in / groups, ...).
    if isinstance(layer, _TRANSPOSED) or _is_of_transformers(layer):
        return strided * first / groups if mode == "fan_in" else taps * second
    return taps * second if mode == "fan_in" else strided * first / groups

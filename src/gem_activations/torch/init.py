"""Weights drawn so that an activation keeps the mean square of what passes through it."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from ..errors import ModelError, SettingError
from .gain import calculate_gain
from .inventory import Choice, as_activation

Mode = Literal["fan_in", "fan_out"]
Law = Literal["normal", "uniform"]

_DENSE = (nn.Linear,)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


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
    keeps at 1 from layer to layer, when the layer's input is what the activation gives.

    Args:
        module: One layer or a model; nn.Linear and the nn.Conv and nn.ConvTranspose classes in it are drawn. A layer
            that no activation follows, such as the last, is drawn like the others: pass parts where that is not meant.
        activation: As for `make_activation`.
        mode: "fan_in", or "fan_out" to keep the size of gradients instead; groups are taken into account.
        law: "normal", or "uniform" with the same standard deviation.
        generator: Source of randomness; PyTorch's default where not given.
    Returns: What was drawn, and what was skipped for which reason: other layers with parameters, frozen or parametrised
        weights, weights without elements, weights shared with a layer of another kind, lazy layers that have no shape
        yet.
    Raises: ActivationNameError, SpecError: the activation; SettingError: another mode or law; ModelError: nothing to
        draw. The module is then as it was.
    Edge cases: A weight that several layers share is drawn once. A frozen bias stays.
    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 8))
        >>> print(init_(model, "gem(n=2)"))
        2 weights drawn with the gain 1.80864 of gem(n=2)
        skipped 1: 1: LayerNorm is not a linear or convolutional layer
    """
    for name, value, allowed in (("mode", mode, get_args(Mode)), ("law", law, get_args(Law))):
        if value not in allowed:
            raise SettingError(f"{name}={value!r}: expected {' or '.join(map(repr, allowed))}")
    gain, name = calculate_gain(activation), str(as_activation(activation))
    layers, skipped = _sort(module)
    if not layers:
        reasons = "; ".join(f"{name or 'the module'}: {reason}" for name, reason in skipped[:3])
        raise ModelError(f"no weight of a linear or convolutional layer can be drawn; {reasons or 'there is none'}")
    drawn: set[int] = set()
    for layer in layers.values():
        if id(layer.weight) not in drawn:
            drawn.add(id(layer.weight))
            _draw(layer.weight, gain / math.sqrt(_fan(layer, mode)), law, generator)
        if layer.bias is not None and layer.bias.requires_grad:
            nn.init.zeros_(layer.bias)
    return InitReport(name, gain, tuple(layers), tuple(skipped))


def _sort(module: nn.Module) -> tuple[dict[str, nn.Linear], list[tuple[str, str]]]:
    """Give the layers to draw by name, and (name, reason) of the others that hold parameters of their own."""
    layers: dict[str, nn.Linear] = {}
    skipped: list[tuple[str, str]] = []
    foreign = {
        id(parameter): type(part).__name__
        for part in module.modules()
        if not isinstance(part, (*_DENSE, *_CONVOLUTIONS, *_TRANSPOSED))
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
    """Say why a module is not drawn: None where it is, "" where it has no parameters of its own."""
    if not isinstance(part, (*_DENSE, *_CONVOLUTIONS, *_TRANSPOSED)):
        own = any(True for _ in part.parameters(recurse=False))
        return f"{type(part).__name__} is not a linear or convolutional layer" if own else ""
    if is_parametrized(part, "weight") or not isinstance(part.weight, nn.Parameter):
        return "its weight is computed from other tensors"
    if is_lazy(part.weight):
        return "its weight has no shape before the first batch"
    if part.weight.numel() == 0:
        return "its weight has no elements"
    if not part.weight.requires_grad:
        return "its weight is frozen"
    if id(part.weight) in foreign:
        return f"its weight is shared with a layer of the class {foreign[id(part.weight)]}"
    return None


def _fan(layer: nn.Module, mode: Mode) -> int:
    """Give the number of inputs that one output sums (fan_in), or of outputs that one input feeds (fan_out)."""
    weight: Tensor = layer.weight  # pyright: ignore[reportAssignmentType] -- checked in _reason_to_skip
    first, second, taps = weight.shape[0], weight.shape[1], weight[0, 0].numel()
    groups: int = getattr(layer, "groups", 1)
    # Transposed: (in, out / groups, ...); else (out, in / groups, ...).
    if isinstance(layer, _TRANSPOSED):
        fan_in, fan_out = first // groups, second
    else:
        fan_in, fan_out = second, first // groups
    return taps * (fan_in if mode == "fan_in" else fan_out)


def _draw(weight: Tensor, deviation: float, law: Law, generator: torch.Generator | None) -> None:
    if law == "normal":
        nn.init.normal_(weight, 0.0, deviation, generator=generator)
    else:
        nn.init.uniform_(weight, -math.sqrt(3) * deviation, math.sqrt(3) * deviation, generator=generator)

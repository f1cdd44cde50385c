"""Counting at one activation: which dimension counts its units, two flags a unit, and a sample of each pass."""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage] -- of batch and instance norms
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage] -- the base of every convolution
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage] -- of all instance norms
from torch.nn.parameter import is_lazy

from ...errors import ModelError
from ..inventory import named_activations
from .dead import is_dead, read_activation, reduce_units
from .recording import EDGES, LayerCount

_SAMPLED = 256
_WAITING = 64  # Passes whose samples wait to be sorted into bins together.
_BOUNDS = np.array(EDGES)
_TINY = float(np.finfo(np.float32).tiny)


class Source(NamedTuple):
    """A module with weights, which the units of the activation behind it come from.

    Attributes:
        name: Its dotted name.
        dim: Channel dimension of what it gives, counted from 0, or from the end if negative.
        width: Number of its channels if `dim` is a guess: it scales channels, in a layout that is not known.
    """

    name: str
    dim: int
    width: int | None = None


def named_sources(model: nn.Module) -> Iterator[tuple[Source, nn.Module]]:
    """Yield every module inside a model whose weights tell where the channels of what it returns are.

    A layer norm over several dimensions does not tell: the units stay where they were. Activations are left out.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.PReLU(), nn.Flatten(), nn.Linear(8, 2))
        >>> [(source.name, source.dim) for source, _ in named_sources(model)]
        [('0', -3), ('1', 1), ('4', -1)]
    """
    inside = {id(part) for _, activation in named_activations(model) for part in activation.modules()}
    for name, module in model.named_modules():
        place = None if module is model or id(module) in inside else _find_place(module)
        if place is not None:
            yield Source(name, *place), module


def _find_place(module: nn.Module) -> tuple[int, int | None] | None:
    """Return the channel dimension of what a module gives, and a width if that is a guess; None for no source."""
    weight = getattr(module, "weight", None)
    if weight is None:
        return _find_place_by_parameters(module)
    if isinstance(module, _ConvNd):
        return -1 - len(module.kernel_size), None
    if isinstance(module, _InstanceNorm):  # It takes an input without a batch, too.
        return -module._get_no_batch_dim(), None  # pyright: ignore[reportPrivateUsage] -- dimensions of such an input
    if isinstance(module, (_NormBase, nn.GroupNorm)):
        return 1, None
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)) and len(module.normalized_shape) > 1:
        return None
    if type(module) in (nn.LayerNorm, nn.RMSNorm) or isinstance(module, nn.Linear):  # FSDP flattens a matrix, too.
        return -1, None
    scales = isinstance(weight, Tensor) and not is_lazy(weight) and weight.dim() == 1
    return -1, len(weight) if scales else None


def _find_place_by_parameters(module: nn.Module) -> tuple[int, int | None] | None:
    """Do so for a module whose weights have other names, such as an LSTM or attention."""
    own = list(module.parameters(recurse=False))
    if any(is_lazy(weight) or weight.numel() > max(weight.shape, default=1) for weight in own):
        return -1, None
    # A block may scale what its parts give, after them: it does not tell what comes in.
    widths = set() if any(True for _ in module.children()) else {weight.numel() for weight in own} - {0, 1}
    return (-1, widths.pop()) if len(widths) == 1 else None


def channel_dimension(x: Tensor, given: int | Source | None, name: str) -> int:
    """Return the channel dimension of a pre-activation, 0 up to x.dim() - 1; 0 if x has no dimension.

    Args:
        given: A dimension that the user has chosen; or what ran last, whose dimension is the last one if x does not
            have it, as after Flatten, and if it has a width one of that size; or None.
    Raises: ModelError: x does not have the dimension that the user has chosen.
    """
    count = x.dim()
    if isinstance(given, int):
        if not -count <= given < count:
            raise ModelError(f"channel_dim={given} for {name!r}, whose input has {count} dimensions")
        return given % count
    usual = 1 if count >= 4 else -1
    if given is not None and given.width is not None:
        places = (usual, -1, *range(count)) if count else ()
        return next((place % count for place in places if x.shape[place] == given.width), max(count - 1, 0))
    dim = usual if given is None else given.dim
    return max(dim % count if -count <= dim < count else count - 1, 0)


class LayerCounter:
    """What was seen of one activation since the window began: two flags a unit, and a sample of each pass.

    Nothing that passes by is kept. A pass costs few operations: the samples, copies of up to 256 numbers, wait, and go
    into bins at the end of the window, or when there are 64 of them. That alone waits for the device.
    """

    def __init__(self, name: str, source: Source | None, module: nn.Module) -> None:
        self.name, self.source, self.module = name, source, module
        self.reading = read_activation(module)
        self.units: int | None = None
        self.passes = self.backward_passes = self.skipped = self.values = 0
        self.unfollowed = 0  # Passes in which no gradient was to come, as checkpointing repeats them later.
        flat = self.reading.flat
        self._flat = None if flat is None or flat.kind == "nowhere" else flat
        # On a CPU they tell that no later pass can change the flags; elsewhere one would have to wait to know.
        self._all_active = self._all_moved = False
        self._dead: Tensor | None = None
        self._moved: Tensor | None = None
        self._waiting: list[Tensor] = []
        self._binned = np.zeros(len(EDGES) + 1, dtype=np.int64)
        self._finite = self._closed = self._open = 0
        self._squares = 0.0

    def see(self, x: Tensor, dim: int) -> bool:
        """Count a forward pass of a pre-activation, which is not kept; False if its units are not as many as before."""
        units = count_units(x, dim)
        if self.units is None:
            self.units = units
        elif units != self.units:
            self.skipped += 1
            return False
        self.passes += 1
        if self._flat is not None and not self._all_active:
            dead = is_dead(x, dim, self._flat)
            # A model may be moved between two passes.
            self._dead = dead if self._dead is None else self._dead.to(x.device).logical_and_(dead)
            self._all_active = x.is_cpu and not bool(self._dead.any())
        self._waiting.append(x.take(_spread(x.numel(), x.device)))
        if len(self._waiting) == _WAITING:
            self._sort_in()
        return True

    def see_gradient(self, gradient: Tensor, dim: int) -> None:
        """Count the gradient of a pre-activation whose forward pass was counted."""
        if self.units != count_units(gradient, dim):
            return  # Of a forward pass that was left out.
        self.backward_passes += 1
        if self._all_moved:
            return
        # NaN counts as true, as 0 alone is false: a gradient that is broken is not a gradient that is missing.
        most, least = reduce_units(gradient, dim, torch.amax), reduce_units(gradient, dim, torch.amin)
        if self._moved is None:
            self._moved = most.logical_or(least)
        else:
            self._moved = self._moved.to(gradient.device).logical_or_(most).logical_or_(least)
        self._all_moved = gradient.is_cpu and bool(self._moved.all())

    def count(self) -> LayerCount:
        """Return what was counted; waits for the device."""
        assert self.units is not None, "it was made when a first pass is counted"
        rms = self.measure_rms()
        gate, here, reading = self.reading.gate, self._finite, self.reading
        return LayerCount(
            name=self.name,
            source=self.source.name if self.source else "",
            activation=reading.activation,
            scale=reading.scale,
            units=self.units,
            passes=self.passes,
            backward_passes=self.backward_passes,
            skipped=self.skipped,
            never_active=None if reading.flat is None else _find_set(self._dead),
            zero_gradient=None if self._moved is None else _find_set(~self._moved),
            gate_closed=self._closed / here if gate and here else None,
            gate_open=self._open / here if gate and here else None,
            rms=rms,
            values=self.values,
            not_finite=self.values - here,
            histogram=tuple(self._binned.tolist()),
        )

    def measure_rms(self) -> float | None:
        """Return the root mean square of the samples, None if one is not finite; waits for the device."""
        self._sort_in()
        square = self._squares / max(self.passes, 1)
        return math.sqrt(square) if math.isfinite(square) else None

    def _sort_in(self) -> None:
        """Count the samples that wait."""
        alike: dict[tuple[object, ...], list[Tensor]] = {}
        for sample in self._waiting:
            alike.setdefault((len(sample), sample.dtype, sample.device), []).append(sample)
        self._waiting = []
        for samples in alike.values():
            values = torch.stack(samples).double().cpu().numpy()  # (passes, values of each); NumPy has no bfloat16.
            finite = values[np.isfinite(values)]
            self.values += values.size
            self._finite += finite.size
            if self.reading.gate is not None:
                closed, opened = self.reading.gate
                self._closed += int(np.count_nonzero(finite <= closed))
                self._open += int(np.count_nonzero(finite > opened))
            with np.errstate(over="ignore", invalid="ignore"):
                squares = np.square(values).mean(axis=1)
                self._squares += float(squares.sum())
                # The smallest normal number: if all values are 0 they stay 0 in any unit.
                scaled = values / (self.reading.scale or np.maximum(np.sqrt(squares), _TINY)[:, np.newaxis])
            places = np.searchsorted(_BOUNDS, scaled[~np.isnan(scaled)])
            self._binned += np.bincount(places, minlength=len(self._binned))


def count_units(x: Tensor, dim: int) -> int:
    """Return the number of units of a pre-activation with channel dimension `dim`; 1 if it has no dimension."""
    return x.shape[dim] if x.dim() else 1


@lru_cache(maxsize=256)
def _spread(count: int, device: torch.device) -> Tensor:
    """Return the places that are sampled of `count`: all of few, else some that keep step with no dimension."""
    if count <= _SAMPLED:
        return torch.arange(count, device="cpu").to(device)
    golden = (math.sqrt(5) - 1) / 2
    places = torch.arange(1, _SAMPLED + 1, dtype=torch.float64, device="cpu") * golden % 1 * count
    return places.long().clamp_(max=count - 1).to(device, non_blocking=True)


def _find_set(flags: Tensor | None) -> tuple[int, ...]:
    return () if flags is None else tuple(np.flatnonzero(flags.cpu().numpy()).tolist())
